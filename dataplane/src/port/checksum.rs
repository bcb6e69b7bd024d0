//! Internet checksums (RFC 1071) in software, and the completion of unfinished ones.
//!
//! A sender on this machine leaves the transport checksum to the device: the field holds the sum of the pseudo header
//! alone, and metadata says where the sum starts and where it belongs. A port that cannot pass the metadata on
//! completes the field with [`complete`]; one that never had the metadata (AF_XDP) finds such frames with
//! [`complete_unmarked`].

use crate::frame::{Checksum, Frame};

/// Offset of the checksum in an SCTP header, which tells SCTP apart: TCP's is 16, UDP's 6, ICMP's 2.
const SCTP_CHECKSUM_OFFSET: u16 = 8;

/// UDP ports of tunnels: VXLAN, the port that Linux used before it, and Geneve.
const VXLAN: u16 = 4789;
const LINUX_VXLAN: u16 = 8472;
const GENEVE: u16 = 6081;

/// The ones' complement sum of some bytes, not folded. Bytes at an odd end count as if a zero followed.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    // Eight bytes at a time in the machine's order, the carries kept apart: RFC 1071 section 2(B) lets the order of bytes
    // be put right once, at the end. Four sums at once, or each addition would wait for the carry of the one before.
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let mut totals = [0u64; 4];
    let mut carries = [0u64; 4];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for i in 0..4 {
            let (total, carry) = totals[i].overflowing_add(word(&block[i * 8..i * 8 + 8]));
            totals[i] = total;
            carries[i] += u64::from(carry);
        }
    }
    let mut total: u128 = totals.into_iter().chain(carries).map(u128::from).sum();
    let mut words = blocks.remainder().chunks_exact(8);
    for part in &mut words {
        total += u128::from(word(part));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u128::from(u64::from_ne_bytes(last));
    u64::from(u16::from_be_bytes(fold_wide(total).to_ne_bytes()))
}

fn fold_wide(total: u128) -> u16 {
    let (high, low) = ((total >> 64) as u64, total as u64);
    // 2^16 ≡ 1 in this arithmetic, so all halves weigh the same.
    fold((high & 0xffff_ffff) + (high >> 32) + (low & 0xffff_ffff) + (low >> 32))
}

/// Folds a sum into 16 bits.
#[inline]
pub fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum of some bytes: the complement of their folded sum.
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Completes an unfinished checksum in the frame's bytes and notes that nothing is left to be done. `false` when the
/// metadata does not fit the bytes (the frame is left alone and must not be sent); `true` when it was completed or
/// nothing was to be done.
pub fn complete(frame: &mut Frame) -> bool {
    let Checksum::Partial { start, offset } = frame.checksum else { return true };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > frame.bytes().len() {
        return false;
    }
    if offset == SCTP_CHECKSUM_OFFSET {
        if field + 4 > frame.bytes().len() {
            return false;
        }
        complete_sctp(frame, start, usize::MAX, field);
    } else {
        let value = !fold(sum_from(frame, start));
        store(frame, field, value);
    }
    frame.checksum = Checksum::Unknown;
    true
}

