//! TCP, UDP and SCTP headers.

use etherparse::err::tcp::HeaderSliceError;
use etherparse::{TcpHeaderSlice, UdpHeaderSlice};

use super::ip::IpHeader;
use super::{View, icmp};
use crate::packet::{Protocol, TcpFlags, TcpSegment, Transport};
use crate::verdict::DropReason;

/// Where the source port stands in a TCP (RFC 9293), UDP (RFC 768) or SCTP (RFC 9260) header.
const SOURCE_PORT: usize = 0;
/// Where the destination port stands.
const DESTINATION_PORT: usize = 2;

/// The largest shift that a window scale option may state (RFC 7323 section 2.3).
const MAX_WINDOW_SCALE: u8 = 14;

/// Source and destination port of a header of a protocol that [has them](Protocol::has_ports); zeros where the header
/// ends before.
#[inline]
pub(super) fn ports(header: &[u8]) -> (u16, u16) {
    let port = |at: usize| match header.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    (port(SOURCE_PORT), port(DESTINATION_PORT))
}

/// Reads what follows the IP headers.
pub(super) fn parse(ip: &IpHeader, view: View<'_>) -> Result<Transport, DropReason> {
    if ip.fragment.is_some() && !ip.is_first_fragment() {
        return Ok(Transport::Fragment);
    }
    match ip.protocol {
        Protocol::TCP => tcp(ip, view),
        Protocol::UDP => udp(ip, view),
        Protocol::SCTP => sctp(ip, view),
        // ICMP over IPv6 and ICMPv6 over IPv4 do not exist: nobody reads them as such.
        Protocol::ICMP if ip.source.is_v4() => icmp::v4(ip, view),
        Protocol::ICMPV6 if !ip.source.is_v4() => icmp::v6(ip, view),
        _ => Ok(Transport::Other),
    }
}

/// The reason for a header that is cut short: in a first fragment, that it is too small (RFC 1858, RFC 7112).
pub(super) fn truncated(ip: &IpHeader, reason: DropReason) -> DropReason {
    if ip.is_first_fragment() { DropReason::FragmentTiny } else { reason }
}

fn tcp(ip: &IpHeader, view: View<'_>) -> Result<Transport, DropReason> {
    let header = TcpHeaderSlice::from_slice(view.bytes).map_err(|error| match error {
        HeaderSliceError::Content(_) => DropReason::TcpHeaderLength,
        HeaderSliceError::Len(length) if length.len < 20 => truncated(ip, DropReason::TcpTruncated),
        HeaderSliceError::Len(_) => truncated(ip, DropReason::TcpHeaderLength),
    })?;
    let bytes = header.slice();
    let (source_port, destination_port) = ports(bytes);
    if source_port == 0 || destination_port == 0 {
        return Err(DropReason::PortZero);
    }
    let flags = TcpFlags(bytes[13]);
    check_flags(flags)?;
    let options = tcp_options(header.options())?;
    Ok(Transport::Tcp(TcpSegment {
        source_port,
        destination_port,
        flags,
        sequence: header.sequence_number(),
        acknowledgement: header.acknowledgment_number(),
        window: header.window_size(),
        payload_length: (view.length - bytes.len()) as u32,
        window_scale: options.window_scale,
        sack_permitted: options.sack_permitted,
        sack: options.sack,
    }))
}

/// Only SYN, SYN-ACK, RST, RST-ACK, FIN-ACK and ACK open, carry or end a connection; PSH, URG and the ECN flags may be
/// set with any of them.
#[inline]
pub(super) fn check_flags(flags: TcpFlags) -> Result<(), DropReason> {
    const FIN: u8 = TcpFlags::FIN;
    const SYN: u8 = TcpFlags::SYN;
    const RST: u8 = TcpFlags::RST;
    const ACK: u8 = TcpFlags::ACK;
    const SYN_ACK: u8 = SYN | ACK;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    match flags.0 & (FIN | SYN | RST | ACK) {
        SYN | SYN_ACK | RST | RST_ACK | FIN_ACK | ACK => Ok(()),
        _ => Err(DropReason::TcpFlags),
    }
}

/// What window tracking needs of a segment's options.
#[derive(Default)]
pub(super) struct TcpOptions {
    pub(super) window_scale: Option<u8>,
    pub(super) sack_permitted: bool,
    pub(super) sack: Option<u32>,
}

