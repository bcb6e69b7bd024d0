//! A port of the engine with which a generator or a receiver talks to the network: it sends, receives, asks for neighbours and
//! answers for its own addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::address::MacAddress;
use dataplane::frame::{Burst, Frame};
use dataplane::port::af_packet::{AfPacket, AfPacketOptions};
use dataplane::port::af_xdp;
use dataplane::port::{Pool, Port, PortKind, PortSpec};
use dataplane::rules::AddressSet;
use dataplane::time::Time;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::device::{self, Device};
use super::error::Error;
use super::neighbour;
use super::spec::PortChoice;

/// Chunks of a station: the most frames on their way.
const CHUNKS: u32 = 4096;
const CHUNK: usize = 4096;

/// How long one question may wait for its answer, and how many there are.
const PATIENCE: Duration = Duration::from_secs(1);
const QUESTIONS: u64 = 3;

/// A port, its memory, and whom it answers for.
pub(super) struct Station {
    port: Box<dyn Port>,
    pub(super) pool: Pool,
    pub(super) device: Device,
    interface: String,
    received: Burst,
    ours: AddressSet,
}

impl Station {
    /// Opens a port in the calling thread's namespace. It answers for `ours` beside what the kernel answers for.
    pub(super) fn open(port: PortChoice, interface: &str, ours: AddressSet) -> Result<Self, Error> {
        let device = Device::find(interface)?;
        let place = "this network namespace";
        let (port, pool): (Box<dyn Port>, Pool) = match port {
            PortChoice::AfXdp => {
                let (umem, mut pool) = af_xdp::umem(CHUNKS, CHUNK)?;
                (PortSpec::new(PortKind::AfXdp, interface).open_with(&umem, &mut pool)?.port, pool)
            }
            PortChoice::AfPacket | PortChoice::LiveFrames => {
                let port = AfPacket::open(interface, place, AfPacketOptions::default())?;
                (Box::new(port), Pool::new(CHUNKS as usize, CHUNK))
            }
        };
        Ok(Station { port, pool, device, interface: interface.to_owned(), received: Burst::new(), ours })
    }

    fn fail(&self, action: &'static str) -> impl Fn(std::io::Error) -> Error + use<> {
        let interface = self.interface.clone();
        move |source| Error::system(&interface, action, source)
    }

    /// Gives frames to the device, in order; those that it has no room for stay in the burst.
    pub(super) fn send(&mut self, burst: &mut Burst, now: u64) -> Result<(), Error> {
        self.port.send(&mut self.pool, burst, Time(now)).map_err(self.fail("sending"))
    }

    /// Sends one frame, or does not: nothing of what is sent so may not be lost.
    fn send_one(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(frame) = self.pool.frame(bytes) else { return Ok(()) };
        let mut burst = Burst::new();
        burst.push(frame);
        self.send(&mut burst, device::now())?;
        burst.drain(..).for_each(|frame| self.pool.release(frame));
        Ok(())
    }

    /// Takes a burst of frames, answers what asks for our addresses, and shows the others. Answers how many there were.
    pub(super) fn receive(&mut self, mut see: impl FnMut(&Frame)) -> Result<usize, Error> {
        let mut received = std::mem::take(&mut self.received);
        let result = self.port.receive(&mut self.pool, &mut received, Time(device::now()));
        let mut answers = Vec::new();
        for frame in &received {
            match neighbour::answer(frame.bytes(), &self.ours, self.device.mac) {
                Some(answer) => answers.push(answer),
                None => see(frame),
            }
        }
        let count = received.len();
        received.drain(..).for_each(|frame| self.pool.release(frame));
        self.received = received;
        result.map_err(self.fail("receiving"))?;
        for answer in answers {
            self.send_one(&answer)?;
        }
        Ok(count)
    }

    /// Waits until there may be frames, at most this long.
    pub(super) fn wait(&self, time: Duration) {
        let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        match self.port.descriptor() {
            // Interrupted, it looks again sooner.
            Some(descriptor) => {
                let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&limit));
            }
            None => std::thread::sleep(time.min(Duration::from_millis(1))),
        }
    }

    /// Asks for a neighbour's MAC address. `source` is whom to say that asks, when the interface has no address of that
    /// version.
    pub(super) fn resolve(&mut self, target: IpAddr, source: IpAddr) -> Result<MacAddress, Error> {
        let of_target = |address: &&IpAddr| address.is_ipv6() == target.is_ipv6();
        let source = self.device.addresses.iter().find(of_target).copied().unwrap_or(source);
        let question = neighbour::question(target, source, self.device.mac).ok_or_else(|| {
            Error::input(format!(
                "{target} is not of the IP version of the flows; name a gateway of theirs with --gateway"
            ))
        })?;
        for _ in 0..QUESTIONS {
            self.send_one(&question)?;
            let asked = Instant::now();
            while asked.elapsed() < PATIENCE {
                let mut found = None;
                self.receive(|frame| found = found.or_else(|| neighbour::told(frame.bytes(), target)))?;
                if let Some(mac) = found {
                    return Ok(mac);
                }
                self.wait(Duration::from_millis(20));
            }
        }
        Err(Error::NoNeighbour {
            address: target,
            question: if target.is_ipv6() { "neighbour discovery" } else { "ARP" },
            interface: self.interface.clone(),
            seconds: QUESTIONS * PATIENCE.as_secs(),
        })
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.port.close(&mut self.pool);
    }
}

/// A thread that answers for addresses on an interface, beside an XDP program that lets their questions pass.
pub(super) struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts answering. Opening the socket is done when this returns.
    pub(super) fn start(namespace: Option<&str>, interface: &str, ours: AddressSet) -> Result<Self, Error> {
        let mut station =
            device::within(namespace, interface, || Station::open(PortChoice::AfPacket, interface, ours))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("responder".into()).spawn(move || {
            // An interface that went away ends it, and the run that it served tells why.
            while !stopped.load(Ordering::Relaxed) && station.receive(|_| ()).is_ok() {
                station.wait(Duration::from_millis(50));
            }
        });
        let thread = thread.map_err(|source| Error::system(interface, "starting a thread", source))?;
        Ok(Responder { stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
