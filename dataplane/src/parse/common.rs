//! The common shapes, read at fixed offsets: Ethernet with at most one tag in the bytes, IPv4 without options or IPv6
//! without extension headers, TCP or UDP, not a fragment.
//!
//! What is read here is what [`super::parse_thoroughly`] reads, which is the definition: whatever looks unusual, wrong
//! things included, is left to it. A property test and a fuzz target hold the two equal.

#[cfg(test)]
mod tests;

use super::transport::{check_flags, ports, tcp_options};
use crate::address::{Address, MacAddress};
use crate::frame::VlanTag;
use crate::packet::{Link, Packet, Parsed, Payload, Protocol, TcpFlags, TcpSegment, Transport};

const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const ETHER_TYPE_PROVIDER_BRIDGING: u16 = 0x88a8;

/// Reads a frame with an Ethernet header, into place: what is read is larger than a cache line. `length` is that of all
/// segments, at least that of `bytes`. `None` is for [`super::parse_thoroughly`], with anything in `parsed`.
#[inline]
pub(super) fn ethernet(bytes: &[u8], outer: Option<VlanTag>, length: usize, parsed: &mut Parsed) -> Option<()> {
    let header: &[u8; ETHERNET] = bytes.first_chunk()?;
    let source = MacAddress([header[6], header[7], header[8], header[9], header[10], header[11]]);
    if source.is_group() {
        return None;
    }
    let destination = MacAddress([header[0], header[1], header[2], header[3], header[4], header[5]]);
    let mut vlan = [outer, None];
    let mut ether_type = u16::from_be_bytes([header[12], header[13]]);
    let mut offset = ETHERNET;
    if matches!(ether_type, ETHER_TYPE_VLAN | ETHER_TYPE_PROVIDER_BRIDGING) {
        let tag: &[u8; TAG] = bytes.get(ETHERNET..)?.first_chunk()?;
        let tagged = VlanTag { protocol: ether_type, control: u16::from_be_bytes([tag[0], tag[1]]) };
        vlan = if outer.is_some() { [outer, Some(tagged)] } else { [Some(tagged), None] };
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        offset += TAG;
    }
    parsed.link = Link { source, destination, vlan };
    match ether_type {
        ETHER_TYPE_IPV4 => ipv4(bytes, offset, length, packet_of(parsed)?),
        ETHER_TYPE_IPV6 => ipv6(bytes, offset, length, packet_of(parsed)?),
        _ => None,
    }
}

/// Reads a frame without an Ethernet header; otherwise as [`ethernet`].
#[inline]
pub(super) fn ip(bytes: &[u8], vlan: Option<VlanTag>, length: usize, parsed: &mut Parsed) -> Option<()> {
    parsed.link = Link { vlan: [vlan, None], ..Link::default() };
    match bytes.first()? >> 4 {
        4 => ipv4(bytes, 0, length, packet_of(parsed)?),
        6 => ipv6(bytes, 0, length, packet_of(parsed)?),
        _ => None,
    }
}

/// The place for an IP packet: there is one already, if the last frame that was read into this place was IP.
#[inline]
fn packet_of(parsed: &mut Parsed) -> Option<&mut Packet> {
    if !matches!(parsed.payload, Payload::Ip(_)) {
        parsed.payload = Payload::Ip(BLANK);
    }
    match &mut parsed.payload {
        Payload::Ip(packet) => Some(packet),
        _ => None,
    }
}

/// A packet to be filled in.
const BLANK: Packet = Packet {
    source: Address([0; 16]),
    destination: Address([0; 16]),
    protocol: Protocol(0),
    hop_limit: 0,
    transport_offset: 0,
    transport_length: 0,
    fragment: None,
    transport: Transport::Other,
};

