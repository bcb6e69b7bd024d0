//! A worker's thread: it polls while there is work and sleeps in the kernel when there is none.
//!
//! A port that filled a whole burst has more: it is polled again at once, without asking the kernel which ports are
//! ready. All others are left alone until the kernel names them, so that a hundred quiet wires cost nothing.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::frame::BURST;
use crate::packet::Direction;
use crate::rules::WireId;
use crate::time::Time;
use crate::wire::WireSetup;
use crate::worker::readiness::{PortPlace, Readiness};
use crate::worker::{Command, Doorbell, HandOff, Worker, WorkerConfig};

/// Rounds over ports that filled their bursts before the kernel is asked about the others.
const BUSY_ROUNDS: u32 = 4;
/// How often an idle worker looks again before it sleeps.
const IDLE_ROUNDS: u32 = 4;
/// How long a worker with ports that must be polled sleeps at most.
const POLLED_SLEEP: Duration = Duration::from_millis(1);

/// Which CPU a worker runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Wherever the scheduler puts it.
    #[default]
    None,
    /// This CPU only.
    Cpu(usize),
}

/// Control's end of a worker thread. Dropping it stops the worker.
#[derive(Debug)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    doorbell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Tells the worker something. It answers on the channel in the command; a dead worker's channel is closed.
    pub fn tell(&self, command: Command) {
        // A worker that is gone has dropped its end, and with it the answer's sender: the asker sees that.
        let _gone = self.commands.send(command);
        self.wake();
    }

    /// Wakes the worker if it sleeps.
    pub fn wake(&self) {
        self.doorbell.ring();
    }

    /// What wakes the worker, for those that share a wire with it.
    pub fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// A function that wakes the worker, for whoever answers its questions or publishes policy.
    pub fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let doorbell = self.doorbell();
        move || doorbell.ring()
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Asks the worker with a command that carries the answer's channel.
    pub fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        self.begin(command).recv().ok()
    }

    /// The same without waiting: the answer is waited for where it is asked for.
    pub fn begin<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Receiver<T> {
        let (sender, receiver) = crossbeam::channel::bounded(1);
        self.tell(command(sender));
        receiver
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has told so on stderr; there is nothing to add.
            let _panicked = thread.join();
        }
    }
}

/// Starts a worker on a thread of its own.
///
/// # Errors
/// When the system refuses a descriptor or a thread, or the CPU does not exist.
pub fn spawn(config: WorkerConfig, pinning: Pinning) -> io::Result<WorkerHandle> {
    let (commands, receiver) = unbounded();
    let doorbell = Arc::new(Doorbell::new()?);
    let readiness = Readiness::new(Arc::clone(&doorbell))?;
    let (ready_sender, ready) = crossbeam::channel::bounded(1);
    let own = Arc::clone(&doorbell);
    let thread = std::thread::Builder::new().name(format!("worker-{}", config.id)).spawn(move || {
        let pinned = pin(pinning);
        let failed = pinned.is_err();
        if ready_sender.send(pinned).is_err() || failed {
            return;
        }
        let worker = Worker::new(config);
        Thread { worker, readiness, doorbell: own, commands: receiver, polled: Vec::new(), busy: Vec::new() }.run();
    })?;
    ready.recv().unwrap_or_else(|_| Err(io::Error::other("the worker's thread died at its start")))?;
    Ok(WorkerHandle { commands, doorbell, thread: Some(thread) })
}

fn pin(pinning: Pinning) -> io::Result<()> {
    let Pinning::Cpu(cpu) = pinning else { return Ok(()) };
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no CPU {cpu}")));
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).map_err(Into::into)
}

