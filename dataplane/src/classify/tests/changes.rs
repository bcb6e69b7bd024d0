//! Change after change equals the linear definition, and what was compiled at once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::sample::{Index, select};

use super::super::compile::Compiler;
use super::*;
use crate::publish::Change;
use crate::rules::GroupId;

const GROUPS: u32 = 6;

/// What is true at a moment.
#[derive(Clone, Debug, Default)]
struct World {
    wires: BTreeMap<WireId, WireRules>,
    members: BTreeMap<Address, Arc<[GroupId]>>,
}

impl World {
    fn is_member(&self, group: GroupId, address: Address) -> bool {
        self.members.get(&address).is_some_and(|groups| groups.contains(&group))
    }

    fn judge(&self, wire: WireId, direction: Direction, query: Query) -> Option<Decision> {
        let policy = self.wires.get(&wire)?.policy(direction);
        Some(policy.judge_among(direction, query, &|group, address| self.is_member(group, address)))
    }

    fn named(&self) -> BTreeSet<GroupId> {
        let policies = self.wires.values().flat_map(|wire| [&wire.egress, &wire.ingress]);
        policies.flat_map(groups_of).collect()
    }

    /// Takes a change over; who names a group for the first time names its members with it.
    fn apply(&mut self, change: &mut Change) {
        let before = self.named();
        self.wires.retain(|wire, _| !change.gone.contains(wire));
        self.wires.extend(change.wires.iter().map(|wire| (wire.wire, wire.clone())));
        self.members.extend(change.members.iter().cloned());
        if !self.named().is_subset(&before) {
            change.members = self.members.clone().into_iter().collect();
        }
    }
}

fn groups_of(policy: &Policy) -> Vec<GroupId> {
    let Policy::Chain(chain) = policy else { return Vec::new() };
    let rules = chain.tiers.iter().flat_map(|tier| &tier.rules);
    let groups = rules.filter_map(|rule| match rule.peers {
        Peers::Group(group) => Some(group),
        Peers::Any | Peers::Set(_) => None,
    });
    groups.collect()
}

/// Addresses that sets begin at, and others; few, so that they move often.
fn address() -> impl Strategy<Value = Address> {
    let few = prop_oneof![
        (0..24u128).prop_map(|near| Address::v4([10, 0, 0, 0]).to_bits() + near),
        (0..24u128).prop_map(|near| (0xfd00 << 112) + near),
        select(vec![0, u128::MAX, Address::v4([255; 4]).to_bits(), Address::v4([0; 4]).to_bits() - 1]),
    ];
    few.prop_map(Address::from_bits)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let chains = prop::collection::vec(set(), 1..6)
        .prop_flat_map(|sets| prop::collection::vec((chain(sets), any::<Index>(), any::<u64>()), 2..6));
    let chains = chains.prop_map(|chains| {
        let grouped = chains.into_iter().map(|(chain, _, bits)| {
            let mut chain = (*chain).clone();
            for (rule, nth) in chain.tiers.iter_mut().flat_map(|tier| &mut tier.rules).zip(0..) {
                let bits = bits >> (nth * 4 % 60);
                if bits & 1 == 1 {
                    rule.peers = Peers::Group(GroupId((bits >> 1) as u32 % GROUPS));
                }
            }
            Arc::new(chain)
        });
        grouped.collect::<Vec<_>>()
    });
    chains.prop_flat_map(|chains| {
        let policy = move || {
            let chain = select(chains.clone());
            prop_oneof![1 => Just(Policy::Open), 6 => chain.prop_map(Policy::Chain)]
        };
        let wire = (0..5u32, policy(), policy());
        let wires = prop::collection::vec(wire, 0..3).prop_map(|wires| {
            let wires: BTreeMap<_, _> =
                wires.into_iter().map(|(id, egress, ingress)| (id, (egress, ingress))).collect();
            wires.into_iter().map(|(id, (egress, ingress))| super::wire(id, egress, ingress)).collect()
        });
        let groups = prop::collection::btree_set((0..GROUPS).prop_map(GroupId), 0..4);
        let groups = groups.prop_map(|groups| groups.into_iter().collect::<Arc<[GroupId]>>());
        let gone = prop::collection::vec((0..5u32).prop_map(WireId), 0..2);
        let members = prop::collection::btree_map(address(), groups, 0..8);
        let change = (wires, gone, members).prop_map(|(wires, gone, members)| Change {
            wires,
            gone,
            members: members.into_iter().collect(),
            ..Change::default()
        });
        prop::collection::vec(change, 1..12)
    })
}

