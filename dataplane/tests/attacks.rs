//! What an attacker may try, inside a pod or outside of it, one test a class, each over the whole journey: what has to be
//! dropped, why, and what has to go on meanwhile.

mod support;

use std::time::Duration;

use dataplane::address::{Address, MacAddress};
use dataplane::event::Event;
use dataplane::flow::FlowConfig;
use dataplane::frame::VlanTag;
use dataplane::guard::Endpoint;
use dataplane::packet::Direction::{self, Egress, Ingress};
use dataplane::packet::{Protocol, TcpFlags};
use dataplane::rules::{Action, Policy};
use dataplane::testing::{FrameBuilder, forbidden};
use dataplane::verdict::DropReason;
use support::{Harness, INSIDE, OUTSIDE, POD, POD6, address, allow, chain};

const PEERS: [&str; 2] = ["10.9.9.9", "fd09::9"];
const ACK: u8 = TcpFlags::ACK;
const SYN: u8 = TcpFlags::SYN;
const RST: u8 = TcpFlags::RST;

/// A pod with room for few flows, open both ways.
fn small(flows: usize, wire_quota: u32) -> Harness {
    let endpoint = Endpoint { mac: Some(INSIDE), addresses: vec![address(POD), address(POD6)] };
    let wire = Harness::new(Some(endpoint), FlowConfig { wire_quota, ..FlowConfig::default() }, flows);
    wire.policy(Policy::Open, Policy::Open);
    wire
}

/// A client outside connects to port 80: its numbers begin at 1001, the pod's at 5001, windows are 1,000 bytes.
fn connect(wire: &mut Harness, peer: &str) {
    let syn = wire.to_pod(peer).tcp(40_000, 80, SYN).sequence(1000).window(1000).build();
    let answer = wire.from_pod(peer).tcp(80, 40_000, SYN | ACK).sequence(5000).acknowledgement(1001).window(1000);
    assert_eq!(wire.crosses(Ingress, syn), Ok(()));
    assert_eq!(wire.crosses(Egress, answer.build()), Ok(()));
    assert_eq!(goes_on(wire, peer), Ok(()));
}

/// The next frame of that connection.
fn goes_on(wire: &mut Harness, peer: &str) -> Result<(), DropReason> {
    let data = wire.to_pod(peer).tcp(40_000, 80, ACK).sequence(1001).acknowledgement(5001).window(1000);
    wire.crosses(Ingress, data.payload(b"data").build())
}

#[test]
fn a_syn_flood_leaves_established_flows_alone_and_takes_no_more_memory() {
    for peer in PEERS {
        let mut wire = small(64, 0);
        connect(&mut wire, peer);
        for n in 0..20_000u32 {
            let source = Address::v4([172, 16, (n >> 8) as u8, n as u8]).to_string();
            let syn = wire.to_pod(&source).tcp(1024 + (n % 60_000) as u16, 80, SYN).sequence(n).build();
            assert_eq!(wire.crosses(Ingress, syn), Ok(()), "half-open flows make room for each other");
            if n % 3 == 0 {
                let answer = wire.from_pod(&source).tcp(80, 1024 + (n % 60_000) as u16, SYN | ACK).sequence(1);
                let answer = answer.acknowledgement(n + 1).window(1000).build();
                assert_eq!(wire.crosses(Egress, answer), Ok(()), "the pod answers");
            }
        }
        assert_eq!(wire.worker.flows().len(), 64);
        assert_eq!(goes_on(&mut wire, peer), Ok(()));
    }
}

#[test]
fn a_full_table_refuses_new_flows_only() {
    let mut wire = small(16, 8);
    for port in 0..8 {
        let (question, answer) =
            (wire.from_pod(PEERS[0]).udp(1000 + port, 53), wire.to_pod(PEERS[0]).udp(53, 1000 + port));
        assert_eq!(wire.crosses(Egress, question.build()), Ok(()));
        assert_eq!(wire.crosses(Ingress, answer.build()), Ok(()));
    }
    let new = wire.from_pod(PEERS[0]).udp(2000, 53).build();
    assert_eq!(wire.crosses(Egress, new), Err(DropReason::FlowQuota), "closed, not open, when there is no room");
    let known = wire.to_pod(PEERS[0]).udp(53, 1003).build();
    assert_eq!(wire.crosses(Ingress, known), Ok(()));
}

