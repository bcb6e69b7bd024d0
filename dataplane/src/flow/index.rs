//! [`Index`]: from a hash to an entry's number.

use bytemuck::{Pod, Zeroable};

use crate::arch::prefetch::prefetch_slice;

/// One place of the index; all zeros when it is empty.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Slot {
    /// The hash, whose low bits say where the slot would like to be.
    hash: u32,
    /// The entry's number plus one.
    entry: u32,
}

/// Open addressing with linear probing in one flat array, at most half full, of a size fixed at construction. Eight
/// slots share a cache line, and a slot carries 32 bits of the hash, so a look-up reads about one line of
/// the index and one entry. Removal shifts back what follows, so there are no tombstones that pile up.
///
/// Hashes come from a keyed function; [`Index::PROBE_LIMIT`] bounds what is left to who guesses the key.
pub(crate) struct Index {
    slots: Box<[Slot]>,
    mask: usize,
}

impl Index {
    /// The farthest from its place that an entry is put: no look-up goes beyond.
    pub(crate) const PROBE_LIMIT: usize = 256;

    /// An index for at most `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        let size = (capacity.max(4) * 2).next_power_of_two();
        Index { slots: vec![Slot::zeroed(); size].into_boxed_slice(), mask: size - 1 }
    }

    /// The entry with this hash for which `matches` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let home = hash as usize;
        for step in 0..=Self::PROBE_LIMIT.min(self.mask) {
            let slot = self.slots[(home + step) & self.mask];
            if slot.entry == 0 {
                return None;
            }
            if slot.hash == hash && matches(slot.entry - 1) {
                return Some(slot.entry - 1);
            }
        }
        None
    }

    /// Asks for the memory where the search for this hash begins.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u32) {
        prefetch_slice(&self.slots, hash as usize & self.mask);
    }

    /// Adds an entry that is not there yet. False when no place is free near enough.
    pub(crate) fn insert(&mut self, hash: u32, entry: u32) -> bool {
        let home = hash as usize;
        for step in 0..=Self::PROBE_LIMIT.min(self.mask) {
            let slot = &mut self.slots[(home + step) & self.mask];
            if slot.entry == 0 {
                *slot = Slot { hash, entry: entry + 1 };
                return true;
            }
        }
        false
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, hash: u32, entry: u32) {
        let home = hash as usize;
        let Some(step) = (0..=Self::PROBE_LIMIT.min(self.mask))
            .find(|step| self.slots[(home + step) & self.mask].entry == entry + 1)
        else {
            return;
        };
        let mut hole = (home + step) & self.mask;
        let mut next = hole;
        loop {
            next = (next + 1) & self.mask;
            let slot = self.slots[next];
            if slot.entry == 0 {
                break;
            }
            // A slot may move back into the hole unless that lies before its home.
            let from_home = next.wrapping_sub(slot.hash as usize) & self.mask;
            let from_hole = next.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.slots[hole] = slot;
                hole = next;
            }
        }
        self.slots[hole] = Slot::zeroed();
    }

    /// How far the entry farthest from its place is from it.
    #[cfg(test)]
    pub(crate) fn longest_probe(&self) -> usize {
        let distance = |(at, slot): (usize, &Slot)| at.wrapping_sub(slot.hash as usize) & self.mask;
        self.slots.iter().enumerate().filter(|(_, slot)| slot.entry != 0).map(distance).max().unwrap_or(0)
    }
}
