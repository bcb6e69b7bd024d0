//! What traffic to make: plain data, so that it can be written to a file, handed to another process, and kept in a report.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::address::MacAddress;
use serde::{Deserialize, Serialize};

/// What one generator sends. It runs in one thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// How frames get to the device.
    pub port: PortChoice,
    /// The interface that frames leave by.
    pub interface: String,
    /// The network namespace of the interface: a name, a path or a process number. `None` is the caller's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The CPU that the generator is pinned to. `None` leaves it to the scheduler.
    #[serde(default)]
    pub cpu: Option<usize>,
    /// Where frames go on the Ethernet. `None` asks for it by ARP or neighbour discovery.
    #[serde(default, with = "mac_text")]
    pub destination_mac: Option<MacAddress>,
    /// The next hop, whose MAC address is asked for. `None` is the first flow's destination itself.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// What frames say they come from on the Ethernet. `None` is the interface's own address.
    #[serde(default, with = "mac_text")]
    pub source_mac: Option<MacAddress>,
    /// What the frames are.
    pub frames: FrameShape,
    /// Which flows they belong to.
    pub flows: Flows,
    /// How fast.
    pub rate: Rate,
    /// For how long.
    pub limit: Limit,
}

/// How frames get to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortChoice {
    /// An XDP program that the kernel runs on frames of its own (`BPF_PROG_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18):
    /// the fastest into a veth, whose peer needs an XDP program or GRO. Sends only.
    LiveFrames,
    /// An AF_XDP socket.
    AfXdp,
    /// An AF_PACKET socket: works with every device.
    AfPacket,
}

impl PortChoice {
    /// The name that people type.
    pub fn name(self) -> &'static str {
        match self {
            PortChoice::LiveFrames => "live-frames",
            PortChoice::AfXdp => "af-xdp",
            PortChoice::AfPacket => "af-packet",
        }
    }
}

/// The transport protocol of generated frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP with the SYN flag alone: each frame asks for a connection.
    TcpSyn,
    /// TCP with the ACK flag alone, as in the middle of a connection.
    TcpAck,
}

/// What every frame is, beside its flow. Sizes are in bytes from the Ethernet header to the payload's end, without the frame
/// check sequence: what RFC 2544 calls 64 is 60 here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameShape {
    /// The transport protocol.
    pub transport: Transport,
    /// The sizes, sent in turn. One that cannot hold headers and stamp is raised to what does
    /// ([`super::frame::Layout::least`]).
    pub sizes: Vec<u16>,
    /// Whether the payload starts with a [`super::frame::Stamp`], by which a sink counts loss, reordering and latency.
    pub stamp: bool,
}

impl FrameShape {
    /// The simple IMIX: seven frames of 40, four of 576 and one of 1,500 bytes of IP, spread evenly.
    pub const IMIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 60, 590];

    /// Stamped UDP of one size.
    pub fn udp(size: u16) -> Self {
        FrameShape { transport: Transport::Udp, sizes: vec![size], stamp: true }
    }
}

/// Which flows frames belong to.
///
/// The *space* is every pair with every source port, numbered: flow `f` is pair `f % pairs` with source port
/// `first + f / pairs`. Frames are of `active` flows of it, which start at `first`, and with `new_per_second` wander on through
/// the space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flows {
    /// The pairs, all of one IP version.
    pub pairs: Pairs,
    /// The source ports, first and last.
    pub source_ports: (u16, u16),
    /// How many flows are sent at a time, 1 to 2³² - 1. As many as the space holds and [`Order::Sequential`] make each frame a
    /// new flow until all were sent once.
    pub active: u32,
    /// The number of the first flow: another one in each round of a measurement makes its flows new again.
    #[serde(default)]
    pub first: u64,
    /// In which order.
    pub order: Order,
    /// The seed of random orders.
    #[serde(default)]
    pub seed: u64,
    /// How many flows a second take the place of the oldest.
    #[serde(default)]
    pub new_per_second: Option<u32>,
    /// Groups of flows with a sequence of their own, a power of two of at most 65,536: reordering is counted inside a group.
    /// `None` is a group a flow, as far as that goes.
    #[serde(default)]
    pub groups: Option<u32>,
    /// Whether source and destination change places, ports too: the answers to the same flows. MAC addresses stay.
    #[serde(default)]
    pub reversed: bool,
}

impl Flows {
    /// `active` flows from one source to one destination address, in turn.
    pub fn between(source: IpAddr, destination: IpAddr, destination_port: u16, active: u32) -> Self {
        Flows {
            pairs: Pairs::List(vec![Pair { source, destination, destination_port }]),
            source_ports: (1024, u16::MAX),
            active,
            first: 0,
            order: Order::Sequential,
            seed: 1,
            new_per_second: None,
            groups: None,
            reversed: false,
        }
    }
}

/// Who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pairs {
    /// These, in this order.
    List(Vec<Pair>),
    /// Each of `sources` addresses from `source` on with each of `destinations` from `destination` on and each port from
    /// `destination_port` on.
    Ranges {
        /// The first source.
        source: IpAddr,
        /// How many.
        sources: u32,
        /// The first destination.
        destination: IpAddr,
        /// How many.
        destinations: u32,
        /// The first destination port.
        destination_port: u16,
        /// How many.
        destination_ports: u16,
    },
}

/// One source, one destination, one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Who sends.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// To which port.
    pub destination_port: u16,
}

/// In which order flows come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// One after the other, again and again.
    Sequential,
    /// Each frame's flow is drawn evenly.
    Uniform,
    /// Drawn by Zipf's law: flow `k` as often as `1 / (k + 1)^exponent` says. A list of 2²⁰ draws is repeated.
    Zipf {
        /// The exponent, above 0; 1 is typical of traffic.
        exponent: f64,
    },
}

/// How fast frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rate {
    /// As fast as it goes.
    FlatOut,
    /// Frames a second. Send times are fixed at the start: a generator that was held up sends what is due at once, so that no
    /// delay is left out of what is measured.
    FramesPerSecond(f64),
    /// Bits a second of whole frames as [`FrameShape`] counts them.
    BitsPerSecond(f64),
}

/// When the generator ends by itself: at what comes first. With neither it goes on until it is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// After this time.
    #[serde(default)]
    pub duration: Option<Duration>,
    /// After this many frames.
    #[serde(default)]
    pub frames: Option<u64>,
}

impl Limit {
    /// After this time.
    pub fn duration(duration: Duration) -> Self {
        Limit { duration: Some(duration), frames: None }
    }

    /// After this many frames.
    pub fn frames(frames: u64) -> Self {
        Limit { duration: None, frames: Some(frames) }
    }
}

/// MAC addresses as text.
mod mac_text {
    use dataplane::address::MacAddress;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(mac: &Option<MacAddress>, serializer: S) -> Result<S::Ok, S::Error> {
        match mac {
            Some(mac) => serializer.collect_str(mac),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MacAddress>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}
