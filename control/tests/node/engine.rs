//! An engine whose rules are real and whose wires are only written down, and a wirer that a test speaks for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use cni::protocol::Pod;
use control::enforcer::{EnforcerError, Engine, RunningWire, WireSpec};
use control::node::wirer::{Sandbox, Wirer};
use dataplane::address::Address;
use dataplane::event::Event;
use dataplane::flow::FlowInfo;
use dataplane::packet::{Direction, Protocol};
use dataplane::publish::{Change, Generation, Publisher};
use dataplane::rules::{Action, Query, WireId};

/// What the engine was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Rules, acknowledged.
    Rules {
        whole: bool,
    },
    /// A wire, by its name.
    Attach(String),
    Detach(WireId),
    Flush(IpAddr),
}

#[derive(Default)]
struct Told {
    steps: Vec<Step>,
    wires: BTreeMap<WireId, String>,
    /// Acknowledgements are held back.
    held: bool,
    /// So are those of wires.
    wires_held: bool,
    events: Vec<Event>,
    gone: bool,
}

#[derive(Default)]
pub(crate) struct TestEngine {
    publisher: Mutex<Arc<Publisher>>,
    told: Mutex<Told>,
    let_go: Condvar,
}

impl TestEngine {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    fn publisher(&self) -> Arc<Publisher> {
        Arc::clone(&self.publisher.lock().unwrap())
    }

    /// Holds back acknowledgements, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.told().held = held;
        self.let_go.notify_all();
    }

    /// Holds back the acknowledgements of wires, or lets them go.
    pub(crate) fn hold_wires(&self, held: bool) {
        self.told().wires_held = held;
        self.let_go.notify_all();
    }

    /// Has something to tell.
    pub(crate) fn tell(&self, event: Event) {
        self.told().events.push(event);
    }

    /// Is killed; answers nothing until [`TestEngine::start`].
    pub(crate) fn kill(&self) {
        *self.publisher.lock().unwrap() = Arc::new(Publisher::new());
        let mut told = self.told();
        (told.gone, told.wires) = (true, BTreeMap::new());
        told.steps.clear();
    }

    pub(crate) fn start(&self) {
        self.told().gone = false;
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.told().steps.clone()
    }

    pub(crate) fn number(&self, wire: &str) -> Option<WireId> {
        self.told().wires.iter().find(|(_, name)| *name == wire).map(|(id, _)| *id)
    }

    /// Whether a frame would pass on a wire: one that nobody carries lets nothing pass.
    pub(crate) fn passes(&self, wire: &str, direction: Direction, peer: &str, port: u16) -> bool {
        let Some(wire) = self.number(wire) else { return false };
        let snapshot = self.publisher().snapshot();
        let Some(slot) = snapshot.slot(wire) else { return false };
        let peer: IpAddr = peer.parse().unwrap();
        let query = Query::new(Address::from(peer), Protocol::TCP, port);
        snapshot.classifier().judge(slot, direction, query).action == Action::Allow
    }

    /// Whether it is asked who is behind an address before what comes from it passes.
    pub(crate) fn asks(&self, wire: &str, peer: &str) -> bool {
        let snapshot = self.publisher().snapshot();
        let Some(slot) = self.number(wire).and_then(|wire| snapshot.slot(wire)) else { return false };
        let query = Query::new(Address::from(peer.parse::<IpAddr>().unwrap()), Protocol::TCP, 80);
        matches!(snapshot.classifier().judge(slot, Direction::Ingress, query).action, Action::Ask(_))
    }
}

impl Engine for TestEngine {
    fn attach(&self, id: WireId, spec: &WireSpec) -> Result<(), EnforcerError> {
        let mut told = self.told();
        while told.wires_held && !told.gone {
            told = self.let_go.wait(told).unwrap();
        }
        if told.gone {
            return Err(EnforcerError::Gone("killed".to_owned()));
        }
        // One that is carried already, as the engine does.
        if let Some(before) = told.wires.insert(id, spec.name.clone()) {
            assert_eq!(before, spec.name, "{id:?} is another wire's");
            return Ok(());
        }
        told.steps.push(Step::Attach(spec.name.clone()));
        Ok(())
    }

    fn detach(&self, wire: WireId) -> bool {
        let mut told = self.told();
        let there = told.wires.remove(&wire).is_some();
        if there {
            told.steps.push(Step::Detach(wire));
        }
        there
    }

    fn change(&self, change: &Change) -> Result<Generation, EnforcerError> {
        let mut told = self.told();
        while told.held && !told.gone {
            told = self.let_go.wait(told).unwrap();
        }
        if told.gone {
            return Err(EnforcerError::Gone("killed".to_owned()));
        }
        let generation = self.publisher().change(change).map_err(EnforcerError::from)?;
        told.steps.push(Step::Rules { whole: change.whole });
        Ok(generation)
    }

    fn generation(&self) -> Generation {
        self.publisher().generation()
    }

    fn wires(&self) -> BTreeMap<WireId, RunningWire> {
        let running = |name: &String| RunningWire {
            name: name.clone(),
            lanes: Vec::new(),
            stats: Arc::default(),
            warnings: Vec::new(),
        };
        self.told().wires.iter().map(|(id, name)| (*id, running(name))).collect()
    }

    fn take_events(&self, _most: usize) -> Vec<Event> {
        std::mem::take(&mut self.told().events)
    }

    fn events_lost(&self) -> u64 {
        0
    }

    fn flows(&self) -> Result<Vec<FlowInfo>, EnforcerError> {
        Ok(Vec::new())
    }

    fn flush(&self, address: Address) -> usize {
        self.told().steps.push(Step::Flush(address.into()));
        0
    }

    fn workers(&self) -> (usize, Vec<usize>) {
        (1, Vec::new())
    }
}

/// A wirer that says what a test says.
#[derive(Default)]
pub(crate) struct TestWirer {
    pub(crate) spliced: Mutex<Vec<Pod>>,
    pub(crate) unspliced: Mutex<Vec<(Sandbox, Pod)>>,
    pub(crate) unchained: Mutex<bool>,
}

impl Wirer for TestWirer {
    fn spliced(&self) -> Result<Vec<Pod>, String> {
        Ok(self.spliced.lock().unwrap().clone())
    }

    fn unspliced(&self) -> Result<Vec<Sandbox>, String> {
        Ok(self.unspliced.lock().unwrap().iter().map(|(sandbox, _)| sandbox.clone()).collect())
    }

    fn chained(&self) -> Result<bool, String> {
        Ok(!*self.unchained.lock().unwrap())
    }

    fn splice(&self, sandbox: &Sandbox) -> Result<Pod, String> {
        let mut unspliced = self.unspliced.lock().unwrap();
        let at = unspliced.iter().position(|(other, _)| other == sandbox).ok_or("there is no such sandbox")?;
        let pod = unspliced.remove(at).1;
        self.spliced.lock().unwrap().push(pod.clone());
        Ok(pod)
    }
}
