//! Hand-off between the lanes of a wire.
//!
//! A wire over several queues has *lanes*, one a worker, each with queues of both devices and with memory of its own. Flow
//! tables are not locked, so every flow has one owner: the lane that a hash names which is the same for both of its
//! directions, whatever queues its frames arrive on. A frame that arrives elsewhere is handed to the owner, judged there,
//! and comes back with its verdict:
//! ```text
//!   lane A  receive ─▶ parse ─▶ owner? ──── handed ────▶ lane B  judge
//!           send, or release ◀──────────── returned ◀───────────┘
//! ```
//! What moves is the descriptor. The bytes stay where they are, in A's memory, and leave by A's queue, so that memory, fill ring
//! and completion ring of a lane are its worker's alone, no frame is copied, and a flow's frames leave in the order in
//! which their queue delivered them.
//!
//! Between each two lanes lie two bounded rings with one producer and one consumer (rtrb). What a burst hands over is published
//! at once: two atomic stores a burst, not two a frame. A lane counts what it has away ([`Peer::away`]) and hands over no
//! more than a ring holds, dropping the rest ([`crate::verdict::DropReason::HandOffFull`]); so the way back always has room, and no frame
//! can be lost between the two.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::flow::FlowHash;
use crate::frame::{BURST, Burst, Frame};
use crate::packet::{Direction, Tuple};
use crate::port::{Pool, PoolId};
use crate::worker::Doorbell;

/// Frames that a lane has away at all others together, when none of them takes more than its part.
const AWAY: usize = 1024;

/// A frame on its way to its flow's owner.
#[derive(Debug)]
struct Handed {
    frame: Frame,
    direction: Direction,
    /// Who talks to whom, if the frame does not show it: a later fragment.
    stands_for: Option<Tuple>,
}

/// What the owner says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passes.
    Forward,
    /// It was dropped, and counted.
    Release,
    /// A fragment: its flow is the one that it stands for.
    Fragment,
}

/// A frame on its way home.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) frame: Frame,
    pub(super) direction: Direction,
    pub(super) stands_for: Option<Tuple>,
    pub(super) outcome: Outcome,
    /// The policy generation that it was judged by.
    pub(super) generation: u64,
}

/// What lies between a lane and another one.
struct Peer {
    /// The other lane's memory: whose frames these are.
    pool: PoolId,
    doorbell: Arc<Doorbell>,
    /// Frames of ours that are there, or on their way there or back.
    away: usize,
    to_hand: Vec<Handed>,
    hand: Producer<Handed>,
    returned: Consumer<Returned>,
    handed: Consumer<Handed>,
    to_return: Vec<Returned>,
    give_back: Producer<Returned>,
}

/// A lane's ends of the rings to all other lanes of its wire.
pub struct HandOff {
    lane: usize,
    pool: PoolId,
    /// By lane; none at its own place.
    peers: Vec<Option<Peer>>,
    limit: usize,
    /// What the first lane's flow table made of a key that all of them hash.
    agreed: Arc<OnceLock<FlowHash>>,
}

impl fmt::Debug for HandOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandOff(lane {} of {})", self.lane, self.peers.len())
    }
}

impl HandOff {
    /// Joins lanes, each known by its memory and what wakes its worker. Their workers' flow tables must hash with the same key,
    /// or they don't agree on who owns what.
    pub fn between(lanes: &[(PoolId, Arc<Doorbell>)]) -> Vec<HandOff> {
        let limit = (AWAY / lanes.len().saturating_sub(1).max(1)).clamp(BURST, AWAY / 2);
        let agreed = Arc::new(OnceLock::new());
        let mut joined: Vec<HandOff> = (lanes.iter().enumerate())
            .map(|(lane, &(pool, _))| {
                let peers = lanes.iter().map(|_| None).collect();
                HandOff { lane, pool, peers, limit, agreed: Arc::clone(&agreed) }
            })
            .collect();
        for one in 0..lanes.len() {
            for other in one + 1..lanes.len() {
                let (hand, handed) = RingBuffer::new(limit);
                let (give_back, returned) = RingBuffer::new(limit);
                let (hand_other, handed_other) = RingBuffer::new(limit);
                let (give_back_other, returned_other) = RingBuffer::new(limit);
                let peer = |of: usize| {
                    let (pool, ref doorbell) = lanes[of];
                    (pool, Arc::clone(doorbell))
                };
                joined[one].peers[other] =
                    Some(Peer::new(peer(other), (hand, returned), (handed_other, give_back_other)));
                joined[other].peers[one] =
                    Some(Peer::new(peer(one), (hand_other, returned_other), (handed, give_back)));
            }
        }
        joined
    }

    /// The lane's own number.
    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    /// How many lanes the wire has.
    pub(super) fn lanes(&self) -> usize {
        self.peers.len()
    }

    /// The memory that the lane's ports were opened with.
    pub(super) fn pool(&self) -> PoolId {
        self.pool
    }

    /// Whether the lane's flow table makes the same of a key as the other lanes' do.
    pub(super) fn agrees(&self, hash: FlowHash) -> bool {
        *self.agreed.get_or_init(|| hash) == hash
    }

    /// Whether a frame came from this lane's own queues.
    #[inline]
    pub(super) fn is_own(&self, frame: &Frame) -> bool {
        frame.head.pool() == self.pool
    }

