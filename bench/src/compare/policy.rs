//! The rules that every contender gets, in the form that each of them takes.
//!
//! Two shapes, from one seed. Penstock and the chains that Calico renders get NetworkPolicies of a node, hundreds of wires with
//! a few dozen rules each ([`crate::rulesets`]). The other peers have no wires: they get as many *entries*
//! (source prefix, protocol, destination ports) in one list, map or set. Traffic that is allowed matches the
//! last rule of either, so that a list is read to its end; nothing else matches the peers' entries.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::rules::list::{AddressRange, ListRule, Ports, RuleList, TooManyRules};
use dataplane::rules::{
    Action, AddressSet, Chain, Peers, Policy, PortRange, Query, Rule, RuleId, RuleSet, Services, Tier, WireId,
    WireRules,
};

use ipnet::IpNet;

use crate::compare::topology::Family;
use crate::random::Random;
use crate::rulesets;

/// UDP ports of the pod that are allowed. Frames go to the first, and to [`DENIED_PORT`] in the check.
pub const UDP_PORTS: (u16, u16) = (8000, 8099);
/// TCP ports of the pod that are allowed.
pub const TCP_PORTS: (u16, u16) = (5000, 5999);
/// A port that is not.
pub const DENIED_PORT: u16 = 7999;
/// How many addresses the generated flows come from: 10.1.1.0 and up, fd00:1::1:0 and up.
pub const SOURCES: u32 = 256;
/// The number of the wire that is measured, which the first wire of an engine gets.
pub const LIVE: WireId = WireId(0);
/// The rule that allows the traffic.
const LIVE_RULE: RuleId = RuleId(u32::MAX - 1);

/// One allowed (prefix, protocol, ports).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address of the prefix.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub length: u8,
    /// TCP, or UDP.
    pub is_tcp: bool,
    /// First destination port.
    pub first: u16,
    /// Last destination port.
    pub last: u16,
}

impl Entry {
    fn protocol(&self) -> &'static str {
        if self.is_tcp { "tcp" } else { "udp" }
    }

    fn ports(&self, separator: char) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}{separator}{}", self.first, self.last) }
    }
}

/// The `number`-th address that generated flows come from.
pub fn source(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a01_0100 + number).into(),
        Family::V6 => Ipv6Addr::from_bits(0xfd00_0001 << 96 | 0x1_0000 | u128::from(number)).into(),
    }
}

/// `rules` entries that the traffic does not match, in an order of the seed. Four share a prefix and differ in their
/// ports; three in ten have a range of ports, unless they are to be `exact`, which also makes every prefix one address.
pub fn entries(rules: u32, family: Family, exact: bool, seed: u64) -> Vec<Entry> {
    let mut random = Random::new(seed);
    let mut entries: Vec<Entry> = (0..rules)
        .map(|number| {
            let (block, quarter) = (number / 4, (number % 4) as u16);
            let length = if exact { 32 } else { *random.pick(&[24u8, 26, 28, 32]) };
            let address = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (block << 8))),
                Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(0xfd11 << 112 | u128::from(block) << 64)),
            };
            let length = if family == Family::V4 { length } else { 128 - 2 * (32 - length) };
            let first = 10_000 * (quarter + 1) + random.below(5_000) as u16;
            let width = if !exact && random.below(10) < 3 { random.below(2_000) as u16 } else { 0 };
            Entry { address, length, is_tcp: random.below(4) > 0, first, last: first + width }
        })
        .collect();
    for at in (1..entries.len()).rev() {
        entries.swap(at, random.below(at as u32 + 1) as usize);
    }
    entries
}

/// The same entries, all of the measured traffic's protocol. Who reads rules one after the other compares the protocol
/// first: a rule of another one costs half, and how many there are would decide the figure. With this, each is left at its
/// address, as in the figures that were published.
pub fn of_the_traffic(entries: Vec<Entry>) -> Vec<Entry> {
    entries.into_iter().map(|entry| Entry { is_tcp: false, ..entry }).collect()
}

/// The entries that allow the traffic: for prefixes one a protocol, otherwise one for each source address.
fn allowed(family: Family, exact: bool) -> Vec<Entry> {
    let (address, length) = match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::new(10, 1, 0, 0)), 16),
        Family::V6 => (IpAddr::V6(Ipv6Addr::from_bits(0xfd00_0001 << 96)), 64),
    };
    if !exact {
        let of = |is_tcp, (first, last)| Entry { address, length, is_tcp, first, last };
        return vec![of(true, TCP_PORTS), of(false, UDP_PORTS)];
    }
    let length = if family == Family::V4 { 32 } else { 128 };
    let udp = |number| Entry {
        address: source(family, number),
        length,
        is_tcp: false,
        first: UDP_PORTS.0,
        last: UDP_PORTS.0,
    };
    (0..SOURCES).map(udp).collect()
}

