//! All addresses of a family classed anew: what is fixed by a sweep over the ends of ranges, who is in which group from the
//! classes so far and from the addresses that a change names.

use std::collections::HashMap;

use super::numbering::Sets;
use super::partition::{Classes, Cut, Members, toggle};
use super::{Addresses, CompileError, ports};
use crate::rules::GroupId;

/// The first and the last IPv4 address, as numbers.
pub(super) const V4: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// What was known before.
pub(super) struct Spans<'a> {
    pub(super) classes: &'a Classes,
    pub(super) addresses: &'a Addresses,
    pub(super) sets: &'a Sets,
}

impl Spans<'_> {
    /// The cuts of the addresses from `first` to `last`, in classes that are added to `classes`. Of the `points`, which are
    /// sorted, each address is in exactly the groups that the last one on it names.
    pub(super) fn renumber(
        &self,
        first: u128,
        last: u128,
        points: &[(u128, &[GroupId])],
        classes: &mut Classes,
    ) -> Result<Vec<Cut>, CompileError> {
        let mut fixed_classes = Classes::new();
        let fixed = fixed_classes.partition(self.sets.ranges(), first, last)?;
        let mut group_classes = Classes::new();
        let groups = self.groups(first, last, points, &mut group_classes);
        let mut both = HashMap::new();
        let mut cuts: Vec<Cut> = Vec::with_capacity(fixed.len() + groups.len());
        merge(&fixed, &groups, |first, fixed, group| {
            let class = *both.entry((fixed, group)).or_insert_with(|| {
                let mut members = fixed_classes.of(fixed).to_vec();
                let groups = group_classes.of(group).iter();
                groups.flat_map(|&(word, bits)| ports::ones(word, bits)).for_each(|set| toggle(&mut members, set));
                classes.number(&members)
            });
            if cuts.last().is_none_or(|cut| cut.class != class) {
                cuts.push(Cut { first, class });
            }
        });
        Ok(cuts)
    }

    /// Cut where addresses are in other groups than their neighbours, the fixed sets aside.
    fn groups(&self, first: u128, last: u128, points: &[(u128, &[GroupId])], classes: &mut Classes) -> Vec<Cut> {
        let trie = if (first, last) == V4 { &self.addresses.v4 } else { &self.addresses.v6 };
        let mut known = HashMap::new();
        let mut before = trie.cuts();
        // One cut at or before the first address stays.
        let from = before.partition_point(|cut| cut.first <= first).saturating_sub(1);
        before.drain(..from);
        before.retain(|cut| cut.first <= last);
        for cut in &mut before {
            cut.first = cut.first.max(first);
            cut.class = *known.entry(cut.class).or_insert_with(|| self.groups_of(self.classes.of(cut.class), classes));
        }
        before.dedup_by_key(|cut| cut.class);
        let mut by_groups: HashMap<*const GroupId, u32> = HashMap::new();
        let mut named = Vec::with_capacity(points.len() * 2);
        let to = points.partition_point(|&(address, _)| address <= last);
        let from = points[..to].partition_point(|&(address, _)| address < first);
        named.push(Cut { first, class: NOT_NAMED });
        for (index, &(address, groups)) in (from..to).zip(&points[from..to]) {
            if points[..to].get(index + 1).is_some_and(|&(next, _)| next == address) {
                continue;
            }
            // Most pods share their list with others.
            let class = *by_groups.entry(groups.as_ptr()).or_insert_with(|| self.number(groups, classes));
            if named.last().is_some_and(|cut: &Cut| cut.first == address) {
                named.pop();
            }
            named.push(Cut { first: address, class });
            if address < last {
                named.push(Cut { first: address + 1, class: NOT_NAMED });
            }
        }
        let mut cuts: Vec<Cut> = Vec::with_capacity(before.len() + named.len());
        merge(&before, &named, |first, before, named| {
            let class = if named == NOT_NAMED { before } else { named };
            if cuts.last().is_none_or(|cut| cut.class != class) {
                cuts.push(Cut { first, class });
            }
        });
        cuts
    }

    /// The class of the groups among these sets that a rule still names.
    fn groups_of(&self, members: &Members, classes: &mut Classes) -> u32 {
        let mut groups = Vec::new();
        for set in members.iter().flat_map(|&(word, bits)| ports::ones(word, bits)) {
            if self.sets.is_group(set) && !self.sets.chains(set).is_empty() {
                toggle(&mut groups, set);
            }
        }
        classes.number(&groups)
    }

    fn number(&self, groups: &[GroupId], classes: &mut Classes) -> u32 {
        let mut sets: Vec<u32> = groups.iter().filter_map(|&group| self.sets.known_group(group)).collect();
        sets.retain(|&set| !self.sets.chains(set).is_empty());
        sets.sort_unstable();
        sets.dedup();
        let mut members = Vec::new();
        sets.into_iter().for_each(|set| toggle(&mut members, set));
        classes.number(&members)
    }
}

/// No change names the addresses that follow.
const NOT_NAMED: u32 = u32::MAX;

/// Walks two lists of cuts that begin at the same place, and calls with each place at which one of them is cut, and the
/// classes there.
fn merge(one: &[Cut], two: &[Cut], mut each: impl FnMut(u128, u32, u32)) {
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (one.get(i), two.get(j)) {
        each(a.first.max(b.first), a.class, b.class);
        match (one.get(i + 1), two.get(j + 1)) {
            (Some(a), Some(b)) => {
                let (next_a, next_b) = (a.first <= b.first, b.first <= a.first);
                i += usize::from(next_a);
                j += usize::from(next_b);
            }
            (Some(_), None) => i += 1,
            (None, Some(_)) => j += 1,
            (None, None) => return,
        }
    }
}
