//! [`FlowRegion`].

use bytemuck::Zeroable;

use super::FlowEntry;

/// The memory of a table's entries, given by the caller. Ordinary memory now; whatever can be seen as a slice of
/// [`FlowEntry`] (a shared file that outlives the process) can stand behind it, since a table keeps nothing else that
/// it cannot rebuild.
pub struct FlowRegion(Box<[FlowEntry]>);

impl FlowRegion {
    /// Ordinary memory for `capacity` flows, all free.
    ///
    /// # Panics
    /// If `capacity` is 0 or does not fit an entry's number: a mistake of the configuration.
    pub fn heap(capacity: usize) -> Self {
        assert!(capacity > 0 && capacity < (u32::MAX / 4) as usize, "a flow table has 1 to 2^30 entries");
        FlowRegion(vec![FlowEntry::zeroed(); capacity].into_boxed_slice())
    }

    /// The entries.
    pub fn entries(&self) -> &[FlowEntry] {
        &self.0
    }

    /// The entries, to be changed.
    pub fn entries_mut(&mut self) -> &mut [FlowEntry] {
        &mut self.0
    }
}

impl std::fmt::Debug for FlowRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlowRegion({} entries)", self.0.len())
    }
}
