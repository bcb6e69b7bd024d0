//! AF_XDP sockets as the kernel offers them (`linux/if_xdp.h`): memory, four rings a socket, all used in place.
//!
//! A ring's entry is read or written where it lies, and a counter is moved once a burst: per frame there is no call, no copy
//! and no barrier. [`super::af_xdp`] builds a port on this.
//!
//! Whoever makes references into a [`Region`] has to keep apart what the kernel writes to: the chunks whose addresses are
//! on a fill ring, and those on a transmit ring until they are on the completion ring.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::port::link;

/// Slots of each ring.
pub const RING: u32 = 2048;

/// Bytes before a frame's bytes in a chunk: the kernel keeps them for XDP programs (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: usize = 256;

/// `XDP_MAX_TX_SKB_BUDGET`, since Linux 6.17: one system call sends a whole ring instead of 32 frames.
const MAX_TX_SKB_BUDGET: i32 = 9;

/// Bytes of frames that a socket may have in transmission.
const SEND_BUFFER: i32 = 16 << 20;

/// One frame on a receive or transmit ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the bytes begin, from the region's start.
    pub address: u64,
    /// How many there are.
    pub length: u32,
    /// `XDP_PKT_CONTD` and its like; 0 for a frame in one piece.
    pub options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());

/// Memory that sockets share, in equal chunks.
pub struct Region {
    base: NonNull<libc::c_void>,
    length: usize,
    chunk_size: usize,
    /// A bound socket that has the region: the next one is told to share with it.
    bound: Mutex<Weak<OwnedFd>>,
}

// SAFETY: the value is an address and sizes that never change, and a lock; it gives nobody access to the memory itself.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps memory for `count` chunks of `chunk_size` bytes (2048 or 4096), in huge pages where the system gives them.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn new(count: usize, chunk_size: usize) -> io::Result<Self> {
        let length = count * chunk_size;
        let base = map(None, length, 0)?;
        // Fewer translations to miss. Without huge pages the small ones stay.
        // SAFETY: the range is the mapping that was just made, and the advice changes no byte of it.
        let _small_pages = unsafe { libc::madvise(base.as_ptr(), length, libc::MADV_HUGEPAGE) };
        Ok(Region { base, length, chunk_size, bound: Mutex::default() })
    }

    /// Where the memory begins.
    pub fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; the kernel holds on to the pages that sockets still use.
        unsafe { libc::munmap(self.base.as_ptr(), self.length) };
    }
}

/// Maps a ring of a socket, or ordinary memory.
fn map(socket: Option<BorrowedFd<'_>>, length: usize, offset: u64) -> io::Result<NonNull<libc::c_void>> {
    let (flags, descriptor) = match socket {
        Some(socket) => (libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses where the mapping goes, so it replaces no other one.
    let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, descriptor, offset as libc::off_t) };
    match address {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        address => NonNull::new(address).ok_or_else(|| io::Error::other("mmap answered 0")),
    }
}

/// One ring, at whose other end is the kernel. Rings of `Descriptor`s carry frames, those of `u64` addresses of chunks.
pub struct Ring<T> {
    base: NonNull<libc::c_void>,
    length: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Our own counter.
    ours: u32,
    /// The kernel's counter when we looked last.
    theirs: u32,
}

// SAFETY: on our side the mapping is reached by this value only, and `&mut self` is needed to change it.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(socket: &OwnedFd, at: u64, offsets: &libc::xdp_ring_offset) -> io::Result<Self> {
        let length = offsets.desc as usize + RING as usize * mem::size_of::<T>();
        let base = map(Some(socket.as_fd()), length, at)?;
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

    #[inline]
    fn counter(&self, at: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: the three counters lie aligned in the mapping, which lives as long as `self`, and the kernel's accesses to
        // them are atomic.
        unsafe { at.as_ref() }
    }

    #[inline]
    fn slot(&self, i: u32) -> *mut T {
        // SAFETY: the index is masked to the ring's size.
        unsafe { self.entries.as_ptr().add((self.ours.wrapping_add(i) & (RING - 1)) as usize) }
    }

    /// Entries that can be read, at most `most`. For rings that the kernel fills.
    #[inline]
    pub fn filled(&mut self, most: u32) -> u32 {
        if self.theirs.wrapping_sub(self.ours) < most {
            self.theirs = self.counter(self.producer).load(Ordering::Acquire);
        }
        self.theirs.wrapping_sub(self.ours).min(most)
    }

    /// Entry `i` of those that [`Ring::filled`] told of; beyond them, some older one.
    #[inline]
    pub fn get(&self, i: u32) -> T {
        // SAFETY: the slot is part of the mapping, any bytes are a value of the entries that `Socket` makes rings of, and the
        // kernel leaves a filled entry alone until it is passed by.
        unsafe { ptr::read(self.slot(i)) }
    }

    /// Passes by entries that were read: the kernel may fill them again.
    #[inline]
    pub fn pass(&mut self, count: u32) {
        self.ours = self.ours.wrapping_add(count);
        self.counter(self.consumer).store(self.ours, Ordering::Release);
    }

    /// Slots that can be written, at most `most`. For rings that the kernel empties.
    #[inline]
    pub fn room(&mut self, most: u32) -> u32 {
        if RING - self.ours.wrapping_sub(self.theirs) < most {
            self.theirs = self.counter(self.consumer).load(Ordering::Acquire);
        }
        (RING - self.ours.wrapping_sub(self.theirs)).min(most)
    }

    /// Writes slot `i` of those that [`Ring::room`] told of.
    #[inline]
    pub fn put(&mut self, i: u32, value: T) {
        // SAFETY: the slot is part of the mapping, and the kernel looks at it once it is submitted.
        unsafe { ptr::write(self.slot(i), value) }
    }

    /// Gives the kernel the slots that were written.
    #[inline]
    pub fn submit(&mut self, count: u32) {
        self.ours = self.ours.wrapping_add(count);
        self.counter(self.producer).store(self.ours, Ordering::Release);
    }

    /// Whether the kernel has taken all that was submitted.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.counter(self.consumer).load(Ordering::Acquire) == self.ours
    }

    /// Whether the kernel sleeps and has to be woken by a system call (`XDP_RING_NEED_WAKEUP`).
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.counter(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // A mapping that is left behind would keep the socket, and its queue.
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.base.as_ptr(), self.length) };
    }
}

