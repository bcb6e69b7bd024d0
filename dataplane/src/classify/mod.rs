//! The rules in their compiled form: one question costs a few memory accesses, however many policies there are.
//!
//! # What
//!
//! [`Classifier::compile`] turns a [`RuleSet`] into an immutable [`Classifier`]; [`Classifier::judge`] answers as
//! [`Policy::judge`](crate::rules::Policy::judge) does, which reads the rules one after the other and is the definition:
//! property tests hold the two equal. Tiers, `Pass`, `Ask` and log flags need nothing of their own here, since a table holds
//! the outcome of a whole chain.
//!
//! # Design
//!
//! ```text
//!   peer ───────▶ trie of its family ──▶ address class ──▶ row ────┐
//!                 (all chains share it)                   ▲        ├──▶ cell ──▶ decision
//!   wire, direction ───────────────────▶ chain's table ───┤        │
//!                                                         ▼        │
//!   protocol, port ────────────────────▶ bitmap with rank ─▶ column┘
//! ```
//! * Addresses that are in exactly the same sets, of all sets that any rule names, are of one *class*. A sweep over the
//!   sorted ends of all ranges finds the classes (`partition`); a multibit trie a family finds an address's class (`trie`).
//! * Protocol and port are one number of 24 bits, and the same sweep over the services of a chain gives its *columns*
//!   (`ports`). A rule for all protocols covers all of them; ICMP's types and codes are a port.
//! * For a chain, classes that the same rules mean share a *row*, and so do those whose decisions come out equal
//!   (`table`). A class that the chain does not know has row 0; the others are found in a bitmap with rank (`rank`),
//!   which costs a bit a class, so that hundreds of chains beside tens of thousands of classes stay small.
//! * Address sets, services, chains, rows and decisions are kept once each, equal by content and not by pointer.
//!
//! The product of rows and columns is the limit: policies have few of each. Rule lists of gateways, with tens of thousands
//! of distinct prefixes on both sides, have another structure with the same promise ([`list`]); as chains they end in
//! [`CompileError::TooManyCells`], never in a slower answer or a wrong one.
//!
//! IPv4 lives in its mapped window of the 128-bit numbers ([`Address`]), so a set that holds `::/0` holds all of IPv4 too,
//! here as in [`AddressSet::contains`](crate::rules::AddressSet::contains). Whoever means IPv6 alone subtracts the window.
//!
//! # Thread-safety
//!
//! A classifier never changes and has no interior mutability: any number of threads may ask it. How they get a new one
//! is told in [`crate::publish`]. Compiling belongs to a control thread: it allocates. A classifier that follows another one
//! (`compile`) shares with it what did not change.

pub(crate) mod compile;
mod held;
pub mod list;
mod numbering;
mod partition;
mod ports;
mod rank;
mod spans;
pub mod stateful;
mod table;
#[cfg(test)]
mod tests;
mod trie;

use std::collections::HashMap;
use std::sync::Arc;

use crate::address::Address;
use crate::packet::Direction;
use crate::rules::stateful::ConnectionState;
use crate::rules::{Decision, Query, RuleSet, WireId};
use list::ListTable;
use partition::Cut;
use spans::V4;
use stateful::StatefulTable;
use table::ChainTable;
use trie::{Trie, Walk};

/// In place of a chain's number: the direction is open.
const OPEN: u32 = u32::MAX;

/// Set in the number of a list, where that stands in place of a chain's.
const LIST: u32 = 1 << 31;

/// The same of rules by the state of connections; [`LIST`] is not set beside it.
const STATEFUL: u32 = 1 << 30;

/// Queries that [`Classifier::judge_burst`] judges side by side.
const BURST: usize = 32;

/// Cells in the tables of all chains: 256 MiB. Policies stay far below.
pub(crate) const MAX_CELLS: usize = 1 << 26;

