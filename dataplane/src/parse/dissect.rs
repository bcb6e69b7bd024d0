//! What a known flow's frame is recognised by, read into registers: for the frames that come most.
//!
//! [`dissect`] reads untagged Ethernet with TCP or UDP over IPv4 without options or IPv6 without extension headers, between
//! addresses that are nobody's in particular. Whatever it refuses is [`super::parse_into`]'s to read, and what it answers is
//! what that would read: a property test holds the two equal. Nothing is written to memory here: what is stored in pieces and
//! read back whole soon after waits for the store buffer.

use crate::packet::Protocol;

#[cfg(test)]
mod tests;

const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const IPV6: usize = ETHERNET + 40;
/// Bytes of a transport header that are looked at.
const TRANSPORT: usize = 8;

/// The 48 bits of a MAC address in a word.
pub(crate) const MAC: u64 = 0xffff_ffff_ffff;

/// Who talks to whom, in words as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dissected {
    /// The receiver's MAC address, as [`mac_word`] has it.
    pub(crate) destination_mac: u64,
    /// The sender's.
    pub(crate) source_mac: u64,
    /// The bytes of [`crate::address::Address`].
    pub(crate) source: [u64; 2],
    /// As `source`.
    pub(crate) destination: [u64; 2],
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// Where the transport header begins.
    pub(crate) transport_offset: u8,
    /// Bytes of transport header and payload.
    pub(crate) transport_length: u16,
}

/// A MAC address as a word, its first byte lowest.
#[inline(always)]
pub(crate) fn mac_word(bytes: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = bytes;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Eight bytes at an offset.
#[inline(always)]
fn eight<const N: usize>(b: &[u8; N], at: usize) -> [u8; 8] {
    // Spelled out, here and below: what is made of closures is a call where the profile has many codegen units.
    [b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5], b[at + 6], b[at + 7]]
}

/// The MAC address at an offset, as a word.
#[inline(always)]
fn mac<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes(eight(bytes, at)) & MAC
}

/// The four bytes at an offset as the number that the network has there.
#[inline(always)]
fn number<const N: usize>(b: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Reads a frame with an Ethernet header. `length` is that of all segments, at least that of `bytes`.
#[inline(always)]
pub(crate) fn dissect(bytes: &[u8], length: usize) -> Option<Dissected> {
    let shortest: &[u8; IPV4 + TRANSPORT] = bytes.first_chunk()?;
    // Neither comes from a group nor goes to one.
    if (shortest[0] | shortest[6]) & 1 != 0 {
        return None;
    }
    // The EtherType, and the first byte of the IP header.
    match number(shortest, 12) >> 8 {
        0x08_0045 => ipv4(shortest, length),
        0x86_dd60..=0x86_dd6f => ipv6(bytes.first_chunk()?, length),
        _ => None,
    }
}

/// Whether an IPv4 address, in host order, may be anybody's: not of 0/8, 127/8, nor 224/3.
#[inline(always)]
fn is_common(address: u32) -> bool {
    let first = address >> 24;
    first.wrapping_sub(1) < 223 && first != 127
}

#[inline(always)]
fn ipv4(bytes: &[u8; IPV4 + TRANSPORT], length: usize) -> Option<Dissected> {
    let total_length = (number(bytes, 16) >> 16) as usize;
    // More fragments to come, or an offset.
    let fragment = number(bytes, 18) & 0x3fff;
    let (source, destination) = (number(bytes, 26), number(bytes, 30));
    let transport_length = total_length.wrapping_sub(IPV4 - ETHERNET);
    let fits = total_length >= IPV4 - ETHERNET + TRANSPORT && total_length <= length - ETHERNET;
    if fragment != 0 || !fits || !is_common(source) || !is_common(destination) || !is_checksum_right(bytes) {
        return None;
    }
    let (source_port, destination_port, protocol) = transport(&bytes[IPV4..], bytes[23], transport_length)?;
    Some(Dissected {
        destination_mac: mac(bytes, 0),
        source_mac: mac(bytes, 6),
        source: mapped(source),
        destination: mapped(destination),
        source_port,
        destination_port,
        protocol,
        transport_offset: IPV4 as u8,
        transport_length: transport_length as u16,
    })
}

/// An IPv4 address, in host order, as [`crate::address::Address`] has it.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    [0, (0xffff << 32 | u64::from(address)).to_be()]
}

/// Whether the sum of the IPv4 header's words in ones' complement is all ones (RFC 1071).
#[inline(always)]
fn is_checksum_right(bytes: &[u8; IPV4 + TRANSPORT]) -> bool {
    let (low, high) = (u64::from_be_bytes(eight(bytes, 14)), u64::from_be_bytes(eight(bytes, 22)));
    let halves = (low >> 32) + (low & 0xffff_ffff) + (high >> 32) + (high & 0xffff_ffff);
    let sum = halves + u64::from(number(bytes, 30));
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[inline(always)]
fn ipv6(bytes: &[u8; IPV6 + TRANSPORT], length: usize) -> Option<Dissected> {
    let transport_length = (number(bytes, 18) >> 16) as usize;
    let source = [u64::from_ne_bytes(eight(bytes, 22)), u64::from_ne_bytes(eight(bytes, 30))];
    let destination = [u64::from_ne_bytes(eight(bytes, 38)), u64::from_ne_bytes(eight(bytes, 46))];
    let is_group = bytes[22] == 0xff || bytes[38] == 0xff;
    // ::/64 has the unspecified, the loopback and the IPv4-mapped addresses.
    let is_special = source[0] == 0 || destination[0] == 0;
    let fits = transport_length >= TRANSPORT && transport_length <= length - IPV6;
    if is_group || is_special || !fits {
        return None;
    }
    let (source_port, destination_port, protocol) = transport(&bytes[IPV6..], bytes[20], transport_length)?;
    Some(Dissected {
        destination_mac: mac(bytes, 0),
        source_mac: mac(bytes, 6),
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        transport_offset: IPV6 as u8,
        transport_length: transport_length as u16,
    })
}

/// The ports. A TCP header is looked at no further: what is wrong with it shows when it is read.
#[inline(always)]
fn transport(bytes: &[u8], protocol: u8, length: usize) -> Option<(u16, u16, Protocol)> {
    let header: &[u8; TRANSPORT] = bytes.first_chunk()?;
    let (ports, protocol) = (number(header, 0), Protocol(protocol));
    let (source, destination) = ((ports >> 16) as u16, ports as u16);
    let stated = (number(header, 4) >> 16) as usize;
    let is_right = match protocol {
        Protocol::UDP => stated >= TRANSPORT && stated <= length,
        Protocol::TCP => source != 0,
        _ => false,
    };
    (is_right && destination != 0).then_some((source, destination, protocol))
}
