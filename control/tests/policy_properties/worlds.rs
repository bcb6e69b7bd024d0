//! Random worlds with random policies, as manifests: small vocabularies, so that selectors, addresses and ports meet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use control::policy::cluster::Cluster;
use control::policy::manifest::{self, load_text};
use control::policy::probe::{Probe, Service, Target};
use dataplane::packet::Protocol;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

const KEYS: [&str; 3] = ["app", "tier", "example.com/team"];
const VALUES: [&str; 3] = ["", "a", "b"];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const PORTS: [u16; 7] = [1, 53, 80, 81, 82, 8080, 65535];
const BLOCKS: [&str; 9] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.1.0/24",
    "10.0.1.1/32",
    "fd00::/16",
    "fd00::1:0/112",
    "192.168.0.0/24",
    "::ffff:10.0.0.0/104",
];
/// Each a strict subset of the block at the same index.
const HOLES: [&[&str]; 9] = [
    &["10.0.0.0/8", "192.168.0.1/32"],
    &["fd00::/16", "2001:db8::/32"],
    &["10.0.1.0/24", "10.0.0.1/32"],
    &["10.0.1.0/25", "10.0.1.2/32"],
    &[],
    &["fd00::1:0/112"],
    &["fd00::1:1/128"],
    &["192.168.0.1/32"],
    &[],
];
/// Addresses that no pod has.
const OUTSIDE: [&str; 5] = ["203.0.113.7", "10.0.9.9", "2001:db8::7", "fd00::9:9", "192.168.0.77"];
const NODE_ADDRESSES: [[&str; 2]; 2] = [["192.168.0.1", "fd00:f::1"], ["192.168.0.2", "fd00:f::2"]];
const NAMESPACES: [&str; 3] = ["n0", "n1", "n2"];

/// A manifest.
pub(crate) fn worlds() -> impl Strategy<Value = String> {
    let namespaces = vec(option::weighted(0.8, labels()), 3);
    let objects = (namespaces, vec(pod(), 2..7), vec(policy(), 0..9));
    objects.prop_map(|(namespaces, pods, policies)| {
        let mut items = Vec::new();
        for (name, labels) in NAMESPACES.iter().zip(namespaces) {
            if let Some(labels) = labels {
                items.push(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
                );
            }
        }
        for (index, addresses) in NODE_ADDRESSES.iter().enumerate() {
            let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
            items.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{index}")},
                "status": {"addresses": addresses}}));
        }
        items.extend(pods.into_iter().enumerate().map(|(index, pod)| finish_pod(index, pod)));
        for (index, mut policy) in policies.into_iter().enumerate() {
            policy["metadata"]["name"] = format!("p{index}").into();
            items.push(policy);
        }
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    })
}

/// Loads a manifest that must be good.
pub(crate) fn load(manifest: &str) -> Cluster {
    load_text("generated", manifest).unwrap_or_else(|errors| panic!("{errors}\n{manifest}")).cluster
}

/// The example world alone, as `world`, and with each example's policies.
pub(crate) fn examples() -> Vec<(String, Cluster)> {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples"));
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    names.sort_unstable();
    assert!(names.len() >= 10, "{names:?}");
    let load = |paths: &[PathBuf]| manifest::load(paths).unwrap_or_else(|errors| panic!("{errors}")).cluster;
    let world = directory.join("world");
    let mut examples = vec![("world".to_owned(), load(std::slice::from_ref(&world)))];
    examples.extend(names.into_iter().map(|name| {
        let cluster = load(&[world.clone(), directory.join(&name)]);
        (name, cluster)
    }));
    examples
}

/// Every pod and an address outside to every other, on every port that a container names and on DNS.
pub(crate) fn probes_between_pods(cluster: &Cluster) -> Vec<Probe> {
    let outside = ["203.0.113.7", "2001:db8::7"].map(|text| text.parse().unwrap());
    let targets: Vec<Target> = cluster.pods().map(|pod| Target::Pod(pod.name.clone())).chain(outside).collect();
    let ports = cluster.pods().flat_map(|pod| pod.ports.iter());
    let mut services: Vec<_> = ports.map(|port| Service { protocol: port.protocol, port: port.port }).collect();
    services.extend(["UDP/53", "TCP/53"].map(|text| text.parse::<Service>().unwrap()));
    services.sort_unstable();
    services.dedup();
    let mut probes = Vec::new();
    for (from, to) in targets.iter().flat_map(|from| targets.iter().map(move |to| (from, to))) {
        for &service in &services {
            let probe = Probe { from: from.clone(), to: to.clone(), service, via: None };
            if probe.locate(cluster).is_ok() {
                probes.push(probe);
            }
        }
    }
    probes
}

/// All connections in which a pod takes part: between all pods, addresses outside and nodes, on the ports that occur.
pub(crate) fn probes(cluster: &Cluster) -> Vec<Probe> {
    let pods = cluster.pods().map(|pod| Target::Pod(pod.name.clone()));
    let addresses = cluster.pods().flat_map(|pod| cluster.addresses_of(pod)).map(Target::Address);
    let others = OUTSIDE.iter().chain(NODE_ADDRESSES.iter().flatten()).map(|text| text.parse().unwrap());
    let targets: Vec<Target> = pods.chain(addresses).chain(others).collect();
    let services = services(cluster);
    let mut probes = Vec::new();
    for from in &targets {
        for to in &targets {
            for (index, &service) in services.iter().enumerate() {
                let via = (index % 5 == 0).then_some(control::policy::probe::Via::NodePort);
                let probe = Probe { from: from.clone(), to: to.clone(), service, via };
                let found = probe.locate(cluster);
                if found.is_ok_and(|found| found.source.pod.is_some() || found.destination.pod.is_some()) {
                    probes.push(probe);
                }
            }
        }
    }
    probes
}

