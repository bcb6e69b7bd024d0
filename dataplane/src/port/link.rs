//! What ports ask of, and tell, a network device: ioctls and one netlink query on sockets of the device's namespace.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::address::MacAddress;
use crate::port::PortError;

/// ethtool commands and flags (`linux/ethtool.h`).
mod ethtool {
    pub(super) const GDRVINFO: u32 = 0x03;
    pub(super) const GGRO: u32 = 0x2b;
    pub(super) const SGRO: u32 = 0x2c;
    pub(super) const GFLAGS: u32 = 0x25;
    pub(super) const SFLAGS: u32 = 0x26;
    pub(super) const GCHANNELS: u32 = 0x3c;
    pub(super) const FLAG_RXVLAN: u32 = 1 << 8;
    pub(super) const FLAG_LRO: u32 = 1 << 15;
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// A device, reached through a socket of its namespace from wherever the caller is.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    name: String,
}

/// Makes a socket, close-on-exec and non-blocking.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only; the descriptor that it answers is new and nobody else's.
    unsafe {
        match libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) {
            descriptor if descriptor >= 0 => Ok(OwnedFd::from_raw_fd(descriptor)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sets a socket option of plain old data.
pub(crate) fn set_option<T: bytemuck::NoUninit>(
    socket: &impl AsRawFd,
    level: i32,
    option: i32,
    value: T,
) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a socket option of plain old data.
pub(crate) fn option<T: bytemuck::AnyBitPattern>(descriptor: i32, level: i32, option: i32) -> io::Result<T> {
    let mut value = T::zeroed();
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, for which any bytes are a value.
    let result = unsafe { libc::getsockopt(descriptor, level, option, (&raw mut value).cast(), &mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Whether the text can be a device's name at all (`dev_valid_name`).
pub(crate) fn check_name(name: &str) -> Result<(), PortError> {
    let bad = name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || matches!(name, "." | "..")
        || name.bytes().any(|byte| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace());
    if bad { Err(PortError::BadName { device: name.to_owned() }) } else { Ok(()) }
}

/// An `ifreq` that names the device and is otherwise zero.
pub(crate) fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is plain old data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

impl Link {
    /// The device of that name in the namespace of the calling thread.
    pub(crate) fn open(name: &str, namespace: &str) -> Result<Self, PortError> {
        check_name(name)?;
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
            .map_err(|source| PortError::of(name, "opening a control socket", source))?;
        let link = Link { socket, name: name.to_owned() };
        link.index().map_err(|source| match source.raw_os_error() {
            Some(libc::ENODEV) => PortError::NoSuchDevice { device: name.to_owned(), namespace: namespace.to_owned() },
            _ => PortError::of(name, "looking up the interface", source),
        })?;
        Ok(link)
    }

    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every ioctl that this file makes takes an ifreq, which `request` is for as long as the call lasts.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), number as _, request as *mut libc::ifreq) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn index(&self) -> io::Result<i32> {
        let mut request = request(&self.name);
        self.ioctl(libc::SIOCGIFINDEX as _, &mut request)?;
        // SAFETY: SIOCGIFINDEX filled in the index.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    pub(crate) fn mtu(&self) -> io::Result<usize> {
        let mut request = request(&self.name);
        self.ioctl(libc::SIOCGIFMTU as _, &mut request)?;
        // SAFETY: SIOCGIFMTU filled in the MTU.
        Ok(usize::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
    }

    pub(crate) fn set_mtu(&self, mtu: usize) -> io::Result<()> {
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_mtu = i32::try_from(mtu).unwrap_or(i32::MAX);
        self.ioctl(libc::SIOCSIFMTU as _, &mut request)
    }

    pub(crate) fn set_mac(&self, mac: MacAddress) -> io::Result<()> {
        let mut request = request(&self.name);
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: Default::default() };
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        self.ioctl(libc::SIOCSIFHWADDR as _, &mut request)
    }

    /// The type of the device's link layer (`ARPHRD_*`).
    pub(crate) fn hardware(&self) -> io::Result<u16> {
        let mut request = request(&self.name);
        self.ioctl(libc::SIOCGIFHWADDR as _, &mut request)?;
        // SAFETY: SIOCGIFHWADDR filled in the address with its type.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family)
    }

    pub(crate) fn set_up(&self) -> io::Result<()> {
        let mut request = request(&self.name);
        self.ioctl(libc::SIOCGIFFLAGS as _, &mut request)?;
        // SAFETY: SIOCGIFFLAGS filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
        self.ioctl(libc::SIOCSIFFLAGS as _, &mut request)
    }

    /// An ethtool command on a structure of plain words.
    fn ethtool<const N: usize>(&self, words: &mut [u32; N]) -> io::Result<()> {
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        self.ioctl(SIOCETHTOOL, &mut request)
    }

    /// The driver's name: `veth`, `tun`, `virtio_net`, …; empty where the device does not say.
    pub(crate) fn driver(&self) -> String {
        // struct ethtool_drvinfo: the command, then the driver's name in 32 bytes; 196 bytes in all.
        let mut words = [0u32; 49];
        words[0] = ethtool::GDRVINFO;
        if self.ethtool(&mut words).is_err() {
            return String::new();
        }
        let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as char).collect()
    }

    /// Number of receive queues in use; 1 where the device does not say.
    pub(crate) fn receive_queues(&self) -> u32 {
        // struct ethtool_channels: command, four maxima, then receive, transmit, other and combined in use.
        let mut words = [0u32; 9];
        words[0] = ethtool::GCHANNELS;
        match self.ethtool(&mut words) {
            Ok(()) => (words[5] + words[8]).max(1),
            Err(_) => 1,
        }
    }

    /// Number of transmit queues in use; 1 where the device does not say.
    pub(crate) fn transmit_queues(&self) -> u32 {
        let mut words = [0u32; 9];
        words[0] = ethtool::GCHANNELS;
        match self.ethtool(&mut words) {
            Ok(()) => (words[6] + words[8]).max(1),
            Err(_) => 1,
        }
    }

    /// Switches off what rewrites or merges frames before XDP sees them: large receive offload and the stripping of
    /// VLAN tags; for generic XDP, which runs after it, GRO too. Answers what was on and what could not be changed.
    pub(crate) fn plain_receive(&self, generic: bool) -> (Restore, Vec<&'static str>) {
        let mut restore = Restore::default();
        let mut stubborn = Vec::new();
        let unwanted = ethtool::FLAG_RXVLAN | ethtool::FLAG_LRO;
        let mut flags = [ethtool::GFLAGS, 0];
        if self.ethtool(&mut flags).is_ok() && flags[1] & unwanted != 0 {
            let before = flags[1];
            match self.ethtool(&mut [ethtool::SFLAGS, before & !unwanted]) {
                Ok(()) => restore.flags = Some(before),
                Err(_) => stubborn.push("rx-vlan-offload or large-receive-offload"),
            }
        }
        let mut gro = [ethtool::GGRO, 0];
        if generic && self.ethtool(&mut gro).is_ok() && gro[1] != 0 {
            match self.ethtool(&mut [ethtool::SGRO, 0]) {
                Ok(()) => restore.gro = true,
                Err(_) => stubborn.push("generic-receive-offload"),
            }
        }
        (restore, stubborn)
    }

    /// Puts back what [`Link::plain_receive`] changed. Failing means that the device is gone.
    pub(crate) fn restore(&self, restore: Restore) {
        if let Some(flags) = restore.flags {
            let _ = self.ethtool(&mut [ethtool::SFLAGS, flags]);
        }
        if restore.gro {
            let _ = self.ethtool(&mut [ethtool::SGRO, 1]);
        }
    }
}

/// Offloads to switch on again when a port is closed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restore {
    flags: Option<u32>,
    gro: bool,
}

/// Reads a device's statistics over netlink (`RTM_GETLINK`), from wherever the caller is.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: OwnedFd,
    index: i32,
    last: std::cell::Cell<u64>,
}

