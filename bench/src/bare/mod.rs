//! Bare loops: what moves frames between two devices and does nothing else. They are the ceilings of this machine, which no
//! filter in userspace can pass, so they are written to be as fast as the interface lets them be: rings used in place, one
//! system call a burst, buffers that stay warm, nothing looked at but lengths.
//!
//! A loop runs on the thread that calls [`run`], pinned to a CPU, until it is told to stop. It spins while frames come and
//! sleeps in the kernel once both devices are dry, as a worker of Penstock does.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use dataplane::port::netns::{NetworkNamespace, enter};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

mod af_packet;
mod af_xdp;
mod bpf;
mod tap;

/// Rounds that find nothing before the loop sleeps.
const IDLE_ROUNDS: u32 = 4;

/// How long a sleep lasts at most, so that a loop notices that it should stop.
const SLEEP: Duration = Duration::from_millis(50);

/// How a loop reaches its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// Two AF_XDP sockets in copy mode over one UMEM: a frame is forwarded by moving its descriptor.
    AfXdp,
    /// Two AF_PACKET sockets with `PACKET_VNET_HDR`: super-frames cross whole.
    AfPacket,
    /// Two TAP devices, which the loop makes, with a virtio header and all offloads.
    Tap,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::AfXdp => "af_xdp",
            Kind::AfPacket => "af_packet",
            Kind::Tap => "tap",
        })
    }
}

/// A device and where it lives, or is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The network namespace (name, path or process number); `None` for the caller's own.
    pub namespace: Option<String>,
    /// The device's name.
    pub device: String,
}

impl End {
    /// A device in a namespace.
    pub fn new(namespace: impl Into<String>, device: impl Into<String>) -> Self {
        End { namespace: Some(namespace.into()), device: device.into() }
    }

    /// Runs `f` where the device lives.
    fn within<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(namespace) = &self.namespace else { return f() };
        let namespace = NetworkNamespace::open(namespace)?;
        enter(&namespace, f).with_context(|| format!("entering the network namespace {}", namespace.name()))?
    }

    /// The device's index in its namespace.
    fn index(&self) -> Result<u32> {
        let index = rustix::net::netdevice::name_to_index(socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?, &self.device);
        index.with_context(|| format!("there is no device {}", self.device))
    }
}

/// What a loop moved, by direction: inside to outside, outside to inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that were given to the other device.
    pub frames: [u64; 2],
    /// Their bytes, Ethernet headers included.
    pub bytes: [u64; 2],
    /// Frames that the other device had no room for.
    pub dropped: [u64; 2],
    /// CPU time of the loop's thread, softirqs that ran on its back included.
    pub cpu: Duration,
}

/// Two devices, opened, and the way between them.
pub trait Bare {
    /// Moves at most one burst each way. Answers how many frames came.
    fn round(&mut self, counters: &mut Counters) -> usize;

    /// What becomes readable when frames come.
    fn descriptors(&self) -> [BorrowedFd<'_>; 2];
}

/// Opens both ends of a loop.
///
/// # Errors
/// When a device is not there, or the kernel refuses a socket.
pub fn open(kind: Kind, inside: &End, outside: &End) -> Result<Box<dyn Bare>> {
    let ends = [inside, outside];
    Ok(match kind {
        Kind::AfXdp => Box::new(af_xdp::Sockets::open(ends)?),
        Kind::AfPacket => Box::new(af_packet::Sockets::open(ends)?),
        Kind::Tap => Box::new(tap::Taps::open(ends)?),
    })
}

/// Moves frames between two devices until `stop` is set. `ready` is called once frames can come.
///
/// # Errors
/// As [`open`], and when the CPU does not exist.
pub fn run(
    kind: Kind,
    inside: &End,
    outside: &End,
    cpu: Option<usize>,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> Result<Counters> {
    pin(cpu)?;
    let mut bare = open(kind, inside, outside)?;
    ready();
    let before = thread_time();
    let mut counters = Counters::default();
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) {
        idle = if bare.round(&mut counters) > 0 { 0 } else { idle + 1 };
        if idle > IDLE_ROUNDS {
            sleep(bare.descriptors());
        }
    }
    counters.cpu = thread_time() - before;
    Ok(counters)
}

fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("pinning the loop to CPU {cpu}"))
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Sleeps until one of the descriptors is readable.
fn sleep(descriptors: [BorrowedFd<'_>; 2]) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(SLEEP.subsec_nanos()) };
    // Interrupted by a signal: the loop looks again.
    let _interrupted = poll(&mut polled, Some(&timeout));
}

/// Makes a socket, close-on-exec and non-blocking.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    af_packet::socket(family, kind, protocol).context("making a socket")
}
