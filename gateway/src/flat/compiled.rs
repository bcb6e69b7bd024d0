//! Rules of one family with everything worked out that is the same for all views.

use std::collections::HashMap;

use crate::judge::{Header, RuleAt, Verdict};
use crate::model::{Action, Family, Hook, Limit, Match, Policy, Ruleset, Test};
use crate::space::Cube;
use crate::space::meaning::Meaning;

use super::walk::{Detail, Walk};
use super::{FlatList, FlattenError, Place, View};

/// What a rule does, with chains by their index. A chain that there is not is an empty one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Does {
    Decide(Verdict),
    Jump(Option<usize>),
    Goto(Option<usize>),
    Return,
    Continue,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) cubes: Vec<Cube>,
    /// Tests of interfaces and states, by their index, and whether they are negated.
    tests: Box<[(u32, bool)]>,
    pub(super) limit: Option<Limit>,
    pub(super) logs: bool,
    pub(super) does: Does,
}

/// A chain's rules.
#[derive(Debug, Default)]
pub(super) struct CompiledChain {
    pub(super) rules: Vec<CompiledRule>,
    /// How many rules there are from each on, those of chains that are jumped to included: what writing them again costs.
    pub(super) weight: Vec<u64>,
}

/// A rule set's chains of one family.
pub(crate) struct Compiled<'a> {
    pub(super) ruleset: &'a Ruleset,
    family: Family,
    /// Only those that the hooks asked for can get to.
    pub(super) chains: HashMap<usize, CompiledChain>,
    tests: Vec<&'a Test>,
    /// The tests that are met from each hook's chain, sorted.
    met: HashMap<Hook, Vec<u32>>,
}

impl<'a> Compiled<'a> {
    pub(crate) fn new(ruleset: &'a Ruleset, family: Family, hooks: &[Hook]) -> Result<Self, FlattenError> {
        let mut compiled = Compiled { ruleset, family, chains: HashMap::new(), tests: Vec::new(), met: HashMap::new() };
        let mut names = HashMap::new();
        for (index, chain) in ruleset.chains.iter().enumerate().filter(|(_, chain)| chain.is_for(family)) {
            names.entry(chain.name.as_str()).or_insert(index);
        }
        let mut known = HashMap::new();
        let mut meaning = Meaning::new(ruleset, family);
        for &hook in hooks {
            let Some((base, _)) = ruleset.base(hook, family) else { continue };
            let mut wanted = vec![base];
            let mut seen = Vec::new();
            while let Some(chain) = wanted.pop() {
                if seen.contains(&chain) {
                    continue;
                }
                seen.push(chain);
                if !compiled.chains.contains_key(&chain) {
                    let made = compiled.chain(chain, &names, &mut known, &mut meaning)?;
                    compiled.chains.insert(chain, made);
                }
                let rules = &compiled.chains[&chain].rules;
                wanted.extend(rules.iter().filter_map(|rule| match rule.does {
                    Does::Jump(target) | Does::Goto(target) => target,
                    _ => None,
                }));
            }
            let rules = seen.iter().flat_map(|chain| &compiled.chains[chain].rules);
            let mut met: Vec<u32> = rules.flat_map(|rule| rule.tests.iter().map(|(test, _)| *test)).collect();
            met.sort_unstable();
            met.dedup();
            compiled.met.insert(hook, met);
        }
        compiled.weigh();
        Ok(compiled)
    }

