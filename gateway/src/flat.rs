//! Chains as one ordered list in which the first match decides.
//!
//! [`flatten`] walks a hook's chains for packets of one [`View`] (family, hook, interfaces, connection state) with a
//! condition in hand: the cube of packets that get to where it is. Falling off a chain's end costs nothing, since the rules that
//! follow in the caller stand behind in the list anyway. A rule that is only met on the way (it logs, it counts, it has a
//! limit) makes the packets that it means differ from others for the rest of their way: what follows is written once more for
//! them, with the rule as a [`Step`], before the walk goes on. Packets that leave a chain in its middle (a return, the end of a
//! chain that was gone to) are taken out of the condition, or what follows is written once more for them, whichever is shorter.
//!
//! What a rule of the list comes to is an [`Outcome`]. Jumps and returns are no steps: they change nothing of what becomes of a
//! packet. Those jumps that lead to the deciding rule are its path.

use std::fmt;

use crate::judge::{Header, RuleAt, Verdict};
use crate::model::{Family, Hook, Limit, Origin, Rule, Ruleset, States};
use crate::space::Cube;

mod boxes;
mod compiled;
mod outcomes;
#[cfg(test)]
mod tests;
mod walk;

pub use boxes::FlatBox;
pub(crate) use compiled::Compiled;
pub(crate) use walk::Detail;

/// A flat list has at most so many rules.
pub const MAX_RULES: usize = 1 << 22;

/// From where the rules are looked at: what is the same of all packets that a flat list is for.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Where packets meet the rules.
    pub hook: Hook,
    /// The interface by which they came in, if they did.
    pub input: Option<&'a str>,
    /// The interface by which they go out, if they do.
    pub output: Option<&'a str>,
    /// Their connections' state: one of [`States::EXCLUSIVE`], with or without [`States::SNAT`] and [`States::DNAT`].
    pub state: States,
    /// Only these packets, of the same family: the list decides no others.
    pub within: Option<Cube>,
}

/// A rule that means a packet before another one decides it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Which.
    pub rule: RuleAt,
    /// If it has a limit, it means the packet only when there is a token.
    pub limit: Option<Limit>,
    /// Whether it logs what it means.
    pub logs: bool,
    /// The outcome if it means the packet, by its index: no other step is tried then. `None` if the next step is tried
    /// anyway.
    pub instead: Option<u32>,
}

/// What becomes of a packet: the steps are taken in order, and if none of them leads elsewhere, the verdict counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Rules that are met on the way.
    pub steps: Vec<Step>,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The rule that decides; `None` for the hook's policy.
    pub rule: Option<RuleAt>,
    /// The jumps by which it was reached, the outermost first.
    pub path: Vec<RuleAt>,
}

/// A rule of a flat list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlatRule {
    /// Which packets it means.
    pub cube: Cube,
    /// What becomes of them: an index of [`FlatList::outcomes`].
    pub outcome: u32,
}

/// Rules in order, the first that means a packet decides it. The last one means every packet that the list is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatList {
    /// The rules.
    pub rules: Vec<FlatRule>,
    /// What they come to.
    pub outcomes: Vec<Outcome>,
}

/// What an outcome comes to when it is known for which limits there are tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The rule that decides; `None` for the hook's policy.
    pub rule: Option<RuleAt>,
    /// The steps that meant the packet, in order; the deciding rule is none of them.
    pub met: Vec<RuleAt>,
    /// The jumps by which the deciding rule was reached.
    pub path: Vec<RuleAt>,
}

impl FlatList {
    /// The outcome of a packet, by its index, found by reading the rules one after the other. `None` if the list is not for it.
    pub fn judge(&self, packet: &Header<'_>) -> Option<u32> {
        self.rules.iter().find(|rule| rule.cube.contains(packet)).map(|rule| rule.outcome)
    }

