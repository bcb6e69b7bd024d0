//! TAP and TUN devices: the far end is the kernel's own stack, with segmentation and checksum offloads.
//!
//! The device is made by the port inside the namespace of the thread that opens it, and goes with the port. A virtio
//! header carries offload metadata both ways (`vnet.rs`); a VLAN tag arrives in the bytes. A `tun` device carries IP
//! packets without an Ethernet header.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::address::MacAddress;
use crate::frame::{Burst, Frame};
use crate::port::gather::Gather;
use crate::port::link::{self, Link};
use crate::port::{Capabilities, Pool, Port, PortCounters, PortError, PortKind, segment, vnet};
use crate::time::Time;

/// How a TAP or TUN device is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// MTU in bytes, without the Ethernet header.
    pub mtu: usize,
    /// The MAC address of the kernel's end; the kernel chooses one otherwise. Not for TUN.
    pub mac: Option<MacAddress>,
    /// Whether the device is switched on at once. Frames are lost until it is.
    pub up: bool,
    /// Whether the device outlives the port, with its addresses and routes, and one that is there and that nobody uses is taken.
    /// Otherwise it goes with the port, and a name that is taken is refused.
    pub persistent: bool,
}

impl Default for TapOptions {
    fn default() -> Self {
        TapOptions { mtu: 1500, mac: None, up: true, persistent: false }
    }
}

/// A port on a TAP or TUN device.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    kind: PortKind,
    capabilities: Capabilities,
    counters: PortCounters,
    link: Link,
    watch: link::Watch,
    /// A packet of a tunnelled super-frame on its way out.
    scratch: Vec<u8>,
}

impl Tap {
    /// Makes a TAP device (Ethernet frames) in the namespace of the calling thread.
    ///
    /// # Errors
    /// [`PortError`]: the name is taken, no CAP_NET_ADMIN, no `/dev/net/tun`.
    pub fn open_tap(device: &str, options: TapOptions) -> Result<Self, PortError> {
        Self::open(device, PortKind::Tap, options)
    }

    /// Makes a TUN device (IP packets) in the namespace of the calling thread.
    ///
    /// # Errors
    /// As [`Tap::open_tap`].
    pub fn open_tun(device: &str, options: TapOptions) -> Result<Self, PortError> {
        Self::open(device, PortKind::Tun, options)
    }

    fn open(device: &str, kind: PortKind, options: TapOptions) -> Result<Self, PortError> {
        link::check_name(device)?;
        let file = Self::open_file(device, kind)?;
        let fail = |action| move |source| PortError::of(device, action, source);
        Self::attach(&file, device, kind, options.persistent)?;
        let link = Link::open(device, "its namespace")?;
        offload(&file, true, true).map_err(fail("setting the offloads"))?;
        link.set_mtu(options.mtu).map_err(fail("setting the MTU"))?;
        if let (Some(mac), PortKind::Tap) = (options.mac, kind) {
            link.set_mac(mac).map_err(fail("setting the MAC address"))?;
        }
        if options.up {
            link.set_up().map_err(fail("switching it on"))?;
        }
        let ethernet = kind == PortKind::Tap;
        let watch = link.watch().map_err(fail("opening a netlink socket"))?;
        Ok(Tap {
            file,
            name: device.to_owned(),
            kind,
            capabilities: Capabilities {
                gso: true,
                partial_checksum: true,
                multi_segment: true,
                vlan: false,
                ethernet,
                max_frame: options.mtu + if ethernet { super::ETHERNET_AND_TAG } else { 0 },
            },
            counters: PortCounters::default(),
            link,
            watch,
            scratch: Vec::new(),
        })
    }

