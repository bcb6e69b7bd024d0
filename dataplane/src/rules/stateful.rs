//! A gateway's rules for a direction of a wire, as far as they look at connections: a list for each state that a packet's connection may be
//! in, and *courses*, for rules that do more than decide.
//!
//! Rules in the manner of iptables are asked about every packet, and may answer those of one connection differently: by its state, by TCP
//! flags, by a rate. What comes out most (all packets of answered connections pass) is found out beforehand ([`StatefulRules::passes`]),
//! and such packets go the short way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;

use super::list::{FlagMatch, ListRule, Ports, RuleList};
use super::{Action, Decision, Query, RuleId};
use crate::address::Address;
use crate::packet::Direction;
use crate::stats::Counter;
use crate::time::Time;

/// What a packet is to the connections that are known: the states of Linux's connection tracking. What that leaves untracked (neighbour
/// discovery, multicast listener discovery) the guard lets pass, and no rule is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// It opens a connection, or goes on with one that has not been answered.
    New,
    /// It belongs to a connection that has been answered, or answers it.
    Established,
    /// An ICMP error about a known connection.
    Related,
    /// It fits no connection and may open none.
    Invalid,
}

impl ConnectionState {
    /// All of them.
    pub const ALL: [ConnectionState; 4] =
        [ConnectionState::New, ConnectionState::Established, ConnectionState::Related, ConnectionState::Invalid];
}

/// A token bucket that rules share with all workers. Tokens are counted in time: the moment at which the bucket would be full.
#[derive(Debug)]
pub struct Limiter {
    /// From one token to the next, in nanoseconds.
    interval: u64,
    /// So many intervals fit in.
    burst: u64,
    full_at: AtomicU64,
}

impl Limiter {
    /// A full bucket: a token comes every `interval`, and at most `burst` wait.
    pub fn new(interval: Duration, burst: u32) -> Limiter {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        Limiter { interval, burst: u64::from(burst.max(1)), full_at: AtomicU64::new(0) }
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Time) -> bool {
        let take = |full_at: u64| {
            let after = full_at.max(now.0).saturating_add(self.interval);
            (after <= now.0.saturating_add(self.burst.saturating_mul(self.interval))).then_some(after)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl PartialEq for Limiter {
    /// Whether they are set up alike, whatever is in them.
    fn eq(&self, other: &Self) -> bool {
        (self.interval, self.burst) == (other.interval, other.burst)
    }
}

/// A step of a [`Course`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A rule has met the packet: it is counted, and logged if the rule wants it.
    Note {
        /// The rule.
        rule: RuleId,
        /// Whether it logs.
        log: bool,
    },
    /// If the limiter of this number has a token, it is taken and the next step follows, otherwise the one of that number, which is a later one.
    Token {
        /// Of [`StatefulRules`]'s limiters.
        limiter: u16,
        /// The step without a token.
        otherwise: u16,
    },
    /// The end.
    End {
        /// [`Action::Allow`], [`Action::Deny`] or [`Action::Reject`].
        action: Action,
        /// The rule that decided.
        rule: RuleId,
    },
}

/// What is done with a packet that meets rules that count, log, or let only so many pass: steps from the first one on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course(Box<[Step]>);

/// The most rules that one packet is told to control for.
pub const MAX_LOGS: usize = 4;

/// What a course came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The action, and the rule that decided; `None` if the course has no end.
    pub end: Option<(Action, RuleId)>,
    /// Rules that log it, the first [`MAX_LOGS`] of them.
    pub logs: ArrayVec<RuleId, MAX_LOGS>,
}

/// What is wrong with the parts of a [`StatefulRules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CourseError {
    /// A step leads nowhere, or back.
    #[error("a course's step {0} leads to no later step")]
    Step(usize),
    /// A limiter that there is not.
    #[error("a course names limiter {0}, which does not exist")]
    Limiter(u16),
}

/// Rules of one direction of a wire. A list's rule with [`Action::Course`] names, in its number, one of the courses.
#[derive(Debug)]
pub struct StatefulRules {
    lists: [Arc<RuleList>; 4],
    courses: Arc<[Course]>,
    limiters: Arc<[Arc<Limiter>]>,
    counters: Option<Arc<RuleCounters>>,
    passes: bool,
    /// The rule by which packets of answered connections pass, of IPv4 and of IPv6.
    passed_by: [Option<RuleId>; 2],
    may_limit: bool,
}

