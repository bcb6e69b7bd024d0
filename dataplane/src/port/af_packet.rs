//! AF_PACKET sockets: any Ethernet device, super-frames and unfinished checksums kept.
//!
//! `PACKET_VNET_HDR` puts a virtio header before each frame, so that a 64 KiB super-frame with an unfinished checksum
//! crosses the wire as one frame (`vnet.rs`). The kernel takes the outermost VLAN tag out of the bytes before a
//! socket sees them and tells it as auxiliary data: it becomes [`Frame::vlan`], and is put back into the bytes when the
//! frame is sent.
//!
//! **A socket of this kind is a tap**: the kernel goes on to process its own copy of every frame. Inside a namespace
//! made for the wire nothing listens, and the copy ends there. Anywhere else the copy must be dropped at the device's tc ingress
//! ([`AfPacketOptions::sole`]), or the wire is bypassed. Generic XDP programs run before the tap and see super-frames
//! in pieces; none should be attached.
//!
//! Sent frames go through the device's queueing discipline: bypassing it (`PACKET_QDISC_BYPASS`) would drop super-frames on
//! devices without segmentation offload.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use arrayvec::ArrayVec;
use bytemuck::{AnyBitPattern, NoUninit};

use crate::frame::{BURST, Burst, Checksum, Frame, VlanTag};
use crate::port::claim::Claim;
use crate::port::gather::Gather;
use crate::port::link::{self, Link};
use crate::port::netns::{self, NetworkNamespace};
use crate::port::sole::Sole;
use crate::port::{Capabilities, Chunk, Pool, Port, PortCounters, PortError, PortKind, checksum, segment, vnet};
use crate::time::Time;

/// Room for one control message with the auxiliary data (20 bytes), as the kernel aligns it.
const CONTROL: usize = 48;

/// Bytes that the socket may hold for us: hundreds of super-frames, several milliseconds of a fast link.
pub const RECEIVE_BUFFER: usize = 32 << 20;

/// Bytes that may wait in a device's transmit queue.
const SEND_BUFFER: i32 = 16 << 20;

/// SCTP's checksum field: a CRC that the virtio header cannot express, so it is completed on arrival.
const SCTP_CHECKSUM_OFFSET: u16 = 8;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The message headers of one burst, with all that they point to.
struct Messages {
    headers: Box<[[u8; vnet::LENGTH]; BURST]>,
    controls: Box<[Control; BURST]>,
    vectors: Box<[[libc::iovec; 2]; BURST]>,
    receive: Box<[libc::mmsghdr; BURST]>,
    send: Box<[libc::mmsghdr; BURST]>,
    gathers: Box<[Gather; BURST]>,
}

// SAFETY: the pointers lead into boxes that belong to the same value, and to chunks or frames that are borrowed for the
// length of one system call; no other thread reaches them.
unsafe impl Send for Messages {}

impl Messages {
    fn new() -> Self {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: a mmsghdr is plain old data, for which zeros are a value.
        let empty = || -> libc::mmsghdr { unsafe { MaybeUninit::zeroed().assume_init() } };
        let mut messages = Messages {
            headers: Box::new([[0; vnet::LENGTH]; BURST]),
            controls: Box::new([const { Control([0; CONTROL]) }; BURST]),
            vectors: Box::new([[nothing; 2]; BURST]),
            receive: Box::new(std::array::from_fn(|_| empty())),
            send: Box::new(std::array::from_fn(|_| empty())),
            gathers: Box::new(std::array::from_fn(|_| Gather::new())),
        };
        for i in 0..BURST {
            messages.vectors[i][0] =
                libc::iovec { iov_base: messages.headers[i].as_mut_ptr().cast(), iov_len: vnet::LENGTH };
            let header = &mut messages.receive[i].msg_hdr;
            header.msg_iov = messages.vectors[i].as_mut_ptr();
            header.msg_iovlen = 2;
            header.msg_control = messages.controls[i].0.as_mut_ptr().cast();
        }
        messages
    }

    /// Makes slot `i` ready to take a frame into the chunk, after its headroom.
    fn offer(&mut self, i: usize, chunk: &mut Chunk) {
        let offset = chunk.offset();
        let room = &mut chunk.whole_mut()[offset..];
        self.vectors[i][1] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let header = &mut self.receive[i].msg_hdr;
        header.msg_controllen = CONTROL as _;
        header.msg_flags = 0;
    }

