//! Whatever happens on the way, the state is the one that the objects give, and so are the rules that followed it.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use control::kubernetes::{Source, Update};
use control::policy::cluster::{Cluster, ObjectName};
use control::policy::live::LiveRules;
use control::policy::resolve::{OwnNode, Resolver};
use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::publish::Publisher;
use dataplane::rules::{Query, WireId};
use serde_json::{Value, json};

use crate::server::{Fault, KINDS, Server};
use crate::support::*;

/// A small generator: tests repeat with their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const LABELS: [&str; 3] = ["x0", "x1", "x2"];

fn any_object(random: &mut Random, resource: &str) -> Value {
    let label = random.one(&LABELS);
    match resource {
        "namespaces" => namespace(random.one(&NAMESPACES), json!({"team": label})),
        "nodes" => node(random.one(&["n0", "n1", "n2"]), &format!("192.168.0.{}", 1 + random.below(9))),
        "pods" => {
            let name = format!("{}/p{}", random.one(&NAMESPACES), random.below(4));
            let address = format!("10.0.0.{}", 1 + random.below(12));
            let mut object = pod(&name, json!({"app": label}), &address);
            let created = format!("2026-01-02T03:04:{:02}Z", random.below(60));
            object["metadata"]["creationTimestamp"] = created.into();
            object["metadata"]["uid"] = format!("u{}", random.below(3)).into();
            match random.below(8) {
                0 => object["status"] = json!({"phase": "Pending"}),
                1 => object["status"]["phase"] = random.one(&["Succeeded", "Failed"]).to_string().into(),
                2 => object["spec"]["hostNetwork"] = true.into(),
                3 => object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into(),
                4 => object["spec"]["containers"][0]["ports"][0]["containerPort"] = 8080.into(),
                _ => {}
            }
            object
        }
        _ => {
            let name = format!("{}/q{}", random.one(&NAMESPACES), random.below(3));
            let peers = match random.below(4) {
                0 => json!([{"podSelector": {"matchLabels": {"app": label}}}]),
                1 => json!([{"namespaceSelector": {"matchLabels": {"team": label}}}]),
                2 => json!([{"ipBlock": {"cidr": "10.0.0.0/30"}}, {"namespaceSelector": {}, "podSelector": {}}]),
                _ => {
                    json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [label]}]}}])
                }
            };
            let port = if random.below(2) == 0 { json!("web") } else { json!(80) };
            let ports = json!([{"port": port, "protocol": "TCP"}]);
            let chosen = json!({"matchLabels": {"app": random.one(&LABELS)}});
            let pods = if random.below(2) == 0 { json!({}) } else { chosen };
            match random.below(3) {
                0 => policy(
                    &name,
                    json!({"podSelector": pods, "policyTypes": ["Ingress"], "ingress": [{"from": peers, "ports": ports}]}),
                ),
                1 => policy(
                    &name,
                    json!({"podSelector": pods, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]}),
                ),
                _ => policy(
                    &name,
                    json!({"podSelector": pods, "policyTypes": ["Egress", "Ingress"], "ingress": [{"from": peers}]}),
                ),
            }
        }
    }
}

