//! The engine, set up and running: worker threads, the wires that they own, and the policy that they follow.
//!
//! The lab and the daemon both stand on this. It knows wires and rules; who lives behind a wire is the caller's
//! business.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dataplane::address::Address;
use dataplane::classify::{CompileError, Size};
use dataplane::event::{Event, Outbox, Trace};
use dataplane::flow::{FlowConfig, FlowInfo, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::port::af_packet::AfPacket;
use dataplane::port::{OpenedPair, Pool, PortError, PortSpec};
use dataplane::publish::{Change, Generation, PolicyReader, Publisher};
use dataplane::rules::{RuleSet, WireId};
use dataplane::stats::WireStats;
use dataplane::time::Time;
use dataplane::wire::Tracking;
use dataplane::worker::{AskQueues, Command, Doorbell, Pinning, WorkerConfig, WorkerHandle, spawn};

use crate::conntrack::asking::{Answering, Asking, LookUp};

mod engine;
mod lanes;
mod list;

pub use engine::Engine;
pub use lanes::Lane;
pub use list::{ListError, LiveList};

/// How long a worker may take to acknowledge a policy before that is an error.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// Chunks of a wire's memory: what its ports receive into. Only pages that were used count.
const POOL_CHUNKS: usize = 256;

/// What went wrong in setting the engine up.
#[derive(Debug, thiserror::Error)]
pub enum EnforcerError {
    /// A worker could not be started.
    #[error("worker {worker} could not be started: {source}")]
    Worker {
        /// Which.
        worker: usize,
        /// Why.
        source: std::io::Error,
    },
    /// A port of a wire could not be opened.
    #[error("wire {wire}: {source}")]
    Port {
        /// The wire's name.
        wire: String,
        /// Why.
        source: PortError,
    },
    /// A wire's ports don't fit together.
    #[error("wire {wire}: {source}")]
    Wire {
        /// The wire's name.
        wire: String,
        /// Why.
        source: std::io::Error,
    },
    /// A worker is gone.
    #[error("worker {0} has died; restart penstock, and report what it printed")]
    Dead(usize),
    /// The rules are more than can be compiled.
    #[error("the rules can't be compiled: {0}")]
    Compile(#[from] CompileError),
    /// The engine runs in a process of its own, which is gone.
    #[error("the engine is gone ({0}); another one is being started")]
    Gone(String),
    /// The engine runs in a process of its own, and refused.
    #[error("{0}")]
    Refused(String),
    /// The workers did not take a policy over in time.
    #[error(
        "policy generation {0} was not acknowledged by every worker within {ACKNOWLEDGE:?}; the workers are overloaded or stopped"
    )]
    NotAcknowledged(u64),
}

/// How the engine is to run.
#[derive(Clone, Debug)]
pub struct EnforcerConfig {
    /// Which CPU each worker is pinned to; as many workers as entries.
    pub workers: Vec<Pinning>,
    /// Flows a worker can hold.
    pub flows: usize,
    /// Connection tracking. The hash key is drawn at random whatever stands here, and a wire quota of 0 is half of the
    /// table.
    pub tracking: FlowConfig,
    /// Whether every frame's fate is recorded ([`Enforcer::traces`]).
    pub trace: bool,
}

impl Default for EnforcerConfig {
    fn default() -> Self {
        EnforcerConfig { workers: vec![Pinning::None], flows: 65_536, tracking: FlowConfig::default(), trace: false }
    }
}

/// A wire to be set up.
#[derive(Clone, Debug)]
pub struct WireSpec {
    /// Its name, for people.
    pub name: String,
    /// The port towards the endpoint.
    pub inside: PortSpec,
    /// The port towards everything else.
    pub outside: PortSpec,
    /// The endpoint, if there is one inside.
    pub endpoint: Option<Endpoint>,
    /// What is allowed beside untagged IP, ARP and neighbour discovery.
    pub permissions: Permissions,
    /// Whether frames are judged by their flow.
    pub tracking: Tracking,
}

