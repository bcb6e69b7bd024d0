//! Outcomes, each kept once.

use std::collections::HashMap;
use std::rc::Rc;

use crate::judge::{RuleAt, Verdict};

use super::{Outcome, Step};

/// A sequence that grows at its end and shares its beginning.
#[derive(Debug)]
pub(super) struct Link<T> {
    item: T,
    before: Chained<T>,
}

/// The end of such a sequence; `None` for the empty one.
pub(super) type Chained<T> = Option<Rc<Link<T>>>;

/// The sequence with one more item.
pub(super) fn with<T>(before: &Chained<T>, item: T) -> Chained<T> {
    Some(Rc::new(Link { item, before: before.clone() }))
}

/// The items in order.
pub(super) fn items<T: Clone>(end: &Chained<T>) -> Vec<T> {
    let links = std::iter::successors(end.as_deref(), |link| link.before.as_deref());
    let mut items: Vec<T> = links.map(|link| link.item.clone()).collect();
    items.reverse();
    items
}

#[derive(Debug, Default)]
pub(super) struct Outcomes {
    numbers: HashMap<Rc<Outcome>, u32>,
    all: Vec<Rc<Outcome>>,
}

impl Outcomes {
    pub(super) fn number(
        &mut self,
        trail: &Chained<Step>,
        verdict: Verdict,
        rule: Option<RuleAt>,
        path: &Chained<RuleAt>,
    ) -> u32 {
        self.keep(Outcome { steps: items(trail), verdict, rule, path: items(path) })
    }

    /// The outcome of taking these steps first.
    pub(super) fn after(&mut self, trail: &Chained<Step>, step: Step, outcome: u32) -> u32 {
        let mut outcome = (*self.all[outcome as usize]).clone();
        let mut steps = items(trail);
        steps.push(step);
        steps.append(&mut outcome.steps);
        outcome.steps = steps;
        self.keep(outcome)
    }

    fn keep(&mut self, outcome: Outcome) -> u32 {
        let outcome = Rc::new(outcome);
        let all = &mut self.all;
        *self.numbers.entry(outcome).or_insert_with_key(|outcome| {
            all.push(outcome.clone());
            all.len() as u32 - 1
        })
    }

    pub(super) fn into_all(self) -> Vec<Outcome> {
        drop(self.numbers);
        self.all.into_iter().map(|outcome| Rc::try_unwrap(outcome).unwrap_or_else(|shared| (*shared).clone())).collect()
    }
}
