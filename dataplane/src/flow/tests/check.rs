//! The table's parts held against each other.

use std::collections::{HashMap, HashSet};

use super::*;

impl FlowTable {
    /// The most buckets of the index that the search for an entry passes.
    pub(super) fn longest_probe(&self) -> usize {
        let live = self.region().entries().iter().zip(0..).filter(|(entry, _)| entry.state() != FlowState::Free);
        live.filter_map(|(entry, number)| self.index.passes(self.hash(entry.key()).0, number)).max().unwrap_or(0)
    }

    /// Holds the table's parts against each other.
    pub(super) fn check(&self) {
        let mut wires = HashMap::new();
        let unused: HashSet<u32> = self.shares.free_entries().into_iter().collect();
        let mut passes = 0;
        for number in 0..self.capacity() as u32 {
            let entry = self.entry(FlowRef(number));
            let free = unused.contains(&number);
            assert_eq!(free, entry.state() == FlowState::Free, "entry {number} is free or not");
            if free {
                assert!(!self.shares.is_listed(number));
                continue;
            }
            assert!(number < self.used && entry.is_sound());
            assert_eq!(self.find_key(entry.key(), self.hash(entry.key())), Some(FlowRef(number)));
            assert_eq!(self.shares.is_listed(number), entry.is_evictable(), "{entry:?}");
            assert!(self.sweep.earliest <= entry.expires || number < self.sweep.hand || self.sweep.hand > 0);
            passes += self.index.passes(self.hash(entry.key()).0, number).unwrap();
            *wires.entry(entry.key().wire()).or_insert(0) += 1;
        }
        assert_eq!((self.len() + unused.len(), unused.len()), (self.capacity(), self.shares.free() as usize));
        assert_eq!(passes, self.index.overflows(), "every bucket that an entry passed counts it");
        assert_eq!(wires.values().sum::<u32>(), self.len);
        assert!(wires.iter().all(|(wire, flows)| self.wire_flows(*wire) == *flows));
    }
}
