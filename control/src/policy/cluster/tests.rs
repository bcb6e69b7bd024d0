//! Who owns what, whatever the order in which objects came.

use serde_json::{Value, json};

use super::*;

fn pod(name: &str, rest: Value) -> core::Pod {
    let mut object = json!({"metadata": {"name": name, "namespace": "x"}});
    merge(&mut object, rest);
    serde_json::from_value(object).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn status(ip: &str) -> Value {
    json!({"status": {"podIPs": [{"ip": ip}]}})
}

fn errors(object: &core::Pod) -> Vec<String> {
    Cluster::new().apply_pod(object).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_newest_pod_owns_an_address_and_a_finished_one_nothing() {
    let at = |time: &str, phase: &str| json!({"metadata": {"creationTimestamp": time}, "status": {"phase": phase, "podIPs": [{"ip": "10.0.0.1"}]}});
    let old = pod("z-old", at("2024-01-01T00:00:00Z", "Running"));
    let new = pod("a-new", at("2024-01-02T00:00:00Z", "Running"));
    let done = pod("done", at("2024-01-03T00:00:00Z", "Succeeded"));
    let address = "10.0.0.1".parse().unwrap();
    for order in [[&old, &new, &done], [&done, &new, &old]] {
        let mut cluster = Cluster::new();
        order.into_iter().for_each(|pod| drop(cluster.apply_pod(pod).unwrap()));
        let names: Vec<_> = cluster.address_conflicts()[0].pods.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["x/z-old", "x/a-new"]);
        assert_eq!(cluster.owner(address).unwrap().name.to_string(), "x/a-new");
        let old = cluster.pod(&"x/z-old".parse().unwrap()).unwrap();
        assert_eq!(cluster.addresses_of(old).count(), 0);
        cluster.remove_pod(&"x/a-new".parse().unwrap());
        assert_eq!(cluster.owner(address).unwrap().name.to_string(), "x/z-old");
        cluster.remove_pod(&"x/z-old".parse().unwrap());
        assert!(cluster.owner(address).is_none() && cluster.claims.is_empty());
    }
}

#[test]
fn host_network_pods_own_no_address() {
    let mut cluster = Cluster::new();
    cluster
        .apply_pod(&pod(
            "host",
            json!({"spec": {"hostNetwork": true, "containers": []},
        "status": {"podIPs": [{"ip": "10.0.0.1"}]}}),
        ))
        .unwrap();
    cluster.apply_pod(&pod("bare-host", json!({"spec": {"hostNetwork": true, "containers": []}}))).unwrap();
    assert!(cluster.owner("10.0.0.1".parse().unwrap()).is_none());
    assert!(cluster.address_conflicts().is_empty());
}

#[test]
fn namespaces_are_implied_and_always_know_their_name() {
    let mut cluster = Cluster::new();
    cluster.apply_pod(&pod("a", status("10.0.0.1"))).unwrap();
    let text = |cluster: &Cluster| cluster.namespace("x").unwrap().labels.to_text(cluster.symbols());
    assert_eq!(text(&cluster), BTreeMap::from([("kubernetes.io/metadata.name".into(), "x".into())]));
    cluster.apply_namespace(
        &serde_json::from_value(json!({"metadata": {"name": "x", "labels": {
        "team": "a", "kubernetes.io/metadata.name": "wrong"}}}))
        .unwrap(),
    );
    assert_eq!(text(&cluster)["kubernetes.io/metadata.name"], "x");
    assert_eq!(text(&cluster)["team"], "a");
    cluster.remove_namespace("x");
    assert_eq!(text(&cluster).len(), 1, "its pod still speaks of it");
    cluster.remove_pod(&"x/a".parse().unwrap());
    cluster.remove_namespace("x");
    assert!(cluster.namespace("x").is_none());
}

#[test]
fn ports_of_sidecars_count_and_those_of_init_containers_do_not() {
    let mut cluster = Cluster::new();
    let port = |name: &str, number: u16| json!([{"name": name, "containerPort": number}]);
    cluster.apply_pod(&pod("a", json!({"spec": {
        "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}, {"name": "web", "containerPort": 81},
            {"name": "web", "containerPort": 82, "protocol": "UDP"}]}],
        "initContainers": [{"name": "i", "ports": port("init", 1)},
            {"name": "s", "restartPolicy": "Always", "ports": port("side", 2)}]},
        "status": {"podIP": "10.0.0.1"}}))).unwrap();
    let pod = cluster.pods().next().unwrap();
    assert_eq!(pod.named_ports("web", Protocol::TCP), [80, 81]);
    assert_eq!(pod.named_ports("web", Protocol::UDP), [82]);
    assert_eq!(pod.named_ports("side", Protocol::TCP), [2]);
    assert!(pod.named_ports("init", Protocol::TCP).is_empty());
}

#[test]
fn pods_that_cannot_be_read() {
    for (rest, expected) in [
        (
            json!({}),
            "status.podIPs: Required value: a running pod has an address; add the pod's addresses, or set \
                     status.phase to Pending",
        ),
        (
            status("10.0.0.256"),
            "status.podIPs[0].ip: Invalid value: \"10.0.0.256\": must be a valid IP address, (e.g. \
                                10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            status("::ffff:10.0.0.1"),
            "status.podIPs[0].ip: Invalid value: \"::ffff:10.0.0.1\": must not be an \
                                     IPv4-mapped IPv6 address",
        ),
        (
            json!({"status": {"podIP": "10.0.0.1"}, "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 0}]}]}}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"status": {"podIP": "10.0.0.1", "phase": "running"}}),
            "status.phase: Unsupported value: \"running\": supported values: \"Failed\", \"Pending\", \"Running\", \
          \"Succeeded\", \"Unknown\"; did you mean \"Running\"?",
        ),
    ] {
        assert_eq!(errors(&pod("a", rest)), [expected]);
    }
    assert!(Cluster::new().apply_pod(&pod("a", json!({"status": {"phase": "Pending"}}))).is_ok());
}

use dataplane::packet::Protocol;

#[test]
fn a_node_has_addresses_that_its_object_does_not_list() {
    let node = |listed: &str| {
        serde_json::from_value::<core::Node>(serde_json::json!({
            "metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": listed}]}
        }))
        .unwrap()
    };
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let mut cluster = Cluster::new();
    assert_eq!(cluster.node_has("n", &[address("10.244.1.1")]), Touched::default(), "there is no such node yet");
    cluster.apply_node(&node("192.168.0.1")).unwrap();
    let at = |cluster: &Cluster, text: &str| cluster.node_at(address(text)).map(|node| node.name.to_string());
    assert_eq!(at(&cluster, "10.244.1.1").as_deref(), Some("n"));
    assert_eq!(
        cluster.nodes().next().unwrap().addresses,
        [address("192.168.0.1")],
        "what is kept is what its object lists"
    );
    let touched = cluster.node_has("n", &[address("10.244.2.1")]);
    assert_eq!(touched.nodes.len(), 1);
    assert_eq!((at(&cluster, "10.244.1.1"), at(&cluster, "10.244.2.1").as_deref()), (None, Some("n")));
    assert_eq!(
        cluster.node_has("n", &[address("10.244.2.1"), address("192.168.0.1")]),
        Touched::default(),
        "nothing new"
    );
}
