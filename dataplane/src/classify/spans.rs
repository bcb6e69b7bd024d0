//! All addresses of a family classed anew: what is fixed by a sweep over the ends of ranges, who is in which group from the
//! classes so far and from the addresses that a change names.

use std::collections::HashMap;
use std::sync::Arc;

use super::numbering::Sets;
use super::partition::{Classes, Cut, Members, toggle};
use super::{Addresses, CompileError, ports};
use crate::address::Address;
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
        points: &[(Address, Arc<[GroupId]>)],
        classes: &mut Classes,
    ) -> Result<Vec<Cut>, CompileError> {
        let mut fixed_classes = Classes::new();
        let fixed = fixed_classes.partition(self.sets.ranges(), first, last)?;
        let mut group_classes = Classes::new();
        let groups = self.groups(first, last, points, &mut group_classes);
        let mut both = HashMap::new();
        let mut cuts: Vec<Cut> = Vec::with_capacity(fixed.len().max(groups.len()));
        merge(fixed.into_iter(), groups.into_iter(), |first, fixed, group| {
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
    fn groups(&self, first: u128, last: u128, points: &[(Address, Arc<[GroupId]>)], classes: &mut Classes) -> Vec<Cut> {
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
        let to = points.partition_point(|(address, _)| address.to_bits() <= last);
        let from = points[..to].partition_point(|(address, _)| address.to_bits() < first);
        let points = &points[from..to];
        // As they are needed: there may be a million of them.
        let named = points.iter().enumerate().flat_map(|(index, (address, groups))| {
            let (address, next) = (address.to_bits(), points.get(index + 1).map(|(next, _)| next.to_bits()));
            // Of two words on one address the later one counts.
            let counts = next != Some(address);
            // Most pods share their list with others.
            let class =
                counts.then(|| *by_groups.entry(groups.as_ptr()).or_insert_with(|| self.number(groups, classes)));
            let here = class.map(|class| Cut { first: address, class });
            let ends = counts && address < last && next != Some(address + 1);
            [here, ends.then(|| Cut { first: address + 1, class: NOT_NAMED })].into_iter().flatten()
        });
        let begins = points.first().is_none_or(|(address, _)| address.to_bits() != first);
        let named = begins.then_some(Cut { first, class: NOT_NAMED }).into_iter().chain(named);
        let mut cuts: Vec<Cut> = Vec::with_capacity(before.len() + points.len());
        merge(before.into_iter(), named, |first, before, named| {
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
fn merge(one: impl Iterator<Item = Cut>, two: impl Iterator<Item = Cut>, mut each: impl FnMut(u128, u32, u32)) {
    let (mut one, mut two) = (one.peekable(), two.peekable());
    let (Some(mut a), Some(mut b)) = (one.next(), two.next()) else { return };
    loop {
        each(a.first.max(b.first), a.class, b.class);
        let next = match (one.peek(), two.peek()) {
            (Some(a), Some(b)) => a.first.min(b.first),
            (Some(next), None) | (None, Some(next)) => next.first,
            (None, None) => return,
        };
        a = one.next_if(|cut| cut.first == next).unwrap_or(a);
        b = two.next_if(|cut| cut.first == next).unwrap_or(b);
    }
}
