//! Compiled equals linear, for rule sets of every shape.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::packet::Protocol;
use crate::rules::{Action, AddressSet, Chain, Peers, Policy, PortRange, Rule, RuleId, Services, Tier, WireRules};

mod changes;

const PROTOCOLS: [Protocol; 6] =
    [Protocol(0), Protocol::ICMP, Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol(255)];

/// Prefixes as ranges: nested, overlapping, adjacent, of both families, at the ends of the address space.
fn prefix() -> impl Strategy<Value = (u128, u128)> {
    let range = |bits: u128, low: u128, family: u32, length: u32| {
        let host = u128::MAX.checked_shr(128 - family + length).unwrap_or(0);
        let first = (bits & (u128::MAX >> (128 - family)) | low) & !host;
        (first, first | host)
    };
    let v4_low = Address::v4([0; 4]).to_bits();
    let few = prop::sample::select(vec![0x0a00_0000u128, 0x0a00_0100, 0x0a01_0000, 0xc0a8_0101, 0xffff_ffff, 0]);
    let v4 = (few, 0..4u128, 0..=32u32).prop_map(move |(bits, near, length)| range(bits + near, v4_low, 32, length));
    let few =
        prop::sample::select(vec![0xfd00u128 << 112, 0xfd00 << 112 | 1 << 64, 0xfd01 << 112, u128::MAX - 4, 1, 0]);
    let v6 = (few, 0..4u128, 0..=128u32).prop_map(move |(bits, near, length)| {
        let host = u128::MAX.checked_shr(length).unwrap_or(0);
        let first = (bits + near) & !host;
        (first, first | host)
    });
    prop_oneof![v4, v6]
}

fn set() -> impl Strategy<Value = Arc<AddressSet>> {
    (prop::collection::vec(prefix(), 0..6), prop::collection::vec(prefix(), 0..2))
        .prop_map(|(nets, except)| Arc::new(AddressSet::from_iter(nets).subtract(&AddressSet::from_iter(except))))
}

fn services() -> impl Strategy<Value = Services> {
    let edge = prop::sample::select(vec![0u16, 1, 79, 80, 81, 443, 8080, 65534, 65535]);
    let edges = (edge.clone(), edge);
    let range = (prop::sample::select(&PROTOCOLS[..]), prop_oneof![edges, (any::<u16>(), any::<u16>())])
        .prop_map(|(protocol, (first, last))| PortRange { protocol, first, last });
    prop_oneof![Just(Services::Any), prop::collection::vec(range, 0..12).prop_map(Services::Ports)]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Pass), (0..3u16).prop_map(Action::Ask)]
}

fn chain(sets: Vec<Arc<AddressSet>>) -> impl Strategy<Value = Arc<Chain>> {
    let peers = prop_oneof![1 => Just(Peers::Any), 4 => prop::sample::select(sets).prop_map(Peers::Set)];
    let rule = (action(), any::<bool>(), peers, services(), 0..50u32)
        .prop_map(|(action, log, peers, services, id)| Rule { action, log, peers, services, id: RuleId(id) });
    let tier = (prop::collection::vec(rule, 0..8), action()).prop_map(|(rules, default)| Tier { rules, default });
    prop::collection::vec(tier, 0..4).prop_map(|tiers| Arc::new(Chain { tiers }))
}

/// Up to a dozen wires with ids far apart, whose chains share sets, and some of which share chains.
fn rule_set() -> impl Strategy<Value = RuleSet> {
    let sets = prop_oneof![4 => prop::collection::vec(set(), 1..8), 1 => prop::collection::vec(set(), 60..140)];
    let chains = sets.prop_flat_map(|sets| prop::collection::vec(chain(sets), 1..6));
    chains.prop_flat_map(|chains| {
        let policy = || {
            let chain = prop::sample::select(chains.clone());
            prop_oneof![1 => Just(Policy::Open), 5 => chain.prop_map(Policy::Chain)]
        };
        prop::collection::btree_map(any::<u32>(), (policy(), policy()), 0..12).prop_map(|wires| RuleSet {
            wires: wires
                .into_iter()
                .rev()
                .map(|(wire, (egress, ingress))| WireRules { wire: WireId(wire), egress, ingress })
                .collect(),
        })
    })
}

