//! Who may say what.

use std::collections::HashSet;
use std::time::Duration;

use super::*;
use crate::frame::VlanTag;
use crate::packet::TcpFlags;
use crate::parse::{Medium, parse_bytes};
use crate::testing::{FrameBuilder, PAIRS, endpoint, forbidden};

const OWN: MacAddress = FrameBuilder::SOURCE_MAC;
const PEER: MacAddress = FrameBuilder::DESTINATION_MAC;
const OWN_LINK_LOCAL: &str = "fe80::ff:fe00:1";

fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

fn read(frame: &[u8]) -> Parsed {
    parse_bytes(frame, None, frame.len(), Medium::Ethernet).expect("well-formed")
}

fn pod() -> Guard {
    Guard::new(Some(endpoint()), Permissions::POD)
}

fn check(guard: &mut Guard, direction: Direction, frame: &FrameBuilder) -> Result<Passage, DropReason> {
    guard.check(direction, &read(&frame.build()), Time::ZERO)
}

#[test]
fn every_forbidden_frame_has_its_reason() {
    let mut guard = pod();
    for (number, (direction, reason, frame)) in forbidden().iter().enumerate() {
        let found = guard.check(*direction, &read(frame), Time::ZERO);
        assert_eq!(found, Err(*reason), "frame {number}, {direction:?}: {frame:02x?}");
    }
}

#[test]
fn every_reason_of_the_guard_has_a_frame() {
    let known: HashSet<_> = forbidden().into_iter().map(|(_, reason, _)| reason).collect();
    let of_guard = DropReason::NotEthernetII..=DropReason::GroupRateLimit;
    let missing: Vec<_> =
        DropReason::ALL.iter().filter(|reason| of_guard.contains(*reason) && !known.contains(*reason)).collect();
    assert_eq!(missing, [&DropReason::GroupRateLimit], "the rate limit takes more than one frame");
}

/// The rules once more, on bytes that neither the builder nor its mistakes have touched.
#[test]
fn literal_frames() {
    let mut guard = pod();
    let mut check = |direction, text: &str| {
        let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let frame: Vec<_> = digits.chunks(2).map(byte).collect();
        guard.check(direction, &read(&frame), Time::ZERO)
    };
    let arp = "ffff ffff ffff 0200 0000 0001 0806 0001 0800 0604 0001";
    let who_has = "0000 0000 0000 0a00 0002";
    let mut egress = |text: String| check(Direction::Egress, &text);
    assert_eq!(egress(format!("{arp} 0200 0000 0001 0a00 0001 {who_has}")), Ok(Passage::Pass));
    assert_eq!(egress(format!("{arp} 0200 0000 0001 0000 0000 {who_has}")), Ok(Passage::Pass));
    assert_eq!(egress(format!("{arp} 0200 0000 0001 0a00 0003 {who_has}")), Err(DropReason::SpoofedArp));
    assert_eq!(egress(format!("{arp} 0200 0000 0003 0a00 0001 {who_has}")), Err(DropReason::SpoofedArp));
    // UDP from 10.0.0.1 and from 10.0.0.3.
    let udp = "0200 0000 0002 0200 0000 0001 0800 4500 001c 0000 0000 4011";
    assert_eq!(egress(format!("{udp} 66cf 0a00 0001 0a00 0002 0007 0008 0008 0000")), Ok(Passage::Judge));
    let spoofed = Err(DropReason::SpoofedAddress);
    assert_eq!(egress(format!("{udp} 66cd 0a00 0003 0a00 0002 0007 0008 0008 0000")), spoofed);
    // Neighbour advertisements from fd00::1, for itself and for fd00::2.
    let advertisement = "0200 0000 0002 0200 0000 0001 86dd 6000 0000 0020 3aff
        fd00 0000 0000 0000 0000 0000 0000 0001 fd00 0000 0000 0000 0000 0000 0000 0002 8800 0000 6000 0000
        fd00 0000 0000 0000 0000 0000 0000";
    assert_eq!(egress(format!("{advertisement} 0001 0201 0200 0000 0001")), Ok(Passage::Pass));
    let spoofed = Err(DropReason::SpoofedNeighbour);
    assert_eq!(egress(format!("{advertisement} 0002 0201 0200 0000 0001")), spoofed);
    assert_eq!(egress(format!("{advertisement} 0001 0201 0200 0000 0002")), spoofed);
}

