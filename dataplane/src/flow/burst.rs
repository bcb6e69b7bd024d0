//! Many flows at once: the memory that a burst's look-ups will read is asked for before any of them reads it.
//!
//! ```text
//!  pass 1, every frame:  key, hash, prefetch_index
//!  pass 2, every frame:  prefetch_entry           (reads the index, asks for the candidate's entry)
//!  pass 3, every frame:  find_hashed, then track, or insert_hashed
//! ```
//! The hints may be left out or be wrong (an insert of the same burst moves things): only time is lost then.

use super::{FlowHash, FlowKey, FlowRef, FlowTable};
use crate::arch::prefetch::prefetch_slice;
use crate::time::Time;

/// Look-ups in flight at once in [`FlowTable::find_burst`]: about as many misses as a core can wait for.
const IN_FLIGHT: usize = 32;

/// Beyond every table's last entry.
const NO_CANDIDATE: u32 = u32::MAX;

impl FlowTable {
    /// Asks for the line of the index where the search for this hash begins.
    #[inline]
    pub fn prefetch_index(&self, hash: FlowHash) {
        self.index.prefetch(hash.0);
    }

    /// Reads the index, asked for before with [`FlowTable::prefetch_index`], and asks for the entry that it names.
    #[inline]
    pub fn prefetch_entry(&self, hash: FlowHash) {
        if let Some(number) = self.index.candidate(hash.0) {
            prefetch_slice(self.region().entries(), number as usize);
        }
    }

    /// The flows of many keys: `found[i]` is what [`FlowTable::find`] says of `keys[i]` at this time. Keys beyond the
    /// end of `found` are not looked at.
    pub fn find_burst(&self, keys: &[FlowKey], now: Time, found: &mut [Option<FlowRef>]) {
        for (keys, found) in keys.chunks(IN_FLIGHT).zip(found.chunks_mut(IN_FLIGHT)) {
            let mut hashes = [FlowHash(0); IN_FLIGHT];
            for (key, hash) in keys.iter().zip(&mut hashes) {
                *hash = self.hash(key);
                self.prefetch_index(*hash);
            }
            let mut candidates = [NO_CANDIDATE; IN_FLIGHT];
            for (hash, candidate) in hashes[..keys.len()].iter().zip(&mut candidates) {
                *candidate = self.index.candidate(hash.0).unwrap_or(NO_CANDIDATE);
                prefetch_slice(self.region().entries(), *candidate as usize);
            }
            for (at, (key, found)) in keys.iter().zip(found).enumerate() {
                let candidate = self.region().entries().get(candidates[at] as usize);
                let flow = match candidate {
                    Some(entry) if entry.key() == key => Some(FlowRef(candidates[at])),
                    _ => self.find_key(key, hashes[at]),
                };
                *found = flow.filter(|flow| !self.entry(*flow).is_expired(now));
            }
        }
    }
}
