//! Traffic: making it, counting it, timing it. The library of `penstock-pktgen`, which the comparison uses too.
//!
//! A [`Spec`] says what to send; [`generate`] sends it and answers a [`Report`]. A [`Sink`] counts at the far end, in an XDP
//! program that drops what it has counted. Both work against any device under test.
//!
//! ```text
//!   Spec ──▶ Plan ─┬─▶ live frames (XDP program, in the kernel)  ─┐          device          ┌─▶ Sink (XDP program)
//!                  └─▶ AF_XDP or AF_PACKET socket (frame.rs)     ─┴──▶ veth/NIC ▶ under ▶ ───┴─▶ Receiver (sockets)
//!                                                                                 test
//! ```
//!
//! Both generators write the same bytes for the same flow and sequence number; a test holds them equal.

mod anchor;
pub mod command;
mod device;
mod error;
mod flows;
pub mod frame;
mod latency;
mod live;
mod neighbour;
mod plan;
mod receive;
mod report;
mod search;
mod sink;
mod socket;
mod spec;
mod station;
mod tally;
#[cfg(test)]
mod tests;
mod trial;

use std::sync::atomic::AtomicBool;

pub use error::Error;
pub use latency::{Latency, LatencySummary};
pub use receive::{ReceiveChoice, ReceiveSpec, Received, Receiver};
pub use report::{Progress, Report, Scaled, SinkCounters};
pub use search::{SearchSpec, Step, Throughput, search};
pub use sink::{Sink, SinkSpec};
pub use spec::{Flows, FrameShape, Limit, Order, Pair, Pairs, PortChoice, Rate, Spec, Transport};
pub use trial::{Outcome, TrialSpec, trial};

/// Sends what the spec says until its limit or until `stop` is set (looked at every few milliseconds), on a thread of its own in
/// the interface's namespace, pinned to the spec's CPU. Returns when it has ended.
///
/// # Errors
/// A spec that makes no sense, a port that can't be opened, a next hop that does not answer.
pub fn generate(spec: &Spec, stop: &AtomicBool) -> Result<Report, Error> {
    generate_with(spec, false, stop, &Progress::default())
}

/// As [`generate`], and tells how far it is. With `answer` it answers ARP and neighbour discovery for the flows' source addresses,
/// for a device under test that has to find them; do not use that on a network where others have those addresses.
///
/// # Errors
/// As [`generate`].
pub fn generate_with(spec: &Spec, answer: bool, stop: &AtomicBool, progress: &Progress) -> Result<Report, Error> {
    let plan = plan::Plan::new(spec)?;
    device::within(spec.namespace.as_deref(), &spec.interface, || {
        if let Some(cpu) = spec.cpu {
            device::pin(cpu)?;
        }
        match spec.port {
            PortChoice::LiveFrames => live::run(spec, &plan, answer, stop, progress),
            PortChoice::AfXdp | PortChoice::AfPacket => socket::run(spec, &plan, answer, stop, progress),
        }
    })
}