    /// Follows an outcome's steps. `token` is asked of each rule with a limit that is tried, and says whether there is a token.
    /// `None` for an index that the list does not have.
    pub fn resolve(&self, outcome: u32, token: &mut dyn FnMut(RuleAt, &Limit) -> bool) -> Option<Resolved> {
        let mut met = Vec::new();
        let mut outcome = self.outcomes.get(outcome as usize)?;
        let mut steps = outcome.steps.iter();
        while let Some(step) = steps.next() {
            if step.limit.as_ref().is_some_and(|limit| !token(step.rule, limit)) {
                continue;
            }
            if let Some(instead) = step.instead {
                outcome = self.outcomes.get(instead as usize)?;
                steps = outcome.steps.iter();
                // A rule that decides is no step of its own outcome, nor is one that only jumps.
                if !step.logs || outcome.rule == Some(step.rule) {
                    continue;
                }
            }
            met.push(step.rule);
        }
        Some(Resolved { verdict: outcome.verdict, rule: outcome.rule, met, path: outcome.path.clone() })
    }
}

/// Which rule an error is about, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    origin: Origin,
    chain: String,
    name: Option<String>,
}

impl Place {
    /// Of a rule.
    pub fn of(ruleset: &Ruleset, at: RuleAt) -> Option<Place> {
        let chain = ruleset.chains.get(at.chain)?;
        let Rule { origin, name, .. } = chain.rules.get(at.rule)?;
        Some(Place { origin: origin.clone(), chain: chain.name.clone(), name: name.clone() })
    }
}

impl Place {
    /// Of a rule that the rule set does not have: only its first chain is told.
    fn nowhere(ruleset: &Ruleset) -> Place {
        let chain = ruleset.chains.first();
        Place {
            origin: chain.map_or(Origin { file: "-".into(), line: 0 }, |chain| chain.origin.clone()),
            chain: chain.map_or(String::new(), |chain| chain.name.clone()),
            name: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(name) = &self.name {
            write!(f, "rule {name} ")?;
        }
        write!(f, "in chain {}", self.chain)
    }
}

/// Why chains can't be made one list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlattenError {
    /// One rule comes to too many cubes.
    #[error(
        "{0}: its matches come to more than {max} products of ranges: write the set's parts as several rules, or use a set \
         without exceptions or negation",
        max = crate::space::meaning::MAX_CUBES
    )]
    Rule(Place),
    /// The list becomes too long.
    #[error(
        "{place}: what follows this rule has to be written once more for the packets that it means, and the list would have more \
         than {most} rules: put rules that log, count or limit and overlap one another behind those that decide, or make \
         their matches alike"
    )]
    TooLong {
        /// The rule.
        place: Place,
        /// The most rules that were allowed.
        most: usize,
    },
    /// Jumps lead in a circle.
    #[error("{0}: the jumps up to here nest deeper than {max} chains: break the circle", max = crate::judge::MAX_DEPTH)]
    TooDeep(Place),
}

/// Makes a hook's chains one list.
///
/// # Errors
/// The list would be too long, a rule is too complicated, or jumps lead in a circle: [`FlattenError`] names the rule.
pub fn flatten(ruleset: &Ruleset, view: &View<'_>) -> Result<FlatList, FlattenError> {
    Compiled::new(ruleset, view.family, &[view.hook])?.flatten(view, Detail::Full, MAX_RULES)
}

/// Rules of one family made ready once, for lists of many views.
pub struct Flattener<'a> {
    compiled: Compiled<'a>,
    max_rules: usize,
}

impl<'a> Flattener<'a> {
    /// For views of this family.
    ///
    /// # Errors
    /// A rule is too complicated.
    pub fn new(ruleset: &'a Ruleset, family: Family) -> Result<Self, FlattenError> {
        Ok(Flattener { compiled: Compiled::new(ruleset, family, &Hook::ALL)?, max_rules: MAX_RULES })
    }

    /// Makes only lists of at most so many rules.
    #[must_use]
    pub fn at_most(self, max_rules: usize) -> Self {
        Flattener { max_rules, ..self }
    }

    /// Makes a hook's chains one list ([`flatten`]). The view is to be of this family.
    ///
    /// # Errors
    /// See [`flatten`].
    pub fn flatten(&self, view: &View<'_>) -> Result<FlatList, FlattenError> {
        self.compiled.flatten(view, Detail::Full, self.max_rules)
    }
}
