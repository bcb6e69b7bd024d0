//! What the engine tells control: plain records through bounded queues. A worker never waits for a reader; what does
//! not fit is counted as lost.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::address::Address;
use crate::packet::{Direction, Tuple};
use crate::rules::{RuleId, WireId};
use crate::stats::Counter;
use crate::time::Time;
use crate::verdict::{DropReason, Verdict};

/// Something worth a line in a log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A frame was dropped.
    Dropped(Dropped),
    /// A rule that asks for it let a new flow pass or refused it.
    Logged(Logged),
    /// A port is lost: its device is gone. The wire stays closed until it is attached anew.
    PortLost {
        /// Which wire.
        wire: WireId,
        /// The side whose frames go in this direction: `Egress` for the inside port.
        side: Direction,
        /// The system's error number, 0 when unknown.
        errno: i32,
    },
}

/// A dropped frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// When.
    pub at: Time,
    /// On which wire.
    pub wire: WireId,
    /// Which way it went.
    pub direction: Direction,
    /// Whose policy decided, if one was asked: a reply's flow is judged in its originator's direction. Otherwise as
    /// `direction`.
    pub judged: Direction,
    /// Why.
    pub reason: DropReason,
    /// Who talked to whom, when the frame could be read that far.
    pub tuple: Option<Tuple>,
    /// The far end that it was judged as, and the port, if that is not what the packet shows.
    pub judged_as: Option<(Address, u16)>,
    /// The rule that denied it, if one did.
    pub rule: Option<RuleId>,
    /// The policy generation that judged it; 0 before any.
    pub generation: u64,
    /// Bytes.
    pub length: u32,
}

/// A verdict that a rule wants logged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// When.
    pub at: Time,
    /// On which wire.
    pub wire: WireId,
    /// Which way the flow's first frame went.
    pub direction: Direction,
    /// Who talked to whom.
    pub tuple: Tuple,
    /// Whether it passed.
    pub allowed: bool,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The policy generation.
    pub generation: u64,
}

/// One frame's fate, for tests and for "why was this dropped?". Tracing is off unless a queue is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trace {
    /// When.
    pub at: Time,
    /// On which wire.
    pub wire: WireId,
    /// Which way it went.
    pub direction: Direction,
    /// Who talked to whom, when the frame could be read that far.
    pub tuple: Option<Tuple>,
    /// The first eight bytes after the transport header, zero-padded: enough for a sequence number.
    pub mark: [u8; 8],
    /// What became of it.
    pub verdict: Verdict,
    /// The rule that decided, if the classifier was asked and one did.
    pub rule: Option<RuleId>,
    /// The policy generation of its burst.
    pub generation: u64,
}

/// A bounded queue of records with a count of those that did not fit.
#[derive(Debug)]
pub struct Outbox<T> {
    queue: Arc<ArrayQueue<T>>,
    lost: Arc<Counter>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Outbox { queue: self.queue.clone(), lost: self.lost.clone() }
    }
}

impl<T> Outbox<T> {
    /// A queue of at most `capacity` records.
    pub fn new(capacity: usize) -> Self {
        Outbox { queue: Arc::new(ArrayQueue::new(capacity)), lost: Arc::new(Counter::default()) }
    }

    /// Puts a record into the queue, or counts it as lost. Only the owning worker may.
    pub fn post(&self, record: T) {
        if self.queue.push(record).is_err() {
            self.lost.add(1);
        }
    }

    /// The oldest record.
    pub fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    /// How many records did not fit.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }
}