fn remove_any(random: &mut Random, server: &Server, resource: &str) {
    let objects = server.objects(resource);
    if !objects.is_empty() {
        let metadata = &objects[random.below(objects.len() as u64) as usize]["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default();
        server.remove(resource, &format!("{}/{}", text("namespace"), text("name")));
    }
}

/// Something that happens to the server or to the connection.
fn disturb(random: &mut Random, server: &Server) {
    let kind = random.one(&KINDS);
    match random.below(12) {
        0 => server.fail_list(kind, Fault::Cut),
        1 => server.fail_list(kind, Fault::Status(random.one(&[410, 403, 500, 429]))),
        2 => server.fail_list(kind, Fault::Slow(Duration::from_millis(random.below(8)))),
        3 => server.fail_watch(kind, Fault::Cut),
        4 => server.fail_watch(kind, Fault::ErrorEvent(random.one(&[410, 500]))),
        5 => server.fail_watch(kind, Fault::Status(random.one(&[410, 503]))),
        6 => server.fail_watch(kind, Fault::Repeat(1 + random.below(5) as usize)),
        7 => server.fail_watch(kind, Fault::EndAtOnce),
        8 => server.compact(kind),
        9 => server.bookmark(kind),
        _ => server.cut(),
    }
}

fn endpoints() -> Vec<(ObjectName, WireId)> {
    let names = NAMESPACES.into_iter().flat_map(|namespace| (0..4).map(move |pod| (namespace, pod)));
    (0..)
        .map(WireId)
        .zip(names)
        .map(|(wire, (namespace, pod))| (ObjectName::new(namespace, &format!("p{pod}")), wire))
        .collect()
}

/// The rules that follow the source.
struct Rules {
    live: LiveRules,
    publisher: Publisher,
    started: bool,
}

impl Rules {
    fn follow(&mut self, source: &Source, update: &Update) {
        let (Update::Synced(batch) | Update::Changed(batch) | Update::Restored(batch, _)) = update else { return };
        let cluster = source.cluster().unwrap();
        let change = match std::mem::replace(&mut self.started, true) {
            true => self.live.update(cluster, &batch.touched),
            false => self.live.start(cluster, endpoints()),
        };
        self.publisher.change(&change).unwrap();
    }

    /// That they are those of the moment.
    fn check(&self, cluster: &Cluster, seed: u64) {
        let snapshot = self.publisher.snapshot();
        let resolved = Resolver::new(OwnNode::Allow).resolve(cluster, endpoints());
        let known: Vec<_> = resolved.rules.wires.iter().map(|rules| rules.wire).collect();
        assert_eq!(snapshot.classifier().wires(), known, "seed {seed}");
        for rules in &resolved.rules.wires {
            let slot = snapshot.slot(rules.wire).unwrap();
            for direction in Direction::BOTH {
                for (peer, port) in (0..14).flat_map(|peer| [80, 8080, 81].map(|port| (peer, port))) {
                    let address: std::net::IpAddr = format!("10.0.0.{peer}").parse().unwrap();
                    let query = Query::new(Address::from(address), Protocol::TCP, port);
                    let expected = rules.policy(direction).judge(direction, query).action;
                    let answer = snapshot.classifier().judge(slot, direction, query).action;
                    assert_eq!(answer, expected, "seed {seed}: {:?} {direction:?} {query:?}", rules.wire);
                }
            }
        }
    }
}

async fn script(seed: u64, directory: &std::path::Path) {
    let mut random = Random(seed | 1);
    let server = Server::start().await;
    for _ in 0..random.below(40) {
        let kind = random.one(&KINDS);
        server.apply(kind, any_object(&mut random, kind));
    }
    let path = directory.join(format!("{seed}.json.zst"));
    let mut source = open_with(&server, &path).await;
    let fresh = || Rules { live: LiveRules::new(OwnNode::Allow), publisher: Publisher::new(), started: false };
    let mut rules = fresh();
    for _ in 0..random.below(150) {
        let kind = random.one(&["pods", "pods", "pods", "networkpolicies", "networkpolicies", "namespaces", "nodes"]);
        match random.below(20) {
            0..10 => server.apply(kind, any_object(&mut random, kind)),
            10..13 => remove_any(&mut random, &server, kind),
            13..16 => disturb(&mut random, &server),
            16 if random.below(6) == 0 => {
                source.close().await;
                source = open_with(&server, &path).await;
                rules = fresh();
            }
            _ => {
                for _ in 0..random.below(4) {
                    let wait = Duration::from_millis(random.below(8));
                    if let Ok(update) = tokio::time::timeout(wait, source.next()).await {
                        rules.follow(&source, &update);
                    }
                }
            }
        }
    }
    server.heal();
    let scratch = cluster_of(&server);
    let expected = text(&scratch);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !source.is_synced() || text(source.cluster().unwrap()) != expected {
        match tokio::time::timeout_at(deadline, source.next()).await {
            Ok(update) => rules.follow(&source, &update),
            Err(_) => {
                panic!("seed {seed}: the state stays\n{:#?}\nand should be\n{expected:#?}", source.cluster().map(text))
            }
        }
    }
    rules.check(&scratch, seed);
}

#[test]
fn any_script_ends_in_the_state_from_scratch() {
    let given = std::env::var("PENSTOCK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("PENSTOCK_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    run(async {
        for round in 0..40 {
            script(seed.wrapping_add(round), directory.path()).await;
        }
    });
}
