//! Contenders in processes of their own: Penstock, bare loops and dpdk-testpmd. Penstock's and the loops' processes are this
//! program's own hidden subcommands, which say a line of JSON when they are ready and answer questions on stdin.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::lab::netns::Namespace;
use serde::{Deserialize, Serialize};

use super::{Gateway, Kind, Loaded, PortKind, Setting};
use crate::compare::policy::Tracking;
use crate::compare::process::Background;
use crate::compare::topology::Topology;

/// The CPU of a contender's worker.
pub const WORKER_CPU: usize = 1;

/// Which program has the subcommands, where it is not this one.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the program that has the subcommands, for a caller that is another one: a test. The first name holds.
pub fn use_program(path: PathBuf) {
    // Named before: by another test of the same program.
    let _before = PROGRAM.set(path);
}

/// A wire, from the pod's side to the other: (namespace, device) of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WirePlace {
    /// Towards the pod.
    pub inside: (String, String),
    /// Towards everything else.
    pub outside: (String, String),
    /// Whether the pod is the generator's end rather than the sink's.
    pub is_near: bool,
}

/// What a worker's process is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// The contender's kind and rules.
    pub setting: Setting,
    /// Its wires.
    pub wires: Vec<WirePlace>,
    /// Its port.
    pub port: PortKind,
    /// Whether connections are tracked.
    pub tracking: bool,
}

/// What such a process says: what was asked for, or why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is ready.
    Ready(Loaded),
    /// Done, and how long it took.
    Done(Duration),
    /// What it counts.
    Counts(String),
    /// It cannot.
    Failed(String),
}

/// Reads an answer.
///
/// # Errors
/// When it is that something failed, or no answer at all.
pub fn answer(line: &str) -> Result<Answer> {
    match serde_json::from_str(line).with_context(|| format!("not an answer: {line}"))? {
        Answer::Failed(why) => bail!("{why}"),
        answer => Ok(answer),
    }
}

/// This program, for its hidden subcommands.
fn program() -> Result<PathBuf> {
    match PROGRAM.get() {
        Some(path) => Ok(path.clone()),
        None => std::env::current_exe().context("finding this program"),
    }
}

fn place(namespace: &Namespace, device: &str) -> (String, String) {
    (namespace.name().to_owned(), device.to_owned())
}

/// The wires of a contender in this topology.
fn wires(topology: &Topology, port: PortKind, is_pair: bool) -> Vec<WirePlace> {
    if port == PortKind::Tap {
        let (inside, outside) = (place(&topology.sink, "s0"), place(&topology.generator, "g0"));
        return vec![WirePlace { inside, outside, is_near: false }];
    }
    match &topology.second {
        Some(second) if is_pair => vec![
            WirePlace { inside: place(second, "e0"), outside: place(second, "e1"), is_near: false },
            WirePlace { inside: place(&topology.middle, "d0"), outside: place(&topology.middle, "d1"), is_near: true },
        ],
        _ => vec![WirePlace {
            inside: place(&topology.middle, "d1"),
            outside: place(&topology.middle, "d0"),
            is_near: false,
        }],
    }
}

/// Starts the processes of a contender and waits until they move frames.
///
/// # Errors
/// When one cannot be started, or ends early.
pub fn start(setting: &Setting, topology: &Topology) -> Result<(Vec<Background>, Loaded)> {
    let own = program()?.display().to_string();
    match setting.kind {
        Kind::Penstock(port)
        | Kind::PenstockStateless(port)
        | Kind::PenstockList(port)
        | Kind::Gateway(Gateway::Penstock(port)) => {
            let tracking = setting.kind.tracking() == Tracking::On;
            let wires = wires(topology, port, setting.is_pair);
            let order = WorkerOrder { setting: *setting, wires, port, tracking };
            let words = [own, "worker".to_owned(), serde_json::to_string(&order)?];
            let mut process = Background::start(None, None, &words)?;
            let Answer::Ready(loaded) = answer(&process.line()?)? else { bail!("the worker is not ready") };
            Ok((vec![process], loaded))
        }
        Kind::Bare(port) => {
            let start = |wire: &WirePlace| {
                let ends = [&wire.inside.0, &wire.inside.1, &wire.outside.0, &wire.outside.1].map(Clone::clone);
                let mut words = vec![own.clone(), "bare".to_owned(), port.name().to_owned()];
                words.extend(ends);
                words.push(WORKER_CPU.to_string());
                let mut process = Background::start(None, None, &words)?;
                answer(&process.line()?)?;
                Ok(process)
            };
            let processes = wires(topology, port, setting.is_pair).iter().map(start).collect::<Result<_>>()?;
            Ok((processes, Loaded::default()))
        }
        Kind::Testpmd(port) => Ok((vec![testpmd(port, topology)?], Loaded::default())),
        kind => bail!("{} is no process", kind.name()),
    }
}

/// dpdk-testpmd with one forwarding core; its main core waits for input.
fn testpmd(port: PortKind, topology: &Topology) -> Result<Background> {
    let device = |number: usize| match port {
        // Busy polling would move the receive softirq to the worker's CPU.
        PortKind::AfXdp => format!("net_af_xdp{number},iface=d{number},busy_budget=0"),
        _ => format!("net_af_packet{number},iface=d{number},blocksz=65536,framesz=2048,framecnt=2048"),
    };
    let name = topology.middle.name();
    let words = format!(
        "ip netns exec {name} stdbuf -oL dpdk-testpmd --lcores 0@0,1@{WORKER_CPU} --no-huge -m 512 --no-shconf --no-telemetry --no-pci \
         --file-prefix {name} --vdev {} --vdev {} -- --forward-mode=io --auto-start --nb-cores=1 --total-num-mbufs=32768 \
         --burst=64 --rxd=2048 --txd=2048",
        device(0),
        device(1)
    );
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let mut process = Background::start(None, None, &words)?;
    process.line_with("Press enter to exit").map_err(|error| match process.is_running() {
        true => error,
        false => error.context("dpdk-testpmd"),
    })?;
    Ok(process)
}

/// See [`super::Running::change_one`].
///
/// # Errors
/// When the process has ended or the policy was refused.
pub fn change_one(process: &mut Background) -> Result<Duration> {
    match answer(&process.ask("change")?)? {
        Answer::Done(time) => Ok(time),
        other => bail!("an unexpected answer: {other:?}"),
    }
}

/// What one of our own processes has counted, where it counts.
pub fn statistics(process: &mut Background) -> Option<String> {
    match answer(&process.ask("count").ok()?).ok()? {
        Answer::Counts(text) => Some(text),
        _ => None,
    }
}