/// All addresses at which a set of the policy begins or ends, and those beside them.
fn edges(policy: &Policy) -> (Vec<Address>, Vec<u16>) {
    let (mut addresses, mut ports) = (vec![0, u128::MAX], vec![0, u16::MAX]);
    let Policy::Chain(chain) = policy else { return (vec![Address::v4([1; 4])], ports) };
    for rule in chain.tiers.iter().flat_map(|tier| &tier.rules) {
        if let Peers::Set(set) = &rule.peers {
            addresses.extend(set.ranges().iter().flat_map(|&(first, last)| [first, last]));
        }
        if let Services::Ports(ranges) = &rule.services {
            ports.extend(ranges.iter().flat_map(|range| [range.first, range.last]));
        }
    }
    let beside = |address: u128| [address.wrapping_sub(1), address, address.wrapping_add(1)];
    let mut addresses: Vec<_> = addresses.into_iter().flat_map(beside).map(Address::from_bits).collect();
    let mut ports: Vec<_> = ports.into_iter().flat_map(|p| [p.wrapping_sub(1), p, p.wrapping_add(1)]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ports.sort_unstable();
    ports.dedup();
    (addresses, ports)
}

fn check(rules: &RuleSet, classifier: &Classifier, random: &[Query]) -> Result<(), TestCaseError> {
    for wire in &rules.wires {
        let slot = classifier.slot(wire.wire).expect("every wire has a slot");
        for direction in Direction::BOTH {
            let policy = wire.policy(direction);
            let (addresses, ports) = edges(policy);
            let at_edges = addresses.iter().flat_map(|&peer| {
                let queries = ports.iter().flat_map(move |&port| PROTOCOLS.map(move |protocol| (protocol, port)));
                queries.map(move |(protocol, port)| Query::new(peer, protocol, port))
            });
            let queries: Vec<Query> = at_edges.chain(random.iter().copied()).collect();
            let mut at_once = vec![Decision::CLOSED; queries.len()];
            classifier.judge_burst(slot, direction, &queries, &mut at_once);
            for (&query, at_once) in queries.iter().zip(at_once) {
                let expected = policy.judge(direction, query);
                prop_assert_eq!(classifier.judge(slot, direction, query), expected, "{:?}", query);
                prop_assert_eq!(at_once, expected, "{:?}", query);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn compiled_equals_linear(
        rules in rule_set(),
        random in prop::collection::vec((any::<bool>(), any::<u128>(), any::<u8>(), any::<u16>()), 64),
    ) {
        let random: Vec<Query> = random
            .into_iter()
            .map(|(v4, bits, protocol, port)| {
                let peer = if v4 { Address::v4((bits as u32).to_be_bytes()) } else { Address::from_bits(bits) };
                Query::new(peer, Protocol(protocol), port)
            })
            .collect();
        check(&rules, &Classifier::compile(&rules).unwrap(), &random)?;
    }
}

fn allow(peers: Peers, id: u32) -> Rule {
    Rule { action: Action::Allow, log: false, peers, services: Services::Any, id: RuleId(id) }
}

fn chain_of(rules: Vec<Rule>) -> Policy {
    Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules, default: Action::Deny }] }))
}

fn wire(id: u32, egress: Policy, ingress: Policy) -> WireRules {
    WireRules { wire: WireId(id), egress, ingress }
}

fn v4(bits: u32) -> Address {
    Address::v4(bits.to_be_bytes())
}

#[test]
fn a_wire_that_is_not_named_has_no_slot_and_a_foreign_slot_is_closed() {
    let rules = RuleSet { wires: vec![wire(7, Policy::Open, Policy::Open)] };
    let classifier = Classifier::compile(&rules).unwrap();
    let query = Query::new(v4(1), Protocol::TCP, 1);
    assert_eq!(classifier.slot(WireId(6)), None);
    assert_eq!(classifier.judge(classifier.slot(WireId(7)).unwrap(), Direction::Egress, query), Decision::OPEN);
    assert_eq!(classifier.judge(WireSlot(1), Direction::Egress, query), Decision::CLOSED);
    let mut burst = [Decision::OPEN; 3];
    classifier.judge_burst(WireSlot(1), Direction::Egress, &[query; 3], &mut burst);
    assert_eq!(burst, [Decision::CLOSED; 3]);
    let empty = Classifier::compile(&RuleSet::default()).unwrap();
    assert_eq!(empty.judge(WireSlot(0), Direction::Ingress, query), Decision::CLOSED);
}

