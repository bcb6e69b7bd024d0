//! Lists of rules by number, for as long as a wire has them.

use std::sync::Arc;

use super::list::ListTable;
use super::stateful::StatefulTable;
use crate::rules::list::RuleList;
use crate::rules::stateful::StatefulRules;

/// Something compiled that wires share, and what it was compiled from.
pub(super) trait Table: Clone {
    /// What it is compiled from.
    type Rules;

    /// Compiles.
    fn compile(rules: &Arc<Self::Rules>) -> Self;

    /// What it was compiled from.
    fn rules(&self) -> &Arc<Self::Rules>;

    /// Whether two say the same, as far as that is quickly told.
    fn says(one: &Self::Rules, other: &Self::Rules) -> bool;
}

impl Table for ListTable {
    type Rules = RuleList;

    fn compile(rules: &Arc<RuleList>) -> Self {
        ListTable::new(rules)
    }

    fn rules(&self) -> &Arc<RuleList> {
        self.list()
    }

    fn says(one: &RuleList, other: &RuleList) -> bool {
        one.says(other)
    }
}

impl Table for StatefulTable {
    type Rules = StatefulRules;

    fn compile(rules: &Arc<StatefulRules>) -> Self {
        StatefulTable::new(rules)
    }

    fn rules(&self) -> &Arc<StatefulRules> {
        StatefulTable::rules(self)
    }

    fn says(one: &StatefulRules, other: &StatefulRules) -> bool {
        one.says(other)
    }
}

/// The tables that are held, each with the number of directions that have it.
#[derive(Debug)]
pub(super) struct Held<T>(Vec<Option<(T, usize)>>);

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held(Vec::new())
    }
}

impl<T: Table> Held<T> {
    /// The number of rules, which one more direction has now. Rules that say the same as some that are held get their number,
    /// and take their place: they may be the better merged ones.
    pub(super) fn hold(&mut self, rules: &Arc<T::Rules>) -> u32 {
        let same = |held: &Option<(T, usize)>| held.as_ref().is_some_and(|(table, _)| T::says(table.rules(), rules));
        if let Some(number) = self.0.iter().position(same) {
            if let Some((table, holders)) = &mut self.0[number] {
                *holders += 1;
                if !Arc::ptr_eq(table.rules(), rules) {
                    *table = T::compile(rules);
                }
            }
            return number as u32;
        }
        let free = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[free] = Some((T::compile(rules), 1));
        free as u32
    }

    /// A direction has the rules no more.
    pub(super) fn release(&mut self, number: u32) {
        if let Some(held) = self.0.get_mut(number as usize)
            && let Some((_, holders)) = held
        {
            *holders -= 1;
            if *holders == 0 {
                *held = None;
            }
        }
    }

    /// The tables by number.
    pub(super) fn tables(&self) -> Box<[Option<T>]> {
        self.0.iter().map(|held| held.as_ref().map(|(table, _)| table.clone())).collect()
    }
}
