//! AF_XDP sockets as the kernel offers them: memory, four rings a socket, all in place.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Slots of each ring.
pub(super) const RING: u32 = 2048;

/// Bytes of a chunk: any MTU that XDP takes on veth.
pub(super) const CHUNK: u64 = 4096;

/// `XDP_MAX_TX_SKB_BUDGET`, since Linux 6.17: one system call sends a whole ring instead of 32 frames.
const MAX_TX_SKB_BUDGET: i32 = 9;

/// Bytes of frames that a socket may have in transmission.
const SEND_BUFFER: i32 = 16 << 20;

/// Memory that several sockets share.
pub(super) struct Umem {
    base: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the value is an address and a length that never change; the memory behind them is only reached by the kernel.
unsafe impl Sync for Umem {}

impl Umem {
    /// Memory of so many chunks.
    pub(super) fn new(chunks: u64) -> Result<Self> {
        let length = (chunks * CHUNK) as usize;
        let base = map(None, length, 0).context("mapping the UMEM")?;
        // Fewer translations to miss; where there are no huge pages, small ones do.
        // SAFETY: the range is the mapping that was just made.
        let _small_pages = unsafe { libc::madvise(base.as_ptr(), length, libc::MADV_HUGEPAGE) };
        Ok(Umem { base, length })
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; the kernel keeps the pages that sockets still use.
        unsafe { libc::munmap(self.base.as_ptr(), self.length) };
    }
}

/// Maps memory: a ring of a socket, or ordinary memory.
fn map(socket: Option<BorrowedFd<'_>>, length: usize, offset: u64) -> io::Result<NonNull<libc::c_void>> {
    let (flags, descriptor) = match socket {
        Some(socket) => (libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses where the mapping goes, so it cannot replace another one.
    let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, descriptor, offset as libc::off_t) };
    match address {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        address => NonNull::new(address).ok_or_else(|| io::Error::other("mmap answered 0")),
    }
}

/// One ring. The kernel is at its other end.
pub(super) struct Ring<T> {
    base: NonNull<libc::c_void>,
    length: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Where we are: our own counter.
    ours: u32,
    /// Where the kernel was when we looked last.
    theirs: u32,
}

// SAFETY: the mapping is reached by this value only, on our side, and `&mut self` is needed to change it.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(socket: &OwnedFd, at: u64, offsets: &libc::xdp_ring_offset) -> Result<Self> {
        let length = offsets.desc as usize + RING as usize * mem::size_of::<T>();
        let base = map(Some(socket.as_fd()), length, at).context("mapping a ring")?;
        // SAFETY: the offsets come from the kernel for this very mapping.
        let counter = |offset: u64| unsafe { base.cast::<u8>().add(offset as usize).cast::<AtomicU32>() };
        Ok(Ring {
            base,
            length,
            producer: counter(offsets.producer),
            consumer: counter(offsets.consumer),
            flags: counter(offsets.flags),
            // SAFETY: as above.
            entries: unsafe { base.cast::<u8>().add(offsets.desc as usize).cast() },
            ours: 0,
            theirs: 0,
        })
    }

    /// A counter of the mapping.
    fn counter(&self, at: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: the three counters lie aligned in the mapping, which lives as long as `self`; the kernel's accesses to them
        // are atomic.
        unsafe { at.as_ref() }
    }

    fn slot(&self, i: u32) -> *mut T {
        // SAFETY: the index is masked to the ring's size.
        unsafe { self.entries.as_ptr().add((self.ours.wrapping_add(i) & (RING - 1)) as usize) }
    }

    /// Entries that can be read, at most `most`. For rings that the kernel fills.
    pub(super) fn filled(&mut self, most: u32) -> u32 {
        let known = self.theirs.wrapping_sub(self.ours);
        if known >= most {
            return most;
        }
        self.theirs = self.counter(self.producer).load(Ordering::Acquire);
        self.theirs.wrapping_sub(self.ours).min(most)
    }

    /// Entry `i` of those that [`Ring::filled`] told of.
    pub(super) fn get(&self, i: u32) -> T {
        // SAFETY: the kernel has filled the entry and leaves it alone until it is passed by.
        unsafe { ptr::read(self.slot(i)) }
    }

    /// Passes by entries that were read.
    pub(super) fn pass(&mut self, count: u32) {
        self.ours = self.ours.wrapping_add(count);
        self.counter(self.consumer).store(self.ours, Ordering::Release);
    }

    /// Slots that can be written, at most `most`. For rings that the kernel empties.
    pub(super) fn room(&mut self, most: u32) -> u32 {
        let known = RING - self.ours.wrapping_sub(self.theirs);
        if known >= most {
            return most;
        }
        self.theirs = self.counter(self.consumer).load(Ordering::Acquire);
        (RING - self.ours.wrapping_sub(self.theirs)).min(most)
    }

    /// Writes slot `i` of those that [`Ring::room`] told of.
    pub(super) fn put(&mut self, i: u32, value: T) {
        // SAFETY: the slot is free: the kernel looks at it once it is submitted.
        unsafe { ptr::write(self.slot(i), value) }
    }

    /// Gives the kernel the slots that were written.
    pub(super) fn submit(&mut self, count: u32) {
        self.ours = self.ours.wrapping_add(count);
        self.counter(self.producer).store(self.ours, Ordering::Release);
    }

    /// Whether the kernel has taken all that was submitted.
    pub(super) fn is_drained(&self) -> bool {
        self.counter(self.consumer).load(Ordering::Relaxed) == self.ours
    }

    fn needs_wakeup(&self) -> bool {
        self.counter(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own. A mapping that is left behind would keep the socket, and the queue with it.
        unsafe { libc::munmap(self.base.as_ptr(), self.length) };
    }
}

