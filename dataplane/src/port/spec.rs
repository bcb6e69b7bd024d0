//! What a port is made from: its kind, its device, where the device lives, and options.

use crate::address::MacAddress;
use crate::port::af_packet::{AfPacket, AfPacketOptions};
use crate::port::af_xdp::{self, AfXdp, AfXdpOptions, Shared, Umem};
use crate::port::link::Link;
use crate::port::netns::{self, NetworkNamespace};
use crate::port::pcap::{PcapOptions, PcapPort};
use crate::port::queues::Queues;
use crate::port::tap::{Tap, TapOptions};
use crate::port::{Pool, Port, PortError, PortKind};

/// Chunks that a pair of AF_XDP ports needs: each lends a quarter of them to the kernel to receive into, and the rest are in
/// frames and on their way out.
pub const LEAST_SHARED: usize = 1024;

/// Bytes of a shared UMEM's chunk: any MTU that XDP takes.
const XDP_CHUNK: usize = 4096;

/// A port to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The kind.
    pub kind: PortKind,
    /// The device's name.
    pub device: String,
    /// The network namespace that the device lives in, or is made in: a name, a path or a process number
    /// ([`NetworkNamespace::open`]). `None` is the caller's own.
    pub namespace: Option<String>,
    /// Options, each for some kinds.
    pub options: PortOptions,
}

/// Options of a port. What a kind does not know is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// AF_PACKET.
    pub af_packet: AfPacketOptions,
    /// AF_XDP.
    pub af_xdp: AfXdpOptions,
    /// TAP and TUN.
    pub tap: TapOptions,
    /// Capture files; the device's name is for people only.
    pub pcap: PcapOptions,
}

/// The ports of a device's queues, and what the person who asked for them should know.
type Dealt = (Vec<Box<dyn Port>>, Vec<String>);

/// A port that was opened.
pub struct Opened {
    /// The port.
    pub port: Box<dyn Port>,
    /// What the person who asked for it should know, a sentence each.
    pub warnings: Vec<String>,
}

/// The two ports of a wire, limited to what both can carry, and the memory that they share.
pub struct OpenedPair {
    /// The inside port.
    pub inside: Box<dyn Port>,
    /// The outside port.
    pub outside: Box<dyn Port>,
    /// The pool of both.
    pub pool: Pool,
    /// What the person who asked for it should know, a sentence each.
    pub warnings: Vec<String>,
}

impl PortSpec {
    /// A port of this kind on this device, in the caller's namespace, with default options.
    pub fn new(kind: PortKind, device: impl Into<String>) -> Self {
        PortSpec { kind, device: device.into(), namespace: None, options: PortOptions::default() }
    }

    /// The same in another namespace: a name, a path or a process number.
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The same with this MTU, where the port makes its device.
    pub fn with_mtu(mut self, mtu: usize) -> Self {
        self.options.tap.mtu = mtu;
        self
    }

    /// The same with this MAC address, where the port makes its device.
    pub fn with_mac(mut self, mac: MacAddress) -> Self {
        self.options.tap.mac = Some(mac);
        self
    }

    /// The same with this queue of the device, where the port reads one queue.
    pub fn with_queue(mut self, queue: u32) -> Self {
        self.options.af_xdp.queue = Some(queue);
        self
    }

    fn open_namespace(&self) -> Result<Option<NetworkNamespace>, PortError> {
        self.namespace.as_deref().map(NetworkNamespace::open).transpose()
    }

    /// Opens the port, for a pool of the caller's.
    ///
    /// # Errors
    /// [`PortError`], with the remedy.
    pub fn open(&self) -> Result<Opened, PortError> {
        let (ports, warnings) = self.open_dealt(&mut [])?;
        one_port(ports, warnings, &self.device)
    }

    /// Opens the port; an AF_XDP port lives in the given memory and belongs to its pool, other kinds do not look at it.
    ///
    /// # Errors
    /// As [`PortSpec::open`].
    pub fn open_with(&self, umem: &Umem, pool: &mut Pool) -> Result<Opened, PortError> {
        let (ports, warnings) = self.open_dealt(&mut [(umem, pool)])?;
        one_port(ports, warnings, &self.device)
    }

