//! What a port is made from: its kind, its device, where the device lives, and options.

use crate::address::MacAddress;
use crate::port::af_packet::{AfPacket, AfPacketOptions};
use crate::port::af_xdp::{self, AfXdp, AfXdpOptions, Umem};
use crate::port::netns::{self, NetworkNamespace};
use crate::port::pcap::{PcapOptions, PcapPort};
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
        self.open_sharing(None)
    }

    /// Opens the port; an AF_XDP port lives in the given memory and belongs to its pool, other kinds do not look at it.
    ///
    /// # Errors
    /// As [`PortSpec::open`].
    pub fn open_with(&self, umem: &Umem, pool: &mut Pool) -> Result<Opened, PortError> {
        self.open_sharing(Some((umem, pool)))
    }

    fn open_sharing(&self, shared: Option<(&Umem, &mut Pool)>) -> Result<Opened, PortError> {
        let namespace = self.open_namespace()?;
        let place = namespace.as_ref().map_or("this network namespace", NetworkNamespace::name);
        netns::within(namespace.as_ref(), &self.device, || {
            let mut warnings = Vec::new();
            let port: Box<dyn Port> = match self.kind {
                PortKind::AfPacket => Box::new(AfPacket::open(&self.device, place, self.options.af_packet)?),
                PortKind::AfXdp => {
                    let (port, told) = AfXdp::open(&self.device, place, self.options.af_xdp, shared)?;
                    warnings = told;
                    Box::new(port)
                }
                PortKind::Tap => Box::new(Tap::open_tap(&self.device, self.options.tap)?),
                PortKind::Tun => Box::new(Tap::open_tun(&self.device, self.options.tap)?),
                PortKind::Pcap => Box::new(PcapPort::open(&self.device, &self.options.pcap)?),
                PortKind::Memory => return Err(self.no_device()),
            };
            Ok(Opened { port, warnings })
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

/// Opens both ports of a wire with a pool of `frames` chunks that suits them, and limits each to what both can carry. Two
/// AF_XDP ports share a UMEM, of [`LEAST_SHARED`] chunks at least. Nothing is left open when one of them fails.
///
/// # Errors
/// [`PortError`], of the port that cannot be opened, or because the two do not fit each other.
pub fn open_pair(inside: &PortSpec, outside: &PortSpec, frames: usize) -> Result<OpenedPair, PortError> {
    let (first, second, pool) = if (inside.kind, outside.kind) == (PortKind::AfXdp, PortKind::AfXdp) {
        let (umem, mut pool) = inside.open_umem(frames.max(LEAST_SHARED))?;
        (inside.open_with(&umem, &mut pool)?, outside.open_with(&umem, &mut pool)?, pool)
    } else {
        (inside.open()?, outside.open()?, Pool::new(frames, Pool::SUPER_FRAME))
    };
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
