//! Pods that run already: adopted with their connections, given back as they were.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use cni::splice::{self, Target};
use cni::state::PodIdentity;
use serde_json::{Value, json};

use crate::node::{Node, Pod, address, eventually, output, run, view};

/// Splices a pod that runs, and has its wires carried. Answers how long it was cut off.
fn adopt(node: &Node, pod: &Pod) -> std::time::Duration {
    let netns = pod.namespace.path();
    let target = Target {
        container: &pod.container,
        netns: &netns,
        attachment: "eth0",
        network: None,
        pod: PodIdentity::default(),
    };
    let outcome = splice::splice(&node.store(), &node.opened_host(), &target).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(outcome.warnings, Vec::<String>::new());
    node.carry(pod);
    outcome.cut
}

fn give_back(node: &Node, pod: &Pod) {
    node.daemon.forget();
    splice::unsplice(&node.store(), &node.opened_host(), &pod.container, None)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Numbers that one pod sends to another by one connection, each answered.
struct Conversation(Child, BufReader<std::process::ChildStdout>);

const SERVER: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 9000))
print('ready', flush=True)
connection, _ = listener.accept()
while data := connection.recv(4096):
    connection.sendall(data)
";

const CLIENT: &str = "
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 9000), timeout=10)
last = time.monotonic()
for number in range(10**9):
    connection.sendall(b'%8d' % number)
    got = b''
    while len(got) < 8:
        got += connection.recv(8 - len(got))
    assert int(got) == number
    print(number, flush=True)
    time.sleep(0.002)
";

