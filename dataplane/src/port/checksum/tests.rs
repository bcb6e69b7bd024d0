use proptest::prelude::*;

use super::*;
use crate::port::Pool;

/// RFC 1071, word by word.
fn naive(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: usize) -> u16 {
    let mut header = Vec::new();
    header.extend(source);
    header.extend(destination);
    header.extend([0, protocol]);
    header.extend((length as u16).to_be_bytes());
    naive(&header)
}

/// An Ethernet frame with an IPv4 packet of `protocol` whose transport bytes are given.
fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend([0x45, 0]);
    bytes.extend((20 + transport.len() as u16).to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend(transport);
    bytes
}

/// An Ethernet frame with an IPv6 packet of `protocol` whose transport bytes are given.
fn ipv6(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    bytes.extend((transport.len() as u16).to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes
        .extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    bytes.extend(transport);
    bytes
}

fn verifies(bytes: &[u8], protocol: u8) -> bool {
    let end = 14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    let transport = &bytes[34..end];
    let pseudo = pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], protocol, transport.len());
    fold(u64::from(pseudo) + u64::from(naive(transport))) == 0xffff
}

proptest! {
    #[test]
    fn sums_equal_the_naive_ones(bytes in proptest::collection::vec(any::<u8>(), 0..200), lead in 0usize..8) {
        let lead = lead.min(bytes.len());
        prop_assert_eq!(fold(sum(&bytes[lead..])), naive(&bytes[lead..]));
    }

    #[test]
    fn the_quick_look_misses_nothing(
        (is_ipv4, is_tcp, unfinished) in any::<(bool, bool, bool)>(),
        port in prop_oneof![Just(443u16), Just(VXLAN), Just(LINUX_VXLAN), Just(GENEVE)],
        payload in proptest::collection::vec(any::<u8>(), 0..120),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        padding in 0usize..4,
        cut in 0usize..40,
    ) {
        let (protocol, mut segment, field) = match is_tcp {
            true => (6, vec![0; 20], 16),
            false => (17, vec![0; 8], 6),
        };
        segment.extend(&payload);
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        let mut bytes = if is_ipv4 { ipv4(protocol, &segment) } else { ipv6(protocol, &segment) };
        let place = locate(&bytes, 0).unwrap();
        let value = if unfinished { fold(place.pseudo) } else { 0x1234 };
        bytes[place.start + field..][..2].copy_from_slice(&value.to_be_bytes());
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut).max(1));
        bytes.extend(vec![0; padding]);
        let mut pool = Pool::new(2, 1024);
        let (mut quick, mut full) = (pool.frame(&bytes).unwrap(), pool.frame(&bytes).unwrap());
        prop_assert_eq!(complete_unmarked(&mut quick), search(&mut full), "{:02x?}", bytes);
        prop_assert_eq!(quick.bytes(), full.bytes());
        pool.release(quick);
        pool.release(full);
    }

    #[test]
    fn an_unfinished_checksum_verifies_once_completed(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        split in 20usize..300,
        marked: bool,
    ) {
        let mut pool = Pool::new(4, 1024);
        let mut segment = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
        segment.extend(&payload);
        let partial = pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], 6, segment.len());
        segment[16..18].copy_from_slice(&partial.to_be_bytes());
        let bytes = ipv4(6, &segment);
        let mut frame = if marked && 34 + split < bytes.len() {
            // In two pieces, cut at any distance.
            let mut frame = pool.frame(&bytes[..34 + split]).unwrap();
            frame.push_segment(pool.frame(&bytes[34 + split..]).unwrap().head).unwrap();
            frame
        } else {
            pool.frame(&bytes).unwrap()
        };
        if marked {
            frame.checksum = Checksum::Partial { start: 34, offset: 16 };
            prop_assert!(complete(&mut frame));
        } else {
            prop_assert!(complete_unmarked(&mut frame));
        }
        let whole: Vec<u8> = frame.iter_bytes().flatten().copied().collect();
        prop_assert!(verifies(&whole, 6));
        prop_assert_eq!(frame.checksum, Checksum::Unknown);
        let before = whole.clone();
        let finished = complete_unmarked(&mut frame);
        let after: Vec<u8> = frame.iter_bytes().flatten().copied().collect();
        prop_assert_eq!(before, after, "a finished checksum stays (touched: {})", finished);
        pool.release(frame);
    }
}

#[test]
fn metadata_beyond_the_bytes_is_refused() {
    let mut pool = Pool::new(1, 256);
    let mut frame = pool.frame(&[0; 40]).unwrap();
    for (start, offset) in [(39, 0), (34, 16), (0, 39), (u16::MAX, u16::MAX), (30, 8)] {
        frame.checksum = Checksum::Partial { start, offset };
        assert!(!complete(&mut frame), "{start}+{offset}");
        assert_eq!(frame.bytes(), [0; 40]);
    }
    pool.release(frame);
}