    fn open_file(device: &str, kind: PortKind) -> Result<File, PortError> {
        let path = "/dev/net/tun";
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        opened.map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => PortError::Unsupported {
                device: device.to_owned(),
                kind: kind.name(),
                reason: "there is no /dev/net/tun".to_owned(),
                remedy: "load the module with `modprobe tun`, or use af_packet",
            },
            _ => PortError::of(device, "opening /dev/net/tun", source),
        })
    }

    /// Makes the device (`TUNSETIFF`). `IFF_TUN_EXCL`: a name that is taken must not be joined.
    fn attach(file: &File, device: &str, kind: PortKind, is_persistent: bool) -> Result<(), PortError> {
        let layer = if kind == PortKind::Tap { libc::IFF_TAP } else { libc::IFF_TUN };
        let exclusive = if is_persistent { 0 } else { libc::IFF_TUN_EXCL };
        let mut request = link::request(device);
        request.ifr_ifru.ifru_flags = (layer | libc::IFF_NO_PI | libc::IFF_VNET_HDR | exclusive) as i16;
        // SAFETY: TUNSETIFF takes an ifreq, which `request` is for as long as the call lasts.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
        if result == 0 {
            return if is_persistent { Self::keep(file, device) } else { Ok(()) };
        }
        let source = io::Error::last_os_error();
        Err(match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => PortError::DeviceExists { device: device.to_owned() },
            // A device of that name that is no TAP or TUN device at all.
            Some(libc::EINVAL) if Link::open(device, "").is_ok() => {
                PortError::DeviceExists { device: device.to_owned() }
            }
            _ => PortError::of(device, "making the device", source),
        })
    }

    /// Lets the device outlive its descriptor.
    fn keep(file: &File, device: &str) -> Result<(), PortError> {
        // SAFETY: TUNSETPERSIST takes a number, no pointer.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST as _, 1) };
        if result == 0 {
            return Ok(());
        }
        Err(PortError::of(device, "keeping the device", io::Error::last_os_error()))
    }

    /// What an error of the descriptor means: `Ok` when the port lives on.
    fn survives(&self, error: io::Error) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO) => Err(error),
            // A device that is down says EIO, and so does one that is going away.
            Some(libc::EIO) if self.link.index().is_err() => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives one frame to the kernel. A super-frame in a tunnel goes as packets (see [`super::af_packet`]); one that finds
    /// no room after others were sent is lost with the rest.
    fn send_one(&mut self, frame: &Frame, gather: &mut Gather) -> io::Result<()> {
        let file = self.file.as_raw_fd();
        if self.kind == PortKind::Tap && segment::is_tunnelled(frame) {
            let send = |bytes: &[u8]| {
                // SAFETY: the pointer and length describe `bytes`, which the kernel only reads.
                let written = unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
                if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            };
            match segment::send_each(frame, self.capabilities.max_frame, &mut self.scratch, send) {
                Err((error, 0)) => return Err(error),
                Ok(true) => {}
                Ok(false) | Err(_) => self.counters.send_errors += 1,
            }
            return Ok(());
        }
        let vectors = gather.fill(frame);
        // SAFETY: the vectors describe `gather` and the frame's bytes, which outlive the call; the kernel only reads.
        let written = unsafe { libc::writev(file, vectors.as_ptr(), vectors.len() as libc::c_int) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads one frame into a fresh chunk. Answers whether there may be more.
    fn receive_one(&mut self, pool: &mut Pool, burst: &mut Burst) -> io::Result<bool> {
        let Some(mut chunk) = pool.take() else { return Ok(false) };
        let mut header = [0u8; vnet::LENGTH];
        let offset = chunk.offset();
        let room = &mut chunk.whole_mut()[offset..];
        let space = room.len();
        let vectors = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: vnet::LENGTH },
            libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: space },
        ];
        // SAFETY: the two vectors describe `header` and the chunk's bytes, which outlive the call and are not touched
        // during it.
        let read = unsafe { libc::readv(self.file.as_raw_fd(), vectors.as_ptr(), 2) };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            pool.give_back(chunk);
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(false),
                Some(libc::EINTR) => Ok(true),
                Some(libc::EINVAL) => {
                    self.counters.receive_errors += 1;
                    Ok(true)
                }
                _ => self.survives(error).map(|()| false),
            };
        };
        let length = read.saturating_sub(vnet::LENGTH);
        chunk.set_range(offset, length);
        let mut frame = Frame::new(chunk);
        // The kernel cuts a frame that is too long without saying so: a chunk that is quite full is taken as cut.
        if length == space || !vnet::decode(&header, &mut frame) {
            self.counters.receive_errors += 1;
            pool.release(frame);
            return Ok(true);
        }
        burst.push(frame);
        Ok(true)
    }
}

/// Tells the kernel which unfinished work it may leave to us (`TUNSETOFFLOAD`): super-frames only with checksums.
fn offload(file: &File, checksum: bool, gso: bool) -> io::Result<()> {
    let mut features = 0;
    if checksum {
        features |= libc::TUN_F_CSUM;
    }
    if checksum && gso {
        features |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    }
    // Segmentation of UDP came in 6.2, and the two only together.
    let udp = if checksum && gso { libc::TUN_F_USO4 | libc::TUN_F_USO6 } else { 0 };
    for features in [features | udp, features] {
        // SAFETY: TUNSETOFFLOAD takes its argument as a number.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, features as libc::c_ulong) } == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

impl Port for Tap {
    fn kind(&self) -> PortKind {
        self.kind
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn limit(&mut self, both: Capabilities) -> io::Result<()> {
        offload(&self.file, both.partial_checksum || both.gso, both.gso)
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        while burst.remaining_capacity() > 0 && self.receive_one(pool, burst)? {}
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        let mut gather = Gather::new();
        let mut sent = 0;
        let mut outcome = Ok(());
        while sent < burst.len() {
            if let Err(error) = self.send_one(&burst[sent], &mut gather) {
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => break,
                    Some(libc::EINTR) => continue,
                    _ => outcome = self.survives(error),
                }
                if outcome.is_err() {
                    break;
                }
                self.counters.send_errors += 1;
            }
            sent += 1;
        }
        burst.drain(..sent).for_each(|frame| pool.release(frame));
        outcome
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn counters(&self) -> PortCounters {
        PortCounters { receive_overflow: self.watch.transmit_dropped(), ..self.counters }
    }

    fn close(&mut self, _pool: &mut Pool) {}
}