#[test]
fn a_wire_named_twice_is_refused_by_name() {
    let rules = RuleSet { wires: vec![wire(7, Policy::Open, Policy::Open), wire(7, chain_of(vec![]), Policy::Open)] };
    let error = Classifier::compile(&rules).unwrap_err();
    assert_eq!(error, CompileError::DuplicateWire(WireId(7)));
    assert!(error.to_string().contains("wire 7"), "{error}");
}

#[test]
fn equal_chains_are_one_table_though_they_are_not_shared() {
    let policy = || chain_of(vec![allow(Peers::Set(Arc::new(AddressSet::from_iter([v4(5)]))), 1)]);
    let rules = RuleSet { wires: (0..9).map(|id| wire(id, policy(), policy())).collect() };
    assert_eq!(Classifier::compile(&rules).unwrap().size().chains, 1);
}

#[test]
fn ranges_turned_round_mean_nothing() {
    let set = AddressSet::from_iter([(9, 3), (20, 21), (30, 29)]);
    let ports = Services::Ports(vec![PortRange { protocol: Protocol::TCP, first: 9, last: 3 }]);
    let rules = vec![Rule { services: ports, ..allow(Peers::Any, 1) }, allow(Peers::Set(Arc::new(set)), 2)];
    let rules = RuleSet { wires: vec![wire(1, chain_of(rules), Policy::Open)] };
    check(&rules, &Classifier::compile(&rules).unwrap(), &[]).unwrap();
}

#[test]
fn tables_too_large_are_refused() {
    // 99 peers and anyone else × 99 ports and any other.
    let rule = |n: u16| Rule {
        services: Services::Ports(vec![PortRange { protocol: Protocol::TCP, first: n, last: n }]),
        ..allow(Peers::Set(Arc::new(AddressSet::from_iter([v4(u32::from(n) * 2)]))), u32::from(n))
    };
    let policy = chain_of((1..100).map(rule).collect());
    let rules = RuleSet { wires: vec![wire(1, policy, chain_of(vec![allow(Peers::Any, 0)]))] };
    compile::compile(&rules, 10_001).unwrap();
    assert_eq!(compile::compile(&rules, 9_999).unwrap_err(), CompileError::TooManyCells { limit: 9_999 });
}

/// A node of a large cluster: 100,000 pods of both families, 1,000 sets of 200 pods each, 250 wires.
#[test]
fn a_hundred_thousand_pods_in_a_thousand_sets_stay_small() {
    let pod = |n: u32| {
        [
            v4(0x0a00_0000 + n / 110 * 256 + n % 110 + 2),
            Address::from_bits(0xfd00 << 112 | u128::from(n / 110) << 64 | u128::from(n % 110 + 2)),
        ]
    };
    let sets: Vec<_> = (0..1000u32)
        .map(|set| Arc::new(AddressSet::from_iter((0..200).flat_map(|k| pod((set * 100 + k) % 100_000)))))
        .collect();
    let rules = |wire: u32| {
        (0..5).map(|k| allow(Peers::Set(Arc::clone(&sets[((wire * 37 + k * 211) % 1000) as usize])), k)).collect()
    };
    let rules = RuleSet { wires: (0..250).map(|id| wire(id * 1000, chain_of(rules(id)), Policy::Open)).collect() };
    let classifier = Classifier::compile(&rules).unwrap();
    let size = classifier.size();
    assert!(size.bytes < 8 << 20, "{size:?}");
    for n in (0..100_000).step_by(997) {
        for peer in pod(n) {
            let query = Query::new(peer, Protocol::UDP, 53);
            let wire = &rules.wires[n as usize % 250];
            let slot = classifier.slot(wire.wire).unwrap();
            assert_eq!(
                classifier.judge(slot, Direction::Egress, query),
                wire.egress.judge(Direction::Egress, query),
                "{peer}"
            );
        }
    }
}