impl StatefulRules {
    /// Rules made of lists in the order of [`ConnectionState::ALL`], which may be the same one, and of what they name.
    ///
    /// # Errors
    /// When a course leads nowhere.
    pub fn new(
        lists: [Arc<RuleList>; 4],
        courses: Arc<[Course]>,
        limiters: Arc<[Arc<Limiter>]>,
        counters: Option<Arc<RuleCounters>>,
    ) -> Result<StatefulRules, CourseError> {
        for step in courses.iter().flat_map(|course| &course.0) {
            if let Step::Token { limiter, .. } = step
                && usize::from(*limiter) >= limiters.len()
            {
                return Err(CourseError::Limiter(*limiter));
            }
        }
        let established = passing(&lists[ConnectionState::Established as usize]);
        let may_limit = courses.iter().any(Course::may_limit);
        let (passes, passed_by) = (established.is_some(), established.unwrap_or_default());
        Ok(StatefulRules { lists, courses, limiters, counters, passes, passed_by, may_limit })
    }

    /// The same with other lists, which name the same courses.
    pub fn with_lists(&self, lists: [Arc<RuleList>; 4]) -> StatefulRules {
        let established = passing(&lists[ConnectionState::Established as usize]);
        let (passes, passed_by) = (established.is_some(), established.unwrap_or_default());
        let (courses, limiters) = (Arc::clone(&self.courses), Arc::clone(&self.limiters));
        StatefulRules { lists, courses, limiters, counters: self.counters.clone(), passes, passed_by, ..*self }
    }

    /// The list for a state.
    pub fn list(&self, state: ConnectionState) -> &Arc<RuleList> {
        &self.lists[state as usize]
    }

    /// Whether every packet of an answered connection passes.
    pub fn passes(&self) -> bool {
        self.passes
    }

    /// The rule by which it does, of this family.
    pub(crate) fn passed_by(&self, is_v4: bool) -> Option<RuleId> {
        self.passed_by[usize::from(!is_v4)]
    }

    /// Whether some rule lets only so many packets pass: then all of connections that have not been answered are asked about.
    pub fn may_limit(&self) -> bool {
        self.may_limit
    }

    /// Where rules are counted.
    pub fn counters(&self) -> Option<&Arc<RuleCounters>> {
        self.counters.as_ref()
    }

    /// Goes a course. Each rule met is told to `note`. Without a time every limiter is taken to have a token: for a connection that had one.
    pub(crate) fn follow(&self, number: RuleId, now: Option<Time>, mut note: impl FnMut(RuleId)) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(Course(steps)) = self.courses.get(number.0 as usize) else { return outcome };
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            at += 1;
            match *step {
                Step::Note { rule, log } => {
                    note(rule);
                    if log && !outcome.logs.is_full() {
                        outcome.logs.push(rule);
                    }
                }
                Step::Token { limiter, otherwise } => {
                    let has = self
                        .limiters
                        .get(usize::from(limiter))
                        .is_none_or(|limiter| now.is_none_or(|now| limiter.take(now)));
                    if !has {
                        at = usize::from(otherwise);
                    }
                }
                Step::End { action, rule } => {
                    outcome.end = Some((action, rule));
                    break;
                }
            }
        }
        outcome
    }

    /// Whether the other rules say the same, as far as that is quickly told.
    pub(crate) fn says(&self, other: &StatefulRules) -> bool {
        self.lists.iter().zip(&other.lists).all(|(one, other)| Arc::ptr_eq(one, other) || one.says(other))
            && self.courses == other.courses
            && self.limiters == other.limiters
    }

    /// Judges by reading the rules one after the other, limiters full: the definition that the compiled form is held equal to.
    pub fn judge(&self, direction: Direction, state: ConnectionState, query: Query) -> Decision {
        self.granted(self.list(state).judge(direction, query))
    }

    /// What a list's decision comes to, limiters full and nothing counted.
    pub fn granted(&self, decision: Decision) -> Decision {
        match (decision.action, decision.rule) {
            (Action::Course, Some(number)) => {
                let outcome = self.follow(number, None, |_| ());
                let log = !outcome.logs.is_empty();
                outcome.end.map_or(Decision::CLOSED, |(action, rule)| Decision { action, rule: Some(rule), log })
            }
            _ => decision,
        }
    }
}

impl PartialEq for StatefulRules {
    fn eq(&self, other: &Self) -> bool {
        self.lists == other.lists && self.courses == other.courses && self.limiters == other.limiters
    }
}

impl Eq for StatefulRules {}

