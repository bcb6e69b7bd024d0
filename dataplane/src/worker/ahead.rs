//! Reading ahead: what a burst's frames need from memory is asked for before the first of them is judged, so that the
//! waits overlap. Nothing is decided here. A frame may open the flow that the next one of its burst belongs to, so that
//! flows are found only when it is a frame's turn; by then they are in the cache.

use arrayvec::ArrayVec;

use crate::arch::prefetch::prefetch_slice;
use crate::flow::{FlowHash, FlowKey, FlowTable};
use crate::frame::Frame;
use crate::packet::{Direction, Packet, Parsed, Payload, Tuple};
use crate::parse::{Medium, parse};
use crate::rules::WireId;
use crate::verdict::DropReason;

/// How many frames are read ahead: enough to hide the way to memory, and what is kept of them fits into half of an L1
/// cache.
pub(super) const AHEAD: usize = 32;

/// How many frames before its turn a frame's headers are asked for.
const HEADERS_AHEAD: usize = 4;

/// A frame, read, and what its flow is looked up by.
pub(super) struct Read {
    pub(super) parsed: Result<Parsed, DropReason>,
    /// Set for IP packets.
    pub(super) lookup: Option<Lookup>,
}

impl Read {
    #[inline]
    pub(super) fn new(frame: &Frame, medium: Medium, wire: WireId, direction: Direction, flows: &FlowTable) -> Read {
        let parsed = parse(frame, medium);
        let lookup = match &parsed {
            Ok(Parsed { payload: Payload::Ip(packet), .. }) => {
                Some(Lookup::new(packet.tuple(), wire, direction, flows))
            }
            _ => None,
        };
        Read { parsed, lookup }
    }

    /// The packet, if it is one.
    pub(super) fn packet(&self) -> Option<&Packet> {
        match &self.parsed {
            Ok(Parsed { payload: Payload::Ip(packet), .. }) => Some(packet),
            _ => None,
        }
    }
}

/// What a flow is looked up by: made once a frame.
#[derive(Clone, Copy)]
pub(super) struct Lookup {
    pub(super) tuple: Tuple,
    pub(super) key: FlowKey,
    pub(super) hash: FlowHash,
}

impl Lookup {
    #[inline]
    pub(super) fn new(tuple: Tuple, wire: WireId, direction: Direction, flows: &FlowTable) -> Lookup {
        let key = FlowKey::new(wire, direction, &tuple);
        Lookup { tuple, key, hash: flows.hash(&key) }
    }
}

/// Frames that were read ahead, in order.
pub(super) type Ahead = ArrayVec<Read, AHEAD>;

/// Reads the frames, [`AHEAD`] at most, and asks for the memory of their flows.
pub(super) fn read_ahead(
    frames: &[Frame],
    medium: Medium,
    wire: WireId,
    direction: Direction,
    flows: &FlowTable,
    ahead: &mut Ahead,
) {
    ahead.clear();
    for frame in frames.iter().take(HEADERS_AHEAD) {
        prefetch_slice(frame.bytes(), 0);
    }
    for (index, frame) in frames.iter().enumerate().take(AHEAD) {
        if let Some(later) = frames.get(index + HEADERS_AHEAD) {
            prefetch_slice(later.bytes(), 0);
        }
        let read = Read::new(frame, medium, wire, direction, flows);
        if let Some(lookup) = &read.lookup {
            flows.prefetch_index(lookup.hash);
        }
        ahead.push(read);
    }
    for read in &*ahead {
        if let Some(lookup) = &read.lookup {
            flows.prefetch_entry(lookup.hash);
        }
    }
}
