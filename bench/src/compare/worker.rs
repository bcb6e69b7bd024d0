//! The process in which Penstock is measured: the engine that the daemon runs, with a wire between two given devices and
//! rules that are made from a seed rather than read from files.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::enforcer::{Enforcer, EnforcerConfig, WireSpec};
use dataplane::address::MacAddress;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::port::{PortKind as EnginePort, PortSpec};
use dataplane::rules::{Policy, RuleId, RuleSet, WireId};
use dataplane::wire::Tracking;
use dataplane::worker::Pinning;

use crate::compare::contender::userspace::{Answer, WORKER_CPU, WirePlace, WorkerOrder};
use crate::compare::contender::{Loaded, PortKind, Setting};
use crate::compare::policy;
use crate::compare::process;
use crate::compare::topology::{GENERATOR_MAC, SINK_MAC};

struct Process {
    order: WorkerOrder,
    enforcer: Enforcer,
    rules: RuleSet,
    /// The wires' numbers, in the order of the places.
    wires: Vec<WireId>,
    changes: u32,
}

/// Runs until stdin ends.
///
/// # Errors
/// When the order cannot be read or stdout is gone. What the engine refuses is said as an [`Answer::Failed`].
pub fn main(order: &str) -> Result<()> {
    let order: WorkerOrder = serde_json::from_str(order).context("reading the order")?;
    let (mut process, loaded) = match Process::start(order) {
        Ok(started) => started,
        Err(error) => return say(&Answer::Failed(format!("{error:#}"))),
    };
    say(&Answer::Ready(loaded))?;
    for line in std::io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "change" => process.change().map(Answer::Done),
            "forget" => process.forget().map(|()| Answer::Done(Duration::ZERO)),
            "count" => Ok(Answer::Counts(process.count())),
            other => Err(anyhow::anyhow!("what is '{other}'?")),
        };
        say(&answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

/// Says an answer as a line on stdout.
///
/// # Errors
/// When nobody listens.
pub fn say(answer: &Answer) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(answer)?)?;
    Ok(stdout.flush()?)
}

impl Process {
    fn start(order: WorkerOrder) -> Result<(Process, Loaded)> {
        let rules = policy::node(order.setting.rules, Setting::SEED);
        let before = process::resident("self");
        let mut config = EnforcerConfig {
            workers: vec![Pinning::Cpu(WORKER_CPU)],
            flows: order.setting.flows as usize,
            ..EnforcerConfig::default()
        };
        // The one wire that is measured may use all of the table.
        config.tracking.wire_quota = order.setting.flows;
        let flow_table = order.setting.flows as usize * size_of::<dataplane::flow::FlowEntry>();
        let enforcer = Enforcer::start(&config)?;
        let mut process = Process { order, enforcer, rules, wires: Vec::new(), changes: 0 };
        process.attach()?;
        let begin = Instant::now();
        process.enforcer.publish(process.rules.clone())?;
        let time = begin.elapsed();
        let memory = process::resident("self").saturating_sub(before);
        Ok((process, Loaded { time, memory, flow_table: flow_table as u64 }))
    }

    /// Opens the wires and names them in the rules: the first has the rules of [`policy::LIVE`], the others share them.
    fn attach(&mut self) -> Result<()> {
        let old = std::mem::take(&mut self.wires);
        for place in &self.order.wires {
            self.wires.push(self.enforcer.attach(&spec(place, &self.order))?);
        }
        let is_live = |wire: WireId| if old.is_empty() { wire == policy::LIVE } else { old.contains(&wire) };
        let Some(at) = self.rules.wires.iter().position(|rules| is_live(rules.wire)) else {
            bail!("the rules name no wire that is measured");
        };
        let live = self.rules.wires[at].clone();
        self.rules.wires.retain(|rules| !is_live(rules.wire));
        // The other wires of the node are named in the rules and have no ports: their numbers must not be those of ours.
        for (number, rules) in self.rules.wires.iter_mut().enumerate() {
            rules.wire = WireId(1 << 20 | number as u32);
        }
        for &wire in &self.wires {
            self.rules.wires.push(dataplane::rules::WireRules { wire, ..live.clone() });
        }
        Ok(())
    }

    /// Closes the wires, with which their flows are forgotten, and opens them again.
    fn forget(&mut self) -> Result<()> {
        for &wire in &self.wires {
            self.enforcer.detach(wire);
        }
        self.attach()?;
        self.enforcer.publish(self.rules.clone())?;
        Ok(())
    }

    /// Gives one rule of the measured wire other ports, and waits until it is in force.
    fn change(&mut self) -> Result<Duration> {
        self.changes += 1;
        let mut next = self.rules.clone();
        let wire = next.wires.last_mut().context("there is a wire")?;
        let Policy::Chain(chain) = &mut wire.ingress else { bail!("the wire is open") };
        let chain = std::sync::Arc::make_mut(chain);
        let rule = chain.tiers[0].rules.first_mut().context("the chain has rules")?;
        rule.id = RuleId(u32::MAX - 10 - self.changes);
        rule.services = dataplane::rules::Services::Ports(vec![dataplane::rules::PortRange {
            protocol: dataplane::packet::Protocol::TCP,
            first: 20_000 + self.changes as u16,
            last: 20_000 + self.changes as u16,
        }]);
        let begin = Instant::now();
        self.enforcer.publish(next)?;
        let time = begin.elapsed();
        self.enforcer.publish(self.rules.clone())?;
        Ok(time)
    }

    fn count(&self) -> String {
        self.enforcer.count_ports();
        let mut words = Vec::new();
        for wire in self.enforcer.wires().values() {
            for direction in dataplane::packet::Direction::BOTH {
                let stats = wire.stats.direction(direction);
                words.push(format!(
                    "{} received {} forwarded {} classified {}",
                    direction.name(),
                    stats.received.get(),
                    stats.forwarded.get(),
                    stats.classified.get()
                ));
                for &reason in dataplane::verdict::DropReason::ALL {
                    let count = stats.dropped(reason).get();
                    if count > 0 {
                        words.push(format!("{} {count}", reason.label()));
                    }
                }
            }
        }
        words.join(", ")
    }
}

fn spec(place: &WirePlace, order: &WorkerOrder) -> WireSpec {
    let kind = match order.port {
        PortKind::AfXdp => EnginePort::AfXdp,
        PortKind::AfPacket => EnginePort::AfPacket,
        PortKind::Tap => EnginePort::Tap,
    };
    let (inside_mac, addresses) =
        if place.is_near { (GENERATOR_MAC, policy::near_pod()) } else { (SINK_MAC, policy::pod()) };
    let end = |(namespace, device): &(String, String), mac| {
        PortSpec::new(kind, device).in_namespace(namespace).with_mac(MacAddress(mac))
    };
    WireSpec {
        name: place.inside.0.clone(),
        inside: end(&place.inside, inside_mac),
        outside: end(&place.outside, GENERATOR_MAC),
        endpoint: Some(Endpoint { mac: Some(MacAddress(inside_mac)), addresses }),
        permissions: Permissions::POD,
        tracking: if order.tracking { Tracking::Stateful } else { Tracking::Off },
    }
}
