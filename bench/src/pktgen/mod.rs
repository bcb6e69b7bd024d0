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

mod device;
mod error;
mod flows;
pub mod frame;
mod live;
mod plan;
mod report;
mod sink;
mod spec;

use std::sync::atomic::AtomicBool;

pub use error::Error;
pub use report::{Report, Scaled, SinkCounters};
pub use sink::{Sink, SinkSpec};
pub use spec::{Flows, FrameShape, Limit, Order, Pair, Pairs, PortChoice, Rate, Spec, Transport};

/// Sends what the spec says until its limit or until `stop` is set (looked at every few milliseconds), on a thread of its own in
/// the interface's namespace, pinned to the spec's CPU. Returns when it has ended.
///
/// # Errors
/// A spec that makes no sense, a port that can't be opened, a next hop that does not answer.
pub fn generate(spec: &Spec, stop: &AtomicBool) -> Result<Report, Error> {
    let plan = plan::Plan::new(spec)?;
    device::within(spec.namespace.as_deref(), &spec.interface, || {
        if let Some(cpu) = spec.cpu {
            device::pin(cpu)?;
        }
        match spec.port {
            PortChoice::LiveFrames => live::run(spec, &plan, stop),
            PortChoice::AfXdp | PortChoice::AfPacket => Err(Error::input("not yet")),
        }
    })
}