/// A wire that runs.
#[derive(Clone, Debug)]
pub struct RunningWire {
    /// Its name.
    pub name: String,
    /// The workers that it runs on: one, unless its devices have several queues.
    pub lanes: Vec<Lane>,
    /// What it counts; of several lanes, the sum of the moment of the last [`Enforcer::wires`] or [`Enforcer::count_ports`].
    pub stats: Arc<WireStats>,
    /// What setting it up wanted to tell, such as a fall-back.
    pub warnings: Vec<String>,
}

/// The running engine. Dropping it closes all wires.
pub struct Enforcer {
    workers: Vec<WorkerHandle>,
    publisher: Arc<Publisher>,
    events: Vec<Outbox<Event>>,
    traces: Vec<Outbox<Trace>>,
    asks: Vec<AskQueues>,
    bell: Arc<Doorbell>,
    wires: Mutex<BTreeMap<WireId, RunningWire>>,
    next_wire: AtomicU32,
    /// A wire's number says which worker it is on, so that its flows are found again in that worker's file.
    is_placed: bool,
}

impl Enforcer {
    /// Starts the workers. There are no wires yet, and the policy is that of no wire: all closed.
    ///
    /// # Errors
    /// When a worker can't be started or pinned.
    pub fn start(config: &EnforcerConfig) -> Result<Enforcer, EnforcerError> {
        Self::start_with(config, Vec::new())
    }

