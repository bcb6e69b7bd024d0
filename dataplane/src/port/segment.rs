//! Segmentation of super-frames in software, for ports whose devices take one packet at a time.
//!
//! A super-frame's headers stand for those of each of its segments: every segment gets a copy with lengths, identification,
//! sequence number, flags and checksums of its own (what the kernel's `skb_segment` and `tcp_gso_segment` do).

use std::io;

use crate::frame::{Checksum, Frame, GsoKind, VlanTag};
use crate::port::{checksum, vnet};

/// Bytes of the two MAC addresses, after which a tag belongs.
const MAC_ADDRESSES: usize = 12;

/// Bytes of a tag.
const TAG: usize = 4;

/// TCP's flags, as bits of the 14th header byte.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// How a frame is sent as packets that carry no metadata: one, or the segments of a super-frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    tag: Option<VlanTag>,
    length: usize,
    split: Option<Split>,
}

/// Where a super-frame's headers are and how its payload is cut.
#[derive(Clone, Copy, Debug)]
struct Split {
    kind: GsoKind,
    is_ipv4: bool,
    ip: usize,
    transport: usize,
    /// Offset of the checksum field from the frame's start.
    field: usize,
    payload: usize,
    size: usize,
    /// What carries the packet, if it is in a tunnel; the offsets above are those of the inner packet then.
    outer: Option<Outer>,
}

/// The headers in front of a tunnelled packet that tell its length.
#[derive(Clone, Copy, Debug)]
struct Outer {
    is_ipv4: bool,
    ip: usize,
    /// What follows the IP header.
    next: usize,
    /// Whether that is UDP.
    is_udp: bool,
}

/// Whether a frame is a super-frame in a tunnel: a virtio header cannot say so, and a kernel that reads one would
/// take the inner packet's segmentation for the outer's.
pub(crate) fn is_tunnelled(frame: &Frame) -> bool {
    let Checksum::Partial { start, .. } = frame.checksum else { return false };
    frame.gso.is_some() && Outer::find(frame.bytes(), usize::from(start)).is_some()
}

impl Outer {
    /// The outer headers, when the transport header at `transport` is not that of the frame's first IP header.
    fn find(bytes: &[u8], transport: usize) -> Option<Outer> {
        let (ether_type, ip) = network(bytes)?;
        let is_ipv4 = ether_type == 0x0800;
        let (protocol, next) = match ether_type {
            0x0800 => (*bytes.get(ip + 9)?, ip + usize::from(bytes.get(ip)? & 0x0f) * 4),
            0x86dd => (*bytes.get(ip + 6)?, ip + 40),
            _ => return None,
        };
        let is_udp = protocol == 17;
        let tunnel = is_udp || matches!(protocol, 4 | 41 | 47);
        let sound = next >= ip + 20 && next < transport;
        (tunnel && sound).then_some(Outer { is_ipv4, ip, next, is_udp })
    }

    /// Where the inner packet begins at the earliest.
    fn end(&self) -> usize {
        self.next + if self.is_udp { 8 } else { 0 }
    }

    /// Corrects lengths, identification and checksums for a segment, whose inner packet is done.
    fn finish(&self, i: usize, out: &mut [u8]) {
        finish_ip(self.is_ipv4, self.ip, self.next, i, out);
        if !self.is_udp {
            return;
        }
        let (udp, end) = (self.next, out.len());
        let length = (end - udp) as u16;
        out[udp + 4..udp + 6].copy_from_slice(&length.to_be_bytes());
        // Zero says that there is none (RFC 768, RFC 6935).
        if out[udp + 6..udp + 8] == [0, 0] {
            return;
        }
        out[udp + 6..udp + 8].fill(0);
        let addresses = if self.is_ipv4 { self.ip + 12..self.ip + 20 } else { self.ip + 8..self.ip + 40 };
        let pseudo = checksum::sum(&out[addresses]) + 17 + u64::from(length);
        let value = !checksum::fold(pseudo + checksum::sum(&out[udp..end]));
        let value = if value == 0 { 0xffff } else { value };
        out[udp + 6..udp + 8].copy_from_slice(&value.to_be_bytes());
    }
}

