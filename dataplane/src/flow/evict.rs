//! [`Shares`]: which entries are free, how much of the table each wire has, and which flows make room first.

use bytemuck::{Pod, Zeroable};

use super::{FlowRef, FlowTable};
use crate::arch::pages::Pages;
use crate::arch::prefetch::prefetch_slice;
use crate::rules::WireId;
use crate::time::Time;
use crate::verdict::DropReason;

/// Entries that a full table looks through for one that has run out, before it evicts.
const LOOK_FOR_EXPIRED: usize = 64;

/// End of a list.
const NONE: u32 = 0xff_ffff;

/// In `previous`: the entry is in neither list.
const UNLISTED: u32 = 0xff_fffe;

/// An entry's neighbours in the two lists of evictable flows: its wire's and everybody's. Numbers of 24 bits. A
/// free entry has the next free one in [`OF_WIRE`]'s place.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Links {
    previous: [[u8; 3]; 2],
    next: [[u8; 3]; 2],
}

#[inline(always)]
fn pack(number: u32) -> [u8; 3] {
    let [low, middle, high, _] = number.to_le_bytes();
    [low, middle, high]
}

#[inline(always)]
fn unpack([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
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

/// Keeps the free entries, counts flows per wire, and keeps evictable ones in the order in which they became so, linked
/// through an array beside the entries: one step to take or to evict one, whatever the number. All of fixed size.
pub(super) struct Shares {
    links: Pages<Links>,
    /// The free entry to be taken next.
    first_free: u32,
    free: u32,
    evictable: Ends,
    /// Open addressing by the wire's number, which we choose ourselves.
    shares: Box<[Share]>,
    wires: usize,
    max_wires: usize,
}

impl Shares {
    /// For `capacity` entries, of which none is free yet.
    pub(super) fn new(capacity: usize, max_wires: usize) -> Self {
        let share = Share { wire: WireId(0), flows: 0, evictable: EMPTY };
        Shares {
            links: Pages::zeroed(capacity),
            first_free: NONE,
            free: 0,
            evictable: EMPTY,
            shares: vec![share; (max_wires.max(2) * 2).next_power_of_two()].into_boxed_slice(),
            wires: 0,
            max_wires,
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.links[..]) + size_of_val(&self.shares[..])
    }

    /// Free entries.
    #[inline]
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// The free entry to be taken next: the one that was freed last.
    #[inline]
    pub(super) fn first_free(&self) -> Option<u32> {
        (self.first_free != NONE).then_some(self.first_free)
    }

    /// Takes [`Shares::first_free`], which is in no list then.
    #[inline]
    pub(super) fn take_free(&mut self) {
        if let Some(links) = self.links.get(self.first_free as usize) {
            self.first_free = unpack(links.next[OF_WIRE]);
            self.free -= 1;
            prefetch_slice(&self.links, self.first_free as usize);
        }
    }

    /// Makes an entry free, which must be in no list.
    #[inline]
    pub(super) fn give_free(&mut self, entry: u32) {
        self.links[entry as usize] = Links { previous: [pack(UNLISTED); 2], next: [pack(self.first_free), pack(NONE)] };
        self.first_free = entry;
        self.free += 1;
    }

    /// Notes that an entry is in use, and in no list, without its having been free: when a table is rebuilt.
    pub(super) fn adopt(&mut self, entry: u32) {
        self.links[entry as usize] = Links { previous: [pack(UNLISTED); 2], next: [pack(NONE); 2] };
    }

    /// Where a wire's share is, or would be.
    #[inline]
    fn at(&self, wire: WireId) -> usize {
        let mask = self.shares.len() - 1;
        let mut at = Self::home(wire) & mask;
        // Ends: at most half of the places are taken.
        while self.shares[at].flows > 0 && self.shares[at].wire != wire {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn home(wire: WireId) -> usize {
        (wire.0.wrapping_mul(0x9e37_79b1) >> 8) as usize
    }

    /// Flows of a wire.
    #[inline]
    pub(super) fn flows(&self, wire: WireId) -> u32 {
        self.shares[self.at(wire)].flows
    }

    /// Whether a flow of this wire can be counted: not if too many wires have flows already.
    #[inline]
    pub(super) fn has_room(&self, wire: WireId) -> bool {
        self.wires < self.max_wires || self.flows(wire) > 0
    }

    /// Counts a flow. Only after [`Shares::has_room`].
    #[inline]
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
    #[inline]
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
    #[inline]
    pub(super) fn is_listed(&self, entry: u32) -> bool {
        unpack(self.links[entry as usize].previous[OF_ALL]) != UNLISTED
    }

    /// Lists an entry as the newest evictable one. Its flow must be counted.
    #[inline]
    pub(super) fn list(&mut self, wire: WireId, entry: u32) {
        let at = self.at(wire);
        Self::append(&mut self.links, &mut self.shares[at].evictable, OF_WIRE, entry);
        Self::append(&mut self.links, &mut self.evictable, OF_ALL, entry);
    }

    /// Takes an entry from the lists.
    #[inline]
    pub(super) fn unlist(&mut self, wire: WireId, entry: u32) {
        let at = self.at(wire);
        Self::unlink(&mut self.links, &mut self.shares[at].evictable, OF_WIRE, entry);
        Self::unlink(&mut self.links, &mut self.evictable, OF_ALL, entry);
        self.links[entry as usize].previous = [pack(UNLISTED); 2];
    }

    /// The evictable entry of this wire that is the oldest.
    #[inline]
    pub(super) fn oldest_of(&self, wire: WireId) -> Option<u32> {
        let share = &self.shares[self.at(wire)];
        (share.flows > 0 && share.evictable.first != NONE).then_some(share.evictable.first)
    }

    /// The evictable entry of all wires that is the oldest.
    #[inline]
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.evictable.first != NONE).then_some(self.evictable.first)
    }

    /// The entry that is the oldest once this one, which is the oldest now, is gone; its links are asked for.
    #[inline]
    pub(super) fn after_oldest(&self, entry: u32) -> Option<u32> {
        let next = unpack(self.links[entry as usize].next[OF_ALL]);
        prefetch_slice(&self.links, next as usize);
        (next != NONE).then_some(next)
    }

    #[inline]
    fn append(links: &mut [Links], ends: &mut Ends, list: usize, entry: u32) {
        let old = ends.last;
        links[entry as usize].previous[list] = pack(old);
        links[entry as usize].next[list] = pack(NONE);
        match old {
            NONE => ends.first = entry,
            old => links[old as usize].next[list] = pack(entry),
        }
        ends.last = entry;
    }

    #[inline]
    fn unlink(links: &mut [Links], ends: &mut Ends, list: usize, entry: u32) {
        let Links { previous, next } = links[entry as usize];
        let (previous, next) = (unpack(previous[list]), unpack(next[list]));
        match previous {
            NONE => ends.first = next,
            previous => links[previous as usize].next[list] = pack(next),
        }
        match next {
            NONE => ends.last = previous,
            next => links[next as usize].previous[list] = pack(previous),
        }
    }
}

#[cfg(test)]
impl Shares {
    /// All free entries.
    pub(super) fn free_entries(&self) -> Vec<u32> {
        let next = |entry: &u32| Some(unpack(self.links[*entry as usize].next[OF_WIRE])).filter(|next| *next != NONE);
        std::iter::successors(self.first_free(), next).collect()
    }
}

impl FlowTable {
    /// Sees to it that a flow of this wire can be added.
    #[inline]
    pub(super) fn make_room(&mut self, wire: WireId, now: Time) -> Result<(), DropReason> {
        let quota = self.config().wire_quota;
        if quota > 0 && self.shares.flows(wire) >= quota {
            let own = self.shares.oldest_of(wire).ok_or(DropReason::FlowQuota)?;
            self.remove(FlowRef(own));
        }
        if self.shares.free() == 0 {
            self.expire(LOOK_FOR_EXPIRED, now);
        }
        if self.shares.free() == 0 {
            let oldest = self.shares.oldest_of(wire).or_else(|| self.shares.oldest());
            self.remove(FlowRef(oldest.ok_or(DropReason::FlowTableFull)?));
            self.prefetch_oldest();
        }
        if self.shares.has_room(wire) { Ok(()) } else { Err(DropReason::FlowTableFull) }
    }

    /// Asks for the memory that the next eviction will need: a full table evicts again soon.
    fn prefetch_oldest(&self) {
        if let Some(oldest) = self.shares.oldest() {
            self.prefetch_index(self.hash(self.entry(FlowRef(oldest)).key()));
            if let Some(next) = self.shares.after_oldest(oldest) {
                prefetch_slice(&self.region().entries, next as usize);
            }
        }
    }
}
