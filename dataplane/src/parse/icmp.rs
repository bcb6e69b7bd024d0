//! ICMP (RFC 792), ICMPv6 (RFC 4443), and the packets that their errors quote.

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::ip::IpHeader;
use super::transport::{ports, truncated};
use super::{View, ipv6, neighbour};
use crate::address::Address;
use crate::packet::{Icmp, IcmpMessage, Protocol, Quoted, Transport};
use crate::verdict::DropReason;

const HEADER: usize = 8;

/// Reads an ICMP message. Source quench (type 4) counts as no error, because nobody may heed it (RFC 6633); a
/// redirect (type 5) does, because it quotes the packet that it is about.
pub(super) fn v4(ip: &IpHeader, view: View<'_>) -> Result<Transport, DropReason> {
    const ECHO_REPLY: u8 = 0;
    const UNREACHABLE: u8 = 3;
    const REDIRECT: u8 = 5;
    const ECHO_REQUEST: u8 = 8;
    const TIME_EXCEEDED: u8 = 11;
    const PARAMETER_PROBLEM: u8 = 12;
    const FRAGMENTATION_NEEDED: u8 = 4;
    let header: &[u8; HEADER] = view.head().ok_or_else(|| truncated(ip, DropReason::IcmpTruncated))?;
    let [kind, code, _, _, a, b, c, d] = *header;
    let message = match kind {
        ECHO_REQUEST => IcmpMessage::EchoRequest(u16::from_be_bytes([a, b])),
        ECHO_REPLY => IcmpMessage::EchoReply(u16::from_be_bytes([a, b])),
        UNREACHABLE | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM => {
            refuse_fragment(ip)?;
            let too_big = kind == UNREACHABLE && code == FRAGMENTATION_NEEDED;
            let mtu = too_big.then(|| u32::from(u16::from_be_bytes([c, d])));
            IcmpMessage::Error { mtu, quoted: quoted_v4(view.skip(HEADER))? }
        }
        _ => IcmpMessage::Other,
    };
    Ok(Transport::Icmp(Icmp { kind, code, message }))
}

/// Reads an ICMPv6 message.
pub(super) fn v6(ip: &IpHeader, view: View<'_>) -> Result<Transport, DropReason> {
    const UNREACHABLE: u8 = 1;
    const PACKET_TOO_BIG: u8 = 2;
    const PARAMETER_PROBLEM: u8 = 4;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    let header: &[u8; HEADER] = view.head().ok_or_else(|| truncated(ip, DropReason::IcmpTruncated))?;
    let [kind, code, _, _, a, b, c, d] = *header;
    let message = match kind {
        ECHO_REQUEST => IcmpMessage::EchoRequest(u16::from_be_bytes([a, b])),
        ECHO_REPLY => IcmpMessage::EchoReply(u16::from_be_bytes([a, b])),
        UNREACHABLE..=PARAMETER_PROBLEM => {
            refuse_fragment(ip)?;
            let mtu = (kind == PACKET_TOO_BIG).then(|| u32::from_be_bytes([a, b, c, d]));
            IcmpMessage::Error { mtu, quoted: quoted_v6(view.skip(HEADER))? }
        }
        neighbour::ROUTER_SOLICITATION..=neighbour::REDIRECT => {
            refuse_fragment(ip)?;
            IcmpMessage::Neighbour(neighbour::parse(ip, kind, code, view)?)
        }
        130..=132 | 143 => {
            refuse_fragment(ip)?;
            check_listener(ip, kind, view.length)?;
            IcmpMessage::MulticastListener
        }
        _ => IcmpMessage::Other,
    };
    Ok(Transport::Icmp(Icmp { kind, code, message }))
}

/// Messages that are short by nature, and that pass on what they say, do not come in pieces (RFC 6980), not even in
/// one piece.
fn refuse_fragment(ip: &IpHeader) -> Result<(), DropReason> {
    if ip.fragment_header { Err(DropReason::IcmpFragmented) } else { Ok(()) }
}