    /// [`Enforcer::start`] with a region for each worker's flows ([`FlowRegion::shared`]), and whether flows are in it that are
    /// taken over: each is judged again by the rules of this engine before a frame of it passes. The number of a wire says on
    /// which worker it is. Without regions each worker has memory of its own.
    ///
    /// # Errors
    /// As [`Enforcer::start`].
    pub fn start_with(config: &EnforcerConfig, regions: Vec<(FlowRegion, bool)>) -> Result<Enforcer, EnforcerError> {
        let is_placed = !regions.is_empty();
        let mut regions = regions.into_iter();
        let publisher = Arc::new(Publisher::new());
        let bell = Arc::new(Doorbell::new().map_err(|source| EnforcerError::Worker { worker: 0, source })?);
        let mut enforcer = Enforcer {
            workers: Vec::new(),
            publisher: publisher.clone(),
            events: Vec::new(),
            traces: Vec::new(),
            asks: Vec::new(),
            bell: bell.clone(),
            wires: Mutex::new(BTreeMap::new()),
            next_wire: AtomicU32::new(0),
            is_placed,
        };
        // The workers of a wire agree by it on whose a flow is.
        let first = |source| EnforcerError::Worker { worker: 0, source };
        let hash_key = random_key().map_err(first)?;
        for (id, &pinning) in config.workers.iter().enumerate() {
            let events = Outbox::new(4096);
            let trace = config.trace.then(|| Outbox::new(1 << 20));
            let ask = AskQueues::with_bell(bell.clone());
            let secret = |source| EnforcerError::Worker { worker: id, source };
            let tracking = FlowConfig {
                hash_key,
                wire_quota: match config.tracking.wire_quota {
                    0 => u32::try_from(config.flows / 2).unwrap_or(u32::MAX),
                    quota => quota,
                },
                ..config.tracking.clone()
            };
            let fragments = FragmentConfig { hash_key: random_key().map_err(secret)?, ..FragmentConfig::default() };
            let worker = WorkerConfig {
                id,
                flows: flow_table(regions.next(), config.flows, tracking),
                fragments: FragmentTable::new(fragments),
                policy: publisher.reader(),
                pool: Pool::new(1, Pool::SUPER_FRAME),
                events: events.clone(),
                trace: trace.clone(),
                ask: ask.clone(),
            };
            let handle = spawn(worker, pinning).map_err(|source| EnforcerError::Worker { worker: id, source })?;
            enforcer.workers.push(handle);
            enforcer.events.push(events);
            enforcer.traces.extend(trace);
            enforcer.asks.push(ask);
        }
        Ok(enforcer)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<WireId, RunningWire>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a wire's ports and gives it to the worker with the fewest wires, or to several of them if both of its devices have
    /// queues for them. It is closed until a rule set names it.
    ///
    /// # Errors
    /// When a port can't be opened, the ports don't fit together, or the worker is gone; nothing is left behind.
    pub fn attach(&self, spec: &WireSpec) -> Result<WireId, EnforcerError> {
        let id = WireId(self.next_wire.fetch_add(1, Ordering::Relaxed));
        self.attach_as(id, spec)?;
        Ok(id)
    }

    /// [`Enforcer::attach`] under a number that the caller chooses and gives to no other wire; whoever chooses some chooses all.
    ///
    /// # Errors
    /// Those of [`Enforcer::attach`].
    pub fn attach_as(&self, id: WireId, spec: &WireSpec) -> Result<(), EnforcerError> {
        let port_error = |source| EnforcerError::Port { wire: spec.name.clone(), source };
        let lanes = if self.is_placed { 1 } else { self.workers.len() };
        let opened =
            dataplane::port::open_lanes(&spec.inside, &spec.outside, POOL_CHUNKS, lanes).map_err(port_error)?;
        self.attach_opened(id, spec, opened)
    }

    /// [`Enforcer::attach_as`] with AF_PACKET ports that somebody else opened; those of `spec` are not looked at.
    ///
    /// # Errors
    /// When the worker is gone, or the ports are none; nothing is left behind.
    pub fn attach_adopted(
        &self,
        id: WireId,
        spec: &WireSpec,
        inside: AfPacket,
        outside: AfPacket,
    ) -> Result<(), EnforcerError> {
        self.attach_opened(id, spec, vec![dataplane::port::pair_of(inside, outside, POOL_CHUNKS)])
    }

    fn attach_opened(&self, id: WireId, spec: &WireSpec, mut opened: Vec<OpenedPair>) -> Result<(), EnforcerError> {
        let warnings = opened.iter_mut().flat_map(|lane| std::mem::take(&mut lane.warnings)).collect();
        let lanes = self.attach_lanes(id, spec, opened)?;
        let stats = match &lanes[..] {
            [only] => only.stats.clone(),
            _ => Arc::default(),
        };
        self.running().insert(id, RunningWire { name: spec.name.clone(), lanes, stats, warnings });
        Ok(())
    }

    /// The workers for a wire's lanes: so many, those with the fewest wires, unless its number says which one.
    fn workers_for(&self, id: WireId, count: usize) -> Vec<usize> {
        if self.is_placed {
            return vec![id.0 as usize % self.workers.len()];
        }
        let wires = self.running();
        let load =
            |&worker: &usize| wires.values().filter(|wire| wire.lanes.iter().any(|lane| lane.worker == worker)).count();
        let mut workers: Vec<usize> = (0..self.workers.len()).collect();
        workers.sort_by_key(load);
        workers.truncate(count);
        workers
    }

    /// Closes a wire and forgets its flows. Answers whether there was one.
    pub fn detach(&self, wire: WireId) -> bool {
        let Some(running) = self.running().remove(&wire) else { return false };
        self.detach_lanes(wire, &running.lanes)
    }

    /// Puts rules in force and returns when every worker follows them.
    ///
    /// # Errors
    /// When a worker does not acknowledge them in time. They are in force where they were acknowledged.
    pub fn publish(&self, rules: RuleSet) -> Result<Generation, EnforcerError> {
        let generation = self.publisher.publish(rules)?;
        self.wait_applied(generation)
    }

    /// Puts a change in force, which costs what it touches, and returns when every worker follows it.
    ///
    /// # Errors
    /// As [`Enforcer::publish`].
    pub fn change(&self, change: &Change) -> Result<Generation, EnforcerError> {
        let generation = self.publisher.change(change)?;
        self.wait_applied(generation)
    }

    fn wait_applied(&self, generation: Generation) -> Result<Generation, EnforcerError> {
        // A worker that sleeps follows none: it loads the newest when a frame wakes it.
        if self.publisher.acknowledged(generation) {
            return Ok(generation);
        }
        for worker in &self.workers {
            worker.wake();
        }
        if self.publisher.wait_acknowledged(generation, ACKNOWLEDGE) {
            Ok(generation)
        } else {
            Err(EnforcerError::NotAcknowledged(generation.0))
        }
    }

    /// A judge beside the workers: from its first load until it parks, publications wait for it too.
    pub fn reader(&self) -> PolicyReader {
        self.publisher.reader()
    }

    /// The generation in force.
    pub fn generation(&self) -> Generation {
        self.publisher.generation()
    }

    /// How large the compiled rules in force are.
    pub fn policy_size(&self) -> Size {
        self.publisher.snapshot().classifier().size()
    }

    /// Brings the ports' counters in [`WireStats`] up to date.
    pub fn count_ports(&self) {
        for worker in &self.workers {
            // A dead worker's counters stay as they are.
            let _dead = worker.ask(Command::CountPorts);
        }
        self.running().values().for_each(RunningWire::sum_up);
    }

    /// The wires that run.
    pub fn wires(&self) -> BTreeMap<WireId, RunningWire> {
        let wires = self.running();
        wires.values().for_each(RunningWire::sum_up);
        wires.clone()
    }

    /// The oldest events that nobody has taken, from all workers.
    pub fn take_events(&self) -> impl Iterator<Item = Event> {
        self.events.iter().flat_map(|outbox| std::iter::from_fn(|| outbox.take()))
    }

    /// Events that were lost because nobody took them in time.
    pub fn events_lost(&self) -> u64 {
        self.events.iter().map(Outbox::lost).sum()
    }

    /// Every frame's fate, a queue a worker; empty unless [`EnforcerConfig::trace`] is set.
    pub fn traces(&self) -> &[Outbox<Trace>] {
        &self.traces
    }

    /// The queues of questions, one a worker, with the function that wakes the worker after an answer.
    pub fn asks(&self) -> Vec<Asking> {
        let waker = |worker: &WorkerHandle| Box::new(worker.waker()) as Box<dyn Fn() + Send + Sync>;
        self.asks.iter().cloned().zip(self.workers.iter().map(waker)).collect()
    }

    /// Begins to answer what the workers ask.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn answer_with(&self, look_up: impl LookUp) -> std::io::Result<Answering> {
        Answering::start(self.asks(), self.bell.clone(), self.publisher.clone(), look_up)
    }

