//! Rule sets that say the same by the same words: whoever compares a rule set with its copy should not have to search.

use std::collections::HashSet;

use crate::model::{Action, Family, Hook, Match, Rule, Ruleset, Test};

struct Words<'r> {
    rulesets: [&'r Ruleset; 2],
    family: Family,
    /// Pairs of chains that were compared, or are being.
    chains: HashSet<(usize, usize)>,
    sets: HashSet<&'r str>,
}

/// Whether a hook's chains are the same rule by rule, with the chains, sets and groups that they speak of. Logs, comments and
/// names of rules don't count.
pub(super) fn says(a: &Ruleset, b: &Ruleset, hook: Hook, family: Family) -> bool {
    match (a.base(hook, family), b.base(hook, family)) {
        (None, None) => true,
        (Some((left, policy)), Some((right, other))) => {
            let mut words = Words { rulesets: [a, b], family, chains: HashSet::new(), sets: HashSet::new() };
            policy == other && words.chain(left, right)
        }
        _ => false,
    }
}

impl<'r> Words<'r> {
    fn chain(&mut self, left: usize, right: usize) -> bool {
        if !self.chains.insert((left, right)) {
            return true;
        }
        let [a, b] = self.rulesets;
        let (left, right) = (&a.chains[left].rules, &b.chains[right].rules);
        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| self.rule(left, right))
    }

    fn rule(&mut self, left: &'r Rule, right: &Rule) -> bool {
        if left.matches != right.matches || left.limit != right.limit {
            return false;
        }
        if !left.matches.iter().all(|test| self.same_names(test)) {
            return false;
        }
        match (&left.action, &right.action) {
            (Action::Jump(one), Action::Jump(other)) | (Action::Goto(one), Action::Goto(other)) => {
                let [a, b] = self.rulesets;
                match (a.chain(one, self.family), b.chain(other, self.family)) {
                    (Some(one), Some(other)) => self.chain(one, other),
                    (one, other) => one == other,
                }
            }
            (one, other) => one == other,
        }
    }

    /// Whether what a match names is the same in both.
    fn same_names(&mut self, test: &'r Match) -> bool {
        let [a, b] = self.rulesets;
        match &test.test {
            Test::Set { name, .. } => {
                !self.sets.insert(name)
                    || match (a.sets.get(name), b.sets.get(name)) {
                        (Some(one), Some(other)) => {
                            one.dimensions == other.dimensions
                                && one.elements == other.elements
                                && one.exceptions == other.exceptions
                        }
                        (one, other) => one.is_none() && other.is_none(),
                    }
            }
            Test::In(groups) | Test::Out(groups) => groups.iter().all(|name| {
                let interfaces = |ruleset: &'r Ruleset| ruleset.groups.get(name).map(|group| &group.interfaces);
                interfaces(a) == interfaces(b)
            }),
            _ => true,
        }
    }
}