/// A socket that is bound to one queue of a device, and its rings.
pub struct Socket {
    descriptor: Arc<OwnedFd>,
    /// Frames that arrived.
    pub receive: Ring<Descriptor>,
    /// Frames to be sent.
    pub transmit: Ring<Descriptor>,
    /// Chunks for the kernel to receive into.
    pub fill: Ring<u64>,
    /// Chunks that were sent.
    pub completion: Ring<u64>,
}

impl Socket {
    /// Binds a socket of the calling thread's network namespace to a queue. The region's first socket registers it; the
    /// others share it, whatever their namespaces. The driver chooses between zero-copy and copy mode.
    ///
    /// # Errors
    /// What the kernel says: EBUSY when the queue is taken or its last socket is not quite gone, EINVAL when there is no such
    /// queue, ENOBUFS when the region cannot be locked, EAFNOSUPPORT without AF_XDP, EPERM without CAP_NET_RAW.
    pub fn bind(index: u32, queue: u32, region: &Region) -> io::Result<Self> {
        let descriptor = link::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        let mut bound = region.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let first = bound.upgrade();
        if first.is_none() {
            let registration = Registration {
                address: region.base.as_ptr().expose_provenance() as u64,
                length: region.length as u64,
                chunk_size: region.chunk_size as u32,
                ..Registration::default()
            };
            link::set_option(&descriptor, libc::SOL_XDP, libc::XDP_UMEM_REG, registration)?;
        }
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            link::set_option(&descriptor, libc::SOL_XDP, ring, RING)?;
        }
        let offsets = offsets(&descriptor)?;
        let socket = Socket {
            receive: Ring::map(&descriptor, libc::XDP_PGOFF_RX_RING as u64, &offsets.rx)?,
            transmit: Ring::map(&descriptor, libc::XDP_PGOFF_TX_RING as u64, &offsets.tx)?,
            fill: Ring::map(&descriptor, libc::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr)?,
            completion: Ring::map(&descriptor, libc::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr)?,
            descriptor: Arc::new(descriptor),
        };
        // Both are improvements only: a kernel that knows neither sends in smaller steps.
        let _older = link::set_option(&*socket.descriptor, libc::SOL_XDP, MAX_TX_SKB_BUDGET, RING);
        let _unprivileged = link::set_option(&*socket.descriptor, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER);
        socket.bind_to(index, queue, first.as_deref())?;
        if first.is_none() {
            *bound = Arc::downgrade(&socket.descriptor);
        }
        Ok(socket)
    }

    fn bind_to(&self, index: u32, queue: u32, first: Option<&OwnedFd>) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            // A socket that shares takes the mode of the one that it shares with.
            sxdp_flags: if first.is_some() { libc::XDP_SHARED_UMEM } else { libc::XDP_USE_NEED_WAKEUP },
            sxdp_ifindex: index,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: first.map_or(0, |first| first.as_raw_fd() as u32),
        };
        let length = mem::size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`, which the kernel only reads.
        match unsafe { libc::bind(self.descriptor.as_raw_fd(), (&raw const address).cast(), length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The descriptor: readable when the receive ring has frames.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Has the kernel send what is on the transmit ring, if it needs to be told.
    ///
    /// # Errors
    /// EAGAIN when more is waiting, EBUSY or ENOBUFS when the device has no room, ENETDOWN when it is switched off, and others
    /// when it is gone.
    #[inline]
    pub fn wake_transmit(&self) -> io::Result<()> {
        if !self.transmit.needs_wakeup() {
            return Ok(());
        }
        let socket = self.descriptor.as_raw_fd();
        // SAFETY: no bytes are passed; the call only wakes the kernel.
        let result = unsafe { libc::sendto(socket, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Tells the kernel of chunks on the fill ring, if it needs to be told.
    #[inline]
    pub fn wake_receive(&self) {
        if self.fill.needs_wakeup() {
            let socket = self.descriptor.as_raw_fd();
            // That it cannot be woken shows in the next check of the device.
            // SAFETY: no bytes are asked for; the call only wakes the kernel.
            let _gone = unsafe {
                libc::recvfrom(socket, ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut())
            };
        }
    }
}

/// `struct xdp_umem_reg`.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::NoUninit)]
struct Registration {
    address: u64,
    length: u64,
    chunk_size: u32,
    headroom: u32,
    flags: u32,
    transmit_metadata: u32,
}

/// Where the rings' parts are in their mappings (`XDP_MMAP_OFFSETS`).
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
