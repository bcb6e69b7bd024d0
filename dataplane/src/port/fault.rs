//! A port that fails on purpose: it wraps another one and drops, duplicates, reorders, truncates, corrupts and stalls what that
//! receives. The same seed and the same frames give the same faults.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::frame::{BURST, Burst, Frame};
use crate::port::{Capabilities, Pool, Port, PortCounters, PortKind};
use crate::time::Time;

/// The most frames that are held back at once.
const HELD: usize = 16;

/// How often each fault happens, as a probability for each frame (for each receive, when it comes to stalls).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultPlan {
    /// The frame is lost.
    pub drop: f64,
    /// The frame comes twice.
    pub duplicate: f64,
    /// The frame is held back and comes after frames that followed it, with the next receive at the latest.
    pub reorder: f64,
    /// The frame is cut at a random place. Its metadata stays, and may no longer fit.
    pub truncate: f64,
    /// One bit of the frame is flipped.
    pub corrupt: f64,
    /// Nothing is received for [`FaultPlan::stall_time`].
    pub stall: f64,
    /// How long a stall lasts.
    pub stall_time: Duration,
}

/// How often each fault happened. Shared with whoever made the port.
#[derive(Debug, Default)]
pub struct FaultCounts {
    /// Frames that were lost.
    pub dropped: AtomicU64,
    /// Frames that came twice.
    pub duplicated: AtomicU64,
    /// Frames that were held back.
    pub reordered: AtomicU64,
    /// Frames that were cut.
    pub truncated: AtomicU64,
    /// Frames with a flipped bit.
    pub corrupted: AtomicU64,
    /// Stalls.
    pub stalled: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): small, and good enough for faults.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True with this probability.
    fn chance(&mut self, probability: f64) -> bool {
        // 53 random bits make a number in 0..1. Drawn whatever the probability, so that switching one fault on does not move the
        // others.
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A number below `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Tells a sleeping worker that frames are held back: readable while they are, or while the inner port is.
#[derive(Debug)]
struct Readiness {
    epoll: OwnedFd,
    event: OwnedFd,
    is_set: bool,
}

impl Readiness {
    fn new(inner: BorrowedFd<'_>) -> io::Result<Self> {
        let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for descriptor in [inner, event.as_fd()] {
            epoll::add(&both, descriptor, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Readiness { epoll: both, event, is_set: false })
    }

    fn set(&mut self, is_set: bool) {
        if is_set == self.is_set {
            return;
        }
        let done = if is_set {
            rustix::io::write(&self.event, &1u64.to_ne_bytes())
        } else {
            rustix::io::read(&self.event, &mut [0u8; 8])
        };
        if done.is_ok() {
            self.is_set = is_set;
        }
    }
}

/// A port that fails on purpose.
pub struct Fault {
    inner: Box<dyn Port>,
    plan: FaultPlan,
    seed: u64,
    random: Random,
    counts: Arc<FaultCounts>,
    held: ArrayVec<Frame, HELD>,
    /// What is to be received next: at most one burst, doubled, and what was held.
    passed: VecDeque<Frame>,
    stalled_until: Time,
    readiness: Option<Readiness>,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({}, seed {}, {:?})", self.inner.name(), self.seed, self.plan)
    }
}

impl Fault {
    /// Wraps a port. The seed is to be printed by whoever makes it up.
    ///
    /// # Errors
    /// When the descriptors that tell of held frames cannot be made.
    pub fn new(inner: Box<dyn Port>, plan: FaultPlan, seed: u64) -> io::Result<Self> {
        let readiness = inner.descriptor().map(Readiness::new).transpose()?;
        Ok(Fault {
            inner,
            plan,
            seed,
            random: Random(seed),
            counts: Arc::default(),
            held: ArrayVec::new(),
            passed: VecDeque::with_capacity(2 * BURST + HELD),
            stalled_until: Time::ZERO,
            readiness,
        })
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How often each fault happened, now and later.
    pub fn counts(&self) -> Arc<FaultCounts> {
        Arc::clone(&self.counts)
    }

    /// Cuts the frame or flips a bit of it.
    fn damage(&mut self, frame: &mut Frame) {
        let length = frame.head.len();
        let (cut, flip) = (self.random.chance(self.plan.truncate), self.random.chance(self.plan.corrupt));
        if cut && length > 1 && frame.segments() == 1 {
            let offset = frame.head.offset();
            frame.head.set_range(offset, 1 + self.random.below(length - 1));
            count(&self.counts.truncated);
        }
        if flip && !frame.bytes().is_empty() {
            let bit = self.random.below(frame.bytes().len() * 8);
            frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            count(&self.counts.corrupted);
        }
    }

    /// A copy of a frame of one segment.
    fn copy(frame: &Frame, pool: &mut Pool) -> Option<Frame> {
        let mut copy = (frame.segments() == 1).then(|| pool.frame(frame.bytes()))??;
        (copy.vlan, copy.checksum, copy.gso) = (frame.vlan, frame.checksum, frame.gso);
        Some(copy)
    }

    /// Lets one received frame pass, or not.
    fn pass(&mut self, mut frame: Frame, pool: &mut Pool) {
        if self.random.chance(self.plan.drop) {
            count(&self.counts.dropped);
            pool.release(frame);
            return;
        }
        self.damage(&mut frame);
        if self.random.chance(self.plan.duplicate)
            && let Some(copy) = Self::copy(&frame, pool)
        {
            count(&self.counts.duplicated);
            self.passed.push_back(copy);
        }
        if self.random.chance(self.plan.reorder) && !self.held.is_full() {
            count(&self.counts.reordered);
            self.held.push(frame);
        } else {
            self.passed.push_back(frame);
        }
    }

    /// Hands out what passed, as far as the burst has room.
    fn deliver(&mut self, burst: &mut Burst) {
        let room = burst.remaining_capacity().min(self.passed.len());
        burst.extend(self.passed.drain(..room));
    }
}

impl Port for Fault {
    fn kind(&self) -> PortKind {
        self.inner.kind()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn limit(&mut self, both: Capabilities) -> io::Result<()> {
        self.inner.limit(both)
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        if now < self.stalled_until {
            return Ok(());
        }
        if self.random.chance(self.plan.stall) {
            count(&self.counts.stalled);
            self.stalled_until = now + self.plan.stall_time;
            return Ok(());
        }
        self.deliver(burst);
        if burst.remaining_capacity() > 0 {
            let mut received = Burst::new();
            let result = self.inner.receive(pool, &mut received, now);
            let held = self.held.take();
            received.into_iter().for_each(|frame| self.pass(frame, pool));
            self.passed.extend(held);
            self.deliver(burst);
            result?;
        }
        if let Some(readiness) = &mut self.readiness {
            readiness.set(!self.held.is_empty() || !self.passed.is_empty());
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        self.inner.send(pool, burst, now)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.readiness.as_ref().map(|readiness| readiness.epoll.as_fd())
    }

    fn counters(&self) -> PortCounters {
        self.inner.counters()
    }

    fn held_chunks(&self) -> usize {
        self.inner.held_chunks() + self.held.iter().chain(&self.passed).map(Frame::segments).sum::<usize>()
    }

    fn close(&mut self, pool: &mut Pool) {
        self.held.drain(..).chain(self.passed.drain(..)).for_each(|frame| pool.release(frame));
        self.inner.close(pool);
    }
}

#[cfg(test)]
mod tests;
