//! A program that is a node's wirer, dataplane or control, for tests: control does what it is told on its api socket.
//!
//! `node_processes wirer DIRECTORY PATIENCE_MS` runs below the directory; its children are the same program. A line to the api
//! socket is a word with arguments, and is answered by a line that begins with `ok` or `error`.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cni::netns::Namespace;
use cni::splice;
use cni::state::Store;
use control::command::{CommandResult, Failure, Outcome, finish};
use control::enforcer::WireSpec;
use control::node::wirer::Notice;
use control::process::control::Begun;
use control::process::{self, Settings};
use dataplane::address::Address;
use dataplane::flow::{FlowInfo, FlowState};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::{Direction, Protocol};
use dataplane::port::{PortKind, PortSpec};
use dataplane::publish::Change;
use dataplane::rules::{Action, Chain, Peers, Policy, PortRange, Rule, RuleId, Services, Tier, WireId, WireRules};
use dataplane::wire::Tracking;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    finish(match words[..] {
        ["wirer", directory, patience] => wirer(Path::new(directory), patience),
        ["dataplane"] => process::dataplane::run(),
        ["control"] => control(),
        ["cni", ref words @ ..] => plugin(words).map(|()| Outcome::Done).map_err(Failure::system),
        _ => Err(Failure::BadInput("wirer DIRECTORY PATIENCE_MS".to_owned())),
    })
}

fn wirer(directory: &Path, patience: &str) -> CommandResult {
    process::wirer::run(Settings {
        config: (directory.join("config.yaml"), "for control".to_owned()),
        workers: vec![None, None],
        flows: 1024,
        mid_stream: None,
        run: directory.join("run"),
        state: directory.join("state"),
        plugin: directory.join("penstock-cni"),
        conflists: directory.join("net.d"),
        host_mounts: None,
        user: process::UNPRIVILEGED,
        arguments: [vec!["dataplane".to_owned()], vec!["control".to_owned()]],
        patience: Duration::from_millis(patience.parse().map_err(Failure::input)?),
    })
}

/// The words of penstock-cni that the wirer uses.
fn plugin(words: &[&str]) -> Result<(), cni::SpliceError> {
    let store = Store::at(std::env::var_os("PENSTOCK_CNI_DIRECTORY").unwrap_or_default());
    let host = Namespace::current()?;
    match words {
        ["repair"] => splice::repair(&store, &host).map(drop),
        ["follow"] => store.list()?.0.iter().try_for_each(|splice| splice::follow(splice, &host).map(drop)),
        _ => {
            println!("[]");
            Ok(())
        }
    }
}

/// What the wires' ingress is: open, or denied but for a port.
#[derive(Clone, Copy, Default)]
struct Judged {
    port: Option<u16>,
    is_open: bool,
}

fn control() -> CommandResult {
    let (begun, _file, text) = process::control::begin()?;
    if text != "for control" {
        return Err(Failure::BadInput(format!("control was given {text:?}")));
    }
    let Begun { engine, wirer, mut notices, cni: _cni, api } = begun;
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = told.clone();
    std::thread::spawn(move || {
        while let Some(notice) = notices.blocking_recv() {
            log.lock().unwrap().push(match notice {
                Notice::EngineStarted => "started".to_owned(),
                Notice::EngineLost(_) => "lost".to_owned(),
                Notice::WireGone(wire) => format!("gone:{}", wire.0),
                Notice::Warning(text) => format!("warning:{}", text.replace(' ', "_")),
            });
        }
    });
    for stream in api.incoming() {
        let mut stream = stream.map_err(Failure::system)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).map_err(Failure::system)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["rules", how] => rules(&*engine, &*wirer, how),
            ["attach"] => attach(&*engine, &*wirer),
            ["attach-other"] => attach_other(&*engine),
            ["wires"] => Ok(counts(&*engine)),
            ["flows"] => engine.flows().map(|flows| connections(&flows)).map_err(|error| error.to_string()),
            ["notices"] => Ok(told.lock().unwrap().join(" ")),
            ["unspliced"] => wirer.unspliced().map(|sandboxes| sandboxes.len().to_string()),
            _ => Err(format!("what is {line:?}?")),
        };
        let line = answer.map_or_else(|error| format!("error {error}\n"), |text| format!("ok {text}\n"));
        let _asker_gone = stream.write_all(line.as_bytes());
    }
    Ok(Outcome::Done)
}

