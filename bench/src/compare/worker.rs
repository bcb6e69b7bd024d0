//! The process in which Penstock is measured: the engine that the daemon runs, with a wire between two given devices and
//! rules that are made from a seed rather than read from files.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::enforcer::{Enforcer, EnforcerConfig, WireSpec};
use dataplane::address::MacAddress;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::Protocol;
use dataplane::port::{PortKind as EnginePort, PortSpec};
use dataplane::publish::Change;
use dataplane::rules::list::{ListRule, Ports};
use dataplane::rules::{Policy, PortRange, RuleId, RuleSet, Services, WireId, WireRules};
use dataplane::wire::Tracking;
use dataplane::worker::Pinning;

use crate::compare::contender::userspace::{Answer, WORKER_CPU, WirePlace, WorkerOrder};
use crate::compare::contender::{Gateway, Kind, Loaded, PortKind, Setting};
use crate::compare::topology::{GENERATOR_MAC, SINK_MAC};
use crate::compare::{gateway, policy, process};

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
        let before = process::resident("self");
        let (rules, compiling) = rules(&order.setting)?;
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
        let time = compiling + begin.elapsed();
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
            self.rules.wires.push(WireRules { wire, ..live.clone() });
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

    /// Changes one rule of the measured wire, waits until the worker follows, and takes it back. The second of two changes
    /// counts, as it does for nft.
    fn change(&mut self) -> Result<Duration> {
        let mut time = Duration::ZERO;
        for _warm in 0..2 {
            self.changes += 1;
            let wire = self.rules.wires.last().context("there is a wire")?;
            let begin = Instant::now();
            let next = changed(wire, self.changes)?;
            self.enforcer.change(&Change { wires: vec![next], ..Change::default() })?;
            time = begin.elapsed();
            self.enforcer.change(&Change { wires: vec![wire.clone()], ..Change::default() })?;
        }
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

/// The rules of a node, or of a gateway, as the engine takes them; and how long it took to make them of a text, if they are.
fn rules(setting: &Setting) -> Result<(RuleSet, Duration)> {
    let (egress, ingress, time) = match setting.kind {
        Kind::PenstockList(_) => {
            let entries = policy::entries(setting.rules, setting.family, false, setting.seed);
            let list = Policy::List(Arc::new(policy::list(&entries, setting.family)?));
            (list.clone(), list, Duration::ZERO)
        }
        Kind::Gateway(Gateway::Penstock(_)) => {
            let dump = gateway::iptables(&gateway::services(setting.rules, setting.seed));
            let begin = Instant::now();
            let [egress, ingress] = gateway::stateful(&dump)?.map(Policy::Stateful);
            (egress, ingress, begin.elapsed())
        }
        _ => return Ok((policy::node(setting.rules, setting.seed), Duration::ZERO)),
    };
    Ok((RuleSet { wires: vec![WireRules { wire: policy::LIVE, egress, ingress }] }, time))
}

/// The same rules but one: of a chain, the first has other ports; in the middle of a list stands one more.
fn changed(wire: &WireRules, number: u32) -> Result<WireRules> {
    let port = 20_000 + number as u16;
    let mut next = wire.clone();
    match &mut next.ingress {
        Policy::Chain(chain) => {
            let rule = Arc::make_mut(chain).tiers[0].rules.first_mut().context("the chain has rules")?;
            rule.id = RuleId(u32::MAX - 10 - number);
            let range = PortRange { protocol: Protocol::TCP, first: port, last: port };
            rule.services = Services::Ports(vec![range]);
        }
        Policy::List(list) => {
            let middle = list.len() / 2;
            let like = list.get(middle).context("the list has rules")?;
            let ports = Ports { first: port, last: port };
            let rule = ListRule { destination_ports: ports, id: RuleId(u32::MAX - 10 - number), ..like };
            let list = Arc::new(list.insert(middle, rule)?);
            next.egress = Policy::List(Arc::clone(&list));
            next.ingress = Policy::List(list);
        }
        Policy::Open | Policy::Stateful(_) => bail!("the wire has neither a chain nor a list"),
    }
    Ok(next)
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
