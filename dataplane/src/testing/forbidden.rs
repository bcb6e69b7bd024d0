//! One frame or more for every reason that [`crate::guard`] knows, but for the rate limit.

use super::{FrameBuilder, PAIRS};
use crate::address::{Address, MacAddress};
use crate::frame::VlanTag;
use crate::guard::Endpoint;
use crate::packet::{Direction, TcpFlags};
use crate::verdict::DropReason;

const OWN: MacAddress = FrameBuilder::SOURCE_MAC;
const PEER: MacAddress = FrameBuilder::DESTINATION_MAC;
const THIRD: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);
/// The link-local address of [`OWN`].
const OWN_LINK_LOCAL: &str = "fe80::ff:fe00:1";
/// The link-local address of [`PEER`].
const PEER_LINK_LOCAL: &str = "fe80::ff:fe00:2";

/// The endpoint that the frames of [`forbidden`] are judged for: it has [`FrameBuilder::SOURCE_MAC`] and the first
/// address of each of the [`PAIRS`]; the second ones are outside.
pub fn endpoint() -> Endpoint {
    Endpoint { mac: Some(OWN), addresses: PAIRS.map(|(own, _)| address(own)).to_vec() }
}

/// Ethernet frames that are well-formed, and that the guard of [`endpoint`] drops with
/// [`crate::guard::Permissions::POD`], each with its direction and reason.
pub fn forbidden() -> Vec<(Direction, DropReason, Vec<u8>)> {
    let egress = egress_link().into_iter().chain(egress_control()).chain(PAIRS.into_iter().flat_map(egress_ip));
    let ingress = ingress_link().into_iter().chain(PAIRS.into_iter().flat_map(ingress_ip)).chain(ingress_control());
    let label = |direction| move |(reason, frame): (DropReason, FrameBuilder)| (direction, reason, frame.build());
    egress.map(label(Direction::Egress)).chain(ingress.map(label(Direction::Ingress))).collect()
}

fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().unwrap_or_else(|_| panic!("{text:?} is no IP address")).into()
}

fn ip(source: &str, destination: &str) -> FrameBuilder {
    FrameBuilder::new().ip(source, destination)
}

fn untagged() -> FrameBuilder {
    ip(PAIRS[0].0, PAIRS[0].1).tcp(40000, 80, TcpFlags::SYN)
}

fn inward(frame: FrameBuilder) -> FrameBuilder {
    frame.ethernet(PEER, OWN)
}

/// What is wrong in both directions alike.
fn kinds() -> Vec<(DropReason, FrameBuilder)> {
    let tag = |id| VlanTag { protocol: 0x8100, control: id };
    let payload = |ether_type| FrameBuilder::new().ether_type(ether_type).payload(&[0xaa; 46]);
    vec![
        (DropReason::VlanNotAllowed, untagged().vlan(tag(5))),
        (DropReason::VlanNotAllowed, untagged().vlan(tag(0))),
        (DropReason::VlanNotAllowed, untagged().vlan(tag(5)).vlan(tag(6))),
        (DropReason::VlanNotAllowed, payload(46).vlan(tag(0))),
        (DropReason::NotEthernetII, payload(46)),
        (DropReason::EtherTypeNotAllowed, payload(0x88cc)),
        (DropReason::EtherTypeNotAllowed, payload(0x8847)),
    ]
}

fn egress_link() -> Vec<(DropReason, FrameBuilder)> {
    let mut frames = kinds();
    frames.push((DropReason::SpoofedMac, untagged().ethernet(THIRD, PEER)));
    frames.push((DropReason::SpoofedMac, untagged().ethernet(MacAddress::default(), PEER)));
    frames
}

fn ingress_link() -> Vec<(DropReason, FrameBuilder)> {
    let mut frames: Vec<_> = kinds().into_iter().map(|(reason, frame)| (reason, inward(frame))).collect();
    let stray = ip(PAIRS[0].1, PAIRS[0].0).udp(1, 2).ethernet(PEER, THIRD);
    frames.push((DropReason::ForeignMac, stray));
    frames
}

fn egress_ip((own, peer): (&str, &str)) -> Vec<(DropReason, FrameBuilder)> {
    let v6 = own.contains(':');
    let third = if v6 { "fd00::3" } else { "10.0.0.3" };
    let (server, client) = if v6 { (547, 546) } else { (67, 68) };
    let group = if v6 { "ff02::fb" } else { "224.0.0.251" };
    let mut frames = vec![
        (DropReason::SpoofedAddress, ip(third, peer).tcp(40000, 80, TcpFlags::SYN)),
        (DropReason::SpoofedAddress, ip(third, peer).echo_request(1, 1)),
        (DropReason::SpoofedAddress, ip(third, group).udp(5353, 5353)),
        (DropReason::SpoofedAddress, ip(peer, own).udp(1, 2)),
        (DropReason::SpoofedAddress, ip(third, peer).protocol(253)),
        (DropReason::SpoofedAddress, ip(third, peer).udp(1, 2).payload(&[0; 8]).fragment(5, 1480, false)),
        (DropReason::DhcpServer, ip(own, peer).udp(server, client)),
        (DropReason::DhcpServer, ip(own, peer).udp(server, 5000)),
        (DropReason::DhcpServer, ip(own, peer).udp(5000, client)),
        (DropReason::DhcpClient, ip(own, peer).udp(client, server)),
    ];
    if v6 {
        frames.push((DropReason::SpoofedAddress, ip(OWN_LINK_LOCAL, peer).udp(1, 2)));
        frames.push((DropReason::SpoofedAddress, ip(PEER_LINK_LOCAL, group).udp(1, 2)));
        frames.push((DropReason::DhcpClient, ip(OWN_LINK_LOCAL, "ff02::1:2").udp(client, server)));
    } else {
        frames.push((DropReason::SpoofedAddress, ip("169.254.1.1", peer).udp(1, 2)));
        frames.push((DropReason::DhcpClient, ip("0.0.0.0", "255.255.255.255").udp(client, server)));
    }
    frames
}

