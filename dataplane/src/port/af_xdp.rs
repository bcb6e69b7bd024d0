//! AF_XDP sockets: one queue of a device, for high packet rates.
//!
//! Frames lie in a [`Umem`]. Two ports that share one forward a frame by moving its descriptor; a port with memory of its own
//! (opened without one) copies each frame from and to the worker's pool, which is how it joins ports of other kinds.
//!
//! ```text
//!            ┌─ fill ring ──▶ kernel ── receive ring ─┐
//!   pool ────┤   (lent to receive)                    ├──▶ frame ──▶ …
//!            └◀─ completion ring ── kernel ◀── transmit ring ─┘      (lent to send)
//! ```
//!
//! AF_XDP carries bytes only. An unfinished checksum is completed and a VLAN tag out of band is written into the bytes before a
//! frame is sent; a super-frame is segmented on the way into memory of the port's own, and refused in shared memory. A veth
//! peer sends unfinished checksums without telling: with [`Unmarked`] those are found and completed on arrival.
//! A tag that the peer of a veth keeps out of band is lost to XDP; the peer has to have `tx-vlan-offload` off.
//!
//! Frames of other queues than the port's are dropped. When the port goes, so does its XDP program: frames then reach the stack
//! of the namespace again.
#![allow(unsafe_code)]

mod program;
mod setup;
mod transmit;
mod umem;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use crate::frame::{BURST, Burst, Frame};
use crate::port::claim::Claim;
use crate::port::link::{self, Link, Restore};
use crate::port::{Capabilities, Chunk, Pool, Port, PortCounters, PortKind, checksum};
use crate::time::Time;

use program::Program;
pub use umem::{Umem, umem};

/// The largest MTU: what a page holds beside the headroom and the kernel's own data (veth, as most drivers without
/// multi-buffer XDP).
pub const MTU_LIMIT: usize = 3506;

/// How often an idle port is asked whether its device is still there.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// By the driver, or generic with a warning where the driver cannot.
    #[default]
    Auto,
    /// By the driver only.
    Native,
    /// On socket buffers.
    Generic,
}

/// Whether received frames are searched for checksums that the sender left unfinished without telling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmarked {
    /// On devices whose far end is on this machine: veth, TUN, and anything in generic mode.
    #[default]
    Auto,
    /// Always.
    Complete,
    /// Never.
    Ignore,
}

/// How an AF_XDP port is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AfXdpOptions {
    /// The queue; `None` is the only one of a device that has one.
    pub queue: Option<u32>,
    /// How the XDP program is attached.
    pub attach: XdpChoice,
    /// Whether unmarked unfinished checksums are completed.
    pub unmarked: Unmarked,
    /// Chunks of a port that has memory of its own.
    pub chunks: u32,
}

impl Default for AfXdpOptions {
    fn default() -> Self {
        AfXdpOptions { queue: None, attach: XdpChoice::Auto, unmarked: Unmarked::Auto, chunks: 4096 }
    }
}

/// Who has a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The pool, or a frame.
    Us,
    /// The kernel, to receive into.
    Receive,
    /// The kernel, to send from.
    Transmit,
}

/// A port on an AF_XDP socket.
pub struct AfXdp {
    name: String,
    capabilities: Capabilities,
    counters: PortCounters,
    umem: Umem,
    /// The pool over `umem`, when no other port shares it.
    own: Option<Pool>,
    receive: RxQueue,
    transmit: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    program: Program,
    link: Link,
    restore: Restore,
    holders: Box<[Holder]>,
    receiving: usize,
    transmitting: usize,
    /// How many chunks the kernel should have to receive into.
    target: usize,
    complete_unmarked: bool,
    is_zero_copy: bool,
    /// The last send found the device switched off.
    is_down: bool,
    checked: Time,
    scratch: Box<[FrameDesc; BURST]>,
    /// Last, so that the device is free only once nothing reads it.
    _claim: Claim,
}

