//! [`Shares`]: how much of the table each wire has, and which flows make room first.

use crate::rules::WireId;

/// End of a list.
const NONE: u32 = u32::MAX;

/// An entry's neighbours in the two lists of evictable flows: its wire's and everybody's.
#[derive(Clone, Copy)]
struct Links {
    previous: [u32; 2],
    next: [u32; 2],
    listed: bool,
}

/// The oldest and the newest entry of a list.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE };

/// Which of the two lists.
const OF_WIRE: usize = 0;
const OF_ALL: usize = 1;

/// A wire's share; free while `flows` is 0.
#[derive(Clone, Copy)]
struct Share {
    wire: WireId,
    flows: u32,
    evictable: Ends,
}

/// Counts flows per wire and keeps evictable ones in the order in which they became so, linked through an array beside
/// the entries: one step to evict, whatever the number. All of fixed size.
pub(super) struct Shares {
    links: Box<[Links]>,
    evictable: Ends,
    /// Open addressing by the wire's number, which we choose ourselves.
    shares: Box<[Share]>,
    wires: usize,
    max_wires: usize,
}

impl Shares {
    pub(super) fn new(capacity: usize, max_wires: usize) -> Self {
        let links = Links { previous: [NONE; 2], next: [NONE; 2], listed: false };
        let share = Share { wire: WireId(0), flows: 0, evictable: EMPTY };
        Shares {
            links: vec![links; capacity].into_boxed_slice(),
            evictable: EMPTY,
            shares: vec![share; (max_wires.max(2) * 2).next_power_of_two()].into_boxed_slice(),
            wires: 0,
            max_wires,
        }
    }

    /// Where a wire's share is, or would be.
    fn at(&self, wire: WireId) -> usize {
        let mask = self.shares.len() - 1;
        let mut at = Self::home(wire) & mask;
        // Ends: at most half of the places are taken.
        while self.shares[at].flows > 0 && self.shares[at].wire != wire {
            at = (at + 1) & mask;
        }
        at
    }

    fn home(wire: WireId) -> usize {
        (wire.0.wrapping_mul(0x9e37_79b1) >> 8) as usize
    }

    /// Flows of a wire.
    pub(super) fn flows(&self, wire: WireId) -> u32 {
        self.shares[self.at(wire)].flows
    }

    /// Whether a flow of this wire can be counted: not if too many wires have flows already.
    pub(super) fn has_room(&self, wire: WireId) -> bool {
        self.wires < self.max_wires || self.flows(wire) > 0
    }

    /// Counts a flow. Only after [`Shares::has_room`].
    pub(super) fn add(&mut self, wire: WireId) {
        let at = self.at(wire);
        let share = &mut self.shares[at];
        if share.flows == 0 {
            *share = Share { wire, flows: 0, evictable: EMPTY };
            self.wires += 1;
        }
        self.shares[at].flows += 1;
    }

    /// Counts a flow less, which must not be listed any more.
    pub(super) fn subtract(&mut self, wire: WireId) {
        let at = self.at(wire);
        self.shares[at].flows -= 1;
        if self.shares[at].flows == 0 {
            self.wires -= 1;
            self.close_gap(at);
        }
    }

    /// Shifts back the shares behind one that has become free, so that they are still found.
    fn close_gap(&mut self, mut hole: usize) {
        let mask = self.shares.len() - 1;
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let share = self.shares[next];
            if share.flows == 0 {
                return;
            }
            let from_home = next.wrapping_sub(Self::home(share.wire)) & mask;
            if from_home >= next.wrapping_sub(hole) & mask {
                self.shares[hole] = share;
                self.shares[next].flows = 0;
                hole = next;
            }
        }
    }

    /// Whether an entry is listed as evictable.
    pub(super) fn is_listed(&self, entry: u32) -> bool {
        self.links[entry as usize].listed
    }

    /// Lists an entry as the newest evictable one. Its flow must be counted.
    pub(super) fn list(&mut self, wire: WireId, entry: u32) {
        let at = self.at(wire);
        Self::append(&mut self.links, &mut self.shares[at].evictable, OF_WIRE, entry);
        Self::append(&mut self.links, &mut self.evictable, OF_ALL, entry);
        self.links[entry as usize].listed = true;
    }

    /// Takes an entry from the lists.
    pub(super) fn unlist(&mut self, wire: WireId, entry: u32) {
        let at = self.at(wire);
        Self::unlink(&mut self.links, &mut self.shares[at].evictable, OF_WIRE, entry);
        Self::unlink(&mut self.links, &mut self.evictable, OF_ALL, entry);
        self.links[entry as usize].listed = false;
    }

    /// The evictable entry of this wire that is the oldest.
    pub(super) fn oldest_of(&self, wire: WireId) -> Option<u32> {
        let share = &self.shares[self.at(wire)];
        (share.flows > 0 && share.evictable.first != NONE).then_some(share.evictable.first)
    }

    /// The evictable entry of all wires that is the oldest.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.evictable.first != NONE).then_some(self.evictable.first)
    }

    fn append(links: &mut [Links], ends: &mut Ends, list: usize, entry: u32) {
        let old = ends.last;
        links[entry as usize].previous[list] = old;
        links[entry as usize].next[list] = NONE;
        match old {
            NONE => ends.first = entry,
            old => links[old as usize].next[list] = entry,
        }
        ends.last = entry;
    }

    fn unlink(links: &mut [Links], ends: &mut Ends, list: usize, entry: u32) {
        let Links { previous, next, .. } = links[entry as usize];
        let (previous, next) = (previous[list], next[list]);
        match previous {
            NONE => ends.first = next,
            previous => links[previous as usize].next[list] = next,
        }
        match next {
            NONE => ends.last = previous,
            next => links[next as usize].previous[list] = previous,
        }
    }
}
