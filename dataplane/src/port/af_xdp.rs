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
mod transmit;
mod umem;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use crate::frame::{BURST, Burst, Frame};
use crate::port::link::{self, Link, Restore};
use crate::port::{Capabilities, Chunk, Pool, Port, PortCounters, PortError, PortKind, checksum};
use crate::time::Time;

use program::Program;
use umem::{HEADROOM, RING, os_error, refusal};
pub use umem::{Umem, umem};

/// The largest MTU: what a page holds beside the headroom and the kernel's own data (veth, as most drivers without
/// multi-buffer XDP).
pub const MTU_LIMIT: usize = 3506;

/// How often an idle port is asked whether its device is still there.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of frames that the socket may have in transmission.
const SEND_BUFFER: i32 = 16 << 20;

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
}

impl fmt::Debug for AfXdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AfXdp({}, {:?})", self.name, self.umem)
    }
}

impl AfXdp {
    /// Opens a port on a device of the calling thread's namespace, which `namespace` names for people: with memory that it
    /// shares (and its pool), or of its own. The warnings are sentences for the person who asked for it.
    ///
    /// # Errors
    /// [`PortError`]: no such device, several queues, a busy queue, another XDP program, a large MTU, no AF_XDP, no privilege.
    pub fn open(
        device: &str,
        namespace: &str,
        options: AfXdpOptions,
        shared: Option<(&Umem, &mut Pool)>,
    ) -> Result<(Self, Vec<String>), PortError> {
        let link = Link::open(device, namespace)?;
        let mtu = check_device(device, &link, options)?;
        let is_shared = shared.is_some();
        let mut own = None;
        let (umem, pool) = match shared {
            Some((umem, pool)) => (umem.clone(), pool),
            None => {
                let chunk_size = if mtu + super::ETHERNET_AND_TAG + HEADROOM <= 2048 { 2048 } else { 4096 };
                let (umem, pool) = umem(options.chunks, chunk_size)?;
                (umem, own.insert(pool))
            }
        };
        let room = umem.chunk_size - HEADROOM;
        if mtu + super::ETHERNET_AND_TAG > room {
            return Err(PortError::MtuTooLarge {
                device: device.to_owned(),
                kind: PortKind::AfXdp.name(),
                mtu,
                limit: room - super::ETHERNET_AND_TAG,
            });
        }
        let queue = options.queue.unwrap_or(0);
        let (transmit, receive, fill, completion) = bind(device, queue, &umem)?;
        let index = link.index().map_err(|source| PortError::of(device, "looking up the interface", source))?;
        let program = Program::attach(device, mtu, index, queue, receive.fd().as_raw_fd(), options.attach)?;
        let (restore, stubborn) = link.plain_receive(program.is_generic);
        let warnings = warnings(device, program.is_generic, &stubborn);
        let target = umem.count() / if is_shared { 4 } else { 2 };
        let is_local = program.is_generic || matches!(link.driver().as_str(), "veth" | "tun");
        let mut port = AfXdp {
            name: device.to_owned(),
            capabilities: Capabilities {
                gso: !is_shared,
                partial_checksum: false,
                multi_segment: false,
                vlan: false,
                ethernet: true,
                max_frame: mtu + super::ETHERNET_AND_TAG,
            },
            counters: PortCounters::default(),
            is_zero_copy: is_zero_copy(receive.fd().as_raw_fd()),
            receive,
            transmit,
            fill,
            completion,
            program,
            link,
            restore,
            holders: vec![Holder::Us; umem.count()].into(),
            receiving: 0,
            transmitting: 0,
            target: target.min(RING as usize),
            complete_unmarked: match options.unmarked {
                Unmarked::Auto => is_local,
                Unmarked::Complete => true,
                Unmarked::Ignore => false,
            },
            is_down: false,
            checked: Time::ZERO,
            scratch: Box::new([FrameDesc::default(); BURST]),
            umem,
            own: None,
        };
        // From here on frames can arrive, so that a worker may sleep before its first receive.
        port.refill(pool);
        port.own = own;
        Ok((port, warnings))
    }

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

/// What can be said of a device before anything is made: its MTU, when it fits.
fn check_device(device: &str, link: &Link, options: AfXdpOptions) -> Result<usize, PortError> {
    let fail = |action| move |source| PortError::of(device, action, source);
    let hardware = link.hardware().map_err(fail("reading the link type"))?;
    if hardware != libc::ARPHRD_ETHER {
        return Err(PortError::Unsupported {
            device: device.to_owned(),
            kind: PortKind::AfXdp.name(),
            reason: format!("its link layer (ARPHRD type {hardware}) is not Ethernet"),
            remedy: "use an Ethernet device",
        });
    }
    let mtu = link.mtu().map_err(fail("reading the MTU"))?;
    if mtu > MTU_LIMIT {
        let kind = PortKind::AfXdp.name();
        return Err(PortError::MtuTooLarge { device: device.to_owned(), kind, mtu, limit: MTU_LIMIT });
    }
    let queues = link.receive_queues();
    if options.queue.is_none() && queues > 1 {
        return Err(PortError::SeveralQueues { device: device.to_owned(), queues });
    }
    Ok(mtu)
}

type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

/// Makes the socket and binds it to the queue.
fn bind(device: &str, queue: u32, umem: &Umem) -> Result<Rings, PortError> {
    if !umem.is_at_home()? {
        return Err(PortError::System {
            device: device.to_owned(),
            action: "sharing the AF_XDP memory",
            source: io::Error::new(io::ErrorKind::InvalidInput, "it was made in another network namespace"),
        });
    }
    let ring = QueueSize::new(RING).expect("a power of two");
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let interface: Interface = device.parse().map_err(|_| PortError::BadName { device: device.to_owned() })?;
    // SAFETY: programs are never loaded by libxdp (INHIBIT_PROG_LOAD), which is what the function asks for when a queue is
    // bound twice.
    let make = || unsafe { Socket::new(config, &umem.xsk, &interface, queue) };
    let mut made = make();
    // The kernel frees a queue a moment after its last socket was closed.
    for _ in 0..10 {
        if !made.as_ref().is_err_and(|error| os_error(error).is_some_and(|e| e.raw_os_error() == Some(libc::EBUSY))) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        made = make();
    }
    let (transmit, receive, rings) = made.map_err(|error| {
        let source = os_error(&error);
        match source.as_ref().and_then(io::Error::raw_os_error) {
            Some(libc::EBUSY) => PortError::QueueBusy { device: device.to_owned(), queue },
            Some(libc::EINVAL) => PortError::Unsupported {
                device: device.to_owned(),
                kind: PortKind::AfXdp.name(),
                reason: format!("it has no queue {queue}"),
                remedy: "name a queue that `ethtool -l` shows",
            },
            _ => refusal(device, "binding the AF_XDP socket", source.as_ref()),
        }
    })?;
    // The same queue twice over one memory: the rings belong to the first socket.
    let (fill, completion) = rings.ok_or_else(|| PortError::QueueBusy { device: device.to_owned(), queue })?;
    umem.note_bound();
    tune(receive.fd().as_raw_fd());
    Ok((transmit, receive, fill, completion))
}

/// Lets one system call send a whole ring. Both are improvements only: a kernel that knows neither sends in smaller steps.
fn tune(socket: i32) {
    // XDP_MAX_TX_SKB_BUDGET, since 6.17.
    const MAX_TX_SKB_BUDGET: i32 = 9;
    let _ = link::set_option(&socket, libc::SOL_XDP, MAX_TX_SKB_BUDGET, RING);
    let _ = link::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER);
}

/// Whether the driver reads and writes the memory itself.
fn is_zero_copy(socket: i32) -> bool {
    link::option::<u32>(socket, libc::SOL_XDP, libc::XDP_OPTIONS)
        .is_ok_and(|options| options & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

fn warnings(device: &str, is_generic: bool, stubborn: &[&str]) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_generic {
        warnings.push(format!(
            "{device} runs XDP in generic mode, because its driver has none of its own or it was asked for: every frame is \
             copied, and af_packet is likely to be faster"
        ));
    }
    for offload in stubborn {
        warnings.push(format!(
            "{offload} of {device} could not be switched off: merged frames are lost and VLAN tags may be; see `ethtool -k \
             {device}`"
        ));
    }
    warnings
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

    /// Nothing that a device sends through XDP needs narrowing.
    fn limit(&mut self, _both: Capabilities) -> io::Result<()> {
        Ok(())
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
