//! What a worker's thread waits on: its doorbell, and the ports that have a descriptor.
//!
//! Few ports are waited on by `poll`, many by epoll. With epoll somebody always waits on a socket, also while the worker is
//! busy, and the kernel wakes whoever waits for each single frame that the socket has sent: 110 ns a frame of an AF_XDP wire.
//! With `poll` nobody waits but who sleeps, and each sleep costs a little for every port.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::packet::Direction;
use crate::rules::WireId;
use crate::worker::{Doorbell, Worker};

/// Up to so many ports are few: as many as two lanes of a gateway, or two wires, have twice over.
const FEW: usize = 8;

/// How many ready ports are taken from the kernel at once.
const READY: usize = 64;

/// The mark of the doorbell among the ports'.
const DOORBELL: u64 = u64::MAX;

/// A wire's place in its worker, and the port that frames of this direction come from.
pub(super) type PortPlace = (usize, Direction);

/// What a worker waits on, and what of it is ready.
pub(super) struct Readiness {
    poller: OwnedFd,
    doorbell: Arc<Doorbell>,
    /// The ports, while they are few; epoll has them when there are more.
    few: Option<ArrayVec<PortPlace, FEW>>,
    ready: Vec<PortPlace>,
}

impl Readiness {
    /// Without ports.
    pub(super) fn new(doorbell: Arc<Doorbell>) -> io::Result<Self> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poller, doorbell.descriptor(), epoll::EventData::new_u64(DOORBELL), epoll::EventFlags::IN)?;
        Ok(Readiness { poller, doorbell, few: Some(ArrayVec::new()), ready: Vec::with_capacity(READY.max(FEW)) })
    }

    /// Waits on a port from now on. Answers `false` for one without a descriptor.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn add(&mut self, worker: &Worker, port: PortPlace) -> io::Result<bool> {
        if worker.descriptor(port.0, port.1).is_none() {
            return Ok(false);
        }
        if let Some(few) = &mut self.few {
            if few.try_push(port).is_ok() {
                return Ok(true);
            }
            for &port in few.iter() {
                Self::register(&self.poller, worker, port)?;
            }
            self.few = None;
        }
        Self::register(&self.poller, worker, port).map(|()| true)
    }

    fn register(poller: &OwnedFd, worker: &Worker, (at, direction): PortPlace) -> io::Result<()> {
        let Some(descriptor) = worker.descriptor(at, direction) else { return Ok(()) };
        let data = epoll::EventData::new_u64(mark(at, direction));
        Ok(epoll::add(poller, descriptor.as_fd(), data, epoll::EventFlags::IN)?)
    }

    /// Waits on a lost port no more: its descriptor stays ready for ever.
    pub(super) fn remove(&mut self, worker: &Worker, port: PortPlace) {
        match &mut self.few {
            Some(few) => few.retain(|other| *other != port),
            None => {
                if let Some(descriptor) = worker.descriptor(port.0, port.1) {
                    // It is in the set unless its device took it out.
                    let _gone = epoll::delete(&self.poller, descriptor);
                }
            }
        }
    }

    /// Waits on a wire's ports no more. Epoll forgets descriptors that are closed.
    pub(super) fn forget(&mut self, worker: &Worker, wire: WireId) {
        let at = worker.place_of(wire);
        if let Some(few) = &mut self.few {
            few.retain(|(place, _)| Some(*place) != at);
        }
    }

    /// The ports that the last wait found.
    pub(super) fn ready(&self) -> &[PortPlace] {
        &self.ready
    }

    /// Waits until a port or the doorbell is ready, at most so long; `None`: for ever.
    pub(super) fn wait(&mut self, worker: &Worker, most: Option<Duration>) {
        self.ready.clear();
        let timeout = most.map(|most| Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(most.subsec_nanos()),
        });
        let rung = match &self.few {
            Some(few) => wait_few(&self.doorbell, few, worker, timeout.as_ref(), &mut self.ready),
            None => wait_many(&self.poller, timeout.as_ref(), &mut self.ready),
        };
        if rung {
            let mut counter = [0; 8];
            // Reading only resets the counter; that it was reset already does no harm.
            let _already = rustix::io::read(self.doorbell.descriptor(), &mut counter);
        }
    }
}

/// Asks epoll. Answers whether the doorbell rang.
fn wait_many(poller: &OwnedFd, timeout: Option<&Timespec>, ready: &mut Vec<PortPlace>) -> bool {
    let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; READY];
    // Interrupted by a signal: nothing is ready, and the worker's loop comes back here.
    let Ok((found, _)) = epoll::wait(poller, &mut room, timeout) else { return false };
    let marks = || found.iter().map(|event| event.data.u64());
    ready.extend(marks().filter(|&mark| mark != DOORBELL).map(unmark));
    marks().any(|mark| mark == DOORBELL)
}

/// Asks for each of a few ports, and the doorbell. Answers whether that rang.
fn wait_few(
    doorbell: &Doorbell,
    few: &[PortPlace],
    worker: &Worker,
    timeout: Option<&Timespec>,
    ready: &mut Vec<PortPlace>,
) -> bool {
    let mut asked = ArrayVec::<PollFd<'_>, { FEW + 1 }>::new();
    asked.push(PollFd::new(doorbell.descriptor(), PollFlags::IN));
    let descriptors = few.iter().filter_map(|&(at, direction)| worker.descriptor(at, direction));
    asked.extend(descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)));
    let _interrupted = poll(&mut asked, timeout);
    let of_wires = few.iter().filter(|&&(at, direction)| worker.descriptor(at, direction).is_some());
    // Errors count as well: whoever reads the port finds out.
    ready.extend(of_wires.zip(&asked[1..]).filter(|(_, asked)| !asked.revents().is_empty()).map(|(&port, _)| port));
    !asked[0].revents().is_empty()
}

fn mark(at: usize, direction: Direction) -> u64 {
    (at as u64) << 1 | direction as u64
}

fn unmark(mark: u64) -> PortPlace {
    ((mark >> 1) as usize, Direction::BOTH[(mark & 1) as usize])
}
