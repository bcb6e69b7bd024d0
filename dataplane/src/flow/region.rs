//! [`FlowRegion`].

use std::io;
use std::os::fd::AsFd;

use bytemuck::{Pod, Zeroable};

use super::{FlowDetail, FlowEntry, Index, JudgedPeer};
use crate::arch::pages::Pages;

/// Entries for each [`JudgedPeer`] that a region has room for.
const ENTRIES_PER_PEER: usize = 16;

/// Where the content of a file begins: behind the header, at a page's border.
const HEADER: u64 = 4096;

/// The first bytes of a file of flows.
const MAGIC: [u8; 8] = *b"penflows";

/// Raised with every change of what an entry's bytes mean.
const LAYOUT: u32 = 1;

/// What a file of flows begins with. Any other first bytes than this program's own mean that what follows is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    layout: u32,
    sizes: [u32; 3],
    capacity: u64,
}

impl Header {
    fn new(capacity: usize) -> Header {
        let sizes = [size_of::<FlowEntry>(), size_of::<FlowDetail>(), size_of::<JudgedPeer>()].map(|size| size as u32);
        Header { magic: MAGIC, layout: LAYOUT, sizes, capacity: capacity as u64 }
    }
}

/// The offsets of the three slices, and the length of the file.
fn offsets(capacity: usize) -> [u64; 4] {
    let mut at = HEADER;
    let bytes = [
        capacity * size_of::<FlowEntry>(),
        capacity * size_of::<FlowDetail>(),
        peers(capacity) * size_of::<JudgedPeer>(),
    ];
    let starts = bytes.map(|bytes| {
        let start = at;
        at += (bytes as u64).next_multiple_of(HEADER);
        start
    });
    [starts[0], starts[1], starts[2], at]
}

fn peers(capacity: usize) -> usize {
    (capacity / ENTRIES_PER_PEER).max(ENTRIES_PER_PEER)
}

/// The memory of a table's entries, given by the caller: anonymous memory, in huge pages where it is large
/// enough, or a file that outlives the process. A table keeps nothing else that it cannot rebuild.
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
            peers: Pages::zeroed(peers(capacity)),
        }
    }

    /// How long a file for so many flows has to be.
    pub fn file_length(capacity: usize) -> u64 {
        offsets(capacity)[3]
    }

    /// A file's content as a region for `capacity` flows, and whether it holds flows of before, to be adopted
    /// ([`super::FlowTable::adopt`]). A file of another layout or capacity is begun anew. The file is at least
    /// [`FlowRegion::file_length`] long, stays so, and is this process's alone while the region lives.
    ///
    /// # Errors
    /// When the file is too short, somebody else has it, or it cannot be mapped.
    pub fn shared(file: impl AsFd, capacity: usize) -> io::Result<(Self, bool)> {
        assert!(capacity > 0 && capacity <= Self::MAX_CAPACITY, "a flow table has 1 to 2^24 - 2 entries");
        let file = file.as_fd();
        let [entries, details, judged, _] = offsets(capacity);
        let mut header = Pages::<Header>::shared(file, 0, 1)?;
        let mut region = FlowRegion {
            entries: Pages::shared(file, entries, capacity)?,
            details: Pages::shared(file, details, capacity)?,
            peers: Pages::shared(file, judged, peers(capacity))?,
        };
        let is_known = header[0] == Header::new(capacity);
        if !is_known {
            // Emptied first: whoever dies in between leaves a file that is begun anew again.
            region.entries_mut().fill(FlowEntry::zeroed());
            header[0] = Header::new(capacity);
        }
        Ok((region, is_known))
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(capacity: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(FlowRegion::file_length(capacity)).unwrap();
        file
    }

    fn reopened(file: &tempfile::NamedTempFile) -> File {
        file.reopen().unwrap()
    }

    #[test]
    fn what_is_written_is_found_again_by_the_next_and_by_one_at_a_time() {
        let file = file(100);
        let (mut region, is_known) = FlowRegion::shared(reopened(&file), 100).unwrap();
        assert!(!is_known, "an empty file holds no flows");
        region.details_mut()[99].judged = 7;
        let descriptor = reopened(&file);
        assert!(FlowRegion::shared(&descriptor, 100).is_err(), "somebody has it");
        drop(region);
        let (region, is_known) = FlowRegion::shared(OwnedFd::from(descriptor), 100).unwrap();
        assert!(is_known);
        assert_eq!(region.details()[99].judged, 7);
    }

    #[test]
    fn a_file_of_another_kind_is_begun_anew_and_a_short_one_refused() {
        for (at, byte) in [(0, b'x'), (8, 99), (24, 1)] {
            let file = file(100);
            drop(FlowRegion::shared(reopened(&file), 100).unwrap());
            file.as_file().write_at(&[byte], at).unwrap();
            assert!(!FlowRegion::shared(reopened(&file), 100).unwrap().1, "byte {at}");
            assert!(FlowRegion::shared(reopened(&file), 100).unwrap().1, "begun anew");
        }
        assert!(FlowRegion::shared(reopened(&file(100)), 10_000).is_err());
    }
}