impl Link {
    /// A socket to read the statistics with.
    pub(crate) fn watch(&self) -> io::Result<Watch> {
        let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        Ok(Watch { socket, index: self.index()?, last: std::cell::Cell::new(0) })
    }
}

impl Watch {
    /// Frames that the kernel wanted to send on the device and dropped; the last known number once the device is gone.
    pub(crate) fn transmit_dropped(&self) -> u64 {
        if let Some(dropped) = self.query() {
            self.last.set(dropped);
        }
        self.last.get()
    }

    fn query(&self) -> Option<u64> {
        const IFLA_STATS64: u16 = 23;
        const TX_DROPPED: usize = 7;
        // nlmsghdr (length, type, flags, sequence, process), then ifinfomsg (family, type, index, flags, change).
        let mut request = [0u8; 32];
        request[0..4].copy_from_slice(&32u32.to_ne_bytes());
        request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
        request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        request[20..24].copy_from_slice(&self.index.to_ne_bytes());
        // SAFETY: the pointer and length describe `request`, which the kernel only reads.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 {
            return None;
        }
        let mut answer = [0u8; 8192];
        // The kernel answers within the call to send.
        // SAFETY: the pointer and length describe `answer`, which the kernel writes to.
        let read = unsafe { libc::recv(self.socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        let mut rest = answer.get(32..usize::try_from(read).ok()?)?;
        while rest.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let kind = u16::from_ne_bytes([rest[2], rest[3]]);
            if length < 4 || length > rest.len() {
                return None;
            }
            if kind == IFLA_STATS64 {
                let at = 4 + TX_DROPPED * 8;
                return Some(u64::from_ne_bytes(rest.get(at..at + 8)?.try_into().ok()?));
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}
