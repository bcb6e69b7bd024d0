//! Rule sets in the shape that NetworkPolicies take on a node, from a seed.
//!
//! A cluster of 100 nodes with 110 pods each, in both families (a /24 and a /64 a node). Pods carry one of 200 `app` labels
//! and live in one of 50 namespaces; what a rule selects is an app, a namespace, or an app of a namespace, and one in
//! ten rules is an `ipBlock` with an `except`. Ports: mostly one or two well-known ones, sometimes all, sometimes a range. A
//! wire has about forty rules in both directions, up to 250 wires, then more rules a wire; one wire in five shares
//! the policy of the one before, as replicas of a Deployment do.

use std::collections::HashMap;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::rules::{
    Action, AddressSet, Chain, Peers, Policy, PortRange, Query, Rule, RuleId, RuleSet, Services, Tier, WireId,
    WireRules,
};

use crate::random::Random;

const NODES: u32 = 100;
const PODS_A_NODE: u32 = 110;
const APPS: u32 = 200;
const NAMESPACES: u32 = 50;
const MAX_WIRES: u32 = 250;
const RULES_A_WIRE: u32 = 40;
const PORTS: [u16; 12] = [22, 53, 80, 443, 3306, 5432, 6379, 8080, 8443, 9090, 9092, 9200];

/// A pod of the cluster, by number: its address in each family.
pub fn pod(number: u32) -> [Address; 2] {
    let (node, host) = (number / PODS_A_NODE % NODES, number % PODS_A_NODE + 2);
    let v4 = (0x0af4_0000 | node << 8 | host).to_be_bytes();
    let v6 = 0xfd00_0010_0244 << 80 | u128::from(node) << 64 | u128::from(host);
    [Address::v4(v4), Address::from_bits(v6)]
}

/// An address of the internet, in either family.
fn external(random: &mut Random) -> [Address; 2] {
    let bits = random.next_u64();
    let v4 = ((bits as u32 & 0x7fff_ffff) | 0x4000_0000).to_be_bytes();
    [Address::v4(v4), Address::from_bits(0x2 << 124 | u128::from(bits) << 32)]
}

/// A peer of a rule: what is selected.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Selector {
    App(u32),
    Namespace(u32),
    AppOf(u32, u32),
    Block(u32),
}

struct Generator {
    random: Random,
    /// Of every pod.
    labels: Vec<(u32, u32)>,
    sets: HashMap<Selector, Arc<AddressSet>>,
    next_rule: u32,
}

/// A rule set with `rules` rules in all.
pub fn network_policies(rules: u32, seed: u64) -> RuleSet {
    let mut random = Random::new(seed);
    let labels = (0..NODES * PODS_A_NODE).map(|_| (random.below(APPS), random.below(NAMESPACES))).collect();
    let mut generator = Generator { random, labels, sets: HashMap::new(), next_rule: 0 };
    let wires = rules.div_ceil(RULES_A_WIRE).clamp(1, MAX_WIRES);
    let mut set = RuleSet::default();
    let mut left = rules;
    for wire in 0..wires {
        let share = left / (wires - wire);
        left -= share;
        let mut next = match set.wires.last() {
            Some(last) if generator.random.below(5) == 0 => last.clone(),
            _ => WireRules {
                wire: WireId(0),
                egress: generator.chain(share / 2),
                ingress: generator.chain(share - share / 2),
            },
        };
        next.wire = WireId(wire * 7 + 1);
        set.wires.push(next);
    }
    set
}

