//! A port whose device is a pair of queues in memory: for `eval`, replay and tests.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use crate::frame::{Burst, Checksum, Gso, VlanTag};
use crate::port::{Capabilities, Pool, Port, PortCounters, PortKind};
use crate::time::Time;

/// A frame outside any pool: its bytes and metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentFrame {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// A tag out of band.
    pub vlan: Option<VlanTag>,
    /// The transport checksum.
    pub checksum: Checksum,
    /// Segmentation.
    pub gso: Option<Gso>,
}

impl From<Vec<u8>> for SentFrame {
    fn from(bytes: Vec<u8>) -> Self {
        SentFrame { bytes, ..SentFrame::default() }
    }
}

#[derive(Debug, Default)]
struct Queues {
    to_port: VecDeque<SentFrame>,
    from_port: VecDeque<SentFrame>,
    room: Option<usize>,
}

/// The far side of a [`MemoryPort`]: what a test or `eval` holds.
#[derive(Clone, Debug, Default)]
pub struct MemoryLink(Arc<Mutex<Queues>>);

impl MemoryLink {
    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts a frame where the port will receive it.
    pub fn inject(&self, frame: impl Into<SentFrame>) {
        self.queues().to_port.push_back(frame.into());
    }

    /// Takes the oldest frame that the port sent.
    pub fn take(&self) -> Option<SentFrame> {
        self.queues().from_port.pop_front()
    }

    /// Takes all frames that the port sent, oldest first.
    pub fn drain(&self) -> Vec<SentFrame> {
        self.queues().from_port.drain(..).collect()
    }

    /// Frames that wait to be received by the port.
    pub fn pending(&self) -> usize {
        self.queues().to_port.len()
    }

    /// Lets the port send only `frames` more, as a full device would.
    pub fn limit_room(&self, frames: Option<usize>) {
        self.queues().room = frames;
    }
}

/// A port in memory.
#[derive(Debug)]
pub struct MemoryPort {
    link: MemoryLink,
    name: String,
    capabilities: Capabilities,
    counters: PortCounters,
}

impl MemoryPort {
    /// A port that carries everything, and its far side.
    pub fn new(name: impl Into<String>) -> (Self, MemoryLink) {
        let all = Capabilities {
            gso: true,
            partial_checksum: true,
            multi_segment: true,
            vlan: true,
            ethernet: true,
            max_frame: Pool::SUPER_FRAME - Pool::HEADROOM,
        };
        Self::with_capabilities(name, all)
    }

    /// A port with the given capabilities, and its far side.
    pub fn with_capabilities(name: impl Into<String>, capabilities: Capabilities) -> (Self, MemoryLink) {
        let link = MemoryLink::default();
        (MemoryPort { link: link.clone(), name: name.into(), capabilities, counters: PortCounters::default() }, link)
    }
}

impl Port for MemoryPort {
    fn kind(&self) -> PortKind {
        PortKind::Memory
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn limit(&mut self, both: Capabilities) -> io::Result<()> {
        self.capabilities = both;
        Ok(())
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        let mut queues = self.link.queues();
        while burst.remaining_capacity() > 0 && pool.available() > 0 {
            let Some(sent) = queues.to_port.pop_front() else { break };
            let Some(mut frame) = pool.frame(&sent.bytes) else {
                self.counters.receive_errors += 1;
                continue;
            };
            frame.vlan = sent.vlan;
            frame.checksum = sent.checksum;
            frame.gso = sent.gso;
            burst.push(frame);
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        let mut queues = self.link.queues();
        let room = queues.room.unwrap_or(usize::MAX).min(burst.len());
        for frame in burst.drain(..room) {
            let bytes = frame.iter_bytes().flatten().copied().collect();
            queues.from_port.push_back(SentFrame { bytes, vlan: frame.vlan, checksum: frame.checksum, gso: frame.gso });
            pool.release(frame);
        }
        if let Some(left) = &mut queues.room {
            *left -= room;
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn close(&mut self, _pool: &mut Pool) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sent_stays_in_the_burst() {
        let mut pool = Pool::new(4, 256);
        let (mut port, link) = MemoryPort::new("m");
        for n in 0..3 {
            link.inject(vec![n; 60]);
        }
        let mut burst = Burst::new();
        port.receive(&mut pool, &mut burst, Time::ZERO).unwrap();
        assert_eq!(burst.len(), 3);
        link.limit_room(Some(2));
        port.send(&mut pool, &mut burst, Time::ZERO).unwrap();
        assert_eq!(burst.len(), 1);
        assert_eq!(burst[0].bytes()[0], 2, "the rest keeps its order");
        assert_eq!(link.drain().len(), 2);
        pool.release(burst.pop().unwrap());
        assert_eq!(pool.outstanding(), 0);
    }
}