#[inline]
fn ipv4(bytes: &[u8], offset: usize, length: usize, packet: &mut Packet) -> Option<()> {
    let (header, rest) = bytes.get(offset..)?.split_first_chunk::<IPV4>()?;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // More fragments to come, or an offset.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] != 0x45
        || fragment != 0
        || total_length < IPV4
        || total_length > length - offset
        || !is_checksum_right(header)
    {
        return None;
    }
    let source = [header[12], header[13], header[14], header[15]];
    let destination = [header[16], header[17], header[18], header[19]];
    if matches!(source[0], 0 | 127 | 224..=239) || source == [255; 4] || matches!(destination[0], 0 | 127) {
        return None;
    }
    let protocol = Protocol(header[9]);
    let transport_length = total_length - IPV4;
    packet.source = Address::v4(source);
    packet.destination = Address::v4(destination);
    packet.protocol = protocol;
    packet.hop_limit = header[8];
    packet.transport_offset = (offset + IPV4) as u16;
    packet.transport_length = transport_length as u32;
    packet.fragment = None;
    transport(protocol, rest, transport_length, &mut packet.transport)
}

/// Whether the sum of a header's words in ones' complement is all ones (RFC 1071). The sum does not depend on the
/// machine's byte order.
#[inline]
fn is_checksum_right(header: &[u8; IPV4]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[inline]
fn ipv6(bytes: &[u8], offset: usize, length: usize, packet: &mut Packet) -> Option<()> {
    let (header, rest) = bytes.get(offset..)?.split_first_chunk::<IPV6>()?;
    // Zero is a jumbogram's, or a super-frame's.
    let payload_length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || payload_length == 0 || payload_length > length - offset - IPV6 {
        return None;
    }
    let (halves, _) = header[8..].as_chunks::<16>();
    let (source, destination) = (halves[0], halves[1]);
    // ::/64 has the unspecified, the loopback and the IPv4-mapped addresses.
    if source[..8] == [0; 8] || destination[..8] == [0; 8] || source[0] == 0xff {
        return None;
    }
    if destination[0] == 0xff && destination[1] & 0x0f <= 1 {
        return None;
    }
    let protocol = Protocol(header[6]);
    packet.source = Address::v6(source);
    packet.destination = Address::v6(destination);
    packet.protocol = protocol;
    packet.hop_limit = header[7];
    packet.transport_offset = (offset + IPV6) as u16;
    packet.transport_length = payload_length as u32;
    packet.fragment = None;
    transport(protocol, rest, payload_length, &mut packet.transport)
}

/// Reads a TCP or UDP header. `length` is that of header and payload, of which `bytes` may be the beginning, or go on
/// with padding.
#[inline]
fn transport(protocol: Protocol, bytes: &[u8], length: usize, into: &mut Transport) -> Option<()> {
    match protocol {
        Protocol::TCP => tcp(bytes, length, into),
        Protocol::UDP => udp(bytes, length, into),
        _ => None,
    }
}

#[inline]
fn tcp(bytes: &[u8], length: usize, into: &mut Transport) -> Option<()> {
    *into = Transport::Tcp(segment(bytes, length)?);
    Some(())
}

/// Reads a TCP segment of which `length` bytes were sent, of which `bytes` may be the beginning, or go on with padding.
/// `None` is for [`super::parse_thoroughly`].
#[inline(always)]
pub(crate) fn segment(bytes: &[u8], length: usize) -> Option<TcpSegment> {
    let header: &[u8; TCP] = bytes.first_chunk()?;
    let header_length = usize::from(header[12] >> 4) * 4;
    if header_length > length {
        return None;
    }
    let options = bytes.get(TCP..header_length)?;
    let (source_port, destination_port) = ports(header);
    let flags = TcpFlags(header[13]);
    if source_port == 0 || destination_port == 0 || check_flags(flags).is_err() {
        return None;
    }
    let options = tcp_options(options).ok()?;
    Some(TcpSegment {
        source_port,
        destination_port,
        flags,
        sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        acknowledgement: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        window: u16::from_be_bytes([header[14], header[15]]),
        payload_length: (length - header_length) as u32,
        window_scale: options.window_scale,
        sack_permitted: options.sack_permitted,
        sack: options.sack,
    })
}

#[inline]
fn udp(bytes: &[u8], length: usize, into: &mut Transport) -> Option<()> {
    let header: &[u8; UDP] = bytes.first_chunk()?;
    let stated = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (source_port, destination_port) = ports(header);
    if stated < UDP || stated > length || destination_port == 0 {
        return None;
    }
    *into = Transport::Udp { source_port, destination_port };
    Some(())
}
