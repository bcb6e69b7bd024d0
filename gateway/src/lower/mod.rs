//! Rule sets for the engine: for each wire, direction and connection state an ordered list of boxes ([`dataplane::rules::list`]), and courses
//! for rules that log, count or limit.
//!
//! # Numbers
//!
//! A rule's number in the engine is one that it keeps: rules that are found again in the next version of a rule set keep theirs, so that a
//! change of a rule, or of one element of a large set, is a change of a few boxes, and counters go on. The hooks' policies have numbers, too.

mod course;
mod numbers;
mod sets;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dataplane::rules::list::{Edit, ListRule, RuleList};
use dataplane::rules::stateful::{ConnectionState, Limiter, RuleCounters, RuleHits, StatefulRules};
use dataplane::rules::{Action, RuleId};

use crate::flat::{FlattenError, Flattener};
use crate::judge::RuleAt;
use crate::model::{Family, Limit, Ruleset, States};
use crate::placement::Placement;
use course::Courses;
use numbers::Numbers;
use sets::{Listed, Segment, Uses, Written};
use views::{Part, parts};

/// The most boxes that a list may have: some hundreds of megabytes.
pub const MAX_BOXES: u64 = 4_000_000;

/// The most boxes that are changed one by one; more are compiled anew.
const MAX_EDITS: usize = 512;

/// What the engine is told of a rule set.
#[derive(Debug)]
pub struct Lowered {
    /// For each wire the rules of what goes out of its inside, and of what comes in.
    pub wires: BTreeMap<String, [Arc<StatefulRules>; 2]>,
    numbers: Numbers,
    counters: Arc<RuleCounters>,
    limiters: HashMap<RuleAt, (Limit, Arc<Limiter>)>,
    /// All lists, each once.
    lists: Vec<Listed>,
    /// Sets of which elements of this family can come and go by themselves.
    loose: BTreeSet<(String, Family)>,
}

/// Why a rule set can't be told the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// The chains can't be made one list.
    #[error(transparent)]
    Flatten(#[from] FlattenError),
    /// The list has too many boxes.
    #[error(
        "the rules come to {boxes} combinations of address ranges and ports on wire {wire}, and {MAX_BOXES} are the most: a rule with a large \
         set on both sides, or a large set and many ports, is the usual reason; split it"
    )]
    Boxes {
        /// The wire.
        wire: String,
        /// How many.
        boxes: u64,
    },
    /// Too many rules log, count or limit the same packets.
    #[error(
        "more rules log, count or limit the same packets than can be followed on wire {wire}: leave some of them away"
    )]
    Course {
        /// The wire.
        wire: String,
    },
}

impl Lowered {
    /// What a rule has met.
    pub fn hits(&self, at: RuleAt) -> RuleHits {
        self.numbers.rule(at).map(|number| self.counters.hits(number)).unwrap_or_default()
    }

    /// What a hook's policy has met, by the hook's own chain.
    pub fn policy_hits(&self, chain: usize) -> RuleHits {
        self.numbers.policy(Some(chain)).map(|number| self.counters.hits(number)).unwrap_or_default()
    }

    /// The same with other lists in the places of its own.
    fn with_lists(&self, lists: Vec<Listed>) -> Option<Lowered> {
        let place = |list: &Arc<RuleList>| self.lists.iter().position(|listed| Arc::ptr_eq(&listed.list, list));
        let changed = |list: &Arc<RuleList>| Some(Arc::clone(&lists[place(list)?].list));
        let rules = |rules: &Arc<StatefulRules>| {
            let mut own = ConnectionState::ALL.map(|state| Arc::clone(rules.list(state)));
            for list in &mut own {
                *list = changed(list)?;
            }
            Some(Arc::new(rules.with_lists(own)))
        };
        let mut wires = BTreeMap::new();
        for (name, [egress, ingress]) in &self.wires {
            wires.insert(name.clone(), [rules(egress)?, rules(ingress)?]);
        }
        let (counters, loose) = (Arc::clone(&self.counters), self.loose.clone());
        Some(Lowered { wires, numbers: self.numbers.clone(), counters, limiters: self.limiters.clone(), lists, loose })
    }

    /// The rule, or the hook's chain whose policy it was, of a number that the engine told.
    pub fn whose(&self, number: RuleId) -> Option<Whose> {
        self.numbers.whose(number)
    }
}

/// What has a number in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A rule.
    Rule(RuleAt),
    /// The policy of a hook, by its own chain; `None` of a hook that has none.
    Policy(Option<usize>),
}