    /// The ports of the device's queues, in the order in which they are dealt out to the memories; of a kind without queues, one.
    fn open_dealt(&self, shared: &mut [Shared<'_>]) -> Result<Dealt, PortError> {
        let namespace = self.open_namespace()?;
        let place = namespace.as_ref().map_or("this network namespace", NetworkNamespace::name);
        netns::within(namespace.as_ref(), &self.device, || {
            let port: Box<dyn Port> = match self.kind {
                PortKind::AfPacket => Box::new(AfPacket::open(&self.device, place, self.options.af_packet)?),
                PortKind::AfXdp => {
                    let (ports, told) = AfXdp::open(&self.device, place, self.options.af_xdp, shared)?;
                    return Ok((ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect(), told));
                }
                PortKind::Tap => Box::new(Tap::open_tap(&self.device, self.options.tap)?),
                PortKind::Tun => Box::new(Tap::open_tun(&self.device, self.options.tap)?),
                PortKind::Pcap => Box::new(PcapPort::open(&self.device, &self.options.pcap)?),
                PortKind::Memory => return Err(self.no_device()),
            };
            Ok((vec![port], Vec::new()))
        })
    }

    /// How many lanes the device's queues are enough for, and the most queues that one of so many lanes has to read.
    fn queues(&self) -> Result<(usize, usize), PortError> {
        if self.options.af_xdp.queue.is_some() {
            return Ok((1, 1));
        }
        netns::within(self.open_namespace()?.as_ref(), &self.device, || {
            let link = Link::open(&self.device, self.namespace.as_deref().unwrap_or("this network namespace"))?;
            let receive = link.receive_queues() as usize;
            // A lane sends by the queue of its own number.
            Ok((receive.min(link.transmit_queues() as usize), receive))
        })
    }

    /// The memory of a wire whose first port this is.
    fn open_umem(&self, frames: usize) -> Result<(Umem, Pool), PortError> {
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        netns::within(self.open_namespace()?.as_ref(), &self.device, || af_xdp::umem(frames, XDP_CHUNK))
    }

    fn no_device(&self) -> PortError {
        PortError::Unsupported {
            device: self.device.clone(),
            kind: self.kind.name(),
            reason: "a port of this kind is made in memory by the program".to_owned(),
            remedy: "choose af_packet, af_xdp, tap, tun or pcap",
        }
    }
}

/// All that was opened of a device and goes to one worker, as one port.
fn one_port(mut ports: Vec<Box<dyn Port>>, warnings: Vec<String>, device: &str) -> Result<Opened, PortError> {
    let only = if ports.len() == 1 { ports.pop() } else { None };
    let port = match only {
        Some(port) => port,
        None => Box::new(Queues::new(ports).map_err(|source| PortError::of(device, "watching its queues", source))?),
    };
    Ok(Opened { port, warnings })
}

/// Opens both ports of a wire with a pool of `frames` chunks that suits them, and limits each to what both can carry. Two
/// AF_XDP ports share a UMEM, of [`LEAST_SHARED`] chunks for each queue at least. Nothing is left open when one of them fails.
///
/// # Errors
/// [`PortError`], of the port that cannot be opened, or because the two do not fit each other.
pub fn open_pair(inside: &PortSpec, outside: &PortSpec, frames: usize) -> Result<OpenedPair, PortError> {
    if (inside.kind, outside.kind) == (PortKind::AfXdp, PortKind::AfXdp)
        && let Some(pair) = open_lanes(inside, outside, frames, 1)?.pop()
    {
        return Ok(pair);
    }
    let (first, second) = (inside.open()?, outside.open()?);
    join(inside, outside, first, second, Pool::new(frames, Pool::SUPER_FRAME))
}

/// Opens a wire for several workers: a pair of ports with a pool for each of its lanes. There are as many lanes as workers, if both
/// devices have as many queues in both directions; a lane with more than one queue of a device reads them in turn. Otherwise as
/// [`open_pair`]: a wire whose ports are not both AF_XDP has one lane.
///
/// # Errors
/// As [`open_pair`].
pub fn open_lanes(
    inside: &PortSpec,
    outside: &PortSpec,
    frames: usize,
    workers: usize,
) -> Result<Vec<OpenedPair>, PortError> {
    if (inside.kind, outside.kind) != (PortKind::AfXdp, PortKind::AfXdp) {
        return Ok(vec![open_pair(inside, outside, frames)?]);
    }
    let (own, other) = (inside.queues()?, outside.queues()?);
    let lanes = workers.min(own.0).min(other.0).max(1);
    let queues = own.1.max(other.1).div_ceil(lanes);
    // Of several lanes each has frames away, beside those that its devices have.
    let chunks = frames.max(LEAST_SHARED) * queues * if lanes > 1 { 2 } else { 1 };
    let mut memories = (0..lanes).map(|_| inside.open_umem(chunks)).collect::<Result<Vec<_>, _>>()?;
    let mut deal = |spec: &PortSpec| -> Result<Vec<Opened>, PortError> {
        let mut shared: Vec<Shared<'_>> = memories.iter_mut().map(|(umem, pool)| (&*umem, pool)).collect();
        let (ports, warnings) = spec.open_dealt(&mut shared)?;
        let mut hands: Vec<Vec<Box<dyn Port>>> = (0..lanes).map(|_| Vec::new()).collect();
        for (number, port) in ports.into_iter().enumerate() {
            hands[number % lanes].push(port);
        }
        let mut warnings = vec![warnings].into_iter();
        hands.into_iter().map(|hand| one_port(hand, warnings.next().unwrap_or_default(), &spec.device)).collect()
    };
    let (firsts, seconds) = (deal(inside)?, deal(outside)?);
    let pools = memories.into_iter().map(|(_, pool)| pool);
    (firsts.into_iter().zip(seconds).zip(pools))
        .map(|((first, second), pool)| join(inside, outside, first, second, pool))
        .collect()
}

/// A wire of two ports that were opened elsewhere ([`AfPacket::adopt`]), with a pool of `frames` chunks.
pub fn pair_of(inside: AfPacket, outside: AfPacket, frames: usize) -> OpenedPair {
    OpenedPair {
        inside: Box::new(inside),
        outside: Box::new(outside),
        pool: Pool::new(frames, Pool::SUPER_FRAME),
        warnings: Vec::new(),
    }
}

/// Joins the ports of a wire, or of one of its lanes.
fn join(
    inside: &PortSpec,
    outside: &PortSpec,
    first: Opened,
    second: Opened,
    pool: Pool,
) -> Result<OpenedPair, PortError> {
    let mut pair = OpenedPair {
        inside: first.port,
        outside: second.port,
        pool,
        warnings: [first.warnings, second.warnings].concat(),
    };
    let (one, other) = (pair.inside.capabilities(), pair.outside.capabilities());
    if one.ethernet != other.ethernet {
        return Err(PortError::Mismatch {
            inside: inside.device.clone(),
            outside: outside.device.clone(),
            reason: "one carries Ethernet frames and the other IP packets; a tun port fits another tun port only",
        });
    }
    let both = one.intersect(other);
    for port in [&mut pair.inside, &mut pair.outside] {
        let device = port.name().to_owned();
        port.limit(both).map_err(|source| PortError::of(&device, "limiting the offloads", source))?;
    }
    Ok(pair)
}
