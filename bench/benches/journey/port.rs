//! A port that makes its frames: a template with the ports and the far end of the next flow written into it, as a device
//! would have put it into the chunk just now. What it is given to send it releases.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dataplane::frame::Burst;
use dataplane::packet::Direction;
use dataplane::port::{Capabilities, Pool, Port, PortCounters, PortKind};
use dataplane::time::Time;

use crate::traffic::{Flow, Traffic};

const ETHERNET: usize = 14;

/// What a source makes next.
pub(crate) struct Source {
    pub(crate) template: Vec<u8>,
    flows: Arc<[Flow]>,
    direction: Direction,
    /// Frames a burst.
    burst: usize,
    next: usize,
    /// Every round through the flows has source ports of its own.
    new: bool,
    shift: u16,
}

impl Source {
    pub(crate) fn new(traffic: &Traffic, direction: Direction, burst: usize, new: bool) -> Source {
        let template = traffic.template(Traffic::DATA);
        Source { template, flows: traffic.flows.clone(), direction, burst, next: 0, new, shift: 0 }
    }

    /// Writes the next flow's addresses and ports. From outside the ends are exchanged.
    fn write(&mut self, bytes: &mut [u8]) {
        let Flow { peer, port, own_port } = self.flows[self.next];
        self.next += 1;
        if self.next == self.flows.len() {
            self.next = 0;
            self.shift = self.shift.wrapping_add(u16::from(self.new) * 257);
        }
        bytes.copy_from_slice(&self.template);
        let own_port = own_port.wrapping_add(self.shift).max(1);
        let egress = self.direction == Direction::Egress;
        let (from, to) = if egress { (own_port, port) } else { (port, own_port) };
        let transport = match peer.to_v4_bits() {
            Some(bits) => {
                let at = ETHERNET + if egress { 16 } else { 12 };
                bytes[at..at + 4].copy_from_slice(&bits.to_be_bytes());
                complete(&mut bytes[ETHERNET..ETHERNET + 20]);
                ETHERNET + 20
            }
            None => {
                let at = ETHERNET + if egress { 24 } else { 8 };
                bytes[at..at + 16].copy_from_slice(&peer.0);
                ETHERNET + 40
            }
        };
        bytes[transport..transport + 2].copy_from_slice(&from.to_be_bytes());
        bytes[transport + 2..transport + 4].copy_from_slice(&to.to_be_bytes());
    }
}

/// Writes an IPv4 header's checksum.
fn complete(header: &mut [u8]) {
    header[10..12].fill(0);
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_ne_bytes());
}

/// What the bench holds of a port.
#[derive(Clone)]
pub(crate) struct Far {
    pub(crate) source: Arc<Mutex<Source>>,
    pub(crate) sent: Arc<AtomicU64>,
}

/// The port.
pub(crate) struct MadePort {
    far: Far,
    ethernet: bool,
}

impl MadePort {
    pub(crate) fn new(source: Source) -> (MadePort, Far) {
        let far = Far { source: Arc::new(Mutex::new(source)), sent: Arc::default() };
        (MadePort { far: far.clone(), ethernet: true }, far)
    }
}

impl Port for MadePort {
    fn kind(&self) -> PortKind {
        PortKind::Memory
    }

    fn name(&self) -> &str {
        "made"
    }

    fn capabilities(&self) -> Capabilities {
        let ethernet = self.ethernet;
        Capabilities { gso: true, partial_checksum: true, multi_segment: true, vlan: true, ethernet, max_frame: 2_048 }
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        // Locked once a burst, by one thread.
        let mut source = self.far.source.lock().unwrap_or_else(PoisonError::into_inner);
        let headroom = Pool::HEADROOM;
        for _ in 0..source.burst {
            let Some(mut chunk) = pool.take() else { break };
            chunk.set_range(headroom, source.template.len());
            source.write(chunk.bytes_mut());
            burst.push(dataplane::frame::Frame::new(chunk));
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        self.far.sent.fetch_add(burst.len() as u64, Ordering::Relaxed);
        for frame in burst.drain(..) {
            pool.release(frame);
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        PortCounters::default()
    }

    fn close(&mut self, _pool: &mut Pool) {}
}
