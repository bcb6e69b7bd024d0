//! Elements that come into a large set, or leave it, without everything being worked out anew: the boxes of the rules that name the set are
//! known, and one element is a few of them.
//!
//! That is so for sets of addresses without exceptions, which rules name without negation, and which alone say what the rule means of that
//! end. Those rules decide; they do not log, count or limit. Whatever else names a set has to be worked out anew.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::rules::RuleId;
use dataplane::rules::list::{AddressRange, Edit, ListRule, RuleList};

use super::Lowered;
use crate::flat::FlatList;
use crate::judge::RuleAt;
use crate::model::{Action, Dimension, Element, End, Family, Match, Part, Ruleset, Set, Test};
use crate::rulefile::Change;
use crate::space::addresses_of;

/// Fewer elements are worked out anew: they may come to one range, which hides other rules.
const LARGE: usize = 64;

/// Which rules name which large set, and how.
#[derive(Default)]
pub(super) struct Uses {
    rules: HashMap<RuleAt, (String, End)>,
    /// Sets that something names in another way.
    others: BTreeSet<String>,
    addresses: HashMap<(String, Family), crate::space::Addresses>,
}

/// The boxes of a rule that names a set, in a list.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    set: String,
    end: End,
    family: Family,
    /// The first one.
    start: usize,
    /// Boxes of elements that came, in front; the others are in the order of the addresses.
    extra: usize,
    /// All of them.
    len: usize,
    /// How many an element has.
    group: usize,
}

/// A list, and the boxes of sets in it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) list: Arc<RuleList>,
    pub(super) segments: Vec<Segment>,
}

impl Uses {
    pub(super) fn new(ruleset: &Ruleset) -> Uses {
        let mut uses = Uses::default();
        let narrow_jumps = ruleset.chains.iter().flat_map(|chain| &chain.rules).any(|rule| {
            let jumps = matches!(rule.action, Action::Jump(_) | Action::Goto(_));
            let of_addresses =
                |of: &Match| matches!(of.test, Test::Source(_) | Test::Destination(_) | Test::Set { .. });
            jumps && rule.matches.iter().any(of_addresses)
        });
        for (chain, rules) in ruleset.chains.iter().enumerate() {
            for (rule, of) in rules.rules.iter().enumerate() {
                let decides = matches!(of.action, Action::Allow | Action::Drop | Action::Reject(_));
                let plain = decides && of.limit.is_none() && of.log.is_none();
                // Who comes here by a jump that looks at addresses is one of a few already.
                let is_all = rules.hook.is_some() || !narrow_jumps;
                for test in &of.matches {
                    let Test::Set { name, ends } = &test.test else { continue };
                    let is_large = ruleset.sets.get(name).is_some_and(is_large);
                    let narrows = |end: End, other: &Match| match other.test {
                        Test::Source(_) => end == End::Source,
                        Test::Destination(_) => end == End::Destination,
                        _ => false,
                    };
                    match ends[..] {
                        [end]
                            if plain
                                && is_large
                                && is_all
                                && !test.negated
                                && !of.matches.iter().any(|other| narrows(end, other)) =>
                        {
                            // Two sets in one rule: neither alone says what it means of an end, unless they are of different ends.
                            let before = uses.rules.insert(RuleAt { chain, rule }, (name.clone(), end));
                            uses.others.extend(before.map(|(name, _)| name));
                        }
                        _ => drop(uses.others.insert(name.clone())),
                    }
                }
            }
        }
        for (name, _) in uses.rules.values() {
            for family in Family::BOTH {
                let ranges = ruleset.sets.get(name).map(|set| ranges(set).collect::<Vec<_>>()).unwrap_or_default();
                if let Some(addresses) = addresses_of(&ranges, family) {
                    uses.addresses.entry((name.clone(), family)).or_insert(addresses);
                }
            }
        }
        uses
    }

