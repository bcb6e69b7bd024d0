//! From overlapping sets of numbers to disjoint ranges, each with a *class*: the same class for all numbers that are in
//! exactly the same sets. One sweep over the sorted ends of all ranges, so that the cost follows the ranges and not
//! ranges × sets; addresses and services (protocol and port as one number) are both numbers here.

use std::collections::HashMap;
use std::sync::Arc;

use super::CompileError;

/// Which sets a class is in: the words that are not zero of a bit vector over all sets, as (index, word), in order.
pub(super) type Members = [(u32, u64)];

/// From `first` to the next cut, all numbers are of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) first: u128,
    pub(super) class: u32,
}

/// Ends of ranges in one partition. It bounds every index that follows from them to 31 bits.
const MAX_ENDS: usize = 1 << 26;

/// The classes found so far, by what they are in; a class keeps its number. Class 0 is in no set.
#[derive(Debug)]
pub(super) struct Classes {
    members: Vec<Arc<Members>>,
    numbers: HashMap<Arc<Members>, u32>,
}

impl Classes {
    pub(super) fn new() -> Self {
        let mut classes = Classes { members: Vec::new(), numbers: HashMap::new() };
        classes.number(&[]);
        classes
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.members.len() as u32
    }

    /// Which sets each class is in, by number.
    pub(super) fn members(&self) -> impl Iterator<Item = &Members> {
        self.members.iter().map(|members| &**members)
    }

    /// Which sets a class is in.
    pub(super) fn of(&self, class: u32) -> &Members {
        &self.members[class as usize]
    }

    /// The class of what is in exactly these sets.
    pub(super) fn number(&mut self, members: &Members) -> u32 {
        if let Some(&number) = self.numbers.get(members) {
            return number;
        }
        let number = self.len();
        let members: Arc<Members> = members.into();
        self.members.push(Arc::clone(&members));
        self.numbers.insert(members, number);
        number
    }

    /// Cuts the numbers from `first` to `last` wherever a set begins or ends; neighbouring cuts differ in class, and the
    /// first one is at `first`. Each of the `sets` is a list of disjoint ranges, ends included.
    pub(super) fn partition<'a>(
        &mut self,
        sets: impl IntoIterator<Item = &'a [(u128, u128)]>,
        first: u128,
        last: u128,
    ) -> Result<Vec<Cut>, CompileError> {
        let ends = sorted_ends(sets, first, last)?;
        let mut current: Vec<(u32, u64)> = Vec::new();
        let mut cuts = Vec::new();
        let mut rest = ends.as_slice();
        let mut at = first;
        loop {
            let here = rest.iter().take_while(|end| end.0 == at).count();
            for &(_, set) in &rest[..here] {
                toggle(&mut current, set);
            }
            rest = &rest[here..];
            let class = self.number(&current);
            if cuts.last().is_none_or(|cut: &Cut| cut.class != class) {
                cuts.push(Cut { first: at, class });
            }
            match rest.first() {
                Some(&(next, _)) => at = next,
                None => return Ok(cuts),
            }
        }
    }
}

/// Where sets begin, and the numbers just after their ends, with the set's number: at each the set changes sides.
fn sorted_ends<'a>(
    sets: impl IntoIterator<Item = &'a [(u128, u128)]>,
    first: u128,
    last: u128,
) -> Result<Vec<(u128, u32)>, CompileError> {
    let mut ends = Vec::new();
    for (set, ranges) in (0..).zip(sets) {
        let from = ranges.partition_point(|&(_, end)| end < first);
        for &(start, end) in ranges[from..].iter().take_while(|&&(start, _)| start <= last) {
            if start > end {
                continue;
            }
            ends.push((start.max(first), set));
            if end < last {
                ends.push((end + 1, set));
            }
        }
        if ends.len() > MAX_ENDS {
            return Err(CompileError::TooManyRanges { limit: MAX_ENDS / 2 });
        }
    }
    ends.sort_unstable();
    Ok(ends)
}

/// Puts a set into the bit vector, or takes it out.
pub(super) fn toggle(members: &mut Vec<(u32, u64)>, set: u32) {
    let (word, bit) = (set / 64, 1 << (set % 64));
    match members.binary_search_by_key(&word, |&(index, _)| index) {
        Ok(place) => {
            members[place].1 ^= bit;
            if members[place].1 == 0 {
                members.remove(place);
            }
        }
        Err(place) => members.insert(place, (word, bit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_where_membership_changes_and_nowhere_else() {
        let (a, b, c) = ([(10, 19), (30, 39)], [(15, 34)], [(40, 49)]);
        let sets: [&[(u128, u128)]; 3] = [&a, &b, &c];
        let mut classes = Classes::new();
        let cuts = classes.partition(sets, 0, 49).unwrap();
        let members: Vec<Vec<(u32, u64)>> = classes.members().map(|members| members.to_vec()).collect();
        let seen: Vec<(u128, &[(u32, u64)])> =
            cuts.iter().map(|cut| (cut.first, members[cut.class as usize].as_slice())).collect();
        let expected: [(u128, &[(u32, u64)]); 7] = [
            (0, &[]),
            (10, &[(0, 0b001)]),
            (15, &[(0, 0b011)]),
            (20, &[(0, 0b010)]),
            (30, &[(0, 0b011)]),
            (35, &[(0, 0b001)]),
            (40, &[(0, 0b100)]),
        ];
        assert_eq!(seen, expected);
        assert_eq!(classes.len(), 5, "equal members are one class");
    }

    #[test]
    fn a_window_sees_only_its_part() {
        let all: &[(u128, u128)] = &[(0, u128::MAX)];
        let one: &[(u128, u128)] = &[(7, 7)];
        let mut classes = Classes::new();
        let cuts = classes.partition([all, one], 7, 8).unwrap();
        assert_eq!(cuts.iter().map(|cut| cut.first).collect::<Vec<_>>(), [7, 8]);
        let whole = classes.partition([all, one], 0, u128::MAX).unwrap();
        assert_eq!(whole.iter().map(|cut| cut.first).collect::<Vec<_>>(), [0, 7, 8]);
        assert_eq!((whole[1].class, whole[2].class), (cuts[0].class, cuts[1].class));
    }
}