#[test]
fn an_endpoint_may_speak_for_itself() {
    let mut guard = pod();
    for (own, peer) in PAIRS {
        let group = if own.contains(':') { "ff02::fb" } else { "224.0.0.251" };
        let ip = FrameBuilder::new().ip(own, peer);
        let judged = [
            ip.clone().tcp(40000, 80, TcpFlags::SYN),
            ip.clone().udp(40000, 53),
            ip.clone().echo_request(1, 1),
            ip.clone().protocol(253),
            ip.clone().udp(1, 2).payload(&[0; 8]).fragment(5, 1480, false),
            FrameBuilder::new().ip(own, group).udp(5353, 5353),
        ];
        for frame in judged {
            assert_eq!(check(&mut guard, Direction::Egress, &frame), Ok(Passage::Judge), "{frame:?}");
        }
    }
    let (own4, peer4) = (address(PAIRS[0].0), address(PAIRS[0].1));
    let (own6, peer6) = (address(PAIRS[1].0), address(PAIRS[1].1));
    let local = |destination: &str| FrameBuilder::new().ip(OWN_LINK_LOCAL, destination);
    let nobody = |destination: &str| FrameBuilder::new().ip("::", destination);
    let arp = |operation, sender, target| FrameBuilder::new().arp(operation, (OWN, sender), (PEER, target));
    let passing = [
        arp(1, own4, peer4),
        arp(2, own4, peer4),
        arp(1, own4, own4),
        arp(1, Address::v4([0; 4]), own4),
        FrameBuilder::new().ip(PAIRS[1].0, "ff02::1:ff00:2").neighbour_solicitation(peer6, Some(OWN)),
        FrameBuilder::new().ip(PAIRS[1].0, PAIRS[1].1).neighbour_solicitation(peer6, None),
        FrameBuilder::new().ip(PAIRS[1].0, PAIRS[1].1).neighbour_advertisement(own6, Some(OWN)),
        local("fe80::2").neighbour_advertisement(address(OWN_LINK_LOCAL), Some(OWN)),
        nobody("ff02::1:ff00:1").neighbour_solicitation(own6, None),
        nobody("ff02::1:ff00:1").neighbour_solicitation(address(OWN_LINK_LOCAL), None),
        nobody("ff02::2").router_solicitation(None),
        local("ff02::2").router_solicitation(Some(OWN)),
        local("ff02::16").group_report(address("ff02::fb")),
        nobody("ff02::16").group_report(address("ff02::fb")),
        FrameBuilder::new().ip(PAIRS[0].0, "224.0.0.251").group_report(address("224.0.0.251")),
    ];
    for frame in passing {
        assert_eq!(check(&mut guard, Direction::Egress, &frame), Ok(Passage::Pass), "{frame:?}");
    }
    // On the link, the derived link-local address is as good as a listed one.
    let on_link = [local("fe80::2").udp(1, 2), local("ff02::fb").udp(5353, 5353)];
    for frame in on_link {
        assert_eq!(check(&mut guard, Direction::Egress, &frame), Ok(Passage::Judge), "{frame:?}");
    }
}

