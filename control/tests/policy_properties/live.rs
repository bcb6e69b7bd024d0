//! Change after change says what resolving everything at once says: over random sequences of objects that come, go and
//! change, every question gets the same answer from the compiled rules that were kept up to date and from the rules of the
//! moment, which are held equal to the oracle elsewhere.

use std::net::IpAddr;

use control::policy::cluster::{Cluster, ObjectName, Touched};
use control::policy::live::LiveRules;
use control::policy::manifest::load_again;
use control::policy::resolve::{OwnNode, Resolver};
use control::policy::validation::accept;
use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::publish::{Change, Publisher};
use dataplane::rules::{Query, RuleId, WireId};
use proptest::prelude::*;
use serde_json::Value;

use crate::worlds;

/// Applies an object of a manifest.
fn apply(cluster: &mut Cluster, object: &Value) -> Touched {
    let object = object.clone();
    match object["kind"].as_str().unwrap() {
        "Namespace" => cluster.apply_namespace(&serde_json::from_value(object).unwrap()),
        "Node" => cluster.apply_node(&serde_json::from_value(object).unwrap()).unwrap(),
        "Pod" => cluster.apply_pod(&serde_json::from_value(object).unwrap()).unwrap(),
        _ => cluster.apply_policy(accept(serde_json::from_value(object).unwrap()).unwrap()),
    }
}

/// Removes the object of that kind and name, if there is one.
fn remove(cluster: &mut Cluster, object: &Value) -> Touched {
    let name = object["metadata"]["name"].as_str().unwrap();
    let qualified = || ObjectName::new(object["metadata"]["namespace"].as_str().unwrap(), name);
    match object["kind"].as_str().unwrap() {
        "Namespace" => cluster.remove_namespace(name),
        "Node" => cluster.remove_node(name),
        "Pod" => cluster.remove_pod(&qualified()),
        _ => cluster.remove_policy(&qualified()).unwrap_or_default(),
    }
}

fn items(manifest: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(manifest).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn endpoints() -> Vec<(ObjectName, WireId)> {
    let names = ["n0", "n1", "n2"].into_iter().flat_map(|namespace| (0..4).map(move |pod| (namespace, pod)));
    (0..)
        .map(WireId)
        .zip(names)
        .map(|(wire, (namespace, pod))| (ObjectName::new(namespace, &format!("pod{pod}")), wire))
        .collect()
}

fn queries(cluster: &Cluster) -> Vec<Query> {
    let pods = (1..8).flat_map(|pod| {
        let group = (pod - 1) % 2;
        [format!("10.0.{group}.{pod}"), format!("fd00::{group}:{pod}")]
    });
    let nodes = cluster.nodes().flat_map(|node| node.addresses.iter().map(ToString::to_string)).collect::<Vec<_>>();
    let around = worlds::AROUND_BLOCKS.iter().map(|&text| text.to_owned());
    let peers: Vec<IpAddr> = pods.chain(nodes).chain(around).map(|text| text.parse().unwrap()).collect();
    let services = [
        (Protocol::TCP, 80),
        (Protocol::TCP, 8080),
        (Protocol::UDP, 53),
        (Protocol::SCTP, 82),
        (Protocol::TCP, 1),
        (Protocol::UDP, 65535),
        (Protocol::TCP, 81),
        (Protocol::ICMP, 0x0800),
        (Protocol(4), 0),
    ];
    peers
        .into_iter()
        .flat_map(|peer| services.map(|(protocol, port)| Query::new(Address::from(peer), protocol, port)))
        .collect()
}

/// The running rules and the cluster that they follow.
struct Followed {
    cluster: Cluster,
    live: LiveRules,
    publisher: Publisher,
    fresh: Resolver,
    endpoints: Vec<(ObjectName, WireId)>,
}

impl Followed {
    fn check(&mut self, change: &Change) -> Result<(), TestCaseError> {
        self.publisher.change(change).unwrap();
        let snapshot = self.publisher.snapshot();
        let resolved = self.fresh.resolve(&self.cluster, self.endpoints.clone());
        let known: Vec<WireId> = resolved.rules.wires.iter().map(|rules| rules.wire).collect();
        prop_assert_eq!(snapshot.classifier().wires(), known);
        let queries = queries(&self.cluster);
        for rules in &resolved.rules.wires {
            let slot = snapshot.slot(rules.wire).unwrap();
            for direction in Direction::BOTH {
                for &query in &queries {
                    let expected = rules.policy(direction).judge(direction, query);
                    let answer = snapshot.classifier().judge(slot, direction, query);
                    prop_assert_eq!(answer.action, expected.action, "{:?} {:?} {:?}", rules.wire, direction, query);
                    let live = |rule: RuleId| self.live.table().describe(rule);
                    let fresh = |rule: RuleId| resolved.table.describe(rule);
                    prop_assert_eq!(answer.rule.map(live), expected.rule.map(fresh), "{:?}", query);
                }
                let isolating = self.live.table().isolating(rules.wire, direction);
                prop_assert_eq!(isolating, resolved.table.isolating(rules.wire, direction));
            }
        }
        Ok(())
    }
}

impl Followed {
    fn new() -> Self {
        Followed {
            cluster: Cluster::new(),
            live: LiveRules::new(OwnNode::Allow),
            publisher: Publisher::new(),
            fresh: Resolver::new(OwnNode::Allow),
            endpoints: endpoints(),
        }
    }
}

/// The manifest, read as a successor of a cluster.
fn read_again(manifest: &str, before: &Cluster) -> Cluster {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), manifest).unwrap();
    load_again(&[file.path()], before).unwrap_or_else(|errors| panic!("{errors}\n{manifest}")).cluster
}