fn egress_control() -> Vec<(DropReason, FrameBuilder)> {
    let (own4, peer4) = (address(PAIRS[0].0), address(PAIRS[0].1));
    let (own6, peer6) = (address(PAIRS[1].0), address(PAIRS[1].1));
    let arp = |operation, mac, sender| FrameBuilder::new().arp(operation, (mac, sender), (PEER, peer4));
    let own = |destination| ip(PAIRS[1].0, destination);
    let local = |destination| ip(OWN_LINK_LOCAL, destination);
    let quoted = FrameBuilder::packet().ip(PAIRS[0].1, PAIRS[0].0).udp(1, 2).build();
    let router = "ff02::2";
    let nodes = "ff02::1";
    vec![
        // Another's address, another's MAC address, a gratuitous claim, a probe that is a reply.
        (DropReason::SpoofedArp, arp(1, OWN, peer4)),
        (DropReason::SpoofedArp, arp(2, OWN, Address::v4([10, 0, 0, 3]))),
        (DropReason::SpoofedArp, arp(2, THIRD, own4)),
        (DropReason::SpoofedArp, FrameBuilder::new().arp(1, (OWN, peer4), (MacAddress::default(), peer4))),
        (DropReason::SpoofedArp, arp(2, OWN, Address::v4([0; 4]))),
        (DropReason::SpoofedNeighbour, own(PAIRS[1].1).neighbour_advertisement(peer6, Some(OWN))),
        (DropReason::SpoofedNeighbour, own(PAIRS[1].1).neighbour_advertisement(own6, Some(THIRD))),
        (DropReason::SpoofedNeighbour, ip("fd00::3", PAIRS[1].1).neighbour_advertisement(own6, Some(OWN))),
        (DropReason::SpoofedNeighbour, own("ff02::1:ff00:2").neighbour_solicitation(peer6, Some(THIRD))),
        (DropReason::SpoofedNeighbour, ip("fd00::3", PAIRS[1].1).neighbour_solicitation(peer6, Some(OWN))),
        // Duplicate address detection for another's address.
        (DropReason::SpoofedNeighbour, ip("::", "ff02::1:ff00:2").neighbour_solicitation(peer6, None)),
        (DropReason::SpoofedNeighbour, local(router).router_solicitation(Some(THIRD))),
        (DropReason::SpoofedNeighbour, ip(PEER_LINK_LOCAL, router).router_solicitation(Some(OWN))),
        (DropReason::RouterAdvertisement, local(nodes).router_advertisement(Some(OWN))),
        (DropReason::IcmpRedirect, local(PAIRS[1].1).redirect(address(OWN_LINK_LOCAL), own6)),
        (DropReason::IcmpRedirect, ip(PAIRS[0].0, PAIRS[0].1).icmp_error(5, 1, 0x0a00_0001, &quoted)),
        (DropReason::SpoofedAddress, ip(PEER_LINK_LOCAL, "ff02::16").group_report(address("ff02::fb"))),
        (DropReason::SpoofedAddress, ip(PAIRS[0].1, "224.0.0.251").group_report(address("224.0.0.251"))),
    ]
}

fn ingress_ip((own, _): (&str, &str)) -> Vec<(DropReason, FrameBuilder)> {
    let mut frames = vec![(DropReason::SpoofedAddress, inward(ip(own, own).udp(1, 2)))];
    if own.contains(':') {
        frames.push((DropReason::SpoofedAddress, inward(ip(OWN_LINK_LOCAL, own).udp(1, 2))));
    }
    frames
}

fn ingress_control() -> Vec<(DropReason, FrameBuilder)> {
    let (own4, own6) = (address(PAIRS[0].0), address(PAIRS[1].0));
    let claim = |operation| FrameBuilder::new().arp(operation, (PEER, own4), (OWN, own4));
    let frames = [
        (DropReason::SpoofedArp, claim(1)),
        (DropReason::SpoofedArp, claim(2)),
        (DropReason::SpoofedNeighbour, ip(PAIRS[1].1, "ff02::1").neighbour_unsolicited(own6, Some(PEER))),
        (DropReason::SpoofedNeighbour, ip(PAIRS[1].1, PAIRS[1].0).neighbour_advertisement(own6, Some(PEER))),
        (
            DropReason::SpoofedNeighbour,
            ip(PAIRS[1].1, PAIRS[1].0).neighbour_advertisement(address(OWN_LINK_LOCAL), Some(PEER)),
        ),
        (DropReason::SpoofedNeighbour, ip(PAIRS[1].0, PAIRS[1].0).neighbour_solicitation(own6, Some(PEER))),
    ];
    frames.map(|(reason, frame)| (reason, inward(frame))).to_vec()
}
