//! What lives and dies together: the pod, its wire, and the primary's interface on the host.

use cni::splice::{self, Repaired};
use serde_json::json;

use crate::node::{Node, Pod, output, run};

fn spliced(node: &Node, pod: &mut Pod) {
    let plugins = [json!({"type": "ptp", "ipam": node.ipam(1)}), node.ours()];
    node.add(pod, "1.0.0", &plugins);
}

fn host_interface(node: &Node, pod: &Pod) -> String {
    node.store().find(&pod.container).unwrap().unwrap().wires[0].host_interface.clone()
}

#[test]
fn what_outlives_its_other_half_is_found_and_removed() {
    let mut node = Node::new();
    let (mut gone, mut cut, mut well) = (node.pod(), node.pod(), node.pod());
    for pod in [&mut gone, &mut cut, &mut well] {
        spliced(&node, pod);
    }
    let (store, host) = (node.store(), node.opened_host());
    let interface = host_interface(&node, &gone);
    node.daemon.forget();
    // A pod's namespace ends without DEL, and a host's interface with its wire still there.
    run(&node.host, &format!("ip link del {}", host_interface(&node, &cut)));
    control::lab::netns::remove(std::slice::from_ref(&gone.namespace)).unwrap();
    crate::node::eventually("the namespace is gone", || !splice::scan(&store, &host, []).unwrap().stale.is_empty());
    assert!(output(&node.host, &format!("ip link show {interface}")).status.success());
    let scan = splice::scan(&store, &host, [cut.namespace.path(), well.namespace.path()]).unwrap();
    assert_eq!(scan.stale, [gone.container.clone(), cut.container.clone()]);
    assert_eq!(scan.unspliced, []);
    let removed = vec![gone.container.clone(), cut.container.clone()];
    assert_eq!(splice::repair(&store, &host).unwrap(), Repaired { removed, ..Repaired::default() });
    assert!(!output(&node.host, &format!("ip link show {interface}")).status.success(), "it went with its pod");
    assert!(!output(&cut.namespace, "ip link show eth0").status.success(), "as without a wire");
    assert_eq!(splice::repair(&store, &host).unwrap(), Repaired::default());
    assert_eq!(splice::verify(&store, &host, &well.container).unwrap(), Vec::<String>::new());
}

#[test]
fn an_interface_without_a_wire_is_found() {
    let mut node = Node::new();
    let mut pod = node.pod();
    spliced(&node, &mut pod);
    let plain = node.pod();
    for (target, name) in [(&pod, "late0"), (&plain, "eth0")] {
        run(
            &node.host,
            &format!("ip link add host-{name} type veth peer name {name} netns {}", target.namespace.name()),
        );
    }
    let paths = [pod.namespace.path(), plain.namespace.path(), node.host.path(), "/run/netns/gone".into()];
    let scan = splice::scan(&node.store(), &node.opened_host(), paths).unwrap();
    let found: Vec<_> =
        scan.unspliced.iter().map(|found| (found.interface.as_str(), found.container.as_deref())).collect();
    assert_eq!(found, [("late0", Some(pod.container.as_str())), ("eth0", None)]);
    let faults = splice::verify(&node.store(), &node.opened_host(), &pod.container).unwrap();
    assert!(faults.len() == 1 && faults[0].contains("late0"), "{faults:?}");
}

#[test]
fn a_running_pod_is_found_once_and_by_its_own_attachment() {
    let mut node = Node::new();
    let pod = node.pod();
    let name = pod.namespace.name();
    run(&node.host, &format!("ip link add host-eth0 type veth peer name eth0 netns {name}"));
    let results = tempfile::tempdir().unwrap();
    // As containerd has it written: every pod is attached to the loopback network first.
    for (network, attachment) in [("cni-loopback", "lo"), ("another", "aaa0"), ("pods", "eth0")] {
        let text = serde_json::json!({
            "kind": "cniCacheV1", "containerId": pod.container, "ifName": attachment, "networkName": network,
            "netns": pod.namespace.path(), "cniArgs": [["K8S_POD_NAMESPACE", "web"], ["K8S_POD_NAME", "nginx"]],
        });
        std::fs::write(results.path().join(format!("{network}-x-{attachment}")), text.to_string()).unwrap();
    }
    let found = cni::sandbox::unspliced(&node.store(), &node.opened_host(), results.path()).unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.attachment.as_str(), it.network.as_str())).collect();
    assert_eq!(found, [("eth0", "pods")]);
}

#[test]
fn link_state_and_mtu_are_passed_on() {
    let mut node = Node::new();
    let mut pod = node.pod();
    spliced(&node, &mut pod);
    let (store, host) = (node.store(), node.opened_host());
    let splice = store.find(&pod.container).unwrap().unwrap();
    let interface = splice.wires[0].host_interface.clone();
    let follow = || splice::follow(&splice, &host).unwrap();
    let pod_has_carrier = || run(&pod.namespace, "ip -o link show eth0").contains("LOWER_UP");
    let host_has_carrier = || run(&node.host, &format!("ip -o link show {interface}")).contains("LOWER_UP");
    assert_eq!(follow(), 0);
    assert!(pod_has_carrier() && host_has_carrier());

    run(&node.host, &format!("ip link set {interface} down"));
    assert_eq!(follow(), 1);
    assert!(!pod_has_carrier());
    run(&node.host, &format!("ip link set {interface} up"));
    assert_eq!(follow(), 1);
    assert!(pod_has_carrier() && host_has_carrier());

    run(&pod.namespace, "ip link set eth0 down");
    assert_eq!(follow(), 1);
    assert!(!host_has_carrier());
    run(&pod.namespace, "ip link set eth0 up");
    assert_eq!((follow(), follow()), (1, 0));

    run(&node.host, &format!("ip link set {interface} mtu 9001"));
    assert_eq!((follow(), follow()), (2, 0), "both ends of the wire");
}

#[test]
fn a_pod_whose_pins_were_swept_away_is_not_mourned_twice() {
    let mut node = Node::new();
    let mut pod = node.pod();
    spliced(&node, &mut pod);
    node.daemon.forget();
    let splice = node.store().find(&pod.container).unwrap().unwrap();
    for pin in splice.wires[0].pins() {
        assert!(std::process::Command::new("umount").arg(pin).status().unwrap().success());
    }
    std::fs::remove_dir_all(node.directory.path().join("netns").join(&pod.container)).unwrap();
    let plugins = [json!({"type": "ptp", "ipam": node.ipam(1)}), node.ours()];
    crate::node::eventually("its interfaces went with the namespace", || {
        !run(&node.host, "ip -o link show").contains(&splice.wires[0].host_interface)
    });
    node.delete(&pod, "1.0.0", &plugins);
    node.assert_nothing_left();
}
