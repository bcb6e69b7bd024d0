//! What a rule's outcome is to the engine: an action, or a course of steps.

use std::collections::HashMap;
use std::sync::Arc;

use dataplane::rules::stateful::{Course, Limiter, Step};
use dataplane::rules::{Action, RejectWith as EngineReject, RuleId};

use super::numbers::Numbers;
use crate::flat::{FlatList, Outcome};
use crate::judge::{RuleAt, Verdict};
use crate::model::{Family, Limit, RejectWith};

/// The courses of one direction of a wire, and the limiters that they name.
pub(super) struct Courses<'a> {
    numbers: &'a Numbers,
    known: &'a HashMap<RuleAt, (Limit, Arc<Limiter>)>,
    courses: Vec<Course>,
    limiters: Vec<Arc<Limiter>>,
    places: HashMap<RuleAt, u16>,
}

impl<'a> Courses<'a> {
    pub(super) fn new(numbers: &'a Numbers, known: &'a HashMap<RuleAt, (Limit, Arc<Limiter>)>) -> Self {
        Courses { numbers, known, courses: Vec::new(), limiters: Vec::new(), places: HashMap::new() }
    }

    /// What the engine's rule for an outcome does, and the number that it has: the deciding rule's or the course's. `None` if there are too
    /// many steps.
    pub(super) fn action(
        &mut self,
        list: &FlatList,
        outcome: usize,
        family: Family,
        policy: RuleId,
    ) -> Option<(Action, RuleId)> {
        let Outcome { steps, verdict, rule, .. } = list.outcomes.get(outcome)?;
        if steps.is_empty() {
            return Some((action(*verdict, family), self.deciding(*rule, policy)));
        }
        let mut written = Vec::new();
        self.write(list, outcome, family, policy, &mut written)?;
        let course = Course::new(written).ok()?;
        let number = self.courses.iter().position(|known| *known == course).unwrap_or_else(|| {
            self.courses.push(course);
            self.courses.len() - 1
        });
        Some((Action::Course, RuleId(u32::try_from(number).ok()?)))
    }

    fn deciding(&self, rule: Option<RuleAt>, policy: RuleId) -> RuleId {
        rule.and_then(|at| self.numbers.rule(at)).unwrap_or(policy)
    }

    fn write(
        &mut self,
        list: &FlatList,
        outcome: usize,
        family: Family,
        policy: RuleId,
        written: &mut Vec<Step>,
    ) -> Option<()> {
        let Outcome { steps, verdict, rule, .. } = list.outcomes.get(outcome)?;
        for step in steps {
            let token = written.len();
            if step.limit.is_some() {
                let limiter = self.limiter(step.rule)?;
                written.push(Step::Token { limiter, otherwise: 0 });
            }
            let instead = step.instead.map(|instead| instead as usize);
            let decides = instead.is_some_and(|instead| {
                list.outcomes.get(instead).is_some_and(|outcome| outcome.rule == Some(step.rule))
            });
            // The deciding rule is counted where it decides; it has to be noted only for its line in the log.
            if !decides || step.logs {
                written.push(Step::Note { rule: self.numbers.rule(step.rule)?, log: step.logs });
            }
            if let Some(instead) = instead {
                self.write(list, instead, family, policy, written)?;
            }
            let here = u16::try_from(written.len()).ok()?;
            if let Some(Step::Token { otherwise, .. }) = written.get_mut(token) {
                *otherwise = here;
            }
        }
        written.push(Step::End { action: action(*verdict, family), rule: self.deciding(*rule, policy) });
        Some(())
    }

    fn limiter(&mut self, at: RuleAt) -> Option<u16> {
        if let Some(place) = self.places.get(&at) {
            return Some(*place);
        }
        let place = u16::try_from(self.limiters.len()).ok()?;
        self.limiters.push(Arc::clone(&self.known.get(&at)?.1));
        self.places.insert(at, place);
        Some(place)
    }

    pub(super) fn finish(self) -> (Vec<Course>, Vec<Arc<Limiter>>) {
        (self.courses, self.limiters)
    }
}

/// A verdict as the engine has it. The codes are those of RFC 792, RFC 1812 and RFC 4443; a kind that the family does not have is told as forbidden
/// by the administrator.
fn action(verdict: Verdict, family: Family) -> Action {
    let with = match verdict {
        Verdict::Allow => return Action::Allow,
        Verdict::Drop => return Action::Deny,
        Verdict::Reject(with) => with,
    };
    let icmp = |kind, code| EngineReject::Icmp { kind, code };
    Action::Reject(match (with, family) {
        (RejectWith::TcpReset, _) => EngineReject::TcpReset,
        (RejectWith::NetUnreachable, Family::V4) => icmp(3, 0),
        (RejectWith::HostUnreachable, Family::V4) => icmp(3, 1),
        (RejectWith::ProtocolUnreachable, Family::V4) => icmp(3, 2),
        (RejectWith::PortUnreachable, Family::V4) => icmp(3, 3),
        (RejectWith::NetProhibited, Family::V4) => icmp(3, 9),
        (RejectWith::HostProhibited, Family::V4) => icmp(3, 10),
        (_, Family::V4) => icmp(3, 13),
        (RejectWith::NetUnreachable, Family::V6) => icmp(1, 0),
        (RejectWith::HostUnreachable, Family::V6) => icmp(1, 3),
        (RejectWith::PortUnreachable, Family::V6) => icmp(1, 4),
        (RejectWith::PolicyFail, Family::V6) => icmp(1, 5),
        (RejectWith::RejectRoute, Family::V6) => icmp(1, 6),
        (_, Family::V6) => icmp(1, 1),
    })
}