    /// All live flows.
    ///
    /// # Errors
    /// When a worker is gone.
    pub fn flows(&self) -> Result<Vec<FlowInfo>, EnforcerError> {
        let mut flows = Vec::new();
        for (number, worker) in self.workers.iter().enumerate() {
            flows.extend(worker.ask(Command::Flows).ok_or(EnforcerError::Dead(number))?);
        }
        Ok(flows)
    }

    /// Forgets the flows of an address on all wires: it has a new owner. How many there were.
    pub fn flush(&self, address: Address) -> usize {
        let flush = |worker: &WorkerHandle| worker.ask(|answer| Command::FlushAddress(address, answer));
        // A dead worker carries none.
        self.workers.iter().filter_map(flush).sum()
    }

    /// The workers that have died.
    pub fn dead_workers(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|&worker| !self.workers[worker].is_alive()).collect()
    }
}

/// A worker's flows: new, or those of a region.
fn flow_table(region: Option<(FlowRegion, bool)>, capacity: usize, tracking: FlowConfig) -> FlowTable {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs());
    match region {
        None => FlowTable::new(FlowRegion::heap(capacity), tracking),
        Some((region, false)) => FlowTable::new(region, tracking),
        Some((region, true)) => {
            let mut table = FlowTable::adopt(region, tracking, now);
            table.forget_epochs();
            table
        }
    }
}

/// A key that nobody outside can know, so that nobody can aim at one bucket.
fn random_key() -> std::io::Result<[u8; 16]> {
    let mut key = [0; 16];
    // The kernel gives up to 256 bytes whole once its pool is seeded, and waits until then.
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    Ok(key)
}
