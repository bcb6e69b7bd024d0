//! The virtio network header (virtio 1.2, section 5.1.6), which AF_PACKET and TUN put before each frame to carry what
//! the bytes do not say: an unfinished checksum, and how a super-frame is segmented.

use crate::frame::{Checksum, Frame, Gso, GsoKind};

/// Bytes of the header.
pub(crate) const LENGTH: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Bytes that a VLAN tag adds.
const TAG: u16 = 4;

fn field(header: &[u8; LENGTH], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

/// Reads the header into the frame's metadata. `false` when it names a kind of segmentation that no frame can carry.
pub(crate) fn decode(header: &[u8; LENGTH], frame: &mut Frame) -> bool {
    frame.checksum = match header[0] {
        flags if flags & NEEDS_CSUM != 0 => Checksum::Partial { start: field(header, 6), offset: field(header, 8) },
        flags if flags & DATA_VALID != 0 => Checksum::Valid,
        _ => Checksum::Unknown,
    };
    let kind = match header[1] & !GSO_ECN {
        GSO_NONE => return true,
        GSO_TCPV4 => GsoKind::TcpV4,
        GSO_TCPV6 => GsoKind::TcpV6,
        GSO_UDP => GsoKind::Udp,
        GSO_UDP_L4 => GsoKind::UdpL4,
        _ => return false,
    };
    frame.gso =
        Some(Gso { kind, size: field(header, 4), header_length: field(header, 2), ecn: header[1] & GSO_ECN != 0 });
    true
}

/// Writes the frame's metadata as a header. A tag that the caller puts into the bytes (`frame.vlan`) shifts all
/// offsets.
pub(crate) fn encode(frame: &Frame) -> [u8; LENGTH] {
    let shift = if frame.vlan.is_some() { TAG } else { 0 };
    let mut header = [0; LENGTH];
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    let mut flags = 0;
    match frame.checksum {
        Checksum::Unknown => {}
        Checksum::Valid => flags = DATA_VALID,
        Checksum::Partial { start, offset } => {
            flags = NEEDS_CSUM;
            put(6, start.saturating_add(shift));
            put(8, offset);
        }
    }
    let mut gso_type = GSO_NONE;
    if let Some(gso) = frame.gso {
        gso_type = match gso.kind {
            GsoKind::TcpV4 => GSO_TCPV4,
            GsoKind::TcpV6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP,
            GsoKind::UdpL4 => GSO_UDP_L4,
        } | if gso.ecn { GSO_ECN } else { 0 };
        put(2, headers(frame, gso).saturating_add(shift));
        put(4, gso.size);
    }
    header[0] = flags;
    header[1] = gso_type;
    header
}

/// The length of the headers. The kernel allocates this much in one piece: what a receiving kernel stated can be as
/// much as the whole super-frame, so the transport header decides where it can be seen.
fn headers(frame: &Frame, gso: Gso) -> u16 {
    let (Checksum::Partial { start, .. }, GsoKind::TcpV4 | GsoKind::TcpV6) = (frame.checksum, gso.kind) else {
        return gso.header_length.min(u16::try_from(frame.length()).unwrap_or(u16::MAX));
    };
    match frame.bytes().get(usize::from(start) + 12) {
        Some(data_offset) => start.saturating_add(u16::from(data_offset >> 4) * 4),
        None => gso.header_length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VlanTag;
    use crate::port::Pool;

    #[test]
    fn metadata_survives_the_header() {
        let mut pool = Pool::new(2, 256);
        for checksum in [Checksum::Unknown, Checksum::Valid, Checksum::Partial { start: 34, offset: 16 }] {
            for kind in [None, Some(GsoKind::TcpV4), Some(GsoKind::TcpV6), Some(GsoKind::UdpL4), Some(GsoKind::Udp)] {
                let mut frame = pool.frame(&[0x50; 100]).unwrap();
                frame.checksum = checksum;
                frame.gso = kind.map(|kind| Gso { kind, size: 1448, header_length: 54, ecn: kind == GsoKind::TcpV6 });
                let header = encode(&frame);
                let mut back = pool.frame(&[0; 100]).unwrap();
                assert!(decode(&header, &mut back));
                assert_eq!((back.checksum, back.gso), (frame.checksum, frame.gso));
                pool.release(frame);
                pool.release(back);
            }
        }
    }

    #[test]
    fn a_tag_put_into_the_bytes_shifts_the_offsets() {
        let mut pool = Pool::new(1, 256);
        let mut frame = pool.frame(&[0x50; 100]).unwrap();
        frame.checksum = Checksum::Partial { start: 34, offset: 16 };
        frame.gso = Some(Gso { kind: GsoKind::TcpV4, size: 1000, header_length: 90, ecn: false });
        frame.vlan = Some(VlanTag { protocol: 0x8100, control: 5 });
        let header = encode(&frame);
        assert_eq!(field(&header, 6), 38);
        assert_eq!(field(&header, 8), 16);
        assert_eq!(field(&header, 2), 34 + 20 + 4, "the transport header says where the headers end");
        pool.release(frame);
    }

    #[test]
    fn an_unknown_segmentation_is_refused() {
        let mut pool = Pool::new(1, 256);
        let mut frame = pool.frame(&[0; 60]).unwrap();
        assert!(!decode(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 0], &mut frame));
        pool.release(frame);
    }
}
