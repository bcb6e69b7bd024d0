//! The worker: one thread that owns some wires, their flows and their memory, and moves their frames.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::address::Address;
use crate::event::{Event, Outbox, Trace};
use crate::flow::{FlowInfo, FlowTable, Flush};
use crate::fragment::FragmentTable;
use crate::frame::Burst;
use crate::packet::Direction;
use crate::port::Pool;
use crate::publish::PolicyReader;
use crate::rules::WireId;
use crate::rules::stateful::Limiter;
use crate::time::Time;
use crate::wire::{Wire, WireSetup};

mod act;
mod ahead;
mod datapath;
mod doorbell;
mod handoff;
mod journey;
mod lane;
mod parking;
mod readiness;
mod reject;
mod stateful;
mod thread;

pub use doorbell::Doorbell;
pub use handoff::{ClosedLane, HandOff, settle};
pub use parking::{ASK_TIMEOUT, Answer, AskQueues, Finding, PARKED_PER_FLOW, PARKING_SPACES, Question};
pub use thread::{Pinning, WorkerHandle, spawn};

use ahead::Ahead;
use datapath::{Datapath, Turn};
use parking::Parking;

/// How many flows are looked at for expiry in one poll.
const EXPIRE_BUDGET: usize = 64;
/// How long a worker with parked frames sleeps at most, and the least that any worker sleeps for a timeout.
const PARKED_SLEEP: Duration = Duration::from_millis(20);

/// How many ICMP errors a worker sends to those whose packets are rejected: as many as Linux does, 1,000 a second, and so many at once.
const ANSWER_INTERVAL: Duration = Duration::from_millis(1);
const ANSWER_BURST: u32 = 50;

/// What a worker is made of.
pub struct WorkerConfig {
    /// Its number, for logs.
    pub id: usize,
    /// Connection tracking.
    pub flows: FlowTable,
    /// Fragments.
    pub fragments: FragmentTable,
    /// Where policy comes from.
    pub policy: PolicyReader,
    /// The memory of wires that bring none of their own.
    pub pool: Pool,
    /// Where events go.
    pub events: Outbox<Event>,
    /// Where every frame's fate goes, if anybody wants to know.
    pub trace: Option<Outbox<Trace>>,
    /// Where questions go and answers come from.
    pub ask: AskQueues,
}

/// What control tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Take over this wire. The answer is the reason why it can't be, if it can't.
    Attach(Box<WireSetup>, Sender<std::io::Result<()>>),
    /// Give up this wire: its ports are closed and its flows forgotten. Answers whether there was one.
    Detach(WireId, Sender<bool>),
    /// Take over this lane of a wire, joined to the other lanes by this. Answers as [`Command::Attach`].
    AttachLane(Box<WireSetup>, Box<HandOff>, Sender<std::io::Result<()>>),
    /// Give up this wire's lane. Answers with what is left of it, for [`settle`].
    DetachLane(WireId, Sender<Option<ClosedLane>>),
    /// Make what the ports count visible in [`crate::stats::WireStats`]; some ask the kernel for it.
    CountPorts(Sender<()>),
    /// List all live flows.
    Flows(Sender<Vec<FlowInfo>>),
    /// Forget the flows of an address on all wires: it has a new owner.
    FlushAddress(Address, Sender<usize>),
    /// Stop: all ports are closed.
    Stop,
}

/// What a poll found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames received, resumed or released.
    pub frames: usize,
    /// A port was lost just now.
    pub port_lost: bool,
}

/// A worker. [`spawn`] gives it a thread; tests, `eval` and replay call [`Worker::poll`] themselves.
pub struct Worker {
    policy: PolicyReader,
    burst: Box<Burst>,
    ahead: Ahead,
    path: Datapath,
}

impl Worker {
    /// A worker without wires.
    pub fn new(config: WorkerConfig) -> Worker {
        Worker {
            policy: config.policy,
            burst: Box::default(),
            ahead: Ahead::new(&config.flows),
            path: Datapath {
                id: config.id,
                answers: Limiter::new(ANSWER_INTERVAL, ANSWER_BURST),
                wires: Vec::new(),
                lanes: Vec::new(),
                pools: vec![Some(config.pool)],
                flows: config.flows,
                fragments: config.fragments,
                parking: Parking::new(config.ask),
                events: config.events,
                trace: config.trace,
            },
        }
    }

    /// Takes a wire over and says at which place.
    ///
    /// # Errors
    /// When its ports don't fit together or can't be limited to what both carry.
    pub fn attach(&mut self, mut setup: WireSetup) -> std::io::Result<usize> {
        let pool = match setup.pool.take() {
            None => 0,
            Some(own) => place(&mut self.path.pools, own),
        };
        match Wire::new(setup, pool) {
            Ok(wire) => Ok(place(&mut self.path.wires, wire)),
            Err((error, mut setup)) => {
                self.close_ports(pool, [&mut setup.inside, &mut setup.outside]);
                Err(error)
            }
        }
    }

    /// Gives a wire up: parked and held frames are released, its flows forgotten, its ports closed.
    pub fn detach(&mut self, id: WireId) -> bool {
        self.close_wire(id).is_some()
    }

