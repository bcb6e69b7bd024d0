//! One frame or more for every reason that [`crate::parse`] knows.

use super::{FrameBuilder, internet_checksum};
use crate::address::{Address, MacAddress};
use crate::frame::VlanTag;
use crate::packet::TcpFlags;
use crate::verdict::DropReason;

/// The addresses that the frames of [`malformed`] use where they do not matter: IPv4 first, then IPv6.
pub const PAIRS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

const IP: usize = 14;
const TAG: VlanTag = VlanTag { protocol: 0x8100, control: 5 };
const MAC: MacAddress = FrameBuilder::SOURCE_MAC;

/// Ethernet frames that [`crate::parse`] drops, each with its reason: the seed of generators and fuzzers, and the table
/// that parse's tests go through.
pub fn malformed() -> Vec<(DropReason, Vec<u8>)> {
    let mut frames = link();
    frames.extend(ipv4());
    frames.extend(ipv6());
    for pair in PAIRS {
        frames.extend(martians(pair));
        frames.extend(transport(pair));
        frames.extend(sctp(pair));
        frames.extend(fragments(pair));
        frames.extend(icmp(pair));
    }
    frames.extend(neighbours());
    frames
}

/// The frame with other bytes at `at`.
fn set(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The untagged IPv4 frame with other bytes at `at` of its IP header, whose checksum follows.
fn set_ipv4(frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = set(set(frame, IP + at, bytes), IP + 10, &[0, 0]);
    let header = usize::from(frame[IP] & 0x0f) * 4;
    let end = frame.len().min(IP + header);
    let checksum = internet_checksum(&[&frame[IP..end]]);
    frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn ip((source, destination): (&str, &str)) -> FrameBuilder {
    FrameBuilder::new().ip(source, destination)
}

fn four() -> FrameBuilder {
    ip(PAIRS[0]).tcp(40000, 80, TcpFlags::SYN)
}

fn six() -> FrameBuilder {
    ip(PAIRS[1]).tcp(40000, 80, TcpFlags::SYN)
}

fn link() -> Vec<(DropReason, Vec<u8>)> {
    let nobody = (MacAddress::default(), Address::v4([10, 0, 0, 2]));
    let arp = FrameBuilder::new().arp(1, (MAC, Address::v4([10, 0, 0, 1])), nobody).build();
    let tagged = four().vlan(TAG).vlan(TAG);
    let group = MacAddress([3, 0, 0, 0, 0, 1]);
    vec![
        (DropReason::FrameTooShort, Vec::new()),
        (DropReason::FrameTooShort, four().build()[..13].to_vec()),
        (DropReason::FrameTooShort, tagged.build()[..17].to_vec()),
        (DropReason::VlanTooDeep, tagged.vlan(TAG).build()),
        (DropReason::SourceMacGroup, four().ethernet(group, FrameBuilder::DESTINATION_MAC).build()),
        (DropReason::ArpMalformed, arp[..IP + 27].to_vec()),
        (DropReason::ArpMalformed, set(arp.clone(), IP + 1, &[6])),
        (DropReason::ArpMalformed, set(arp.clone(), IP + 2, &[0x86, 0xdd])),
        (DropReason::ArpMalformed, set(arp.clone(), IP + 4, &[5])),
        (DropReason::ArpMalformed, set(arp.clone(), IP + 5, &[3])),
        (DropReason::ArpMalformed, set(arp, IP + 7, &[8])),
    ]
}

fn ipv4() -> Vec<(DropReason, Vec<u8>)> {
    let tcp = four().build();
    let with_options = |options: &[u8]| four().ip_options(options).build();
    vec![
        (DropReason::Ipv4HeaderTruncated, tcp[..IP].to_vec()),
        (DropReason::Ipv4HeaderTruncated, tcp[..IP + 19].to_vec()),
        (DropReason::Ipv4HeaderTruncated, with_options(&[1; 8])[..IP + 24].to_vec()),
        (DropReason::Ipv4VersionMismatch, set_ipv4(tcp.clone(), 0, &[0x65])),
        (DropReason::Ipv4HeaderLength, set_ipv4(tcp.clone(), 0, &[0x44])),
        (DropReason::Ipv4HeaderLength, set_ipv4(tcp.clone(), 2, &[0, 19])),
        (DropReason::Ipv4HeaderLength, set_ipv4(tcp.clone(), 2, &[0, 0])),
        (DropReason::Ipv4TotalLength, set_ipv4(tcp.clone(), 2, &[0, 41])),
        (DropReason::Ipv4Checksum, set(tcp.clone(), IP + 8, &[63])),
        (DropReason::Ipv4Options, with_options(&[131, 7, 4, 10, 0, 0, 9])),
        (DropReason::Ipv4Options, with_options(&[1, 137, 7, 4, 10, 0, 0, 9])),
        (DropReason::Ipv4Options, with_options(&[7, 9, 4, 0])),
        (DropReason::Ipv4Options, with_options(&[7, 1, 4, 0])),
        (DropReason::Ipv4Options, with_options(&[1, 1, 1, 7])),
    ]
}

fn ipv6() -> Vec<(DropReason, Vec<u8>)> {
    const OPTIONS: &[u8] = &[1, 4, 0, 0, 0, 0];
    let tcp = six().build();
    let with = |extensions: &[(u8, &[u8])]| {
        extensions.iter().fold(six(), |frame, (number, body)| frame.extension(*number, body)).build()
    };
    let fragment = [6, 0, 0, 0, 0, 0, 0, 1];
    vec![
        (DropReason::Ipv6HeaderTruncated, tcp[..IP + 39].to_vec()),
        (DropReason::Ipv6VersionMismatch, set(tcp.clone(), IP, &[0x40])),
        (DropReason::Ipv6PayloadLength, set(tcp.clone(), IP + 4, &[0, 21])),
        (DropReason::Ipv6PayloadLength, set(with(&[(0, OPTIONS)]), IP + 4, &[0, 0])),
        (DropReason::Ipv6ExtensionTruncated, ip(PAIRS[1]).protocol(60).payload(&[6, 0, 1, 4, 0, 0, 0]).build()),
        (DropReason::Ipv6ExtensionTruncated, ip(PAIRS[1]).protocol(0).payload(&[6, 1, 1, 4, 0, 0, 0, 0]).build()),
        (DropReason::Ipv6ExtensionTruncated, ip(PAIRS[1]).protocol(44).payload(&[6, 0, 0, 0, 0, 0, 0]).build()),
        (DropReason::Ipv6ExtensionTruncated, ip(PAIRS[1]).protocol(51).payload(&[6, 1, 0, 0, 0, 0, 0, 0]).build()),
        (DropReason::Ipv6ExtensionOrder, with(&[(0, OPTIONS), (0, OPTIONS)])),
        (DropReason::Ipv6ExtensionOrder, ip(PAIRS[1]).extension(60, OPTIONS).protocol(0).payload(&fragment).build()),
        (DropReason::Ipv6ExtensionOrder, with(&[(51, &[0; 10]), (51, &[0; 10])])),
        (
            DropReason::Ipv6ExtensionOrder,
            ip(PAIRS[1]).extension(44, &fragment[2..]).protocol(44).payload(&fragment).build(),
        ),
        (DropReason::Ipv6ExtensionLimit, with(&[(60, OPTIONS); 9])),
        (DropReason::Ipv6ExtensionOrder, with(&[(43, &[2, 0, 0, 0, 0, 0]), (43, &[2, 0, 0, 0, 0, 0])])),
        (DropReason::Ipv6RoutingHeader, with(&[(43, &[0, 0, 0, 0, 0, 0])])),
        (DropReason::Ipv6RoutingHeader, with(&[(43, &[4, 1, 0, 0, 0, 0])])),
        (DropReason::Ipv6Options, with(&[(0, &[1, 5, 0, 0, 0, 0])])),
        (DropReason::Ipv6Options, with(&[(60, &[0, 0, 0, 0, 0, 1])])),
        (DropReason::Ipv6Options, with(&[(60, &[0xc9, 4, 0, 0, 0, 0])])),
        (DropReason::Ipv6NoNextHeader, ip(PAIRS[1]).protocol(59).build()),
        (DropReason::Ipv6NoNextHeader, ip(PAIRS[1]).extension(0, OPTIONS).protocol(59).payload(&[1]).build()),
    ]
}

fn martians((source, destination): (&str, &str)) -> Vec<(DropReason, Vec<u8>)> {
    let v6 = source.contains(':');
    let (sources, destinations): (&[&str], &[&str]) = if v6 {
        (&["::", "::1", "ff02::1"], &["::", "::1", "ff01::1", "ff00::1"])
    } else {
        (
            &["0.0.0.0", "0.0.0.1", "127.0.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255"],
            &["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255"],
        )
    };
    let udp = |from: &str, to: &str| FrameBuilder::new().ip(from, to).udp(40000, 53).build();
    let bad_sources = sources.iter().map(|martian| (DropReason::MartianSource, udp(martian, destination)));
    let bad_destinations = destinations.iter().map(|martian| (DropReason::MartianDestination, udp(source, martian)));
    let mut frames: Vec<_> = bad_sources.chain(bad_destinations).collect();
    if v6 {
        let mapped = Address::v4([10, 0, 0, 9]).0;
        frames.push((DropReason::MartianSource, set(udp(source, destination), IP + 8, &mapped)));
        frames.push((DropReason::MartianDestination, set(udp(source, destination), IP + 24, &mapped)));
    } else {
        let offer = FrameBuilder::new().ip("0.0.0.0", "255.255.255.255").udp(67, 68);
        frames.push((DropReason::MartianSource, offer.build()));
    }
    frames
}

fn transport(pair: (&str, &str)) -> Vec<(DropReason, Vec<u8>)> {
    let header = if pair.0.contains(':') { 40 } else { 20 };
    let at = |offset: usize| IP + header + offset;
    let tcp = |flags: u8| ip(pair).tcp(40000, 80, flags).build();
    let options = |bytes: &[u8]| ip(pair).tcp(40000, 80, TcpFlags::SYN).tcp_options(bytes).build();
    let udp = ip(pair).udp(40000, 53).payload(b"abc").build();
    const FIN: u8 = TcpFlags::FIN;
    const SYN: u8 = TcpFlags::SYN;
    const RST: u8 = TcpFlags::RST;
    const ACK: u8 = TcpFlags::ACK;
    let mut frames = vec![
        (DropReason::TcpTruncated, ip(pair).protocol(6).payload(&[0; 19]).build()),
        (DropReason::TcpTruncated, ip(pair).protocol(6).build()),
        (DropReason::TcpHeaderLength, set(tcp(SYN), at(12), &[0x40])),
        (DropReason::TcpHeaderLength, set(tcp(SYN), at(12), &[0x60])),
        (DropReason::TcpOptions, options(&[1, 2, 4, 5])),
        (DropReason::TcpOptions, options(&[1, 1, 1, 3])),
        (DropReason::TcpOptions, options(&[30, 1, 0, 0])),
        (DropReason::TcpOptions, options(&[30, 0, 0, 0])),
        (DropReason::TcpOptions, options(&[3, 4, 7, 7])),
        (DropReason::TcpOptions, options(&[5, 6, 0, 0, 0, 0, 1, 1])),
        (DropReason::PortZero, ip(pair).tcp(0, 80, SYN).build()),
        (DropReason::PortZero, ip(pair).tcp(40000, 0, SYN).build()),
        (DropReason::PortZero, ip(pair).udp(40000, 0).build()),
        (DropReason::UdpTruncated, ip(pair).protocol(17).payload(&[0; 7]).build()),
        (DropReason::UdpLength, set(udp.clone(), at(4), &[0, 7])),
        (DropReason::UdpLength, set(udp.clone(), at(4), &[0, 0])),
        (DropReason::UdpLength, set(udp, at(4), &[0, 12])),
    ];
    let impossible = [0, TcpFlags::PSH, SYN | FIN, SYN | RST, FIN, FIN | RST, FIN | RST | ACK, SYN | FIN | ACK, 0xff];
    frames.extend(impossible.map(|flags| (DropReason::TcpFlags, tcp(flags))));
    frames
}

fn sctp(pair: (&str, &str)) -> Vec<(DropReason, Vec<u8>)> {
    let header = if pair.0.contains(':') { 40 } else { 20 };
    let at = |offset: usize| IP + header + offset;
    let init = ip(pair).sctp(5000, 6000, 0, 1).build();
    let mut bundled = vec![1, 0, 0, 20];
    bundled.resize(24, 0);
    vec![
        (DropReason::SctpTruncated, ip(pair).protocol(132).payload(&[0; 11]).build()),
        (DropReason::SctpTruncated, ip(pair).protocol(132).payload(&[0; 15]).build()),
        (DropReason::SctpChunk, set(init.clone(), at(14), &[0, 3])),
        (DropReason::SctpChunk, set(init.clone(), at(14), &[0, 16])),
        (DropReason::SctpChunk, set(init.clone(), at(14), &[0, 21])),
        (DropReason::SctpChunk, set(init, at(4), &[0, 0, 0, 1])),
        (DropReason::SctpChunk, ip(pair).sctp(5000, 6000, 0, 10).build()),
        (DropReason::SctpChunk, ip(pair).sctp(5000, 6000, 0, 1).payload(&bundled).build()),
        (DropReason::PortZero, ip(pair).sctp(0, 6000, 1, 10).build()),
        (DropReason::PortZero, ip(pair).sctp(5000, 0, 1, 10).build()),
    ]
}

fn fragments(pair: (&str, &str)) -> Vec<(DropReason, Vec<u8>)> {
    let tcp = ip(pair).tcp(40000, 80, TcpFlags::SYN).payload(&[0; 60]);
    let udp = |offset, more, length: usize| {
        ip(pair).udp(40000, 53).fragment(7, offset, more).payload(&vec![0; length]).build()
    };
    let first =
        |protocol, length: usize| ip(pair).protocol(protocol).fragment(7, 0, true).payload(&vec![0x50; length]).build();
    let later = |protocol, offset| ip(pair).protocol(protocol).fragment(7, offset, false).payload(&[0x50; 16]).build();
    let mut frames = vec![
        (DropReason::FragmentTiny, tcp.fragments(8)[0].clone()),
        (DropReason::FragmentTiny, tcp.fragments(16)[0].clone()),
        (DropReason::FragmentTiny, tcp.clone().tcp_options(&[1; 20]).fragments(24)[0].clone()),
        (DropReason::FragmentTiny, first(17, 0)),
        (DropReason::FragmentTiny, first(132, 8)),
        (DropReason::FragmentTiny, first(if pair.0.contains(':') { 58 } else { 1 }, 0)),
        (DropReason::FragmentTiny, later(6, 8)),
        (DropReason::FragmentTiny, later(6, 16)),
        (DropReason::FragmentTiny, later(132, 8)),
        (DropReason::FragmentLength, udp(8, true, 12)),
        (DropReason::FragmentLength, udp(0, true, 1)),
        (DropReason::FragmentLength, udp(65528, false, 8)),
        (DropReason::FragmentLength, udp(1480, true, 0)),
    ];
    if pair.0.contains(':') {
        // The first fragment ends within, or before, the destination options.
        let options = ip(pair).extension(60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).udp(1, 2).payload(&[0; 40]);
        frames.push((DropReason::FragmentTiny, options.fragments(8)[0].clone()));
        frames.push((DropReason::FragmentTiny, options.fragments(16)[0].clone()));
    } else {
        // One byte more than fits: the header of the whole datagram counts, too.
        frames.push((DropReason::FragmentLength, udp(65504, false, 12)));
    }
    frames
}

fn icmp(pair: (&str, &str)) -> Vec<(DropReason, Vec<u8>)> {
    let v6 = pair.0.contains(':');
    let quoted = FrameBuilder::packet().ip(pair.1, pair.0).udp(53, 40000).build();
    let other = FrameBuilder::packet().ip(PAIRS[usize::from(!v6)].0, PAIRS[usize::from(!v6)].1).udp(53, 40000).build();
    let error = |quoted: &[u8]| ip(pair).port_unreachable(quoted);
    let header = if v6 { 40 } else { 20 };
    let mut frames = vec![
        (DropReason::IcmpTruncated, ip(pair).protocol(if v6 { 58 } else { 1 }).payload(&[0; 7]).build()),
        (DropReason::IcmpQuoteTruncated, error(&[]).build()),
        (DropReason::IcmpQuoteTruncated, error(&quoted[..header - 1]).build()),
        (DropReason::IcmpQuoteTruncated, error(&quoted[..header + 7]).build()),
        (DropReason::IcmpQuoteMalformed, error(&[other, vec![0; 20]].concat()).build()),
        (DropReason::IcmpFragmented, error(&quoted).fragment(9, 0, true).payload(&[0; 64]).build()),
    ];
    if v6 {
        let mapped = FrameBuilder::packet().ip(pair.1, "::1");
        let mapped = set(mapped.udp(53, 40000).build(), 24, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        frames.push((DropReason::IcmpQuoteMalformed, error(&mapped).build()));
        let mut cut = FrameBuilder::packet().ip(pair.1, pair.0).extension(60, &[1, 4, 0, 0, 0, 0]).udp(1, 2).build();
        cut.truncate(44);
        frames.push((DropReason::IcmpQuoteTruncated, error(&cut).build()));
        let routed = FrameBuilder::packet().ip(pair.1, pair.0).extension(43, &[0; 6]).udp(1, 2).build();
        frames.push((DropReason::IcmpQuoteMalformed, error(&routed).build()));
    } else {
        frames.push((DropReason::IcmpQuoteMalformed, error(&set(quoted, 0, &[0x44])).build()));
    }
    frames
}

fn neighbours() -> Vec<(DropReason, Vec<u8>)> {
    const LOCAL: &str = "fe80::1";
    let target: Address = Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    let group: Address = Address::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mapped = Address::v4([10, 0, 0, 2]);
    let on = |source: &str, destination: &str| FrameBuilder::new().ip(source, destination);
    let link = || on(LOCAL, "fe80::2");
    let solicitation = || link().neighbour_solicitation(target, Some(MAC));
    let options = |bytes: &[u8]| {
        let body = [&target.0[..], bytes].concat();
        link().neighbour_solicitation(target, None).payload(&body).build()
    };
    let frames = vec![
        solicitation().hop_limit(254).build(),
        link().hop_limit(255).icmp(135, 1, [0; 4]).payload(&target.0).build(),
        link().hop_limit(255).icmp(135, 0, [0; 4]).payload(&target.0[..15]).build(),
        link().hop_limit(255).icmp(134, 0, [0; 4]).payload(&[0; 7]).build(),
        link().hop_limit(255).icmp(137, 0, [0; 4]).payload(&[0; 31]).build(),
        options(&[1, 0, 0, 0, 0, 0, 0, 0]),
        options(&[1, 2, 0, 0, 0, 0, 0, 0]),
        options(&[1]),
        options(&[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        options(&[1, 1, 2, 0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 2]),
        link().neighbour_solicitation(group, None).build(),
        link().neighbour_solicitation(mapped, None).build(),
        link().neighbour_advertisement(group, None).build(),
        link().neighbour_advertisement(mapped, Some(MAC)).build(),
        // Solicited, and yet to a group.
        on(LOCAL, "ff02::1").neighbour_advertisement(target, Some(MAC)).build(),
        on("::", "fe80::2").neighbour_advertisement(target, Some(MAC)).build(),
        // Duplicate address detection with a link-layer address, or to somebody.
        on("::", "ff02::1:ff00:2").neighbour_solicitation(target, Some(MAC)).build(),
        on("::", "fd00::2").neighbour_solicitation(target, None).build(),
        on("::", "ff02::2").router_solicitation(Some(MAC)).build(),
        on("fd00::1", "ff02::1").router_advertisement(Some(MAC)).build(),
        on("fd00::1", "fd00::2").redirect(target, target).build(),
        link().redirect(target, group).build(),
    ];
    let mut frames: Vec<_> = frames.into_iter().map(|frame| (DropReason::NeighbourMalformed, frame)).collect();
    let listener = |source: &str| on(source, "ff02::16").group_report(group);
    frames.push((DropReason::ListenerMalformed, listener(LOCAL).hop_limit(2).build()));
    frames.push((DropReason::ListenerMalformed, listener("fd00::1").build()));
    frames.push((DropReason::ListenerMalformed, listener(LOCAL).payload(&group.0[..15]).build()));
    // RFC 6980: not even in a single fragment.
    frames.push((DropReason::IcmpFragmented, solicitation().fragment(1, 0, false).build()));
    frames.push((DropReason::IcmpFragmented, solicitation().fragment(1, 0, true).build()));
    frames.push((DropReason::IcmpFragmented, listener(LOCAL).fragment(1, 0, false).build()));
    frames
}
