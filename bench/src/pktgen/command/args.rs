//! The flags of the commands, and the specs that they make.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dataplane::address::MacAddress;

use super::parse::{self, Addresses, Sizes};
use crate::pktgen::device::{self, Device};
use crate::pktgen::{
    Error, Flows, FrameShape, Limit, Order, Pairs, PortChoice, Rate, ReceiveChoice, ReceiveSpec, Spec, Transport,
    TrialSpec,
};

/// How frames leave.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SendPort {
    /// An XDP program run by the kernel on its own frames: the fastest into a veth, whose far end needs GRO or an XDP program
    /// (`penstock-pktgen receive` has one)
    LiveFrames,
    /// An AF_XDP socket
    AfXdp,
    /// An AF_PACKET socket: works everywhere
    AfPacket,
}

/// How frames are received.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ReceivePort {
    /// An XDP program that counts and drops: the fastest, and uses no thread
    Xdp,
    /// An AF_XDP socket
    AfXdp,
    /// An AF_PACKET socket
    AfPacket,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Protocol {
    /// UDP
    Udp,
    /// TCP, each frame a SYN
    TcpSyn,
    /// TCP, each frame an ACK
    TcpAck,
}

/// What is sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to send")]
pub(super) struct SendArgs {
    /// Interface that frames leave by
    #[arg(short, long, value_name = "NAME", required_unless_present = "spec")]
    interface: Option<String>,
    /// Its network namespace: a name, a path or a process number
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// How frames leave
    #[arg(long, value_enum, default_value = "af-packet")]
    port: SendPort,
    /// CPU that sends
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Addresses that frames come from: one, a prefix, or FIRST-LAST [default: the interface's own]
    #[arg(long, value_parser = parse::addresses, value_name = "ADDRESSES")]
    source: Option<Addresses>,
    /// Addresses that frames go to
    #[arg(long, value_parser = parse::addresses, value_name = "ADDRESSES", required_unless_present = "spec")]
    destination: Option<Addresses>,
    /// Source ports
    #[arg(long, value_parser = parse::ports, value_name = "PORTS", default_value = "1024-65535")]
    source_port: (u16, u16),
    /// Destination ports (9 discards, RFC 863)
    #[arg(long, value_parser = parse::ports, value_name = "PORTS", default_value = "9")]
    destination_port: (u16, u16),
    /// Next hop, whose MAC address is asked for [default: the first destination itself]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<IpAddr>,
    /// MAC address to send to, instead of asking
    #[arg(long, value_name = "MAC")]
    destination_mac: Option<MacAddress>,
    /// MAC address to send from [default: the interface's]
    #[arg(long, value_name = "MAC")]
    source_mac: Option<MacAddress>,
    /// Answer ARP and neighbour discovery for the flows' addresses that no interface has
    #[arg(long)]
    pub(super) answer: bool,
    /// Protocol
    #[arg(long, value_enum, default_value = "udp")]
    protocol: Protocol,
    /// Frame sizes in bytes without the check sequence, in turn: 60, 60,1514, or imix
    #[arg(long, value_parser = parse::sizes, value_name = "SIZES", default_value = "60")]
    size: Sizes,
    /// Leave the stamp out: no loss by group, reordering or latency, and TCP frames may be smaller than 70 bytes
    #[arg(long)]
    no_stamp: bool,
    /// Flows: addresses and source ports [default: 1]
    #[arg(long, value_parser = parse::flows, value_name = "N", default_value = "1")]
    flows: u32,
    /// Order of flows: sequential, uniform, zipf, zipf:EXPONENT
    #[arg(long, value_parser = parse::order, value_name = "ORDER", default_value = "sequential")]
    order: Order,
    /// Flows that are new each second, in place of the oldest
    #[arg(long, value_parser = parse::flows, value_name = "N", conflicts_with = "every_frame_new")]
    new_flows: Option<u32>,
    /// Make every frame a new flow, until all addresses and ports were used
    #[arg(long, conflicts_with = "flows")]
    every_frame_new: bool,
    /// Number of the first flow, so that another run's flows are others
    #[arg(long, value_parser = parse::count, value_name = "N", default_value = "0")]
    first_flow: u64,
    /// Swap source and destination, as in answers
    #[arg(long)]
    reversed: bool,
    /// Seed of random orders
    #[arg(long, default_value = "1", value_name = "N")]
    seed: u64,
    /// Groups of flows with a sequence of their own, a power of two [default: one a flow]
    #[arg(long, value_name = "N")]
    groups: Option<u32>,
    /// Rate: 100k frames a second, 10Gbit, or flat-out
    #[arg(short, long, value_parser = parse::rate, default_value = "flat-out")]
    pub(super) rate: Rate,
    /// How long
    #[arg(short, long, value_parser = parse::duration, value_name = "TIME", default_value = "10s")]
    pub(super) duration: Duration,
    /// How many frames at most
    #[arg(long, value_parser = parse::count, value_name = "N")]
    frames: Option<u64>,
    /// A file with all of this as JSON, as `-o json` prints it, instead of flags
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interface", "destination"])]
    spec: Option<PathBuf>,
}

impl SendArgs {
    /// The spec that the flags make.
    pub(super) fn spec(&self) -> Result<Spec, Error> {
        if let Some(path) = &self.spec {
            let fail = |reason: String| Error::input(format!("{}: {reason}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
            return serde_json::from_str(&text).map_err(|error| fail(error.to_string()));
        }
        let interface = self.interface.clone().unwrap_or_default();
        let destination = self.destination.ok_or_else(|| Error::input("name --destination"))?;
        let source = match self.source {
            Some(source) => source,
            None => own_address(self.netns.as_deref(), &interface, destination.first.is_ipv6())?,
        };
        Ok(Spec {
            port: match self.port {
                SendPort::LiveFrames => PortChoice::LiveFrames,
                SendPort::AfXdp => PortChoice::AfXdp,
                SendPort::AfPacket => PortChoice::AfPacket,
            },
            interface,
            namespace: self.netns.clone(),
            cpu: self.cpu,
            destination_mac: self.destination_mac,
            gateway: self.gateway,
            source_mac: self.source_mac,
            frames: FrameShape {
                transport: match self.protocol {
                    Protocol::Udp => Transport::Udp,
                    Protocol::TcpSyn => Transport::TcpSyn,
                    Protocol::TcpAck => Transport::TcpAck,
                },
                sizes: self.size.0.clone(),
                stamp: !self.no_stamp,
            },
            flows: self.flows(source, destination),
            rate: self.rate,
            limit: Limit { duration: Some(self.duration), frames: self.frames },
        })
    }

    fn flows(&self, source: Addresses, destination: Addresses) -> Flows {
        let (first, last) = self.destination_port;
        // 65,536 ports are one more than a u16 holds; the last one is not used then.
        let destination_ports = (last - first).saturating_add(1);
        let (sources, destinations) = (source.count(), destination.count());
        let ports = u64::from(self.source_port.1 - self.source_port.0) + 1;
        let space = u64::from(sources) * u64::from(destinations);
        let space = space.saturating_mul(u64::from(destination_ports)).saturating_mul(ports);
        Flows {
            pairs: Pairs::Ranges {
                source: source.first,
                sources,
                destination: destination.first,
                destinations,
                destination_port: first,
                destination_ports,
            },
            source_ports: self.source_port,
            active: if self.every_frame_new { u32::try_from(space).unwrap_or(u32::MAX) } else { self.flows },
            first: self.first_flow,
            order: self.order,
            seed: self.seed,
            new_per_second: self.new_flows,
            groups: self.groups,
            reversed: self.reversed,
        }
    }
}

/// The address that an interface has, of this version.
fn own_address(namespace: Option<&str>, interface: &str, is_v6: bool) -> Result<Addresses, Error> {
    let device = device::within(namespace, interface, || Device::find(interface))?;
    let is_wanted = |address: &IpAddr| match address {
        IpAddr::V4(_) => !is_v6,
        IpAddr::V6(v6) => is_v6 && !v6.is_unicast_link_local(),
    };
    let own = device.addresses.iter().copied().find(is_wanted);
    own.map(|address| Addresses { first: address, last: address }).ok_or_else(|| {
        let version = if is_v6 { "IPv6" } else { "IPv4" };
        Error::input(format!("{interface} has no {version} address to send from; name one with --source"))
    })
}

/// Where it is counted.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where to count")]
pub(super) struct ToArgs {
    /// Interface that frames arrive at
    #[arg(long, value_name = "NAME")]
    to_interface: String,
    /// Its network namespace
    #[arg(long, value_name = "NAME")]
    to_netns: Option<String>,
    /// How frames are received
    #[arg(long, value_enum, default_value = "xdp")]
    to_port: ReceivePort,
    /// CPU that receives, for sockets
    #[arg(long, value_name = "N")]
    to_cpu: Option<usize>,
    /// Wait this long for frames that are under way
    #[arg(long, value_parser = parse::duration, value_name = "TIME", default_value = "500ms")]
    settle: Duration,
}

impl ToArgs {
    /// Both ends of a trial.
    pub(super) fn trial(&self, send: &SendArgs, latency: bool) -> Result<TrialSpec, Error> {
        let spec = send.spec()?;
        if latency && !spec.frames.stamp {
            return Err(Error::input("latency is told by stamps; leave --no-stamp out"));
        }
        let answer = match (send.answer, &spec.flows.pairs) {
            (true, &Pairs::Ranges { source, sources, destination, destinations, .. }) => {
                let (first, count) = if spec.flows.reversed { (source, sources) } else { (destination, destinations) };
                vec![(first, last(first, count))]
            }
            (true, Pairs::List(pairs)) => pairs.iter().map(|pair| (pair.destination, pair.destination)).collect(),
            (false, _) => Vec::new(),
        };
        let receive = ReceiveSpec {
            port: self.to_port.into(),
            interface: self.to_interface.clone(),
            namespace: self.to_netns.clone(),
            cpu: self.to_cpu,
            stamped_only: spec.frames.stamp,
            latency,
            answer,
        };
        Ok(TrialSpec { send: spec, receive, answer: send.answer, settle: self.settle })
    }
}

fn last(first: IpAddr, count: u32) -> IpAddr {
    let more = count.saturating_sub(1);
    match first {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().saturating_add(more).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().saturating_add(more.into()).into()),
    }
}

impl From<ReceivePort> for ReceiveChoice {
    fn from(port: ReceivePort) -> Self {
        match port {
            ReceivePort::Xdp => ReceiveChoice::Xdp,
            ReceivePort::AfXdp => ReceiveChoice::AfXdp,
            ReceivePort::AfPacket => ReceiveChoice::AfPacket,
        }
    }
}

/// Flags of `receive`.
#[derive(Debug, Args)]
pub(super) struct ReceiveArgs {
    /// Interface that frames arrive at
    #[arg(short, long, value_name = "NAME")]
    interface: String,
    /// Its network namespace
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// How frames are received
    #[arg(long, value_enum, default_value = "xdp")]
    port: ReceivePort,
    /// CPU that receives, for sockets
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Count stamped frames only, and leave others to the kernel
    #[arg(long)]
    stamped_only: bool,
    /// Take the time since each stamp: only when the sender runs on this machine
    #[arg(long)]
    latency: bool,
    /// Answer ARP and neighbour discovery for these addresses
    #[arg(long, value_parser = parse::addresses, value_name = "ADDRESSES")]
    answer: Vec<Addresses>,
    /// How long [default: until Ctrl-C]
    #[arg(short, long, value_parser = parse::duration, value_name = "TIME")]
    pub(super) duration: Option<Duration>,
}

impl ReceiveArgs {
    pub(super) fn spec(&self) -> ReceiveSpec {
        ReceiveSpec {
            port: self.port.into(),
            interface: self.interface.clone(),
            namespace: self.netns.clone(),
            cpu: self.cpu,
            stamped_only: self.stamped_only,
            latency: self.latency,
            answer: self.answer.iter().map(|range| (range.first, range.last)).collect(),
        }
    }
}
