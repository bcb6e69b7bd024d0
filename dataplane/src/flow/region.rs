//! [`FlowRegion`].

use super::{FlowDetail, FlowEntry, Index, JudgedPeer};
use crate::arch::pages::Pages;

/// Entries for each [`JudgedPeer`] that a region has room for.
const ENTRIES_PER_PEER: usize = 16;

/// The memory of a table's entries, given by the caller: anonymous memory now, in huge pages where it is large
/// enough. Whatever can be seen as these three slices (a shared file that outlives the process) can stand behind it,
/// since a table keeps nothing else that it cannot rebuild.
pub struct FlowRegion {
    pub(super) entries: Pages<FlowEntry>,
    pub(super) details: Pages<FlowDetail>,
    pub(super) peers: Pages<JudgedPeer>,
}

impl FlowRegion {
    /// The most flows that a region may hold: an entry's number has 24 bits, and two numbers are taken.
    pub const MAX_CAPACITY: usize = Index::MAX_ENTRIES - 2;

    /// Memory of the process for `capacity` flows, all free.
    ///
    /// # Panics
    /// If `capacity` is 0 or above [`FlowRegion::MAX_CAPACITY`]: a mistake of the configuration.
    pub fn heap(capacity: usize) -> Self {
        assert!(capacity > 0 && capacity <= Self::MAX_CAPACITY, "a flow table has 1 to 2^24 - 2 entries");
        FlowRegion {
            entries: Pages::zeroed(capacity),
            details: Pages::zeroed(capacity),
            peers: Pages::zeroed((capacity / ENTRIES_PER_PEER).max(ENTRIES_PER_PEER)),
        }
    }

    /// The entries.
    #[inline]
    pub fn entries(&self) -> &[FlowEntry] {
        &self.entries
    }

    /// The entries, to be changed.
    #[inline]
    pub fn entries_mut(&mut self) -> &mut [FlowEntry] {
        &mut self.entries
    }

    /// What belongs to the entries, each at its entry's number.
    #[inline]
    pub fn details(&self) -> &[FlowDetail] {
        &self.details
    }

    /// What belongs to the entries, to be changed.
    #[inline]
    pub fn details_mut(&mut self) -> &mut [FlowDetail] {
        &mut self.details
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.entries[..]) + size_of_val(&self.details[..]) + size_of_val(&self.peers[..])
    }
}

impl std::fmt::Debug for FlowRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlowRegion({} entries)", self.entries.len())
    }
}
