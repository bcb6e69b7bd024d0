//! Answers to senders whose packets are rejected: a TCP reset (RFC 9293 section 3.5.2) or an ICMP error (RFC 1122 section 3.2.2, RFC 4443
//! section 2.4).
//!
//! A wire has no address: an answer comes from where the packet was sent to, as if that host had refused it.

use crate::packet::{IcmpMessage, Packet, Protocol, TcpSegment, Transport};
use crate::parse::Medium;
use crate::port::checksum;
use crate::rules::RejectWith;

/// The longest answer: an ICMPv6 error is no longer than the least MTU (RFC 4443 section 2.4), with Ethernet header and two tags.
pub(super) const MAX_ANSWER: usize = 1280 + 22;

/// The longest ICMP error over IPv4 (RFC 1812 section 4.3.2.3).
const MAX_ICMP_V4: usize = 576;

const TIME_TO_LIVE: u8 = 64;

/// Writes the answer to a packet into `answer` and says how long it is; `None` if there is to be no answer (to errors, resets, fragments
/// but the first, groups, nobody), or nothing to answer with.
pub(super) fn answer(
    bytes: &[u8],
    medium: Medium,
    packet: &Packet,
    with: RejectWith,
    answer: &mut [u8; MAX_ANSWER],
) -> Option<usize> {
    if packet.fragment.is_some_and(|fragment| !fragment.is_first()) || is_no_host(packet) {
        return None;
    }
    let link = write_link(bytes, medium, answer)?;
    let header = if packet.source.is_v4() { 20 } else { 40 };
    let payload = match (with, packet.transport) {
        (RejectWith::TcpReset, Transport::Tcp(segment)) if !segment.flags.rst() => {
            write_reset(answer.get_mut(link + header..)?, &segment)?
        }
        (RejectWith::TcpReset, _) => return None,
        (RejectWith::Icmp { .. }, Transport::Icmp(icmp)) if is_error(icmp.message) => return None,
        (RejectWith::Icmp { kind, code }, _) => {
            let limit = if packet.source.is_v4() { MAX_ICMP_V4 } else { 1280 };
            let room = answer.get_mut(link + header..link + limit)?;
            write_error(room, bytes.get(link..)?, [kind, code])?
        }
    };
    let protocol = match (with, packet.source.is_v4()) {
        (RejectWith::TcpReset, _) => Protocol::TCP,
        (RejectWith::Icmp { .. }, true) => Protocol::ICMP,
        (RejectWith::Icmp { .. }, false) => Protocol::ICMPV6,
    };
    write_ip(&mut answer[link..], packet, protocol, payload);
    let at = link + header;
    let (pseudo, field) = match protocol {
        Protocol::ICMP => (0, at + 2),
        Protocol::ICMPV6 => (pseudo_header(packet, protocol, payload), at + 2),
        _ => (pseudo_header(packet, protocol, payload), at + 16),
    };
    let sum = !checksum::fold(checksum::sum(&answer[at..at + payload]) + pseudo);
    answer[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(at + payload)
}

/// Whether an answer would go to, or seem to come from, what is no single host.
fn is_no_host(packet: &Packet) -> bool {
    let is_one = |address: crate::address::Address| match std::net::IpAddr::from(address) {
        std::net::IpAddr::V4(ip) => {
            !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified() && !ip.is_loopback()
        }
        std::net::IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback(),
    };
    !is_one(packet.source) || !is_one(packet.destination)
}

fn is_error(message: IcmpMessage) -> bool {
    !matches!(message, IcmpMessage::EchoRequest(_) | IcmpMessage::EchoReply(_))
}

/// The packet's Ethernet header with its tags, the other way round; its length.
fn write_link(bytes: &[u8], medium: Medium, answer: &mut [u8]) -> Option<usize> {
    if medium == Medium::Ip {
        return Some(0);
    }
    let mut length = 14;
    while matches!(bytes.get(length - 2..length)?, [0x81 | 0x91, 0x00] | [0x88, 0xa8]) && length < 22 {
        length += 4;
    }
    // A frame to a group of stations is not answered.
    if bytes.first()? & 1 != 0 {
        return None;
    }
    answer.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    answer[..6].copy_from_slice(&bytes[6..12]);
    answer[6..12].copy_from_slice(&bytes[..6]);
    Some(length)
}

/// A reset that the sender believes; its length.
fn write_reset(answer: &mut [u8], segment: &TcpSegment) -> Option<usize> {
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let (sequence, acknowledgement, flags) = if segment.flags.ack() {
        (segment.acknowledgement, 0, RST)
    } else {
        let taken = segment.payload_length + u32::from(segment.flags.syn()) + u32::from(segment.flags.fin());
        (0, segment.sequence.wrapping_add(taken), RST | ACK)
    };
    let header = answer.get_mut(..20)?;
    header.fill(0);
    header[..2].copy_from_slice(&segment.destination_port.to_be_bytes());
    header[2..4].copy_from_slice(&segment.source_port.to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    Some(20)
}

/// An error that quotes the packet as far as there is room; its length.
fn write_error(answer: &mut [u8], quoted: &[u8], [kind, code]: [u8; 2]) -> Option<usize> {
    let quote = quoted.len().min(answer.len().checked_sub(8)?);
    answer[..8].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    answer[8..8 + quote].copy_from_slice(&quoted[..quote]);
    Some(8 + quote)
}

/// The IP header of an answer with this much behind it.
fn write_ip(answer: &mut [u8], packet: &Packet, protocol: Protocol, payload: usize) {
    let (from, to) = (packet.destination.0, packet.source.0);
    if packet.source.is_v4() {
        let header = &mut answer[..20];
        header.fill(0);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
        header[6] = 0x40; // Don't fragment.
        header[8] = TIME_TO_LIVE;
        header[9] = protocol.0;
        header[12..16].copy_from_slice(&from[12..]);
        header[16..20].copy_from_slice(&to[12..]);
        let sum = checksum::of(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let header = &mut answer[..40];
        header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
        header[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
        header[6] = protocol.0;
        header[7] = TIME_TO_LIVE;
        header[8..24].copy_from_slice(&from);
        header[24..40].copy_from_slice(&to);
    }
}

/// The sum of the pseudo header: the order of the addresses does not matter, and IPv4's mapped ones are summed without their prefix.
fn pseudo_header(packet: &Packet, protocol: Protocol, length: usize) -> u64 {
    let skip = if packet.source.is_v4() { 12 } else { 0 };
    checksum::sum(&packet.source.0[skip..])
        + checksum::sum(&packet.destination.0[skip..])
        + u64::from(protocol.0)
        + length as u64
}
