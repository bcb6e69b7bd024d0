//! Frames that wait for an answer of control: the *ask* verdict. Bounded in number, per flow and in time.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

use crate::frame::Frame;
use crate::packet::{Direction, Tuple};
use crate::rules::{RuleId, WireId};
use crate::time::Time;
use crate::verdict::DropReason;
use crate::worker::Doorbell;

/// How many frames a worker parks at most.
pub const PARKING_SPACES: usize = 256;
/// How many frames of one flow are parked at most.
pub const PARKED_PER_FLOW: usize = 8;
/// How long control may take to answer.
pub const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What a worker asks control: a new flow's first packet met a rule with [`crate::rules::Action::Ask`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// Identifies the answer.
    pub ticket: u64,
    /// On which wire.
    pub wire: WireId,
    /// Which way the packet goes.
    pub direction: Direction,
    /// Who talks to whom, as seen on the wire.
    pub tuple: Tuple,
    /// The number in the rule: what to find out.
    pub kind: u16,
    /// The rule that asks.
    pub rule: Option<RuleId>,
}

/// What control found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// Let the flow pass.
    Allow,
    /// Drop it.
    Deny,
    /// The packet stands for this one: judge that instead.
    JudgeAs(Tuple),
    /// It could not be found out.
    Unknown,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The question's ticket.
    pub ticket: u64,
    /// What control found.
    pub finding: Finding,
}

/// The two queues between a worker and whoever answers.
#[derive(Clone, Debug)]
pub struct AskQueues {
    questions: Arc<ArrayQueue<Question>>,
    answers: Arc<ArrayQueue<Answer>>,
    /// What wakes whoever answers, if he sleeps by it.
    bell: Option<Arc<Doorbell>>,
}

impl Default for AskQueues {
    fn default() -> Self {
        AskQueues {
            questions: Arc::new(ArrayQueue::new(PARKING_SPACES)),
            answers: Arc::new(ArrayQueue::new(PARKING_SPACES)),
            bell: None,
        }
    }
}

impl AskQueues {
    /// Queues for somebody who sleeps by a doorbell until there is a question. Workers may share it.
    pub fn with_bell(bell: Arc<Doorbell>) -> Self {
        AskQueues { bell: Some(bell), ..AskQueues::default() }
    }

    /// The oldest question that nobody has taken.
    pub fn question(&self) -> Option<Question> {
        self.questions.pop()
    }

    /// Whether a question waits that nobody has taken.
    pub fn has_question(&self) -> bool {
        !self.questions.is_empty()
    }

    /// Answers. The worker has to be woken afterwards ([`crate::worker::WorkerHandle::wake`]). An answer that does not
    /// fit is given up: its frames time out.
    pub fn answer(&self, answer: Answer) {
        // A full queue means that more answers wait than questions can be open; those frames are gone already.
        let _full = self.answers.push(answer);
    }

    pub(super) fn take_answer(&self) -> Option<Answer> {
        self.answers.pop()
    }
}

/// A parked frame.
pub(super) struct Parked {
    pub(super) frame: Frame,
    pub(super) wire: WireId,
    pub(super) direction: Direction,
    pub(super) tuple: Tuple,
    ticket: u64,
    deadline: Time,
}

/// The parking place: oldest first.
pub(super) struct Parking {
    parked: Vec<Parked>,
    next_ticket: u64,
    queues: AskQueues,
}

impl Parking {
    pub(super) fn new(queues: AskQueues) -> Self {
        Parking { parked: Vec::with_capacity(PARKING_SPACES), next_ticket: 1, queues }
    }

    pub(super) fn queues(&self) -> &AskQueues {
        &self.queues
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Parks a frame and asks, unless a frame of the same flow waits already: then it waits for the same answer.
    pub(super) fn park(&mut self, frame: Frame, question: Question, now: Time) -> Result<(), (Frame, DropReason)> {
        let same = |parked: &&Parked| parked.wire == question.wire && parked.tuple == question.tuple;
        let waiting = self.parked.iter().filter(same).count();
        if self.parked.len() == PARKING_SPACES || waiting == PARKED_PER_FLOW {
            return Err((frame, DropReason::AskQueueFull));
        }
        let (ticket, deadline) = match self.parked.iter().find(same) {
            Some(first) => (first.ticket, first.deadline),
            None => {
                let ticket = self.next_ticket;
                if self.queues.questions.push(Question { ticket, ..question }).is_err() {
                    return Err((frame, DropReason::AskQueueFull));
                }
                if let Some(bell) = &self.queues.bell {
                    bell.call();
                }
                self.next_ticket += 1;
                (ticket, now + ASK_TIMEOUT)
            }
        };
        let Question { wire, direction, tuple, .. } = question;
        self.parked.push(Parked { frame, wire, direction, tuple, ticket, deadline });
        Ok(())
    }

    /// The oldest frame that waits for this answer.
    pub(super) fn answered(&mut self, ticket: u64) -> Option<Parked> {
        let at = self.parked.iter().position(|parked| parked.ticket == ticket)?;
        Some(self.parked.remove(at))
    }

    /// The oldest frame whose time is up.
    pub(super) fn timed_out(&mut self, now: Time) -> Option<Parked> {
        let at = self.parked.iter().position(|parked| parked.deadline <= now)?;
        Some(self.parked.remove(at))
    }

    /// A frame of this wire, which is going away.
    pub(super) fn of_wire(&mut self, wire: WireId) -> Option<Parked> {
        let at = self.parked.iter().position(|parked| parked.wire == wire)?;
        Some(self.parked.remove(at))
    }
}