/// Whether a connection's packets are known before any rule is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Established ones pass first.
    On,
    /// Every packet is judged; answers pass because they come from the other side.
    Off,
}

/// What `iptables-restore` and `ip6tables-restore` read: rules in one chain, the one that allows the traffic last.
pub fn iptables(entries: &[Entry], family: Family, tracking: Tracking) -> String {
    let mut text = String::from("*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n");
    if tracking == Tracking::On {
        text.push_str("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
    }
    for entry in entries.iter().chain(&allowed(family, false)) {
        let (protocol, ports) = (entry.protocol(), entry.ports(':'));
        let _ = writeln!(
            text,
            "-A FORWARD -s {}/{} -p {protocol} -m {protocol} --dport {ports} -j ACCEPT",
            entry.address, entry.length
        );
    }
    if tracking == Tracking::Off {
        text.push_str("-A FORWARD -i d1 -j ACCEPT\n");
    }
    text.push_str("COMMIT\n");
    text
}

/// What `ipset restore` reads: one set of (address, port).
pub fn ipset(entries: &[Entry], family: Family) -> String {
    let inet = if family == Family::V4 { "inet" } else { "inet6" };
    let mut text = format!("create allowed hash:ip,port family {inet} maxelem 1000000\n");
    for entry in entries.iter().chain(&allowed(family, true)) {
        let _ = writeln!(text, "add allowed {},{}:{}", entry.address, entry.protocol(), entry.first);
    }
    text
}

/// The rules that ask the set of [`ipset`].
pub fn ipset_rules(tracking: Tracking) -> String {
    let mut text = String::from("*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n");
    if tracking == Tracking::On {
        text.push_str("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
    }
    text.push_str("-A FORWARD -m set --match-set allowed src,dst -j ACCEPT\n");
    let (first, last) = TCP_PORTS;
    let _ = writeln!(text, "-A FORWARD -p tcp -m tcp --dport {first}:{last} -j ACCEPT");
    text.push_str("-A FORWARD -i d1 -j ACCEPT\nCOMMIT\n");
    text
}

/// One element of the map of [`nft`], as `nft` writes it.
pub fn element(entry: &Entry, exact: bool) -> String {
    let address = match (exact, entry.length) {
        (true, _) | (_, 128) => entry.address.to_string(),
        (false, 32) if entry.address.is_ipv4() => entry.address.to_string(),
        (false, length) => format!("{}/{length}", entry.address),
    };
    format!("{address} . {} . {} : accept", entry.protocol(), entry.ports('-'))
}

/// What `nft -f` reads: one verdict map with all entries, of exact keys or of intervals.
pub fn nft(entries: &[Entry], family: Family, exact: bool, tracking: Tracking) -> String {
    let (kind, source) = match family {
        Family::V4 => ("ipv4_addr", "ip saddr"),
        Family::V6 => ("ipv6_addr", "ip6 saddr"),
    };
    let flags = if exact { "" } else { "flags interval; " };
    let mut text = format!(
        "table inet compare {{\n map allowed {{ type {kind} . inet_proto . inet_service : verdict; {flags}elements = {{\n"
    );
    for entry in entries.iter().chain(&allowed(family, exact)) {
        let _ = writeln!(text, "{},", element(entry, exact));
    }
    text.push_str("} }\n chain forward { type filter hook forward priority filter; policy drop;\n");
    if tracking == Tracking::On {
        text.push_str("  ct state established,related accept\n");
    }
    let _ = writeln!(text, "  {source} . meta l4proto . th dport vmap @allowed");
    if exact {
        let (first, last) = TCP_PORTS;
        let _ = writeln!(text, "  tcp dport {first}-{last} accept");
    }
    if tracking == Tracking::Off {
        text.push_str("  iifname \"d1\" accept\n");
    }
    text.push_str(" }\n}\n");
    text
}

/// The entries as a gateway's rule list, those that allow the traffic last.
///
/// # Errors
/// More rules than a list can have.
pub fn list(entries: &[Entry], family: Family) -> Result<RuleList, TooManyRules> {
    let entries = entries.iter().chain(&allowed(family, false)).copied().collect::<Vec<_>>();
    RuleList::new(&list_rules(&entries), Action::Deny)
}

/// The entries as rules that allow, numbered in their order.
pub fn list_rules(entries: &[Entry]) -> Vec<ListRule> {
    (0..).zip(entries).map(|(id, entry)| list_rule(entry, id)).collect()
}

/// An entry as a rule that allows.
pub fn list_rule(entry: &Entry, id: u32) -> ListRule {
    ListRule {
        source: AddressRange::from(IpNet::new_assert(entry.address, entry.length).trunc()),
        destination: if entry.address.is_ipv4() { AddressRange::ANY_V4 } else { AddressRange::ANY },
        destination_ports: Ports { first: entry.first, last: entry.last },
        protocol: Some(if entry.is_tcp { Protocol::TCP } else { Protocol::UDP }),
        ..ListRule::of_everything(Action::Allow, RuleId(id))
    }
}

/// The policies of a node with so many rules. The first wire is the one that is measured: at the end of each of its
/// chains stands the rule that allows the traffic.
pub fn node(rules: u32, seed: u64) -> RuleSet {
    let mut set = rulesets::network_policies(rules.saturating_sub(2), seed);
    let live = live_rule();
    let extend = |policy: &Policy| {
        let mut chain = match policy {
            // No list comes out of `network_policies`.
            Policy::Open | Policy::List(_) | Policy::Stateful(_) => {
                Chain { tiers: vec![Tier { rules: Vec::new(), default: Action::Deny }] }
            }
            Policy::Chain(chain) => (**chain).clone(),
        };
        let rules = &mut chain.tiers[0].rules;
        rules.retain(|rule| !means_the_traffic(rule));
        rules.push(live.clone());
        Policy::Chain(Arc::new(chain))
    };
    // The largest, so that the figure is not that of a nearly empty wire.
    let count = |policy: &Policy| match policy {
        Policy::Open | Policy::List(_) | Policy::Stateful(_) => 0,
        Policy::Chain(chain) => chain.tiers.iter().map(|tier| tier.rules.len()).sum::<usize>(),
    };
    let largest = (0..set.wires.len()).max_by_key(|&at| count(&set.wires[at].ingress)).unwrap_or(0);
    set.wires.swap(0, largest);
    match set.wires.first_mut() {
        Some(wire) => {
            *wire = WireRules { wire: LIVE, egress: extend(&wire.egress), ingress: extend(&wire.ingress) };
        }
        None => {
            set.wires.push(WireRules { wire: LIVE, egress: extend(&Policy::Open), ingress: extend(&Policy::Open) });
        }
    }
    set
}

/// Whether a generated rule happens to allow what is sent in checks or measured, in either direction: the traffic is to
/// pass by the last rule, and what is denied by none.
fn means_the_traffic(rule: &Rule) -> bool {
    let udp = [DENIED_PORT, UDP_PORTS.0].map(|port| (Protocol::UDP, port));
    let tcp = std::iter::once(DENIED_PORT).chain(TCP_PORTS.0..=TCP_PORTS.1).map(|port| (Protocol::TCP, port));
    let services: Vec<_> =
        udp.into_iter().chain(tcp).filter(|&(protocol, port)| rule.services.contains(protocol, port)).collect();
    let peers = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        let ends = [family.generator(), family.sink()].into_iter().filter_map(|end| end.parse().ok());
        (0..SOURCES).map(move |number| source(family, number)).chain(ends)
    });
    !services.is_empty()
        && peers.map(Address::from).any(|peer| {
            let (protocol, port) = services[0];
            rule.matches(Query::new(peer, protocol, port), &|_, _| false)
        })
}

