//! Bytes to a [`Parsed`], or the reason why not.
//!
//! What a receiver behind the wire could read in two ways is not guessed at but dropped, with a [`DropReason`] of its
//! own for every malformed shape: what passes here means one thing. Header lengths are held against the lengths around
//! them, IPv4's header checksum is verified, and neither side of a wire can smuggle headers past the rules: source
//! routes, IPv6 home addresses, headers spread over fragments (RFC 1858, RFC 7112) and IPv4-mapped addresses are
//! refused.
//!
//! Checksums above IP are the receiver's to verify (they may be [partial](crate::frame::Checksum::Partial)), tunnelled
//! packets are payload (protocols 4, 41, 47, VXLAN), and nothing above the transport header is read but ICMP.
//!
//! The header views are etherparse's. What it leaves to its callers, or reads more laxly than a filter may, is done
//! here: IPv4 options, IPv6 options and their order, TCP options (etherparse stops at the first that it does not know),
//! SCTP, the packets that ICMP errors quote, neighbour discovery. Nothing here allocates or panics, for any bytes.
//!
//! Most frames are of a few shapes, which `common` reads at fixed offsets in a fraction of the time;
//! [`parse_thoroughly`] reads everything else and is the definition of both. Of a known flow's frame even less has to be
//! read: `dissect`.

mod common;
mod dissect;
mod icmp;
mod ip;
mod ipv4;
mod ipv6;
mod neighbour;
#[cfg(test)]
mod tests;
mod transport;

use etherparse::{ArpHardwareId, ArpPacketSlice, EtherType, Ethernet2HeaderSlice, SingleVlanHeaderSlice};

use crate::address::{Address, MacAddress};
use crate::frame::{Frame, VlanTag};
use crate::packet::{Arp, Link, Parsed, Payload};
use crate::verdict::DropReason;

pub(crate) use common::segment;
pub(crate) use dissect::{Dissected, MAC, dissect, mac_word};

/// What a frame starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// An Ethernet header.
    Ethernet,
    /// An IP header: the frames of `tun` ports.
    Ip,
}

/// EtherTypes at and above this are types; those below are lengths of IEEE 802.3 frames, or nothing.
const ETHERNET_II: u16 = 1536;

/// Reads a frame. Only the first segment's bytes are read: headers that reach beyond it count as cut short.
///
/// # Errors
/// The reason to drop the frame.
pub fn parse(frame: &Frame, medium: Medium) -> Result<Parsed, DropReason> {
    parse_bytes(frame.bytes(), frame.vlan, frame.length(), medium)
}

/// Reads a frame from its first segment's bytes. `vlan` is a tag that was delivered outside the bytes (the outermost
/// one), `total_length` the length of all segments.
///
/// # Errors
/// The reason to drop the frame.
#[inline]
pub fn parse_bytes(
    bytes: &[u8],
    vlan: Option<VlanTag>,
    total_length: usize,
    medium: Medium,
) -> Result<Parsed, DropReason> {
    let mut parsed = Parsed { link: Link::default(), payload: Payload::Llc };
    match read_common(bytes, vlan, total_length, medium, &mut parsed) {
        Some(()) => Ok(parsed),
        None => parse_thoroughly(bytes, vlan, total_length, medium),
    }
}

/// [`parse`] into place, over whatever is there.
///
/// # Errors
/// The reason to drop the frame; then nothing in `parsed` means anything.
#[inline]
pub fn parse_into(frame: &Frame, medium: Medium, parsed: &mut Parsed) -> Result<(), DropReason> {
    let (bytes, length) = (frame.bytes(), frame.length());
    if read_common(bytes, frame.vlan, length, medium, parsed).is_none() {
        *parsed = parse_thoroughly(bytes, frame.vlan, length, medium)?;
    }
    Ok(())
}

#[inline]
fn read_common(
    bytes: &[u8],
    vlan: Option<VlanTag>,
    total_length: usize,
    medium: Medium,
    parsed: &mut Parsed,
) -> Option<()> {
    let length = total_length.max(bytes.len());
    match medium {
        Medium::Ethernet => common::ethernet(bytes, vlan, length, parsed),
        Medium::Ip => common::ip(bytes, vlan, length, parsed),
    }
}