    /// Notes the boxes of sets in a part of a list that has been written from `from` on.
    pub(super) fn note(
        &mut self,
        list: &FlatList,
        family: Family,
        rules: &[ListRule],
        from: usize,
        number: impl Fn(RuleAt) -> Option<RuleId>,
        may_meet: impl Fn(RuleAt) -> bool,
        segments: &mut Vec<Segment>,
    ) {
        for (at, (name, end)) in &self.rules {
            let is_of = |outcome: u32| list.outcomes.get(outcome as usize).is_some_and(|of| of.rule == Some(*at));
            let mut flat = list.rules.iter().filter(|rule| is_of(rule.outcome));
            let Some(first) = flat.next() else {
                // Without a box there may be one for the next element, unless an earlier rule decides everything, or the rule means no
                // packet of this list.
                let last = list.rules.last().and_then(|rule| list.outcomes.get(rule.outcome as usize)?.rule);
                let is_behind = last.is_some_and(|last| last.chain == at.chain && last.rule < at.rule);
                if !is_behind && may_meet(*at) && self.addresses.contains_key(&(name.clone(), family)) {
                    self.others.insert(name.clone());
                }
                continue;
            };
            let cube = match end {
                End::Source => &first.cube.source,
                End::Destination => &first.cube.destination,
            };
            let known = self.addresses.get(&(name.clone(), family));
            let spans = cube.spans().len();
            let number = number(*at);
            let is_its = |rule: &ListRule| Some(rule.id) == number;
            let start = rules[from..].iter().position(is_its).map(|at| from + at);
            let segment = start.and_then(|start| {
                let len = rules[start..].iter().take_while(|rule| is_its(rule)).count();
                let all = rules[from..].iter().filter(|rule| is_its(rule)).count();
                let whole = known == Some(cube) && spans > 1 && flat.next().is_none() && all == len && len % spans == 0;
                let group = len / spans.max(1);
                // The boxes of an element have to stand together.
                let grouped = matches!(end, End::Source) || group == 1;
                let (set, end) = (name.clone(), *end);
                (whole && grouped).then_some(Segment { set, end, family, start, extra: 0, len, group })
            });
            match segment {
                Some(segment) => segments.push(segment),
                None => drop(self.others.insert(name.clone())),
            }
        }
    }

    /// Sets whose elements of a family can come and go by themselves.
    pub(super) fn finish(self) -> BTreeSet<(String, Family)> {
        let Uses { addresses, others, .. } = self;
        addresses.into_keys().filter(|(name, _)| !others.contains(name)).collect()
    }
}

fn is_large(set: &Set) -> bool {
    set.dimensions == [Dimension::Address] && set.exceptions.is_empty() && set.elements.len() >= LARGE
}

fn ranges(set: &Set) -> impl Iterator<Item = RangeInclusive<Address>> + '_ {
    set.elements.iter().filter_map(|element| match &element[..] {
        [Part::Addresses(range)] => Some(range.clone()),
        _ => None,
    })
}

impl Lowered {
    /// The same with other elements in a set, of which `after` has all that are there now. `None` if everything has to be worked out anew.
    pub fn with_elements(&self, after: &Ruleset, name: &str, change: &Change) -> Option<Lowered> {
        let set = after.sets.get(name).filter(|set| is_large(set))?;
        let address = |element: &Element| match &element[..] {
            [Part::Addresses(range)] => Some(range.clone()),
            _ => None,
        };
        let of = |elements: &[Element]| elements.iter().map(address).collect::<Option<Vec<_>>>();
        let (add, remove) = (of(&change.came)?, of(&change.gone)?);
        let is_loose =
            |range: &RangeInclusive<Address>| self.loose.contains(&(name.to_owned(), Family::of(*range.start())));
        if !add.iter().chain(&remove).all(is_loose) {
            return None;
        }
        let mut lists = Vec::with_capacity(self.lists.len());
        for listed in &self.lists {
            let mut listed = listed.clone();
            for range in &remove {
                listed.without(name, set, range)?;
            }
            for range in &add {
                listed.with(name, range)?;
            }
            if listed.list.wants_merge() {
                return None;
            }
            lists.push(listed);
        }
        self.with_lists(lists)
    }
}

impl Listed {
    fn edit(&mut self, edits: &[Edit]) -> Option<()> {
        self.list = Arc::new(self.list.edited(edits).ok()?);
        Some(())
    }

    /// Moves what stands behind a segment.
    fn grow(&mut self, index: usize, by: isize) {
        let start = self.segments[index].start;
        let moved = |number: usize| number.saturating_add_signed(by);
        self.segments[index].len = moved(self.segments[index].len);
        for segment in self.segments.iter_mut().filter(|segment| segment.start > start) {
            segment.start = moved(segment.start);
        }
    }

