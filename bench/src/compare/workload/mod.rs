//! What is done with a contender in its turn: frames, bulk transfers, connections, latencies, changes.

pub mod bulk;
pub mod connections;
pub mod latency;
pub mod packets;
pub mod reach;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use control::lab::netns::Namespace;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::compare::contender::Running;
use crate::compare::process::{self, Background};

/// The flows that frames belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Flows {
    /// As many as the setting says, each seen in both directions before anything is measured, drawn evenly.
    Established,
    /// Each frame is the first of its flow.
    New,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Work {
    /// 60-byte UDP frames from the generator to the sink, flat out; counted where they arrive.
    Packets(Flows),
    /// The same at this many frames a second, for the CPU time that they take.
    FixedRate(u32),
    /// TCP by iperf3.
    Bulk {
        /// How many at once.
        streams: u8,
        /// Whether the sink's end sends.
        reverse: bool,
    },
    /// Connect, ask, be answered, close; again and again.
    Connections,
    /// One request after the other over one connection.
    Latency,
    /// One rule changed.
    Change,
}

impl Work {
    /// In words.
    pub fn text(self) -> String {
        match self {
            Work::Packets(Flows::Established) => "60-byte UDP of established flows".to_owned(),
            Work::Packets(Flows::New) => "60-byte UDP, every frame a new flow".to_owned(),
            Work::FixedRate(rate) => format!("60-byte UDP of established flows, {rate} frames/s offered"),
            Work::Bulk { streams, reverse } => {
                let plural = if streams == 1 { "stream" } else { "streams" };
                let way = if reverse { "from the pod" } else { "to the pod" };
                format!("TCP bulk, {streams} {plural} {way}")
            }
            Work::Connections => "TCP connect, request, reply, close".to_owned(),
            Work::Latency => "TCP request and reply over one connection".to_owned(),
            Work::Change => "one rule changed, to in force".to_owned(),
        }
    }

    /// What a turn answers, the figure that bars are about first: names and units.
    pub fn metrics(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Work::Packets(_) => &[("rate", "frames/s")],
            Work::FixedRate(_) => &[("CPU 1 a frame", "ns"), ("arrived", "%")],
            Work::Bulk { .. } => &[("throughput", "bit/s"), ("CPU", "cores")],
            Work::Connections => &[("rate", "connections/s")],
            Work::Latency => &[("p99", "µs"), ("p50", "µs"), ("p99.9", "µs")],
            Work::Change => &[("time", "ms")],
        }
    }
}

/// What one turn measured, by metric.
pub type Sample = BTreeMap<&'static str, f64>;

/// A contender with what its work needs around it.
pub struct Lane {
    /// The contender.
    pub running: Running,
    /// Counters at both ends, of frame workloads.
    pub counters: Option<packets::Ends>,
    /// The iperf3 server.
    _server: Option<Background>,
}

/// How long a turn takes.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Before it counts.
    pub settle: Duration,
    /// While it counts.
    pub measure: Duration,
}

impl Lane {
    /// Puts in place what the work needs, and checks that the contender forwards what is allowed and nothing else.
    ///
    /// # Errors
    /// When it does not: such a contender is no row.
    pub fn prepare(mut running: Running, work: Work) -> Result<Lane> {
        let mut lane = match work {
            Work::Packets(_) | Work::FixedRate(_) => {
                let counters = packets::Ends::open(&running)?;
                Lane { running, counters: Some(counters), _server: None }
            }
            Work::Bulk { .. } => {
                running.go_on();
                reach::check(&running)?;
                let server = bulk::serve(&running)?;
                Lane { running, counters: None, _server: Some(server) }
            }
            Work::Connections | Work::Latency => {
                running.go_on();
                reach::check(&running)?;
                Lane { running, counters: None, _server: None }
            }
            Work::Change => {
                packets::check(&mut running)?;
                Lane { running, counters: None, _server: None }
            }
        };
        if let Some(ends) = &mut lane.counters {
            ends.check(&lane.running)?;
            match work {
                Work::Packets(Flows::Established) | Work::FixedRate(_) => ends.establish(&lane.running)?,
                _ => {}
            }
        }
        lane.running.pause();
        Ok(lane)
    }

    /// One turn.
    ///
    /// # Errors
    /// When the contender or a program fails.
    pub fn turn(&mut self, work: Work, round: usize, turn: Turn) -> Result<Sample> {
        process::check()?;
        let sample = match (work, &mut self.counters) {
            (Work::Packets(flows), Some(ends)) => ends.flood(&mut self.running, flows, turn),
            (Work::FixedRate(rate), Some(ends)) => ends.at_rate(&mut self.running, rate, turn),
            (Work::Bulk { streams, reverse }, _) => {
                self.running.go_on();
                bulk::transfer(&self.running, streams, reverse, turn)
            }
            (Work::Connections, _) => {
                self.running.forget_flows()?;
                self.running.go_on();
                connections::rate(&self.running, turn)
            }
            (Work::Latency, _) => {
                self.running.go_on();
                latency::measure(&self.running, turn)
            }
            (Work::Change, _) => {
                let time = self.running.change_one(round)?;
                Ok(Sample::from([("time", time.as_secs_f64() * 1e3)]))
            }
            (work, None) => Err(anyhow::anyhow!("nothing was prepared for {work:?}")),
        };
        self.running.pause();
        sample
    }
}

/// Runs `work` on a new thread of a namespace, pinned to a CPU.
fn on<T: Send>(namespace: &Namespace, cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    namespace.run(|| {
        pin(cpu)?;
        work()
    })?
}

/// Pins the calling thread.
fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(sched_setaffinity(None, &cpus)?)
}

/// Where the server of a client workload runs: on CPU 0 beside the client when a worker has CPU 1 for itself, otherwise on
/// CPU 1.
pub fn server_cpu(running: &Running) -> usize {
    if running.setting.kind.is_userspace() { 0 } else { 1 }
}