/// The same objects but for single fields, which neighbours of a kind exchange.
fn swap(manifest: &str, swaps: &[(prop::sample::Index, usize)]) -> String {
    let mut items = items(manifest);
    for (first, field) in swaps {
        let (kind, field) = [
            ("Pod", "/metadata/labels"),
            ("Pod", "/spec/containers"),
            ("Namespace", "/metadata/labels"),
            ("Node", "/status/addresses"),
            ("NetworkPolicy", "/spec"),
            ("NetworkPolicy", "/spec/egress"),
            ("Namespace", "/metadata/labels"),
        ][*field];
        let places: Vec<usize> = (0..items.len()).filter(|&place| items[place]["kind"] == kind).collect();
        if places.len() > 1 {
            let first = first.index(places.len() - 1);
            let (one, other) = items.split_at_mut(places[first + 1]);
            let (one, other) = (one[places[first]].pointer_mut(field), other[0].pointer_mut(field));
            one.zip(other).into_iter().for_each(|(one, other)| std::mem::swap(one, other));
        }
    }
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Manifests are read again and again, wires come, go and are opened anew.
    #[test]
    fn rules_follow_from_reading_to_reading(
        manifests in prop::collection::vec(worlds::worlds(), 1..4),
        wires in prop::collection::vec((any::<u16>(), 0u32..3), 5),
        doubt in any::<u8>(),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), 0usize..7), 1..4),
    ) {
        let mut followed = Followed::new();
        let change = followed.live.start(&followed.cluster, endpoints());
        followed.check(&change)?;
        for (round, (manifest, (mask, opened))) in manifests.iter().zip(wires).enumerate() {
            let next = read_again(manifest, &followed.cluster);
            prop_assert!(next.changes_since(&followed.cluster).is_some());
            let mut endpoints = endpoints();
            endpoints.retain(|(_, wire)| mask >> wire.0 & 1 == 1);
            endpoints.iter_mut().for_each(|(_, wire)| wire.0 += 100 * opened);
            followed.endpoints = endpoints.clone();
            let before = std::mem::replace(&mut followed.cluster, next);
            if doubt >> round & 1 == 1 {
                // What was told is lost.
                followed.live.follow(&before, &followed.cluster, []);
                followed.live.distrust();
            }
            let change = followed.live.follow(&before, &followed.cluster, endpoints);
            followed.check(&change)?;
            let same = read_again(manifest, &followed.cluster);
            let nothing = followed.live.follow(&followed.cluster, &same, followed.endpoints.clone());
            prop_assert_eq!(&nothing, &Change::default(), "the same objects read again are no change");
            followed.cluster = same;
            // One after the other: what one touches must not hide what another should.
            for swaps in (0..swaps.len()).map(|last| &swaps[..=last]) {
                let swapped = read_again(&swap(manifest, swaps), &followed.cluster);
                let before = std::mem::replace(&mut followed.cluster, swapped);
                let change = followed.live.follow(&before, &followed.cluster, followed.endpoints.clone());
                followed.check(&change)?;
            }
        }
    }

    #[test]
    fn rules_that_follow_are_those_of_the_moment(
        manifests in prop::collection::vec(worlds::worlds(), 2..4),
        order in any::<prop::sample::Index>(),
        keep in any::<u64>(),
    ) {
        let mut followed = Followed::new();
        let mut worlds = manifests.iter().map(|manifest| items(manifest));
        for object in worlds.next().unwrap() {
            apply(&mut followed.cluster, &object);
        }
        let change = followed.live.start(&followed.cluster, endpoints());
        followed.check(&change)?;
        for mut objects in worlds {
            // Somewhere in the middle first, and some of what is there goes instead of changing.
            let places = objects.len();
            objects.rotate_left(order.index(places));
            for (nth, object) in objects.iter().enumerate() {
                let touched = match keep >> (nth % 64) & 3 {
                    0 => remove(&mut followed.cluster, object),
                    _ => apply(&mut followed.cluster, object),
                };
                let change = followed.live.update(&followed.cluster, &touched);
                followed.check(&change)?;
            }
        }
    }
}
