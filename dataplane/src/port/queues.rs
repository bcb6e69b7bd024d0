//! Several queues of a device, read by one worker, as one port.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;

use crate::frame::Burst;
use crate::port::{Capabilities, Pool, Port, PortCounters, PortKind};
use crate::time::Time;

/// Ports of one kind and one device, all in the same memory or each in its own. What is sent leaves by the first.
pub(crate) struct Queues {
    /// At least one.
    ports: Vec<Box<dyn Port>>,
    /// Readable when one of them is.
    poller: OwnedFd,
    /// Which one is looked at first, so that a busy one does not starve the others.
    next: usize,
}

impl Queues {
    /// Puts ports together.
    ///
    /// # Errors
    /// When there is none, or the system cannot watch them together.
    pub(crate) fn new(ports: Vec<Box<dyn Port>>) -> io::Result<Queues> {
        if ports.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the device has no queue"));
        }
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for descriptor in ports.iter().filter_map(|port| port.descriptor()) {
            epoll::add(&poller, descriptor, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Queues { ports, poller, next: 0 })
    }
}

impl Port for Queues {
    fn kind(&self) -> PortKind {
        self.ports[0].kind()
    }

    fn name(&self) -> &str {
        self.ports[0].name()
    }

    fn capabilities(&self) -> Capabilities {
        self.ports[0].capabilities()
    }

    fn limit(&mut self, both: Capabilities) -> io::Result<()> {
        self.ports.iter_mut().try_for_each(|port| port.limit(both))
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        let first = self.next;
        self.next = (first + 1) % self.ports.len();
        let (later, earlier) = self.ports.split_at_mut(first);
        for port in earlier.iter_mut().chain(later) {
            port.receive(pool, burst, now)?;
            if burst.is_full() {
                break;
            }
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        self.ports[0].send(pool, burst, now)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.as_fd())
    }

    fn counters(&self) -> PortCounters {
        let sum = |sum: PortCounters, port: PortCounters| PortCounters {
            receive_overflow: sum.receive_overflow + port.receive_overflow,
            receive_errors: sum.receive_errors + port.receive_errors,
            send_errors: sum.send_errors + port.send_errors,
            checksums_completed: sum.checksums_completed + port.checksums_completed,
        };
        self.ports.iter().map(|port| port.counters()).fold(PortCounters::default(), sum)
    }

    fn held_chunks(&self) -> usize {
        self.ports.iter().map(|port| port.held_chunks()).sum()
    }

    fn close(&mut self, pool: &mut Pool) {
        self.ports.iter_mut().for_each(|port| port.close(pool));
    }
}