/// Addresses in, around and between the blocks that policies name.
pub(crate) const AROUND_BLOCKS: [&str; 14] = [
    "9.9.9.9",
    "10.0.0.77",
    "10.0.1.77",
    "10.0.1.200",
    "10.9.9.9",
    "11.0.0.1",
    "192.168.0.9",
    "192.168.1.1",
    "fd00::1:77",
    "fd00::77",
    "fd00::2:0",
    "fcff::1",
    "fd01::1",
    "2001:db8::9",
];

/// Ports that occur, on every protocol, and some others.
fn services(cluster: &Cluster) -> Vec<Service> {
    let fixed =
        ["TCP/1", "TCP/2", "TCP/80", "TCP/81", "UDP/53", "SCTP/8080"].map(|text| text.parse::<Service>().unwrap());
    let ports = cluster.pods().flat_map(|pod| pod.ports.iter()).flat_map(|port| {
        let other = if port.protocol == Protocol::UDP { Protocol::TCP } else { Protocol::UDP };
        [port.protocol, other].map(|protocol| Service { protocol, port: port.port })
    });
    let services: BTreeSet<_> = ports.chain(fixed).collect();
    services.into_iter().collect()
}

fn labels() -> impl Strategy<Value = Value> {
    btree_map(select(&KEYS[..]), select(&VALUES[..]), 0..3).prop_map(|labels| json!(labels))
}

fn container_port() -> impl Strategy<Value = Value> {
    (option::weighted(0.8, select(&PORT_NAMES[..])), select(&PROTOCOLS[..]), select(&PORTS[..]))
        .prop_map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "containerPort": port}))
}

fn pod() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![8 => Just("normal"), 1 => Just("host"), 1 => Just("finished"), 1 => Just("leaving")];
    let families = select(vec![[true, false], [false, true], [true, true]]);
    let node = option::weighted(0.8, select(vec!["node0", "node1", "elsewhere"]));
    (select(&NAMESPACES[..]), labels(), vec(container_port(), 0..5), kind, families, node).prop_map(
        |(namespace, labels, ports, kind, families, node)| {
            json!({"namespace": namespace, "labels": labels, "ports": ports, "kind": kind, "families": families,
                "node": node})
        },
    )
}

fn finish_pod(index: usize, pod: Value) -> Value {
    let group = index % 2;
    let addresses = [format!("10.0.{group}.{}", index + 1), format!("fd00::{group}:{}", index + 1)];
    let addresses: Vec<_> = (0..2)
        .filter(|&family| pod["families"][family] == true)
        .map(|family| json!({"ip": addresses[family]}))
        .collect();
    let kind = pod["kind"].as_str().unwrap();
    let mut metadata = json!({"name": format!("pod{index}"), "namespace": pod["namespace"], "labels": pod["labels"]});
    if kind == "leaving" {
        metadata["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"nodeName": if kind == "host" { json!("node0") } else { pod["node"].clone() },
            "hostNetwork": kind == "host", "containers": [{"name": "c", "ports": pod["ports"]}]},
        "status": {"phase": if kind == "finished" { "Succeeded" } else { "Running" }, "podIPs": addresses}})
}

fn selector() -> impl Strategy<Value = Value> {
    let expression =
        (select(&KEYS[..]), 0..4usize, subsequence(VALUES.to_vec(), 1..3)).prop_map(|(key, operator, values)| {
            let operator = ["In", "NotIn", "Exists", "DoesNotExist"][operator];
            let values = if operator.ends_with("In") { json!(values) } else { Value::Null };
            json!({"key": key, "operator": operator, "values": values})
        });
    let labels = btree_map(select(&KEYS[..]), select(&VALUES[..]), 0..2).prop_map(|labels| json!(labels));
    prop_oneof![
        1 => Just(json!({})),
        3 => (labels, vec(expression, 0..2))
            .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let block = (0..BLOCKS.len()).prop_flat_map(|index| {
        let holes = HOLES[index];
        subsequence(holes.to_vec(), 0..=holes.len())
            .prop_map(move |holes| json!({"ipBlock": {"cidr": BLOCKS[index], "except": holes}}))
    });
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        block,
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || option::of(select(&PROTOCOLS[..]));
    prop_oneof![
        1 => protocol().prop_map(|protocol| json!({"protocol": protocol})),
        3 => (protocol(), select(&PORTS[..])).prop_map(|(protocol, port)| json!({"protocol": protocol, "port": port})),
        2 => (protocol(), select(&PORTS[..]), select(&PORTS[..])).prop_map(|(protocol, a, b)| {
            json!({"protocol": protocol, "port": a.min(b), "endPort": a.max(b)})
        }),
        3 => (protocol(), select(&PORT_NAMES[..])).prop_map(|(protocol, name)| json!({"protocol": protocol, "port": name})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Value> {
    let rule = (option::of(vec(peer(), 0..3)), option::of(vec(port(), 0..3)));
    vec(rule.prop_map(move |(list, ports)| json!({peers: list, "ports": ports})), 0..3).prop_map(|rules| json!(rules))
}

fn policy() -> impl Strategy<Value = Value> {
    let types = select(vec![Value::Null, json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    (select(&NAMESPACES[..]), selector(), types, option::of(rules("from")), option::of(rules("to"))).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace},
                "spec": {"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}})
        },
    )
}
