//! Packets as the tests make them, and headers as they are read from packets that the kernel shows.

use dataplane::address::Address;
use dataplane::testing::{crc32c, internet_checksum};
use etherparse::{LaxNetSlice, LaxSlicedPacket};
use gateway::judge::{Header, WITH_PORTS};
use gateway::model::{Family, Hook, RejectWith, States};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// ICMP's number in a family.
pub(crate) fn icmp_of(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) hook: Hook,
    /// By the index of the interface; `None` where the gateway sends it.
    pub(crate) input: Option<usize>,
    pub(crate) output: Option<usize>,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    /// ICMP's type × 256 + code, too.
    pub(crate) destination_port: u16,
    pub(crate) tcp_flags: u8,
    /// TCP's numbers; ICMP's identifier and sequence number are their low halves.
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) payload: usize,
    /// The state that it is to have: how it is prepared, and the header checked. What it really has the kernel says.
    pub(crate) wish: States,
    /// What ICMP errors are about.
    pub(crate) about: Option<Vec<u8>>,
    pub(crate) bad_checksum: bool,
    /// Whether there is something between the IP header and what is above: IPv4 options, an IPv6 extension header.
    pub(crate) options: bool,
}

impl Packet {
    pub(crate) fn family(&self) -> Family {
        Family::of(self.destination)
    }

    pub(crate) fn is_icmp(&self) -> bool {
        self.protocol == icmp_of(self.family())
    }

    pub(crate) fn has_ports(&self) -> bool {
        WITH_PORTS.contains(&self.protocol)
    }