/// Whoever knows the hash could make all flows collide: with another key the same flows lie elsewhere. That a lookup costs
/// the same for whatever an attacker sends follows from the classifier, which keeps nothing that packets make.
#[test]
fn flows_are_found_whatever_the_key_of_the_hash() {
    let order = |hash_key| {
        let endpoint = Endpoint { mac: Some(INSIDE), addresses: vec![address(POD)] };
        let mut wire = Harness::new(Some(endpoint), FlowConfig { hash_key, ..FlowConfig::default() }, 4096);
        wire.policy(Policy::Open, Policy::Open);
        for port in 1000..3000 {
            let frame = wire.to_pod(PEERS[0]).udp(port, 53).build();
            assert_eq!(wire.crosses(Ingress, frame), Ok(()));
        }
        for port in 1000..3000 {
            let frame = wire.from_pod(PEERS[0]).udp(53, port).build();
            assert_eq!(wire.crosses(Egress, frame), Ok(()), "found again, whatever the key");
        }
        assert_eq!(wire.stats.direction(Egress).classified.get(), 0);
        wire.worker.flows().len()
    };
    assert_eq!(order([1; 16]), 2000);
    assert_eq!(order([2; 16]), 2000);
}

#[test]
fn overlapping_and_tiny_fragments_are_dropped() {
    for peer in PEERS {
        let mut wire = Harness::pod();
        wire.policy(Policy::Open, allow(&[], Some((Protocol::TCP, 80))));
        // RFC 1858: the ports in the first piece, the flags in the second.
        let tiny = wire.to_pod(peer).tcp(40_000, 80, SYN).payload(&[0; 60]).fragments(8);
        assert_eq!(wire.crosses(Ingress, tiny[0].clone()), Err(DropReason::FragmentTiny));
        // RFC 3128: a second piece that would be laid over the header.
        let over = wire.to_pod(peer).tcp(40_000, 22, SYN).fragment(7, 8, false).payload(&[0; 16]).build();
        assert!(wire.crosses(Ingress, over).is_err());
        // RFC 5722: a piece that overlaps another one; from then on nothing of the datagram passes.
        let datagram = wire.to_pod(peer).tcp(40_000, 80, SYN).payload(&[1; 3000]).id(9).fragments(1400);
        let other = wire.to_pod(peer).tcp(40_000, 80, SYN).payload(&[2; 160]).fragment(9, 1320, true).build();
        assert_eq!(wire.crosses(Ingress, datagram[0].clone()), Ok(()));
        assert_eq!(wire.crosses(Ingress, other), Err(DropReason::FragmentOverlap));
        assert_eq!(wire.crosses(Ingress, datagram[1].clone()), Err(DropReason::FragmentOverlap));
        assert_eq!(wire.crosses(Ingress, datagram[2].clone()), Err(DropReason::FragmentOverlap));
    }
}

#[test]
fn pieces_without_a_first_one_are_held_within_bounds() {
    let mut wire = Harness::pod();
    for id in 0..5000u32 {
        let piece = wire.to_pod(PEERS[0]).udp(1, 2).fragment(id & 0xffff, 1400, true).payload(&[0; 800]).build();
        wire.receives(piece);
        assert!(wire.worker.chunks_outstanding() <= 256, "memory is bounded");
    }
    let honest = wire.to_pod(PEERS[0]).udp(1000, 53).build();
    assert_eq!(wire.crosses(Ingress, honest), Ok(()));
    wire.pass(Duration::from_secs(61));
    assert_eq!(wire.worker.chunks_outstanding(), 0);
}

