//! What parse reads, and why it refuses.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::packet::{Fragment, Icmp, IcmpMessage, NeighbourKind, Packet, Protocol, Quoted, TcpFlags, Transport};
use crate::testing::{FrameBuilder, Generator, PAIRS, malformed};

fn read(frame: &[u8]) -> Result<Parsed, DropReason> {
    parse_bytes(frame, None, frame.len(), Medium::Ethernet)
}

fn packet(frame: &[u8]) -> Packet {
    match read(frame).expect("well-formed").payload {
        Payload::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn every_malformed_shape_has_its_reason() {
    let wrong: Vec<_> = malformed()
        .into_iter()
        .map(|(reason, frame)| (reason, read(&frame).err(), frame))
        .filter(|(reason, found, _)| *found != Some(*reason))
        .collect();
    assert!(wrong.is_empty(), "expected, found, frame: {wrong:02x?}");
}

#[test]
fn every_reason_of_parse_has_a_shape() {
    let shapes: HashSet<_> = malformed().into_iter().map(|(reason, _)| reason).collect();
    let of_parse = DropReason::ALL.iter().filter(|reason| **reason <= DropReason::PortZero);
    let missing: Vec<_> = of_parse.filter(|reason| !shapes.contains(reason)).collect();
    // Without an Ethernet header there is another way to be no IP packet.
    assert_eq!(missing, [&DropReason::IpVersion]);
    assert_eq!(parse_bytes(&[0x50; 40], None, 40, Medium::Ip).err(), Some(DropReason::IpVersion));
    assert_eq!(parse_bytes(&[], None, 0, Medium::Ip).err(), Some(DropReason::FrameTooShort));
}

/// Frames as other programs made them, so that the builder and parse cannot be wrong alike.
#[test]
fn literal_frames() {
    // curl's SYN, as Linux sends it: MSS 1460, SACK permitted, timestamps, window scale 7.
    let syn = packet(&hex("0200 0000 0002 0200 0000 0001 0800
         4500 003c 1c46 4000 4006 0a74 0a00 0001 0a00 0002
         d3a2 1f90 1234 5678 0000 0000 a002 faf0 0000 0000
         0204 05b4 0402 080a 0001 0203 0000 0000 0103 0307"));
    assert_eq!((syn.source, syn.destination), (address("10.0.0.1"), address("10.0.0.2")));
    assert_eq!((syn.protocol, syn.hop_limit, syn.fragment), (Protocol::TCP, 64, None));
    assert_eq!((syn.transport_offset, syn.transport_length), (34, 40));
    let Transport::Tcp(tcp) = syn.transport else { panic!("{syn:?}") };
    assert_eq!((tcp.source_port, tcp.destination_port), (54178, 8080));
    assert_eq!((tcp.flags, tcp.sequence, tcp.acknowledgement), (TcpFlags(TcpFlags::SYN), 0x1234_5678, 0));
    assert_eq!((tcp.window, tcp.payload_length), (64240, 0));
    assert_eq!((tcp.window_scale, tcp.sack_permitted, tcp.sack), (Some(7), true, None));

    // A DNS query over IPv6, VLAN 5.
    let query = read(&hex("0200 0000 0002 0200 0000 0001 8100 6005 86dd
         6000 0000 000c 1140 fd00 0000 0000 0000 0000 0000 0000 0001 fd00 0000 0000 0000 0000 0000 0000 0002
         c000 0035 000c 0000 6162 6364"))
    .unwrap();
    assert_eq!(query.link.vlan, [Some(VlanTag { protocol: 0x8100, control: 0x6005 }), None]);
    assert_eq!(query.link.vlan[0].unwrap().id(), 5);
    let Payload::Ip(query) = query.payload else { panic!("{query:?}") };
    assert_eq!(query.transport, Transport::Udp { source_port: 49152, destination_port: 53 });
    assert_eq!((query.transport_offset, query.transport_length), (58, 12));

    // "Who has 10.0.0.2? Tell 10.0.0.1."
    let arp = read(&hex("ffff ffff ffff 0200 0000 0001 0806
         0001 0800 0604 0001 0200 0000 0001 0a00 0001 0000 0000 0000 0a00 0002"))
    .unwrap();
    assert_eq!(arp.link.destination, MacAddress::BROADCAST);
    let Payload::Arp(arp) = arp.payload else { panic!("{arp:?}") };
    assert_eq!((arp.operation, arp.sender_mac, arp.target_mac), (1, FrameBuilder::SOURCE_MAC, MacAddress::default()));
    assert_eq!((arp.sender, arp.target), (address("10.0.0.1"), address("10.0.0.2")));

    // A neighbour solicitation from fe80::ff:fe00:1 for fd00::2.
    let solicitation = packet(&hex("3333 ff00 0002 0200 0000 0001 86dd
         6000 0000 0020 3aff fe80 0000 0000 0000 0000 00ff fe00 0001 ff02 0000 0000 0000 0000 0001 ff00 0002
         8700 0000 0000 0000 fd00 0000 0000 0000 0000 0000 0000 0002 0101 0200 0000 0001"));
    let Transport::Icmp(Icmp { kind: 135, message: IcmpMessage::Neighbour(message), .. }) = solicitation.transport
    else {
        panic!("{solicitation:?}")
    };
    assert_eq!((message.kind, message.target), (NeighbourKind::NeighbourSolicitation, address("fd00::2")));
    assert_eq!(message.link_layer, Some(FrameBuilder::SOURCE_MAC));

    // SCTP INIT.
    let init = packet(&hex("0200 0000 0002 0200 0000 0001 0800
         4500 0034 0000 4000 4084 2644 0a00 0001 0a00 0002
         1388 1770 0000 0000 0000 0000 0100 0014 0102 0304 0001 0000 000a 000a 0000 0001"));
    assert_eq!(init.transport, Transport::Sctp { source_port: 5000, destination_port: 6000, tag: 0, chunk: 1 });
}

#[test]
fn what_is_not_ip() {
    let frame = |ether_type| FrameBuilder::new().ether_type(ether_type).payload(&[0x42; 46]).build();
    assert!(matches!(read(&frame(46)).unwrap().payload, Payload::Llc));
    assert!(matches!(read(&frame(1535)).unwrap().payload, Payload::Llc));
    for other in [1536, 0x88cc, 0x8864, 0x888e] {
        assert!(matches!(read(&frame(other)).unwrap().payload, Payload::Other(ether_type) if ether_type == other));
    }
    // LLC behind a VLAN tag is no way around.
    let tag = VlanTag { protocol: 0x8100, control: 0 };
    let hidden = FrameBuilder::new().vlan(tag).ether_type(46).payload(&[0x42; 46]).build();
    assert!(matches!(read(&hidden).unwrap().payload, Payload::Llc));
}

#[test]
fn vlan_tags_within_and_outside_the_bytes() {
    let tag = |control| VlanTag { protocol: 0x8100, control };
    let outer = VlanTag { protocol: 0x88a8, control: 100 };
    let frame = FrameBuilder::new().vlan(tag(7)).ip("10.0.0.1", "10.0.0.2").udp(1, 2).build();
    let link = parse_bytes(&frame, Some(outer), frame.len(), Medium::Ethernet).unwrap().link;
    assert_eq!(link.vlan, [Some(outer), Some(tag(7))]);
    assert!(link.is_tagged());
    let deep = FrameBuilder::new().vlan(tag(7)).vlan(tag(8)).ip("10.0.0.1", "10.0.0.2").udp(1, 2).build();
    assert_eq!(read(&deep).unwrap().link.vlan, [Some(tag(7)), Some(tag(8))]);
    let error = parse_bytes(&deep, Some(outer), deep.len(), Medium::Ethernet).err();
    assert_eq!(error, Some(DropReason::VlanTooDeep));
}

#[test]
fn without_an_ethernet_header() {
    for (source, destination) in PAIRS {
        let bytes = FrameBuilder::packet().ip(source, destination).tcp(1, 2, TcpFlags::SYN).build();
        let parsed = parse_bytes(&bytes, None, bytes.len(), Medium::Ip).unwrap();
        let Payload::Ip(packet) = parsed.payload else { panic!("{parsed:?}") };
        assert_eq!(packet.ports(), (1, 2));
        assert_eq!(parsed.link, Link::default());
    }
}

#[test]
fn padding_and_options_are_no_payload() {
    for (source, destination) in PAIRS {
        let frame = FrameBuilder::new().ip(source, destination).tcp(1, 2, TcpFlags::ACK).payload(b"four").padding(9);
        let Transport::Tcp(tcp) = packet(&frame.build()).transport else { panic!() };
        assert_eq!(tcp.payload_length, 4);
    }
    // Router alert, and a timestamp option that fills the rest.
    let frame = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").ip_options(&[148, 4, 0, 0, 68, 4, 5, 0]).udp(1, 2);
    assert_eq!(packet(&frame.build()).transport_offset, 14 + 28);
}

#[test]
fn extension_headers_are_walked() {
    let frame = FrameBuilder::new()
        .ip("fd00::1", "fd00::2")
        .extension(0, &[5, 2, 0, 0, 1, 0])
        .extension(43, &[2, 0, 0, 0, 0, 0])
        .extension(51, &[0; 10])
        .extension(60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .udp(1000, 53);
    let whole = packet(&frame.build());
    assert_eq!((whole.protocol, whole.ports()), (Protocol::UDP, (1000, 53)));
    assert_eq!(usize::from(whole.transport_offset), 14 + 40 + 8 + 8 + 12 + 16);
    // A fragment header of a whole packet (RFC 6946) makes no fragment.
    let atomic = packet(&frame.fragment(5, 0, false).build());
    assert_eq!((atomic.fragment, atomic.ports()), (None, (1000, 53)));
    // A protocol that nobody knows is left to the rules.
    let unknown = packet(&FrameBuilder::new().ip("fd00::1", "fd00::2").protocol(253).payload(&[0; 8]).build());
    assert_eq!((unknown.protocol, unknown.transport), (Protocol(253), Transport::Other));
}

#[test]
fn fragments_of_both_families() {
    for (source, destination) in PAIRS {
        let datagram = FrameBuilder::new().ip(source, destination).udp(1000, 53).payload(&[0x35; 3000]).id(77);
        let fragments: Vec<_> = datagram.fragments(1400).iter().map(|frame| packet(frame)).collect();
        let place = |offset, more, length| Some(Fragment { id: 77, offset, more, length });
        assert_eq!(fragments[0].fragment, place(0, true, 1400));
        assert_eq!(fragments[0].transport, Transport::Udp { source_port: 1000, destination_port: 53 });
        assert_eq!(fragments[0].transport_length, 1400);
        assert_eq!((fragments[1].fragment, fragments[1].transport), (place(1400, true, 1400), Transport::Fragment));
        assert_eq!((fragments[2].fragment, fragments[2].ports()), (place(2800, false, 208), (0, 0)));
        assert!(fragments.iter().all(|fragment| fragment.protocol == Protocol::UDP));
        // The last place that a fragment can have.
        let last = FrameBuilder::new().ip(source, destination).udp(1, 2).fragment(77, 65504, false).payload(&[0; 11]);
        assert_eq!(packet(&last.build()).fragment, place(65504, false, 11));
    }
    // Options behind the fragment header belong to the datagram, not to the transport.
    let first =
        FrameBuilder::new().ip("fd00::1", "fd00::2").extension(60, &[1, 4, 0, 0, 0, 0]).udp(1, 2).fragment(7, 0, true);
    let first = packet(&first.payload(&[0; 16]).build());
    assert_eq!((first.fragment.map(|fragment| fragment.length), first.transport_length), (Some(32), 24));
}

#[test]
fn tcp_options_that_tracking_needs() {
    let options = |bytes: &[u8]| {
        let frame = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").tcp(1, 2, TcpFlags::ACK).tcp_options(bytes).build();
        let Transport::Tcp(tcp) = packet(&frame).transport else { panic!() };
        tcp
    };
    assert_eq!(options(&[3, 3, 15]).window_scale, Some(14), "RFC 7323 section 2.3");
    // Two blocks, the first one newer, around the end of sequence space.
    let sack = [5, 18, 0, 0, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xf0].map(|byte: i32| byte as u8);
    assert_eq!(options(&sack).sack, Some(9));
    // An unknown option (multipath TCP) before a known one.
    assert_eq!(options(&[30, 4, 0, 0, 3, 3, 7]).window_scale, Some(7));
    // What follows the end of the options is not read.
    assert_eq!(options(&[0, 3, 3, 7]).window_scale, None);
}

#[test]
fn udp_may_have_no_source_port() {
    for (source, destination) in PAIRS {
        let frame = FrameBuilder::new().ip(source, destination).udp(0, 53).build();
        assert_eq!(packet(&frame).ports(), (0, 53));
    }
}

#[test]
fn who_has_no_address_yet() {
    let from_nobody = [
        FrameBuilder::new().ip("0.0.0.0", "255.255.255.255").udp(68, 67),
        FrameBuilder::new().ip("0.0.0.0", "224.0.0.22").group_report(address("224.1.2.3")),
        FrameBuilder::new().ip("::", "ff02::16").group_report(address("ff02::1:ff00:2")),
        FrameBuilder::new().ip("::", "ff02::1:ff00:2").neighbour_solicitation(address("fd00::2"), None),
        FrameBuilder::new().ip("::", "ff02::2").router_solicitation(None),
    ];
    for frame in from_nobody {
        assert!(packet(&frame.build()).source.is_unspecified());
    }
}

#[test]
fn echo_has_its_identifier_at_the_end_that_asks() {
    for (source, destination) in PAIRS {
        let ip = FrameBuilder::new().ip(source, destination);
        let request = packet(&ip.clone().echo_request(0x1234, 1).build());
        let reply = packet(&ip.echo_reply(0x1234, 1).build());
        assert_eq!((request.ports(), reply.ports()), ((0x1234, 0), (0, 0x1234)));
        assert!(matches!(request.transport, Transport::Icmp(Icmp { message: IcmpMessage::EchoRequest(_), .. })));
        assert!(matches!(reply.transport, Transport::Icmp(Icmp { message: IcmpMessage::EchoReply(_), .. })));
    }
    // The other family's ICMP is just some protocol.
    let strange = packet(&FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").protocol(58).payload(&[136; 32]).build());
    assert_eq!(strange.transport, Transport::Other);
    let strange = packet(&FrameBuilder::new().ip("fd00::1", "fd00::2").protocol(1).payload(&[8; 32]).build());
    assert_eq!(strange.transport, Transport::Other);
}

#[test]
fn errors_quote_the_packet_that_they_are_about() {
    for (near, far) in PAIRS {
        let router = if near.contains(':') { "fd00::99" } else { "10.0.0.99" };
        let quoted = |frame: &FrameBuilder, length: usize| {
            let mut quote = frame.build();
            quote.truncate(length);
            let error = FrameBuilder::new().ip(router, near).packet_too_big(1400, &quote).build();
            match packet(&error).transport {
                Transport::Icmp(Icmp { message: IcmpMessage::Error { mtu, quoted }, .. }) => (mtu, quoted),
                other => panic!("{other:?}"),
            }
        };
        let header = if near.contains(':') { 40 } else { 20 };
        let ip = FrameBuilder::packet().ip(near, far);
        let tcp = ip.clone().tcp(40000, 80, TcpFlags::ACK).sequence(0xdead_beef).payload(&[0; 1400]);
        let expected = Quoted {
            source: address(near),
            destination: address(far),
            protocol: Protocol::TCP,
            source_port: 40000,
            destination_port: 80,
            sequence: Some(0xdead_beef),
        };
        assert_eq!(quoted(&tcp, header + 8), (Some(1400), expected), "eight bytes of transport are enough");
        assert_eq!(quoted(&tcp, header + 100).1, expected);
        let ports = |quoted: Quoted| (quoted.protocol, quoted.source_port, quoted.destination_port);
        assert_eq!(ports(quoted(&ip.clone().udp(5, 6), 999).1), (Protocol::UDP, 5, 6));
        assert_eq!(ports(quoted(&ip.clone().sctp(5, 6, 1, 10), 999).1), (Protocol::SCTP, 5, 6));
        let icmp = if near.contains(':') { Protocol::ICMPV6 } else { Protocol::ICMP };
        assert_eq!(ports(quoted(&ip.clone().echo_request(77, 1), 999).1), (icmp, 77, 77));
        let later = ip.clone().udp(5, 6).payload(&[1; 16]).fragment(9, 1480, false);
        assert_eq!(ports(quoted(&later, 999).1), (Protocol::UDP, 0, 0), "what looks like ports is payload");
        let options = if near.contains(':') {
            ip.extension(0, &[1, 4, 0, 0, 0, 0]).extension(60, &[1, 4, 0, 0, 0, 0]).udp(5, 6)
        } else {
            ip.ip_options(&[148, 4, 0, 0]).udp(5, 6)
        };
        assert_eq!(ports(quoted(&options, 999).1), (Protocol::UDP, 5, 6));
    }
}

#[test]
fn which_icmp_messages_are_errors() {
    for (near, far) in PAIRS {
        let quote = FrameBuilder::packet().ip(near, far).udp(1, 2).build();
        let errors: &[u8] = if near.contains(':') { &[1, 2, 3, 4] } else { &[3, 5, 11, 12] };
        for kind in 0..=129 {
            let frame = FrameBuilder::new().ip(far, near).icmp_error(kind, 0, 0, &quote).build();
            let Transport::Icmp(icmp) = packet(&frame).transport else { panic!("{kind}") };
            let error = matches!(icmp.message, IcmpMessage::Error { mtu, .. } if mtu.is_some() == (icmp.kind == 2));
            assert_eq!(error, errors.contains(&kind), "type {kind}");
        }
    }
}

#[test]
fn neighbour_discovery_in_its_five_kinds() {
    let mac = FrameBuilder::SOURCE_MAC;
    let target = address("fd00::2");
    let on = |destination: &str| FrameBuilder::new().ip("fe80::1", destination);
    let cases = [
        (on("ff02::2").router_solicitation(Some(mac)), NeighbourKind::RouterSolicitation, None),
        (on("ff02::1").router_advertisement(Some(mac)), NeighbourKind::RouterAdvertisement, None),
        (on("fd00::2").neighbour_solicitation(target, Some(mac)), NeighbourKind::NeighbourSolicitation, Some(target)),
        (on("fe80::2").neighbour_advertisement(target, Some(mac)), NeighbourKind::NeighbourAdvertisement, Some(target)),
        (on("fe80::2").redirect(target, target), NeighbourKind::Redirect, Some(target)),
    ];
    for (frame, kind, target) in cases {
        let Transport::Icmp(Icmp { message: IcmpMessage::Neighbour(message), .. }) = packet(&frame.build()).transport
        else {
            panic!("{kind:?}")
        };
        assert_eq!((message.kind, message.target), (kind, target.unwrap_or_default()));
        assert_eq!(message.link_layer, (kind != NeighbourKind::Redirect).then_some(mac));
    }
}

/// Frames of several segments: the lengths count all of them, the headers come from the first.
#[test]
fn further_segments_count() {
    for (source, destination) in PAIRS {
        let frame = FrameBuilder::new().ip(source, destination).tcp(1, 2, TcpFlags::ACK).payload(&[0; 3000]).build();
        let parsed = parse_bytes(&frame[..100], None, frame.len(), Medium::Ethernet).unwrap();
        let Payload::Ip(Packet { transport: Transport::Tcp(tcp), .. }) = parsed.payload else { panic!("{parsed:?}") };
        assert_eq!(tcp.payload_length, 3000);
        let cut = parse_bytes(&frame[..40], None, frame.len(), Medium::Ethernet).err();
        assert!(matches!(cut, Some(DropReason::TcpTruncated | DropReason::Ipv6HeaderTruncated)), "{cut:?}");
    }
}

/// Linux's "BIG TCP": super-frames beyond 64 KiB, whose length fields are zero.
#[test]
fn super_frames_beyond_the_length_fields() {
    for (source, destination) in PAIRS {
        let mut frame = FrameBuilder::new().ip(source, destination).tcp(1, 2, TcpFlags::ACK).build();
        let v6 = source.contains(':');
        let at = if v6 { 18 } else { 16 };
        frame[at..at + 2].copy_from_slice(&[0, 0]);
        if !v6 {
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = crate::testing::internet_checksum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let headers = frame.len();
        let length = |payload| match parse_bytes(&frame, None, headers + payload, Medium::Ethernet).map(|p| p.payload) {
            Ok(Payload::Ip(Packet { transport: Transport::Tcp(tcp), .. })) => Ok(tcp.payload_length),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => Err(reason),
        };
        assert_eq!(length(180_000), Ok(180_000));
        assert!(length(60_000).is_err());
    }
}

/// Parse reads headers, and etherparse does: they may not differ on what both accept.
fn agrees_with_etherparse(bytes: &[u8]) {
    let Ok(Parsed { payload: Payload::Ip(packet), .. }) = read(bytes) else { return };
    let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(bytes) else { return };
    let (source, destination) = match sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        other => panic!("{other:?} in {bytes:02x?}"),
    };
    assert_eq!(
        (std::net::IpAddr::from(packet.source), std::net::IpAddr::from(packet.destination)),
        (source, destination)
    );
    let ports = match &sliced.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => {
            let Transport::Tcp(read) = packet.transport else { panic!("{packet:?}") };
            assert_eq!(read.payload_length as usize, tcp.payload().len());
            assert_eq!((read.sequence, read.acknowledgement), (tcp.sequence_number(), tcp.acknowledgment_number()));
            Some((tcp.source_port(), tcp.destination_port()))
        }
        Some(etherparse::TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    };
    if let Some(ports) = ports {
        assert_eq!(packet.ports(), ports);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        more in 0usize..3000,
        medium in prop_oneof![Just(Medium::Ethernet), Just(Medium::Ip)],
    ) {
        let _ = parse_bytes(&bytes, None, bytes.len() + more, medium);
    }

    #[test]
    fn ports_are_those_that_etherparse_reads(
        v6: bool,
        udp: bool,
        source_port in 1u16..,
        destination_port in 1u16..,
        length in 0usize..100,
        tags in 0usize..3,
    ) {
        let (source, destination) = PAIRS[usize::from(v6)];
        let mut frame = FrameBuilder::new().ip(source, destination);
        for _ in 0..tags {
            frame = frame.vlan(VlanTag { protocol: 0x8100, control: 1 });
        }
        let frame = match udp {
            true => frame.udp(source_port, destination_port),
            false => frame.tcp(source_port, destination_port, TcpFlags::ACK),
        };
        let bytes = frame.payload(&vec![7; length]).build();
        prop_assert_eq!(packet(&bytes).ports(), (source_port, destination_port));
        agrees_with_etherparse(&bytes);
    }
}

#[test]
fn generated_frames_mean_what_etherparse_reads() {
    let mut generator = Generator::new(31);
    for _ in 0..200_000 {
        agrees_with_etherparse(&generator.next_frame(Medium::Ethernet).1.bytes);
    }
}
