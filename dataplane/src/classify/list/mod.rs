//! Rule lists of gateways in their compiled form: two ranges of addresses, two of ports, protocol and flags; first match.
//!
//! # What
//!
//! A [`ListTable`] answers as [`RuleList::judge`](crate::rules::list::RuleList::judge) does, which reads the rules one
//! after the other; property tests hold the two equal. It is asked in bursts: what one packet waits for, the others use.
//!
//! # Design
//!
//! ```text
//!   key: source, destination │ ports, flags, protocol        (two words of 64 bits)
//!          │ PEXT: up to 18 bits that tell the rules apart
//!          ▼
//!   root: an entry for each value ──▶ node: up to 8 bits more ──▶ … ──▶ leaf: rules side by side,
//!                                                                       eight compared at a time
//! ```
//! * Sources times destinations cannot be a table: sets of a hundred thousand rules have tens of thousands of both. But nearly
//!   every rule is narrow on one side at least, and a few bits of that side tell nearly all of them apart. So the
//!   rules are in three groups, a tree each: narrow on the side on which most are, narrow on the other side, and the few
//!   that are wide on both. No rule of the first two is copied into many cells, which is what makes trees over all
//!   rules explode.
//! * Which bits a node looks at is found greedily (`select`): those after which a rule has the least company in its cell,
//!   times the copies it takes. They are any bits of addresses, ports, protocol and flags; x86's PEXT gathers them.
//! * A leaf has its rules side by side, field by field, and all that a comparison needs: one access, no pointers. Rules stand
//!   in their order, so the first that matches is the leaf's answer, and the least rank of all trees is the list's.
//!   A tree whose first rule comes behind the match so far is left out.
//! * All is in one piece of memory with offsets of 32 bits; an entry holds the number of its leaf's rules, so that just
//!   these lines are fetched.
//! * For IPv6 a trie finds in which interval an address is, of those that the rules' ranges cut; interval numbers fit a word,
//!   and the trees are over them.
//! * A list that has been changed is the old base with a delta ([`crate::rules::list`]): a leaf that goes over
//!   a removed rule to the next match, and the added rules, which are one more leaf. A rule that was added wins if it
//!   stands in front of what the base answers.
//!
//! # Figures
//!
//! `cargo bench -p penstock-bench --bench lists`, IPv4, one core of an AMD EPYC with AVX2, bursts of 32, each header once; the
//! machine was busy, and each figure is the least of 41 rounds. The profile was a quick one without link-time optimisation;
//! a build in four units took 37 to 55 ns where this one took 53 to 75.
//!
//! | 100,000 rules | a header | build | memory, rules and all |
//! |---|---|---|---|
//! | acl1 | 59 ns | 131 ms | 7.1 MB |
//! | fw1 | 75 ns | 163 ms | 10.2 MB |
//! | ipc1 | 61 ns | 70 ms | 7.3 MB |
//!
//! At 10,000 rules a header takes about the same: the walk is three short ones whatever the size, and what it waits for is
//! fetched ahead. One changed rule is a table 12 to 18 µs later.
//!
//! # Limits
//!
//! IPv6 is right and not yet quick: interval numbers are not aligned as prefixes are, so that few bits tell rules apart well, and
//! its packets are looked up one after the other. The same command shows half a microsecond to eight a header, and
//! ten times the memory at 100,000 rules.
//!
//! # Thread-safety
//!
//! Nothing in a table changes: any number of threads may ask it.

mod build;
mod forest;
mod lane;
mod lookup;
mod select;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::arch::lanes::{Key, run};
use crate::packet::Direction;
use crate::rules::list::RuleList;
use crate::rules::{Decision, Query};
pub(crate) use forest::Leaf;
use forest::{BURST, Forest, NONE, Walk, WalkLeaf};
pub(crate) use lane::Lane;
pub use lookup::Lookup;

/// A list, ready to be asked.
#[derive(Clone, Debug)]
pub struct ListTable {
    list: Arc<RuleList>,
    lookup: Arc<Lookup>,
}

