//! A place to attach the generator's program to.
//!
//! The kernel keeps a table of the XDP programs in use (`bpf_dispatcher`), and waits for RCU whenever one comes or goes: twice a
//! call for a program that is only run by `BPF_PROG_RUN`, which is some ten milliseconds on an idle machine and more on a
//! busy one. A program that is attached to a device is in the table already. The device is a TAP that nobody uses; it is
//! gone with the generator.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use aya::programs::{Xdp, XdpMode};

/// The device; the program is detached with it.
pub(super) struct Anchor {
    _device: File,
}

impl Anchor {
    /// Makes the device in the namespace of the calling thread and attaches the program, which is loaded. `None` where
    /// that is refused: then calls only take longer.
    pub(super) fn attach(program: &mut Xdp) -> Option<Anchor> {
        let (device, name) = make().ok()?;
        program.attach(&name, XdpMode::Driver).ok()?;
        Some(Anchor { _device: device })
    }
}

fn make() -> io::Result<(File, String)> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain old data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"pktgen%d") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: TUNSETIFF takes an ifreq, which `request` is for as long as the call lasts.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte.cast_unsigned()));
    Ok((file, name.collect()))
}
