//! What the engine knows of a frame once it has been read: [`Parsed`], made by [`crate::parse`].

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::address::{Address, MacAddress};
use crate::frame::VlanTag;

/// Which way a frame crosses a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Direction {
    /// Inside to outside: what the endpoint sends.
    Egress = 0,
    /// Outside to inside: what the endpoint receives.
    Ingress = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const BOTH: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    /// The other way.
    #[inline]
    pub fn reverse(self) -> Direction {
        match self {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        }
    }

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMP: Protocol = Protocol(1);
    /// IGMP.
    pub const IGMP: Protocol = Protocol(2);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);

    /// Whether the protocol has ports that rules can name: TCP, UDP, SCTP.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("ICMP"),
            Protocol::TCP => f.write_str("TCP"),
            Protocol::UDP => f.write_str("UDP"),
            Protocol::ICMPV6 => f.write_str("ICMPv6"),
            Protocol::SCTP => f.write_str("SCTP"),
            Protocol(number) => write!(f, "protocol {number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The Ethernet part of a frame, VLAN tags included. All zeros on a wire of `tun` ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Sender.
    pub source: MacAddress,
    /// Receiver.
    pub destination: MacAddress,
    /// Up to two VLAN tags, outermost first (out of band or in the bytes).
    pub vlan: [Option<VlanTag>; 2],
}

impl Link {
    /// Whether the frame carries any VLAN tag.
    #[inline]
    pub fn is_tagged(&self) -> bool {
        self.vlan[0].is_some()
    }
}

/// A frame, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The Ethernet part.
    pub link: Link,
    /// What the frame carries.
    pub payload: Payload,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// An IP packet.
    Ip(Packet),
    /// An ARP message for IPv4 over Ethernet (RFC 826).
    Arp(Arp),
    /// Another EtherType (LLDP, PPPoE, EAPOL, …).
    Other(u16),
    /// Not Ethernet II: an IEEE 802.3 length with LLC (STP, SNAP).
    Llc,
}

/// An ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Who says so.
    pub sender_mac: MacAddress,
    /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Address,
    /// The target's MAC address.
    pub target_mac: MacAddress,
    /// The target's IPv4 address.
    pub target: Address,
}

/// An IP packet: who, what, and the transport fields that tracking needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The protocol above IP, extension headers skipped. In a later IPv6 fragment, what its fragment header names: where
    /// the datagram has destination options, those (60) and not the transport.
    pub protocol: Protocol,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Offset of the transport header from the start of the frame's bytes: the length of all headers before it.
    pub transport_offset: u16,
    /// Bytes after the IP headers (transport header and payload) in this frame.
    pub transport_length: u32,
    /// Set when the packet is a fragment.
    pub fragment: Option<Fragment>,
    /// The transport fields.
    pub transport: Transport,
}

/// A fragment's place in its datagram (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification; 16 bits in IPv4.
    pub id: u32,
    /// Offset in bytes.
    pub offset: u32,
    /// Whether more fragments follow.
    pub more: bool,
    /// Bytes of the datagram in this fragment: in IPv6, extension headers behind the fragment header included.
    pub length: u32,
}

impl Fragment {
    /// Whether this is the fragment with the transport header.
    pub fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(TcpSegment),
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// SCTP, with its first chunk (RFC 9260).
    Sctp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Verification tag.
        tag: u32,
        /// Type of the first chunk: 1 INIT, 2 INIT ACK, 6 ABORT, 7 SHUTDOWN, 10 COOKIE ECHO, 14 SHUTDOWN COMPLETE, …
        chunk: u8,
    },
    /// ICMP or ICMPv6.
    Icmp(Icmp),
    /// Any other protocol; nothing is read of it.
    Other,
    /// A later fragment: it carries no transport header, and what looks like one is payload.
    Fragment,
}

/// A TCP segment's header (RFC 9293).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window, not scaled.
    pub window: u16,
    /// Bytes of payload: of the whole super-frame, if it is one.
    pub payload_length: u32,
    /// The window scale option (RFC 7323), at most 14 as the RFC has it.
    pub window_scale: Option<u8>,
    /// The SACK-permitted option.
    pub sack_permitted: bool,
    /// The highest right edge in a SACK option.
    pub sack: Option<u32>,
}

