//! Reading ahead: what a burst's frames need from memory is asked for before the first of them is judged, so that the
//! waits overlap. Nothing is decided here. A frame may open the flow that the next one of its burst belongs to, so that
//! flows are found only when it is a frame's turn; by then they are in the cache.
//!
//! Of the frames that come most a [`Glance`] is enough: if their flow is known they pass by it. All others are read whole, at
//! once or when their flow turns out to be new.

use arrayvec::ArrayVec;

use crate::address::Address;
use crate::arch::prefetch::prefetch_slice;
use crate::flow::{FlowHash, FlowKey, FlowRef, FlowTable, KeyWords};
use crate::frame::Frame;
use crate::packet::{Direction, Link, Packet, Parsed, Payload, Protocol, Tuple};
use crate::parse::{Medium, dissect, parse_into};
use crate::rules::{Decision, Query, WireId};
use crate::verdict::DropReason;
use crate::wire::{Tracking, Wire};

use super::datapath::Turn;

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

    fn fill(&mut self, frame: &Frame, medium: Medium, wire: WireId, direction: Direction, flows: &FlowTable) {
        self.reason = parse_into(frame, medium, &mut self.parsed).err();
        if self.reason.is_none()
            && let Payload::Ip(packet) = &self.parsed.payload
        {
            self.lookup = Lookup::new(&packet.tuple(), wire, direction, flows);
            flows.prefetch_index(self.lookup.hash);
        }
    }

    /// Reads a frame of which there was a glance.
    pub(super) fn complete(&mut self, frame: &Frame, glance: &Glance) {
        self.reason = parse_into(frame, Medium::Ethernet, &mut self.parsed).err();
        self.lookup = Lookup { key: glance.words.key(), hash: glance.hash };
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

/// What a frame of a known flow is recognised by, one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Glance {
    pub(super) words: KeyWords,
    pub(super) hash: FlowHash,
    /// The flow that this is, or nearly always is, if it is known.
    pub(super) candidate: FlowRef,
    /// Bytes of transport header and payload.
    pub(super) transport_length: u16,
    /// Where the transport header begins.
    pub(super) transport_offset: u8,
    pub(super) kind: Kind,
}

const _: () = assert!(size_of::<Glance>() == 64);

/// What a glance shows.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Nothing: the frame has been read whole, and the rest of the glance means nothing.
    Unseen,
    /// UDP that the guard lets on to be judged.
    Datagram,
    /// The same of TCP.
    Segment,
}

impl Glance {
    const BLANK: Glance = Glance {
        words: KeyWords::ZERO,
        hash: FlowHash::ZERO,
        candidate: FlowRef::NONE,
        transport_length: 0,
        transport_offset: 0,
        kind: Kind::Unseen,
    };

    /// Looks at a frame, if a glance at it may be enough. What is not in the bytes of its one segment is not looked at.
    #[inline(always)]
    fn at(frame: &Frame, wire: &Wire, direction: Direction, flows: &FlowTable) -> Option<Glance> {
        if frame.is_adorned() {
            return None;
        }
        let bytes = frame.bytes();
        let dissected = dissect(bytes, bytes.len())?;
        if !wire.plain.admits(direction, &dissected) || bytes.len() > wire.both.max_frame {
            return None;
        }
        let words = KeyWords::of(wire.id, direction, &dissected);
        let mut hash = FlowHash::ZERO;
        if wire.tracking == Tracking::Stateful {
            hash = flows.hash_words(&words);
            flows.prefetch_index(hash);
        }
        Some(Glance {
            words,
            hash,
            candidate: FlowRef::NONE,
            transport_length: dissected.transport_length,
            transport_offset: dissected.transport_offset,
            kind: if dissected.protocol == Protocol::TCP { Kind::Segment } else { Kind::Datagram },
        })
    }

    /// Whether the frame seems to be of no flow.
    #[inline]
    fn is_stranger(&self) -> bool {
        self.kind != Kind::Unseen && self.candidate == FlowRef::NONE
    }

    /// The flow's protocol.
    #[inline]
    fn protocol(&self) -> Protocol {
        if self.kind == Kind::Segment { Protocol::TCP } else { Protocol::UDP }
    }
}