    /// Hands a frame to the lane that owns its flow, from [`HandOff::publish`] on.
    ///
    /// # Errors
    /// Gives the frame back when that lane has as many as it may.
    pub(super) fn hand_over(
        &mut self,
        owner: usize,
        frame: Frame,
        direction: Direction,
        stands_for: Option<Tuple>,
    ) -> Result<(), Frame> {
        match self.peers.get_mut(owner) {
            Some(Some(peer)) if peer.away < self.limit => {
                peer.away += 1;
                peer.to_hand.push(Handed { frame, direction, stands_for });
                if peer.to_hand.len() == BURST {
                    peer.publish();
                }
                Ok(())
            }
            _ => Err(frame),
        }
    }

    /// Sends a frame that belongs to another lane home.
    ///
    /// # Errors
    /// Gives it back when it is this lane's own.
    #[inline]
    pub(super) fn send_home(&mut self, returned: Returned) -> Result<(), Frame> {
        if self.is_own(&returned.frame) {
            return Err(returned.frame);
        }
        let home = returned.frame.head.pool();
        match self.peers.iter_mut().flatten().find(|peer| peer.pool == home) {
            Some(peer) => {
                peer.to_return.push(returned);
                if peer.to_return.len() == BURST {
                    peer.publish();
                }
                Ok(())
            }
            None => Err(returned.frame),
        }
    }

    /// Sends a frame home that was dropped; `Some` if it is this lane's own.
    pub(crate) fn refuse(&mut self, frame: Frame, direction: Direction) -> Option<Frame> {
        let (stands_for, outcome, generation) = (None, Outcome::Release, 0);
        self.send_home(Returned { frame, direction, stands_for, outcome, generation }).err()
    }

    /// Lets the other lanes see what was handed over and sent home.
    pub(super) fn publish(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            peer.publish();
        }
    }

    /// Whether a ring has something for this lane.
    pub(super) fn has_arrivals(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.handed.is_empty() || !peer.returned.is_empty())
    }

    /// The oldest frames that another lane has handed over and that go the same way, as many as the burst takes; one alone if it
    /// stands for another tuple than it shows.
    pub(super) fn take_handed(&mut self, from: usize, burst: &mut Burst) -> Option<(Direction, Option<Tuple>)> {
        let Some(Some(peer)) = self.peers.get_mut(from) else { return None };
        let ready = peer.handed.slots().min(burst.remaining_capacity());
        let chunk = peer.handed.read_chunk(ready).ok()?;
        let (front, back) = chunk.as_slices();
        let mut waiting = front.iter().chain(back);
        let first = waiting.next()?;
        let (direction, stands_for) = (first.direction, first.stands_for);
        let count = match stands_for {
            Some(_) => 1,
            None => 1 + waiting.take_while(|next| next.direction == direction && next.stands_for.is_none()).count(),
        };
        // What is not iterated stays in the ring.
        burst.extend(chunk.into_iter().take(count).map(|handed| handed.frame));
        Some((direction, stands_for))
    }

    /// The oldest frames that another lane has sent home, at most a burst: each is this lane's again.
    pub(super) fn take_returned(&mut self, from: usize) -> arrayvec::ArrayVec<Returned, BURST> {
        let mut taken = arrayvec::ArrayVec::new();
        if let Some(Some(peer)) = self.peers.get_mut(from) {
            let ready = peer.returned.slots().min(BURST);
            if let Ok(chunk) = peer.returned.read_chunk(ready) {
                taken.extend(chunk);
                peer.away -= taken.len();
            }
        }
        taken
    }
}

impl Peer {
    fn new(
        (pool, doorbell): (PoolId, Arc<Doorbell>),
        (hand, returned): (Producer<Handed>, Consumer<Returned>),
        (handed, give_back): (Consumer<Handed>, Producer<Returned>),
    ) -> Peer {
        let (to_hand, to_return) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
        Peer { pool, doorbell, away: 0, to_hand, hand, returned, handed, to_return, give_back }
    }

    fn publish(&mut self) {
        if self.to_hand.is_empty() && self.to_return.is_empty() {
            return;
        }
        move_to(&mut self.to_hand, &mut self.hand);
        move_to(&mut self.to_return, &mut self.give_back);
        self.doorbell.call();
    }
}

/// Puts all that waits onto a ring, which has room: no more frames are away than it holds.
fn move_to<T>(waiting: &mut Vec<T>, ring: &mut Producer<T>) {
    if let Ok(chunk) = ring.write_chunk_uninit(waiting.len()) {
        chunk.fill_from_iter(waiting.drain(..));
    }
}

/// What is left of a lane whose ports are closed: its memory, and the rings in which frames of all lanes may be. Frames go back to
/// their memory once all lanes of the wire are closed ([`settle`]).
#[derive(Debug)]
pub struct ClosedLane {
    pub(super) pool: Pool,
    pub(super) hand_off: Box<HandOff>,
}

/// Gives all frames in the rings of a closed wire back to their memory. Answers how many chunks are still missing: none, unless a
/// lane is missing or its worker died.
pub fn settle(mut lanes: Vec<ClosedLane>) -> usize {
    let mut frames = Vec::new();
    for ClosedLane { hand_off, .. } in &mut lanes {
        for peer in hand_off.peers.iter_mut().flatten() {
            frames.extend(peer.to_hand.drain(..).map(|handed| handed.frame));
            frames.extend(peer.to_return.drain(..).map(|returned| returned.frame));
            frames.extend(std::iter::from_fn(|| peer.handed.pop().ok()).map(|handed| handed.frame));
            frames.extend(std::iter::from_fn(|| peer.returned.pop().ok()).map(|returned| returned.frame));
        }
    }
    for frame in frames {
        if let Some(home) = lanes.iter_mut().find(|lane| lane.pool.id() == frame.head.pool()) {
            home.pool.release(frame);
        }
    }
    lanes.iter().map(|lane| lane.pool.outstanding()).sum()
}
