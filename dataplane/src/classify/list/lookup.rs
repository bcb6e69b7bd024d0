//! A list's base, compiled: a forest for IPv4 and one for the rest.

use super::build::{Item, build};
use super::forest::Forest;
use super::lane::{Lane, key};
use crate::address::Address;
use crate::arch::lanes::Key;
use crate::classify::partition::Cut;
use crate::classify::trie::Trie;
use crate::packet::Direction;
use crate::rules::Query;
use crate::rules::list::{AddressRange, ListRule, Rules};

/// The compiled form of the rules that a list began with. Immutable; lists that share their base share it.
#[derive(Debug)]
pub struct Lookup {
    v4: Forest,
    v6: Option<Box<V6>>,
}

impl Lookup {
    pub(crate) fn new(rules: &Rules) -> Self {
        // A rule among the wide ones may mean nothing of IPv4, and its lane says nothing then.
        let mut wide = rules.wide().iter().peekable();
        let lanes = (0u32..).zip(rules.lanes()).filter_map(|(rank, &lane)| match wide.next_if(|(at, _)| *at == rank) {
            Some((_, rule)) => Lane::v4(rule).map(|lane| Item::new(lane, rank)),
            None => Some(Item::new(lane, rank)),
        });
        Lookup { v4: build(&lanes.collect::<Vec<_>>()), v6: V6::new(rules.wide()).map(Box::new) }
    }

    /// Bytes on the heap.
    pub fn memory(&self) -> usize {
        self.v4.memory() + self.v6.as_ref().map_or(0, |v6| size_of::<V6>() + v6.memory())
    }

    pub(super) fn v4(&self) -> &Forest {
        &self.v4
    }

    pub(super) fn v6(&self) -> Option<&V6> {
        self.v6.as_deref()
    }
}

/// IPv6. The addresses at which any range begins or ends cut all addresses into intervals, a trie tells an address's, and
/// the trees are over the numbers of intervals, which fit a word as an IPv4 address does.
#[derive(Debug)]
pub(super) struct V6 {
    source: Intervals,
    destination: Intervals,
    forest: Forest,
}

impl V6 {
    /// Of the rules that mean any IPv6; `None` if none does.
    fn new(rules: &[(u32, ListRule)]) -> Option<Self> {
        let beyond_v4 = |range: AddressRange| !(range.first().is_v4() && range.last().is_v4());
        let meant: Vec<&(u32, ListRule)> =
            rules.iter().filter(|(_, rule)| beyond_v4(rule.source) && beyond_v4(rule.destination)).collect();
        if meant.is_empty() {
            return None;
        }
        let source = Intervals::new(meant.iter().map(|(_, rule)| rule.source));
        let destination = Intervals::new(meant.iter().map(|(_, rule)| rule.destination));
        let items = meant.iter().filter_map(|(rank, rule)| {
            let lane = Lane::new(source.range(rule.source), destination.range(rule.destination), rule)?;
            Some(Item::new(lane, *rank))
        });
        let forest = build(&items.collect::<Vec<_>>());
        Some(V6 { source, destination, forest })
    }

    fn memory(&self) -> usize {
        self.source.trie.memory() + self.destination.trie.memory() + self.forest.memory()
    }

    pub(super) fn forest(&self) -> &Forest {
        &self.forest
    }

    pub(super) fn key(&self, direction: Direction, query: &Query) -> Key {
        let source = self.source.number(query.source(direction));
        let destination = self.destination.number(query.destination(direction));
        key(source, destination, query)
    }
}

/// Intervals of addresses, numbered in their order; the numbers are moved up, so that the leading bits tell most.
#[derive(Debug)]
struct Intervals {
    trie: Trie,
    shift: u32,
}

impl Intervals {
    fn new(ranges: impl Iterator<Item = AddressRange>) -> Self {
        let mut firsts = vec![0];
        for range in ranges {
            firsts.push(range.first().to_bits());
            firsts.extend(range.last().to_bits().checked_add(1));
        }
        firsts.sort_unstable();
        firsts.dedup();
        let cuts: Vec<Cut> = (0..).zip(firsts).map(|(class, first)| Cut { first, class }).collect();
        let shift = (cuts.len() as u32 - 1).leading_zeros().min(31);
        Intervals { trie: Trie::new(&cuts, 128), shift }
    }

    fn number(&self, address: Address) -> u32 {
        self.trie.lookup(address.to_bits()) << self.shift
    }

    /// The numbers of a range, first and last.
    fn range(&self, range: AddressRange) -> (u32, u32) {
        (self.number(range.first()), self.number(range.last()) | ((1 << self.shift) - 1))
    }
}
