//! [`Datagram`]: what is kept of a datagram in pieces.

use bytemuck::Zeroable;

use super::held::HeldList;
use super::{DatagramKey, Ranges};
use crate::packet::Tuple;
use crate::verdict::DropReason;

/// The most fragments of a datagram.
pub(super) const MAX_RANGES: usize = 128;

/// A datagram of which fragments have been seen.
pub(super) struct Datagram {
    pub(super) key: DatagramKey,
    pub(super) hash: u64,
    /// Counts the datagrams that have been in this place.
    pub(super) generation: u32,
    /// The first fragment's tuple, once that has come.
    pub(super) tuple: Option<Tuple>,
    /// Frames that wait for it.
    pub(super) held: HeldList,
    /// What was seen, in order, without overlaps.
    ranges: Ranges,
    /// Bytes that were seen.
    seen: u32,
    /// The datagram's end, once the last fragment has come.
    end: Option<u16>,
    /// Why nothing more of it may pass.
    poison: Option<DropReason>,
}

impl Default for Datagram {
    fn default() -> Self {
        Datagram {
            key: DatagramKey::zeroed(),
            hash: 0,
            generation: 0,
            tuple: None,
            held: HeldList::default(),
            ranges: Ranges::new(),
            seen: 0,
            end: None,
            poison: None,
        }
    }
}

impl Datagram {
    /// Begins with a datagram of which nothing has been seen.
    pub(super) fn begin(&mut self, key: DatagramKey, hash: u64) {
        (self.key, self.hash, self.tuple, self.end, self.poison, self.seen) = (key, hash, None, None, None, 0);
        self.ranges.clear();
    }

    /// Whether nothing more of it may pass.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Whether all bytes have been seen.
    pub(super) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.seen == u32::from(end)) && self.poison.is_none()
    }

    /// Takes a fragment's range. A contradiction poisons the datagram (RFC 5722: it is dropped, with the fragments
    /// that have not come yet).
    pub(super) fn add(&mut self, range: (u16, u16), more: bool) -> Result<(), DropReason> {
        if let Some(reason) = self.poison {
            return Err(reason);
        }
        let (start, end) = range;
        let at = self.ranges.partition_point(|seen| seen.0 < start);
        if self.ranges.get(at) == Some(&range) {
            return Err(DropReason::FragmentDuplicate);
        }
        let overlaps = self.ranges[..at].last().is_some_and(|before| before.1 > start)
            || self.ranges.get(at).is_some_and(|behind| behind.0 < end);
        if overlaps {
            return Err(self.poison(DropReason::FragmentOverlap));
        }
        // Without an overlap, what comes behind the last fragment, or before another as the last, contradicts it.
        let beyond =
            if more { self.end.is_some_and(|last| end > last) } else { self.end.is_some() || at < self.ranges.len() };
        if beyond {
            return Err(self.poison(DropReason::FragmentLength));
        }
        if self.ranges.is_full() {
            return Err(DropReason::FragmentOverflow);
        }
        self.ranges.insert(at, range);
        self.seen += u32::from(end - start);
        if !more {
            self.end = Some(end);
        }
        Ok(())
    }

    fn poison(&mut self, reason: DropReason) -> DropReason {
        self.poison = Some(reason);
        reason
    }
}