#[test]
fn others_may_speak_to_an_endpoint() {
    let mut guard = pod();
    let (own4, peer4) = (address(PAIRS[0].0), address(PAIRS[0].1));
    let own6 = address(PAIRS[1].0);
    let from = |source: &str, destination: &str| FrameBuilder::new().ip(source, destination).ethernet(PEER, OWN);
    let arp = |operation, sender| FrameBuilder::new().arp(operation, (PEER, sender), (OWN, own4)).ethernet(PEER, OWN);
    let passing = [
        arp(1, peer4),
        arp(2, peer4),
        // Whoever asks whether the address is taken gets its answer from the endpoint.
        arp(1, Address::v4([0; 4])),
        from("::", "ff02::1:ff00:1").neighbour_solicitation(own6, None),
        from(PAIRS[1].1, "ff02::1:ff00:1").neighbour_solicitation(own6, Some(PEER)),
        from(PAIRS[1].1, PAIRS[1].0).neighbour_advertisement(address(PAIRS[1].1), Some(PEER)),
        from("fe80::2", "ff02::1").router_advertisement(Some(PEER)),
        from("fe80::2", PAIRS[1].0).redirect(address("fe80::3"), address(PAIRS[1].1)),
        from("fe80::2", "ff02::1").hop_limit(1).icmp(130, 0, [0; 4]).payload(&[0; 16]),
        from(PAIRS[0].1, "224.0.0.1").hop_limit(1).protocol(2).payload(&[0x11, 100, 0, 0, 0, 0, 0, 0]),
    ];
    for frame in passing {
        assert_eq!(check(&mut guard, Direction::Ingress, &frame), Ok(Passage::Pass), "{frame:?}");
    }
    let quoted = FrameBuilder::packet().ip(PAIRS[0].0, PAIRS[0].1).udp(1, 2).build();
    let judged = [
        from(PAIRS[0].1, PAIRS[0].0).tcp(40000, 80, TcpFlags::SYN),
        from(PAIRS[1].1, PAIRS[1].0).tcp(40000, 80, TcpFlags::SYN),
        from(PAIRS[0].1, PAIRS[0].0).icmp_error(5, 1, 0x0a00_0003, &quoted),
        from(PAIRS[0].1, PAIRS[0].0).udp(67, 68),
        from(PAIRS[0].1, "224.0.0.251").ethernet(PEER, MacAddress([1, 0, 0x5e, 0, 0, 0xfb])).udp(5353, 5353),
        // Routed, or not to a group: no group membership, whatever it says.
        from(PAIRS[0].1, PAIRS[0].0).hop_limit(1).protocol(2).payload(&[0x16; 8]),
        from(PAIRS[0].1, "224.0.0.1").hop_limit(2).protocol(2).payload(&[0x16; 8]),
        from("fe80::2", PAIRS[1].0).group_report(address("ff02::fb")),
    ];
    for frame in judged {
        assert_eq!(check(&mut guard, Direction::Ingress, &frame), Ok(Passage::Judge), "{frame:?}");
    }
}

