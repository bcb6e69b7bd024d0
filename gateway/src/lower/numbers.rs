//! Which number a rule has in the engine.

use std::collections::{HashMap, VecDeque};

use dataplane::rules::RuleId;

use super::Whose;
use crate::judge::RuleAt;
use crate::model::{Action, Chain, Limit, Log, Match, Rule, Ruleset};

/// The numbers of a rule set's rules and policies.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// By chain and rule.
    rules: Vec<Vec<u32>>,
    /// By chain: those of hooks' policies.
    policies: Vec<u32>,
    /// Of a hook without a chain.
    nobody: u32,
    whose: HashMap<u32, Whose>,
    /// No number from here on has ever been given.
    end: u32,
}

/// What makes a rule the same one in the next version: its name, or all that it says.
#[derive(PartialEq, Eq, Hash)]
enum Identity<'a> {
    Name(&'a str),
    Content(&'a [Match], Option<Limit>, Option<&'a Log>, &'a Action, Option<&'a str>),
}

fn identity(rule: &Rule) -> Identity<'_> {
    match &rule.name {
        Some(name) => Identity::Name(name),
        None => Identity::Content(&rule.matches, rule.limit, rule.log.as_ref(), &rule.action, rule.comment.as_deref()),
    }
}

impl Numbers {
    pub(super) fn new(ruleset: &Ruleset, before: Option<(&Ruleset, &Numbers)>) -> Numbers {
        let mut next = before.map_or(0, |(_, numbers)| numbers.end);
        let mut fresh = || {
            next += 1;
            next - 1
        };
        let nobody = before.map_or_else(&mut fresh, |(_, numbers)| numbers.nobody);
        let (mut rules, mut policies) = (Vec::new(), Vec::new());
        for chain in &ruleset.chains {
            let same = before.and_then(|(ruleset, numbers)| {
                let is_same = |before: &Chain| before.name == chain.name && before.families == chain.families;
                let index = ruleset.chains.iter().position(is_same)?;
                Some((&ruleset.chains[index].rules, numbers.rules.get(index)?, *numbers.policies.get(index)?))
            });
            policies.push(same.map_or_else(&mut fresh, |(_, _, policy)| policy));
            let mut known: HashMap<Identity<'_>, VecDeque<u32>> = HashMap::new();
            if let Some((before, numbers, _)) = same {
                for (rule, number) in before.iter().zip(numbers) {
                    known.entry(identity(rule)).or_default().push_back(*number);
                }
            }
            let mut numbers = Vec::with_capacity(chain.rules.len());
            for rule in &chain.rules {
                let kept = known.get_mut(&identity(rule)).and_then(VecDeque::pop_front);
                numbers.push(kept.unwrap_or_else(&mut fresh));
            }
            rules.push(numbers);
        }
        let mut whose = HashMap::from([(nobody, Whose::Policy(None))]);
        for (chain, numbers) in rules.iter().enumerate() {
            whose.insert(policies[chain], Whose::Policy(Some(chain)));
            let of = |(rule, number): (usize, &u32)| (*number, Whose::Rule(RuleAt { chain, rule }));
            whose.extend(numbers.iter().enumerate().map(of));
        }
        Numbers { rules, policies, nobody, whose, end: next }
    }

    pub(super) fn rule(&self, at: RuleAt) -> Option<RuleId> {
        self.rules.get(at.chain)?.get(at.rule).copied().map(RuleId)
    }

    /// The number of the policy of a hook with this chain, or without one.
    pub(super) fn policy(&self, chain: Option<usize>) -> Option<RuleId> {
        chain.map_or(Some(self.nobody), |chain| self.policies.get(chain).copied()).map(RuleId)
    }

    /// The number of who decides where no rule is asked.
    pub(super) fn nobody(&self) -> RuleId {
        RuleId(self.nobody)
    }

    pub(super) fn whose(&self, number: RuleId) -> Option<Whose> {
        self.whose.get(&number.0).copied()
    }

    pub(super) fn end(&self) -> u32 {
        self.end
    }
}