/// What [`parse_bytes`] does, for every shape of frame: the definition that its shorter way is held against.
///
/// # Errors
/// The reason to drop the frame.
#[cold]
#[inline(never)]
pub fn parse_thoroughly(
    bytes: &[u8],
    vlan: Option<VlanTag>,
    total_length: usize,
    medium: Medium,
) -> Result<Parsed, DropReason> {
    let view = View { bytes, length: total_length.max(bytes.len()), offset: 0 };
    match medium {
        Medium::Ethernet => ethernet(view, vlan),
        Medium::Ip => {
            let packet = match bytes.first().ok_or(DropReason::FrameTooShort)? >> 4 {
                4 => ipv4::parse(view)?,
                6 => ipv6::parse(view)?,
                _ => return Err(DropReason::IpVersion),
            };
            Ok(Parsed { link: Link { vlan: [vlan, None], ..Link::default() }, payload: Payload::Ip(packet) })
        }
    }
}

/// What is left to read of a frame.
#[derive(Clone, Copy)]
struct View<'a> {
    /// The bytes that can be read: of the first segment, up to the end that the headers before have stated.
    bytes: &'a [u8],
    /// How many bytes there are in all segments, up to that end; at least `bytes.len()`.
    length: usize,
    /// Where `bytes` starts in the frame.
    offset: usize,
}

impl<'a> View<'a> {
    /// What follows the next `count` bytes.
    fn skip(self, count: usize) -> View<'a> {
        View {
            bytes: self.bytes.get(count..).unwrap_or(&[]),
            length: self.length.saturating_sub(count),
            offset: self.offset + count,
        }
    }

    /// The next `length` bytes.
    fn limit(self, length: usize) -> View<'a> {
        View { bytes: &self.bytes[..self.bytes.len().min(length)], length: self.length.min(length), ..self }
    }

    /// The first `N` bytes, if they are there.
    fn head<const N: usize>(self) -> Option<&'a [u8; N]> {
        self.bytes.first_chunk()
    }
}

fn ethernet(view: View<'_>, outer: Option<VlanTag>) -> Result<Parsed, DropReason> {
    let header = Ethernet2HeaderSlice::from_slice(view.bytes).map_err(|_| DropReason::FrameTooShort)?;
    let mut link = Link {
        source: MacAddress(header.source()),
        destination: MacAddress(header.destination()),
        vlan: [outer, None],
    };
    if link.source.is_group() {
        return Err(DropReason::SourceMacGroup);
    }
    let mut ether_type = header.ether_type();
    let mut view = view.skip(header.slice().len());
    while matches!(ether_type, EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING) {
        let tag = SingleVlanHeaderSlice::from_slice(view.bytes).map_err(|_| DropReason::FrameTooShort)?;
        let free = link.vlan.iter_mut().find(|slot| slot.is_none()).ok_or(DropReason::VlanTooDeep)?;
        let control = u16::from_be_bytes([tag.slice()[0], tag.slice()[1]]);
        *free = Some(VlanTag { protocol: ether_type.0, control });
        ether_type = tag.ether_type();
        view = view.skip(tag.slice().len());
    }
    let payload = match ether_type {
        EtherType::IPV4 => Payload::Ip(ipv4::parse(view)?),
        EtherType::IPV6 => Payload::Ip(ipv6::parse(view)?),
        EtherType::ARP => Payload::Arp(arp(view)?),
        EtherType(length) if length < ETHERNET_II => Payload::Llc,
        EtherType(other) => Payload::Other(other),
    };
    Ok(Parsed { link, payload })
}

/// An ARP request or reply for IPv4 over Ethernet (RFC 826).
fn arp(view: View<'_>) -> Result<Arp, DropReason> {
    let arp = ArpPacketSlice::from_slice(view.bytes).map_err(|_| DropReason::ArpMalformed)?;
    let ours = arp.hw_addr_type() == ArpHardwareId::ETHERNET && arp.proto_addr_type() == EtherType::IPV4;
    let mac = |bytes: &[u8]| bytes.try_into().map(MacAddress).map_err(|_| DropReason::ArpMalformed);
    let address = |bytes: &[u8]| bytes.try_into().map(Address::v4).map_err(|_| DropReason::ArpMalformed);
    let operation = arp.operation().0;
    if !ours || !matches!(operation, 1 | 2) {
        return Err(DropReason::ArpMalformed);
    }
    Ok(Arp {
        operation,
        sender_mac: mac(arp.sender_hw_addr())?,
        sender: address(arp.sender_protocol_addr())?,
        target_mac: mac(arp.target_hw_addr())?,
        target: address(arp.target_protocol_addr())?,
    })
}
