//! What the tests share: objects, a source on a scripted server, and the state as text.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use control::kubernetes::{Access, Batch, Report, Source, SourceConfig, Update};
use control::policy::cluster::Cluster;
use control::policy::validation::accept;
use dataplane::packet::Direction;
use serde_json::{Value, json};

use crate::server::Server;

/// Longer than anything takes that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on one thread.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}

pub(crate) fn namespace(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

pub(crate) fn node(name: &str, address: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDR": "10.0.0.0/24"}, "status": {"addresses": [
        {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
        "conditions": [{"type": "Ready", "status": "True"}]}})
}

pub(crate) fn pod(name: &str, labels: Value, address: &str) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": labels,
            "creationTimestamp": "2026-01-02T03:04:05Z", "annotations": {"a": "b"}},
        "spec": {"nodeName": "n0", "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "v"}],
            "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready"}]}})
}

pub(crate) fn policy(name: &str, spec: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// A policy that lets pods with a label in.
pub(crate) fn allow(name: &str, from: &str) -> Value {
    let from = json!([{"podSelector": {"matchLabels": {"app": from}}}]);
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    policy(name, json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": from, "ports": ports}]}))
}

pub(crate) fn config(server: &Server) -> SourceConfig {
    let mut config = SourceConfig::new(Access::Url(server.url()));
    config.page = 2;
    config.first_wait = Duration::from_millis(5);
    config.longest_wait = Duration::from_millis(40);
    config
}

pub(crate) async fn open(server: &Server) -> Source {
    Source::open(config(server)).await.unwrap()
}

pub(crate) async fn open_with(server: &Server, state: &Path) -> Source {
    let mut config = config(server);
    config.state = Some(state.to_owned());
    Source::open(config).await.unwrap()
}

/// A server with a small cluster.
pub(crate) async fn filled() -> Server {
    let server = Server::start().await;
    fill(&server);
    server
}

/// A source that has told the whole state.
pub(crate) async fn open_synced(server: &Server) -> Source {
    let mut source = open(server).await;
    synced(&mut source).await;
    source
}

/// Takes what there is to be told, until there is nothing more.
pub(crate) async fn calm(source: &mut Source) {
    while !is_quiet(source).await {}
}

/// The next update.
pub(crate) async fn next(source: &mut Source) -> Update {
    tokio::time::timeout(PATIENCE, source.next()).await.expect("there is news")
}

/// The next update that says something of the state.
pub(crate) async fn next_batch(source: &mut Source) -> Batch {
    loop {
        if let Update::Synced(batch) | Update::Changed(batch) | Update::Restored(batch, _) = next(source).await {
            return batch;
        }
    }
}

/// Waits for the whole state; the reports on the way.
pub(crate) async fn synced(source: &mut Source) -> (Batch, Vec<Report>) {
    let mut reports = Vec::new();
    loop {
        match next(source).await {
            Update::Synced(batch) => return (batch, reports),
            Update::Report(report) => reports.push(report),
            Update::Changed(_) => panic!("a change before the whole"),
            _ => {}
        }
    }
}

/// Follows updates until the state is the server's.
pub(crate) async fn settle(source: &mut Source, server: &Server) -> Vec<Update> {
    let mut updates = Vec::new();
    let expected = from_scratch(server);
    while !source.is_synced() || text(source.cluster().unwrap()) != expected {
        let update = tokio::time::timeout(PATIENCE, source.next()).await;
        let state = || source.cluster().map(text);
        updates
            .push(update.unwrap_or_else(|_| panic!("the state stays\n{:#?}\nand should be\n{expected:#?}", state())));
    }
    updates
}

/// That nothing is told for a while. Something that comes later would go unnoticed: use it where the opposite bug tells at once.
pub(crate) async fn is_quiet(source: &mut Source) -> bool {
    tokio::time::timeout(Duration::from_millis(120), source.next()).await.is_err()
}

/// What a cluster says, line by line.
pub(crate) fn text(cluster: &Cluster) -> BTreeSet<String> {
    let symbols = cluster.symbols();
    // One that things spoke of once, and that nothing speaks of any more, is the same as none.
    let speaks = |name: &str| cluster.policies().any(|policy| *policy.name.namespace == *name);
    let spoken_of = |name| cluster.pods_in(name).next().is_some() || speaks(name);
    let namespaces = cluster.namespaces().filter(|namespace| namespace.declared || spoken_of(&namespace.name));
    let namespaces = namespaces.map(|namespace| {
        format!("namespace {} {} {:?}", namespace.name, namespace.declared, namespace.labels.to_text(symbols))
    });
    let nodes = cluster.nodes().map(|node| format!("node {} {:?}", node.name, node.addresses));
    let pods = cluster.pods().map(|pod| {
        let owned: Vec<_> = cluster.addresses_of(pod).collect();
        format!(
            "pod {} {:?} {:?} {:?} {owned:?} {:?} {:?} {} {:?} {}",
            pod.name,
            pod.uid,
            pod.labels.to_text(symbols),
            pod.addresses,
            pod.ports,
            pod.node,
            pod.host_network,
            pod.phase,
            pod.terminating
        )
    });
    let policies = cluster.policies().map(|policy| {
        let rules = Direction::BOTH.map(|direction| format!("{:?}", policy.rules(direction).map(<[_]>::len)));
        format!("policy {} pods {:?} {rules:?}", policy.name, policy.pods.to_text(symbols))
    });
    namespaces.chain(nodes).chain(pods).chain(policies).collect()
}

/// A cluster with the server's objects, read without any of what is tested.
pub(crate) fn cluster_of(server: &Server) -> Cluster {
    let mut cluster = Cluster::new();
    for object in server.objects("namespaces") {
        cluster.apply_namespace(&serde_json::from_value(object).unwrap());
    }
    for object in server.objects("nodes") {
        cluster.apply_node(&serde_json::from_value(object).unwrap()).unwrap();
    }
    for object in server.objects("networkpolicies") {
        cluster.apply_policy(accept(serde_json::from_value(object).unwrap()).unwrap());
    }
    let finished = |pod: &Value| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
    for object in server.objects("pods").into_iter().filter(|pod| !finished(pod)) {
        cluster.apply_pod(&serde_json::from_value(object).unwrap()).unwrap();
    }
    cluster
}

pub(crate) fn from_scratch(server: &Server) -> BTreeSet<String> {
    text(&cluster_of(server))
}

/// A small cluster.
pub(crate) fn fill(server: &Server) {
    for name in ["a", "b", "c"] {
        server.apply("namespaces", namespace(name, json!({"team": name})));
    }
    server.apply("nodes", node("n0", "192.168.0.1"));
    server.apply("nodes", node("n1", "192.168.0.2"));
    for index in 1..8 {
        let name = format!("{}/p{index}", ["a", "b"][index % 2]);
        server.apply("pods", pod(&name, json!({"app": format!("x{}", index % 3)}), &format!("10.0.0.{index}")));
    }
    server.apply("networkpolicies", allow("a/allow", "x1"));
    server.apply("networkpolicies", policy("b/deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
}
