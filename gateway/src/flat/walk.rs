//! The walk through chains with a condition in hand.

use std::collections::HashMap;
use std::rc::Rc;

use crate::judge::{MAX_DEPTH, RuleAt};
use crate::model::Policy;
use crate::space::Cube;

use super::compiled::{Compiled, CompiledChain, CompiledRule, Does};
use super::outcomes::{Chained, Outcomes, with};
use super::{FlatList, FlatRule, FlattenError, Place, Step};

/// Copies that nest deeper than this, each of them of fewer packets than the one before, are more than any list can hold: what
/// each leaves out is written, too, so that every level doubles the list.
const MAX_COPIES: usize = 40;

/// Copies nest at most so deep, those of the same packets included: they take room on the stack.
const MAX_NESTING: usize = 200;

/// The condition is at most so many cubes: packets that leave a chain beyond that have what follows written once more.
const MAX_PIECES: usize = 32;

/// So many cubes that were answered are remembered, to leave out what they hide.
const MAX_HIDING: usize = 32;

/// What a list is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Also which rules log and count.
    Full,
    /// Only what becomes of packets.
    Verdicts,
}

/// Where rules are read from: a chain, from a rule on.
#[derive(Clone, Debug)]
struct Frame {
    chain: Option<usize>,
    next: usize,
    path: Chained<RuleAt>,
    /// Where it goes on after the chain's end.
    caller: Option<Rc<Frame>>,
    depth: usize,
}

/// Packets whose way goes on: the condition and the steps taken.
#[derive(Clone, Debug)]
struct Level {
    cubes: Vec<Cube>,
    trail: Chained<Step>,
    /// Whether the steps are more than those with which the chain was come to.
    grown: bool,
}

pub(super) struct Walk<'c, 'r> {
    compiled: &'c Compiled<'r>,
    holds: Vec<bool>,
    policy: Policy,
    detail: Detail,
    most: usize,
    rules: Vec<FlatRule>,
    outcomes: Outcomes,
    hiding: Vec<(u32, Cube)>,
    /// The rules for which what follows is being written once more.
    copying: Vec<RuleAt>,
    copied: HashMap<RuleAt, usize>,
    /// How many of the copies are of fewer packets than what they were made in.
    narrowing: usize,
}

type Flattened<T> = Result<T, FlattenError>;

impl<'c, 'r> Walk<'c, 'r> {
    pub(super) fn new(
        compiled: &'c Compiled<'r>,
        holds: Vec<bool>,
        policy: Policy,
        detail: Detail,
        most: usize,
    ) -> Self {
        Walk {
            compiled,
            holds,
            policy,
            detail,
            most,
            rules: Vec::new(),
            outcomes: Outcomes::default(),
            hiding: Vec::new(),
            copying: Vec::new(),
            copied: HashMap::new(),
            narrowing: 0,
        }
    }

    pub(super) fn list(mut self, base: Option<usize>, within: Cube) -> Flattened<FlatList> {
        let frame = Frame { chain: base, next: 0, path: None, caller: None, depth: 0 };
        self.complete(Some(Rc::new(frame)), vec![within], &None)?;
        Ok(FlatList { rules: self.rules, outcomes: self.outcomes.into_all() })
    }

    /// Writes all that decides the cubes' packets from a frame on, down to the policy.
    fn complete(&mut self, mut next: Option<Rc<Frame>>, cubes: Vec<Cube>, trail: &Chained<Step>) -> Flattened<()> {
        while let Some(frame) = next {
            if self.walk(&frame, cubes.clone(), trail)? {
                return Ok(());
            }
            next = frame.caller.clone();
        }
        let outcome = self.outcomes.number(trail, self.policy.into(), None, &None);
        for cube in cubes {
            self.write(cube, outcome, None)?;
        }
        Ok(())
    }