    /// The VLAN tag in slot `i`'s auxiliary data.
    fn tag(&self, i: usize) -> Option<VlanTag> {
        let header = &self.receive[i].msg_hdr;
        // SAFETY: msg_control points to the slot's control buffer, and the kernel has set msg_controllen to what it
        // wrote there; CMSG_FIRSTHDR looks at nothing else, and a message that says it holds auxiliary data does.
        let data = unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            let known = !message.is_null()
                && (*message).cmsg_level == libc::SOL_PACKET
                && (*message).cmsg_type == libc::PACKET_AUXDATA
                && (*message).cmsg_len as usize
                    >= libc::CMSG_LEN(mem::size_of::<libc::tpacket_auxdata>() as u32) as usize;
            if !known {
                return None;
            }
            ptr::read_unaligned(libc::CMSG_DATA(message).cast::<libc::tpacket_auxdata>())
        };
        let protocol = if data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { data.tp_vlan_tpid } else { 0x8100 };
        (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(VlanTag { protocol, control: data.tp_vlan_tci })
    }
}

/// How an AF_PACKET port is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AfPacketOptions {
    /// Bytes that the kernel may hold for the port until it is read.
    pub receive_buffer: usize,
    /// Whether frames for other stations are received too, as a transparent wire needs.
    pub promiscuous: bool,
    /// Whether the kernel's own copy of the frames is dropped, as is needed where somebody but the port listens to the device.
    pub sole: bool,
}

impl Default for AfPacketOptions {
    fn default() -> Self {
        AfPacketOptions { receive_buffer: RECEIVE_BUFFER, promiscuous: true, sole: false }
    }
}

/// A port on an AF_PACKET socket.
pub struct AfPacket {
    socket: OwnedFd,
    name: String,
    capabilities: Capabilities,
    counters: PortCounters,
    overflow: Cell<u64>,
    messages: Messages,
    /// How many frames the next receive prepares for: follows what the last ones found.
    expected: usize,
    /// A packet of a tunnelled super-frame on its way out.
    scratch: Vec<u8>,
    /// While it is there, nobody else gets the device's frames.
    _sole: Option<Sole>,
    /// Last, so that the device is free only once nothing reads it. Whoever adopted the socket has none.
    _claim: Option<Claim>,
}

/// A socket that is bound to a device and claims it: what an [`AfPacket`] port reads and writes. A process with privileges may open
/// it for one without, and keep it while such processes come and go: frames that come meanwhile wait in it.
pub struct BoundSocket {
    socket: OwnedFd,
    mtu: usize,
    sole: Option<Sole>,
    claim: Claim,
}

impl BoundSocket {
    /// The device's MTU in bytes, at the time of opening.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Opens the socket on a device of this network namespace.
    ///
    /// # Errors
    /// As [`AfPacket::open`]; that the namespace may not be entered.
    pub fn open_in(namespace: &NetworkNamespace, device: &str, options: AfPacketOptions) -> Result<Self, PortError> {
        netns::within(Some(namespace), device, || Self::open(device, namespace.name(), options))
    }

    fn open(device: &str, namespace: &str, options: AfPacketOptions) -> Result<Self, PortError> {
        let link = Link::open(device, namespace)?;
        let fail = |action| move |source| PortError::of(device, action, source);
        let index = link.index().map_err(fail("looking up the interface"))?;
        let hardware = link.hardware().map_err(fail("reading the link type"))?;
        if !matches!(hardware, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) {
            return Err(PortError::Unsupported {
                device: device.to_owned(),
                kind: PortKind::AfPacket.name(),
                reason: format!("its link layer (ARPHRD type {hardware}) is not Ethernet"),
                remedy: "use an Ethernet device, or a tun port for layer 3",
            });
        }
        let mtu = link.mtu().map_err(fail("reading the MTU"))?;
        let claim = Claim::take(&link, device)?;
        let socket = AfPacket::socket(index, options).map_err(fail("opening an AF_PACKET socket"))?;
        let sole = options.sole.then(|| Sole::attach(device)).transpose()?;
        Ok(BoundSocket { socket, mtu, sole, claim })
    }
}