#[test]
fn ipv6_extension_headers_are_walked_within_bounds() {
    const OPTIONS: &[u8] = &[1, 4, 0, 0, 0, 0];
    let mut wire = Harness::pod();
    wire.policy(Policy::Open, allow(&[], Some((Protocol::UDP, 53))));
    let udp = |wire: &Harness, port| wire.to_pod(PEERS[1]).udp(40_000, port);
    let long = (0..9).fold(udp(&wire, 53), |frame, _| frame.extension(60, OPTIONS)).build();
    // The ports are found behind the headers, so that they hide nothing.
    let (denied, allowed) =
        (udp(&wire, 54).extension(60, OPTIONS).build(), udp(&wire, 53).extension(60, OPTIONS).build());
    let routed = udp(&wire, 53).extension(43, &[0; 6]).build();
    let split =
        udp(&wire, 53).extension(60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).payload(&[0; 40]).fragments(8);
    let unknown = wire.to_pod(PEERS[1]).protocol(135).payload(&[53; 40]).build();
    assert_eq!(wire.crosses(Ingress, long), Err(DropReason::Ipv6ExtensionLimit));
    assert_eq!(wire.crosses(Ingress, denied), Err(DropReason::PolicyDenied));
    assert_eq!(wire.crosses(Ingress, allowed), Ok(()));
    assert_eq!(wire.crosses(Ingress, routed), Err(DropReason::Ipv6RoutingHeader), "RFC 5095");
    assert_eq!(wire.crosses(Ingress, split[0].clone()), Err(DropReason::FragmentTiny), "RFC 7112");
    assert!(wire.crosses(Ingress, unknown).is_err(), "no rule about ports lets it pass");
}

#[test]
fn blind_resets_and_data_do_not_get_through() {
    for peer in PEERS {
        let mut wire = Harness::pod();
        connect(&mut wire, peer);
        for guess in (0..u32::MAX).step_by(50_000_017) {
            let numbers = guess.wrapping_add(0x2000_0000) | 0x4000_0000;
            let reset = wire.to_pod(peer).tcp(40_000, 80, RST).sequence(numbers).build();
            assert_eq!(wire.crosses(Ingress, reset), Err(DropReason::TcpResetInvalid), "RFC 5961 section 3");
            let data = wire.to_pod(peer).tcp(40_000, 80, ACK).sequence(numbers).acknowledgement(5001).window(1000);
            assert_eq!(wire.crosses(Ingress, data.payload(b"evil").build()), Err(DropReason::TcpOutOfWindow));
        }
        let midway = wire.to_pod(peer).tcp(40_001, 80, ACK).sequence(1).acknowledgement(1).build();
        assert_eq!(wire.crosses(Ingress, midway), Err(DropReason::TcpNotSyn), "no connection is picked up midway");
        assert_eq!(goes_on(&mut wire, peer), Ok(()), "the connection lives");
    }
}

#[test]
fn icmp_errors_need_a_live_flow_and_a_fair_mtu() {
    for (peer, router) in PEERS.into_iter().zip(["10.1.1.1", "fd01::1"]) {
        let mut wire = Harness::pod();
        wire.policy(Policy::Open, chain(vec![], Action::Deny));
        let question = wire.from_pod(peer).udp(40_000, 53).build();
        let other = wire.from_pod(peer).udp(40_001, 53).build();
        assert_eq!(wire.crosses(Egress, question.clone()), Ok(()));
        let error = |wire: &Harness, quoted: &[u8]| wire.to_pod(router).port_unreachable(&quoted[14..]).build();
        let too_big = |wire: &Harness, mtu| wire.to_pod(router).packet_too_big(mtu, &question[14..]).build();
        let (about_it, about_another) = (error(&wire, &question), error(&wire, &other));
        let (fair, tiny) = (too_big(&wire, 1400), too_big(&wire, 68));
        assert_eq!(wire.crosses(Ingress, about_it), Ok(()));
        assert_eq!(wire.crosses(Ingress, about_another), Err(DropReason::IcmpUnrelated));
        assert_eq!(wire.crosses(Ingress, fair), Ok(()));
        assert_eq!(wire.crosses(Ingress, tiny), Err(DropReason::IcmpMtuTooSmall));
        let reply = wire.to_pod(peer).echo_reply(7, 1).build();
        assert_eq!(wire.crosses(Ingress, reply), Err(DropReason::IcmpReplyUnasked));
    }
}

/// Goes through what [`forbidden`] lists for some of the reasons; how many there were.
fn all_forbidden(reasons: &[DropReason]) -> usize {
    let mut wire = Harness::pod();
    let listed = forbidden().into_iter().filter(|(_, reason, _)| reasons.contains(reason));
    let mut count = 0;
    for (direction, reason, frame) in listed {
        assert_eq!(wire.crosses(direction, frame), Err(reason));
        count += 1;
    }
    count
}

