//! The engine and the wirer as control sees them: both are processes of their own.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cni::protocol::Pod;
use dataplane::address::Address;
use dataplane::event::Event;
use dataplane::flow::FlowInfo;
use dataplane::port::{PortKind, PortSpec};
use dataplane::publish::{Change, Generation};
use dataplane::rules::WireId;

use super::channel;
use super::message::{Answer, Ask, Carried, Counted, End, Engine as Asked, Request, Rules, Told};
use crate::conntrack::asking::Counts;
use crate::enforcer::{EnforcerError, Engine, Lane, RunningWire, WireSpec};
use crate::node::wirer::{Sandbox, Wirer};

/// How long an answer of the wirer may take: it may run a program that waits for others.
const ANSWER: Duration = Duration::from_secs(60);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wirer's process.
#[derive(Debug)]
pub struct RemoteWirer {
    channel: Mutex<UnixStream>,
    number: AtomicU64,
    waiting: Mutex<HashMap<u64, SyncSender<Result<Answer, String>>>>,
}

impl RemoteWirer {
    pub(super) fn new(channel: UnixStream) -> Self {
        RemoteWirer { channel: Mutex::new(channel), number: AtomicU64::new(0), waiting: Mutex::default() }
    }

    /// An answer has come.
    pub(super) fn answered(&self, number: u64, answer: Result<Answer, String>) {
        if let Some(waiter) = locked(&self.waiting).remove(&number) {
            let _gave_up = waiter.send(answer);
        }
    }

    fn ask(&self, ask: Ask) -> Result<Answer, String> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        locked(&self.waiting).insert(number, sender);
        let sent = channel::send(&locked(&self.channel), &Request { number, ask }, &[]);
        let answer = match sent {
            Ok(()) => receiver.recv_timeout(ANSWER).unwrap_or_else(|_| Err("the wirer does not answer".to_owned())),
            Err(error) => Err(format!("the wirer cannot be asked: {error}")),
        };
        locked(&self.waiting).remove(&number);
        answer
    }

    fn done(&self, ask: Ask) -> Result<(), String> {
        self.ask(ask).map(drop)
    }
}

fn unexpected<T>(answer: &Answer) -> Result<T, String> {
    Err(format!("the wirer answered something else: {answer:?}"))
}

impl Wirer for RemoteWirer {
    fn spliced(&self) -> Result<Vec<Pod>, String> {
        match self.ask(Ask::Spliced)? {
            Answer::Pods(pods) => Ok(pods),
            other => unexpected(&other),
        }
    }

    fn unspliced(&self) -> Result<Vec<Sandbox>, String> {
        match self.ask(Ask::Unspliced)? {
            Answer::Sandboxes(sandboxes) => Ok(sandboxes),
            other => unexpected(&other),
        }
    }

    fn chained(&self) -> Result<bool, String> {
        match self.ask(Ask::Chained)? {
            Answer::Chained(chained) => Ok(chained),
            other => unexpected(&other),
        }
    }

    fn splice(&self, sandbox: &Sandbox) -> Result<Pod, String> {
        match self.ask(Ask::Splice(sandbox.clone()))? {
            Answer::Pod(pod) => Ok(pod),
            other => unexpected(&other),
        }
    }
}

/// The engine in the dataplane's process.
#[derive(Debug)]
pub struct RemoteEngine {
    wirer: Arc<RemoteWirer>,
    workers: usize,
    link: Mutex<Option<UnixStream>>,
    generation: AtomicU64,
    events_lost: AtomicU64,
    /// What was counted last. The counters of a wire stay where they are while it is carried.
    wires: Mutex<BTreeMap<WireId, RunningWire>>,
}

impl RemoteEngine {
    pub(super) fn new(wirer: Arc<RemoteWirer>, workers: usize) -> Self {
        RemoteEngine {
            wirer,
            workers,
            link: Mutex::new(None),
            generation: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
            wires: Mutex::default(),
        }
    }

    /// There is a dataplane; the one before, if any, is gone.
    pub(super) fn connect(&self, link: UnixStream) {
        *locked(&self.link) = Some(link);
    }

    fn ask(&self, asked: &Asked) -> Result<Told, EnforcerError> {
        let mut link = locked(&self.link);
        let gone = |reason: String| EnforcerError::Gone(reason);
        let Some(stream) = link.as_ref() else { return Err(gone("it has not started".to_owned())) };
        let told = channel::send(stream, asked, &[]).and_then(|()| channel::receive::<Told>(stream));
        match told {
            Ok((Told::Refused(reason), _)) => Err(EnforcerError::Refused(reason)),
            Ok((told, _)) => Ok(told),
            Err(error) => {
                // What comes now would be the answer to another question.
                *link = None;
                Err(gone(error.to_string()))
            }
        }
    }