/// Multicast listener messages stay on the link: from a link-local or no address, with hop limit 1 (RFC 2710 section 3,
/// RFC 3810 section 5).
fn check_listener(ip: &IpHeader, kind: u8, length: usize) -> Result<(), DropReason> {
    const REPORT_V2: u8 = 143;
    let least = if kind == REPORT_V2 { 8 } else { 24 };
    let on_link = ip.source.is_link_local() || ip.source.is_unspecified();
    if ip.hop_limit == 1 && on_link && length >= least { Ok(()) } else { Err(DropReason::ListenerMalformed) }
}

/// Reads the start of an IPv4 packet. Its checksum and lengths are not held against anything: who quotes it may have
/// cut it, and may have changed its TTL before. What it says counts only if a flow knows it.
fn quoted_v4(view: View<'_>) -> Result<Quoted, DropReason> {
    let header = Ipv4HeaderSlice::from_slice(view.bytes).map_err(|error| match error {
        etherparse::err::ipv4::HeaderSliceError::Len(_) => DropReason::IcmpQuoteTruncated,
        etherparse::err::ipv4::HeaderSliceError::Content(_) => DropReason::IcmpQuoteMalformed,
    })?;
    let later = header.fragments_offset().value() > 0;
    quoted_transport(
        Address::v4(header.source()),
        Address::v4(header.destination()),
        Protocol(header.protocol().0),
        (!later).then(|| view.skip(header.slice().len()).bytes),
    )
}

/// Reads the start of an IPv6 packet, its extension headers included.
fn quoted_v6(view: View<'_>) -> Result<Quoted, DropReason> {
    let header = Ipv6HeaderSlice::from_slice(view.bytes).map_err(|error| match error {
        etherparse::err::ipv6::HeaderSliceError::Len(_) => DropReason::IcmpQuoteTruncated,
        etherparse::err::ipv6::HeaderSliceError::Content(_) => DropReason::IcmpQuoteMalformed,
    })?;
    let (source, destination) = (Address::v6(header.source()), Address::v6(header.destination()));
    // An IPv4-mapped address would be taken for the IPv4 address itself, and match its flows.
    if source.is_v4() || destination.is_v4() {
        return Err(DropReason::IcmpQuoteMalformed);
    }
    let chain = ipv6::walk(header.next_header(), view.skip(header.slice().len())).map_err(|reason| match reason {
        DropReason::Ipv6ExtensionTruncated | DropReason::FragmentTiny => DropReason::IcmpQuoteTruncated,
        _ => DropReason::IcmpQuoteMalformed,
    })?;
    let later = chain.fragment.is_some_and(|fragment| fragment.offset > 0);
    quoted_transport(source, destination, Protocol(chain.next.0), (!later).then_some(chain.rest.bytes))
}

/// Reads the first eight bytes of a quoted transport header, which is all that an error needs to quote (RFC 792).
fn quoted_transport(
    source: Address,
    destination: Address,
    protocol: Protocol,
    transport: Option<&[u8]>,
) -> Result<Quoted, DropReason> {
    let mut quoted = Quoted { source, destination, protocol, source_port: 0, destination_port: 0, sequence: None };
    let Some(transport) = transport else { return Ok(quoted) };
    let own_icmp = protocol == if source.is_v4() { Protocol::ICMP } else { Protocol::ICMPV6 };
    if !protocol.has_ports() && !own_icmp {
        return Ok(quoted);
    }
    let header: &[u8; HEADER] = transport.first_chunk().ok_or(DropReason::IcmpQuoteTruncated)?;
    if own_icmp {
        let echo = if source.is_v4() { matches!(header[0], 0 | 8) } else { matches!(header[0], 128 | 129) };
        if echo {
            let id = u16::from_be_bytes([header[4], header[5]]);
            (quoted.source_port, quoted.destination_port) = (id, id);
        }
        return Ok(quoted);
    }
    (quoted.source_port, quoted.destination_port) = ports(header);
    if protocol == Protocol::TCP {
        quoted.sequence = Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
    }
    Ok(quoted)
}