/// Makes a rule set ready for the wires of a gateway. `before` is what it follows: rules that are the same keep their numbers, counters and
/// tokens, and lists that differ little are changed rather than made anew.
///
/// # Errors
/// See [`LowerError`].
pub fn lower(
    ruleset: &Ruleset,
    placements: &BTreeMap<String, Placement>,
    workers: usize,
    before: Option<(&Ruleset, &Lowered)>,
) -> Result<Lowered, LowerError> {
    let numbers = Numbers::new(ruleset, before.map(|(ruleset, lowered)| (ruleset, &lowered.numbers)));
    let counters = counters(&numbers, workers, before);
    let limiters = limiters(ruleset, &numbers, before);
    let flatteners = [Flattener::new(ruleset, Family::V4)?, Flattener::new(ruleset, Family::V6)?];
    let mut lowering = Lowering {
        ruleset,
        flatteners,
        numbers: &numbers,
        limiters: &limiters,
        counters: &counters,
        lists: Shared::default(),
        uses: Uses::new(ruleset),
    };
    let mut wires = BTreeMap::new();
    for (name, placement) in placements {
        let before = before.and_then(|(_, lowered)| lowered.wires.get(name));
        let mut directions = Vec::with_capacity(2);
        for (direction, parts) in parts(ruleset, placement, placements).into_iter().enumerate() {
            directions.push(lowering.direction(name, &parts, before.map(|before| &*before[direction]))?);
        }
        if let Ok(both) = <[Arc<StatefulRules>; 2]>::try_from(directions) {
            wires.insert(name.clone(), both);
        }
    }
    let Lowering { lists, uses, .. } = lowering;
    let (lists, loose) = (lists.0.into_values().collect(), uses.finish());
    Ok(Lowered { wires, counters: Arc::clone(&counters), limiters: limiters.clone(), numbers, lists, loose })
}

/// Counters for all numbers, which go on where those before are.
fn counters(numbers: &Numbers, workers: usize, before: Option<(&Ruleset, &Lowered)>) -> Arc<RuleCounters> {
    if let Some((_, lowered)) = before
        && lowered.numbers.end() >= numbers.end()
    {
        // New rules have numbers that nobody had: theirs are zero.
        return Arc::clone(&lowered.counters);
    }
    let end = numbers.end() as usize;
    // Room for some versions more.
    let counters = RuleCounters::new(workers, end + end / 8 + 64);
    if let Some((_, lowered)) = before {
        let kept = (0..lowered.numbers.end()).map(|number| (RuleId(number), RuleId(number)));
        counters.take_over(&lowered.counters, kept);
    }
    Arc::new(counters)
}

fn limiters(
    ruleset: &Ruleset,
    numbers: &Numbers,
    before: Option<(&Ruleset, &Lowered)>,
) -> HashMap<RuleAt, (Limit, Arc<Limiter>)> {
    let mut limiters = HashMap::new();
    for (chain, rules) in ruleset.chains.iter().enumerate() {
        for (rule, limit) in rules.rules.iter().enumerate().filter_map(|(rule, of)| Some((rule, of.limit?))) {
            let at = RuleAt { chain, rule };
            let same = before.and_then(|(_, lowered)| {
                let was = lowered.numbers.whose(numbers.rule(at)?)?;
                let Whose::Rule(was) = was else { return None };
                lowered.limiters.get(&was).filter(|(before, _)| *before == limit)
            });
            let limiter = same.cloned().unwrap_or_else(|| {
                let interval = Duration::from_secs(limit.per.seconds().into()) / limit.packets.max(1);
                (limit, Arc::new(Limiter::new(interval, limit.burst)))
            });
            limiters.insert(at, limiter);
        }
    }
    limiters
}

/// Lists that have been made, by what they say.
#[derive(Default)]
struct Shared(HashMap<Vec<ListRule>, Listed>);

struct Lowering<'a> {
    ruleset: &'a Ruleset,
    flatteners: [Flattener<'a>; 2],
    numbers: &'a Numbers,
    limiters: &'a HashMap<RuleAt, (Limit, Arc<Limiter>)>,
    counters: &'a Arc<RuleCounters>,
    lists: Shared,
    uses: Uses,
}