impl ListTable {
    /// Compiles a list. What it shares with one that has been compiled is not compiled again: after a change that costs
    /// next to nothing.
    pub fn new(list: &Arc<RuleList>) -> Self {
        ListTable { list: Arc::clone(list), lookup: Arc::clone(list.prepare()) }
    }

    /// The list.
    pub fn list(&self) -> &Arc<RuleList> {
        &self.list
    }

    /// Bytes on the heap: rules, trees, what has been added.
    pub fn memory(&self) -> usize {
        self.list.memory()
    }

    /// What the list decides about a packet in this direction.
    pub fn judge(&self, direction: Direction, query: Query) -> Decision {
        let mut decision = [Decision::CLOSED];
        self.judge_burst(direction, &[query], &mut decision);
        decision[0]
    }

    /// What the list decides about each packet; as many decisions are written as there are of both.
    pub fn judge_burst(&self, direction: Direction, queries: &[Query], decisions: &mut [Decision]) {
        for (queries, decisions) in queries.chunks(BURST).zip(decisions.chunks_mut(BURST)) {
            let mut keys = [Key::default(); BURST];
            let mut all_v4 = true;
            for (key, query) in keys.iter_mut().zip(queries) {
                let v4 = lane::v4_key(direction, query);
                all_v4 &= v4.is_some();
                *key = v4.unwrap_or_default();
            }
            if all_v4 {
                self.decide(direction, self.lookup.v4(), &keys[..queries.len()], queries, decisions);
            } else {
                self.judge_mixed(direction, &keys, queries, decisions);
            }
        }
    }

    /// A burst with IPv6 in it: each family by itself.
    fn judge_mixed(&self, direction: Direction, keys: &[Key; BURST], queries: &[Query], decisions: &mut [Decision]) {
        let families =
            queries.iter().map(|query| (query.source(direction).is_v4(), query.destination(direction).is_v4()));
        for ((key, query), (decision, family)) in keys.iter().zip(queries).zip(decisions.iter_mut().zip(families)) {
            let one = std::slice::from_mut(decision);
            let empty = Forest::default();
            match (family, self.lookup.v6()) {
                ((true, true), _) => self.decide(direction, self.lookup.v4(), &[*key], &[*query], one),
                ((false, false), Some(v6)) => {
                    self.decide(direction, v6.forest(), &[v6.key(direction, query)], &[*query], one);
                }
                ((false, false), None) => self.decide(direction, &empty, &[*key], &[*query], one),
                // No packet is of two families; the definition has an answer all the same.
                _ => one[0] = self.list.judge(direction, *query),
            }
        }
    }

    fn decide(
        &self,
        direction: Direction,
        forest: &Forest,
        keys: &[Key],
        queries: &[Query],
        decisions: &mut [Decision],
    ) {
        let mut best = [NONE; BURST];
        let best = &mut best[..keys.len()];
        run(Walk { forest, keys, removed: self.list.delta().removed(), best });
        if self.list.delta().added().is_empty() {
            for (decision, &rank) in decisions.iter_mut().zip(&*best) {
                *decision = self.list.decision(rank);
            }
        } else {
            self.decide_with_added(direction, best, keys, queries, decisions);
        }
    }

    /// Goes over the rules added, too: one of them wins if it stands in front of what the base has answered.
    fn decide_with_added(
        &self,
        direction: Direction,
        best: &[u32],
        keys: &[Key],
        queries: &[Query],
        decisions: &mut [Decision],
    ) {
        let delta = self.list.delta();
        let mut added = [NONE; BURST];
        let added = &mut added[..keys.len()];
        if queries.first().is_some_and(|query| query.peer.is_v4()) {
            run(WalkLeaf { leaf: delta.leaf(), keys, best: added });
        } else if delta.any_wide() {
            for (index, query) in added.iter_mut().zip(queries) {
                let matching = delta.added().iter().position(|added| added.rule.matches(direction, query));
                *index = matching.map_or(NONE, |index| index as u32);
            }
        }
        for ((decision, &rank), &index) in decisions.iter_mut().zip(best).zip(&*added) {
            *decision = match delta.added().get(index as usize) {
                Some(added) if added.before <= rank => added.rule.decision(),
                _ => self.list.decision(rank),
            };
        }
    }
}
