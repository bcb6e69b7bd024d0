//! What goes over the table in pieces: the removal of flows that have run out, and of those of a wire or an address that is
//! gone.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{FlowHash, FlowKey, FlowRef, FlowState, FlowTable};
use crate::address::Address;
use crate::rules::WireId;
use crate::time::Time;

/// Seconds between two sweeps for flows that have run out.
const SWEEP_PAUSE: u32 = 5;

/// Entries that are swept at once.
const PIECE: usize = 32;

/// Where the search for flows that have run out stands.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The next entry to look at; 0 between sweeps.
    pub(super) hand: u32,
    /// The earliest expiry of any flow, or earlier: no need to sweep before.
    pub(super) earliest: u32,
    /// The earliest expiry that the running sweep has met.
    pub(super) met: u32,
    /// The second of the last sweep's end.
    ended: u32,
}

impl Sweep {
    /// Of an empty table.
    pub(super) fn new() -> Self {
        Sweep { hand: 0, earliest: u32::MAX, met: u32::MAX, ended: 0 }
    }
}

impl FlowTable {
    /// Looks at `budget` entries at most and removes flows that have run out; how many. Does nothing while none can
    /// have run out. To be called at every turn.
    pub fn expire(&mut self, budget: usize, now: Time) -> usize {
        let seconds = now.as_secs();
        let pausing = seconds < self.sweep.ended.saturating_add(SWEEP_PAUSE);
        if self.sweep.hand == 0 && (seconds < self.sweep.earliest || (pausing && self.shares.free() > 0)) {
            return 0;
        }
        if self.sweep.hand == 0 {
            self.sweep.met = u32::MAX;
        }
        let end = self.used.min(self.sweep.hand.saturating_add(budget as u32));
        let before = self.len;
        while self.sweep.hand < end {
            let piece = end.min(self.sweep.hand + PIECE as u32);
            self.sweep_piece(self.sweep.hand..piece, seconds);
            self.sweep.hand = piece;
        }
        if end >= self.used {
            self.end_sweep(seconds);
        }
        (before - self.len) as usize
    }

    /// Removes what has run out among at most [`PIECE`] entries, whose places in the index are asked for all at once.
    fn sweep_piece(&mut self, piece: Range<u32>, seconds: u32) {
        let mut gone = ArrayVec::<(FlowRef, FlowHash), PIECE>::new();
        for number in piece {
            let flow = FlowRef(number);
            let entry = self.entry(flow);
            if entry.state() == FlowState::Free {
                continue;
            }
            if seconds < entry.expires {
                self.sweep.met = self.sweep.met.min(entry.expires);
                continue;
            }
            let hash = self.hash(entry.key());
            self.prefetch_index(hash);
            let _ = gone.try_push((flow, hash));
        }
        for (flow, hash) in gone {
            self.remove_hashed(flow, hash);
        }
    }

    fn end_sweep(&mut self, seconds: u32) {
        self.sweep = Sweep { hand: 0, earliest: self.sweep.met, met: u32::MAX, ended: seconds };
        while self.used > 0 && self.entry(FlowRef(self.used - 1)).state() == FlowState::Free {
            self.used -= 1;
        }
    }

    /// When [`FlowTable::expire`] has something to do next, for a worker that goes to sleep; `None` for never.
    pub fn next_deadline(&self) -> Option<Time> {
        let seconds = match self.sweep {
            _ if self.len == 0 => return None,
            Sweep { hand: 1.., .. } => 0,
            Sweep { earliest, ended, .. } => earliest.max(ended.saturating_add(SWEEP_PAUSE)),
        };
        Some(Time(u64::from(seconds) * 1_000_000_000))
    }

    /// Goes on with a flush, over `budget` entries at most; how many flows were removed.
    pub fn flush(&mut self, flush: &mut Flush, budget: usize) -> usize {
        let end = self.used.min(flush.next.saturating_add(budget as u32));
        let before = self.len;
        for number in flush.next..end {
            let entry = self.entry(FlowRef(number));
            if entry.state() != FlowState::Free && flush.matches(entry.key()) {
                self.remove(FlowRef(number));
            }
        }
        flush.next = end;
        flush.done = end >= self.used;
        (before - self.len) as usize
    }
}

/// A removal of flows in pieces ([`FlowTable::flush`]): a wire that is gone, or an address that has got a new owner. Flows
/// that open meanwhile may stay; they are the new owner's.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    wire: Option<WireId>,
    address: Option<Address>,
    next: u32,
    done: bool,
}

impl Flush {
    /// All flows of a wire.
    pub fn wire(wire: WireId) -> Self {
        Flush { wire: Some(wire), address: None, next: 0, done: false }
    }

    /// The flows of an address on every wire.
    pub fn address(address: Address) -> Self {
        Flush { wire: None, address: Some(address), next: 0, done: false }
    }

    /// The flows of an address on one wire.
    pub fn address_on(wire: WireId, address: Address) -> Self {
        Flush { wire: Some(wire), address: Some(address), next: 0, done: false }
    }

    /// Whether all entries were looked at.
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn matches(&self, key: &FlowKey) -> bool {
        self.wire.is_none_or(|wire| key.wire() == wire) && self.address.is_none_or(|address| key.has_address(address))
    }
}