fn live_rule() -> Rule {
    let nets = ["10.1.0.0/16", "10.2.0.0/24", "fd00:1::/64", "fd00:2::/64"];
    let peers: AddressSet = nets.iter().filter_map(|net| net.parse::<IpNet>().ok()).collect();
    let range = |protocol, (first, last)| PortRange { protocol, first, last };
    Rule {
        action: Action::Allow,
        log: false,
        peers: Peers::Set(Arc::new(peers)),
        services: Services::Ports(vec![range(Protocol::TCP, TCP_PORTS), range(Protocol::UDP, UDP_PORTS)]),
        id: LIVE_RULE,
    }
}

/// The addresses of the pod on the wire that is measured.
pub fn pod() -> Vec<Address> {
    [Family::V4, Family::V6]
        .iter()
        .filter_map(|family| family.sink().parse::<IpAddr>().ok())
        .map(Address::from)
        .collect()
}

/// The addresses of the pod at the generator's end, where there are two wires.
pub fn near_pod() -> Vec<Address> {
    let addresses = [Family::V4, Family::V6].map(|family| family.generator().parse::<IpAddr>());
    addresses.into_iter().flatten().map(Address::from).collect()
}

/// The directions with their names in chains.
pub const DIRECTIONS: [(Direction, &str); 2] = [(Direction::Ingress, "i"), (Direction::Egress, "o")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_many_as_asked_for_and_miss_the_traffic() {
        for family in [Family::V4, Family::V6] {
            for exact in [false, true] {
                let entries = entries(1_000, family, exact, 7);
                assert_eq!(entries.len(), 1_000);
                for entry in &entries {
                    let net = IpNet::new(entry.address, entry.length).unwrap();
                    assert!((0..SOURCES).all(|number| !net.contains(&source(family, number))), "{entry:?}");
                    assert!(entry.first > UDP_PORTS.1, "{entry:?}");
                    assert!(!exact || entry.first == entry.last, "{entry:?}");
                }
                let distinct: std::collections::BTreeSet<_> =
                    entries.iter().map(|entry| (entry.address, entry.is_tcp, entry.first)).collect();
                assert_eq!(distinct.len(), 1_000, "a map takes no element twice");
            }
        }
    }

    #[test]
    fn no_seed_lets_another_rule_decide_the_traffic() {
        // The first is one whose generated rules allow everything to somebody.
        for seed in [1_795_387_958_778_671_264, crate::micro::fresh_seed()] {
            let set = node(100_000, seed);
            let live = set.wires.iter().find(|wire| wire.wire == LIVE).unwrap();
            for (family, number) in [(Family::V4, 0), (Family::V4, 200), (Family::V6, 9)] {
                let peer = Address::from(source(family, number));
                for (direction, policy) in [(Direction::Ingress, &live.ingress), (Direction::Egress, &live.egress)] {
                    for protocol in [Protocol::UDP, Protocol::TCP] {
                        let judge = |port| policy.judge(direction, Query::new(peer, protocol, port));
                        assert_eq!(judge(DENIED_PORT).action, Action::Deny, "seed {seed}");
                        let port = if protocol == Protocol::UDP { UDP_PORTS.0 } else { TCP_PORTS.1 };
                        assert_eq!(judge(port).rule, Some(LIVE_RULE), "seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_allows_what_the_entries_allow() {
        for family in [Family::V4, Family::V6] {
            let list = list(&entries(1_000, family, false, 11), family).unwrap();
            let pod = Address::from(family.sink().parse::<IpAddr>().unwrap());
            let judge = |port| {
                let query = Query::new(Address::from(source(family, 255)), Protocol::UDP, port);
                list.judge(Direction::Ingress, Query { local: pod, ..query })
            };
            // The last rule, so that all are in its way.
            assert_eq!(judge(UDP_PORTS.0).rule, Some(RuleId(1_001)));
            assert_eq!(judge(DENIED_PORT).action, Action::Deny);
        }
    }

    #[test]
    fn lists_in_a_row_hold_the_protocol_of_the_traffic_alone() {
        let text = iptables(&of_the_traffic(entries(500, Family::V4, false, 3)), Family::V4, Tracking::Off);
        // The allowing rule for TCP is the only one of another protocol.
        assert_eq!(text.lines().filter(|line| line.contains("-p tcp")).count(), 1);
        assert_eq!(text.lines().filter(|line| line.contains("-p udp")).count(), 501);
    }

    #[test]
    fn a_node_has_the_rules_and_allows_the_traffic() {
        for rules in [10, 1_000] {
            let set = node(rules, 3);
            let count: usize = set
                .wires
                .iter()
                .flat_map(|wire| [&wire.egress, &wire.ingress])
                .filter_map(
                    |policy| if let Policy::Chain(chain) = policy { Some(chain.tiers[0].rules.len()) } else { None },
                )
                .sum();
            // Wires that share a Deployment's policy share its rules.
            assert!((rules as usize * 7 / 10..=rules as usize * 13 / 10).contains(&count), "{count} for {rules}");
            let live = set.wires.iter().find(|wire| wire.wire == LIVE).unwrap();
            for family in [Family::V4, Family::V6] {
                let judge = |number, port| {
                    let peer = Address::from(source(family, number));
                    live.ingress.judge(Direction::Ingress, Query::new(peer, Protocol::UDP, port))
                };
                assert_eq!(judge(255, UDP_PORTS.0).rule, Some(LIVE_RULE), "no earlier rule may match");
                assert_eq!(judge(0, DENIED_PORT).action, Action::Deny);
            }
        }
    }
}
