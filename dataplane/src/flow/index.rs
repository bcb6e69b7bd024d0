//! [`Index`]: from a hash to an entry's number.

use bytemuck::{Pod, Zeroable};

use crate::arch::pages::Pages;
use crate::arch::prefetch::prefetch_slice;
use crate::arch::tags::equal_bytes;

/// Entries of one bucket.
const SLOTS: usize = 15;

/// The bits of [`Bucket::tags`] that are slots.
const SLOT_MASK: u32 = (1 << SLOTS) - 1;

/// The tag of an empty slot.
const EMPTY: u8 = 0;

/// A cache line of the index.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Bucket {
    /// Eight bits of each entry's hash, never 0; 0 where a slot is empty. The sixteenth stays 0.
    tags: [u8; 16],
    /// The entries' numbers.
    numbers: [[u8; 3]; SLOTS],
    unused: u8,
    /// Entries that did not find room here and went on to a later bucket; at its maximum it stays there.
    overflow: u16,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Where a hash is looked for: a tag, and a sequence of buckets.
#[derive(Clone, Copy)]
struct Probe {
    tag: u8,
    bucket: usize,
    step: usize,
}

/// Open addressing with buckets of one cache line, of a number fixed at construction, at most three quarters full. One
/// comparison finds the slots whose tag fits, so that a look-up reads about one line of the index and one entry.
/// What finds its bucket full goes on by a step of its own (double hashing) and is counted by the buckets that it passed:
/// a look-up ends at the first bucket that none has passed, and a removal takes its counts with it. There are no
/// tombstones. (The scheme of F14, "Open-sourcing F14 for faster, more memory-efficient hash tables", Facebook 2019.)
///
/// Hashes come from a keyed function; [`Index::PROBE_LIMIT`] bounds what is left to who guesses the key.
pub(crate) struct Index {
    buckets: Pages<Bucket>,
}

impl Index {
    /// The most buckets that a look-up reads.
    pub(crate) const PROBE_LIMIT: usize = 16;

    /// The largest number of an entry, plus one.
    pub(crate) const MAX_ENTRIES: usize = 1 << 24;

    /// An index for at most `capacity` entries with numbers below [`Index::MAX_ENTRIES`].
    pub(crate) fn new(capacity: usize) -> Self {
        // A prime, so that every step leads through all buckets.
        let buckets = ((capacity * 4).div_ceil(SLOTS * 3)..).find(|number| is_prime(*number)).unwrap_or(2);
        Index { buckets: Pages::zeroed(buckets) }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.buckets[..])
    }

    /// The upper half of the hash chooses the bucket, the next 24 bits the step, the last 8 the tag.
    #[inline(always)]
    fn probe(&self, hash: u64) -> Probe {
        let buckets = self.buckets.len() as u64;
        let bucket = ((hash >> 32) * buckets) >> 32;
        let step = 1 + (((hash >> 8 & 0xff_ffff) * (buckets - 1)) >> 24);
        Probe { tag: (hash as u8).max(EMPTY + 1), bucket: bucket as usize, step: step as usize }
    }

    #[inline(always)]
    fn advance(&self, probe: &mut Probe) {
        probe.bucket += probe.step;
        if probe.bucket >= self.buckets.len() {
            probe.bucket -= self.buckets.len();
        }
    }

    #[inline(always)]
    fn limit(&self) -> usize {
        Self::PROBE_LIMIT.min(self.buckets.len())
    }

    /// The entry with this hash for which `matches` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut probe = self.probe(hash);
        for _ in 0..self.limit() {
            let bucket = &self.buckets[probe.bucket];
            let mut fitting = equal_bytes(&bucket.tags, probe.tag);
            while fitting != 0 {
                let number = bucket.number(fitting.trailing_zeros() as usize);
                if matches(number) {
                    return Some(number);
                }
                fitting &= fitting - 1;
            }
            if bucket.overflow == 0 {
                return None;
            }
            self.advance(&mut probe);
        }
        None
    }

    /// The first entry whose tag fits, in the first bucket: nearly always the one that [`Index::find`] finds.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: u64) -> Option<u32> {
        let probe = self.probe(hash);
        let bucket = &self.buckets[probe.bucket];
        let fitting = equal_bytes(&bucket.tags, probe.tag);
        (fitting != 0).then(|| bucket.number(fitting.trailing_zeros() as usize))
    }

    /// Asks for the line where the search for this hash begins.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch_slice(&self.buckets, self.probe(hash).bucket);
    }

    /// Adds an entry that is not there yet. False when no place is free near enough.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, number: u32) -> bool {
        let first = self.probe(hash);
        let mut probe = first;
        for passed in 0..self.limit() {
            let bucket = &mut self.buckets[probe.bucket];
            let empty = equal_bytes(&bucket.tags, EMPTY) & SLOT_MASK;
            if empty != 0 {
                let slot = empty.trailing_zeros() as usize;
                bucket.tags[slot] = probe.tag;
                let [low, middle, high, _] = number.to_le_bytes();
                bucket.numbers[slot] = [low, middle, high];
                self.pass(first, passed, |overflow| overflow.saturating_add(1));
                return true;
            }
            self.advance(&mut probe);
        }
        false
    }

    /// Removes an entry.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u64, number: u32) {
        let first = self.probe(hash);
        let Some((passed, at, slot)) = self.locate(first, number) else { return };
        self.buckets[at].tags[slot] = EMPTY;
        // A count that has reached its maximum is no longer exact: it stays, and look-ups go on past the bucket.
        self.pass(first, passed, |overflow| if overflow == u16::MAX { overflow } else { overflow.saturating_sub(1) });
    }

    /// Where an entry is: how many buckets its search passes, the bucket, the slot.
    #[inline]
    fn locate(&self, mut probe: Probe, number: u32) -> Option<(usize, usize, usize)> {
        for passed in 0..self.limit() {
            let bucket = &self.buckets[probe.bucket];
            let mut fitting = equal_bytes(&bucket.tags, probe.tag);
            while fitting != 0 {
                let slot = fitting.trailing_zeros() as usize;
                if bucket.number(slot) == number {
                    return Some((passed, probe.bucket, slot));
                }
                fitting &= fitting - 1;
            }
            self.advance(&mut probe);
        }
        None
    }

    /// Changes the counts of the first `passed` buckets of a search.
    #[inline(always)]
    fn pass(&mut self, mut probe: Probe, passed: usize, change: impl Fn(u16) -> u16) {
        for _ in 0..passed {
            let bucket = &mut self.buckets[probe.bucket];
            bucket.overflow = change(bucket.overflow);
            self.advance(&mut probe);
        }
    }

    /// How many buckets the search for an entry passes.
    #[cfg(test)]
    pub(crate) fn passes(&self, hash: u64, number: u32) -> Option<usize> {
        self.locate(self.probe(hash), number).map(|(passed, ..)| passed)
    }

    /// The counts of all buckets together.
    #[cfg(test)]
    pub(crate) fn overflows(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.overflow as usize).sum()
    }
}

impl Bucket {
    #[inline(always)]
    fn number(&self, slot: usize) -> u32 {
        let [low, middle, high] = self.numbers[slot];
        u32::from_le_bytes([low, middle, high, 0])
    }
}

fn is_prime(number: usize) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}