    /// With the boxes of an element.
    fn with(&mut self, name: &str, range: &RangeInclusive<Address>) -> Option<()> {
        let family = Family::of(*range.start());
        let new = AddressRange::new(*range.start(), *range.end())?;
        for index in 0..self.segments.len() {
            let segment = self.segments[index].clone();
            if segment.set != name || segment.family != family {
                continue;
            }
            let edits: Option<Vec<Edit>> = (0..segment.group)
                .map(|at| {
                    // Like the last element's, which is always one.
                    let like = self.list.get(segment.start + segment.len - segment.group + at)?;
                    Some(Edit::Insert(segment.start + at, segment.moved(like, new)))
                })
                .collect();
            self.edit(&edits?)?;
            self.segments[index].extra += segment.group;
            self.grow(index, isize::try_from(segment.group).ok()?);
        }
        Some(())
    }

    /// Without those of one that has left the set, but with what others have of it.
    fn without(&mut self, name: &str, set: &Set, range: &RangeInclusive<Address>) -> Option<()> {
        let family = Family::of(*range.start());
        for index in 0..self.segments.len() {
            let segment = self.segments[index].clone();
            if segment.set != name || segment.family != family {
                continue;
            }
            // Its own box among those that came, and the one among the others that has it.
            let mut places: Vec<usize> = (segment.start..segment.start + segment.extra)
                .step_by(segment.group)
                .filter(|&at| self.list.get(at).is_some_and(|rule| segment.meets(&rule, range)))
                .collect();
            let (mut low, mut high) = (0, (segment.len - segment.extra) / segment.group);
            let place = |number: usize| segment.start + segment.extra + number * segment.group;
            while low < high {
                let middle = (low + high) / 2;
                let rule = self.list.get(place(middle))?;
                if segment.range(&rule).last() < *range.start() { low = middle + 1 } else { high = middle }
            }
            if low < (segment.len - segment.extra) / segment.group
                && self.list.get(place(low)).is_some_and(|rule| segment.meets(&rule, range))
            {
                places.push(place(low));
            }
            for place in places.into_iter().rev() {
                self.cover(index, place, set)?;
            }
        }
        Some(())
    }

    /// Puts, in the place of one range's boxes, those of what the set has of it.
    fn cover(&mut self, index: usize, place: usize, set: &Set) -> Option<()> {
        let segment = self.segments[index].clone();
        let old: Option<Vec<ListRule>> = (0..segment.group).map(|at| self.list.get(place + at)).collect();
        let old = old?;
        let range = segment.range(old.first()?);
        let overlapping = ranges(set).filter(|of| *of.start() <= range.last() && *of.end() >= range.first());
        let within: Vec<RangeInclusive<Address>> =
            overlapping.map(|of| (*of.start()).max(range.first())..=(*of.end()).min(range.last())).collect();
        let kept = addresses_of(&within, segment.family);
        let kept = kept.iter().flat_map(|addresses| addresses.spans()).map(|span| {
            let (first, last) = crate::space::ends_of(*span, segment.family);
            AddressRange::new(first, last)
        });
        let kept: Vec<AddressRange> = kept.collect::<Option<_>>()?;
        let is_extra = place < segment.start + segment.extra;
        let mut edits: Vec<Edit> = (0..segment.group).map(|_| Edit::Remove(place)).collect();
        for range in kept.iter().rev() {
            for rule in old.iter().rev() {
                edits.push(Edit::Insert(place, segment.moved(*rule, *range)));
            }
        }
        self.edit(&edits)?;
        let by = isize::try_from(kept.len() * segment.group).ok()? - isize::try_from(segment.group).ok()?;
        if is_extra {
            self.segments[index].extra = self.segments[index].extra.saturating_add_signed(by);
        }
        self.grow(index, by);
        // Without any element of its family there is nothing that a new one could be like.
        (self.segments[index].len >= 2 * segment.group).then_some(())
    }
}

impl Segment {
    fn range(&self, rule: &ListRule) -> AddressRange {
        match self.end {
            End::Source => rule.source,
            End::Destination => rule.destination,
        }
    }

    fn meets(&self, rule: &ListRule, range: &RangeInclusive<Address>) -> bool {
        let own = self.range(rule);
        own.first() <= *range.end() && own.last() >= *range.start()
    }

    fn moved(&self, rule: ListRule, range: AddressRange) -> ListRule {
        match self.end {
            End::Source => ListRule { source: range, ..rule },
            End::Destination => ListRule { destination: range, ..rule },
        }
    }
}