type Said = Result<String, String>;

/// `open`, `deny`, or a port that is allowed.
fn rules(engine: &dyn control::enforcer::Engine, wirer: &dyn control::node::wirer::Wirer, how: &str) -> Said {
    let judged = Judged { port: how.parse().ok(), is_open: how == "open" };
    let services = |port| Services::Ports(vec![PortRange { protocol: Protocol::TCP, first: port, last: port }]);
    let rule =
        |port| Rule { action: Action::Allow, log: false, peers: Peers::Any, services: services(port), id: RuleId(0) };
    let tier = Tier { rules: judged.port.map(rule).into_iter().collect(), default: Action::Deny };
    let ingress = match judged.is_open {
        true => Policy::Open,
        false => Policy::Chain(Arc::new(Chain { tiers: vec![tier] })),
    };
    let wires = 0..wirer.spliced()?.len() as u32;
    let wires = wires.map(|wire| WireRules { wire: WireId(wire), egress: Policy::Open, ingress: ingress.clone() });
    let change = Change { whole: true, wires: wires.collect(), ..Change::default() };
    engine.change(&change).map(|generation| generation.to_string()).map_err(|error| error.to_string())
}

fn spec(name: &str, inside: (&Path, &str), outside: (&Path, &str), endpoint: Option<Endpoint>) -> WireSpec {
    let port = |(netns, device): (&Path, &str)| {
        PortSpec::new(PortKind::AfPacket, device).in_namespace(netns.display().to_string())
    };
    WireSpec {
        name: name.to_owned(),
        inside: port(inside),
        outside: port(outside),
        endpoint,
        permissions: Permissions::POD,
        tracking: Tracking::Stateful,
    }
}

/// Carries the first wire of each pod, numbered in their order.
fn attach(engine: &dyn control::enforcer::Engine, wirer: &dyn control::node::wirer::Wirer) -> Said {
    let pods = wirer.spliced()?;
    for (number, pod) in pods.iter().enumerate() {
        let wire = &pod.wires[0];
        let endpoint = Endpoint {
            mac: wire.mac.parse().ok(),
            addresses: wire.addresses.iter().map(|&address| Address::from(address)).collect(),
        };
        let (inside, outside) = (&wire.inside, &wire.outside);
        let spec = spec(
            &pod.container,
            (&inside.netns, &inside.interface),
            (&outside.netns, &outside.interface),
            Some(endpoint),
        );
        engine.attach(WireId(number as u32), &spec).map_err(|error| error.to_string())?;
    }
    Ok(pods.len().to_string())
}

/// Asks for what is no wire.
fn attach_other(engine: &dyn control::enforcer::Engine) -> Said {
    let own = PathBuf::from("/proc/self/ns/net");
    let spec = spec("other", (&own, "lo"), (&own, "lo"), None);
    engine.attach(WireId(99), &spec).map(|()| String::new()).map_err(|error| error.to_string())
}

/// Established TCP connections.
fn connections(flows: &[FlowInfo]) -> String {
    let is_connection = |flow: &&FlowInfo| flow.state == FlowState::Established;
    flows.iter().filter(is_connection).count().to_string()
}

/// Each wire with frames received, forwarded and dropped, of ingress.
fn counts(engine: &dyn control::enforcer::Engine) -> String {
    let wires: BTreeMap<_, _> = engine.wires();
    let counts = wires.iter().map(|(wire, running)| {
        let ingress = running.stats.direction(Direction::Ingress);
        format!("{}:{}:{}:{}", wire.0, ingress.received.get(), ingress.forwarded.get(), ingress.dropped_total())
    });
    counts.collect::<Vec<_>>().join(" ")
}