    /// Writes what a chain decides of the cubes' packets. Says whether that is all of them: otherwise whoever called goes on.
    fn walk(&mut self, frame: &Rc<Frame>, cubes: Vec<Cube>, trail: &Chained<Step>) -> Flattened<bool> {
        let Some((chain, compiled)) = frame.chain.and_then(|chain| Some((chain, self.compiled.chains.get(&chain)?)))
        else {
            return Ok(false);
        };
        if frame.depth > MAX_DEPTH {
            return Err(FlattenError::TooDeep(self.place(RuleAt { chain, rule: 0 })));
        }
        let mut all = Level { cubes, trail: trail.clone(), grown: false };
        let mut cubes = all.cubes.clone();
        cubes.retain(|cube| !self.is_hidden(cube));
        // Levels that some packets have left by the chain's end while others went on with more steps.
        let mut behind: Vec<Level> = Vec::new();
        let mut left = false;
        for (index, rule) in compiled.rules.iter().enumerate().skip(frame.next) {
            if cubes.is_empty() {
                break;
            }
            if !rule.is_active(&self.holds) {
                continue;
            }
            let at = RuleAt { chain, rule: index };
            let meeting = meet(&rule.cubes, &cubes);
            if meeting.is_empty() {
                continue;
            }
            let whole = cubes.iter().all(|cube| meeting.contains(cube));
            let logs = self.detail == Detail::Full && (rule.logs || matches!(rule.does, Does::Continue));
            let onward = || Frame { next: index + 1, ..Frame::clone(frame) };
            let limited = rule.limit.is_some();
            if limited && !matches!(rule.does, Does::Decide(_) | Does::Continue) {
                self.branch(at, rule, &Rc::new(onward()), &meeting, &all.trail)?;
                cubes.retain(|cube| !meeting.contains(cube));
                continue;
            }
            let step = match rule.does {
                Does::Decide(_) if !limited => None,
                Does::Decide(verdict) => {
                    let instead = Some(self.outcomes.number(&None, verdict, Some(at), &frame.path));
                    Some(Step { rule: at, limit: rule.limit, logs: rule.logs, instead })
                }
                _ => logs.then_some(Step { rule: at, limit: rule.limit, logs: rule.logs, instead: None }),
            };
            if let Some(step) = step {
                let trail = with(&all.trail, step);
                let target = match rule.does {
                    Does::Decide(_) | Does::Continue => Some(Rc::new(onward())),
                    Does::Return => frame.caller.clone(),
                    Does::Jump(target) | Does::Goto(target) => Some(self.enter(at, rule, target, &onward())),
                };
                if whole && matches!(rule.does, Does::Decide(_) | Does::Continue) {
                    let level = Level { cubes: cubes.clone(), trail, grown: true };
                    let before = std::mem::replace(&mut all, level);
                    if std::mem::take(&mut left) {
                        behind.push(before);
                    } else if !before.grown {
                        // Nobody is left who took fewer steps.
                        behind.clear();
                    }
                    continue;
                }
                self.copy(at, target, &meeting, &trail, whole)?;
                cubes.retain(|cube| !meeting.contains(cube));
                continue;
            }
            match rule.does {
                Does::Decide(verdict) => {
                    let outcome = self.outcomes.number(&all.trail, verdict, Some(at), &frame.path);
                    cubes.retain(|cube| !meeting.contains(cube));
                    for cube in meeting {
                        self.write(cube, outcome, Some(at))?;
                    }
                }
                Does::Continue => {}
                Does::Jump(target) => {
                    let inside = self.enter(at, rule, target, &onward());
                    for cube in meeting {
                        if self.walk(&inside, vec![cube.clone()], &all.trail)? {
                            cubes.retain(|of| *of != cube);
                        }
                    }
                }
                Does::Goto(_) | Does::Return => {
                    let mut leaving = Vec::new();
                    for cube in meeting {
                        let decided = match rule.does {
                            Does::Goto(target) => {
                                let inside = self.enter(at, rule, target, &onward());
                                self.walk(&inside, vec![cube.clone()], &all.trail)?
                            }
                            _ => false,
                        };
                        if decided {
                            cubes.retain(|of| *of != cube);
                        } else {
                            leaving.push(cube);
                        }
                    }
                    left |= self.leave(at, frame, compiled, &mut cubes, leaving, &all.trail)?;
                }
            }
        }
        self.finish(frame, all, behind, left || !cubes.is_empty())
    }

