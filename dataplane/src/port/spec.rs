//! What a port is made from: its kind, its device, where the device lives, and options.

use crate::address::MacAddress;
use crate::port::af_packet::{AfPacket, AfPacketOptions};
use crate::port::netns::{self, NetworkNamespace};
use crate::port::tap::{Tap, TapOptions};
use crate::port::{Pool, Port, PortError, PortKind};

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
    /// TAP and TUN.
    pub tap: TapOptions,
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

    fn open_namespace(&self) -> Result<Option<NetworkNamespace>, PortError> {
        self.namespace.as_deref().map(NetworkNamespace::open).transpose()
    }

    /// Opens the port, for a pool of the caller's.
    ///
    /// # Errors
    /// [`PortError`], with the remedy.
    pub fn open(&self) -> Result<Opened, PortError> {
        let namespace = self.open_namespace()?;
        let place = namespace.as_ref().map_or("this network namespace", NetworkNamespace::name);
        netns::within(namespace.as_ref(), &self.device, || {
            let port: Box<dyn Port> = match self.kind {
                PortKind::AfPacket => Box::new(AfPacket::open(&self.device, place, self.options.af_packet)?),
                PortKind::Tap => Box::new(Tap::open_tap(&self.device, self.options.tap)?),
                PortKind::Tun => Box::new(Tap::open_tun(&self.device, self.options.tap)?),
                _ => return Err(self.no_device()),
            };
            Ok(Opened { port, warnings: Vec::new() })
        })
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

/// Opens both ports of a wire with a pool of `frames` chunks that suits them, and limits each to what both can carry.
/// Nothing is left open when one of them fails.
///
/// # Errors
/// [`PortError`], of the port that cannot be opened, or because the two do not fit each other.
pub fn open_pair(inside: &PortSpec, outside: &PortSpec, frames: usize) -> Result<OpenedPair, PortError> {
    let mut warnings = Vec::new();
    let pool = Pool::new(frames, Pool::SUPER_FRAME);
    let mut open = |spec: &PortSpec| {
        let opened = spec.open()?;
        warnings.extend(opened.warnings);
        Ok(opened.port)
    };
    let (mut inside_port, mut outside_port) = (open(inside)?, open(outside)?);
    let (one, other) = (inside_port.capabilities(), outside_port.capabilities());
    if one.ethernet != other.ethernet {
        return Err(PortError::Mismatch {
            inside: inside.device.clone(),
            outside: outside.device.clone(),
            reason: "one carries Ethernet frames and the other IP packets; a tun port fits another tun port only",
        });
    }
    let both = one.intersect(other);
    for port in [&mut inside_port, &mut outside_port] {
        let device = port.name().to_owned();
        port.limit(both).map_err(|source| PortError::of(&device, "limiting the offloads", source))?;
    }
    Ok(OpenedPair { inside: inside_port, outside: outside_port, pool, warnings })
}
