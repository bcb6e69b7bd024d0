//! The worker: one thread that owns some wires, their flows and their memory, and moves their frames.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::address::Address;
use crate::event::{Event, Outbox, Trace};
use crate::flow::{Crossing, FlowInfo, FlowTable, Flush};
use crate::fragment::{DatagramRef, FragmentTable};
use crate::frame::{Burst, Frame};
use crate::packet::Direction;
use crate::port::Pool;
use crate::publish::{PolicyReader, Snapshot};
use crate::rules::WireId;
use crate::time::Time;
use crate::verdict::DropReason;
use crate::wire::{Wire, WireSetup};

mod act;
mod journey;
mod parking;
mod thread;

pub use parking::{ASK_TIMEOUT, Answer, AskQueues, Finding, PARKED_PER_FLOW, PARKING_SPACES, Question};
pub use thread::{Pinning, WorkerHandle, spawn};

use act::Judged;
use journey::{Fate, Journey, Report, Resumed};
use parking::Parking;

/// How many flows are looked at for expiry in one poll.
const EXPIRE_BUDGET: usize = 64;
/// How long a worker with parked frames sleeps at most, and the least that any worker sleeps for a timeout.
const PARKED_SLEEP: Duration = Duration::from_millis(20);

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
    wires: Vec<Option<Wire>>,
    pools: Vec<Option<Pool>>,
    flows: FlowTable,
    fragments: FragmentTable,
    policy: PolicyReader,
    parking: Parking,
    events: Outbox<Event>,
    trace: Option<Outbox<Trace>>,
    /// Out of place while a burst is under way; boxed, so that taking it moves a pointer.
    burst: Option<Box<Burst>>,
}

impl Worker {
    /// A worker without wires.
    pub fn new(config: WorkerConfig) -> Worker {
        Worker {
            wires: Vec::new(),
            pools: vec![Some(config.pool)],
            flows: config.flows,
            fragments: config.fragments,
            policy: config.policy,
            parking: Parking::new(config.ask),
            events: config.events,
            trace: config.trace,
            burst: Some(Box::default()),
        }
    }

    /// Takes a wire over and says at which place.
    ///
    /// # Errors
    /// When its ports don't fit together or can't be limited to what both carry.
    pub fn attach(&mut self, mut setup: WireSetup) -> std::io::Result<usize> {
        let pool = match setup.pool.take() {
            None => 0,
            Some(own) => place(&mut self.pools, own),
        };
        match Wire::new(setup, pool) {
            Ok(wire) => Ok(place(&mut self.wires, wire)),
            Err((error, mut setup)) => {
                self.close_ports(pool, [&mut setup.inside, &mut setup.outside]);
                Err(error)
            }
        }
    }

    /// Gives a wire up: parked and held frames are released, its flows forgotten, its ports closed.
    pub fn detach(&mut self, id: WireId) -> bool {
        let Some(at) = self.place_of(id) else { return false };
        // While the wire is still there, its waiting fragments are dropped with their reason.
        self.fragments.clear_wire(id);
        self.time_out(Time::ZERO);
        let Some(mut wire) = self.wires[at].take() else { return false };
        if let Some(pool) = &mut self.pools[wire.pool] {
            while let Some(parked) = self.parking.of_wire(id) {
                pool.release(parked.frame);
            }
        }
        self.flush_flows(Flush::wire(id));
        let [inside, outside] = &mut wire.ends;
        self.close_ports(wire.pool, [&mut inside.port, &mut outside.port]);
        true
    }

    fn close_ports(&mut self, pool: usize, ports: [&mut Box<dyn crate::port::Port>; 2]) {
        if let Some(memory) = &mut self.pools[pool] {
            for port in ports {
                port.close(memory);
            }
        }
        if pool != 0 {
            self.pools[pool] = None;
        }
    }

    pub(crate) fn place_of(&self, id: WireId) -> Option<usize> {
        self.wires.iter().position(|wire| wire.as_ref().is_some_and(|wire| wire.id == id))
    }

    /// Looks at all wires once: the whole journey for what is there. For callers without descriptors to wait on.
    pub fn poll(&mut self, now: Time) -> Progress {
        let mut progress = Progress::default();
        for at in 0..self.wires.len() {
            for direction in Direction::BOTH {
                progress.frames += self.poll_port(at, direction, now).frames;
            }
        }
        progress.frames += self.housekeeping(now).frames;
        progress
    }