    /// Packets fall off a chain's end with the steps that they have taken in it. Those that took none go on where the chain was
    /// called.
    fn finish(&mut self, frame: &Rc<Frame>, all: Level, behind: Vec<Level>, some: bool) -> Flattened<bool> {
        for level in some.then_some(all).into_iter().chain(behind.into_iter().rev()) {
            if !level.grown {
                return Ok(false);
            }
            self.complete(frame.caller.clone(), level.cubes, &level.trail)?;
        }
        Ok(true)
    }

    /// Packets leave a chain before its end: they are taken out of the condition (then some are left for whoever called), or
    /// what follows the chain is written for them at once.
    fn leave(
        &mut self,
        at: RuleAt,
        frame: &Rc<Frame>,
        chain: &CompiledChain,
        cubes: &mut Vec<Cube>,
        leaving: Vec<Cube>,
        trail: &Chained<Step>,
    ) -> Flattened<bool> {
        let mut left = false;
        let here = chain.weight[at.rule + 1];
        for cube in leaving {
            if here == 0 {
                return Ok(true);
            }
            let pieces: Vec<Cube> = cubes.iter().flat_map(|of| of.difference(&cube)).collect();
            let more = pieces.len().saturating_sub(cubes.len()) as u64;
            let after = std::iter::successors(frame.caller.as_ref(), |frame| frame.caller.as_ref());
            let after = after.map(|frame| self.weight(frame)).fold(1, u64::saturating_add);
            if pieces.len() <= MAX_PIECES && here.saturating_mul(more) <= after {
                *cubes = pieces;
                left = true;
            } else {
                self.copy(at, frame.caller.clone(), &[cube], trail, false)?;
            }
        }
        Ok(left)
    }

    fn weight(&self, frame: &Frame) -> u64 {
        let chain = frame.chain.and_then(|chain| self.compiled.chains.get(&chain));
        chain.and_then(|chain| chain.weight.get(frame.next)).copied().unwrap_or(0)
    }

    /// The beginning of a chain that a rule jumps or goes to.
    fn enter(&self, at: RuleAt, rule: &CompiledRule, target: Option<usize>, onward: &Frame) -> Rc<Frame> {
        let caller = match rule.does {
            Does::Goto(_) => onward.caller.clone(),
            _ => Some(Rc::new(onward.clone())),
        };
        let path = with(&onward.path, at);
        Rc::new(Frame { chain: target, next: 0, path, caller, depth: onward.depth + 1 })
    }

    /// Writes once more what follows, for these packets and with these steps.
    fn copy(
        &mut self,
        at: RuleAt,
        next: Option<Rc<Frame>>,
        cubes: &[Cube],
        trail: &Chained<Step>,
        whole: bool,
    ) -> Flattened<()> {
        self.nest(at, !whole)?;
        let before = self.rules.len();
        for cube in cubes {
            if !self.is_hidden(cube) {
                self.complete(next.clone(), vec![cube.clone()], trail)?;
                self.hide(cube);
            }
        }
        self.unnest(!whole);
        *self.copied.entry(at).or_default() += self.rules.len() - before;
        Ok(())
    }

    fn nest(&mut self, at: RuleAt, narrowing: bool) -> Flattened<()> {
        if self.narrowing >= MAX_COPIES || self.copying.len() >= MAX_NESTING {
            return Err(self.too_long(at));
        }
        self.copying.push(at);
        self.narrowing += usize::from(narrowing);
        Ok(())
    }

    fn unnest(&mut self, narrowing: bool) {
        self.copying.pop();
        self.narrowing -= usize::from(narrowing);
    }

