//! What the specification asks of a plugin: versions, codes, what is printed, and what must succeed with little.

use std::path::Path;

use cni::protocol::Call;
use serde_json::{Value, json};

use crate::daemon::Mood;
use crate::node::{Node, OURS, Said, output, view};

fn bare(node: &Node, command: &str, more: &[(&str, &str)], input: &str) -> Said {
    node.execute(Path::new(OURS), &[&[("CNI_COMMAND", command)], more].concat(), input)
}

fn ptp(node: &Node) -> Value {
    json!({"type": "ptp", "ipam": node.ipam(1)})
}

#[test]
fn version_says_what_is_spoken() {
    let node = Node::new();
    let said = bare(&node, "VERSION", &[], r#"{"cniVersion":"0.4.0"}"#);
    let answer: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(answer, json!({"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}));
}

#[test]
fn bad_calls_have_the_specifications_codes() {
    let node = Node::new();
    let good = r#"{"cniVersion":"1.1.0","name":"net","type":"penstock-cni"}"#;
    let full = [("CNI_CONTAINERID", "c9"), ("CNI_NETNS", "/run/netns/nowhere"), ("CNI_IFNAME", "eth0")];
    let code = |command: &str, more: &[(&str, &str)], input: &str| bare(&node, command, more, input).code;
    assert_eq!(code("ADD", &full, "{nonsense"), Some(6));
    assert_eq!(code("ADD", &full, r#"{"cniVersion":"2.0.0"}"#), Some(1));
    assert_eq!(code("ADD", &full[..1], good), Some(4));
    assert_eq!(code("PAINT", &full, good), Some(4));
    let said = bare(&node, "ADD", &full, good);
    assert_eq!(said.code, Some(7));
    assert!(said.message.contains("prevResult is missing") && said.message.contains("conflist"), "{}", said.message);
    let old = r#"{"cniVersion":"1.0.0","name":"net"}"#;
    assert_eq!((code("GC", &[], old), code("STATUS", &[], old)), (Some(1), Some(1)));
    assert_eq!(code("GC", &[], good), Some(7), "no list of attachments is not an empty one");
    let error: Value = serde_json::from_str(&bare(&node, "ADD", &full[..1], old).stdout).unwrap();
    assert_eq!(error["cniVersion"], "1.0.0", "an error is of the version that was spoken");
}

#[test]
fn delete_succeeds_with_nothing_to_go_by() {
    let node = Node::new();
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "penstock-cni",
        "socket": "/no/daemon.sock", "directory": node.directory.path().join("netns"),
    });
    for _ in 0..2 {
        let variables = [("CNI_CONTAINERID", "never-seen"), ("CNI_IFNAME", "eth0")];
        let said = bare(&node, "DEL", &variables, &config.to_string());
        assert_eq!((said.code, said.stdout.as_str()), (None, ""), "{}", said.message);
    }
}

#[test]
fn without_a_daemon_that_is_ready_nothing_is_changed() {
    let mut node = Node::new();
    let mut pod = node.pod();
    let mut absent = node.ours();
    absent["socket"] = "/no/daemon.sock".into();
    let ours = node.ours();
    let primary = ptp(&node);
    node.add(&mut pod, "1.1.0".replace("1.1", "1.0").as_str(), std::slice::from_ref(&primary));
    let before = view(&pod);
    let result = r#"{"cniVersion":"1.0.0","ips":[]}"#;
    let add = |entry: &Value, mood: Mood| {
        node.daemon.set(mood);
        node.call("1.0.0", entry, "ADD", &pod, Some(result))
    };
    let said = add(&absent, Mood::Willing);
    assert_eq!(said.code, Some(11));
    assert!(said.message.contains("/no/daemon.sock"), "{}", said.message);
    let said = add(&ours, Mood::Loading);
    assert_eq!(said.code, Some(11));
    assert!(said.message.contains("policies are not loaded yet"), "{}", said.message);
    assert_eq!(view(&pod), before);
    // It was ready, and refuses then: the pod gets its interface back, for the primary's DEL.
    let said = add(&ours, Mood::Broken);
    assert_eq!((said.code, said.message.contains("the worker is gone")), (Some(102), true), "{}", said.message);
    assert_eq!(view(&pod), before);
    node.daemon.set(Mood::Willing);
    node.delete(&pod, "1.0.0", &[primary, ours]);
    node.assert_nothing_left();
}

#[test]
fn the_daemon_is_told_who_the_pod_is() {
    let mut node = Node::new();
    let mut pod = node.pod();
    let plugins = [ptp(&node), node.ours()];
    node.add(&mut pod, "0.3.1", &plugins);
    let calls = node.daemon.calls();
    let [Call::Status, Call::Add(told)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!((told.pod.namespace.as_str(), told.pod.name.as_str(), told.pod.uid.as_str()), ("shop", "web-0", "u1"));
    assert_eq!(
        (told.container.as_str(), told.sandbox.as_path()),
        (pod.container.as_str(), pod.namespace.path().as_path())
    );
    let [wire] = &told.wires[..] else { panic!("{told:?}") };
    let addresses: Vec<String> = wire.addresses.iter().map(ToString::to_string).collect();
    for family in [4, 6] {
        assert!(addresses.contains(&crate::node::address(&pod, family)), "{addresses:?}");
    }
    assert!(addresses.iter().any(|address| address.starts_with("fe80:")), "{addresses:?}");
    node.delete(&pod, "0.3.1", &plugins);
    let calls = node.daemon.calls();
    assert_eq!(calls, [Call::Remove { container: pod.container.clone(), interfaces: vec!["eth0".into()] }]);
    node.assert_nothing_left();
}

#[test]
fn check_status_and_garbage_collection() {
    let mut node = Node::new();
    let (mut kept, mut lost) = (node.pod(), node.pod());
    let plugins = [ptp(&node), node.ours()];
    for pod in [&mut kept, &mut lost] {
        node.add(pod, "1.0.0", &plugins);
    }
    let ours = &plugins[1];
    let result = Some(r#"{"cniVersion":"1.1.0"}"#);
    assert_eq!(node.call("1.1.0", ours, "CHECK", &kept, result).code, None);
    node.daemon.set(Mood::Loading);
    assert_eq!(node.call("1.1.0", ours, "CHECK", &kept, result).code, Some(11));
    assert_eq!(node.call("1.1.0", ours, "STATUS", &kept, None).code, Some(50));
    node.daemon.set(Mood::Willing);
    assert_eq!(node.call("1.1.0", ours, "STATUS", &kept, None).code, None);

    let mut entry = ours.clone();
    entry["cni.dev/valid-attachments"] = json!([{"containerID": kept.container, "ifname": "eth0"}]);
    let said = node.call("1.1.0", &entry, "GC", &kept, None);
    assert_eq!((said.code, said.stdout.as_str()), (None, ""), "{}", said.message);
    let (splices, _) = node.store().list().unwrap();
    assert_eq!(splices.iter().map(|splice| splice.container.as_str()).collect::<Vec<_>>(), [kept.container.as_str()]);
    assert_eq!(node.call("1.1.0", ours, "CHECK", &lost, result).code, Some(103));

    // Something that ADD made is broken behind our back.
    assert!(output(&kept.namespace, "ip link del eth0").status.success());
    let said = node.call("1.1.0", ours, "CHECK", &kept, result);
    assert_eq!(said.code, Some(103));
    assert!(said.message.contains("eth0"), "{}", said.message);
    for pod in [&kept, &lost] {
        node.delete(pod, "1.0.0", &plugins);
    }
    node.assert_nothing_left();
}
