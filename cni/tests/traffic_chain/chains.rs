//! Real primaries with other plugins in the same chain: what worked without us works with us, and is cleaned up alike.

use std::thread;

use serde_json::{Value, json};

use crate::node::{Node, Pod, address, eventually, output, run};

const PING: &str = "ping -c 3 -i 0.05 -W 2 -q";

fn ptp(node: &Node, number: u8) -> Value {
    json!({"type": "ptp", "ipMasq": true, "mtu": 1500, "ipam": node.ipam(number)})
}

fn bridge(node: &Node) -> Value {
    json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": true, "ipam": node.ipam(7)})
}

fn bandwidth() -> Value {
    let rate = 400_000_000_u64;
    json!({"type": "bandwidth", "ingressRate": rate, "ingressBurst": rate, "egressRate": rate, "egressBurst": rate})
}

/// Both families, between pods and to the host, and large frames in a stream.
fn assert_works(node: &Node, from: &Pod, to: &Pod) {
    for family in [4, 6] {
        let far = address(to, family);
        run(&from.namespace, &format!("{PING} {far}"));
        run(&node.host, &format!("{PING} {far}"));
    }
    assert_web(&to_web(to), from, &address(to, 4), 8080);
}

struct Web(std::process::Child);

impl Drop for Web {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A web server in a pod with a file of some size.
fn to_web(pod: &Pod) -> Web {
    let mut command = pod.namespace.command();
    command.args(["python3", "-m", "http.server", "8080", "--directory", "/usr/lib/cni"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let web = Web(command.spawn().expect("starting a web server"));
    eventually("the web server listens", || {
        String::from_utf8_lossy(&output(&pod.namespace, "ss -ltnH sport = :8080").stdout).contains("8080")
    });
    web
}

fn assert_web(_web: &Web, from: &Pod, host: &str, port: u16) {
    let size = std::fs::metadata("/usr/lib/cni/ptp").unwrap().len().to_string();
    let url = format!("http://{host}:{port}/ptp");
    let got = run(&from.namespace, &format!("curl -sS -m 10 -o /dev/null -w %{{size_download}} {url}"));
    assert_eq!(got, size, "{url}");
}

#[test]
fn ptp_with_bandwidth_and_portmap() {
    let mut node = Node::new();
    let ports = json!([{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}]);
    let portmap = json!({"type": "portmap", "snat": true, "runtimeConfig": {"portMappings": ports}});
    let served = [ptp(&node, 1), bandwidth(), portmap, node.ours()];
    let plain = [ptp(&node, 2), bandwidth(), node.ours()];
    let before = node.traces();
    let (mut server, mut client) = (node.pod(), node.pod());
    node.add(&mut server, "1.0.0", &served);
    node.add(&mut client, "1.0.0", &plain);
    assert_eq!(node.daemon.carried(), 2);
    node.check(&client, "1.0.0", &plain);
    // portmap 1.1.1 fails CHECK with and without us; the others don't.
    node.check(&server, "1.0.0", &[served[0].clone(), served[1].clone(), served[3].clone()]);
    assert_works(&node, &client, &server);
    let web = to_web(&server);
    assert_web(&web, &client, "10.88.2.1", 18080);
    drop(web);
    node.delete(&server, "1.0.0", &served);
    node.delete(&client, "1.0.0", &plain);
    node.delete(&client, "1.0.0", &plain);
    node.assert_nothing_left();
    let after = node.traces();
    for what in ["routes", "rules"] {
        assert_eq!(before[what], after[what]);
    }
    assert!(!after["links"].contains("veth") && !after["links"].contains("ifb"), "{}", after["links"]);
    assert!(!after["nat"].contains("10.88."), "{}", after["nat"]);
}

#[test]
fn bridge_with_hairpin_and_an_old_version() {
    let mut node = Node::new();
    let plugins = [bridge(&node), bandwidth(), node.ours()];
    let (mut one, mut two) = (node.pod(), node.pod());
    node.add(&mut one, "0.4.0", &plugins);
    node.add(&mut two, "0.4.0", &plugins);
    node.check(&one, "0.4.0", &plugins);
    assert_works(&node, &one, &two);
    let links = run(&node.host, "bridge -d link show");
    assert_eq!(links.matches("hairpin on").count(), 2, "ports of the bridge are as they were: {links}");
    // Removed together: each of its own.
    thread::scope(|scope| {
        for pod in [&one, &two] {
            scope.spawn(|| node.delete(pod, "0.4.0", &plugins));
        }
    });
    node.assert_nothing_left();
    let after = node.traces();
    assert!(!after["links"].contains("veth"), "{}", after["links"]);
    assert!(!after["nat"].contains("10.88."), "{}", after["nat"]);
}

#[test]
fn a_vpc_with_jumbo_frames_and_a_second_interface() {
    let mut node = Node::new();
    let addresses = json!({"c1": ["10.99.1.10", "10.99.1.11"], "c2": ["10.99.1.20", "10.99.1.21"]});
    let vpc = json!({"type": "vpc", "second": true, "addresses": addresses});
    let plugins = [vpc, node.ours()];
    let before = node.traces();
    let (mut one, mut two) = (node.pod(), node.pod());
    node.add(&mut one, "0.4.0", &plugins);
    node.add(&mut two, "0.4.0", &plugins);
    assert_eq!(node.daemon.carried(), 4, "every pair is behind a wire, not eth0 alone");
    node.check(&one, "0.4.0", &plugins);
    // 9001 bytes of IP, unfragmented, from end to end, and not a byte more.
    run(&one.namespace, &format!("{PING} -M do -s 8973 10.99.1.20"));
    assert!(!output(&one.namespace, "ping -c 1 -W 1 -M do -s 8974 10.99.1.20").status.success());
    run(&one.namespace, &format!("{PING} 10.99.0.1"));
    run(&node.host, &format!("{PING} 10.99.1.10"));
    run(&one.namespace, &format!("{PING} -I 10.99.1.11 10.99.1.21"));
    run(&one.namespace, &format!("{PING} -I eth1 10.99.1.20"));
    let web = to_web(&two);
    assert_web(&web, &one, "10.99.1.20", 8080);
    drop(web);
    for pod in [&one, &two] {
        node.delete(pod, "0.4.0", &plugins);
    }
    node.assert_nothing_left();
    let after = node.traces();
    for what in ["routes", "rules"] {
        assert_eq!(before[what], after[what]);
    }
    assert!(!after["links"].contains("eni"), "{}", after["links"]);
}

#[test]
fn many_pods_at_once() {
    const PODS: usize = 8;
    let mut node = Node::new();
    let plugins = [ptp(&node, 1), node.ours()];
    let mut pods: Vec<Pod> = (0..PODS).map(|_| node.pod()).collect();
    thread::scope(|scope| {
        for pod in &mut pods {
            scope.spawn(|| node.add(pod, "1.0.0", &plugins));
        }
    });
    assert_eq!(node.daemon.carried(), PODS);
    for pair in pods.windows(2) {
        run(&pair[0].namespace, &format!("{PING} {}", address(&pair[1], 4)));
    }
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.delete(pod, "1.0.0", &plugins));
        }
    });
    node.assert_nothing_left();
    assert!(!node.traces()["links"].contains("veth"));
}
