//! Ports: where frames come from and go to.
//!
//! A port moves bursts of [`Frame`](crate::frame::Frame)s between a device and the [`Pool`] of its worker. It changes nothing in a frame
//! but what it must: what a device cannot carry (an unfinished checksum on AF_XDP, a tag out of band on AF_PACKET) the
//! port completes on the way out. What a wire's two ports can both carry ([`Capabilities::intersect`]) is fixed when
//! the wire is set up.

use std::io;
use std::os::fd::BorrowedFd;

use crate::frame::Burst;
use crate::time::Time;

pub mod af_packet;
pub mod af_xdp;
pub mod checksum;
mod claim;
mod error;
pub mod fault;
mod gather;
mod link;
mod memory;
pub mod netns;
pub mod pcap;
mod pool;
mod queues;
mod segment;
mod sole;
mod spec;
pub mod tap;
mod vnet;
pub mod xsk;

pub use error::PortError;
pub use memory::{MemoryLink, MemoryPort, SentFrame};
pub use pool::{Chunk, Pool, PoolId};
pub use spec::{LEAST_SHARED, Opened, OpenedPair, PortOptions, PortSpec, open_lanes, open_pair, pair_of};

/// Bytes of an Ethernet header and one VLAN tag, which a device's MTU does not count.
const ETHERNET_AND_TAG: usize = 18;

/// The kinds of port, by the names that people type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// AF_XDP socket on one queue of a device.
    AfXdp,
    /// AF_PACKET socket with `PACKET_VNET_HDR`.
    AfPacket,
    /// TAP device: Ethernet frames.
    Tap,
    /// TUN device: IP packets without an Ethernet header.
    Tun,
    /// Queues in memory, for tests, `eval` and replay.
    Memory,
    /// A capture file.
    Pcap,
}

impl PortKind {
    /// The name in configuration files, flags and metrics.
    pub fn name(self) -> &'static str {
        match self {
            PortKind::AfXdp => "af_xdp",
            PortKind::AfPacket => "af_packet",
            PortKind::Tap => "tap",
            PortKind::Tun => "tun",
            PortKind::Memory => "memory",
            PortKind::Pcap => "pcap",
        }
    }
}

/// What a port can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Super-frames ([`crate::frame::Gso`]).
    pub gso: bool,
    /// Unfinished checksums ([`crate::frame::Checksum::Partial`]). A port without this completes them on `send`.
    pub partial_checksum: bool,
    /// Frames of several segments.
    pub multi_segment: bool,
    /// VLAN tags outside the bytes on the medium. A port without this writes them into the bytes on `send`.
    pub vlan: bool,
    /// Whether frames start with an Ethernet header.
    pub ethernet: bool,
    /// The largest frame that is not a super-frame, in bytes, Ethernet header and one VLAN tag included.
    pub max_frame: usize,
}

impl Capabilities {
    /// What both ports of a wire can carry.
    pub fn intersect(self, other: Capabilities) -> Capabilities {
        Capabilities {
            gso: self.gso && other.gso,
            partial_checksum: self.partial_checksum && other.partial_checksum,
            multi_segment: self.multi_segment && other.multi_segment,
            vlan: self.vlan && other.vlan,
            ethernet: self.ethernet && other.ethernet,
            max_frame: self.max_frame.min(other.max_frame),
        }
    }
}

/// What a port counts beside the frames that the wire counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that the device lost before we could take them: full ring, full socket buffer.
    pub receive_overflow: u64,
    /// Frames that came but could not be taken over: longer than a chunk, unreadable metadata.
    pub receive_errors: u64,
    /// Frames that the device refused for good (not for lack of room): counted and released by the port.
    pub send_errors: u64,
    /// Checksums that were completed in software.
    pub checksums_completed: u64,
}

/// One end of a wire. A port belongs to one worker and to one pool for life.
///
/// # Contract
/// * `receive` appends at most the burst's remaining capacity, takes chunks from `pool`, and never blocks. It reaps
///   what was sent and refills the device first. Fewer frames than asked for means: nothing more for now.
/// * `send` takes frames from the front of the burst, in order, as many as the device has room for, and leaves the
///   rest in the burst, in order; the caller counts those as dropped or tries again. A frame that the device refuses for
///   good is released, counted in [`PortCounters::send_errors`], and the next one is tried.
/// * A frame's bytes and metadata leave as they came, except for what the device cannot carry (see [`Capabilities`]).
/// * An error means that the port is lost (its device is gone): it is reported, and the wire stays closed.
pub trait Port: Send {
    /// The kind of port.
    fn kind(&self) -> PortKind;

    /// The name of the device, for people.
    fn name(&self) -> &str;

    /// What the port can carry. Fixed for life.
    fn capabilities(&self) -> Capabilities;

    /// Narrows what the port accepts from its device to what the other end of the wire can carry too. Called before the
    /// first `receive`; the same limits again change nothing. A port that cannot tell its device (a socket, a capture)
    /// does nothing here: what arrives regardless is completed by the other port, or dropped by the wire.
    ///
    /// # Errors
    /// When the device cannot be told (offloads that can't be switched off).
    fn limit(&mut self, _both: Capabilities) -> io::Result<()> {
        Ok(())
    }

    /// Takes frames from the device.
    ///
    /// # Errors
    /// When the device is gone.
    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()>;

    /// Gives frames to the device.
    ///
    /// # Errors
    /// When the device is gone; what was not sent is still in the burst.
    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()>;

    /// The descriptor that becomes readable when there are frames to receive; `None` for ports that are polled.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// What the port counts.
    fn counters(&self) -> PortCounters;

    /// Chunks of the pool that the port holds between calls: lent to the device, or held back.
    fn held_chunks(&self) -> usize {
        0
    }

    /// Gives every chunk that the port holds back to the pool, before the port is dropped.
    fn close(&mut self, pool: &mut Pool);
}