impl Lowering<'_> {
    fn direction(
        &mut self,
        wire: &str,
        parts: &[Part<'_>],
        before: Option<&StatefulRules>,
    ) -> Result<Arc<StatefulRules>, LowerError> {
        let mut courses = Courses::new(self.numbers, self.limiters);
        let mut lists = Vec::with_capacity(ConnectionState::ALL.len());
        for (state, of) in
            ConnectionState::ALL.into_iter().zip([States::NEW, States::ESTABLISHED, States::RELATED, States::INVALID])
        {
            let (rules, segments) = self.rules(wire, parts, of, &mut courses)?;
            let boxes = rules.len() as u64;
            let list = self.lists.get(rules, segments, before.map(|before| before.list(state)));
            lists.push(list.ok_or_else(|| LowerError::Boxes { wire: wire.to_owned(), boxes })?);
        }
        let too_many = || LowerError::Course { wire: wire.to_owned() };
        let lists = <[Arc<RuleList>; 4]>::try_from(lists).map_err(|_| too_many())?;
        let (courses, limiters) = courses.finish();
        let rules = StatefulRules::new(lists, courses.into(), limiters.into(), Some(Arc::clone(self.counters)));
        rules.map(Arc::new).map_err(|_| too_many())
    }

    /// The boxes for one state: those of IPv4 first, for which those of IPv6 count on.
    fn rules(
        &mut self,
        wire: &str,
        parts: &[Part<'_>],
        state: States,
        courses: &mut Courses<'_>,
    ) -> Result<(Vec<ListRule>, Vec<Segment>), LowerError> {
        let (mut rules, mut segments) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            for part in parts.iter().filter(|part| part.family == family) {
                let Some(view) = part.view(state) else {
                    let number = self.numbers.nobody();
                    rules.extend(part.boxes().map(|of| of.rule(Action::Allow, number)));
                    continue;
                };
                let list = self.flatteners[family as usize].flatten(&view)?;
                let boxes = list.box_count().saturating_add(rules.len() as u64);
                if boxes > MAX_BOXES {
                    return Err(LowerError::Boxes { wire: wire.to_owned(), boxes });
                }
                let policy = self.numbers.policy(part.chain).unwrap_or(self.numbers.nobody());
                let decided: Option<Vec<(Action, RuleId)>> =
                    (0..list.outcomes.len()).map(|outcome| courses.action(&list, outcome, family, policy)).collect();
                let decided = decided.ok_or_else(|| LowerError::Course { wire: wire.to_owned() })?;
                let from = rules.len();
                rules.extend(list.boxes().map(|of| {
                    let (action, number) = decided[of.outcome as usize];
                    of.rule(action, number)
                }));
                let number = |at| self.numbers.rule(at);
                let may_meet = |at| part.may_meet(self.ruleset, state, at);
                let written = Written { list: &list, family, rules: &rules, from };
                self.uses.note(&written, number, may_meet, &mut segments);
            }
        }
        Ok((rules, segments))
    }
}

impl Shared {
    /// A list of these rules: one that has been made, the one before with a few changes, or a new one. `None` if they are too many.
    fn get(
        &mut self,
        rules: Vec<ListRule>,
        segments: Vec<Segment>,
        before: Option<&Arc<RuleList>>,
    ) -> Option<Arc<RuleList>> {
        if let Some(listed) = self.0.get(&rules) {
            return Some(Arc::clone(&listed.list));
        }
        let list = match before.and_then(|before| follow(before, &rules)) {
            Some(list) => list,
            None => Arc::new(RuleList::new(&rules, Action::Deny).ok()?),
        };
        self.0.insert(rules, Listed { list: Arc::clone(&list), segments });
        Some(list)
    }
}

/// The list before with the changes that make it say this, if they are few.
fn follow(before: &Arc<RuleList>, rules: &[ListRule]) -> Option<Arc<RuleList>> {
    let old = before.len();
    let front = before.iter().zip(rules).take_while(|(old, new)| old == *new).count();
    if front == old && front == rules.len() {
        return Some(Arc::clone(before));
    }
    let most = old.min(rules.len()) - front;
    if old.abs_diff(rules.len()) > MAX_EDITS {
        return None;
    }
    let kept: Vec<ListRule> = before.iter().skip(front).collect();
    let back = kept.iter().rev().zip(rules.iter().rev()).take(most).take_while(|(old, new)| old == new).count();
    let (gone, come) = (old - front - back, &rules[front..rules.len() - back]);
    if gone + come.len() > MAX_EDITS {
        return None;
    }
    let replaced = gone.min(come.len());
    let mut edits: Vec<Edit> =
        come[..replaced].iter().enumerate().map(|(index, rule)| Edit::Replace(front + index, *rule)).collect();
    edits.extend((replaced..gone).map(|_| Edit::Remove(front + replaced)));
    edits
        .extend(come[replaced..].iter().enumerate().map(|(index, rule)| Edit::Insert(front + replaced + index, *rule)));
    let list = before.edited(&edits).ok()?;
    (!list.wants_merge()).then(|| Arc::new(list))
}
