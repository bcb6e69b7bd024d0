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
use std::sync::Arc;
use std::time::Duration;

use crate::arch::prefetch::prefetch_address;
use crate::frame::{Burst, Frame};
use crate::port::link;
use crate::port::xsk::{RING, Socket};
use crate::port::{Capabilities, Pool, Port, PortCounters, PortKind, checksum};
use crate::time::Time;

use program::Device;
pub use setup::Shared;
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
    /// The queue; `None` is all that the device has.
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
    socket: Socket,
    queue: u32,
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
    /// Whether the queue has been given up.
    is_closed: bool,
    /// Last, so that the device is free only once nothing reads it.
    device: Arc<Device>,
}

/// `struct xdp_statistics`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::AnyBitPattern)]
struct Statistics {
    receive_dropped: u64,
    receive_invalid: u64,
    transmit_invalid: u64,
    receive_ring_full: u64,
    fill_ring_empty: u64,
    transmit_ring_empty: u64,
}

impl fmt::Debug for AfXdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AfXdp({}, {:?})", self.name, self.umem)
    }
}

impl AfXdp {
    /// Gives up the queue, waits for what is being sent, and takes everything back.
    fn shut(&mut self, memory: &mut Pool) {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.device.close(self.queue);
        }
        for _ in 0..100 {
            self.reap(memory);
            if self.transmitting == 0 || self.kick_waiting().is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for index in 0..self.holders.len() {
            if self.holders[index] != Holder::Receive {
                continue;
            }
            self.holders[index] = Holder::Us;
            self.receiving -= 1;
            // SAFETY: `holders` says that the chunk was lent from this memory's pool and not taken back since, and the kernel,
            // whose program is detached, no longer uses it.
            let chunk = unsafe { memory.reclaim(index as u32) };
            match self.is_zero_copy {
                // The driver of a zero-copy device may write to it for a while.
                true => memory.abandon(chunk),
                false => memory.give_back(chunk),
            }
        }
        self.target = 0;
    }

    /// Notes that a chunk comes back from the kernel. `false` when it was not lent for this.
    #[inline]
    fn comes_back(&mut self, index: usize, from: Holder) -> bool {
        match self.holders.get_mut(index) {
            Some(holder) if *holder == from => {
                *holder = Holder::Us;
                true
            }
            _ => false,
        }
    }

    /// Takes back what the kernel has sent.
    fn reap(&mut self, memory: &mut Pool) {
        if self.transmitting == 0 {
            return;
        }
        let sent = self.socket.completion.filled(RING);
        for i in 0..sent {
            let (index, _) = self.umem.place(self.socket.completion.get(i));
            if self.comes_back(index, Holder::Transmit) {
                self.transmitting -= 1;
                // SAFETY: `holders` says that the chunk was lent from this memory's pool and not taken back since, and the
                // kernel has returned its address.
                unsafe { memory.give_back_lent(index as u32) };
            }
        }
        if sent > 0 {
            self.socket.completion.pass(sent);
        }
    }

    /// Gives the kernel chunks to receive into.
    fn refill(&mut self, memory: &mut Pool) {
        let want = self.target.saturating_sub(self.receiving).min(memory.available());
        if want > 0 {
            let room = self.socket.fill.room(want as u32);
            for i in 0..room {
                let Some(index) = memory.lend_free() else { break };
                self.holders[index as usize] = Holder::Receive;
                self.socket.fill.put(i, self.umem.address(index));
            }
            self.receiving += room as usize;
            self.socket.fill.submit(room);
        }
        self.socket.wake_receive();
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
        let count = self.socket.receive.filled(want as u32);
        for i in 0..count {
            // Another core wrote the bytes: by the time they are looked at, they are here.
            let (base, address) = (self.umem.region.base(), self.socket.receive.get(i).address);
            prefetch_address(base.as_ptr().wrapping_add(address as usize));
        }
        for i in 0..count {
            let descriptor = self.socket.receive.get(i);
            let (index, offset) = self.umem.place(descriptor.address);
            if !self.comes_back(index, Holder::Receive) {
                self.counters.receive_errors += 1;
                continue;
            }
            self.receiving -= 1;
            let memory = own.as_deref_mut().unwrap_or(pool);
            // SAFETY: `holders` says that the chunk was lent from this memory's pool and not taken back since, and the kernel
            // has returned its address.
            let mut chunk = unsafe { memory.reclaim(index as u32) };
            let length = descriptor.length as usize;
            if descriptor.options != 0 || offset + length > self.umem.chunk_size {
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
        if count > 0 {
            self.socket.receive.pass(count);
        }
        count as usize
    }

    #[inline]
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
        match link::option::<i32>(self.socket.descriptor().as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR)? {
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
        // A port that only sends is never asked to receive: what it has sent comes back here.
        self.reap(own.as_mut().unwrap_or(pool));
        let result = self.transmit_burst(own.as_mut(), pool, burst);
        self.refill(own.as_mut().unwrap_or(pool));
        self.own = own;
        result
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.descriptor())
    }

    fn counters(&self) -> PortCounters {
        let mut counters = self.counters;
        let socket = self.socket.descriptor().as_raw_fd();
        if let Ok(statistics) = link::option::<Statistics>(socket, libc::SOL_XDP, libc::XDP_STATISTICS) {
            // Nothing to receive into, or no room on the ring.
            counters.receive_overflow = statistics.receive_dropped + statistics.receive_ring_full;
            counters.send_errors += statistics.transmit_invalid;
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