    /// What is left is of a lane only.
    fn close_wire(&mut self, id: WireId) -> Option<Option<ClosedLane>> {
        let at = self.place_of(id)?;
        // While the wire is still there, its waiting fragments are dropped with their reason.
        self.path.fragments.clear_wire(id);
        self.path.time_out(&mut self.policy, Time::ZERO);
        let mut wire = self.path.wires[at].take()?;
        self.path.lanes.retain(|&lane| lane != at);
        if let Some(pool) = &mut self.path.pools[wire.pool] {
            while let Some(parked) = self.path.parking.of_wire(id) {
                wire.release(parked.frame, parked.direction, pool);
            }
        }
        self.flush_flows(Flush::wire(id));
        let [inside, outside] = &mut wire.ends;
        let pool = self.close_ports(wire.pool, [&mut inside.port, &mut outside.port]);
        let hand_off = wire.hand_off.take();
        Some(pool.zip(hand_off).map(|(pool, hand_off)| ClosedLane { pool, hand_off }))
    }

    /// The memory comes back if it was the ports' own.
    fn close_ports(&mut self, pool: usize, ports: [&mut Box<dyn crate::port::Port>; 2]) -> Option<Pool> {
        if let Some(memory) = &mut self.path.pools[pool] {
            for port in ports {
                port.close(memory);
            }
        }
        if pool == 0 { None } else { self.path.pools[pool].take() }
    }

    pub(crate) fn place_of(&self, id: WireId) -> Option<usize> {
        self.path.place_of(id)
    }

    /// Looks at all wires once: the whole journey for what is there. For callers without descriptors to wait on.
    pub fn poll(&mut self, now: Time) -> Progress {
        let mut progress = Progress::default();
        for at in 0..self.path.wires.len() {
            for direction in Direction::BOTH {
                progress.frames += self.poll_port(at, direction, now).frames;
            }
        }
        progress.frames += self.housekeeping(now).frames;
        progress
    }

    /// One burst from one port: receive, judge, act, send.
    pub fn poll_port(&mut self, at: usize, direction: Direction, now: Time) -> Progress {
        let Worker { policy, burst, ahead, path } = self;
        let received = path.receive(at, direction, burst, now);
        let frames = burst.len();
        if frames > 0 {
            // One policy for the whole burst.
            let turn = Turn { at, direction, policy: policy.load(), now };
            path.judge_burst(&turn, burst, ahead);
            path.flush(at, now);
            path.count_flows_of(at);
        }
        Progress { frames, port_lost: received.is_err() }
    }

    /// What is due beside frames: answers of control, timeouts, expiry.
    pub fn housekeeping(&mut self, now: Time) -> Progress {
        let frames =
            self.collect(now) + self.path.resume(&mut self.policy, now) + self.path.time_out(&mut self.policy, now);
        self.path.publish_lanes();
        if self.path.flows.expire(EXPIRE_BUDGET, now) > 0 {
            self.path.count_flows();
        }
        Progress { frames, port_lost: false }
    }

    /// The flow table, for listings and tests.
    pub fn flows(&self) -> &FlowTable {
        &self.path.flows
    }

    /// All live flows.
    pub fn list_flows(&self, now: Time) -> Vec<FlowInfo> {
        self.path.flows.list(0, now).map(|(_number, flow)| flow).collect()
    }

    /// Chunks that are out of the worker's pools: in flight, parked, held, or lent to the kernel.
    pub fn chunks_outstanding(&self) -> usize {
        self.path.pools.iter().flatten().map(Pool::outstanding).sum()
    }

    /// Makes what the ports count visible in [`crate::stats::WireStats`].
    pub fn count_ports(&self) {
        for wire in self.path.wires.iter().flatten() {
            wire.count_ports();
        }
    }

    /// Forgets the flows of an address on all wires: it has a new owner.
    pub fn flush_address(&mut self, address: Address) -> usize {
        self.flush_flows(Flush::address(address))
    }

    fn flush_flows(&mut self, mut flush: Flush) -> usize {
        let mut flushed = 0;
        while !flush.is_done() {
            flushed += self.path.flows.flush(&mut flush, self.path.flows.capacity());
        }
        self.path.count_flows();
        flushed
    }

    /// The descriptor of the port that receives frames of this direction.
    pub fn descriptor(&self, at: usize, direction: Direction) -> Option<BorrowedFd<'_>> {
        self.path.wires.get(at)?.as_ref()?.ends[direction as usize].port.descriptor()
    }

    /// Lets go of the policy before sleeping: the worker counts as having left all generations, and loads the newest
    /// with the first frame after it wakes.
    pub fn park(&mut self) {
        self.policy.park();
    }

    /// How long the worker may sleep before something is due, frames aside; `None`: for ever.
    pub fn next_due(&self, now: Time) -> Option<Duration> {
        if !self.path.parking.is_empty() {
            return Some(PARKED_SLEEP);
        }
        let due = [self.path.flows.next_deadline(), self.path.fragments.next_deadline()].into_iter().flatten().min()?;
        Some(due.since(now).max(PARKED_SLEEP))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let wires: Vec<WireId> = self.path.wires.iter().flatten().map(|wire| wire.id).collect();
        for wire in wires {
            self.detach(wire);
        }
    }
}

/// Puts something at the first free place.
fn place<T>(places: &mut Vec<Option<T>>, thing: T) -> usize {
    match places.iter().position(Option::is_none) {
        Some(at) => {
            places[at] = Some(thing);
            at
        }
        None => {
            places.push(Some(thing));
            places.len() - 1
        }
    }
}
