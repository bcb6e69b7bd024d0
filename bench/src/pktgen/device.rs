//! What a generator asks of an interface, and the thread that it runs on.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::resume_unwind;
use std::ptr;

use dataplane::address::MacAddress;
use dataplane::port::PortError;
use dataplane::port::netns::{self, NetworkNamespace};
use rustix::thread::CpuSet;

use super::error::Error;

/// An interface of the calling thread's namespace.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) mac: MacAddress,
    /// The addresses that the kernel has on it.
    pub(super) addresses: Vec<IpAddr>,
}

impl Device {
    pub(super) fn find(name: &str) -> Result<Self, Error> {
        let (mut index, mut mac, mut addresses) = (0, MacAddress::default(), Vec::new());
        let mut list = ptr::null_mut();
        // SAFETY: getifaddrs fills in a list that is ours until freeifaddrs, to which it goes below.
        if unsafe { libc::getifaddrs(&mut list) } != 0 {
            return Err(Error::system(name, "listing the interfaces", io::Error::last_os_error()));
        }
        let mut next = list;
        while !next.is_null() {
            // SAFETY: the entry and its name are valid until freeifaddrs; an address, where there is one, is as long as its
            // family says.
            unsafe {
                let entry = &*next;
                next = entry.ifa_next;
                if CStr::from_ptr(entry.ifa_name).to_bytes() != name.as_bytes() || entry.ifa_addr.is_null() {
                    continue;
                }
                match i32::from((*entry.ifa_addr).sa_family) {
                    libc::AF_PACKET => {
                        let address = ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_ll>());
                        index = address.sll_ifindex as u32;
                        mac.0.copy_from_slice(&address.sll_addr[..6]);
                    }
                    libc::AF_INET => {
                        let address = ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in>());
                        addresses.push(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into());
                    }
                    libc::AF_INET6 => {
                        let address = ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in6>());
                        addresses.push(Ipv6Addr::from(address.sin6_addr.s6_addr).into());
                    }
                    _ => {}
                }
            }
        }
        // SAFETY: the list came from getifaddrs, and nothing of it is used any more.
        unsafe { libc::freeifaddrs(list) };
        if index == 0 {
            let namespace = NetworkNamespace::current().map_or_else(|_| String::new(), |here| here.name().to_owned());
            return Err(PortError::NoSuchDevice { device: name.to_owned(), namespace }.into());
        }
        Ok(Device { index, mac, addresses })
    }
}

/// Frames that an interface of the calling thread's namespace took and did not take for sending, since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transmitted {
    pub(super) dropped: u64,
}

impl Transmitted {
    /// From `/proc/net/dev`, which is the calling thread's; zeros when it can't be read.
    pub(super) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let line = text.lines().filter_map(|line| line.split_once(':')).find(|(device, _)| device.trim() == name);
        // Eight columns of receiving, then bytes, packets, errors, dropped of sending.
        let dropped = line.and_then(|(_, columns)| columns.split_whitespace().nth(11));
        Transmitted { dropped: dropped.and_then(|text| text.parse().ok()).unwrap_or(0) }
    }
}

/// Runs `f` on a thread of its own, in the namespace if one is named.
pub(super) fn within<T: Send>(
    namespace: Option<&str>,
    interface: &str,
    f: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let Some(namespace) = namespace else {
        return std::thread::scope(|scope| scope.spawn(f).join().unwrap_or_else(|payload| resume_unwind(payload)));
    };
    netns::enter(&NetworkNamespace::open(namespace)?, f)
        .map_err(|source| Error::system(interface, "entering the network namespace", source))?
}

/// Pins the calling thread to a CPU.
pub(super) fn pin(cpu: usize) -> Result<(), Error> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Error::input(format!("there is no CPU {cpu}")));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|_| {
        Error::input(format!(
            "the generator cannot be pinned to CPU {cpu}; `nproc` and `taskset -p $$` show which there are"
        ))
    })
}

/// What the calling thread has used so far: user, system.
pub(super) fn thread_times() -> (std::time::Duration, std::time::Duration) {
    // SAFETY: a rusage is plain old data, which the kernel fills in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let duration = |time: libc::timeval| {
        std::time::Duration::from_secs(time.tv_sec as u64) + std::time::Duration::from_micros(time.tv_usec as u64)
    };
    (duration(usage.ru_utime), duration(usage.ru_stime))
}

/// Nanoseconds of CLOCK_MONOTONIC: the clock of stamps, and of `bpf_ktime_get_ns`.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