/// TCP's flags: the low byte of the 13th and 14th header bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;

    /// FIN is set.
    pub fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }
    /// SYN is set.
    pub fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }
    /// RST is set.
    pub fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }
    /// ACK is set.
    pub fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What the message is.
    pub message: IcmpMessage,
}

/// What an ICMP message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpMessage {
    /// Echo request, with its identifier.
    EchoRequest(u16),
    /// Echo reply, with its identifier.
    EchoReply(u16),
    /// An error about a packet that is quoted.
    Error {
        /// The next hop's MTU in "fragmentation needed" or "packet too big".
        mtu: Option<u32>,
        /// The packet it is about.
        quoted: Quoted,
    },
    /// Neighbour discovery (RFC 4861).
    Neighbour(NeighbourMessage),
    /// Multicast listener discovery (RFC 2710, RFC 3810): types 130, 131, 132, 143.
    MulticastListener,
    /// Anything else.
    Other,
}

/// The headers that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source address of the quoted packet.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source port; an ICMP echo's identifier; 0 where there is none.
    pub source_port: u16,
    /// Its destination port; an ICMP echo's identifier; 0 where there is none.
    pub destination_port: u16,
    /// Its TCP sequence number.
    pub sequence: Option<u32>,
}

/// A neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourMessage {
    /// Which of the five.
    pub kind: NeighbourKind,
    /// The target address of solicitations, advertisements and redirects; unspecified otherwise.
    pub target: Address,
    /// The source or target link-layer address option, if there is one.
    pub link_layer: Option<MacAddress>,
}

/// The five kinds of neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourKind {
    /// Type 133.
    RouterSolicitation,
    /// Type 134.
    RouterAdvertisement,
    /// Type 135.
    NeighbourSolicitation,
    /// Type 136.
    NeighbourAdvertisement,
    /// Type 137.
    Redirect,
}

/// Who talks to whom: a packet's addresses, protocol and ports, as sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Protocol.
    pub protocol: Protocol,
    /// Source port; an ICMP echo request's identifier; 0 where there is none.
    pub source_port: u16,
    /// Destination port; an ICMP echo reply's identifier; 0 where there is none.
    pub destination_port: u16,
}

impl Tuple {
    /// The tuple of the reply.
    #[inline]
    pub fn reverse(self) -> Tuple {
        Tuple {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}.{} > {}.{}",
            self.protocol, self.source, self.source_port, self.destination, self.destination_port
        )
    }
}

impl Packet {
    /// Source and destination port: TCP, UDP and SCTP ports; an echo's identifier at the end that asks, so that a
    /// request never passes for the reply to the other end's request of the same identifier; zeros otherwise.
    #[inline]
    pub fn ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::Tcp(TcpSegment { source_port, destination_port, .. })
            | Transport::Udp { source_port, destination_port }
            | Transport::Sctp { source_port, destination_port, .. } => (source_port, destination_port),
            Transport::Icmp(Icmp { message: IcmpMessage::EchoRequest(id), .. }) => (id, 0),
            Transport::Icmp(Icmp { message: IcmpMessage::EchoReply(id), .. }) => (0, id),
            Transport::Icmp(_) | Transport::Other | Transport::Fragment => (0, 0),
        }
    }

    /// Bytes of all headers, Ethernet to transport: what each segment of a super-frame repeats.
    #[inline]
    pub fn header_length(&self) -> usize {
        let transport = match self.transport {
            Transport::Tcp(segment) => self.transport_length.saturating_sub(segment.payload_length) as usize,
            Transport::Udp { .. } => 8,
            _ => 0,
        };
        usize::from(self.transport_offset) + transport
    }

    /// Who talks to whom.
    #[inline]
    pub fn tuple(&self) -> Tuple {
        let (source_port, destination_port) = self.ports();
        Tuple {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port,
            destination_port,
        }
    }
}