    fn counted(&self, counted: Counted) -> (WireId, RunningWire) {
        let before = locked(&self.wires).remove(&counted.wire).filter(|before| before.name == counted.name);
        let stats = before.map(|before| before.stats).unwrap_or_default();
        stats.set_values(&counted.values);
        let lane = |worker| Lane { worker, stats: stats.clone() };
        let lanes = counted.workers.into_iter().map(lane).collect();
        (counted.wire, RunningWire { name: counted.name, lanes, stats, warnings: counted.warnings })
    }
}

/// A port as the wirer knows it.
fn end(wire: &str, port: &PortSpec) -> Result<End, EnforcerError> {
    match (port.kind, &port.namespace) {
        (PortKind::AfPacket, Some(netns)) => Ok(End { netns: netns.into(), interface: port.device.clone() }),
        _ => Err(EnforcerError::Refused(format!(
            "wire {wire}: {} is no af_packet device in a pinned namespace, which a pod's wire has at both ends",
            port.device
        ))),
    }
}

impl Engine for RemoteEngine {
    fn attach(&self, id: WireId, spec: &WireSpec) -> Result<(), EnforcerError> {
        let ends = [end(&spec.name, &spec.inside)?, end(&spec.name, &spec.outside)?];
        let refused = |reason| EnforcerError::Refused(format!("wire {}: {reason}", spec.name));
        let opened = self.wirer.ask(Ask::Open { wire: id, ends }).map_err(refused)?;
        let Answer::Opened(serial) = opened else { return unexpected(&opened).map_err(refused) };
        let carried = Carried {
            name: spec.name.clone(),
            endpoint: spec.endpoint.clone(),
            permissions: spec.permissions,
            tracking: spec.tracking,
        };
        self.ask(&Asked::Attach(id, serial, carried)).map(drop)
    }

    fn detach(&self, wire: WireId) -> bool {
        let found = matches!(self.ask(&Asked::Detach(wire)), Ok(Told::Found(true)));
        // A wirer that is gone has closed them.
        let _closed = self.wirer.done(Ask::Close(wire));
        found
    }

    fn change(&self, change: &Change) -> Result<Generation, EnforcerError> {
        let rules = Rules::of(change).map_err(EnforcerError::Refused)?;
        match self.ask(&Asked::Change(rules))? {
            Told::Generation(generation) => {
                self.generation.store(generation.0, Ordering::Relaxed);
                Ok(generation)
            }
            other => Err(EnforcerError::Refused(format!("the engine answered something else: {other:?}"))),
        }
    }

    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }

    fn wires(&self) -> BTreeMap<WireId, RunningWire> {
        let Ok(Told::Wires(wires)) = self.ask(&Asked::Wires) else { return BTreeMap::new() };
        let wires: BTreeMap<_, _> = wires.into_iter().map(|counted| self.counted(counted)).collect();
        locked(&self.wires).clone_from(&wires);
        wires
    }

    fn take_events(&self, most: usize) -> Vec<Event> {
        let Ok(Told::Events(events, lost)) = self.ask(&Asked::Events(most)) else { return Vec::new() };
        self.events_lost.store(lost, Ordering::Relaxed);
        events
    }

    fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }

    fn flows(&self) -> Result<Vec<FlowInfo>, EnforcerError> {
        match self.ask(&Asked::Flows)? {
            Told::Flows(flows) => Ok(flows),
            other => Err(EnforcerError::Refused(format!("the engine answered something else: {other:?}"))),
        }
    }

    fn flush(&self, address: Address) -> usize {
        match self.ask(&Asked::Flush(address)) {
            Ok(Told::Flushed(flows)) => flows,
            // Without an engine no flow is used; the next one judges each anew.
            _ => 0,
        }
    }

    fn asked(&self) -> Counts {
        match self.ask(&Asked::Asks) {
            Ok(Told::Asks(counts)) => counts,
            _ => Counts::default(),
        }
    }

    fn workers(&self) -> (usize, Vec<usize>) {
        match self.ask(&Asked::Workers) {
            Ok(Told::Workers(count, dead)) => (count, dead),
            _ => (self.workers, (0..self.workers).collect()),
        }
    }
}
