//! The search for packets that two lists decide otherwise.
//!
//! A node has what is left of either list where some dimensions have a value: the entries that have it, in order, without those
//! that no packet gets to. Entries of both lists that say the same of the dimensions left, in the same order, are partners. A
//! packet that the lists decide otherwise is decided, by one of them, by an entry without partner or with a partner that decides
//! otherwise: of two partners that both mean it, the earlier pair would decide it in both lists. So only the packets of such
//! entries are looked at, and only as long as a pair of deciding rules may come up that has not been seen.

use std::collections::{HashMap, HashSet};

use crate::flat::{FlatList, View};
use crate::model::{Family, Ruleset};

use super::lists::{Dimension, Dimensions, EVERY_DIMENSION, Entry, Kind, Values};
use super::pick::Point;
use super::report::{Difference, Packet};
use super::sweep::Sweep;
use super::{Comparison, views};

/// So many words of nodes are remembered at most.
const MAX_REMEMBERED: usize = 1 << 26;

/// Lists longer than this are first rid of what has no packet in common with the few entries that matter.
const LONG: usize = 16;
const FEW: usize = 8;

pub(super) struct Search<'r> {
    rulesets: [&'r Ruleset; 2],
    family: Family,
    values: Values,
    /// Nodes at which the lists decide alike.
    equal: HashSet<Box<[u32]>>,
    /// Nodes at which they may not, with the rules that decide: what they come to is known.
    done: HashSet<Box<[u32]>>,
    remembered: usize,
    /// Pairs of deciding rules for which there is a packet.
    found: HashSet<(u32, u32)>,
    max_differences: usize,
    work: u64,
    full: bool,
}

/// One comparison of two lists.
struct Lists<'l> {
    entries: [&'l [Entry]; 2],
    view: &'l View<'l>,
}

/// What the lists at a node may come to.
struct Prospect {
    /// Entries whose packets may show something new.
    wanted: [Vec<bool>; 2],
    /// Whether any entry is wanted.
    any: bool,
    /// Whether the lists may differ by pairs of rules that have been seen, too.
    seen: bool,
    /// How many pairs of entries were looked at.
    work: u64,
}

