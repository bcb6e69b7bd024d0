//! Connection tracking: which flow a frame belongs to, whether it fits that flow's state, and how long the flow lives.
//!
//! A [`FlowTable`] belongs to one worker. It is bounded: entries, index and lists are set up once, and nothing is
//! allocated afterwards. Time is an argument; nothing here asks for it.
//!
//! ```text
//!  Crossing { wire, direction, length, now }
//!     │
//!     ├─ find ──────── Some(flow, origin) ─▶ judged (stale epoch? judge again, else cut) ─▶ track ─┬─ Continue
//!     │                                                                                           └─ Reopen ─┐
//!     └─ None ─▶ can_open ─▶ classify ─▶ insert ◀─────────────────────────────────────────────────────────────┘
//!  ICMP errors: find_related          every poll: expire(budget)          asleep until: next_deadline
//! ```
//!
//! # Invariants
//! * A flow is found by wire, protocol, both ends *and the way in which each end's frames cross the wire*. A frame that
//!   carries an inside end's address and comes from outside belongs to no flow of that end, and a packet that is routed
//!   back over the wire it came by is a flow of its own, judged by itself.
//! * What a flooder can make without an answer of the other end is evictable ([`FlowEntry::is_evictable`]); an
//!   established flow is not. A full table refuses new flows only.
//! * The region of entries is all there is to keep: index, lists and counts are rebuilt from it ([`FlowTable::adopt`]).
//!
//! # Not done here
//! Policy (the caller judges), rate limits, NAT, and the reassembly of fragments ([`crate::fragment`] gives later
//! fragments the tuple of the first). ICMP messages other than echo and errors make no flow: see [`is_tracked`].

mod burst;
mod entry;
mod evict;
mod hash;
mod icmp;
mod index;
mod info;
mod judged;
mod key;
mod known;
mod region;
mod sctp;
mod state;
mod sweep;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod timeouts;
mod track;

pub use entry::{FlowDetail, FlowEntry, TcpWindow};
use entry::{FlowMut, FlowView};
use hash::KeyedHash;
pub(crate) use index::Index;
pub use info::FlowInfo;
pub use judged::JudgedPeer;
pub use key::{FlowKey, KeyWords};
pub use known::Current;
pub use region::FlowRegion;
pub use state::FlowState;
pub use sweep::Flush;
pub use table::{FlowConfig, FlowTable, MidStream};
pub use timeouts::Timeouts;
pub use track::is_tracked;

use crate::packet::{Direction, Tuple};
use crate::rules::{Epoch, WireId};
use crate::time::Time;

/// A frame's crossing of a wire: where, which way, how long, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The wire.
    pub wire: WireId,
    /// Which way the frame goes.
    pub direction: Direction,
    /// Bytes of the frame, for the flow's counters.
    pub length: u32,
    /// Now.
    pub now: Time,
}

/// A flow that was found. Good until the table's next `insert`, `cut`, `expire` or `flush`; later it may name another
/// flow (never memory out of bounds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowRef(pub(super) u32);

impl FlowRef {
    /// Beyond every table's last flow.
    pub(crate) const NONE: FlowRef = FlowRef(u32::MAX);
}

/// The keyed hash of a [`FlowKey`], good for the table that made it ([`FlowTable::hash`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(pub(super) u64);

impl FlowHash {
    /// Of nothing in particular.
    pub(crate) const ZERO: FlowHash = FlowHash(0);

    /// Which of so many parts the flow falls into. Bits that the table looks at are as even within a part as over all.
    #[inline]
    pub fn part(self, parts: usize) -> usize {
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((mixed * parts as u64) >> 32) as usize
    }
}

/// Whose way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    /// The way of the end that opened the flow.
    Original = 0,
    /// The way of the other end.
    Reply = 1,
}

impl Origin {
    /// The other way.
    pub fn reverse(self) -> Origin {
        match self {
            Origin::Original => Origin::Reply,
            Origin::Reply => Origin::Original,
        }
    }
}

/// What [`FlowTable::track`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// The frame belongs to the flow and may pass, as far as the flow's state goes.
    Continue,
    /// The flow is over and this frame opens a new one between the same ends: to be judged as a new flow, and inserted,
    /// which replaces the old one.
    Reopen,
}

/// What a flow was judged as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The way of the originator's frames: whose policy decides.
    pub direction: Direction,
    /// The originator's tuple, or the one that stands for it ([`FlowTable::judge_as`]).
    pub tuple: Tuple,
    /// Whether it is the latter.
    pub stands_for: bool,
    /// The age of the policy that allowed it.
    pub epoch: Epoch,
}
