//! Receiving: by the counting XDP program, or over a socket that checks and times each frame.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::address::Address;
use dataplane::rules::AddressSet;
use serde::{Deserialize, Serialize};

use super::device;
use super::error::Error;
use super::frame::{Stamp, payload};
use super::latency::Latency;
use super::report::{Progress, SinkCounters};
use super::sink::{Sink, SinkSpec};
use super::spec::PortChoice;
use super::station::{Responder, Station};
use super::tally::Tally;

/// How frames are received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiveChoice {
    /// By an XDP program that counts and drops ([`Sink`]): no thread, and times to 1.6 %.
    #[default]
    Xdp,
    /// By an AF_XDP socket.
    AfXdp,
    /// By an AF_PACKET socket. The interface should have no address: the kernel sees the frames too, and would answer.
    AfPacket,
}

/// What a receiver is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveSpec {
    /// How.
    pub port: ReceiveChoice,
    /// The interface.
    pub interface: String,
    /// Its network namespace: a name, a path or a process number. `None` is the caller's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The CPU of a socket's thread. `None` leaves it to the scheduler.
    #[serde(default)]
    pub cpu: Option<usize>,
    /// Whether only stamped frames are counted.
    #[serde(default)]
    pub stamped_only: bool,
    /// Whether the time since each stamp is taken.
    #[serde(default)]
    pub latency: bool,
    /// Addresses that are answered for, by ranges, first and last.
    #[serde(default)]
    pub answer: Vec<(IpAddr, IpAddr)>,
}

/// What came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// Counters.
    pub counters: SinkCounters,
    /// Times since the stamps.
    pub latency: Option<Latency>,
}

/// A receiver that is open: what arrives from now on is counted.
pub struct Receiver {
    spec: ReceiveSpec,
    end: End,
}

enum End {
    Xdp { sink: Sink, _responder: Option<Responder> },
    Socket(Box<Station>),
}

impl Receiver {
    /// Opens it.
    ///
    /// # Errors
    /// No such interface, a device in use, no privilege.
    pub fn open(spec: ReceiveSpec) -> Result<Self, Error> {
        let range =
            |(first, last): &(IpAddr, IpAddr)| (Address::from(*first).to_bits(), Address::from(*last).to_bits());
        let ours: AddressSet = spec.answer.iter().map(range).collect();
        let namespace = spec.namespace.as_deref();
        let socket = |port| {
            device::within(namespace, &spec.interface, || Station::open(port, &spec.interface, ours.clone()))
                .map(|station| End::Socket(Box::new(station)))
        };
        let end = match spec.port {
            ReceiveChoice::AfXdp => socket(PortChoice::AfXdp)?,
            ReceiveChoice::AfPacket => socket(PortChoice::AfPacket)?,
            ReceiveChoice::Xdp => {
                let sink = Sink::open(SinkSpec {
                    interface: spec.interface.clone(),
                    namespace: spec.namespace.clone(),
                    stamped_only: spec.stamped_only,
                    latency: spec.latency,
                })?;
                let responder = match ours.is_empty() {
                    true => None,
                    false => Some(Responder::start(namespace, &spec.interface, ours)?),
                };
                End::Xdp { sink, _responder: responder }
            }
        };
        Ok(Receiver { spec, end })
    }

    /// Receives until `stop` is set, on the calling thread. Counts what has come since the receiver was opened.
    ///
    /// # Errors
    /// A device that went away.
    pub fn run(self, stop: &AtomicBool, progress: &Progress) -> Result<Received, Error> {
        if let Some(cpu) = self.spec.cpu {
            device::pin(cpu)?;
        }
        match self.end {
            End::Xdp { sink, _responder } => {
                while !stop.load(Ordering::Relaxed) {
                    let counters = sink.counters()?;
                    progress.set(counters.frames, counters.bytes);
                    std::thread::sleep(Duration::from_millis(20));
                }
                let latency = self.spec.latency.then(|| sink.latencies()).transpose()?;
                Ok(Received { counters: sink.counters()?, latency: latency.map(|bins| Latency::from_bins(&bins)) })
            }
            End::Socket(station) => socket(*station, &self.spec, stop, progress),
        }
    }
}

fn socket(mut station: Station, spec: &ReceiveSpec, stop: &AtomicBool, progress: &Progress) -> Result<Received, Error> {
    let mut tally = Tally::default();
    let mut latency = spec.latency.then(Latency::new);
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) {
        // One look at the clock a burst: its frames were received together.
        let now = device::now();
        let count = station.receive(|frame| {
            let bytes = frame.bytes();
            let Some(payload) = payload(bytes) else {
                tally.counters.passed += 1;
                return;
            };
            let stamp = Stamp::from_bytes(payload);
            if stamp.is_none() && spec.stamped_only {
                tally.counters.passed += 1;
                return;
            }
            tally.count(frame.length(), stamp);
            if let (Some(latency), Some(stamp)) = (&mut latency, stamp) {
                latency.record(now.saturating_sub(stamp.time));
            }
        })?;
        progress.set(tally.counters.frames, tally.counters.bytes);
        // It spins while there is traffic, as sleeping would add its own delay to what is measured.
        idle = if count > 0 { 0 } else { idle + 1 };
        if idle > 20_000 {
            station.wait(Duration::from_millis(20));
        }
    }
    Ok(Received { counters: tally.counters, latency })
}