impl<'r> Search<'r> {
    pub(super) fn new(rulesets: [&'r Ruleset; 2], family: Family, max_differences: usize, work: u64) -> Self {
        Search {
            rulesets,
            family,
            values: Values::new(family),
            equal: HashSet::new(),
            done: HashSet::new(),
            remembered: 0,
            found: HashSet::new(),
            max_differences,
            work,
            full: false,
        }
    }

    /// Whether there are as many differences as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether no work is allowed any more.
    pub(super) fn is_exhausted(&self) -> bool {
        self.work == 0
    }

    /// How much work is allowed still.
    pub(super) fn work_left(&self) -> u64 {
        self.work
    }

    /// Compares two lists of one view. Says whether that was done to the end.
    pub(super) fn compare(&mut self, view: &View<'_>, lists: &[FlatList; 2], comparison: &mut Comparison) -> bool {
        let [a, b] = lists.each_ref().map(|list| self.values.entries(list));
        let all = |list: &[Entry]| (0..list.len() as u32).collect::<Vec<u32>>();
        let nodes = [all(&a), all(&b)];
        let lists = Lists { entries: [&a, &b], view };
        self.node(&lists, nodes, EVERY_DIMENSION, Point::default(), comparison);
        !self.is_exhausted()
    }

    /// Searches a node. Says whether the lists certainly decide alike there.
    fn node(
        &mut self,
        of: &Lists<'_>,
        lists: [Vec<u32>; 2],
        left: Dimensions,
        point: Point,
        comparison: &mut Comparison,
    ) -> bool {
        let count = lists.iter().map(|list| list.len() as u64).sum::<u64>();
        self.work = self.work.saturating_sub(count + 1);
        if self.is_exhausted() || self.full {
            return false;
        }
        let mut reduced = [0, 1].map(|side| reduce(of.entries[side], &lists[side], left));
        let mut prospect = self.prospect(of, &reduced, left);
        self.work = self.work.saturating_sub(prospect.work);
        if !prospect.any {
            return !prospect.seen;
        }
        let first = [0, 1].map(|side| of.entries[side][reduced[side][0] as usize]);
        if first.iter().all(|entry| key(entry, left) == [0; Dimension::COUNT]) {
            self.record(of, first, point, comparison);
            return false;
        }
        if count as usize > LONG {
            self.shorten(of, &mut reduced, &mut prospect, left);
        }
        let (plain, with_rules) = node_keys(of, &reduced, left);
        if self.equal.contains(&plain) {
            return true;
        }
        if self.done.contains(&with_rules) {
            return false;
        }
        let dimension = choose(of, &reduced, &prospect, left);
        let wanted = prospect.wanted.each_ref().map(Vec::as_slice);
        let sweep = Sweep {
            values: &self.values,
            entries: of.entries,
            lists: reduced.each_ref().map(Vec::as_slice),
            wanted,
            family: self.family,
            state: of.view.state,
            protocol: point.protocol(),
        };
        let (classes, work) = sweep.classes(dimension);
        self.work = self.work.saturating_sub(work);
        let mut equal = !prospect.seen;
        for class in classes {
            let mut rest = left & !(1 << dimension as u8);
            if dimension == Dimension::Protocol {
                rest &= Kind::of(class.value as u8, self.family).dimensions();
            }
            equal &= self.node(of, class.lists, rest, point.with(dimension, class.value), comparison);
        }
        if self.is_exhausted() || self.full {
            return false;
        }
        let (memory, node) = if equal { (&mut self.equal, plain) } else { (&mut self.done, with_rules) };
        if self.remembered + node.len() <= MAX_REMEMBERED {
            self.remembered += node.len();
            memory.insert(node);
        }
        equal
    }

    /// What is worth looking at.
    fn prospect(&self, of: &Lists<'_>, lists: &[Vec<u32>; 2], left: Dimensions) -> Prospect {
        let entries = [0, 1].map(|side| -> Vec<&Entry> {
            lists[side].iter().map(|&index| &of.entries[side][index as usize]).collect()
        });
        let [a, b] = &entries;
        let nothing = [vec![false; a.len()], vec![false; b.len()]];
        let mut prospect = Prospect { wanted: nothing, any: false, seen: false, work: 0 };
        if a.iter().chain(b).all(|entry| entry.decision == a[0].decision) {
            return prospect;
        }
        let partners = partners(a, b, left);
        // Whether a packet that both mean, and nothing before, may be decided otherwise: something new?
        let look = |prospect: &mut Prospect, one: usize, other: usize| {
            prospect.work += 1;
            if a[one].decision == b[other].decision {
                return false;
            }
            if self.found.contains(&(a[one].rules, b[other].rules)) {
                prospect.seen = true;
                return false;
            }
            prospect.any = true;
            true
        };
        let [of_a, of_b] = &partners;
        for (one, partner) in of_a.iter().enumerate() {
            let wanted = match partner {
                Some(other) => look(&mut prospect, one, *other),
                // Whatever has an earlier partner would have meant the packet before. What stands last is likeliest.
                None => (0..b.len())
                    .rev()
                    .any(|other| of_b[other].is_none_or(|partner| partner > one) && look(&mut prospect, one, other)),
            };
            prospect.wanted[0][one] |= wanted;
        }
        for (other, _) in of_b.iter().enumerate().filter(|(_, partner)| partner.is_none()) {
            let wanted = (0..a.len())
                .rev()
                .any(|one| of_a[one].is_some_and(|partner| partner > other) && look(&mut prospect, one, other));
            prospect.wanted[1][other] |= wanted;
        }
        prospect
    }

    /// Leaves out entries that mean no packet of the wanted ones, if those are few.
    fn shorten(&self, of: &Lists<'_>, lists: &mut [Vec<u32>; 2], prospect: &mut Prospect, left: Dimensions) {
        let entry = |side: usize, index: u32| &of.entries[side][index as usize];
        let mut wanted = Vec::new();
        for (side, list) in lists.iter().enumerate() {
            let places = list.iter().zip(&prospect.wanted[side]).filter(|(_, wanted)| **wanted);
            wanted.extend(places.map(|(index, _)| *entry(side, *index)));
        }
        if wanted.len() > FEW {
            return;
        }
        for (side, list) in lists.iter_mut().enumerate() {
            let meets = |index: u32| wanted.iter().any(|wanted| self.values.meet(entry(side, index), wanted, left));
            let kept = list.iter().zip(&prospect.wanted[side]).filter(|(index, _)| meets(**index));
            (*list, prospect.wanted[side]) = kept.unzip();
        }
    }

    fn record(&mut self, of: &Lists<'_>, first: [Entry; 2], point: Point, comparison: &mut Comparison) {
        if comparison.differences.len() >= self.max_differences {
            comparison.more = true;
            self.full = true;
            return;
        }
        self.found.insert((first[0].rules, first[1].rules));
        let header = point.header(self.family, of.view.state);
        match Difference::of(self.rulesets, Packet::new(of.view, header)) {
            Some(difference) => comparison.differences.push(difference),
            None => comparison.undecided.push(format!(
                "{}: the lists differ, but the rules agree about {}",
                views::name(of.view),
                Packet::new(of.view, header)
            )),
        }
    }
}

/// What an entry says of the dimensions left.
fn key(entry: &Entry, left: Dimensions) -> [u32; Dimension::COUNT] {
    std::array::from_fn(|dimension| if left >> dimension & 1 == 1 { entry.values[dimension] } else { 0 })
}

/// The entries up to the first that means all that is left, without those that say what an earlier one does.
fn reduce(entries: &[Entry], list: &[u32], left: Dimensions) -> Vec<u32> {
    let mut seen = HashSet::with_capacity(list.len());
    let mut reduced = Vec::with_capacity(list.len());
    for &index in list {
        let key = key(&entries[index as usize], left);
        if seen.insert(key) {
            reduced.push(index);
        }
        if key == [0; Dimension::COUNT] {
            break;
        }
    }
    reduced
}

/// For either list, which place in the other has the partner: a longest sequence of entries with the same keys.
fn partners(a: &[&Entry], b: &[&Entry], left: Dimensions) -> [Vec<Option<usize>>; 2] {
    let places: HashMap<_, usize> = b.iter().enumerate().map(|(place, entry)| (key(entry, left), place)).collect();
    let same: Vec<Option<usize>> = a.iter().map(|entry| places.get(&key(entry, left)).copied()).collect();
    // The longest increasing subsequence: `ends[n]` is where the best one of n + 1 places ends.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; a.len()];
    for (one, place) in same.iter().enumerate() {
        let Some(place) = place else { continue };
        let length = ends.partition_point(|end| same[*end].is_some_and(|at| at < *place));
        before[one] = length.checked_sub(1).map(|shorter| ends[shorter]);
        if length == ends.len() {
            ends.push(one);
        } else {
            ends[length] = one;
        }
    }
    let mut partners = [vec![None; a.len()], vec![None; b.len()]];
    for one in std::iter::successors(ends.last().copied(), |one| before[*one]) {
        if let Some(other) = same[one] {
            partners[0][one] = Some(other);
            partners[1][other] = Some(one);
        }
    }
    partners
}

/// A node in words: what it comes to depends on nothing else. Once without and once with the deciding rules.
fn node_keys(of: &Lists<'_>, lists: &[Vec<u32>; 2], left: Dimensions) -> (Box<[u32]>, Box<[u32]>) {
    let mut plain = vec![u32::from(left), lists[0].len() as u32];
    let mut with_rules = Vec::new();
    for (entries, list) in of.entries.iter().zip(lists) {
        for &index in list {
            let entry = &entries[index as usize];
            let values = key(entry, left);
            plain.extend((0..Dimension::COUNT).filter(|dimension| left >> dimension & 1 == 1).map(|at| values[at]));
            plain.push(entry.decision);
            with_rules.push(entry.rules);
        }
    }
    with_rules.extend(&plain);
    (plain.into(), with_rules.into())
}

/// The dimension to go on with: protocols as long as something depends on them; then where fewest of the wanted entries
/// mean everything, and of those, where most entries mean something.
fn choose(of: &Lists<'_>, lists: &[Vec<u32>; 2], prospect: &Prospect, left: Dimensions) -> Dimension {
    let mut restricted = [0_usize; Dimension::COUNT];
    let mut open = [0_usize; Dimension::COUNT];
    for (side, list) in lists.iter().enumerate() {
        for (&index, wanted) in list.iter().zip(&prospect.wanted[side]) {
            let values = key(&of.entries[side][index as usize], left);
            for dimension in 0..Dimension::COUNT {
                restricted[dimension] += usize::from(values[dimension] != 0);
                open[dimension] += usize::from(values[dimension] == 0 && *wanted);
            }
        }
    }
    let by_protocol = [Dimension::Protocol, Dimension::DestinationPort, Dimension::SourcePort, Dimension::Flags];
    if left & 1 == 1 && by_protocol.iter().any(|dimension| restricted[*dimension as usize] > 0) {
        return Dimension::Protocol;
    }
    let useful = Dimension::ALL.into_iter().filter(|dimension| restricted[*dimension as usize] > 0);
    useful
        .min_by_key(|dimension| (open[*dimension as usize], usize::MAX - restricted[*dimension as usize]))
        .unwrap_or(Dimension::Protocol)
}