    /// A rule with a limit that leads elsewhere: what follows in either case is worked out apart, and every pair of rules that
    /// some packet meets is written, in the order of the first and then of the second.
    fn branch(
        &mut self,
        at: RuleAt,
        rule: &CompiledRule,
        onward: &Rc<Frame>,
        meeting: &[Cube],
        trail: &Chained<Step>,
    ) -> Flattened<()> {
        self.nest(at, true)?;
        let target = match rule.does {
            Does::Jump(target) | Does::Goto(target) => Some(self.enter(at, rule, target, onward)),
            _ => onward.caller.clone(),
        };
        for cube in meeting.iter().filter(|cube| !self.is_hidden(cube)).cloned().collect::<Vec<_>>() {
            let with_token = self.apart(target.clone(), &cube)?;
            let without = self.apart(Some(onward.clone()), &cube)?;
            for taken in &with_token {
                for other in &without {
                    let Some(both) = taken.cube.intersection(&other.cube) else { continue };
                    let covers = both == taken.cube;
                    let logs = self.detail == Detail::Full && rule.logs;
                    let step = Step { rule: at, limit: rule.limit, logs, instead: Some(taken.outcome) };
                    let outcome = self.outcomes.after(trail, step, other.outcome);
                    self.write(both, outcome, Some(at))?;
                    if covers {
                        break;
                    }
                }
            }
            self.hide(&cube);
        }
        self.unnest(true);
        Ok(())
    }

    /// The rules that decide a cube's packets from a frame on, in a list of their own.
    fn apart(&mut self, next: Option<Rc<Frame>>, cube: &Cube) -> Flattened<Vec<FlatRule>> {
        let rules = std::mem::take(&mut self.rules);
        let hiding = std::mem::take(&mut self.hiding);
        let done = self.complete(next, vec![cube.clone()], &None);
        self.hiding = hiding;
        let apart = std::mem::replace(&mut self.rules, rules);
        done.map(|()| apart)
    }

    fn write(&mut self, cube: Cube, outcome: u32, at: Option<RuleAt>) -> Flattened<()> {
        if self.is_hidden(&cube) {
            return Ok(());
        }
        if self.rules.len() >= self.most {
            let most = self.copied.iter().max_by_key(|(_, copied)| **copied).map(|(at, _)| *at);
            let at = most.or(self.copying.first().copied()).or(at);
            return Err(self.too_long(at.unwrap_or(RuleAt { chain: 0, rule: 0 })));
        }
        self.hide(&cube);
        self.rules.push(FlatRule { cube, outcome });
        Ok(())
    }

    /// Remembers that a cube's packets are decided, if it is a broad one that is quickly compared.
    fn hide(&mut self, cube: &Cube) {
        if cube.source.single().is_none() || cube.destination.single().is_none() {
            return;
        }
        let breadth = cube.breadth();
        if self.hiding.len() < MAX_HIDING {
            self.hiding.push((breadth, cube.clone()));
        } else if let Some(least) = self.hiding.iter_mut().min_by_key(|(breadth, _)| *breadth)
            && least.0 < breadth
        {
            *least = (breadth, cube.clone());
        }
    }

    fn is_hidden(&self, cube: &Cube) -> bool {
        self.hiding.iter().any(|(_, hiding)| cube.is_subset(hiding))
    }

    fn too_long(&self, at: RuleAt) -> FlattenError {
        FlattenError::TooLong { place: self.place(at), most: self.most }
    }

    fn place(&self, at: RuleAt) -> Place {
        Place::of(self.compiled.ruleset, at).unwrap_or_else(|| Place::nowhere(self.compiled.ruleset))
    }
}

/// What is in one of each.
fn meet(rule: &[Cube], condition: &[Cube]) -> Vec<Cube> {
    let mut meeting = Vec::new();
    for cube in condition {
        // What covers the condition makes the rule's other cubes superfluous.
        let from = meeting.len();
        for of in rule {
            let Some(both) = of.intersection(cube) else { continue };
            if both == *cube {
                meeting.truncate(from);
                meeting.push(both);
                break;
            }
            meeting.push(both);
        }
    }
    meeting
}