/// Places for the frames that are read ahead: of each a glance, or the whole.
pub(super) struct Ahead {
    glances: Box<[Glance]>,
    reads: Box<[Read]>,
    /// What policy says of frames that seem to be of no flow, all asked at once. It says the same when it is their turn.
    decisions: Box<[Option<Decision>]>,
}

/// What is known of some frames, each at its place.
pub(super) struct Seen<'a> {
    pub(super) glances: &'a [Glance],
    pub(super) decisions: &'a [Option<Decision>],
    pub(super) reads: &'a mut [Read],
}

impl Ahead {
    pub(super) fn new(flows: &FlowTable) -> Ahead {
        Ahead {
            glances: (0..AHEAD).map(|_| Glance::BLANK).collect(),
            reads: (0..AHEAD).map(|_| Read::blank(flows)).collect(),
            decisions: vec![None; AHEAD].into(),
        }
    }

    /// Reads the frames, [`AHEAD`] at most, and asks for the memory of their flows. With `whole`, a glance at a frame is
    /// never enough.
    #[inline]
    pub(super) fn read(
        &mut self,
        frames: &[Frame],
        wire: &Wire,
        turn: &Turn<'_>,
        flows: &FlowTable,
        whole: bool,
    ) -> Seen<'_> {
        let direction = turn.direction;
        let count = frames.len().min(AHEAD);
        let frames = &frames[..count];
        let (glances, reads) = (&mut self.glances[..count], &mut self.reads[..count]);
        for frame in frames.iter().take(HEADERS_AHEAD) {
            prefetch_slice(frame.bytes(), 0);
        }
        // A hash, which tells whose a frame is, is made where flows are kept.
        let is_alone = wire.hand_off.is_none();
        let is_fit = wire.medium == Medium::Ethernet && (wire.tracking == Tracking::Stateful || is_alone);
        let may_glance = !whole && is_fit;
        for (index, frame) in frames.iter().enumerate() {
            if let Some(later) = frames.get(index + HEADERS_AHEAD) {
                prefetch_slice(later.bytes(), 0);
            }
            if may_glance && let Some(glance) = Glance::at(frame, wire, direction, flows) {
                glances[index] = glance;
            } else {
                glances[index].kind = Kind::Unseen;
                reads[index].fill(frame, wire.medium, wire.id, direction, flows);
            }
        }
        let mut strangers = 0;
        for (glance, read) in glances.iter_mut().zip(&*reads) {
            if wire.tracking == Tracking::Off {
                strangers += usize::from(glance.kind != Kind::Unseen);
            } else if glance.kind != Kind::Unseen {
                glance.candidate = flows.candidate(glance.hash, glance.protocol()).unwrap_or(FlowRef::NONE);
                strangers += usize::from(glance.candidate == FlowRef::NONE);
            } else if read.packet().is_some() {
                flows.prefetch_entry(read.lookup.hash);
            }
        }
        let decisions = &mut self.decisions[..count];
        // A stranger may belong to another lane's worker.
        if strangers > 0 && is_alone {
            judge_strangers(glances, decisions, wire, turn);
        } else {
            decisions.fill(None);
        }
        Seen { glances, decisions, reads }
    }
}

/// Asks the policy about all frames that seem to be of no flow.
#[inline(never)]
fn judge_strangers(glances: &[Glance], decisions: &mut [Option<Decision>], wire: &Wire, turn: &Turn<'_>) {
    decisions.fill(None);
    let Some(slot) = wire.standing.slot else { return };
    let mut queries = ArrayVec::<Query, AHEAD>::new();
    for glance in glances {
        if glance.is_stranger() {
            queries.push(Query::opening(turn.direction, &glance.words.key().tuple(turn.direction)));
        }
    }
    let mut answers = [Decision::CLOSED; AHEAD];
    turn.policy.classifier().judge_burst(slot, turn.direction, &queries, &mut answers[..queries.len()]);
    let mut answers = answers.into_iter();
    for (glance, decision) in glances.iter().zip(decisions) {
        if glance.is_stranger() {
            *decision = answers.next();
        }
    }
}