impl fmt::Debug for BoundSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundSocket")
            .field("mtu", &self.mtu)
            .field("sole", &self.sole.is_some())
            .finish_non_exhaustive()
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for AfPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AfPacket({})", self.name)
    }
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Membership {
    index: i32,
    kind: u16,
    length: u16,
    address: [u8; 8],
}

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern)]
struct Statistics {
    packets: u32,
    drops: u32,
}

impl AfPacket {
    /// Opens a port on a device of the calling thread's namespace. `namespace` names that for people.
    ///
    /// # Errors
    /// [`PortError`]: no such device, no CAP_NET_RAW, a device that does not speak Ethernet.
    pub fn open(device: &str, namespace: &str, options: AfPacketOptions) -> Result<Self, PortError> {
        let BoundSocket { socket, mtu, sole, claim } = BoundSocket::open(device, namespace, options)?;
        Ok(AfPacket { _sole: sole, ..Self::over(socket, Some(claim), device, mtu) })
    }

    /// A port on a copy of a [`BoundSocket`]'s descriptor, whose owner keeps the device claimed for as long as the port lives. `mtu` is
    /// [`BoundSocket::mtu`], `device` for people.
    pub fn adopt(socket: OwnedFd, device: &str, mtu: usize) -> Self {
        Self::over(socket, None, device, mtu)
    }

    fn over(socket: OwnedFd, claim: Option<Claim>, device: &str, mtu: usize) -> Self {
        AfPacket {
            socket,
            _sole: None,
            _claim: claim,
            name: device.to_owned(),
            capabilities: Capabilities {
                gso: true,
                partial_checksum: true,
                multi_segment: true,
                vlan: false,
                ethernet: true,
                max_frame: mtu + super::ETHERNET_AND_TAG,
            },
            counters: PortCounters::default(),
            overflow: Cell::new(0),
            messages: Messages::new(),
            expected: BURST,
            scratch: Vec::with_capacity(vnet::LENGTH + mtu + super::ETHERNET_AND_TAG),
        }
    }