/// Corrects an IP header for segment `i`: length, identification, header checksum. The header ends at `next` at the
/// latest.
fn finish_ip(is_ipv4: bool, ip: usize, next: usize, i: usize, out: &mut [u8]) {
    let end = out.len();
    let put = |out: &mut [u8], at: usize, value: u16| out[at..at + 2].copy_from_slice(&value.to_be_bytes());
    if !is_ipv4 {
        put(out, ip + 4, (end - ip - 40) as u16);
        return;
    }
    put(out, ip + 2, (end - ip) as u16);
    let identification = u16::from_be_bytes([out[ip + 4], out[ip + 5]]).wrapping_add(i as u16);
    put(out, ip + 4, identification);
    put(out, ip + 10, 0);
    let header = usize::from(out[ip] & 0x0f) * 4;
    let sum = checksum::of(&out[ip..ip + header.clamp(20, next - ip)]);
    put(out, ip + 10, sum);
}

/// Sends a tunnelled super-frame segment by segment: each is written behind a virtio header that says that it is
/// complete, and given to `send`. The answer is `false` when it cannot be segmented.
///
/// # Errors
/// That of `send`, and how many segments had been sent before.
pub(crate) fn send_each(
    frame: &Frame,
    longest: usize,
    scratch: &mut Vec<u8>,
    mut send: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<bool, (io::Error, usize)> {
    let Some(plan) = Plan::new(frame).filter(|plan| plan.longest() <= longest) else { return Ok(false) };
    // Grows once: the memory stays for the next one.
    scratch.clear();
    scratch.resize(vnet::LENGTH + plan.longest(), 0);
    for i in 0..plan.count() {
        let length = plan.write(frame, i, &mut scratch[vnet::LENGTH..]);
        send(&scratch[..vnet::LENGTH + length]).map_err(|error| (error, i))?;
    }
    Ok(true)
}

impl Plan {
    /// The plan for a frame whose checksum is complete, or which is a super-frame with an unfinished one. `None` when its
    /// metadata does not fit its bytes, or it cannot be segmented (UDP fragmentation, several pieces in memory).
    pub(crate) fn new(frame: &Frame) -> Option<Plan> {
        let length = frame.bytes().len();
        if frame.segments() > 1 || length == 0 || frame.vlan.is_some() && length < MAC_ADDRESSES {
            return None;
        }
        let split = match frame.gso {
            None => None,
            Some(_) => Some(Split::new(frame)?),
        };
        Some(Plan { tag: frame.vlan, length, split })
    }

    /// Number of packets.
    pub(crate) fn count(&self) -> usize {
        self.split.map_or(1, |split| (self.length - split.payload).div_ceil(split.size).max(1))
    }

    /// The length of the longest packet.
    pub(crate) fn longest(&self) -> usize {
        let bytes = self.split.map_or(self.length, |split| self.length.min(split.payload + split.size));
        bytes + if self.tag.is_some() { TAG } else { 0 }
    }

    /// Writes packet `i`; the answer is its length. `out` must have room for [`Plan::longest`].
    pub(crate) fn write(&self, frame: &Frame, i: usize, out: &mut [u8]) -> usize {
        let bytes = frame.bytes();
        let (head, from, to) = match self.split {
            None => (self.length, self.length, self.length),
            Some(split) => {
                let from = split.payload + i * split.size;
                (split.payload, from, self.length.min(from + split.size))
            }
        };
        let mut at = 0;
        let mut put = |part: &[u8]| {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        match self.tag {
            None => put(&bytes[..head]),
            Some(tag) => {
                put(&bytes[..MAC_ADDRESSES]);
                put(&tag.protocol.to_be_bytes());
                put(&tag.control.to_be_bytes());
                put(&bytes[MAC_ADDRESSES..head]);
            }
        }
        put(&bytes[from..to]);
        if let Some(split) = self.split {
            let shift = if self.tag.is_some() { TAG } else { 0 };
            split.finish(self.length, i, i + 1 == self.count(), &mut out[shift..at]);
        }
        at
    }
}

impl Split {
    fn new(frame: &Frame) -> Option<Split> {
        let (gso, bytes) = (frame.gso?, frame.bytes());
        let Checksum::Partial { start, offset } = frame.checksum else { return None };
        let (transport, field) = (usize::from(start), usize::from(start) + usize::from(offset));
        let outer = Outer::find(bytes, transport);
        let (ether_type, ip) = match outer {
            None => network(bytes)?,
            Some(outer) => inner_network(bytes, outer.end(), transport)?,
        };
        let is_ipv4 = ether_type == 0x0800;
        let (least, header) = match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => (20, usize::from(bytes.get(transport + 12)? >> 4) * 4),
            GsoKind::UdpL4 => (8, 8),
            GsoKind::Udp => return None,
        };
        let fits = match gso.kind {
            GsoKind::TcpV4 => is_ipv4,
            GsoKind::TcpV6 => ether_type == 0x86dd,
            _ => is_ipv4 || ether_type == 0x86dd,
        };
        let ip_header = if is_ipv4 { 20 } else { 40 };
        let payload = transport + header;
        let sound = fits
            && gso.size > 0
            && header >= least
            && ip + ip_header <= transport
            && payload <= bytes.len()
            && field + 2 <= payload;
        sound.then_some(Split { kind: gso.kind, is_ipv4, ip, transport, field, payload, size: gso.size.into(), outer })
    }

    /// Corrects the copied headers of segment `i`. `out` starts where the frame's own bytes would, but for a tag: the offsets
    /// after it fit.
    fn finish(&self, whole: usize, i: usize, is_last: bool, out: &mut [u8]) {
        let end = out.len();
        let put = |out: &mut [u8], at: usize, value: u16| out[at..at + 2].copy_from_slice(&value.to_be_bytes());
        finish_ip(self.is_ipv4, self.ip, self.transport, i, out);
        match self.kind {
            GsoKind::UdpL4 | GsoKind::Udp => put(out, self.transport + 4, (end - self.transport) as u16),
            GsoKind::TcpV4 | GsoKind::TcpV6 => {
                let at = self.transport + 4;
                let sequence = u32::from_be_bytes([out[at], out[at + 1], out[at + 2], out[at + 3]]);
                let sequence = sequence.wrapping_add((i * self.size) as u32);
                out[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
                let flags = &mut out[self.transport + 13];
                *flags &= if is_last { !0 } else { !(FIN | PSH) };
                *flags &= if i == 0 { !0 } else { !CWR };
            }
        }
        // The field holds the pseudo header's sum with the whole super-frame's length; taking that out and putting the
        // segment's in leaves the rest of the pseudo header, whatever extension headers made of it.
        let old = checksum::fold((whole - self.transport) as u64);
        let sum = checksum::sum(&out[self.transport..end]) + u64::from(!old) + (end - self.transport) as u64;
        let value = !checksum::fold(sum);
        put(out, self.field, if value == 0 { 0xffff } else { value });
        if let Some(outer) = self.outer {
            outer.finish(i, out);
        }
    }
}

/// The EtherType and offset of what an Ethernet frame carries behind up to two tags in the bytes.
fn network(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut at = MAC_ADDRESSES;
    for _ in 0..3 {
        let ether_type = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            return Some((ether_type, at + 2));
        }
        at += TAG;
    }
    None
}

/// The EtherType and offset of the IP header right before a transport header, not before `least`. Tunnelled packets
/// with IP options or extension headers are not segmented.
fn inner_network(bytes: &[u8], least: usize, transport: usize) -> Option<(u16, usize)> {
    let ipv4 = transport.checked_sub(20).filter(|&ip| ip >= least && bytes.get(ip) == Some(&0x45));
    let is_length = |at: usize, length: usize| {
        bytes.get(at..at + 2).is_some_and(|field| usize::from(u16::from_be_bytes([field[0], field[1]])) == length)
    };
    if let Some(ip) = ipv4.filter(|&ip| is_length(ip + 2, bytes.len() - ip)) {
        return Some((0x0800, ip));
    }
    let ip =
        transport.checked_sub(40).filter(|&ip| ip >= least && bytes.get(ip).is_some_and(|first| first >> 4 == 6))?;
    is_length(ip + 4, bytes.len().checked_sub(transport)?).then_some((0x86dd, ip))
}

#[cfg(test)]
mod tests;
