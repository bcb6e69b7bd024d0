//! The chains that Calico renders for the workloads of a node, written from its felix agent's rules
//! (`felix/rules/{endpoints,policy,static}.go`): dispatch by interface in two steps, established connections first, one chain a
//! policy with a mark bit for "accepted", selectors as ipsets. The filter table only: raw, mangle and nat, and the
//! dispatch of what a workload sends, would only make it slower.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::packet::Protocol;
use dataplane::rules::{AddressSet, Chain, Peers, Policy, RuleSet, Services, WireRules};

use crate::compare::policy::{DIRECTIONS, LIVE};
use crate::compare::topology::Family;

/// A set that always exists, to change a member of.
pub const SOME_SET: &str = "cali40s0";

/// What is loaded.
pub struct Rendered {
    /// What `ipset restore` reads.
    pub sets: String,
    /// What `iptables-restore` reads.
    pub chains: String,
}

/// The bit that says "accepted" and the one that says "on to the next tier".
const ACCEPT: &str = "0x10000/0x10000";

struct Renderer {
    family: Family,
    sets: String,
    numbers: HashMap<Arc<AddressSet>, usize>,
    chains: String,
    rules: String,
    policies: HashMap<(usize, usize, &'static str), String>,
}

/// Renders all wires of a node.
pub fn render(rules: &RuleSet, family: Family) -> Rendered {
    let mut renderer = Renderer {
        family,
        sets: String::new(),
        numbers: HashMap::new(),
        chains: String::from("*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n"),
        rules: String::new(),
        policies: HashMap::new(),
    };
    renderer.set(&Arc::new(AddressSet::new()));
    renderer.forward();
    renderer.dispatch(rules);
    for (number, wire) in rules.wires.iter().enumerate() {
        renderer.workload(number, wire);
    }
    let Renderer { sets, chains, rules, .. } = renderer;
    Rendered { sets, chains: chains + &rules + "COMMIT\n" }
}

/// The interface of a workload: of the one that is measured, the device of the topology.
fn interface(number: usize, wire: &WireRules) -> String {
    if wire.wire == LIVE { "d1".to_owned() } else { format!("cali{:02x}{number:04x}", number % 256) }
}

impl Renderer {
    fn chain(&mut self, name: &str) {
        let _ = writeln!(self.chains, ":{name} - [0:0]");
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        let _ = writeln!(self.rules, "-A {chain} {rule}");
    }

    fn forward(&mut self) {
        for chain in ["cali-FORWARD", "cali-from-hep-forward", "cali-to-hep-forward", "cali-cidr-block"] {
            self.chain(chain);
        }
        self.rule("FORWARD", "-j cali-FORWARD");
        // Of what comes back, only what belongs to a connection is looked at here; Calico would dispatch it as well.
        for rule in [
            "-j MARK --set-xmark 0x0/0xe0000",
            "-m mark --mark 0x0/0x10000 -j cali-from-hep-forward",
            "-i d1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-o cali+ -j cali-to-wl-dispatch",
            "-o d1 -j cali-to-wl-dispatch",
            "-j cali-to-hep-forward",
            "-j cali-cidr-block",
        ] {
            self.rule("cali-FORWARD", rule);
        }
        self.rule("FORWARD", &format!("-m mark --mark {ACCEPT} -j ACCEPT"));
        self.rule("FORWARD", "-j MARK --set-xmark 0x10000/0x10000");
    }

