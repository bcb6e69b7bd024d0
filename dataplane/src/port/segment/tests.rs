use proptest::prelude::*;

use super::*;
use crate::frame::Gso;
use crate::port::Pool;

const SOURCE: [u8; 16] = [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A super-frame as a kernel hands it over: the checksum field holds the pseudo header's sum.
fn super_frame(pool: &mut Pool, kind: GsoKind, is_ipv4: bool, payload: &[u8], size: u16, inner_tag: bool) -> Frame {
    let protocol = if kind == GsoKind::UdpL4 { 17 } else { 6 };
    let transport: Vec<u8> = match kind {
        GsoKind::UdpL4 => vec![0x10, 0, 0x20, 0, 0, 0, 0, 0],
        _ => vec![0x10, 0, 0x20, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x60, 0x99, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0],
    };
    let length = transport.len() + payload.len();
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if inner_tag {
        bytes.extend([0x81, 0, 0, 7]);
    }
    let pseudo = if is_ipv4 {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((20 + length as u16).to_be_bytes());
        bytes.extend([0xff, 0xff, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        checksum::sum(&[10, 0, 0, 1, 10, 0, 0, 2])
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([SOURCE, SOURCE].concat());
        checksum::sum(&SOURCE) * 2
    };
    let start = bytes.len();
    bytes.extend(&transport);
    let offset = if kind == GsoKind::UdpL4 { 6 } else { 16 };
    let partial = checksum::fold(pseudo + u64::from(protocol) + length as u64);
    bytes[start + offset..start + offset + 2].copy_from_slice(&partial.to_be_bytes());
    bytes.extend(payload);
    let mut frame = pool.frame(&bytes).unwrap();
    frame.checksum = Checksum::Partial { start: start as u16, offset: offset as u16 };
    frame.gso = Some(Gso { kind, size, header_length: 0, ecn: true });
    frame
}

/// Reads a packet as etherparse does, with all its checks; the answer is sequence number, flags and payload.
fn read(bytes: &[u8], index: usize) -> (u32, Option<etherparse::TcpHeader>, Vec<u8>) {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(bytes).unwrap();
    let payload = packet.payload.slice();
    let transport = packet.transport.unwrap();
    let mut expected = transport.clone();
    match packet.net.as_ref().unwrap() {
        etherparse::NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(ip.identification, 0xffffu16.wrapping_add(index as u16));
            expected.update_checksum_ipv4(ip, payload).unwrap();
        }
        etherparse::NetHeaders::Ipv6(ip, _) => expected.update_checksum_ipv6(ip, payload).unwrap(),
        etherparse::NetHeaders::Arp(_) => unreachable!(),
    }
    assert_eq!(transport, expected, "the checksum is right");
    let (sequence, tcp) = match transport {
        etherparse::TransportHeader::Tcp(tcp) => (tcp.sequence_number, Some(tcp)),
        etherparse::TransportHeader::Udp(_) => (0, None),
        _ => unreachable!(),
    };
    (sequence, tcp, payload.to_vec())
}

/// The same frame as the payload of VXLAN, as a kernel hands it over: the offsets are the inner packet's.
fn in_vxlan(pool: &mut Pool, inner: Frame, is_ipv4: bool, udp_checksum: bool) -> Frame {
    let length = 16 + inner.bytes().len();
    let mut bytes = vec![4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 2];
    if is_ipv4 {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((20 + length as u16).to_be_bytes());
        bytes.extend([0xff, 0xff, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([17, 64]);
        bytes.extend([SOURCE, SOURCE].concat());
    }
    bytes.extend([0xc0, 0, 0x12, 0xb5]);
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend(if udp_checksum { [0x12, 0x34] } else { [0, 0] });
    bytes.extend([8, 0, 0, 0, 0, 0, 42, 0]);
    let shift = bytes.len() as u16;
    bytes.extend(inner.bytes());
    let Checksum::Partial { start, offset } = inner.checksum else { unreachable!() };
    let mut frame = pool.frame(&bytes).unwrap();
    frame.checksum = Checksum::Partial { start: start + shift, offset };
    frame.gso = inner.gso;
    pool.release(inner);
    frame
}

/// The inner packet, after the outer headers were found right.
fn carried(bytes: &[u8], index: usize, udp_checksum: bool) -> Vec<u8> {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(bytes).unwrap();
    let payload = packet.payload.slice();
    let Some(etherparse::TransportHeader::Udp(udp)) = packet.transport else { unreachable!() };
    assert_eq!(usize::from(udp.length), 8 + payload.len());
    let expected = match packet.net.as_ref().unwrap() {
        etherparse::NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(ip.identification, 0xffffu16.wrapping_add(index as u16));
            udp.calc_checksum_ipv4(ip, payload).unwrap()
        }
        etherparse::NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload).unwrap(),
        etherparse::NetHeaders::Arp(_) => unreachable!(),
    };
    assert_eq!(udp.checksum, if udp_checksum { expected } else { 0 });
    payload[8..].to_vec()
}

proptest! {
    #[test]
    fn a_tunnelled_super_frame_is_segmented_with_its_outer_headers(
        payload in proptest::collection::vec(any::<u8>(), 100..6000),
        size in 100u16..1500,
        tcp: bool,
        inner_ipv4: bool,
        outer_ipv4: bool,
        udp_checksum: bool,
    ) {
        let mut pool = Pool::new(2, 8192);
        let kind = match (tcp, inner_ipv4) {
            (false, _) => GsoKind::UdpL4,
            (true, true) => GsoKind::TcpV4,
            (true, false) => GsoKind::TcpV6,
        };
        let inner = super_frame(&mut pool, kind, inner_ipv4, &payload, size, false);
        prop_assert!(!is_tunnelled(&inner));
        let frame = in_vxlan(&mut pool, inner, outer_ipv4, udp_checksum);
        prop_assert!(is_tunnelled(&frame));
        let mut got = Vec::new();
        let mut scratch = Vec::new();
        let mut index = 0;
        let sent = send_each(&frame, 1700, &mut scratch, |bytes| {
            assert_eq!(&bytes[..vnet::LENGTH], &[0; vnet::LENGTH]);
            let packet = carried(&bytes[vnet::LENGTH..], index, udp_checksum);
            got.extend(read(&packet, index).2);
            index += 1;
            Ok(())
        });
        prop_assert!(sent.unwrap());
        prop_assert_eq!(got, payload);
        // What the device is too small for is refused.
        let refused = send_each(&frame, 60, &mut scratch, |_| Ok(())).unwrap();
        prop_assert!(!refused);
        pool.release(frame);
    }
}

proptest! {
    #[test]
    fn segments_are_sound_packets_and_carry_the_payload(
        payload in proptest::collection::vec(any::<u8>(), 0..6000),
        size in 1u16..1500,
        tcp: bool,
        is_ipv4: bool,
        inner_tag: bool,
        tagged: bool,
    ) {
        let size = size.max((payload.len() / 60) as u16 + 1);
        let mut pool = Pool::new(1, 8192);
        let kind = match (tcp, is_ipv4) {
            (false, _) => GsoKind::UdpL4,
            (true, true) => GsoKind::TcpV4,
            (true, false) => GsoKind::TcpV6,
        };
        let mut frame = super_frame(&mut pool, kind, is_ipv4, &payload, size, inner_tag);
        frame.vlan = tagged.then_some(VlanTag { protocol: 0x88a8, control: 0x2005 });
        let plan = Plan::new(&frame).unwrap();
        let count = plan.count();
        prop_assert_eq!(count, payload.len().div_ceil(size.into()).max(1));
        let mut back = Vec::new();
        for i in 0..count {
            let mut out = vec![0; plan.longest()];
            let length = plan.write(&frame, i, &mut out);
            if tagged {
                prop_assert_eq!(&out[12..16], &[0x88, 0xa8, 0x20, 5]);
            }
            let (sequence, header, part) = read(&out[..length], i);
            if let Some(header) = header {
                prop_assert_eq!(sequence, 0xffff_ff00u32.wrapping_add((i * usize::from(size)) as u32));
                prop_assert_eq!(header.cwr, i == 0);
                prop_assert_eq!((header.fin, header.psh), (i + 1 == count, i + 1 == count));
                prop_assert!(header.ack);
            }
            back.extend(part);
        }
        prop_assert_eq!(back, payload);
        pool.release(frame);
    }

    #[test]
    fn no_metadata_makes_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
        start in 0u16..220,
        offset in 0u16..40,
        size in 0u16..300,
        kind in prop::sample::select(vec![GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::UdpL4, GsoKind::Udp]),
        ip: bool,
    ) {
        let mut bytes = bytes;
        if ip && bytes.len() > 14 {
            bytes[12..14].copy_from_slice(if kind == GsoKind::TcpV6 { &[0x86, 0xdd] } else { &[8, 0] });
        }
        let mut pool = Pool::new(1, 512);
        let mut frame = pool.frame(&bytes).unwrap();
        frame.checksum = Checksum::Partial { start, offset };
        frame.gso = Some(Gso { kind, size, header_length: 0, ecn: false });
        if let Some(plan) = Plan::new(&frame) {
            for i in 0..plan.count() {
                let mut out = vec![0; plan.longest()];
                prop_assert!(plan.write(&frame, i, &mut out) <= out.len());
            }
        }
        pool.release(frame);
    }
}