/// Why a rule set cannot be compiled. The running one stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The same wire twice.
    #[error("wire {} is in the rule set twice: give each wire one entry", .0.0)]
    DuplicateWire(WireId),
    /// More ranges of addresses than indexes are made for.
    #[error("the address sets have more than {limit} ranges together: merge them into fewer prefixes")]
    TooManyRanges {
        /// Ranges.
        limit: usize,
    },
    /// Rows × columns of all chains' tables are too many.
    #[error(
        "the rules tell too many kinds of peers and services apart (their decision tables pass {limit} cells): split the \
         rules, or use fewer distinct address sets and port ranges"
    )]
    TooManyCells {
        /// Cells.
        limit: usize,
    },
}

/// A wire's place in one classifier. It says nothing to another classifier: look it up anew
/// ([`Classifier::slot`]) when the snapshot changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireSlot(u32);

impl WireSlot {
    /// The slot as an index: slots count from 0 to [`Classifier::wires`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How large a classifier is; for logs, metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Wires.
    pub wires: usize,
    /// Distinct chains.
    pub chains: usize,
    /// Classes of addresses.
    pub classes: usize,
    /// Distinct decisions.
    pub decisions: usize,
    /// Bytes on the heap.
    pub bytes: usize,
}

/// From an address to its class.
#[derive(Clone, Debug)]
struct Addresses {
    v4: Trie,
    v6: Trie,
    classes: u32,
}

impl Default for Addresses {
    /// All of class 0.
    fn default() -> Self {
        let whole = |(first, _), bits| Trie::new(&[Cut { first, class: 0 }], bits);
        Addresses { v4: whole(V4, 32), v6: whole((0, 0), 128), classes: 1 }
    }
}

impl Addresses {
    /// Gives other classes to a range: to each part of it that which `class_of` answers for its class.
    fn update(&mut self, first: u128, last: u128, class_of: &mut dyn FnMut(u32) -> u32) {
        let (first_v4, last_v4) = V4;
        if first <= last_v4 && last >= first_v4 {
            self.v4.update(first.max(first_v4), last.min(last_v4), class_of);
        }
        // What the trie of IPv6 says of the IPv4 window nobody asks.
        if first < first_v4 || last > last_v4 {
            self.v6.update(first, last, class_of);
        }
    }

    #[inline]
    fn class(&self, address: Address) -> u32 {
        let trie = if address.is_v4() { &self.v4 } else { &self.v6 };
        trie.lookup(address.to_bits())
    }

    /// The classes of many queries' far ends, at most [`BURST`].
    #[inline]
    fn classes_of(&self, queries: &[Query], classes: &mut [u32; BURST]) {
        let mut walks = [Walk::default(); BURST];
        let count = queries.len().min(BURST);
        for (walk, query) in walks.iter_mut().zip(queries) {
            let trie = if query.peer.is_v4() { &self.v4 } else { &self.v6 };
            *walk = trie.start(query.peer.to_bits());
        }
        // All take a step before any takes the next.
        let mut on_the_way = true;
        while on_the_way {
            on_the_way = false;
            for (walk, query) in walks[..count].iter_mut().zip(queries) {
                let trie = if query.peer.is_v4() { &self.v4 } else { &self.v6 };
                on_the_way |= trie.step(walk);
            }
        }
        for (class, walk) in classes.iter_mut().zip(&walks[..count]) {
            *class = walk.class();
        }
    }
}

/// A compiled rule set; the default one knows no wire.
#[derive(Debug, Default)]
pub struct Classifier {
    /// Sorted; a wire's place is its slot.
    wires: Box<[WireId]>,
    /// For each slot the chain of each direction, or [`OPEN`].
    directions: Box<[[u32; 2]]>,
    addresses: Addresses,
    chains: Box<[ChainTable]>,
    lists: Box<[Option<ListTable>]>,
    stateful: Box<[Option<StatefulTable>]>,
    decisions: Arc<[Decision]>,
}

impl Classifier {
    /// Compiles a rule set.
    ///
    /// # Errors
    /// A wire named twice, or more than the tables are made for ([`CompileError`]).
    pub fn compile(rules: &RuleSet) -> Result<Self, CompileError> {
        compile::compile(rules, MAX_CELLS)
    }

