//! Which ports and addresses to ask about, so that each stands for all those that the rules treat alike.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::address::Address;
use dataplane::rules::{AddressSet, PortRange};

use super::super::cluster::{Cluster, Peer};
use super::{PROTOCOLS, all_rules, is_of_a_pod};

/// Ports 1 to 65535 of every protocol, cut wherever a rule or a container's port begins or ends.
pub(super) fn port_ranges(clusters: [&Cluster; 2]) -> Vec<PortRange> {
    let mut cuts: BTreeSet<(u8, u32)> = BTreeSet::new();
    let mut cut = |range: PortRange| {
        cuts.insert((range.protocol.0, range.first.into()));
        cuts.insert((range.protocol.0, u32::from(range.last) + 1));
    };
    for ports in all_rules(clusters).filter_map(|rule| rule.ports.as_ref()) {
        ports.iter().filter_map(|ports| ports.range()).for_each(&mut cut);
    }
    for port in clusters.into_iter().flat_map(Cluster::pods).flat_map(|pod| pod.ports.iter()) {
        cut(PortRange { protocol: port.protocol, first: port.port, last: port.port });
    }
    let mut ranges = Vec::new();
    for protocol in PROTOCOLS {
        let own = cuts.range((protocol.0, 2)..=(protocol.0, 65535)).map(|&(_, cut)| cut);
        let mut first = 1;
        for next in own.chain([65536]) {
            ranges.push(PortRange { protocol, first: first as u16, last: (next - 1) as u16 });
            first = next;
        }
    }
    ranges
}

/// Addresses outside of pods: all nodes', and one of each stretch that the blocks of all rules cut out.
pub(super) fn addresses(clusters: [&Cluster; 2]) -> BTreeSet<IpAddr> {
    let mut samples: BTreeSet<IpAddr> = BTreeSet::new();
    let mut cuts: BTreeSet<u128> = FAMILIES.iter().map(|family| family.parse().unwrap()).map(bits).collect();
    for peer in all_rules(clusters).flat_map(|rule| rule.peers.iter().flatten()) {
        let Peer::Block(block) = peer else { continue };
        for network in [&block.network].into_iter().chain(&block.except) {
            let (first, last) = AddressSet::range_of(network);
            cuts.insert(first);
            cuts.extend(last.checked_add(1));
        }
    }
    let cuts: Vec<_> = cuts.into_iter().collect();
    for (index, &first) in cuts.iter().enumerate() {
        let last = cuts.get(index + 1).map_or(u128::MAX, |next| next - 1);
        samples.extend(representative(first, last, clusters));
    }
    let nodes = clusters.into_iter().flat_map(Cluster::nodes).flat_map(|node| &node.addresses);
    samples.extend(nodes.copied().filter(|&address| !is_of_a_pod(clusters, address)));
    samples
}

/// Where IPv4 (in its mapped form) begins and ends in the number space of IPv6, and where global unicast does.
const FAMILIES: [&str; 4] = ["::ffff:0:0", "::1:0:0:0", "2000::", "4000::"];

/// Addresses that people know to be outside: of the ranges for documentation (RFC 5737, RFC 3849).
const WELL_KNOWN: [&str; 2] = ["203.0.113.7", "2001:db8::7"];

fn bits(address: IpAddr) -> u128 {
    Address::from(address).to_bits()
}

/// An address of a stretch that a host can have and no pod has; a well-known one if it is there.
fn representative(first: u128, last: u128, clusters: [&Cluster; 2]) -> Option<IpAddr> {
    let well_known = WELL_KNOWN.iter().map(|text| text.parse().unwrap()).map(bits);
    let lowest_v4 = bits(IpAddr::from([1, 0, 0, 1]));
    // Pods take few addresses, so one of the first hundred is free, unless the stretch is smaller.
    let from_start = (0..100).filter_map(|step| first.checked_add(step + 1)).chain([first, lowest_v4]);
    let candidates = well_known.chain(from_start).filter(|bits| (first..=last).contains(bits));
    candidates
        .map(|bits| IpAddr::from(Address::from_bits(bits)))
        .find(|&address| is_host(address) && !is_of_a_pod(clusters, address))
}

/// Whether a packet of a host can carry it.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_loopback() && v4.octets()[0] < 224,
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            first != 0 && first & 0xffc0 != 0xfe80 && first < 0xff00
        }
    }
}