#[test]
fn a_pod_speaks_for_itself_only_and_is_no_router_and_no_dhcp_server() {
    let reasons = [
        DropReason::SpoofedArp,
        DropReason::SpoofedNeighbour,
        DropReason::RouterAdvertisement,
        DropReason::IcmpRedirect,
        DropReason::DhcpServer,
        DropReason::DhcpClient,
    ];
    assert!(all_forbidden(&reasons) > 20);
    let mut wire = Harness::pod();
    let own =
        FrameBuilder::new().ethernet(INSIDE, OUTSIDE).arp(2, (INSIDE, address(POD)), (OUTSIDE, address(PEERS[0])));
    assert_eq!(wire.crosses(Egress, own.build()), Ok(()), "its own address it may claim");
    let own = wire.from_pod(PEERS[1]).neighbour_advertisement(address(POD6), Some(INSIDE)).build();
    assert_eq!(wire.crosses(Egress, own), Ok(()));
}

#[test]
fn spoofed_mapped_and_martian_addresses_are_dropped() {
    assert!(all_forbidden(&[DropReason::SpoofedMac, DropReason::SpoofedAddress, DropReason::ForeignMac]) > 10);
    let mut wire = Harness::pod();
    let from = |source: &str, destination: &str| {
        FrameBuilder::new().ethernet(INSIDE, OUTSIDE).ip(source, destination).udp(1000, 53).build()
    };
    for (source, destination, reason) in [
        ("10.0.0.2", "10.9.9.9", DropReason::SpoofedAddress),
        ("fd00::2", "fd09::9", DropReason::SpoofedAddress),
        ("127.0.0.1", "10.9.9.9", DropReason::MartianSource),
        ("224.0.0.1", "10.9.9.9", DropReason::MartianSource),
        ("255.255.255.255", "10.9.9.9", DropReason::MartianSource),
        ("::1", "fd09::9", DropReason::MartianSource),
        (POD, "127.0.0.1", DropReason::MartianDestination),
        (POD6, "::1", DropReason::MartianDestination),
    ] {
        assert_eq!(wire.crosses(Egress, from(source, destination)), Err(reason), "{source} to {destination}");
    }
    // ::ffff:10.0.0.1 in an IPv6 header is not 10.0.0.1.
    let mut mapped = from(POD6, "fd09::9");
    mapped[22..38].copy_from_slice(&Address::v4([10, 0, 0, 1]).0);
    assert_eq!(wire.crosses(Egress, mapped), Err(DropReason::MartianSource));
}

/// CVE-2021-27853 and its like: what a filter does not look behind, a receiver might.
#[test]
fn tags_and_llc_hide_nothing() {
    let mut wire = Harness::pod();
    wire.policy(chain(vec![], Action::Deny), chain(vec![], Action::Deny));
    let tag = |protocol, control| VlanTag { protocol, control };
    let udp = wire.from_pod(PEERS[0]).udp(1000, 53);
    for tags in [vec![tag(0x8100, 0)], vec![tag(0x8100, 5)], vec![tag(0x88a8, 5), tag(0x8100, 6)]] {
        let tagged = tags.into_iter().fold(udp.clone(), FrameBuilder::vlan).build();
        assert_eq!(wire.crosses(Egress, tagged), Err(DropReason::VlanNotAllowed));
    }
    // An IPv4 packet behind LLC and SNAP.
    let packet = FrameBuilder::packet().ip(POD, PEERS[0]).udp(1000, 53).build();
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat();
    let frame = FrameBuilder::new().ethernet(INSIDE, OUTSIDE).ether_type(snap.len() as u16).payload(&snap).build();
    assert_eq!(wire.crosses(Egress, frame), Err(DropReason::NotEthernetII));
    // A tag outside of the bytes is a tag.
    let aside = dataplane::port::SentFrame { vlan: Some(tag(0x8100, 0)), ..udp.build().into() };
    assert_eq!(wire.crosses(Egress, aside), Err(DropReason::VlanNotAllowed));
}