    /// A socket that is bound only once all options are set, so that no frame comes without its metadata.
    fn socket(index: i32, options: AfPacketOptions) -> io::Result<OwnedFd> {
        let socket = link::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            link::set_option(&socket, libc::SOL_PACKET, option, 1i32)?;
        }
        let receive = i32::try_from(options.receive_buffer).unwrap_or(i32::MAX);
        link::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, receive)?;
        link::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        if options.promiscuous {
            let membership = Membership { index, kind: libc::PACKET_MR_PROMISC as u16, length: 0, address: [0; 8] };
            link::set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)?;
        }
        // SAFETY: a sockaddr_ll is plain old data, for which zeros are a value.
        let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`, which the kernel only reads.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }

    /// Whether the device itself is gone: the kernel then unbinds the socket from its index.
    fn is_gone(&self) -> bool {
        // SAFETY: a sockaddr_ll is plain old data, for which zeros are a value.
        let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`, which the kernel fills in.
        let result = unsafe { libc::getsockname(self.socket.as_raw_fd(), (&raw mut address).cast(), &mut length) };
        result != 0 || address.sll_ifindex <= 0
    }

    /// What an error of the socket means: `Ok` when the port lives on.
    fn survives(&self, error: io::Error) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) if self.is_gone() => Err(error),
            Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes one message's bytes over as a frame, or gives its chunk back.
    fn accept(&mut self, i: usize, mut chunk: Chunk, pool: &mut Pool, burst: &mut Burst) {
        let message = &self.messages.receive[i];
        let length = (message.msg_len as usize).saturating_sub(vnet::LENGTH);
        let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let offset = chunk.offset();
        if truncated || offset + length > pool.chunk_size() {
            self.counters.receive_errors += 1;
            pool.give_back(chunk);
            return;
        }
        chunk.set_range(offset, length);
        let mut frame = Frame::new(chunk);
        if !vnet::decode(&self.messages.headers[i], &mut frame) {
            self.counters.receive_errors += 1;
            pool.release(frame);
            return;
        }
        frame.vlan = self.messages.tag(i);
        if matches!(frame.checksum, Checksum::Partial { offset: SCTP_CHECKSUM_OFFSET, .. }) {
            if !checksum::complete(&mut frame) {
                self.counters.receive_errors += 1;
                pool.release(frame);
                return;
            }
            self.counters.checksums_completed += 1;
        }
        burst.push(frame);
    }

    /// One system call's worth of frames. Answers whether there may be more.
    fn receive_some(&mut self, pool: &mut Pool, burst: &mut Burst) -> io::Result<bool> {
        let want = burst.remaining_capacity().min(self.expected);
        let mut chunks = ArrayVec::<Chunk, BURST>::new();
        while chunks.len() < want {
            let Some(mut chunk) = pool.take() else { break };
            self.messages.offer(chunks.len(), &mut chunk);
            chunks.push(chunk);
        }
        if chunks.is_empty() {
            return Ok(false);
        }
        let asked = chunks.len();
        // SAFETY: the first `asked` messages point to headers and control buffers of `self.messages` and to the bytes
        // of `chunks`, which all outlive the call and are not touched during it.
        let result = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.messages.receive.as_mut_ptr(),
                asked as u32,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let error = io::Error::last_os_error();
        let received = usize::try_from(result).unwrap_or(0);
        // What was not filled goes back last first, so that the pool hands the same warm chunks out again.
        while chunks.len() > received {
            chunks.pop().into_iter().for_each(|chunk| pool.give_back(chunk));
        }
        for (i, chunk) in chunks.into_iter().enumerate() {
            self.accept(i, chunk, pool, burst);
        }
        self.expected = (received * 2).clamp(8, BURST);
        if result >= 0 {
            return Ok(received == asked);
        }
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(false),
            Some(libc::EINTR) => Ok(true),
            // The kernel had a frame whose metadata the virtio header cannot express, and discarded it.
            Some(libc::EINVAL) => {
                self.counters.receive_errors += 1;
                Ok(false)
            }
            _ => self.survives(error).map(|()| false),
        }
    }

    /// Sends a super-frame in a tunnel as packets: the virtio header cannot tell the kernel that it is one. A packet
    /// that finds no room after others were sent is lost with the rest, as in a full queue.
    fn send_segments(&mut self, frame: &Frame) -> io::Result<()> {
        let socket = self.socket.as_raw_fd();
        let send = |bytes: &[u8]| {
            // SAFETY: the pointer and length describe `bytes`, which the kernel only reads.
            let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
            if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        match segment::send_each(frame, self.capabilities.max_frame, &mut self.scratch, send) {
            Err((error, 0)) => return Err(error),
            Ok(true) => {}
            Ok(false) | Err(_) => self.counters.send_errors += 1,
        }
        Ok(())
    }

    /// One system call's worth of frames, from the front. Answers how many the kernel took.
    fn send_some(&mut self, burst: &[Frame]) -> io::Result<usize> {
        for (i, frame) in burst.iter().enumerate() {
            let vectors = self.messages.gathers[i].fill(frame);
            let header = &mut self.messages.send[i].msg_hdr;
            header.msg_iov = vectors.as_mut_ptr();
            header.msg_iovlen = vectors.len() as _;
        }
        // SAFETY: the first `burst.len()` messages point to buffers of `self.messages.gathers` and to bytes of frames in
        // `burst`, which outlive the call; the kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                self.messages.send.as_mut_ptr(),
                burst.len() as u32,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl Port for AfPacket {
    fn kind(&self) -> PortKind {
        PortKind::AfPacket
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        while burst.remaining_capacity() > 0 && self.receive_some(pool, burst)? {}
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        while !burst.is_empty() {
            let tunnelled = burst.iter().position(segment::is_tunnelled);
            let sent = match tunnelled {
                Some(0) => self.send_segments(&burst[0]).map(|()| 1),
                _ => self.send_some(&burst[..tunnelled.unwrap_or(burst.len())]),
            };
            match sent {
                Ok(sent) => burst.drain(..sent).for_each(|frame| pool.release(frame)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => break,
                    Some(libc::EINTR) => {}
                    _ => {
                        self.survives(error)?;
                        self.counters.send_errors += 1;
                        pool.release(burst.remove(0));
                    }
                },
            }
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn counters(&self) -> PortCounters {
        // Reading the statistics resets them in the kernel.
        let statistics = link::option::<Statistics>(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS);
        if let Ok(statistics) = statistics {
            self.overflow.set(self.overflow.get() + u64::from(statistics.drops));
        }
        PortCounters { receive_overflow: self.overflow.get(), ..self.counters }
    }

    fn close(&mut self, _pool: &mut Pool) {}
}
