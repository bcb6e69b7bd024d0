//! [`Engine`]: the engine as whoever decides sees it, wherever it runs.

use std::collections::BTreeMap;

use dataplane::address::Address;
use dataplane::event::Event;
use dataplane::flow::FlowInfo;
use dataplane::publish::{Change, Generation};
use dataplane::rules::WireId;

use super::{Enforcer, EnforcerError, RunningWire, WireSpec};
use crate::conntrack::asking::Counts;

/// The engine, in this process ([`Enforcer`]) or in one of its own.
pub trait Engine: Send + Sync {
    /// Carries a wire under this number, which no other wire has. It is closed until rules name it; rules may name it before.
    ///
    /// # Errors
    /// When a port can't be opened, or the engine is gone; nothing is left behind.
    fn attach(&self, id: WireId, spec: &WireSpec) -> Result<(), EnforcerError>;

    /// Closes a wire and forgets its flows. Answers whether there was one.
    fn detach(&self, wire: WireId) -> bool;

    /// Puts a change of the rules in force, and returns when every worker follows it.
    ///
    /// # Errors
    /// When it can't be compiled, a worker does not acknowledge it in time, or the engine is gone.
    fn change(&self, change: &Change) -> Result<Generation, EnforcerError>;

    /// The generation in force, as far as it is known here.
    fn generation(&self) -> Generation;

    /// The wires that are carried, with what they count up to now.
    fn wires(&self) -> BTreeMap<WireId, RunningWire>;

    /// The oldest events that nobody has taken, at most so many.
    fn take_events(&self, most: usize) -> Vec<Event>;

    /// Events that were lost because nobody took them in time.
    fn events_lost(&self) -> u64;

    /// All live flows.
    ///
    /// # Errors
    /// When a worker or the engine is gone.
    fn flows(&self) -> Result<Vec<FlowInfo>, EnforcerError>;

    /// Forgets the flows of an address on all wires, since it has a new owner. How many there were, as far as that is known.
    fn flush(&self, address: Address) -> usize;

    /// What the workers asked so far, and what it came to.
    fn asked(&self) -> Counts {
        Counts::default()
    }

    /// Workers that should run, and those of them that have died.
    fn workers(&self) -> (usize, Vec<usize>);
}

impl Engine for Enforcer {
    fn attach(&self, id: WireId, spec: &WireSpec) -> Result<(), EnforcerError> {
        self.attach_as(id, spec)
    }

    fn detach(&self, wire: WireId) -> bool {
        Enforcer::detach(self, wire)
    }

    fn change(&self, change: &Change) -> Result<Generation, EnforcerError> {
        Enforcer::change(self, change)
    }

    fn generation(&self) -> Generation {
        Enforcer::generation(self)
    }

    fn wires(&self) -> BTreeMap<WireId, RunningWire> {
        self.count_ports();
        Enforcer::wires(self)
    }

    fn take_events(&self, most: usize) -> Vec<Event> {
        Enforcer::take_events(self).take(most).collect()
    }

    fn events_lost(&self) -> u64 {
        Enforcer::events_lost(self)
    }

    fn flows(&self) -> Result<Vec<FlowInfo>, EnforcerError> {
        Enforcer::flows(self)
    }

    fn flush(&self, address: Address) -> usize {
        Enforcer::flush(self, address)
    }

    fn workers(&self) -> (usize, Vec<usize>) {
        (self.workers.len(), self.dead_workers())
    }
}