    /// One burst from one port: receive, judge, act, send.
    pub fn poll_port(&mut self, at: usize, direction: Direction, now: Time) -> Progress {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return Progress::default() };
        let Some(pool) = &mut self.pools[wire.pool] else { return Progress::default() };
        let Some(mut burst) = self.burst.take() else { return Progress::default() };
        let received = wire.receive(direction, pool, &mut burst, now);
        if let Err(error) = &received {
            let errno = error.raw_os_error().unwrap_or(0);
            self.events.post(Event::PortLost { wire: wire.id, side: direction, errno });
        }
        let frames = burst.len();
        wire.stats.direction(direction).received.add(frames as u64);
        if frames > 0 {
            // One policy for the whole burst.
            let policy = self.policy.load().clone();
            for frame in burst.drain(..) {
                self.judge(at, direction, frame, &policy, now, None);
            }
        }
        self.burst = Some(burst);
        self.flush(at, now);
        if let Some(Some(wire)) = self.wires.get(at) {
            wire.stats.flows.set(self.flows.wire_flows(wire.id).into());
        }
        Progress { frames, port_lost: received.is_err() }
    }

    /// What is due beside frames: answers of control, timeouts, expiry.
    pub fn housekeeping(&mut self, now: Time) -> Progress {
        let frames = self.resume(now) + self.time_out(now);
        if self.flows.expire(EXPIRE_BUDGET, now) > 0 {
            self.count_flows();
        }
        Progress { frames, port_lost: false }
    }

    fn count_flows(&self) {
        for wire in self.wires.iter().flatten() {
            wire.stats.flows.set(self.flows.wire_flows(wire.id).into());
        }
    }

    /// One frame from `parse` to `act`, and the fragments that waited for it.
    fn judge(
        &mut self,
        at: usize,
        direction: Direction,
        frame: Frame,
        policy: &Arc<Snapshot>,
        now: Time,
        resumed: Option<Resumed>,
    ) {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        let slot = policy.slot(wire.id);
        let crossing = Crossing { wire: wire.id, direction, length: frame.length() as u32, now };
        let mut journey = Journey {
            wire,
            crossing,
            policy,
            slot,
            flows: &mut self.flows,
            fragments: &mut self.fragments,
            resumed,
            judged_as: None,
            report: Report::default(),
        };
        let fate = journey.fate(&frame);
        let judged = Judged { crossing, fate, report: journey.report, generation: policy.generation().0 };
        self.act(at, frame, &judged);
        if let Some(datagram) = judged.report.first_of {
            self.release_held(at, datagram, policy, now);
        }
    }

    /// Fragments that waited for the first one follow it.
    fn release_held(&mut self, at: usize, datagram: DatagramRef, policy: &Arc<Snapshot>, now: Time) {
        while let Some((held, tuple)) = self.fragments.next_held(datagram) {
            self.judge(at, held.direction, held.frame, policy, now, Some(Resumed { tuple, finding: None }));
        }
    }

    /// Frames whose question has been answered go on from where they were.
    fn resume(&mut self, now: Time) -> usize {
        let mut frames = 0;
        while let Some(answer) = self.parking.queues().take_answer() {
            let policy = self.policy.load().clone();
            while let Some(parked) = self.parking.answered(answer.ticket) {
                frames += 1;
                match self.place_of(parked.wire) {
                    Some(at) => {
                        let resumed = Resumed { tuple: parked.tuple, finding: Some(answer.finding) };
                        self.judge(at, parked.direction, parked.frame, &policy, now, Some(resumed));
                        self.flush(at, now);
                    }
                    None => drop(parked),
                }
            }
        }
        frames
    }

    /// Parked frames and held fragments whose time is up are dropped.
    fn time_out(&mut self, now: Time) -> usize {
        let mut frames = 0;
        while let Some(parked) = self.parking.timed_out(now) {
            frames += 1;
            let report = Report { tuple: Some(parked.tuple), ..Report::default() };
            self.drop_waiting(parked.wire, parked.direction, parked.frame, DropReason::AskTimeout, &report, now);
        }
        while let Some((held, reason)) = self.fragments.next_discarded(now) {
            frames += 1;
            let report = Report { packet: Some(held.packet), tuple: Some(held.packet.tuple()), ..Report::default() };
            self.drop_waiting(held.wire, held.direction, held.frame, reason, &report, now);
        }
        frames
    }

    fn drop_waiting(
        &mut self,
        wire: WireId,
        direction: Direction,
        frame: Frame,
        reason: DropReason,
        report: &Report,
        now: Time,
    ) {
        if let Some(at) = self.place_of(wire) {
            let generation = self.policy.load().generation().0;
            let crossing = Crossing { wire, direction, length: frame.length() as u32, now };
            self.act(at, frame, &Judged { crossing, fate: Fate::Drop(reason), report: *report, generation });
        }
    }

    /// The flow table, for listings and tests.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// All live flows.
    pub fn list_flows(&self, now: Time) -> Vec<FlowInfo> {
        self.flows.list(0, now).map(|(_number, flow)| flow).collect()
    }

    /// Chunks that are out of the worker's pools: in flight, parked, held, or lent to the kernel.
    pub fn chunks_outstanding(&self) -> usize {
        self.pools.iter().flatten().map(Pool::outstanding).sum()
    }

    /// Makes what the ports count visible in [`crate::stats::WireStats`].
    pub fn count_ports(&self) {
        for wire in self.wires.iter().flatten() {
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
            flushed += self.flows.flush(&mut flush, self.flows.capacity());
        }
        flushed
    }

    /// The descriptor of the port that receives frames of this direction.
    pub fn descriptor(&self, at: usize, direction: Direction) -> Option<BorrowedFd<'_>> {
        self.wires.get(at)?.as_ref()?.ends[direction as usize].port.descriptor()
    }

    /// Lets go of the policy before sleeping: the worker counts as having left all generations, and loads the newest
    /// with the first frame after it wakes.
    pub fn park(&mut self) {
        self.policy.park();
    }

    /// How long the worker may sleep before something is due, frames aside; `None`: for ever.
    pub fn next_due(&self, now: Time) -> Option<Duration> {
        if !self.parking.is_empty() {
            return Some(PARKED_SLEEP);
        }
        let due = [self.flows.next_deadline(), self.fragments.next_deadline()].into_iter().flatten().min()?;
        Some(due.since(now).max(PARKED_SLEEP))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let wires: Vec<WireId> = self.wires.iter().flatten().map(|wire| wire.id).collect();
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
