//! Neighbours: who has an address, asked and answered, by ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).
//!
//! A device under test that routes asks for the generator's and the sink's addresses, and has to be asked for its own. The
//! kernel answers for addresses that an interface has; this is for the many that it has not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::address::{Address, MacAddress};
use dataplane::rules::AddressSet;

use super::frame::{ETHERNET, fold, sum};

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Where the target of a solicitation or an advertisement lies: Ethernet, IPv6, and the first eight bytes of ICMPv6.
const TARGET: usize = ETHERNET + 40 + 8;

/// A request for the MAC address of `target`, from a station with this address.
pub(super) fn question(target: IpAddr, source: IpAddr, mac: MacAddress) -> Option<Vec<u8>> {
    match (target, source) {
        (IpAddr::V4(target), IpAddr::V4(source)) => {
            Some(arp(1, MacAddress::BROADCAST, mac, (mac, source), (MacAddress::default(), target)))
        }
        (IpAddr::V6(target), IpAddr::V6(source)) => {
            let [.., a, b, c] = target.octets();
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            let to = MacAddress([0x33, 0x33, 0xff, a, b, c]);
            Some(discovery(SOLICITATION, 0, (to, group), (mac, source), target, 1))
        }
        _ => None,
    }
}

/// The answer to a request for one of `ours`, if the frame is one.
pub(super) fn answer(frame: &[u8], ours: &AddressSet, mac: MacAddress) -> Option<Vec<u8>> {
    match frame.get(12..14)? {
        kind if kind == ARP => {
            let (operation, asker, source, target) = read_arp(frame)?;
            let mine = operation == 1 && source != target && ours.contains(Address::from(IpAddr::V4(target)));
            mine.then(|| arp(2, asker, mac, (mac, target), (asker, source)))
        }
        kind if kind == IPV6 && is_discovery(frame, SOLICITATION) => {
            let target = ipv6(frame, TARGET)?;
            let source = ipv6(frame, ETHERNET + 8)?;
            // A probe for duplicates comes from nobody; what is asked for may be in use by the kernel.
            let mine = !source.is_unspecified() && ours.contains(Address::from(IpAddr::V6(target)));
            let asker = MacAddress(*frame.get(6..12)?.first_chunk()?);
            // Solicited, override.
            mine.then(|| discovery(ADVERTISEMENT, 0x60, (asker, source), (mac, target), target, 2))
        }
        _ => None,
    }
}

/// The MAC address of `target`, if the frame tells it.
pub(super) fn told(frame: &[u8], target: IpAddr) -> Option<MacAddress> {
    match (frame.get(12..14)?, target) {
        (kind, IpAddr::V4(target)) if kind == ARP => {
            let (_, sender, source, _) = read_arp(frame)?;
            (source == target).then_some(sender)
        }
        (kind, IpAddr::V6(target)) if kind == IPV6 && is_discovery(frame, ADVERTISEMENT) => {
            if ipv6(frame, TARGET)? != target {
                return None;
            }
            // The target's link-layer address, an option of 8 bytes; without it, the sender.
            let option = frame.get(TARGET + 16..TARGET + 24).filter(|option| option[..2] == [2, 1]);
            let bytes = option.map_or(frame.get(6..12)?, |option| &option[2..]);
            bytes.first_chunk().copied().map(MacAddress)
        }
        _ => None,
    }
}

/// Operation, sender's MAC and IP address, target's IP address.
fn read_arp(frame: &[u8]) -> Option<(u8, MacAddress, Ipv4Addr, Ipv4Addr)> {
    let packet: &[u8; 28] = frame.get(ETHERNET..)?.first_chunk()?;
    let [0, 1, 8, 0, 6, 4, 0, operation, rest @ ..] = packet else { return None };
    let ip = |at: usize| Ipv4Addr::new(rest[at], rest[at + 1], rest[at + 2], rest[at + 3]);
    Some((*operation, MacAddress(*rest.first_chunk()?), ip(6), ip(16)))
}

fn arp(
    operation: u8,
    to: MacAddress,
    from: MacAddress,
    sender: (MacAddress, Ipv4Addr),
    target: (MacAddress, Ipv4Addr),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    for part in [&to.0[..], &from.0, &ARP, &[0, 1, 8, 0, 6, 4, 0, operation]] {
        frame.extend_from_slice(part);
    }
    for (mac, ip) in [sender, target] {
        frame.extend_from_slice(&mac.0);
        frame.extend_from_slice(&ip.octets());
    }
    frame.resize(60, 0);
    frame
}

fn is_discovery(frame: &[u8], kind: u8) -> bool {
    // The hop limit shows that no router has passed it on (RFC 4861 section 7.1).
    frame.get(ETHERNET + 6..ETHERNET + 8) == Some(&[ICMPV6, 255]) && frame.get(ETHERNET + 40) == Some(&kind)
}

fn ipv6(frame: &[u8], at: usize) -> Option<Ipv6Addr> {
    frame.get(at..)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes))
}

/// A solicitation or an advertisement with the sender's link-layer address as its option.
fn discovery(
    kind: u8,
    flags: u8,
    to: (MacAddress, Ipv6Addr),
    from: (MacAddress, Ipv6Addr),
    target: Ipv6Addr,
    option: u8,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[option, 1]);
    message.extend_from_slice(&from.0.0);
    let addresses = [from.1.octets(), to.1.octets()].concat();
    let total = sum(&addresses) + sum(&[0, message.len() as u8, 0, ICMPV6]) + sum(&message);
    message[2..4].copy_from_slice(&fold(total).to_ne_bytes());
    let header = [0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255];
    [&to.0.0[..], &from.0.0, &IPV6, &header, &addresses, &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const THEIRS: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_question_is_answered_with_what_was_asked() {
        for (mine, theirs, other) in [("10.0.0.1", "10.0.0.2", "10.0.0.3"), ("fd00::1", "fd00::2", "fd00::3")] {
            let ours: AddressSet = [Address::from(ip(mine))].into_iter().collect();
            let asked = question(ip(mine), ip(theirs), THEIRS).unwrap();
            let answered = answer(&asked, &ours, MINE).unwrap();
            assert_eq!(answered[..6], THEIRS.0);
            assert_eq!(told(&answered, ip(mine)), Some(MINE));
            assert_eq!(told(&answered, ip(other)), None);
            assert_eq!(answer(&question(ip(other), ip(theirs), THEIRS).unwrap(), &ours, MINE), None);
            assert_eq!(answer(&answered, &ours, MINE), None);
            // Cut short anywhere, it is nothing, and no panic.
            (0..asked.len())
                .for_each(|length| assert!(length >= 42 || answer(&asked[..length], &ours, MINE).is_none()));
        }
        assert_eq!(question(ip("10.0.0.1"), ip("fd00::1"), MINE), None);
    }

    #[test]
    fn discovery_has_a_right_checksum() {
        let frame = question(ip("fd00::abcd:1234"), ip("fd00::2"), MINE).unwrap();
        let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("{packet:?}") };
        let Some(etherparse::NetSlice::Ipv6(ip)) = packet.net else { panic!("{:?}", frame) };
        let header = ip.header();
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        assert_eq!(header.destination_addr().to_string(), "ff02::1:ffcd:1234");
    }
}