/// The time of CLOCK_MONOTONIC, which is the engine's time in a running daemon.
fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    Time(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

struct Thread {
    worker: Worker,
    readiness: Readiness,
    doorbell: Arc<Doorbell>,
    commands: Receiver<Command>,
    /// Ports without a descriptor to wait on.
    polled: Vec<PortPlace>,
    /// Ports whose last burst was full.
    busy: Vec<PortPlace>,
}

impl Thread {
    fn run(mut self) {
        let (mut idle, mut rounds) = (0, 0);
        // The last wait's, until its ports have been looked at.
        let mut is_fresh = false;
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if !self.obey(command) {
                    return;
                }
            }
            let frames = self.work(std::mem::take(&mut is_fresh));
            if !self.busy.is_empty() && rounds < BUSY_ROUNDS {
                rounds += 1;
                continue;
            }
            rounds = 0;
            idle = if frames > 0 { 0 } else { idle + 1 };
            let sleep = if idle <= IDLE_ROUNDS { Some(Duration::ZERO) } else { self.sleep_time() };
            if sleep == Some(Duration::ZERO) {
                self.readiness.wait(&self.worker, sleep);
            } else {
                self.sleep(sleep);
            }
            is_fresh = true;
        }
    }

    /// One round over the ports that have something: those that were busy, and those that the last wait found.
    fn work(&mut self, is_fresh: bool) -> usize {
        let now = now();
        let mut frames = 0;
        let mut at = 0;
        while at < self.busy.len() {
            let (place, direction) = self.busy[at];
            let taken = self.poll_port(place, direction, now);
            frames += taken;
            if taken == BURST {
                at += 1;
            } else {
                self.busy.swap_remove(at);
            }
        }
        let ready = if is_fresh { self.readiness.ready().len() } else { 0 };
        for at in 0..ready {
            let Some(&port) = self.readiness.ready().get(at) else { break };
            if self.busy.contains(&port) {
                continue;
            }
            let taken = self.poll_port(port.0, port.1, now);
            frames += taken;
            if taken == BURST {
                self.busy.push(port);
            }
        }
        for at in 0..self.polled.len() {
            let (place, direction) = self.polled[at];
            frames += self.poll_port(place, direction, now);
        }
        frames + self.worker.housekeeping(now).frames
    }

    fn poll_port(&mut self, at: usize, direction: Direction, now: Time) -> usize {
        let progress = self.worker.poll_port(at, direction, now);
        if progress.port_lost {
            self.readiness.remove(&self.worker, (at, direction));
        }
        progress.frames
    }

    fn sleep_time(&self) -> Option<Duration> {
        let due = self.worker.next_due(now());
        if self.polled.is_empty() { due } else { Some(due.unwrap_or(POLLED_SLEEP).min(POLLED_SLEEP)) }
    }

    /// Waits without a policy. Who shares a wire wakes it when there is something on a ring, not only at a port.
    fn sleep(&mut self, sleep: Option<Duration>) {
        self.worker.park();
        if !self.worker.has_lanes() {
            return self.readiness.wait(&self.worker, sleep);
        }
        self.doorbell.lie_down();
        let sleep = if self.worker.has_arrivals() { Some(Duration::ZERO) } else { sleep };
        self.readiness.wait(&self.worker, sleep);
        self.doorbell.get_up();
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Attach(setup, answer) => reply(&answer, self.attach(*setup, None)),
            Command::AttachLane(setup, hand_off, answer) => reply(&answer, self.attach(*setup, Some(hand_off))),
            Command::Detach(wire, answer) => {
                self.forget(wire);
                reply(&answer, self.worker.detach(wire));
            }
            Command::DetachLane(wire, answer) => {
                self.forget(wire);
                reply(&answer, self.worker.detach_lane(wire));
            }
            Command::CountPorts(answer) => {
                self.worker.count_ports();
                reply(&answer, ());
            }
            Command::Flows(answer) => reply(&answer, self.worker.list_flows(now())),
            Command::FlushAddress(address, answer) => reply(&answer, self.worker.flush_address(address)),
            Command::Stop => return false,
        }
        true
    }

    /// Looks at a wire's ports no more.
    fn forget(&mut self, wire: WireId) {
        self.readiness.forget(&self.worker, wire);
        let at = self.worker.place_of(wire);
        for ports in [&mut self.polled, &mut self.busy] {
            ports.retain(|&(place, _)| Some(place) != at);
        }
    }

    fn attach(&mut self, setup: WireSetup, hand_off: Option<Box<HandOff>>) -> io::Result<()> {
        let id = setup.id;
        let at = match hand_off {
            None => self.worker.attach(setup)?,
            Some(hand_off) => self.worker.attach_lane(setup, hand_off)?,
        };
        for direction in Direction::BOTH {
            match self.readiness.add(&self.worker, (at, direction)) {
                Ok(true) => {}
                Ok(false) => self.polled.push((at, direction)),
                Err(error) => {
                    self.forget(id);
                    self.worker.detach(id);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Whoever asked may have gone away; then nobody needs the answer.
fn reply<T>(answer: &Sender<T>, value: T) {
    let _gone = answer.send(value);
}