impl Course {
    /// A course of these steps.
    ///
    /// # Errors
    /// A step without a token that is not a later one of the course; a course that does not end.
    pub fn new(steps: Vec<Step>) -> Result<Course, CourseError> {
        for (at, step) in steps.iter().enumerate() {
            if let Step::Token { otherwise, .. } = step
                && (usize::from(*otherwise) <= at || usize::from(*otherwise) >= steps.len())
            {
                return Err(CourseError::Step(at));
            }
        }
        match steps.last() {
            Some(Step::End { .. }) => Ok(Course(steps.into())),
            _ => Err(CourseError::Step(steps.len())),
        }
    }

    /// Whether packets may pass by it, and not all alike.
    fn may_limit(&self) -> bool {
        let is_limited = self.0.iter().any(|step| matches!(step, Step::Token { .. }));
        let mut ends = self.0.iter().filter_map(|step| match step {
            Step::End { action, .. } => Some(*action),
            _ => None,
        });
        let first = ends.next();
        is_limited && ends.any(|end| Some(end) != first)
    }
}

/// Rules that are looked at to find out whether a list lets everything pass.
const FIRST_RULES: usize = 64;

/// If a list lets everything pass, the rules by which it does, of IPv4 and of IPv6.
fn passing(list: &RuleList) -> Option<[Option<RuleId>; 2]> {
    let mut by = [None; 2];
    let mut covered = [false; 2];
    for rule in list.iter().take(FIRST_RULES) {
        if rule.action != Action::Allow || rule.log {
            return None;
        }
        for (family, covered) in covered.iter_mut().enumerate() {
            if !*covered && means_all(&rule, family == 0) {
                (*covered, by[family]) = (true, Some(rule.id));
            }
        }
        if covered == [true; 2] {
            return Some(by);
        }
    }
    let ends = list.len() <= FIRST_RULES && matches!(list.default_decision().action, Action::Allow | Action::Pass);
    ends.then_some(by)
}

/// Whether a rule means every packet of a family.
fn means_all(rule: &ListRule, is_v4: bool) -> bool {
    let (first, last) =
        if is_v4 { (Address::v4([0; 4]), Address::v4([255; 4])) } else { (Address([0; 16]), Address([0xff; 16])) };
    let all = |range: super::list::AddressRange| range.first() <= first && last <= range.last();
    let any = Ports::ANY;
    let header = rule.protocol.is_none() && rule.flags == FlagMatch::default();
    header && rule.source_ports == any && rule.destination_ports == any && all(rule.source) && all(rule.destination)
}

/// What rules have met: for each worker and rule three numbers, which only that worker writes.
#[derive(Debug)]
pub struct RuleCounters {
    workers: Box<[Box<[RuleCount]>]>,
}

#[derive(Debug, Default)]
struct RuleCount {
    packets: Counter,
    bytes: Counter,
    last: Counter,
}

/// What a rule has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// When it met the last one; `None` if it has met none.
    pub last: Option<Time>,
}

impl RuleCounters {
    /// Zeros for so many workers and rules.
    pub fn new(workers: usize, rules: usize) -> RuleCounters {
        let row = || std::iter::repeat_with(RuleCount::default).take(rules).collect();
        RuleCounters { workers: std::iter::repeat_with(row).take(workers).collect() }
    }

    /// Counts packets that a rule has met. Only that worker may.
    #[inline]
    pub(crate) fn count(&self, worker: usize, rule: RuleId, packets: u64, bytes: u64, now: Time) {
        if let Some(count) = self.workers.get(worker).and_then(|rules| rules.get(rule.0 as usize)) {
            count.packets.add(packets);
            count.bytes.add(bytes);
            count.last.set(now.0);
        }
    }

    /// What a rule has met, on all workers together.
    pub fn hits(&self, rule: RuleId) -> RuleHits {
        let mut hits = RuleHits::default();
        for count in self.workers.iter().filter_map(|rules| rules.get(rule.0 as usize)) {
            hits.packets += count.packets.get();
            hits.bytes += count.bytes.get();
            if count.packets.get() > 0 {
                hits.last = hits.last.max(Some(Time(count.last.get())));
            }
        }
        hits
    }

    /// Begins with what another one's rules have met, each by its number there.
    pub fn take_over(&self, other: &RuleCounters, numbers: impl Iterator<Item = (RuleId, RuleId)>) {
        let Some(first) = self.workers.first() else { return };
        for (from, to) in numbers {
            let hits = other.hits(from);
            if let (Some(count), Some(last)) = (first.get(to.0 as usize), hits.last) {
                count.packets.set(hits.packets);
                count.bytes.set(hits.bytes);
                count.last.set(last.0);
            }
        }
    }
}
