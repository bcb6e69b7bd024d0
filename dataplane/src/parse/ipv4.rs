//! IPv4 (RFC 791).

use etherparse::Ipv4HeaderSlice;
use etherparse::checksum::Sum16BitWords;
use etherparse::err::ipv4::{HeaderError, HeaderSliceError};

use super::View;
use super::ip::{IpHeader, finish};
use crate::address::Address;
use crate::packet::{Fragment, Packet, Protocol};
use crate::verdict::DropReason;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Reads an IPv4 packet. Bytes after its total length are the medium's padding and are ignored. An authentication
/// header (protocol 51) is not walked: as with netfilter, such packets are judged as protocol 51.
pub(super) fn parse(view: View<'_>) -> Result<Packet, DropReason> {
    let header = Ipv4HeaderSlice::from_slice(view.bytes).map_err(|error| match error {
        HeaderSliceError::Len(_) => DropReason::Ipv4HeaderTruncated,
        HeaderSliceError::Content(HeaderError::UnexpectedVersion { .. }) => DropReason::Ipv4VersionMismatch,
        HeaderSliceError::Content(HeaderError::HeaderLengthSmallerThanHeader { .. }) => DropReason::Ipv4HeaderLength,
    })?;
    let header_length = header.slice().len();
    let total_length = total_length(&header, view.length);
    if total_length < header_length {
        return Err(DropReason::Ipv4HeaderLength);
    }
    if total_length > view.length {
        return Err(DropReason::Ipv4TotalLength);
    }
    if Sum16BitWords::new().add_slice(header.slice()).ones_complement() != 0 {
        return Err(DropReason::Ipv4Checksum);
    }
    check_options(header.options())?;
    let fragment = fragment(&header, total_length - header_length);
    let ip = IpHeader {
        source: Address::v4(header.source()),
        destination: Address::v4(header.destination()),
        protocol: Protocol(header.protocol().0),
        hop_limit: header.ttl(),
        fragment,
        fragment_header: fragment.is_some(),
        repeated_length: header_length,
    };
    finish(&ip, view.limit(total_length).skip(header_length))
}

/// The packet's length. Linux writes zero into super-frames of TCP that are too long for the field ("BIG TCP").
fn total_length(header: &Ipv4HeaderSlice<'_>, available: usize) -> usize {
    let stated = usize::from(header.total_len());
    let big_tcp = stated == 0 && available > usize::from(u16::MAX) && header.protocol().0 == Protocol::TCP.0;
    if big_tcp { available } else { stated }
}

fn fragment(header: &Ipv4HeaderSlice<'_>, length: usize) -> Option<Fragment> {
    header.is_fragmenting_payload().then(|| Fragment {
        id: u32::from(header.identification()),
        // Thirteen bits in units of eight: up to 65,528.
        offset: u32::from(header.fragments_offset().value()) * 8,
        more: header.more_fragments(),
        length: length as u32,
    })
}

/// Walks the options: a source route would make the destination another than the one that is judged (RFC 7126
/// sections 4.3 and 4.4); all other well-formed options are the receiver's business.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let Some((&kind, rest)) = options.split_first() {
        options = match kind {
            END_OF_OPTIONS => return Ok(()),
            NO_OPERATION => rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::Ipv4Options),
            _ => match rest.first() {
                Some(&length) if length >= 2 => options.get(usize::from(length)..).ok_or(DropReason::Ipv4Options)?,
                _ => return Err(DropReason::Ipv4Options),
            },
        };
    }
    Ok(())
}