#[test]
fn ethernet_padding_is_not_summed() {
    let mut pool = Pool::new(1, 256);
    let mut datagram = vec![0, 53, 0, 53, 0, 10, 0, 0, b'h', b'i'];
    let partial = pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], 17, datagram.len());
    datagram[6..8].copy_from_slice(&partial.to_be_bytes());
    let mut bytes = ipv4(17, &datagram);
    bytes.resize(60, 0xaa);
    let mut frame = pool.frame(&bytes).unwrap();
    assert!(complete_unmarked(&mut frame));
    assert!(verifies(frame.bytes(), 17));
    pool.release(frame);
}

#[test]
fn sctp_gets_its_crc() {
    // The check value of CRC32c: "123456789" gives 0xe3069283.
    let crc = b"123456789".iter().fold(u32::MAX, |crc, &b| CRC32C[usize::from(crc as u8 ^ b)] ^ (crc >> 8));
    assert_eq!(!crc, 0xe306_9283);
    let mut pool = Pool::new(1, 256);
    let mut packet = vec![0x0b, 0x59, 0x0b, 0x59, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0, 0, 4];
    let expected = !packet.iter().fold(u32::MAX, |crc, &b| CRC32C[usize::from(crc as u8 ^ b)] ^ (crc >> 8));
    let mut frame = pool.frame(&ipv4(132, &packet)).unwrap();
    assert!(complete_unmarked(&mut frame));
    assert_eq!(frame.bytes()[42..46], expected.to_le_bytes());
    packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
    frame.bytes_mut()[34..50].copy_from_slice(&packet);
    frame.checksum = Checksum::Partial { start: 34, offset: 8 };
    assert!(complete(&mut frame));
    assert_eq!(frame.bytes()[42..46], expected.to_le_bytes());
    pool.release(frame);
}

#[test]
fn fragments_and_other_protocols_are_left_alone() {
    let mut pool = Pool::new(1, 256);
    let mut bytes = ipv4(17, &[0, 53, 0, 53, 0, 8, 0, 0]);
    let partial = pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 8);
    bytes[40..42].copy_from_slice(&partial.to_be_bytes());
    for (at, value) in [(20, 0x20), (23, 1), (12, 0x88)] {
        let mut other = bytes.clone();
        other[at] = value;
        let mut frame = pool.frame(&other).unwrap();
        assert!(!complete_unmarked(&mut frame));
        assert_eq!(frame.bytes(), other);
        pool.release(frame);
    }
}

/// A sender leaves the inner packet's checksum of a tunnel to the device; the outer one fits what it will be.
#[test]
fn an_unmarked_checksum_in_a_tunnel_is_completed() {
    let mut segment = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0, 7, 8, 9];
    let partial = pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], 6, segment.len());
    segment[16..18].copy_from_slice(&partial.to_be_bytes());
    let inner = ipv4(6, &segment);
    let vxlan = |port: u16| {
        let mut udp = vec![0xc0, 0];
        udp.extend(port.to_be_bytes());
        udp.extend((16 + inner.len() as u16).to_be_bytes());
        udp.extend([0, 0, 8, 0, 0, 0, 0, 0, 42, 0]);
        udp.extend(&inner);
        ipv4(17, &udp)
    };
    let geneve = {
        let mut udp = vec![0xc0, 0, 0x17, 0xc1];
        udp.extend((24 + inner.len() as u16).to_be_bytes());
        udp.extend([0, 0, 2, 0, 0x65, 0x58, 0, 0, 42, 0, 0, 1, 0x80, 1, 9, 9, 9, 9]);
        udp.extend(&inner);
        ipv4(17, &udp)
    };
    let mut pool = Pool::new(1, 512);
    for (bytes, skip) in [(vxlan(4789), 50), (vxlan(8472), 50), (geneve, 58), (ipv4(4, &inner[14..]), 20)] {
        let mut frame = pool.frame(&bytes).unwrap();
        assert!(complete_unmarked(&mut frame));
        assert!(verifies(&frame.bytes()[skip..], 6), "{:?}", frame.bytes());
        assert!(!complete_unmarked(&mut frame), "once");
        pool.release(frame);
    }
    // Another port's payload is nobody's business, and a cut tunnel is left alone.
    for bytes in [vxlan(4790), vxlan(4789)[..60].to_vec()] {
        let mut frame = pool.frame(&bytes).unwrap();
        assert!(!complete_unmarked(&mut frame));
        assert_eq!(frame.bytes(), bytes);
        pool.release(frame);
    }
}