    /// A wire's slot; `None` if the rule set does not know the wire, which is closed then.
    pub fn slot(&self, wire: WireId) -> Option<WireSlot> {
        self.wires.binary_search(&wire).ok().map(|slot| WireSlot(slot as u32))
    }

    /// The wires that the rule set knows, in the order of their slots.
    pub fn wires(&self) -> &[WireId] {
        &self.wires
    }

    /// The rules of a direction that look at connections' states, if it has such rules.
    #[inline]
    pub fn stateful(&self, slot: WireSlot, direction: Direction) -> Option<&StatefulTable> {
        let number = self.directions.get(slot.index())?[direction as usize];
        if number & (LIST | STATEFUL) != STATEFUL {
            return None;
        }
        self.stateful.get((number & !STATEFUL) as usize)?.as_ref()
    }

    /// Judges: the decision of [`Policy::judge`](crate::rules::Policy::judge) of that wire and direction. A slot
    /// that is beyond this classifier's is closed.
    pub fn judge(&self, slot: WireSlot, direction: Direction, query: Query) -> Decision {
        let Some(chains) = self.directions.get(slot.index()) else { return Decision::CLOSED };
        let chain = chains[direction as usize];
        if chain & LIST != 0 {
            let list = self.lists.get((chain & !LIST) as usize).and_then(Option::as_ref);
            return list.map_or(Decision::OPEN, |list| list.judge(direction, query));
        }
        if chain & STATEFUL != 0 {
            let table = self.stateful(slot, direction);
            return table.map_or(Decision::CLOSED, |table| table.judge(direction, ConnectionState::New, query));
        }
        let class = self.addresses.class(query.peer);
        self.decisions[self.chains[chain as usize].decision(class, query.protocol, query.port) as usize]
    }

    /// Judges many at once: as many decisions are written as there are of both, each what [`Classifier::judge`] answers.
    /// What one of them waits for, the others use.
    pub fn judge_burst(&self, slot: WireSlot, direction: Direction, queries: &[Query], decisions: &mut [Decision]) {
        let Some(chains) = self.directions.get(slot.index()) else { return decisions.fill(Decision::CLOSED) };
        let chain = chains[direction as usize];
        if chain & LIST != 0 {
            match self.lists.get((chain & !LIST) as usize).and_then(Option::as_ref) {
                Some(list) => list.judge_burst(direction, queries, decisions),
                None => decisions.fill(Decision::OPEN),
            }
            return;
        }
        if chain & STATEFUL != 0 {
            match self.stateful(slot, direction) {
                Some(table) => table.judge_new(direction, queries, decisions),
                None => decisions.fill(Decision::CLOSED),
            }
            return;
        }
        let chain = &self.chains[chain as usize];
        for (queries, decisions) in queries.chunks(BURST).zip(decisions.chunks_mut(BURST)) {
            let mut classes = [0; BURST];
            self.addresses.classes_of(queries, &mut classes);
            for ((query, class), decision) in queries.iter().zip(classes).zip(decisions) {
                *decision = self.decisions[chain.decision(class, query.protocol, query.port) as usize];
            }
        }
    }

    /// How large it is.
    pub fn size(&self) -> Size {
        let services: HashMap<_, _> =
            self.chains.iter().map(|chain| (Arc::as_ptr(chain.services()), chain.services())).collect();
        let bytes = size_of_val(&*self.wires)
            + size_of_val(&*self.directions)
            + self.addresses.v4.memory()
            + self.addresses.v6.memory()
            + size_of_val(&*self.chains)
            + self.chains.iter().map(ChainTable::memory).sum::<usize>()
            + self.lists.iter().flatten().map(ListTable::memory).sum::<usize>()
            + self.stateful.iter().flatten().map(StatefulTable::memory).sum::<usize>()
            + services.values().map(|map| size_of_val(&***map) + map.memory()).sum::<usize>()
            + size_of_val(&*self.decisions);
        Size {
            wires: self.wires.len(),
            chains: self.chains.len(),
            classes: self.addresses.classes as usize,
            decisions: self.decisions.len(),
            bytes,
        }
    }
}