    /// First by the start of the interface's name, then by the name: sixteen rules a chain at most. The measured
    /// workload stands in the middle of both.
    fn dispatch(&mut self, rules: &RuleSet) {
        self.chain("cali-to-wl-dispatch");
        let mut groups: Vec<Vec<String>> = vec![Vec::new(); 16];
        for (number, wire) in rules.wires.iter().enumerate() {
            if wire.wire != LIVE {
                groups[number % 256 / 16].push(interface(number, wire));
            }
        }
        let half = groups[8].len() / 2;
        groups[8].insert(half, "d1".to_owned());
        for (number, group) in groups.iter().enumerate().filter(|(_, group)| !group.is_empty()) {
            let leaf = format!("cali-to-wl-dispatch-{number:x}");
            self.chain(&leaf);
            self.rule("cali-to-wl-dispatch", &format!("-o cali{number:x}+ -g {leaf}"));
            if number == 8 {
                self.rule("cali-to-wl-dispatch", &format!("-o d1 -g {leaf}"));
            }
            for interface in group {
                self.rule(&leaf, &format!("-o {interface} -g cali-tw-{interface}"));
            }
            self.rule(&leaf, "-j DROP");
        }
        self.rule("cali-to-wl-dispatch", "-j DROP");
    }

    /// `cali-tw-…`: what may go to a workload. What it sends is rendered as well, and loaded, though nothing jumps to it.
    fn workload(&mut self, number: usize, wire: &WireRules) {
        let interface = interface(number, wire);
        for (direction, letter) in DIRECTIONS {
            let chain = format!("cali-{}-{interface}", if letter == "i" { "tw" } else { "fw" });
            self.chain(&chain);
            self.rule(&chain, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
            self.rule(&chain, "-m conntrack --ctstate INVALID -j DROP");
            self.rule(&chain, "-j MARK --set-xmark 0x0/0x10000");
            if let Policy::Chain(policy) = wire.policy(direction) {
                self.rule(&chain, "-j MARK --set-xmark 0x0/0x20000");
                for name in self.policies(policy, letter) {
                    self.rule(&chain, &format!("-m mark --mark 0x0/0x20000 -j {name}"));
                    self.rule(&chain, &format!("-m mark --mark {ACCEPT} -j RETURN"));
                }
                self.rule(&chain, "-m mark --mark 0x0/0x20000 -j DROP");
            }
            self.rule(&chain, "-j DROP");
        }
    }

    /// The chains of a chain's policies, five rules each: a policy is used by all workloads that it selects.
    fn policies(&mut self, policy: &Arc<Chain>, letter: &'static str) -> Vec<String> {
        let rules = policy.tiers.iter().flat_map(|tier| &tier.rules).collect::<Vec<_>>();
        let mut names = Vec::new();
        for (part, rules) in rules.chunks(5).enumerate() {
            let key = (Arc::as_ptr(policy) as usize, part, letter);
            if let Some(name) = self.policies.get(&key) {
                names.push(name.clone());
                continue;
            }
            let name = format!("cali-p{letter}-{}", self.policies.len());
            self.chain(&name);
            for rule in rules {
                let peers = match &rule.peers {
                    Peers::Any => String::new(),
                    Peers::Set(set) => {
                        let side = if letter == "i" { "src" } else { "dst" };
                        format!("-m set --match-set {} {side} ", self.set(set))
                    }
                    // The rule sets of the comparison have sets alone; a group nobody is in matches nothing.
                    Peers::Group(_) => continue,
                };
                for service in services(&rule.services) {
                    self.rule(&name, &format!("{service}{peers}-j MARK --set-xmark {ACCEPT}"));
                    self.rule(&name, &format!("-m mark --mark {ACCEPT} -j RETURN"));
                }
            }
            self.policies.insert(key, name.clone());
            names.push(name);
        }
        names
    }

    /// The name of the ipset of a selector, which is made when it is met first.
    fn set(&mut self, set: &Arc<AddressSet>) -> String {
        if let Some(number) = self.numbers.get(set) {
            return format!("cali40s{number}");
        }
        let number = self.numbers.len();
        self.numbers.insert(set.clone(), number);
        let inet = if self.family == Family::V4 { "inet" } else { "inet6" };
        let members = members(set, self.family);
        let name = format!("cali40s{number}");
        let _ = writeln!(self.sets, "create {name} hash:net family {inet} maxelem 1048576");
        for member in members {
            let _ = writeln!(self.sets, "add {name} {member}");
        }
        name
    }
}

/// Matches of a rule's services, one rule each; Calico has up to fifteen ports in one, by `multiport`.
fn services(services: &Services) -> Vec<String> {
    let Services::Ports(ranges) = services else { return vec![String::new()] };
    let protocols: BTreeSet<Protocol> = ranges.iter().map(|range| range.protocol).collect();
    let of = |protocol: Protocol| {
        let ports: Vec<String> = ranges
            .iter()
            .filter(|range| range.protocol == protocol)
            .map(|range| {
                if range.first == range.last {
                    range.first.to_string()
                } else {
                    format!("{}:{}", range.first, range.last)
                }
            })
            .collect();
        let name = if protocol == Protocol::TCP { "tcp" } else { "udp" };
        format!("-p {name} -m multiport --destination-ports {} ", ports.join(","))
    };
    protocols.into_iter().map(of).collect()
}

/// A set's ranges of one family as prefixes.
pub fn members(set: &AddressSet, family: Family) -> Vec<String> {
    let mut members = Vec::new();
    for &(first, last) in set.ranges() {
        let v4 = Address::from_bits(first).to_v4_bits().zip(Address::from_bits(last).to_v4_bits());
        match (family, v4) {
            (Family::V4, Some((first, last))) => {
                for (bits, length) in prefixes(u128::from(first), u128::from(last), 32) {
                    members.push(format!("{}/{length}", IpAddr::from(Ipv4Addr::from_bits(bits as u32))));
                }
            }
            (Family::V6, None) => {
                for (bits, length) in prefixes(first, last, 128) {
                    members.push(format!("{}/{length}", Ipv6Addr::from_bits(bits)));
                }
            }
            _ => {}
        }
    }
    members
}

/// The fewest prefixes that cover a range; ipset knows no prefix of length 0, so that is given as two.
fn prefixes(mut first: u128, last: u128, width: u32) -> Vec<(u128, u32)> {
    let mut all = Vec::new();
    loop {
        let aligned = first.trailing_zeros().min(width - 1);
        let room = last - first;
        let fits = if room == u128::MAX { 128 } else { (room + 1).ilog2() };
        let size = aligned.min(fits);
        all.push((first, width - size));
        let step = (1u128 << size) - 1;
        if last - first <= step {
            return all;
        }
        first += step + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::policy;

    #[test]
    fn ranges_become_prefixes() {
        assert_eq!(prefixes(0x0a00_0001, 0x0a00_0004, 32), [(0x0a00_0001, 32), (0x0a00_0002, 31), (0x0a00_0004, 32)]);
        assert_eq!(prefixes(0, u128::from(u32::MAX), 32), [(0, 1), (1 << 31, 1)]);
        assert_eq!(prefixes(0, u128::MAX, 128), [(0, 1), (1 << 127, 1)]);
    }

    #[test]
    fn every_jump_has_its_chain_and_every_match_its_set() {
        let rendered = render(&policy::node(1_000, 5), Family::V4);
        let chains: BTreeSet<&str> = rendered
            .chains
            .lines()
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
            .chain(["ACCEPT", "DROP", "RETURN", "MARK"])
            .collect();
        let sets: BTreeSet<&str> =
            rendered.sets.lines().filter_map(|line| line.strip_prefix("create ")?.split(' ').next()).collect();
        assert!(sets.contains(SOME_SET));
        for line in rendered.chains.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            for pair in words.windows(2) {
                match pair[0] {
                    "-j" | "-g" => assert!(chains.contains(pair[1]), "{line}"),
                    "--match-set" => assert!(sets.contains(pair[1]), "{line}"),
                    _ => {}
                }
            }
        }
        assert!(rendered.chains.lines().filter(|line| line.starts_with("-A cali-pi-")).count() > 500);
    }
}