impl fmt::Debug for AfXdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AfXdp({}, {:?})", self.name, self.umem)
    }
}

impl AfXdp {
    /// Detaches the program, waits for what is being sent, and takes everything back.
    fn shut(&mut self, memory: &mut Pool) {
        self.program.detach();
        self.link.restore(std::mem::take(&mut self.restore));
        for _ in 0..100 {
            self.reap(memory);
            if self.transmitting == 0 || self.kick_waiting().is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for index in 0..self.holders.len() {
            match self.take_back(index * self.umem.chunk_size, Holder::Receive, memory) {
                // The driver of a zero-copy device may write to it for a while.
                Some(chunk) if self.is_zero_copy => memory.abandon(chunk),
                Some(chunk) => memory.give_back(chunk),
                None => {}
            }
        }
        self.target = 0;
    }

    /// Takes a chunk back from the kernel; `None` when it was not lent for this.
    fn take_back(&mut self, address: usize, holder: Holder, memory: &mut Pool) -> Option<Chunk> {
        let index = address / self.umem.chunk_size;
        if self.holders.get(index) != Some(&holder) {
            return None;
        }
        self.holders[index] = Holder::Us;
        match holder {
            Holder::Receive => self.receiving -= 1,
            Holder::Transmit => self.transmitting -= 1,
            Holder::Us => {}
        }
        // SAFETY: `holders` says that the chunk was lent from this memory's pool and not reclaimed since, and the kernel has
        // returned its address on a ring (or, in `close`, no longer uses it).
        Some(unsafe { memory.reclaim(index as u32) })
    }

    /// Notes that a chunk goes to the kernel.
    fn lend(&mut self, chunk: Chunk, holder: Holder, memory: &mut Pool) {
        let index = memory.lend(chunk) as usize;
        self.holders[index] = holder;
        match holder {
            Holder::Receive => self.receiving += 1,
            Holder::Transmit => self.transmitting += 1,
            Holder::Us => {}
        }
    }

    /// Takes back what the kernel has sent.
    fn reap(&mut self, memory: &mut Pool) {
        while self.transmitting > 0 {
            let mut sent = [FrameDesc::default(); BURST];
            // SAFETY: the descriptors are only written to.
            let count = unsafe { self.completion.consume(&mut sent) };
            for descriptor in &sent[..count] {
                if let Some(chunk) = self.take_back(descriptor.addr(), Holder::Transmit, memory) {
                    memory.give_back(chunk);
                }
            }
            if count < BURST {
                break;
            }
        }
    }

    /// Gives the kernel chunks to receive into.
    fn refill(&mut self, memory: &mut Pool) {
        while self.receiving < self.target {
            let room = (self.fill.nb_free(BURST as u32) as usize).min(self.target - self.receiving).min(BURST);
            let mut count = 0;
            while count < room {
                let Some(chunk) = memory.take() else { break };
                self.scratch[count] = self.umem.descriptor(chunk.index(), 0);
                self.lend(chunk, Holder::Receive, memory);
                count += 1;
            }
            if count == 0 {
                break;
            }
            // SAFETY: the chunks were just taken from this UMEM's pool and marked as lent; nobody touches them until their
            // addresses come back. There is room for all of them.
            let produced = unsafe { self.fill.produce(&self.scratch[..count]) };
            debug_assert_eq!(produced, count);
        }
        if self.fill.needs_wakeup() {
            // Polling wakes the driver; that it cannot be woken shows in the next check of the device.
            let _ = self.fill.wakeup(self.receive.fd_mut(), 0);
        }
    }

    /// The memory that the rings work on: the port's own, or the pool that every call brings.
    fn check_pool(&self, pool: &Pool) -> io::Result<()> {
        match self.own {
            None if pool.id() != self.umem.pool => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "the port belongs to another pool"))
            }
            _ => Ok(()),
        }
    }

    /// Takes up to a burst off the receive ring.
    fn take_received(&mut self, mut own: Option<&mut Pool>, pool: &mut Pool, burst: &mut Burst) -> usize {
        let mut want = burst.remaining_capacity();
        if own.is_some() {
            want = want.min(pool.available());
        }
        // SAFETY: the descriptors are only written to.
        let count = unsafe { self.receive.consume(&mut self.scratch[..want]) };
        for i in 0..count {
            let descriptor = self.scratch[i];
            let (address, length) = (descriptor.addr(), descriptor.lengths().data());
            let memory = own.as_deref_mut().unwrap_or(pool);
            let Some(mut chunk) = self.take_back(address, Holder::Receive, memory) else {
                self.counters.receive_errors += 1;
                continue;
            };
            let offset = address % self.umem.chunk_size;
            if descriptor.has_more_frames() || offset + length > self.umem.chunk_size {
                self.counters.receive_errors += 1;
                memory.give_back(chunk);
                continue;
            }
            chunk.set_range(offset, length);
            let frame = match own.as_deref_mut() {
                None => Some(Frame::new(chunk)),
                Some(own) => {
                    let copy = pool.frame(chunk.bytes());
                    own.give_back(chunk);
                    copy
                }
            };
            match frame {
                Some(frame) => self.push(frame, burst),
                None => self.counters.receive_errors += 1,
            }
        }
        count
    }

    fn push(&mut self, mut frame: Frame, burst: &mut Burst) {
        if self.complete_unmarked && checksum::complete_unmarked(&mut frame) {
            self.counters.checksums_completed += 1;
        }
        burst.push(frame);
    }

    /// Asks now and then whether the device is still there: the kernel leaves an error on the socket when it goes.
    fn check_device(&mut self, now: Time) -> io::Result<()> {
        if now.since(self.checked) < CHECK_INTERVAL {
            return Ok(());
        }
        self.checked = now;
        match link::option::<i32>(self.receive.fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR)? {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

impl Port for AfXdp {
    fn kind(&self) -> PortKind {
        PortKind::AfXdp
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        self.check_pool(pool)?;
        let mut own = self.own.take();
        let memory = own.as_mut().unwrap_or(pool);
        self.reap(memory);
        let kicked = self.kick_waiting();
        let count = self.take_received(own.as_mut(), pool, burst);
        self.refill(own.as_mut().unwrap_or(pool));
        self.own = own;
        kicked?;
        if count == 0 { self.check_device(now) } else { Ok(()) }
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        self.check_pool(pool)?;
        let mut own = self.own.take();
        let result = self.transmit_burst(own.as_mut(), pool, burst);
        self.refill(own.as_mut().unwrap_or(pool));
        self.own = own;
        result
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the queue keeps its socket open as long as it lives, which is as long as `self`.
        Some(unsafe { BorrowedFd::borrow_raw(self.receive.fd().as_raw_fd()) })
    }

    fn counters(&self) -> PortCounters {
        let mut counters = self.counters;
        if let Ok(statistics) = self.receive.fd().xdp_statistics() {
            // Nothing to receive into, or no room on the ring.
            counters.receive_overflow = statistics.rx_dropped() + statistics.rx_ring_full();
            counters.send_errors += statistics.tx_invalid_descs();
        }
        counters
    }

    fn held_chunks(&self) -> usize {
        if self.own.is_some() { 0 } else { self.receiving + self.transmitting }
    }

    fn close(&mut self, pool: &mut Pool) {
        let mut own = self.own.take();
        self.shut(own.as_mut().unwrap_or(pool));
        self.own = own;
    }
}

impl Drop for AfXdp {
    /// Memory of the port's own goes with it, and its queue with the memory, whether it was closed or not.
    fn drop(&mut self) {
        if let Some(mut own) = self.own.take() {
            self.shut(&mut own);
        }
    }
}