#[test]
fn options_lengths_and_checksums_that_lie_are_dropped() {
    let mut wire = Harness::pod();
    let udp = wire.to_pod(PEERS[0]).udp(1000, 53).payload(b"abcd");
    let plain = udp.build();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = plain.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let routed = udp.clone().ip_options(&[131, 7, 4, 10, 0, 0, 9]).build();
    assert_eq!(wire.crosses(Ingress, routed), Err(DropReason::Ipv4Options), "loose source route");
    assert_eq!(wire.crosses(Ingress, with(22, &[1])), Err(DropReason::Ipv4Checksum));
    assert_eq!(wire.crosses(Ingress, with(14, &[0x44])), Err(DropReason::Ipv4HeaderLength));
    assert_eq!(wire.crosses(Ingress, with(38, &[0, 13])), Err(DropReason::UdpLength), "longer than its packet");
    assert_eq!(wire.crosses(Ingress, plain[..40].to_vec()), Err(DropReason::Ipv4TotalLength));
    let mut padded = plain.clone();
    padded.resize(80, 0);
    assert_eq!(wire.crosses(Ingress, padded), Ok(()), "padding of the link is no lie");
}

#[test]
fn broadcast_storms_are_limited_and_nothing_else_is() {
    let mut wire = Harness::pod();
    let question = |wire: &Harness| {
        let question = wire.from_pod(PEERS[0]).ethernet(INSIDE, MacAddress::BROADCAST);
        question.arp(1, (INSIDE, address(POD)), (MacAddress::default(), address(PEERS[0]))).build()
    };
    let storm = |wire: &mut Harness| {
        let passed = (0..5000).filter(|_| wire.crosses(Egress, question(wire)).is_ok());
        passed.count()
    };
    assert_eq!(storm(&mut wire), 1000, "a second's worth at once");
    let unicast = wire.from_pod(PEERS[0]).udp(1000, 53).build();
    assert_eq!(wire.crosses(Egress, unicast), Ok(()));
    wire.pass(Duration::from_millis(500));
    assert_eq!(storm(&mut wire), 500);
}

/// Policy is never half there: before the first, everything is closed; a change is seen by the next frame; what is cut
/// stays so.
#[test]
fn policy_churn_opens_nothing() {
    let endpoint = Endpoint { mac: Some(INSIDE), addresses: vec![address(POD)] };
    let mut wire = Harness::new(Some(endpoint), FlowConfig::default(), 64);
    let frame = wire.from_pod(PEERS[0]).udp(1000, 53).build();
    assert_eq!(wire.crosses(Egress, frame.clone()), Err(DropReason::WireClosed));
    let mut cut = false;
    for round in 0..200u16 {
        let open = round % 2 == 0;
        wire.policy(if open { Policy::Open } else { chain(vec![], Action::Deny) }, Policy::Open);
        let expected = if open { Ok(()) } else { Err(DropReason::PolicyDenied) };
        assert_eq!(wire.crosses(Egress, frame.clone()), expected);
        if round == 0 {
            let syn = wire.from_pod(PEERS[0]).tcp(1000, 80, SYN).build();
            assert_eq!(wire.crosses(Egress, syn), Ok(()));
            continue;
        }
        let answer = wire.to_pod(PEERS[0]).tcp(80, 1000, SYN | ACK).sequence(1).acknowledgement(1).build();
        cut |= !open;
        assert_eq!(wire.crosses(Ingress, answer).is_err(), cut, "an answer of a connection that was cut");
    }
}

/// What is told of drops is bounded, whatever an attacker sends.
#[test]
fn a_flood_of_drops_fills_no_memory() {
    let mut wire = Harness::pod();
    wire.policy(Policy::Open, chain(vec![], Action::Deny));
    let frame = wire.to_pod(PEERS[0]).udp(1000, 53).build();
    for _ in 0..10_000 {
        assert_eq!(wire.crosses(Ingress, frame.clone()), Err(DropReason::PolicyDenied));
    }
    let told = std::iter::from_fn(|| wire.events.take()).filter(|event| matches!(event, Event::Dropped(_))).count();
    assert_eq!(told as u64 + wire.events.lost(), 10_000, "what was not told was counted");
    assert!(told <= 4096);
    assert_eq!(wire.stats.direction(Direction::Ingress).dropped(DropReason::PolicyDenied).get(), 10_000);
}
