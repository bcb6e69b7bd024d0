//! Whether two rule sets decide alike, over all packets.
//!
//! ```text
//!   family × hook ──▶ the same rules by the same words? ──▶ equal
//!         │
//!         ▼
//!   interfaces × states: those that the tests of both rule sets answer alike are one view
//!         │
//!         ▼
//!   one flat list of each rule set ──▶ search: dimension by dimension, by classes of values between which no rule of
//!                                      either list tells, as long as the lists that are left differ
//! ```
//!
//! Verdicts are compared, not logs and counters. A limit is an atom: two rules with the same limit have a token for the same
//! packets, whatever else took one from them, and no other two limits have anything to do with one another. Every difference is
//! shown by a packet, which [`Ruleset::judge`] has judged by both rule sets.

use std::collections::HashSet;

use crate::flat::{Compiled, Detail, FlattenError, MAX_RULES, View};
use crate::model::{Family, Hook, Ruleset};

mod decision;
mod lists;
mod pick;
mod report;
mod same;
mod search;
mod sweep;
#[cfg(test)]
mod tests;
mod views;

pub use report::{Difference, Packet, Side};
use search::Search;

/// How far a comparison goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// So many differences are shown at most.
    pub max_differences: usize,
    /// So many rules are looked at in lists at most; a billion take some ten seconds.
    pub max_work: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_differences: 1000, max_work: 4_000_000_000 }
    }
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every packet is decided alike.
    Equal,
    /// Some are not.
    Different,
    /// No packet was found that is not, but not all were compared.
    Undecided,
}

/// What came out, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// One packet for each pair of deciding rules (or policies) whose packets are decided otherwise.
    pub differences: Vec<Difference>,
    /// Whether there may be more of them than were asked for.
    pub more: bool,
    /// What was not compared to its end, each in words for people.
    pub undecided: Vec<String>,
    /// How many views (family, hook, classes of interfaces and states) were compared by their lists.
    pub views: usize,
}

impl Comparison {
    /// In a word.
    pub fn answer(&self) -> Answer {
        match (self.differences.is_empty(), self.undecided.is_empty()) {
            (false, _) => Answer::Different,
            (true, true) => Answer::Equal,
            (true, false) => Answer::Undecided,
        }
    }
}

/// Compares what two rule sets decide.
///
/// # Errors
/// One of them can't be made lists: see [`FlattenError`].
pub fn compare(a: &Ruleset, b: &Ruleset, options: &Options) -> Result<Comparison, FlattenError> {
    let mut comparison = Comparison::default();
    let interfaces = views::interfaces([a, b]);
    let mut work = options.max_work;
    for family in Family::BOTH {
        for hook in Hook::ALL {
            if same::says(a, b, hook, family) {
                continue;
            }
            let compiled = [Compiled::new(a, family, &[hook])?, Compiled::new(b, family, &[hook])?];
            let mut search = Search::new([a, b], family, options.max_differences, work);
            let mut seen = HashSet::new();
            for view in views::of(family, hook, &interfaces) {
                if search.is_full() {
                    break;
                }
                if !seen.insert(compiled.each_ref().map(|side| side.answers(&view))) {
                    continue;
                }
                if search.is_exhausted() {
                    comparison.undecided.push(views::name(&view));
                    continue;
                }
                let [left, right] = &compiled;
                let lists = [flat(left, &view)?, flat(right, &view)?];
                comparison.views += 1;
                if !search.compare(&view, &lists, &mut comparison) {
                    comparison.undecided.push(views::name(&view));
                }
            }
            work = search.work_left();
        }
    }
    Ok(comparison)
}

fn flat(compiled: &Compiled<'_>, view: &View<'_>) -> Result<crate::flat::FlatList, FlattenError> {
    compiled.flatten(view, Detail::Verdicts, MAX_RULES)
}
