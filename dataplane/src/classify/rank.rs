//! A bitmap that counts: how many bits are set up to a position, in constant time.

use std::sync::Arc;

/// Sixty-four bits, beside the count of all bits set before them: one cache line answers a question.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    bits: u64,
    before: u32,
}

/// A set of small numbers with rank. Clones share their memory until one of them grows.
#[derive(Clone, Debug)]
pub(super) struct RankBitmap {
    words: Arc<[Word]>,
}

impl RankBitmap {
    /// The set of `ones`, each below `length`; any order, repeats are one.
    pub(super) fn new(ones: impl IntoIterator<Item = u32>, length: u32) -> Self {
        let mut words = vec![Word::default(); length.div_ceil(64) as usize];
        for one in ones {
            words[one as usize / 64].bits |= 1 << (one % 64);
        }
        let mut before = 0;
        for word in &mut words {
            word.before = before;
            before += word.bits.count_ones();
        }
        RankBitmap { words: words.into() }
    }

    /// Puts in a number that is larger than all others.
    pub(super) fn push(&mut self, one: u32) {
        let before = self.words.last().map_or(0, |word| word.before + word.bits.count_ones());
        let missing = (one as usize / 64 + 1).saturating_sub(self.words.len());
        let mut words: Vec<Word> = Vec::with_capacity(self.words.len() + missing);
        words.extend_from_slice(&self.words);
        words.extend(std::iter::repeat_n(Word { bits: 0, before }, missing));
        if let Some(word) = words.last_mut() {
            word.bits |= 1 << (one % 64);
        }
        self.words = words.into();
    }

    /// How many numbers of the set are at most `position`, which is below the length.
    pub(super) fn through(&self, position: u32) -> u32 {
        let word = self.words[position as usize / 64];
        word.before + (word.bits & (u64::MAX >> (63 - position % 64))).count_ones()
    }

    /// How many numbers of the set are smaller than `position`, if it is one of them. Beyond the length nothing is.
    pub(super) fn index_of(&self, position: u32) -> Option<u32> {
        let word = self.words.get(position as usize / 64)?;
        let bit = 1 << (position % 64);
        (word.bits & bit != 0).then(|| word.before + (word.bits & (bit - 1)).count_ones())
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_that_grew_is_the_one_that_was_made_at_once() {
        let ones = [3, 64, 65, 200, 511];
        let mut grown = RankBitmap::new([], 0);
        for one in ones {
            let before = grown.clone();
            grown.push(one);
            assert_eq!(before.index_of(one), None, "a clone does not grow along");
        }
        let made = RankBitmap::new(ones, 512);
        for position in 0..600 {
            assert_eq!(grown.index_of(position), made.index_of(position), "{position}");
        }
    }

    #[test]
    fn counts_agree_with_a_sorted_list() {
        let ones = [0, 1, 63, 64, 127, 128, 200, 319];
        let bitmap = RankBitmap::new(ones, 320);
        for position in 0..320 {
            let through = ones.iter().filter(|&&one| one <= position).count() as u32;
            assert_eq!(bitmap.through(position), through, "{position}");
            let index = ones.iter().position(|&one| one == position).map(|index| index as u32);
            assert_eq!(bitmap.index_of(position), index, "{position}");
        }
        assert_eq!(bitmap.index_of(320), None);
        assert_eq!(RankBitmap::new([], 0).index_of(0), None);
    }
}