impl Conversation {
    fn start(pod: &Pod, script: &str, arguments: &[&str]) -> Conversation {
        let mut command = pod.namespace.command();
        command.args(["timeout", "60", "python3", "-c", script]).args(arguments);
        // Ended by force, it would complain.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starting python");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut conversation = Conversation(child, stdout);
        conversation.line();
        conversation
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("reading");
        assert!(!line.is_empty(), "the connection has ended: {:?}", self.0.try_wait());
        line
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn primaries(node: &Node) -> [(&'static str, Value); 3] {
    let addresses = json!({"c1": ["10.99.1.10", "10.99.1.11"], "c2": ["10.99.1.20", "10.99.1.21"],
                           "c3": ["10.99.1.30", "10.99.1.31"]});
    [
        ("1.0.0", json!({"type": "ptp", "ipMasq": true, "ipam": node.ipam(1)})),
        ("1.0.0", json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": node.ipam(2)})),
        ("0.4.0", json!({"type": "vpc", "second": true, "addresses": addresses})),
    ]
}

#[test]
fn a_pod_sees_no_difference_and_gets_back_what_it_had() {
    let mut node = Node::new();
    for (version, primary) in primaries(&node) {
        let mut pod = node.pod();
        let kind = primary["type"].as_str().unwrap().to_owned();
        let tuning = json!({"type": "tuning", "sysctl": {
            "net.ipv4.conf.IFNAME.rp_filter": "2", "net.ipv4.conf.IFNAME.arp_filter": "1",
            "net.ipv6.conf.IFNAME.accept_ra": "0"}});
        let plugins = [primary, tuning];
        node.add(&mut pod, version, &plugins);
        for more in [
            "ip link set eth0 txqueuelen 77 alias front",
            "ip neigh add 10.1.2.3 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
            "ip neigh add proxy 10.1.2.4 dev eth0",
            "ip route add 10.5.0.0/16 dev eth0 table 77 metric 9",
            "ip link add other type veth peer name rehto",
            "ip link set other up",
            "ip link set rehto up",
            "ip address add 10.6.0.1/24 dev other",
            "ip route add 10.7.0.0/16 nexthop dev eth0 weight 2 nexthop via 10.6.0.9 dev other",
            "ip -6 route add fd07::/64 dev eth0 metric 5",
            "ip -6 route append fd07::/64 dev other metric 5",
            "ip rule add iif eth0 lookup 77 priority 700",
            "ip -6 rule add oif eth0 lookup 77 priority 701",
        ] {
            run(&pod.namespace, more);
        }
        let before = view(&pod);
        let hosts = node.traces();
        adopt(&node, &pod);
        let different = |after: &std::collections::BTreeMap<&'static str, String>| {
            let lines = before.iter().filter(|(what, text)| after[*what] != **text);
            lines.map(|(what, text)| format!("{kind} {what}:\n{text}\n---\n{}", after[what])).collect::<String>()
        };
        assert_eq!(different(&view(&pod)), "", "spliced");
        assert_eq!(node.traces()["routes"], hosts["routes"], "nothing of the host's is changed");
        assert_eq!(splice::verify(&node.store(), &node.opened_host(), &pod.container).unwrap(), Vec::<String>::new());
        // Again changes nothing.
        adopt(&node, &pod);
        assert_eq!(different(&view(&pod)), "", "spliced twice");
        give_back(&node, &pod);
        assert_eq!(different(&view(&pod)), "", "given back");
        node.assert_nothing_left();
        node.delete(&pod, version, &plugins[..1]);
    }
}

#[test]
fn connections_go_on() {
    let mut node = Node::new();
    for (version, primary) in primaries(&node) {
        let (mut server, mut client) = (node.pod(), node.pod());
        if primary["type"] == "vpc" {
            // Its addresses go by the container's name.
            (server.container, client.container) = ("c1".into(), "c2".into());
        }
        let plugins = [primary];
        node.add(&mut server, version, &plugins);
        node.add(&mut client, version, &plugins);
        let _server = Conversation::start(&server, SERVER, &[]);
        let mut talk = Conversation::start(&client, CLIENT, &[&address(&server, 4)]);
        let goes_on = |talk: &mut Conversation| {
            for _ in 0..20 {
                talk.line();
            }
        };
        goes_on(&mut talk);
        for pod in [&client, &server] {
            let cut = adopt(&node, pod);
            println!("{}: cut off for {cut:?}", plugins[0]["type"]);
            goes_on(&mut talk);
        }
        for pod in [&client, &server] {
            give_back(&node, pod);
        }
        goes_on(&mut talk);
        drop(talk);
        for pod in [&client, &server] {
            node.delete(pod, version, &plugins);
        }
        node.assert_nothing_left();
    }
}

#[test]
fn what_either_side_has_learnt_of_the_other_is_not_forgotten() {
    let mut node = Node::new();
    // So that both ends of a pair have not one index by chance: the kernel is slower to notice of such that one is gone.
    run(&node.host, "ip link add other type veth peer name rehto");
    for (version, primary) in primaries(&node).into_iter().take(2) {
        let plugins = [primary];
        let mut pod = node.pod();
        node.add(&mut pod, version, &plugins);
        let (own, host) = (address(&pod, 4), node.host.clone());
        run(&host, &format!("ping -c 1 -W 2 {own}"));
        let in_pod = || run(&pod.namespace, "ip -4 neigh show dev eth0");
        let on_host = || run(&host, &format!("ip -4 neigh show {own}"));
        let knows = |text: String| text.contains(" lladdr ");
        assert!(knows(in_pod()) && knows(on_host()), "{}{}", in_pod(), on_host());
        // Who asks while nobody reads the wire yet asks again after a second.
        let netns = pod.namespace.path();
        let spliced = node.by_hand(&["splice", &pod.container, netns.to_str().unwrap()], Some("moved:slow"));
        assert!(spliced.status.success(), "{spliced:?}");
        println!("ON HOST {}", on_host());
        assert!(knows(in_pod()) && knows(on_host()), "{}{}", in_pod(), on_host());
        node.carry(&pod);
        run(&host, &format!("ping -c 1 -W 2 {own}"));
        give_back(&node, &pod);
        assert!(knows(in_pod()), "{}", in_pod());
        run(&host, &format!("ping -c 1 -W 2 {own}"));
        node.delete(&pod, version, &plugins);
        node.assert_nothing_left();
    }
}

#[test]
fn ends_with_one_index_get_two_namespaces() {
    let mut node = Node::new();
    let pod = node.pod();
    let name = pod.namespace.name();
    node.host
        .batch(&[
            format!("link add vethx index 4242 type veth peer name eth0 index 4242 netns {name}"),
            "address add 10.77.0.1/24 dev vethx".to_owned(),
            "link set vethx up".to_owned(),
        ])
        .unwrap();
    run(&pod.namespace, "ip address add 10.77.0.2/24 dev eth0");
    run(&pod.namespace, "ip link set eth0 up");
    adopt(&node, &pod);
    let splice = node.store().find(&pod.container).unwrap().unwrap();
    assert_eq!(splice.wires[0].pins().len(), 2);
    let line = run(&pod.namespace, "ip -o link show eth0");
    assert!(line.starts_with("4242: eth0@if4242:"), "{line}");
    eventually("frames cross", || output(&pod.namespace, "ping -c 1 -W 1 10.77.0.1").status.success());
    give_back(&node, &pod);
    run(&pod.namespace, "ping -c 1 -W 2 10.77.0.1");
    node.assert_nothing_left();
}

#[test]
fn what_cannot_be_spliced_is_refused_and_left_alone() {
    let mut node = Node::new();
    let mut pod = node.pod();
    let primary = json!({"type": "ptp", "ipam": node.ipam(1)});
    node.add(&mut pod, "1.0.0", std::slice::from_ref(&primary));
    run(&pod.namespace, "ip link add br0 type bridge");
    run(&pod.namespace, "ip link set eth0 master br0");
    let before = view(&pod);
    let ours = node.ours();
    let said = node.call("1.0.0", &ours, "ADD", &pod, Some("{}"));
    assert_eq!(said.code, Some(101));
    assert!(said.message.contains("eth0") && said.message.contains("bridge"), "{}", said.message);
    assert_eq!(view(&pod), before);
    // A pair within the pod is its own business.
    run(&pod.namespace, "ip link set eth0 nomaster");
    run(&pod.namespace, "ip link add in0 type veth peer name in1");
    adopt(&node, &pod);
    assert_eq!(node.store().find(&pod.container).unwrap().unwrap().wires.len(), 1);
    give_back(&node, &pod);
    node.delete(&pod, "1.0.0", &[primary]);
    node.assert_nothing_left();
}