#[test]
fn permissions_lift_their_rules_and_no_others() {
    type Grant = (&'static [DropReason], fn(&mut Permissions));
    let grants: [Grant; 5] = [
        (&[DropReason::VlanNotAllowed], |p| p.vlan = Permission::Granted),
        (&[DropReason::NotEthernetII, DropReason::EtherTypeNotAllowed], |p| p.non_ip = Permission::Granted),
        (&[DropReason::DhcpClient], |p| p.dhcp_client = Permission::Granted),
        (&[DropReason::DhcpServer], |p| p.dhcp_server = Permission::Granted),
        (&[DropReason::RouterAdvertisement, DropReason::IcmpRedirect], |p| p.router = Permission::Granted),
    ];
    for (lifted, grant) in grants {
        let mut permissions = Permissions::POD;
        grant(&mut permissions);
        let mut guard = Guard::new(Some(endpoint()), permissions);
        for (direction, reason, frame) in forbidden() {
            let found = guard.check(direction, &read(&frame), Time::ZERO);
            // What is tagged and not IP has two rules against it.
            let other = found.err().is_some_and(|other| other != reason);
            assert!(found == Err(reason) || lifted.contains(&reason), "{reason:?} {frame:02x?}");
            assert!(found.is_ok() || !lifted.contains(&reason) || other, "{reason:?} {frame:02x?}");
        }
    }
}

#[test]
fn dhcp_passes_both_ways_for_those_who_may() {
    let permissions = Permissions { dhcp_client: Permission::Granted, ..Permissions::POD };
    let mut client = Guard::new(Some(endpoint()), permissions);
    let discover =
        FrameBuilder::new().ip("0.0.0.0", "255.255.255.255").udp(68, 67).ethernet(OWN, MacAddress::BROADCAST);
    let offer = FrameBuilder::new().ip("10.0.0.2", "10.0.0.9").udp(67, 68).ethernet(PEER, OWN);
    let solicit = FrameBuilder::new().ip(OWN_LINK_LOCAL, "ff02::1:2").udp(546, 547);
    let reply = FrameBuilder::new().ip("fe80::2", OWN_LINK_LOCAL).udp(547, 546).ethernet(PEER, OWN);
    for (direction, frame) in [
        (Direction::Egress, &discover),
        (Direction::Ingress, &offer),
        (Direction::Egress, &solicit),
        (Direction::Ingress, &reply),
    ] {
        assert_eq!(check(&mut client, direction, frame), Ok(Passage::Pass), "{frame:?}");
        let mut pod = pod();
        let refused = if direction == Direction::Egress { Err(DropReason::DhcpClient) } else { Ok(Passage::Judge) };
        assert_eq!(check(&mut pod, direction, frame), refused, "{frame:?}");
    }
    // The server's turn: what a client sends comes in, what it is told goes out.
    let permissions = Permissions { dhcp_server: Permission::Granted, ..Permissions::POD };
    let mut server = Guard::new(Some(endpoint()), permissions);
    let discover = discover.ethernet(PEER, MacAddress::BROADCAST);
    let offer = FrameBuilder::new().ip("10.0.0.1", "10.0.0.9").udp(67, 68);
    assert_eq!(check(&mut server, Direction::Ingress, &discover), Ok(Passage::Pass));
    assert_eq!(check(&mut server, Direction::Egress, &offer), Ok(Passage::Pass));
}

#[test]
fn group_frames_are_limited_a_second() {
    let permissions = Permissions { group_rate: NonZeroU32::new(10), ..Permissions::POD };
    let group = |destination| FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").udp(1, 2).ethernet(OWN, destination);
    let broadcast = group(MacAddress::BROADCAST);
    // A group address behind a unicast MAC address counts too: a tun wire has no other.
    let multicast = FrameBuilder::new().ip("10.0.0.1", "224.0.0.251").udp(1, 2);
    for frame in [broadcast, multicast] {
        let mut guard = Guard::new(Some(endpoint()), permissions);
        let parsed = read(&frame.build());
        let mut passed =
            |now, frames| (0..frames).filter(|_| guard.check(Direction::Egress, &parsed, now).is_ok()).count();
        let start = Time::ZERO + Duration::from_secs(1000);
        assert_eq!(passed(start, 50), 10, "one second's worth at once");
        assert_eq!(passed(start + Duration::from_millis(100), 50), 1);
        assert_eq!(passed(start + Duration::from_millis(1100), 50), 10);
        assert_eq!(passed(start + Duration::from_secs(100), 50), 10, "what is not used is not saved");
        assert_eq!(guard.check(Direction::Egress, &parsed, start), Err(DropReason::GroupRateLimit));
    }
    let mut guard = Guard::new(Some(endpoint()), permissions);
    let unicast = group(PEER);
    assert!((0..50).all(|_| check(&mut guard, Direction::Egress, &unicast).is_ok()));
    let inward = FrameBuilder::new().ip("10.0.0.2", "10.0.0.1").udp(1, 2).ethernet(PEER, MacAddress::BROADCAST);
    assert!((0..50).all(|_| check(&mut guard, Direction::Ingress, &inward).is_ok()));
    // A spoofed frame costs nothing.
    let spoofed = FrameBuilder::new().ip("10.0.0.3", "224.0.0.251").udp(1, 2);
    assert!((0..50).all(|_| check(&mut guard, Direction::Egress, &spoofed) == Err(DropReason::SpoofedAddress)));
}

#[test]
fn a_gateway_has_nobody_to_pretend_to_be() {
    let mut guard = Guard::new(None, Permissions::GATEWAY);
    for (direction, reason, frame) in forbidden() {
        let parsed = read(&frame);
        let expected = match &parsed.payload {
            Payload::Ip(packet) if neighbour(packet).is_none() && !is_group_membership(packet) => Passage::Judge,
            _ => Passage::Pass,
        };
        assert_eq!(guard.check(direction, &parsed, Time::ZERO), Ok(expected), "{reason:?} {frame:02x?}");
    }
    // Unless it is told otherwise.
    let permissions = Permissions { vlan: Permission::Refused, ..Permissions::GATEWAY };
    let mut guard = Guard::new(None, permissions);
    let tag = VlanTag { protocol: 0x8100, control: 5 };
    let tagged = FrameBuilder::new().vlan(tag).ip("10.0.0.1", "10.0.0.2").udp(1, 2);
    assert_eq!(check(&mut guard, Direction::Egress, &tagged), Err(DropReason::VlanNotAllowed));
}

#[test]
fn without_ethernet_addresses_still_count() {
    let mut guard = Guard::new(Some(Endpoint { mac: None, ..endpoint() }), Permissions::POD);
    let mut check = |direction, source, destination| {
        let packet = FrameBuilder::packet().ip(source, destination).udp(1, 2).build();
        let parsed = parse_bytes(&packet, None, packet.len(), Medium::Ip).unwrap();
        guard.check(direction, &parsed, Time::ZERO)
    };
    for (own, peer) in PAIRS {
        assert_eq!(check(Direction::Egress, own, peer), Ok(Passage::Judge));
        assert_eq!(check(Direction::Ingress, peer, own), Ok(Passage::Judge));
        assert_eq!(check(Direction::Egress, peer, own), Err(DropReason::SpoofedAddress));
        assert_eq!(check(Direction::Ingress, own, peer), Err(DropReason::SpoofedAddress));
    }
}
