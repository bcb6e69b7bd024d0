//! Two TAP devices with a virtio header and all offloads: a frame is read behind its header into a buffer and written to the
//! other device from the same place.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

use super::{Bare, Counters, End};

/// Frames of one direction that are moved before the other one is looked at.
const BURST: usize = 64;

/// Bytes of the virtio header before each frame.
const VNET_HEADER: usize = 10;

/// Bytes of the buffer: a 64 KiB super-frame with its headers.
const BUFFER: usize = 66 * 1024;

/// Makes a TAP device in the namespace of the calling thread and switches it on.
fn open(end: &End) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let file = file.context("opening /dev/net/tun")?;
    // SAFETY: an ifreq is plain old data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(end.device.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let control = super::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: the ioctls take an ifreq or a number, and the ifreq outlives the calls.
    unsafe {
        check(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request)).context("making the TAP device")?;
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let all = tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6;
        // Segmentation of UDP came in 6.2.
        check(libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, all as libc::c_ulong))
            .or_else(|_older| check(libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, tcp as libc::c_ulong)))
            .context("setting the TAP device's offloads")?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check(libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request)).context("switching it on")?;
    }
    Ok(file)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves frames one way until there are none, or it is the other direction's turn.
fn forward(from: &File, to: &File, buffer: &mut [u8], counters: &mut Counters, direction: usize) -> usize {
    use std::io::{Read, Write};
    let (mut from, mut to) = (from, to);
    for moved in 0..BURST {
        let Ok(length) = from.read(buffer) else { return moved };
        match to.write(&buffer[..length]) {
            Ok(written) if written == length => {
                counters.frames[direction] += 1;
                counters.bytes[direction] += length.saturating_sub(VNET_HEADER) as u64;
            }
            _ => counters.dropped[direction] += 1,
        }
    }
    BURST
}

/// The devices, and the buffer of a frame.
pub(super) struct Taps {
    ends: [File; 2],
    buffer: Vec<u8>,
}

impl Taps {
    pub(super) fn open(ends: [&End; 2]) -> Result<Self> {
        let taps = [ends[0].within(|| open(ends[0]))?, ends[1].within(|| open(ends[1]))?];
        Ok(Taps { ends: taps, buffer: vec![0; BUFFER] })
    }
}

impl Bare for Taps {
    fn round(&mut self, counters: &mut Counters) -> usize {
        let [inside, outside] = &self.ends;
        let out = forward(inside, outside, &mut self.buffer, counters, 0);
        out + forward(outside, inside, &mut self.buffer, counters, 1)
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.ends[0].as_fd(), self.ends[1].as_fd()]
    }
}