    fn chain(
        &mut self,
        chain: usize,
        names: &HashMap<&str, usize>,
        known: &mut HashMap<&'a Test, u32>,
        meaning: &mut Meaning<'a>,
    ) -> Result<CompiledChain, FlattenError> {
        let mut made = CompiledChain::default();
        for (rule, of) in self.ruleset.chains[chain].rules.iter().enumerate() {
            let cubes = meaning.of_rule(of).map_err(|_| {
                let place = Place::of(self.ruleset, RuleAt { chain, rule });
                FlattenError::Rule(place.unwrap_or_else(|| Place::nowhere(self.ruleset)))
            })?;
            let looked_at =
                of.matches.iter().filter(|of| matches!(of.test, Test::In(_) | Test::Out(_) | Test::State(_)));
            let tests = looked_at.map(|of| {
                let number = *known.entry(&of.test).or_insert_with(|| {
                    self.tests.push(&of.test);
                    self.tests.len() as u32 - 1
                });
                (number, of.negated)
            });
            made.rules.push(CompiledRule {
                cubes,
                tests: tests.collect(),
                limit: of.limit,
                logs: of.log.is_some(),
                does: match &of.action {
                    Action::Allow => Does::Decide(Verdict::Allow),
                    Action::Drop => Does::Decide(Verdict::Drop),
                    Action::Reject(with) => Does::Decide(Verdict::Reject(*with)),
                    Action::Jump(name) => Does::Jump(names.get(name.as_str()).copied()),
                    Action::Goto(name) => Does::Goto(names.get(name.as_str()).copied()),
                    Action::Return => Does::Return,
                    Action::Continue => Does::Continue,
                },
            });
        }
        Ok(made)
    }

    /// Fills in the chains' weights, those of chains that are jumped to first.
    fn weigh(&mut self) {
        let order: Vec<usize> = self.chains.keys().copied().collect();
        let mut weights: HashMap<usize, Vec<u64>> = HashMap::new();
        for chain in order {
            self.weigh_chain(chain, &mut weights, 0);
        }
        for (chain, weight) in weights {
            if let Some(chain) = self.chains.get_mut(&chain) {
                chain.weight = weight;
            }
        }
    }

    fn weigh_chain(&self, chain: usize, weights: &mut HashMap<usize, Vec<u64>>, depth: usize) -> u64 {
        if let Some(known) = weights.get(&chain) {
            return known[0];
        }
        if depth > crate::judge::MAX_DEPTH {
            return 0;
        }
        let rules = &self.chains[&chain].rules;
        let mut weight = vec![0; rules.len() + 1];
        for (index, rule) in rules.iter().enumerate().rev() {
            let inside = match rule.does {
                Does::Jump(Some(target)) | Does::Goto(Some(target)) => self.weigh_chain(target, weights, depth + 1),
                _ => 0,
            };
            weight[index] = u64::saturating_add(weight[index + 1], 1).saturating_add(inside);
        }
        let whole = weight[0];
        weights.insert(chain, weight);
        whole
    }

    /// What the tests say of interfaces and states that matter to a hook's packets: views with the same answers have the same list.
    pub(crate) fn answers(&self, view: &View<'_>) -> Vec<bool> {
        let met = self.met.get(&view.hook).map_or(&[][..], Vec::as_slice);
        met.iter().map(|&test| self.holds(test, view)).collect()
    }

    fn holds(&self, test: u32, view: &View<'_>) -> bool {
        let packet = Header::blank(view.input, view.output, view.state);
        self.ruleset.matches(&Match::is(self.tests[test as usize].clone()), &packet)
    }

    /// Makes a hook's chains one list.
    pub(crate) fn flatten(&self, view: &View<'_>, detail: Detail, most: usize) -> Result<FlatList, FlattenError> {
        let mut holds = vec![false; self.tests.len()];
        for &test in self.met.get(&view.hook).into_iter().flatten() {
            holds[test as usize] = self.holds(test, view);
        }
        let base = self.ruleset.base(view.hook, self.family);
        let policy = base.map_or(Policy::Allow, |(_, policy)| policy);
        let within = view.within.clone().unwrap_or_else(|| Cube::everything(self.family));
        Walk::new(self, holds, policy, detail, most).list(base.map(|(chain, _)| chain), within)
    }
}

impl CompiledRule {
    /// Whether the view lets it mean anything.
    pub(super) fn is_active(&self, holds: &[bool]) -> bool {
        self.tests.iter().all(|&(test, negated)| holds[test as usize] != negated)
    }
}
