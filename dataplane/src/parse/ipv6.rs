//! IPv6 and its extension headers (RFC 8200).

use etherparse::err::ipv6::{HeaderError, HeaderSliceError};
use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, ip_number,
};

use super::View;
use super::ip::{IpHeader, finish};
use crate::address::Address;
use crate::packet::{Fragment, Packet, Protocol};
use crate::verdict::DropReason;

/// How many extension headers are read.
pub(super) const MAX_EXTENSIONS: usize = 8;

const PAD_1: u8 = 0;
const HOME_ADDRESS: u8 = 0xc9;

/// Reads an IPv6 packet. Bytes after its payload length are the medium's padding and are ignored.
pub(super) fn parse(view: View<'_>) -> Result<Packet, DropReason> {
    let header = Ipv6HeaderSlice::from_slice(view.bytes).map_err(|error| match error {
        HeaderSliceError::Len(_) => DropReason::Ipv6HeaderTruncated,
        HeaderSliceError::Content(HeaderError::UnexpectedVersion { .. }) => DropReason::Ipv6VersionMismatch,
    })?;
    let after = view.skip(header.slice().len());
    let length = payload_length(&header, after.length)?;
    if length > after.length {
        return Err(DropReason::Ipv6PayloadLength);
    }
    let source = Address::v6(header.source());
    let destination = Address::v6(header.destination());
    // An IPv4-mapped address would be taken for the IPv4 address itself from here on.
    if source.is_v4() {
        return Err(DropReason::MartianSource);
    }
    if destination.is_v4() {
        return Err(DropReason::MartianDestination);
    }
    let chain = walk(header.next_header(), after.limit(length))?;
    if chain.next == ip_number::IPV6_NO_NEXT_HEADER {
        return Err(DropReason::Ipv6NoNextHeader);
    }
    let ip = IpHeader {
        source,
        destination,
        protocol: Protocol(chain.next.0),
        hop_limit: header.hop_limit(),
        fragment: chain.fragment.filter(|fragment| fragment.offset > 0 || fragment.more),
        fragment_header: chain.fragment.is_some(),
        repeated_length: 0,
    };
    finish(&ip, chain.rest)
}

/// The length of what follows the header. Zero stands for a jumbogram (RFC 2675), which nobody sends, or for a
/// super-frame of TCP that is too long for the field (Linux's "BIG TCP", with or without the jumbogram's option).
fn payload_length(header: &Ipv6HeaderSlice<'_>, available: usize) -> Result<usize, DropReason> {
    match (header.payload_length(), header.next_header()) {
        (0, ip_number::TCP | ip_number::IPV6_HOP_BY_HOP) if available > usize::from(u16::MAX) => Ok(available),
        (0, ip_number::IPV6_HOP_BY_HOP) => Err(DropReason::Ipv6PayloadLength),
        (length, _) => Ok(usize::from(length)),
    }
}

/// The end of a walk along the extension headers.
pub(super) struct Chain<'a> {
    /// The protocol above IPv6. In a later fragment, what the fragment header names: it may be an extension header.
    pub(super) next: IpNumber,
    /// The fragment header, of a whole packet too.
    pub(super) fragment: Option<Fragment>,
    /// What follows the headers.
    pub(super) rest: View<'a>,
}

/// Walks the extension headers: at most [`MAX_EXTENSIONS`], hop-by-hop options first only, routing, fragment and
/// authentication headers once (RFC 8200 section 4.1). What cannot be told to be an extension header ends the walk as
/// the packet's protocol.
pub(super) fn walk(first: IpNumber, view: View<'_>) -> Result<Chain<'_>, DropReason> {
    let mut chain = Chain { next: first, fragment: None, rest: view };
    let mut seen = [false; 3];
    for index in 0..=MAX_EXTENSIONS {
        let once = match chain.next {
            ip_number::IPV6_HOP_BY_HOP if index > 0 => return Err(DropReason::Ipv6ExtensionOrder),
            ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_DEST_OPTIONS => None,
            ip_number::IPV6_ROUTE => Some(&mut seen[0]),
            ip_number::IPV6_FRAG => Some(&mut seen[1]),
            ip_number::AUTH => Some(&mut seen[2]),
            _ => return Ok(chain),
        };
        if index == MAX_EXTENSIONS {
            return Err(DropReason::Ipv6ExtensionLimit);
        }
        if once.is_some_and(|seen| std::mem::replace(seen, true)) {
            return Err(DropReason::Ipv6ExtensionOrder);
        }
        let first_fragment = chain.fragment.is_some_and(|fragment| fragment.more);
        step(&mut chain).map_err(|reason| match reason {
            // RFC 7112: the first fragment holds all headers.
            DropReason::Ipv6ExtensionTruncated if first_fragment => DropReason::FragmentTiny,
            other => other,
        })?;
        if chain.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Ok(chain);
        }
    }
    Err(DropReason::Ipv6ExtensionLimit)
}

/// Reads one extension header and goes past it.
fn step(chain: &mut Chain<'_>) -> Result<(), DropReason> {
    const TRUNCATED: DropReason = DropReason::Ipv6ExtensionTruncated;
    let bytes = chain.rest.bytes;
    let (next, length) = match chain.next {
        ip_number::IPV6_FRAG => {
            let header = Ipv6FragmentHeaderSlice::from_slice(bytes).map_err(|_| TRUNCATED)?;
            chain.fragment = Some(Fragment {
                id: header.identification(),
                // Thirteen bits in units of eight: up to 65,528.
                offset: u32::from(header.fragment_offset().value()) * 8,
                more: header.more_fragments(),
                length: (chain.rest.length - header.slice().len()) as u32,
            });
            (header.next_header(), header.slice().len())
        }
        ip_number::AUTH => {
            let header = IpAuthHeaderSlice::from_slice(bytes).map_err(|_| TRUNCATED)?;
            (header.next_header(), header.slice().len())
        }
        kind => {
            let header = Ipv6RawExtHeaderSlice::from_slice(bytes).map_err(|_| TRUNCATED)?;
            match kind {
                ip_number::IPV6_ROUTE => check_routing(header.payload())?,
                _ => check_options(header.payload())?,
            }
            (header.next_header(), header.slice().len())
        }
    };
    chain.next = next;
    chain.rest = chain.rest.skip(length);
    Ok(())
}

/// Type 0 is forbidden (RFC 5095). Any other with segments left would make the destination another than the one
/// that is judged.
fn check_routing(body: &[u8]) -> Result<(), DropReason> {
    match body {
        [kind, segments_left, ..] if *kind != 0 && *segments_left == 0 => Ok(()),
        _ => Err(DropReason::Ipv6RoutingHeader),
    }
}

/// Walks the options: a home address (RFC 6275 section 6.3) would make the source another than the one that is
/// judged; all other well-formed options are the receiver's business.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let Some((&kind, rest)) = options.split_first() {
        options = match (kind, rest.first()) {
            (PAD_1, _) => rest,
            (HOME_ADDRESS, _) | (_, None) => return Err(DropReason::Ipv6Options),
            (_, Some(&length)) => options.get(2 + usize::from(length)..).ok_or(DropReason::Ipv6Options)?,
        };
    }
    Ok(())
}