/// A checksum of zero is sent as 0xffff: it means the same in TCP, and in UDP zero says "no checksum" (RFC 768).
fn store(frame: &mut Frame, field: usize, value: u16) {
    let value = if value == 0 { 0xffff } else { value };
    frame.bytes_mut()[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of all bytes from `start` on, over all segments.
fn sum_from(frame: &Frame, start: usize) -> u64 {
    let mut total = 0;
    let mut position = 0;
    for bytes in frame.iter_bytes() {
        let skip = start.saturating_sub(position).min(bytes.len());
        let part = sum(&bytes[skip..]);
        // A part that begins at an odd distance from the start has its bytes swapped in the sum.
        let odd = (position + skip).saturating_sub(start) % 2 == 1;
        total += if odd { u64::from((part as u16).swap_bytes()) } else { part };
        position += bytes.len();
    }
    total
}

/// SCTP's checksum is a CRC32c over the packet with the field as zero (RFC 9260 appendix A), stored little-endian.
fn complete_sctp(frame: &mut Frame, start: usize, end: usize, field: usize) {
    frame.bytes_mut()[field..field + 4].fill(0);
    let mut crc = u32::MAX;
    let mut position = 0;
    for bytes in frame.iter_bytes() {
        let first = start.saturating_sub(position).min(bytes.len());
        let last = end.saturating_sub(position).min(bytes.len());
        crc = bytes[first..last].iter().fold(crc, |crc, &byte| CRC32C[usize::from(crc as u8 ^ byte)] ^ (crc >> 8));
        position += bytes.len();
    }
    frame.bytes_mut()[field..field + 4].copy_from_slice(&(!crc).to_le_bytes());
}

/// The table of CRC32c (Castagnoli), reflected.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Where a frame's transport header is, and what protects it.
struct Place {
    protocol: u8,
    start: usize,
    end: usize,
    /// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pseudo: u64,
}

/// Completes a checksum that its sender left to the device without telling us: the field then holds exactly the folded
/// sum of the pseudo header (zero in SCTP). Answers whether it did. Where a finished checksum happens to have that
/// value, completing it yields the same value again. For frames of devices whose far end is on this machine.
///
/// Of a packet in a tunnel, a sender leaves the inner checksum alone: the outer one is right once that is completed.
#[inline]
pub fn complete_unmarked(frame: &mut Frame) -> bool {
    if frame.segments() > 1 || frame.checksum != Checksum::Unknown || is_finished(frame.bytes()) {
        return false;
    }
    search(frame)
}

/// Whether a frame is of the common shape (no tag, no IP options or extension headers, TCP or UDP, no fragment, no
/// tunnel that is known here) and its checksum is finished. Almost all frames are; all others need a closer look.
#[inline]
fn is_finished(bytes: &[u8]) -> bool {
    const IPV4: usize = 34;
    const IPV6: usize = 54;
    let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u64::from(u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    if bytes.len() < IPV4 + 8 {
        return false;
    }
    let (protocol, length, transport, addresses) = match (half(12), bytes[14]) {
        (0x0800, 0x45) if half(20) & 0x3fff == 0 => {
            (bytes[23], usize::from(half(16)).wrapping_sub(20), IPV4, word(26) + word(30))
        }
        (0x86dd, 0x60..=0x6f) if bytes.len() >= IPV6 + 8 => {
            (bytes[20], usize::from(half(18)), IPV6, (22..54).step_by(4).map(word).sum())
        }
        _ => return false,
    };
    let field = match protocol {
        6 if bytes.len() >= transport + 18 => half(transport + 16),
        17 if !may_be_tunnel(half(transport + 2)) => half(transport + 6),
        _ => return false,
    };
    // A packet whose lengths do not fit its bytes is left to those who look closely.
    transport.saturating_add(length) <= bytes.len() && field != fold(addresses + u64::from(protocol) + length as u64)
}

/// Whether UDP to this port may carry packets in a tunnel.
#[inline]
fn may_be_tunnel(port: u16) -> bool {
    matches!(port, VXLAN | LINUX_VXLAN | GENEVE)
}

/// The search of [`complete_unmarked`] in full.
fn search(frame: &mut Frame) -> bool {
    let Some(outer) = locate(frame.bytes(), 0) else { return false };
    complete_at(frame, &outer) || tunnelled(frame.bytes(), &outer).is_some_and(|inner| complete_at(frame, &inner))
}

/// Completes the checksum of the transport header at this place if it is unfinished.
fn complete_at(frame: &mut Frame, place: &Place) -> bool {
    let offset = match place.protocol {
        6 => 16,
        17 => 6,
        132 => SCTP_CHECKSUM_OFFSET,
        _ => return false,
    };
    let (start, field) = (place.start, place.start + usize::from(offset));
    if offset == SCTP_CHECKSUM_OFFSET {
        let unfinished = frame.bytes().get(field..field + 4).is_some_and(|value| value == [0; 4]);
        if unfinished {
            complete_sctp(frame, start, place.end, field);
        }
        return unfinished;
    }
    let Some(value) = frame.bytes().get(field..field + 2) else { return false };
    if field + 2 > place.end || u16::from_be_bytes([value[0], value[1]]) != fold(place.pseudo) {
        return false;
    }
    // Ethernet padding after the packet does not belong to the sum.
    let value = !fold(sum(&frame.bytes()[start..place.end]));
    store(frame, field, value);
    true
}

/// The transport header of the packet in a tunnel: VXLAN (RFC 7348, and the port that Linux used before it), Geneve
/// (RFC 8926), IP in IP (RFC 2003, RFC 4213).
fn tunnelled(bytes: &[u8], outer: &Place) -> Option<Place> {
    const UDP_HEADER: usize = 8;
    const TUNNEL_HEADER: usize = 8;
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    match outer.protocol {
        4 => locate_ipv4(bytes, outer.start),
        41 => locate_ipv6(bytes, outer.start),
        17 => {
            let inner = outer.start + UDP_HEADER + TUNNEL_HEADER;
            match word(outer.start + 2)? {
                VXLAN | LINUX_VXLAN => locate(bytes, inner),
                GENEVE if word(outer.start + UDP_HEADER + 2)? == 0x6558 => {
                    let options = usize::from(bytes.get(outer.start + UDP_HEADER)? & 0x3f) * 4;
                    locate(bytes, inner + options)
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Finds the transport header of an unfragmented IP packet in the Ethernet frame with up to two tags that begins at an
/// offset.
fn locate(bytes: &[u8], frame: usize) -> Option<Place> {
    let mut at = frame + 12;
    let mut ether_type = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
    for _ in 0..2 {
        if matches!(ether_type, 0x8100 | 0x88a8) {
            at += 4;
            ether_type = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        }
    }
    let ip = at + 2;
    match ether_type {
        0x0800 => locate_ipv4(bytes, ip),
        0x86dd => locate_ipv6(bytes, ip),
        _ => None,
    }
}

fn locate_ipv4(bytes: &[u8], ip: usize) -> Option<Place> {
    let header = bytes.get(ip..ip + 20)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] >> 4 != 4 || length < 20 || total < length || ip + total > bytes.len() || fragment != 0 {
        return None;
    }
    let pseudo = sum(&header[12..20]) + u64::from(header[9]) + (total - length) as u64;
    Some(Place { protocol: header[9], start: ip + length, end: ip + total, pseudo })
}

fn locate_ipv6(bytes: &[u8], ip: usize) -> Option<Place> {
    let header = bytes.get(ip..ip + 40)?;
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = ip + 40 + payload;
    if header[0] >> 4 != 6 || payload == 0 || end > bytes.len() {
        return None;
    }
    let (mut next, mut start) = (header[6], ip + 40);
    // Hop-by-hop, routing, destination options: a sender's own stack writes few of them.
    for _ in 0..4 {
        if !matches!(next, 0 | 43 | 60) {
            break;
        }
        let extension = bytes.get(start..start + 2)?;
        next = extension[0];
        start += (usize::from(extension[1]) + 1) * 8;
    }
    if start >= end {
        return None;
    }
    let pseudo = sum(&header[8..40]) + u64::from(next) + (end - start) as u64;
    Some(Place { protocol: next, start, end, pseudo })
}

#[cfg(test)]
mod tests;
