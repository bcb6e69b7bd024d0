//! Where jumps lead: to chains that are there, not to hooks, and never in a circle.

use std::collections::HashMap;

use super::{Problems, chain_object, did_you_mean, rule_object};
use crate::judge::MAX_DEPTH;
use crate::model::{Action, Chain, Family, Hook, Ruleset};

/// Which chains go on to which.
pub(super) struct Graph<'a> {
    ruleset: &'a Ruleset,
    chains: HashMap<(&'a str, Family), usize>,
    /// By chain: a bit for each hook ([`Hook::ALL`]) from which packets may come there.
    hooks: Vec<u8>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(ruleset: &'a Ruleset) -> Self {
        let mut chains = HashMap::new();
        for (index, chain) in ruleset.chains.iter().enumerate() {
            for family in Family::BOTH.into_iter().filter(|family| chain.is_for(*family)) {
                chains.entry((chain.name.as_str(), family)).or_insert(index);
            }
        }
        let mut graph = Graph { ruleset, chains, hooks: vec![0; ruleset.chains.len()] };
        for family in Family::BOTH {
            for (bit, hook) in Hook::ALL.into_iter().enumerate() {
                graph.reach(family, hook, 1 << bit);
            }
        }
        graph
    }

    /// Whether a hook's packets may come to a chain, and those of no other hook.
    pub(super) fn only_from(&self, chain: usize, hook: Hook) -> bool {
        let bit = Hook::ALL.iter().position(|of| *of == hook).map_or(0, |index| 1 << index);
        self.hooks[chain] == bit
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        for chain in &self.ruleset.chains {
            self.check_targets(chain, problems);
        }
        for family in Family::BOTH {
            self.check_circles(family, problems);
        }
    }

    /// The jumps of a chain for a family: the rule's index and the chain where it leads. None leads to a hook's own.
    fn jumps(&self, chain: usize, family: Family) -> impl Iterator<Item = (usize, usize)> {
        let chains = &self.ruleset.chains;
        let leads = move |action: &Action| match action {
            Action::Jump(name) | Action::Goto(name) => {
                self.chains.get(&(name.as_str(), family)).copied().filter(|target| chains[*target].hook.is_none())
            }
            _ => None,
        };
        chains[chain].rules.iter().enumerate().filter_map(move |(index, rule)| Some((index, leads(&rule.action)?)))
    }

    fn reach(&mut self, family: Family, hook: Hook, bit: u8) {
        let mut seen = vec![false; self.hooks.len()];
        let mut open: Vec<usize> = self.ruleset.base(hook, family).map(|(chain, _)| chain).into_iter().collect();
        while let Some(chain) = open.pop() {
            if !std::mem::replace(&mut seen[chain], true) {
                self.hooks[chain] |= bit;
                open.extend(self.jumps(chain, family).map(|(_, target)| target));
            }
        }
    }

    fn check_targets(&self, chain: &Chain, problems: &mut Problems) {
        for (index, rule) in chain.rules.iter().enumerate() {
            let (Action::Jump(name) | Action::Goto(name)) = &rule.action else { continue };
            if problems.full() {
                return;
            }
            let object = rule_object(&chain.name, chain.hook.is_some(), index, rule.name.as_deref());
            if Hook::ALL.iter().any(|hook| hook.name() == name) {
                let text = format!("{name:?} is a hook's own chain, no rule can go there; put the rules into a chain");
                problems.error(&rule.origin, &object, "action", text);
                continue;
            }
            let missing = |family: &Family| !self.chains.contains_key(&(name.as_str(), *family));
            let families: Vec<Family> = Family::BOTH.into_iter().filter(|family| chain.is_for(*family)).collect();
            match families.iter().filter(|family| missing(family)).count() {
                0 => {}
                count if count == families.len() => {
                    let names = self.ruleset.chains.iter().filter(|chain| chain.hook.is_none());
                    let remedy = did_you_mean(name, names.map(|chain| chain.name.as_str()))
                        .unwrap_or_else(|| "write it under `chains`".to_owned());
                    let text = format!("there is no chain {name:?}; {remedy}");
                    problems.error(&rule.origin, &object, "action", text);
                }
                _ => {
                    let text = format!(
                        "the chain {name:?} is for one family only, this one for both; write it for the other family as well"
                    );
                    problems.error(&rule.origin, &object, "action", text);
                }
            }
        }
    }

    /// Goes through a family's chains depth first, without recursion: how deep they nest is up to whoever wrote them.
    fn check_circles(&self, family: Family, problems: &mut Problems) {
        let chains = &self.ruleset.chains;
        // How many jumps follow on one another from a chain, when that is known.
        let mut depths: Vec<Option<usize>> = vec![None; chains.len()];
        let mut on_path = vec![false; chains.len()];
        for start in 0..chains.len() {
            if depths[start].is_some() || !chains[start].is_for(family) {
                continue;
            }
            let mut path = vec![(start, self.jumps(start, family).collect::<Vec<_>>(), 0)];
            on_path[start] = true;
            while let Some((chain, jumps, next)) = path.last_mut() {
                let chain = *chain;
                let Some(&(rule, target)) = jumps.get(*next) else {
                    let below = jumps.iter().filter_map(|(_, target)| depths[*target]).max();
                    depths[chain] = Some(below.map_or(0, |depth| depth + 1));
                    on_path[chain] = false;
                    path.pop();
                    continue;
                };
                *next += 1;
                if on_path[target] {
                    // A circle for both families is told once.
                    let both = family == Family::V6 && chains[chain].families.is_none();
                    if !both {
                        let circle = path.iter().map(|(chain, ..)| *chain).skip_while(|chain| *chain != target);
                        self.tell_circle(chain, rule, circle.chain([target]).collect(), problems);
                    }
                } else if depths[target].is_none() {
                    on_path[target] = true;
                    path.push((target, self.jumps(target, family).collect(), 0));
                }
            }
        }
        for (chain, depth) in chains.iter().zip(depths) {
            let told = family == Family::V6 && chain.families.is_none();
            if chain.hook.is_some() && depth.is_some_and(|depth| depth > MAX_DEPTH) && !told {
                let text = format!(
                    "its jumps are nested more than {MAX_DEPTH} deep; let chains follow on one another instead"
                );
                problems.error(&chain.origin, &chain_object(&chain.name, true), "rules", text);
            }
        }
    }

    fn tell_circle(&self, chain: usize, rule: usize, circle: Vec<usize>, problems: &mut Problems) {
        let Chain { name, hook, rules, .. } = &self.ruleset.chains[chain];
        let object = rule_object(name, hook.is_some(), rule, rules[rule].name.as_deref());
        let circle: Vec<&str> = circle.into_iter().map(|chain| self.ruleset.chains[chain].name.as_str()).collect();
        let text = format!("the jumps go in a circle ({}); take one of them out", circle.join(" → "));
        problems.error(&rules[rule].origin, &object, "action", text);
    }
}
