//! Segmentation of super-frames in software, for ports whose devices take one packet at a time.
//!
//! A super-frame's headers stand for those of each of its segments: every segment gets a copy with lengths, identification,
//! sequence number, flags and checksums of its own (what the kernel's `skb_segment` and `tcp_gso_segment` do).

use crate::frame::{Checksum, Frame, GsoKind, VlanTag};
use crate::port::checksum;

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
        let (ether_type, ip) = network(bytes)?;
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
        sound.then_some(Split { kind: gso.kind, is_ipv4, ip, transport, field, payload, size: gso.size.into() })
    }

    /// Corrects the copied headers of segment `i`. `out` starts where the frame's own bytes would, but for a tag: the offsets
    /// after it fit.
    fn finish(&self, whole: usize, i: usize, is_last: bool, out: &mut [u8]) {
        let end = out.len();
        let put = |out: &mut [u8], at: usize, value: u16| out[at..at + 2].copy_from_slice(&value.to_be_bytes());
        let get = |out: &[u8], at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
        if self.is_ipv4 {
            put(out, self.ip + 2, (end - self.ip) as u16);
            let identification = get(out, self.ip + 4).wrapping_add(i as u16);
            put(out, self.ip + 4, identification);
            put(out, self.ip + 10, 0);
            let header = usize::from(out[self.ip] & 0x0f) * 4;
            let header = header.clamp(20, self.transport - self.ip);
            let sum = checksum::of(&out[self.ip..self.ip + header]);
            put(out, self.ip + 10, sum);
        } else {
            put(out, self.ip + 4, (end - self.ip - 40) as u16);
        }
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

#[cfg(test)]
mod tests;