fn queries(world: &World) -> Vec<Query> {
    let mut queries = Vec::new();
    for policy in world.wires.values().flat_map(|wire| [&wire.egress, &wire.ingress]) {
        let (mut addresses, ports) = edges(policy);
        addresses.extend(world.members.keys());
        for (nth, &peer) in addresses.iter().enumerate() {
            for (port, protocol) in [(0, nth), (nth / 3, nth + 1), (nth / 2, 2)] {
                queries.push(Query::new(peer, PROTOCOLS[protocol % 6], ports[port % ports.len()]));
            }
        }
    }
    queries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn change_after_change_is_what_the_rules_say(changes in changes()) {
        let mut compiler = Compiler::new(1 << 20);
        let mut world = World::default();
        for mut change in changes {
            let before = world.clone();
            world.apply(&mut change);
            let compiled = compiler.change(&change).unwrap();
            prop_assert_eq!(compiled.classifier.wires(), world.wires.keys().copied().collect::<Vec<_>>());
            let everything =
                Change { whole: true, wires: world.wires.values().cloned().collect(), members: world.members.clone().into_iter().collect(), ..Change::default() };
            let at_once = Compiler::new(1 << 20).change(&everything).unwrap().classifier;
            let queries = queries(&world);
            for (&wire, changed) in compiled.classifier.wires().iter().zip(&compiled.changed) {
                let (slot, fresh) = (compiled.classifier.slot(wire).unwrap(), at_once.slot(wire).unwrap());
                for direction in Direction::BOTH {
                    let mut differs = false;
                    for &query in &queries {
                        let expected = world.judge(wire, direction, query).unwrap();
                        prop_assert_eq!(compiled.classifier.judge(slot, direction, query), expected, "{:?}", query);
                        prop_assert_eq!(at_once.judge(fresh, direction, query), expected, "at once, {:?}", query);
                        differs |= before.judge(wire, direction, query).is_none_or(|before| before != expected);
                    }
                    let policy = world.wires[&wire].policy(direction);
                    let same_policy = before.wires.get(&wire).is_some_and(|before| before.policy(direction) == policy);
                    let moved = groups_of(policy).into_iter().any(|group| {
                        change.members.iter().any(|&(address, _)| {
                            world.is_member(group, address) != before.is_member(group, address)
                        })
                    });
                    let changed = changed[direction as usize];
                    prop_assert!(changed || !differs, "an answer of {:?} changed, and its epoch did not", wire);
                    prop_assert!(!changed || !same_policy || moved, "nothing changed for {:?}", wire);
                }
            }
        }
    }
}

/// A large cluster's worth of addresses, one of which moves: what is shared with the classifier before stays shared.
#[test]
fn an_address_that_moves_leaves_everything_else_alone() {
    let pod = |n: u32| v4(0x0a00_0000 + n / 110 * 256 + n % 110 + 2);
    let groups: Vec<Arc<[GroupId]>> = (0..64).map(|n| [GroupId(n), GroupId((n + 9) % 64)].into()).collect();
    let members = (0..20_000).map(|n| (pod(n), Arc::clone(&groups[n as usize % 60]))).collect();
    let rules = |wire: u32| (0..4).map(|k| allow(Peers::Group(GroupId((wire + k * 13) % 64)), k)).collect();
    let wires = (0..50).map(|id| wire(id, chain_of(rules(id)), Policy::Open)).collect();
    let mut compiler = Compiler::new(1 << 20);
    let first = compiler.change(&Change { wires, members, ..Change::default() }).unwrap().classifier;
    let moved = Change { members: vec![(pod(77), Arc::clone(&groups[5]))], ..Change::default() };
    let second = compiler.change(&moved).unwrap();
    let query = Query::new(pod(77), Protocol::TCP, 1);
    let allowed = |classifier: &Classifier| {
        (0..50)
            .filter(|&id| {
                let slot = classifier.slot(WireId(id)).unwrap();
                classifier.judge(slot, Direction::Egress, query).action == Action::Allow
            })
            .collect::<Vec<_>>()
    };
    assert_ne!(allowed(&first), allowed(&second.classifier));
    let named = |groups: &[GroupId], id: u32| (0..4).any(|k| groups.contains(&GroupId((id + k * 13) % 64)));
    assert_eq!(allowed(&second.classifier), (0..50).filter(|&id| named(&groups[5], id)).collect::<Vec<_>>());
    let changed = (0..50).filter(|&id| second.changed[id as usize][0]).collect::<Vec<_>>();
    // Group 77 % 60 = 17 was left, with 26; group 5 joined, with 14.
    let expected = (0..50).filter(|&id| named(&groups[17], id) || named(&groups[5], id)).collect::<Vec<_>>();
    assert_eq!(changed, expected);
    assert_eq!(first.size().classes, second.classifier.size().classes, "both kinds of address were there before");
}
