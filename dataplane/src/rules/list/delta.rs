//! What has changed in a list since its base was made.

use super::ListRule;
use crate::classify::list::{Lane, Leaf};

/// A rule that is not in the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    /// The rank of the first rule of the base behind it; the length of the base at its end.
    pub(crate) before: u32,
    /// The rule.
    pub(crate) rule: ListRule,
}

/// Rules removed from the base and rules added to it. Copied for each change: it is kept small.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    /// A bit for each rule of the base; empty while none is removed.
    removed: Vec<u64>,
    removed_count: usize,
    /// In the order of the list.
    added: Vec<Added>,
    /// What those mean of IPv4, with their index for a rank.
    leaf: Leaf,
    /// Whether one of them means anything but IPv4.
    any_wide: bool,
}

impl Delta {
    /// How many rules of the base are removed.
    pub(crate) fn removed_count(&self) -> usize {
        self.removed_count
    }

    /// A bit for each rule of the base, set if it is removed; empty while none is.
    pub(crate) fn removed(&self) -> &[u64] {
        &self.removed
    }

    /// Whether a rule of the base is removed.
    pub(crate) fn is_removed(&self, rank: u32) -> bool {
        self.removed.get(rank as usize / 64).is_some_and(|word| word >> (rank % 64) & 1 == 1)
    }

    /// The rules added, in the order of the list.
    pub(crate) fn added(&self) -> &[Added] {
        &self.added
    }

    /// What the rules added mean of IPv4, with their index in [`Delta::added`] for a rank.
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Whether a rule added means anything but IPv4.
    pub(crate) fn any_wide(&self) -> bool {
        self.any_wide
    }

    /// How many rules are added in front of this rule of the base.
    pub(crate) fn added_until(&self, rank: u32) -> usize {
        self.added.partition_point(|added| added.before <= rank)
    }

    /// How many rules of the base in front of this rank are not removed.
    pub(crate) fn kept_before(&self, rank: u32) -> usize {
        let word = rank as usize / 64;
        let whole: u32 = self.removed.iter().take(word).map(|word| word.count_ones()).sum();
        let part = self.removed.get(word).map_or(0, |bits| (bits & ((1 << (rank % 64)) - 1)).count_ones());
        rank as usize - (whole + part) as usize
    }

    /// The rank of the rule of the base that has so many others in front of it that are not removed.
    pub(crate) fn kept(&self, mut index: usize) -> u32 {
        for (word, &bits) in self.removed.iter().enumerate() {
            let kept = bits.count_zeros() as usize;
            if index < kept {
                let mut left = !bits;
                for _ in 0..index {
                    left &= left - 1;
                }
                return (word * 64) as u32 + left.trailing_zeros();
            }
            index -= kept;
        }
        (self.removed.len() * 64 + index) as u32
    }

    pub(crate) fn add(&mut self, index: usize, before: u32, rule: ListRule) {
        self.added.insert(index, Added { before, rule });
    }

    pub(crate) fn replace_added(&mut self, index: usize, rule: ListRule) {
        self.added[index].rule = rule;
    }

    pub(crate) fn remove_added(&mut self, index: usize) {
        self.added.remove(index);
    }

    /// Removes a rule of a base of so many.
    pub(crate) fn remove_base(&mut self, rank: u32, length: usize) {
        if self.removed.is_empty() {
            self.removed = vec![0; length.div_ceil(64)];
        }
        self.removed[rank as usize / 64] |= 1 << (rank % 64);
        self.removed_count += 1;
    }

    pub(crate) fn memory(&self) -> usize {
        self.removed.capacity() * 8 + self.added.capacity() * size_of::<Added>() + self.leaf.memory()
    }

    /// Makes what lookups read of the rules added. Due after each series of changes to them.
    pub(crate) fn compile(&mut self) {
        let ranked = (0u32..).zip(&self.added);
        self.leaf = Leaf::new(ranked.filter_map(|(index, added)| Some((Lane::v4(&added.rule)?, index))));
        self.any_wide = self.added.iter().any(|added| added.rule.is_wide());
    }
}

impl PartialEq for Delta {
    fn eq(&self, other: &Self) -> bool {
        self.removed == other.removed && self.added == other.added
    }
}
