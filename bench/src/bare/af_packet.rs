//! Two AF_PACKET sockets with `PACKET_VNET_HDR`: a frame is received behind its virtio header into a buffer and sent from the
//! very same place, with as many frames a system call as there are.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result};

use super::{Bare, Counters, End};

/// Frames that are moved with one pair of system calls.
const BURST: usize = 64;

/// Bytes of the virtio header before each frame.
const VNET_HEADER: usize = 10;

/// Bytes of a buffer: a 64 KiB super-frame with its headers.
const BUFFER: usize = 66 * 1024;

/// Bytes that a socket may hold for us, and that may wait in a device's queue.
const RECEIVE_BUFFER: i32 = 32 << 20;
const SEND_BUFFER: i32 = 16 << 20;

/// How often a full device is asked again before its frames are dropped.
const SEND_ATTEMPTS: usize = 3;

/// Makes a socket, close-on-exec and non-blocking.
pub(super) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only; the descriptor that it answers is new and nobody else's.
    unsafe {
        match libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) {
            descriptor if descriptor >= 0 => Ok(OwnedFd::from_raw_fd(descriptor)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sets a socket option of plain old data.
fn set<T: Copy>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which the kernel only reads.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A socket that is bound only once all options are set, so that no frame comes without its virtio header.
fn open(end: &End) -> Result<OwnedFd> {
    let index = end.index()?;
    let socket = super::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
        set(&socket, libc::SOL_PACKET, option, &1i32).context("setting a socket option")?;
    }
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER).context("setting the receive buffer")?;
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER).context("setting the send buffer")?;
    let membership = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership).context("asking for all frames")?;
    // SAFETY: a sockaddr_ll is plain old data, for which zeros are a value.
    let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, which the kernel only reads.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error()).context("binding the AF_PACKET socket");
    }
    Ok(socket)
}

/// Buffers of one burst, and the message headers that point to them: made once, used for receiving and for sending.
struct Messages {
    headers: Box<[libc::mmsghdr; BURST]>,
    vectors: Box<[libc::iovec; BURST]>,
    /// How many messages the next receive offers: follows what the last ones found.
    expected: usize,
    _buffers: Vec<u8>,
}

impl Messages {
    fn new() -> Self {
        let mut buffers = vec![0u8; BURST * BUFFER];
        // SAFETY: a mmsghdr is plain old data, for which zeros are a value.
        let empty = || -> libc::mmsghdr { unsafe { MaybeUninit::zeroed().assume_init() } };
        let mut headers = Box::new(std::array::from_fn(|_| empty()));
        let start = buffers.as_mut_ptr();
        let mut vectors = Box::new(std::array::from_fn(|i| libc::iovec {
            // SAFETY: buffer `i` lies within the allocation, which is never resized.
            iov_base: unsafe { start.add(i * BUFFER) }.cast(),
            iov_len: BUFFER,
        }));
        for (header, vector) in headers.iter_mut().zip(vectors.iter_mut()) {
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        Messages { headers, vectors, expected: BURST, _buffers: buffers }
    }

    /// Takes what there is, as far as there is room.
    fn receive(&mut self, socket: &OwnedFd) -> usize {
        // SAFETY: all messages point to vectors and buffers of this value, which outlive the call.
        let received = unsafe {
            let (at, most) = (self.headers.as_mut_ptr(), self.expected as u32);
            libc::recvmmsg(socket.as_raw_fd(), at, most, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        let count = usize::try_from(received).unwrap_or(0);
        for i in 0..count {
            self.vectors[i].iov_len = self.headers[i].msg_len as usize;
        }
        self.expected = (count * 2).clamp(8, BURST);
        count
    }

    /// Sends the first `count` messages; the answer is how many of them the device took.
    fn send(&mut self, socket: &OwnedFd, count: usize) -> usize {
        let (mut sent, mut attempts) = (0, 0);
        while sent < count && attempts < SEND_ATTEMPTS {
            // SAFETY: as for `receive`; the kernel only reads the buffers.
            let more = unsafe {
                let at = self.headers.as_mut_ptr().add(sent);
                libc::sendmmsg(socket.as_raw_fd(), at, (count - sent) as u32, libc::MSG_DONTWAIT as _)
            };
            match usize::try_from(more) {
                Ok(more) => sent += more,
                Err(_) => attempts += 1,
            }
        }
        sent
    }

    /// Moves one burst. Answers how many frames came.
    fn forward(&mut self, from: &OwnedFd, to: &OwnedFd, counters: &mut Counters, direction: usize) -> usize {
        let count = self.receive(from);
        if count == 0 {
            return 0;
        }
        let sent = self.send(to, count);
        for vector in &mut self.vectors[..count] {
            counters.bytes[direction] += vector.iov_len.saturating_sub(VNET_HEADER) as u64;
            vector.iov_len = BUFFER;
        }
        counters.frames[direction] += sent as u64;
        counters.dropped[direction] += (count - sent) as u64;
        count
    }
}

/// The sockets, and the buffers of a burst.
pub(super) struct Sockets {
    ends: [OwnedFd; 2],
    messages: Messages,
}

impl Sockets {
    pub(super) fn open(ends: [&End; 2]) -> Result<Self> {
        let sockets = [ends[0].within(|| open(ends[0]))?, ends[1].within(|| open(ends[1]))?];
        Ok(Sockets { ends: sockets, messages: Messages::new() })
    }
}

impl Bare for Sockets {
    fn round(&mut self, counters: &mut Counters) -> usize {
        let [inside, outside] = &self.ends;
        self.messages.forward(inside, outside, counters, 0) + self.messages.forward(outside, inside, counters, 1)
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.ends[0].as_fd(), self.ends[1].as_fd()]
    }
}