/// A socket on queue 0 of a device.
pub(super) struct Socket {
    descriptor: OwnedFd,
    pub(super) receive: Ring<libc::xdp_desc>,
    pub(super) transmit: Ring<libc::xdp_desc>,
    pub(super) fill: Ring<u64>,
    pub(super) completion: Ring<u64>,
}

impl Socket {
    /// Binds a socket of the calling thread's namespace. The first of a memory registers it; the others name the first.
    pub(super) fn bind(index: u32, umem: &Umem, first: Option<BorrowedFd<'_>>) -> Result<Self> {
        let descriptor = super::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        if first.is_none() {
            let region = libc::xdp_umem_reg {
                addr: umem.base.as_ptr().expose_provenance() as u64,
                len: umem.length as u64,
                chunk_size: CHUNK as u32,
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            };
            set(&descriptor, libc::SOL_XDP, libc::XDP_UMEM_REG, &region).context("registering the UMEM")?;
        }
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set(&descriptor, libc::SOL_XDP, ring, &RING).context("sizing a ring")?;
        }
        let offsets = offsets(&descriptor).context("asking for the rings' offsets")?;
        let socket = Socket {
            receive: Ring::map(&descriptor, libc::XDP_PGOFF_RX_RING as u64, &offsets.rx)?,
            transmit: Ring::map(&descriptor, libc::XDP_PGOFF_TX_RING as u64, &offsets.tx)?,
            fill: Ring::map(&descriptor, libc::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr)?,
            completion: Ring::map(&descriptor, libc::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr)?,
            descriptor,
        };
        // Improvements only: a kernel that knows neither sends in smaller steps.
        let _older = set(&socket.descriptor, libc::SOL_XDP, MAX_TX_SKB_BUDGET, &RING);
        let _unprivileged = set(&socket.descriptor, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER);
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: if first.is_some() {
                libc::XDP_SHARED_UMEM
            } else {
                libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP
            },
            sxdp_ifindex: index,
            sxdp_queue_id: 0,
            sxdp_shared_umem_fd: first.map_or(0, |first| first.as_raw_fd() as u32),
        };
        let length = mem::size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`, which the kernel only reads.
        let bound = unsafe { libc::bind(socket.descriptor.as_raw_fd(), (&raw const address).cast(), length) };
        if bound != 0 {
            return Err(io::Error::last_os_error()).context("binding the AF_XDP socket");
        }
        Ok(socket)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Has the kernel send what is on the transmit ring.
    pub(super) fn kick(&self) {
        if !self.transmit.needs_wakeup() {
            return;
        }
        let socket = self.descriptor.as_raw_fd();
        // A device that is full takes the rest with the next kick.
        // SAFETY: no bytes are passed; the call only wakes the kernel.
        let _full = unsafe { libc::sendto(socket, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    }
}

/// Sets a socket option of plain old data.
pub(super) fn set<T: Copy>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which the kernel only reads.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: the structure is plain old data, for which zeros are a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = mem::size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    let at = (&raw mut offsets).cast();
    // SAFETY: the pointer and length describe `offsets`, which the kernel fills in.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, at, &mut length) };
    if result == 0 { Ok(offsets) } else { Err(io::Error::last_os_error()) }
}
