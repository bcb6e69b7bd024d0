//! Reading ahead: what a burst's frames need from memory is asked for before the first of them is judged, so that the
//! waits overlap. Nothing is decided here. A frame may open the flow that the next one of its burst belongs to, so that
//! flows are found only when it is a frame's turn; by then they are in the cache.

use crate::address::Address;
use crate::arch::prefetch::prefetch_slice;
use crate::flow::{FlowHash, FlowKey, FlowTable};
use crate::frame::Frame;
use crate::packet::{Direction, Link, Packet, Parsed, Payload, Protocol, Tuple};
use crate::parse::{Medium, parse_into};
use crate::rules::WireId;
use crate::verdict::DropReason;

/// How many frames are read ahead: enough to hide the way to memory, and what is kept of them fits into half of an L1
/// cache.
pub(super) const AHEAD: usize = 32;

/// How many frames before its turn a frame's headers are asked for.
const HEADERS_AHEAD: usize = 4;

/// A frame, read, and what its flow is looked up by. Filled in place, burst after burst.
pub(super) struct Read {
    parsed: Parsed,
    /// What is wrong with the frame; then the rest means nothing.
    reason: Option<DropReason>,
    /// Of an IP packet.
    lookup: Lookup,
}

impl Read {
    /// A place for a frame.
    fn blank(flows: &FlowTable) -> Read {
        let nobody = Address::default();
        let (protocol, source_port, destination_port) = (Protocol(0), 0, 0);
        let tuple = Tuple { source: nobody, destination: nobody, protocol, source_port, destination_port };
        Read {
            parsed: Parsed { link: Link::default(), payload: Payload::Llc },
            reason: None,
            lookup: Lookup::new(&tuple, WireId(0), Direction::Egress, flows),
        }
    }

    /// A frame that has waited.
    pub(super) fn new(frame: &Frame, medium: Medium, wire: WireId, direction: Direction, flows: &FlowTable) -> Read {
        let mut read = Read::blank(flows);
        read.fill(frame, medium, wire, direction, flows);
        read
    }

    #[inline]
    fn fill(&mut self, frame: &Frame, medium: Medium, wire: WireId, direction: Direction, flows: &FlowTable) {
        self.reason = parse_into(frame, medium, &mut self.parsed).err();
        if self.reason.is_none()
            && let Payload::Ip(packet) = &self.parsed.payload
        {
            self.lookup = Lookup::new(&packet.tuple(), wire, direction, flows);
            flows.prefetch_index(self.lookup.hash);
        }
    }

    /// The frame's headers, or the reason to drop it.
    #[inline]
    pub(super) fn parsed(&self) -> Result<&Parsed, DropReason> {
        self.reason.map_or(Ok(&self.parsed), Err)
    }

    /// The packet, if it is one.
    #[inline]
    pub(super) fn packet(&self) -> Option<&Packet> {
        match (&self.parsed.payload, self.reason) {
            (Payload::Ip(packet), None) => Some(packet),
            _ => None,
        }
    }

    /// What the packet's flow is looked up by, if it is one.
    #[inline]
    pub(super) fn lookup(&self) -> &Lookup {
        &self.lookup
    }
}

/// What a flow is looked up by: made once a frame.
#[derive(Clone, Copy)]
pub(super) struct Lookup {
    pub(super) key: FlowKey,
    pub(super) hash: FlowHash,
}

impl Lookup {
    #[inline]
    pub(super) fn new(tuple: &Tuple, wire: WireId, direction: Direction, flows: &FlowTable) -> Lookup {
        let key = FlowKey::new(wire, direction, tuple);
        Lookup { key, hash: flows.hash(&key) }
    }
}

/// Places for the frames that are read ahead.
pub(super) struct Ahead(Box<[Read]>);

impl Ahead {
    pub(super) fn new(flows: &FlowTable) -> Ahead {
        Ahead((0..AHEAD).map(|_| Read::blank(flows)).collect())
    }

    /// Reads the frames, [`AHEAD`] at most, and asks for the memory of their flows.
    #[inline]
    pub(super) fn read(
        &mut self,
        frames: &[Frame],
        medium: Medium,
        wire: WireId,
        direction: Direction,
        flows: &FlowTable,
    ) -> &[Read] {
        for frame in frames.iter().take(HEADERS_AHEAD) {
            prefetch_slice(frame.bytes(), 0);
        }
        for (index, (read, frame)) in self.0.iter_mut().zip(frames).enumerate() {
            if let Some(later) = frames.get(index + HEADERS_AHEAD) {
                prefetch_slice(later.bytes(), 0);
            }
            read.fill(frame, medium, wire, direction, flows);
        }
        let reads = &self.0[..frames.len().min(AHEAD)];
        for read in reads {
            if read.packet().is_some() {
                flows.prefetch_entry(read.lookup.hash);
            }
        }
        reads
    }
}