    /// Its header, if it gets the state that is wished for.
    pub(crate) fn header<'a>(&self, interfaces: &'a [String]) -> Header<'a> {
        let ports = self.has_ports();
        Header {
            input: self.input.map(|index| interfaces[index].as_str()),
            output: self.output.map(|index| interfaces[index].as_str()),
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port: if ports { self.source_port } else { 0 },
            destination_port: if ports || self.is_icmp() { self.destination_port } else { 0 },
            tcp_flags: if self.protocol == TCP { self.tcp_flags } else { 0 },
            state: self.wish,
        }
    }

    /// The answer of the other side, as far as addresses and ports go.
    pub(crate) fn turned(&self) -> Packet {
        Packet {
            input: self.output,
            output: self.input,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            hook: match self.hook {
                Hook::Forward => Hook::Forward,
                Hook::Input => Hook::Output,
                Hook::Output => Hook::Input,
            },
            ..self.clone()
        }
    }

    /// The IP packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let above = self.above();
        let mut packet = match (self.source.to_v4_bits(), self.destination.to_v4_bits()) {
            (Some(source), Some(destination)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, self.protocol, 0, 0];
                header.extend(source.to_be_bytes());
                header.extend(destination.to_be_bytes());
                if self.options {
                    // Nothing, four times.
                    header.extend([1; 4]);
                    header[0] = 0x46;
                }
                let length = (header.len() + above.len()) as u16;
                header[2..4].copy_from_slice(&length.to_be_bytes());
                let sum = internet_checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header
            }
            _ => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, self.protocol, 255];
                header.extend(self.source.0);
                header.extend(self.destination.0);
                if self.options {
                    // Destination options: padding.
                    header.extend([self.protocol, 0, 1, 4, 0, 0, 0, 0]);
                    header[6] = 60;
                }
                let length = (header.len() - 40 + above.len()) as u16;
                header[4..6].copy_from_slice(&length.to_be_bytes());
                header
            }
        };
        packet.extend(above);
        packet
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let mut pseudo = Vec::new();
        match (self.source.to_v4_bits(), self.destination.to_v4_bits()) {
            (Some(source), Some(destination)) => {
                pseudo.extend(source.to_be_bytes());
                pseudo.extend(destination.to_be_bytes());
            }
            _ => {
                pseudo.extend(self.source.0);
                pseudo.extend(self.destination.0);
            }
        }
        pseudo.extend((length as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        pseudo
    }

    fn above(&self) -> Vec<u8> {
        let mut ports = self.source_port.to_be_bytes().to_vec();
        ports.extend(self.destination_port.to_be_bytes());
        let payload = vec![0x50; self.payload];
        let (mut bytes, sum_at) = match self.protocol {
            TCP => {
                let mut bytes = ports;
                bytes.extend(self.sequence.to_be_bytes());
                bytes.extend(self.acknowledgement.to_be_bytes());
                bytes.extend([0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(payload);
                (bytes, Some(16))
            }
            UDP | 136 => {
                let mut bytes = ports;
                bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                (bytes, Some(6))
            }
            132 => {
                // An INIT chunk; the checksum is CRC32c, least byte first.
                let mut bytes = ports;
                bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 9, 0, 0, 0x20, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
                let sum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                (bytes, None)
            }
            33 => {
                let mut bytes = ports;
                bytes.extend([5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
                (bytes, Some(6))
            }
            number if number == icmp_of(self.family()) => {
                let mut bytes = self.destination_port.to_be_bytes().to_vec();
                bytes.extend([0, 0]);
                match &self.about {
                    Some(about) => {
                        bytes.extend([0, 0, 0, 0]);
                        bytes.extend(about);
                    }
                    None => {
                        bytes.extend((self.sequence as u16).to_be_bytes());
                        bytes.extend((self.acknowledgement as u16).to_be_bytes());
                        bytes.extend(vec![0; 24 + self.payload]);
                    }
                }
                (bytes, Some(2))
            }
            // Version 0, nothing optional, IPv4 within.
            47 => ([&[0, 0, 8, 0][..], &[0x41; 20]].concat(), None),
            _ => (vec![0x41; 24], None),
        };
        if let Some(at) = sum_at {
            let pseudo = self.pseudo_header(bytes.len());
            let parts: &[&[u8]] = if self.protocol == 1 { &[&bytes] } else { &[&pseudo, &bytes] };
            let sum = internet_checksum(parts) ^ if self.bad_checksum { 0x5555 } else { 0 };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// Which refusal an ICMP message of this type and code is.
pub(crate) fn refusal(protocol: u8, message: [u8; 2]) -> Option<RejectWith> {
    Some(match (protocol, message) {
        (1, [3, 0]) | (58, [1, 0]) => RejectWith::NetUnreachable,
        (1, [3, 1]) | (58, [1, 3]) => RejectWith::HostUnreachable,
        (1, [3, 2]) => RejectWith::ProtocolUnreachable,
        (1, [3, 3]) | (58, [1, 4]) => RejectWith::PortUnreachable,
        (1, [3, 9]) => RejectWith::NetProhibited,
        (1, [3, 10]) => RejectWith::HostProhibited,
        (1, [3, 13]) | (58, [1, 1]) => RejectWith::AdminProhibited,
        (58, [1, 5]) => RejectWith::PolicyFail,
        (58, [1, 6]) => RejectWith::RejectRoute,
        _ => return None,
    })
}

/// A packet's header without interfaces, read from an IP packet that may have been cut off behind its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) tcp_flags: u8,
    /// What stands behind the IP header.
    pub(crate) above: Vec<u8>,
}

/// Reads an IP packet. `None`: there is no whole IP header.
pub(crate) fn read(bytes: &[u8]) -> Option<Read> {
    let sliced = LaxSlicedPacket::from_ip(bytes).ok()?;
    let (source, destination) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (Address::v4(ip.header().source()), Address::v4(ip.header().destination())),
        LaxNetSlice::Ipv6(ip) => (Address::v6(ip.header().source()), Address::v6(ip.header().destination())),
        LaxNetSlice::Arp(_) => return None,
    };
    let payload = sliced.ip_payload()?;
    let (protocol, above) = (payload.ip_number.0, payload.payload);
    let pair = |at: usize| above.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    let ports = WITH_PORTS.contains(&protocol);
    let icmp = protocol == icmp_of(Family::of(destination));
    Some(Read {
        source,
        destination,
        protocol,
        source_port: if ports { pair(0) } else { 0 },
        destination_port: if ports {
            pair(2)
        } else if icmp {
            pair(0)
        } else {
            0
        },
        tcp_flags: if protocol == TCP { above.get(13).map_or(0, |flags| flags & 0x3f) } else { 0 },
        above: above.to_vec(),
    })
}

impl Read {
    /// Whether it is this packet, as far as its ends and its protocol go. What is sent without a source gets one.
    pub(crate) fn is_of(&self, packet: &Packet) -> bool {
        (packet.source.is_unspecified() || self.source == packet.source)
            && (self.destination, self.protocol) == (packet.destination, packet.protocol)
    }

    /// With interfaces and the state.
    pub(crate) fn header<'a>(&self, input: Option<&'a str>, output: Option<&'a str>, state: States) -> Header<'a> {
        Header {
            input,
            output,
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port: self.source_port,
            destination_port: self.destination_port,
            tcp_flags: self.tcp_flags,
            state,
        }
    }

    fn is_icmp_error(&self) -> bool {
        let [kind, _] = self.destination_port.to_be_bytes();
        match self.protocol {
            1 => matches!(kind, 3 | 4 | 5 | 11 | 12),
            58 => kind < 128,
            _ => false,
        }
    }

    /// Which refusal of `other` this packet is.
    pub(crate) fn refuses(&self, other: &Read) -> Option<RejectWith> {
        if self.destination != other.source {
            return None;
        }
        if self.protocol == TCP {
            let turned = self.source_port == other.destination_port && self.destination_port == other.source_port;
            return (turned && self.tcp_flags & RST != 0 && other.protocol == TCP).then_some(RejectWith::TcpReset);
        }
        let about = read(self.above.get(8..)?)?;
        if !self.is_icmp_error() || about.destination != other.destination || about.protocol != other.protocol {
            return None;
        }
        let message = self.destination_port.to_be_bytes();
        refusal(self.protocol, message)
    }

    /// Whether the checksum over the payload is wrong, of protocols that have one.
    fn bad_checksum(&self) -> bool {
        let ends = match (self.source.to_v4_bits(), self.destination.to_v4_bits()) {
            (Some(source), Some(destination)) => [source.to_be_bytes(), destination.to_be_bytes()].concat(),
            _ => [self.source.0, self.destination.0].concat(),
        };
        let pseudo = [&ends, &(self.above.len() as u32).to_be_bytes()[..], &[0, 0, 0, self.protocol]].concat();
        match self.protocol {
            TCP | UDP | 33 | 58 => internet_checksum(&[&pseudo, &self.above]) != 0,
            1 => internet_checksum(&[&self.above]) != 0,
            _ => false,
        }
    }

    /// Why a refusal of this packet is not told to anybody, by the rules of ICMP (RFC 1122 section 3.2.2, RFC 4443 section
    /// 2.4) and TCP (a reset is not answered), and by the kernel's own. `own` are the gateway's addresses.
    pub(crate) fn silence(
        &self,
        hook: Hook,
        with: RejectWith,
        by_kernel: bool,
        own: &[Address],
    ) -> Option<&'static str> {
        if self.destination.is_unspecified() {
            return Some("its destination names no host");
        }
        if self.source == Address([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) {
            return Some("its source is any router of the link: the gateway, too");
        }
        let nobody = self.source.is_unspecified() || self.source.is_group() || self.source == Address::v4([255; 4]);
        if nobody {
            return Some("its source names no host");
        }
        if self.destination.is_group() || self.destination == Address::v4([255; 4]) {
            return Some("it is for a group");
        }
        if with == RejectWith::TcpReset && self.tcp_flags & RST != 0 {
            return Some("a reset is not answered with a reset");
        }
        // The kernel fills its own checksums in later.
        if !by_kernel && self.bad_checksum() {
            return Some("its checksum is wrong");
        }
        if with == RejectWith::TcpReset {
            return None;
        }
        let is_v4 = Family::of(self.destination) == Family::V4;
        if is_v4 && hook == Hook::Input && !own.contains(&self.destination) {
            return Some("the answer would come from an address that the gateway has not");
        }
        if is_v4 && self.protocol == 33 {
            return Some("the kernel does not know DCCP's checksum");
        }
        if is_v4 && self.protocol == 1 && !matches!(self.destination_port >> 8, 0 | 8 | 13..=18) {
            return Some("no ICMP error about an ICMP message that is an error or unknown");
        }
        if by_kernel && self.protocol == icmp_of(Family::of(self.destination)) {
            return Some("the kernel does not tell itself while it sends an ICMP message");
        }
        self.is_icmp_error().then_some("no ICMP error about an ICMP error")
    }
}