impl Generator {
    fn chain(&mut self, rules: u32) -> Policy {
        if rules == 0 {
            return Policy::Open;
        }
        let rules = (0..rules).map(|_| self.rule()).collect();
        Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules, default: Action::Deny }] }))
    }

    fn rule(&mut self) -> Rule {
        let selector = match self.random.below(10) {
            0 => Selector::Block(self.random.below(100)),
            1 | 2 => Selector::Namespace(self.random.below(NAMESPACES)),
            3..6 => Selector::App(self.random.below(APPS)),
            _ => Selector::AppOf(self.random.below(APPS), self.random.below(NAMESPACES)),
        };
        let peers = Peers::Set(self.set(selector));
        let services = match self.random.below(10) {
            0 => Services::Any,
            1 => {
                let first = self.random.below(60_000) as u16;
                let last = first + self.random.below(5_000) as u16;
                Services::Ports(vec![PortRange { protocol: Protocol::TCP, first, last }])
            }
            n => Services::Ports((0..n % 2 + 1).map(|_| self.port()).collect()),
        };
        let id = RuleId(self.next_rule);
        self.next_rule += 1;
        Rule { action: Action::Allow, log: false, peers, services, id }
    }

    fn port(&mut self) -> PortRange {
        let port = *self.random.pick(&PORTS);
        let protocol = if port == 53 { Protocol::UDP } else { Protocol::TCP };
        PortRange { protocol, first: port, last: port }
    }

    fn set(&mut self, selector: Selector) -> Arc<AddressSet> {
        if let Some(set) = self.sets.get(&selector) {
            return Arc::clone(set);
        }
        let pods = |selected: &dyn Fn(&(u32, u32)) -> bool| {
            let pods = (0..).zip(&self.labels).filter(|(_, labels)| selected(labels));
            pods.flat_map(|(number, _)| pod(number)).collect::<AddressSet>()
        };
        let set = Arc::new(match selector {
            Selector::App(app) => pods(&|labels| labels.0 == app),
            Selector::Namespace(namespace) => pods(&|labels| labels.1 == namespace),
            Selector::AppOf(app, namespace) => pods(&|&labels| labels == (app, namespace)),
            Selector::Block(_) => self.block(),
        });
        self.sets.insert(selector, Arc::clone(&set));
        set
    }

    /// A prefix of each family without a longer one in it; the first is everything but the cluster.
    fn block(&mut self) -> AddressSet {
        let length = [0, 8, 12, 16, 20, 24, 28][self.random.below(7) as usize];
        let [v4, v6] = external(&mut self.random).map(|address| address.to_bits());
        let [pod4, pod6] = pod(0).map(|address| address.to_bits());
        let (pod4, pod6) = if length == 0 { (pod4, pod6) } else { (v4, v6) };
        let range = |bits: u128, host: u32| {
            let mask = (1u128 << host) - 1;
            (bits & !mask, bits | mask)
        };
        let block = AddressSet::from_iter([range(v4, 32 - length), range(v6, 124 - 2 * length)]);
        block.subtract(&AddressSet::from_iter([range(pod4, (32 - length) / 2), range(pod6, 72 - length)]))
    }
}

/// Questions to a rule set: half about peers that a rule of the wire names, the others about any pod or the internet; a
/// fifth of each to any port at all. All of one family when `family` says which (0 for IPv4, 1 for IPv6).
pub fn queries(rules: &RuleSet, count: usize, family: Option<usize>, seed: u64) -> Vec<(WireId, Direction, Query)> {
    let mut random = Random::new(seed);
    let mut query = || {
        let wire = random.pick(&rules.wires);
        let direction = *random.pick(&Direction::BOTH);
        let family = family.unwrap_or(random.below(2) as usize);
        let peer = match random.below(8) {
            0 => external(&mut random)[family],
            1..4 => pod(random.below(NODES * PODS_A_NODE))[family],
            _ => named_peer(wire.policy(direction), family, &mut random),
        };
        let port = if random.below(5) == 0 { random.below(65_536) as u16 } else { *random.pick(&PORTS) };
        let protocol = if port == 53 { Protocol::UDP } else { Protocol::TCP };
        (wire.wire, direction, Query::new(peer, protocol, port))
    };
    std::iter::repeat_with(&mut query).take(count).collect()
}

/// An address that a rule names, or a pod's.
fn named_peer(policy: &Policy, family: usize, random: &mut Random) -> Address {
    let any = pod(random.below(NODES * PODS_A_NODE))[family];
    let Policy::Chain(chain) = policy else { return any };
    let Peers::Set(set) = &random.pick(&chain.tiers[0].rules).peers else { return any };
    let ranges: Vec<_> =
        set.ranges().iter().filter(|range| Address::from_bits(range.0).is_v4() == (family == 0)).collect();
    if ranges.is_empty() {
        return any;
    }
    let &&(first, last) = random.pick(&ranges);
    Address::from_bits(first + u128::from(random.next_u64()).min(last - first))
}

#[cfg(test)]
mod tests {
    use dataplane::classify::Classifier;

    use super::*;

    /// What is measured must be right, and must not be the same answer throughout.
    #[test]
    fn generated_rules_decide_as_the_linear_reading_does() {
        for rules in [10, 1_000, 10_000] {
            let set = network_policies(rules, 1);
            let classifier = Classifier::compile(&set).unwrap();
            let mut allowed = 0;
            for (wire, direction, query) in queries(&set, 2_000, None, 2) {
                let decision = classifier.judge(classifier.slot(wire).unwrap(), direction, query);
                let rules = set.wires.iter().find(|rules| rules.wire == wire).unwrap();
                assert_eq!(
                    decision,
                    rules.policy(direction).judge(direction, query),
                    "{wire:?} {direction:?} {query:?}"
                );
                allowed += usize::from(decision.action == Action::Allow);
            }
            assert!((100..1_900).contains(&allowed), "{allowed} of 2,000 allowed with {rules} rules");
            println!("{rules} rules: {:?}, {allowed} of 2,000 allowed", classifier.size());
        }
    }

    #[test]
    fn a_seed_is_a_rule_set() {
        assert_eq!(network_policies(100, 3), network_policies(100, 3));
        assert_ne!(network_policies(100, 3), network_policies(100, 4));
    }
}