/// Reads the options that window tracking needs.
#[inline]
pub(super) fn tcp_options(options: &[u8]) -> Result<TcpOptions, DropReason> {
    match options {
        // Timestamps as every system lays them out (RFC 7323 appendix A), which most segments carry and no other option.
        [] | [1, 1, 8, 10, _, _, _, _, _, _, _, _] => Ok(TcpOptions::default()),
        _ => walk_options(options),
    }
}

fn walk_options(mut options: &[u8]) -> Result<TcpOptions, DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    const WINDOW_SCALE: u8 = 3;
    const SACK_PERMITTED: u8 = 4;
    const SACK: u8 = 5;
    const TIMESTAMPS: u8 = 8;
    let mut found = TcpOptions::default();
    while let Some((&kind, rest)) = options.split_first() {
        if kind == END {
            break;
        }
        if kind == NO_OPERATION {
            options = rest;
            continue;
        }
        let length = rest.first().map_or(0, |&length| usize::from(length));
        if length < 2 || length > options.len() {
            return Err(DropReason::TcpOptions);
        }
        let (option, after) = options.split_at(length);
        options = after;
        match (kind, &option[2..]) {
            (MAXIMUM_SEGMENT_SIZE, [_, _]) | (TIMESTAMPS, [_, _, _, _, _, _, _, _]) => {}
            (WINDOW_SCALE, &[shift]) => found.window_scale = Some(shift.min(MAX_WINDOW_SCALE)),
            (SACK_PERMITTED, []) => found.sack_permitted = true,
            (SACK, blocks) if !blocks.is_empty() && blocks.len().is_multiple_of(8) => {
                found.sack = highest_edge(blocks, found.sack);
            }
            (MAXIMUM_SEGMENT_SIZE | TIMESTAMPS | WINDOW_SCALE | SACK_PERMITTED | SACK, _) => {
                return Err(DropReason::TcpOptions);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The highest right edge of a SACK option's blocks (RFC 2018), in sequence space.
fn highest_edge(blocks: &[u8], before: Option<u32>) -> Option<u32> {
    let (edges, _) = blocks.as_chunks::<4>();
    let right = edges.iter().skip(1).step_by(2).map(|edge| u32::from_be_bytes(*edge));
    right.chain(before).reduce(|a, b| if (b.wrapping_sub(a) as i32) > 0 { b } else { a })
}

fn udp(ip: &IpHeader, view: View<'_>) -> Result<Transport, DropReason> {
    let header = UdpHeaderSlice::from_slice(view.bytes).map_err(|_| truncated(ip, DropReason::UdpTruncated))?;
    let length = usize::from(header.length());
    // The length is the whole datagram's, of which a first fragment shows a part.
    if length < header.slice().len() || (length > view.length && !ip.is_first_fragment()) {
        return Err(DropReason::UdpLength);
    }
    let (source_port, destination_port) = ports(header.slice());
    // A source port of zero says that no reply is wanted (RFC 768).
    if destination_port == 0 {
        return Err(DropReason::PortZero);
    }
    Ok(Transport::Udp { source_port, destination_port })
}

/// SCTP's common header and the first chunk's header (RFC 9260 section 3).
fn sctp(ip: &IpHeader, view: View<'_>) -> Result<Transport, DropReason> {
    const COMMON_HEADER: usize = 12;
    const CHUNK_HEADER: usize = 4;
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const SHUTDOWN_COMPLETE: u8 = 14;
    const INIT_LENGTH: usize = 20;
    let header: &[u8; COMMON_HEADER + CHUNK_HEADER] =
        view.head().ok_or_else(|| truncated(ip, DropReason::SctpTruncated))?;
    let (source_port, destination_port) = ports(header);
    if source_port == 0 || destination_port == 0 {
        return Err(DropReason::PortZero);
    }
    let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let chunk = header[COMMON_HEADER];
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    let chunks = view.length - COMMON_HEADER;
    let whole = !ip.is_first_fragment();
    let alone = !whole || length.next_multiple_of(4) >= chunks;
    let least = if matches!(chunk, INIT | INIT_ACK) { INIT_LENGTH } else { CHUNK_HEADER };
    let sole_chunk = matches!(chunk, INIT | INIT_ACK | SHUTDOWN_COMPLETE);
    let malformed = length < least
        || (whole && length > chunks)
        || (sole_chunk && !alone)
        // Section 8.5.1: an INIT has no tag yet, and everything else has one.
        || (chunk == INIT) != (tag == 0);
    if malformed {
        return Err(DropReason::SctpChunk);
    }
    Ok(Transport::Sctp { source_port, destination_port, tag, chunk })
}
