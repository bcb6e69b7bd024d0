//! The whole table of who reaches a pod through Services, without a cluster: the lab has rules like kube-proxy's in front of its pods.
//!
//! {virtual address, node port, external address} × {pod, two clients outside, the node, the pod itself} × {Cluster, Local} × {TCP, UDP} ×
//! {IPv4, IPv6} × four policies × the three settings.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use control::conntrack::Conntrack;
use control::conntrack::asking::{Found, LookUp};
use control::lab::{Lab, LabOptions, NodePort};
use control::policy::manifest::load_text;
use dataplane::packet::{Direction, Tuple};
use dataplane::verdict::DropReason;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const POLICIES: [&str; 4] = ["default-deny", "block-of-the-client", "another-block", "the-pod"];
const ORIGINS: [&str; 5] = ["x/friend", "allowed", "stranger", "x/host", "itself"];
/// How long silence lasts before it is one.
const SILENCE: Duration = Duration::from_millis(700);

/// An address of each family.
fn address(v6: bool, v4_text: &str, last: u32) -> String {
    if v6 { format!("fd00:{}::{last:x}", v4_text.split('.').nth(1).unwrap()) } else { format!("{v4_text}{last}") }
}

fn pod(name: &str, number: u32, labels: Value, host: bool) -> Value {
    let ips = match host {
        true => json!([{"ip": address(false, "192.168.0.", 1)}, {"ip": address(true, "192.168.0.", 1)}]),
        false => json!([{"ip": address(false, "10.1.0.", number)}, {"ip": address(true, "10.1.0.", number)}]),
    };
    let ports = if host { json!([]) } else { json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]) };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "x", "name": name, "labels": labels},
        "spec": {"nodeName": "n1", "hostNetwork": host, "containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIPs": ips}})
}

/// A Service and its endpoints, of both families.
fn service(name: &str, number: u32, endpoint: u32, local: bool) -> [Value; 3] {
    let (families, policy) = ([false, true], if local { "Local" } else { "Cluster" });
    let at = |prefix: &str, last| families.map(|v6| address(v6, prefix, last));
    let ports = ["TCP", "UDP"].map(|protocol| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "nodePort": 30000 + number})
    });
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "x", "name": name},
        "spec": {"clusterIP": at("10.96.0.", number)[0], "clusterIPs": at("10.96.0.", number), "externalIPs": at("198.51.0.", number),
            "externalTrafficPolicy": policy, "ports": ports}});
    let [v4, v6] = families.map(|v6| {
        let ports = ["TCP", "UDP"].map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80}));
        let family = if v6 { "IPv6" } else { "IPv4" };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"namespace": "x", "name": format!("{name}-{}", family.to_lowercase()), "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [address(v6, "10.1.0.", endpoint)]}], "ports": ports})
    });
    [service, v4, v6]
}

fn world() -> String {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {"addresses": [
        {"type": "InternalIP", "address": address(false, "192.168.0.", 1)}, {"type": "InternalIP", "address": address(true, "192.168.0.", 1)}]}});
    let mut items = vec![node, pod("friend", 9, json!({"role": "friend"}), false), pod("host", 0, json!({}), true)];
    for (number, policy) in (0u32..).zip(POLICIES) {
        let block = |cidrs: [&str; 2]| json!([{"from": cidrs.map(|cidr| json!({"ipBlock": {"cidr": cidr}}))}]);
        let ingress = match policy {
            "block-of-the-client" => block(["172.17.0.0/24", "fd00:17::/64"]),
            "another-block" => block(["192.0.2.0/24", "fd00:2::/64"]),
            "the-pod" => json!([{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}]),
            _ => json!([]),
        };
        let name = format!("web-{number}");
        items.push(pod(&name, number + 1, json!({"web": name}), false));
        items.push(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "x", "name": policy},
            "spec": {"podSelector": {"matchLabels": {"web": name}}, "policyTypes": ["Ingress"], "ingress": ingress}}));
        for local in [false, true] {
            let kind = if local { "local" } else { "cluster" };
            items.extend(service(&format!("{name}-{kind}"), 10 + 2 * number + u32::from(local), number + 1, local));
        }
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// A connection that is tried.
#[derive(Clone, Debug)]
struct Cell {
    policy: usize,
    origin: &'static str,
    udp: bool,
    source: Option<IpAddr>,
    to: SocketAddr,
    /// Whether the node's address hides who asks.
    hidden: bool,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for number in 0..4u32 {
        for (local, place, udp, v6) in (0..24).map(|n| (n % 2 == 1, n / 2 % 3, n / 6 % 2 == 1, n / 12 == 1)) {
            let service = 10 + 2 * number + u32::from(local);
            let (text, port) = match place {
                0 => (address(v6, "10.96.0.", service), 80),
                1 => (address(v6, "192.168.0.", 1), 30000 + service as u16),
                _ => (address(v6, "198.51.0.", service), 80),
            };
            for origin in ORIGINS {
                let source = match origin {
                    "allowed" => Some(address(v6, "172.17.0.", 5)),
                    "stranger" => Some(address(v6, "203.0.113.", 5)),
                    "x/host" => Some(address(v6, "192.168.0.", 1)),
                    _ => None,
                };
                let outside = matches!(origin, "allowed" | "stranger");
                let hidden = if place == 0 { outside } else { !local };
                let source = source.map(|text| text.parse().unwrap());
                let to = SocketAddr::new(text.parse().unwrap(), port);
                cells.push(Cell { policy: number as usize, origin, udp, source, to, hidden });
            }
        }
    }
    cells
}

/// Whether an answer comes.
fn reaches(cell: &Cell) -> bool {
    let any = || IpAddr::from(if cell.to.is_ipv6() { [0u8; 16] } else { return IpAddr::from([0u8; 4]) });
    let from = SocketAddr::new(cell.source.unwrap_or_else(any), 0);
    let mut bytes = [0; 64];
    if cell.udp {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        return socket.connect(cell.to).is_ok() && socket.send(b"hello").is_ok() && socket.recv(&mut bytes).is_ok();
    }
    let socket = Socket::new(Domain::for_address(cell.to), Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    if socket.connect_timeout(&cell.to.into(), SILENCE).is_err() {
        return false;
    }
    let mut stream = std::net::TcpStream::from(socket);
    std::io::Write::write_all(&mut stream, b"hello\n").is_ok()
        && std::io::Read::read(&mut stream, &mut bytes).is_ok_and(|length| length > 0)
}

fn expected(cell: &Cell, setting: NodePort) -> bool {
    let allowed =
        matches!((POLICIES[cell.policy], cell.origin), ("block-of-the-client", "allowed") | ("the-pod", "x/friend"));
    match (cell.origin, cell.hidden, setting) {
        ("x/host" | "itself", ..) => true,
        (_, true, NodePort::Allow) => true,
        (_, true, NodePort::PostSnat) => false,
        _ => allowed,
    }
}

/// What of these was not as expected, tried once more before it counts.
fn wrong(lab: &Lab, cells: &[Cell], setting: NodePort) -> Vec<Cell> {
    let mut wrong = cells.to_vec();
    for _attempt in 0..2 {
        let mut still = Vec::new();
        let by_namespace = |cell: &Cell| match cell.origin {
            "allowed" | "stranger" => "outside".to_owned(),
            "itself" => format!("x/web-{}", cell.policy),
            origin => origin.to_owned(),
        };
        let mut names: Vec<String> = wrong.iter().map(by_namespace).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let mine: Vec<&Cell> = wrong.iter().filter(|cell| by_namespace(cell) == name).collect();
            for part in mine.chunks(64) {
                let answers = lab.namespace(&name).unwrap().run(|| {
                    std::thread::scope(|scope| {
                        let tried: Vec<_> = part.iter().map(|cell| scope.spawn(|| reaches(cell))).collect();
                        tried.into_iter().map(|one| one.join().unwrap()).collect::<Vec<bool>>()
                    })
                });
                let pairs = part.iter().zip(answers.unwrap());
                still.extend(
                    pairs.filter(|(cell, got)| *got != expected(cell, setting)).map(|(cell, _)| (*cell).clone()),
                );
            }
        }
        wrong = still;
    }
    wrong
}

fn lab(setting: NodePort) -> Lab {
    let cluster = load_text("world", &world()).unwrap_or_else(|errors| panic!("{errors}")).cluster;
    let clients =
        ["172.17.0.", "203.0.113."].into_iter().flat_map(|prefix| [false, true].map(|v6| address(v6, prefix, 5)));
    let external = clients.map(|text| text.parse().unwrap()).collect();
    let options = LabOptions { external, internet: false, node_port: setting, ..LabOptions::default() };
    Lab::start(&cluster, options).unwrap()
}

fn table(setting: NodePort) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (lab, cells) = (lab(setting), cells());
    let wrong = wrong(&lab, &cells, setting);
    assert!(
        wrong.is_empty(),
        "{setting:?}: {} of {} cells: {:#?}",
        wrong.len(),
        cells.len(),
        &wrong[..wrong.len().min(6)]
    );
}

#[test]
fn the_table_where_hidden_clients_are_found() {
    table(NodePort::OriginalClient);
}

#[test]
fn the_table_where_the_nodes_address_counts() {
    table(NodePort::PostSnat);
}

#[test]
fn the_table_where_the_nodes_address_passes() {
    table(NodePort::Allow);
}

/// The kernel does not answer, or far too late.
struct Faulty {
    takes: Duration,
}

impl LookUp for Faulty {
    fn look_up(&mut self, _: &[Tuple]) -> Vec<Found> {
        std::thread::sleep(self.takes);
        Vec::new()
    }
}

/// A cell of the block's policy over UDP, by the node's port.
fn by_node_port(origin: &str, udp: bool) -> Cell {
    let is_meant = |cell: &&Cell| {
        cell.policy == 1
            && cell.origin == origin
            && cell.udp == udp
            && cell.hidden
            && cell.to.is_ipv4()
            && cell.to.port() > 30000
    };
    cells().iter().find(is_meant).unwrap().clone()
}

#[test]
fn look_ups_that_fail_or_stall_open_nothing_and_cut_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut lab = lab(NodePort::OriginalClient);
    let [open, stranger, tcp] =
        [("allowed", true), ("stranger", true), ("allowed", false)].map(|(origin, udp)| by_node_port(origin, udp));
    assert!(wrong(&lab, &[open.clone(), stranger.clone(), tcp.clone()], NodePort::OriginalClient).is_empty());
    let socket = lab.namespace("outside").unwrap().run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(open.source.unwrap(), 0)).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket.connect(open.to).unwrap();
        socket
    });
    let socket = socket.unwrap();
    let goes_on = |what: &str| {
        let answered = (0..50).filter(|_| socket.send(b"hello").is_ok() && socket.recv(&mut [0; 64]).is_ok()).count();
        assert_eq!(answered, 50, "{what}: an open connection goes on");
    };
    goes_on("at first");
    let dropped = |lab: &Lab, reason: DropReason| {
        let wires = lab.enforcer().unwrap().wires();
        wires.values().map(|wire| wire.stats.direction(Direction::Ingress).dropped(reason).get()).sum::<u64>()
    };
    for (what, takes) in [("failing", Duration::ZERO), ("stalling", Duration::from_secs(2))] {
        lab.answer_with(Faulty { takes }).unwrap();
        let many: Vec<Cell> = [&stranger, &open, &tcp].into_iter().cycle().take(384).cloned().collect();
        let opened = lab.namespace("outside").unwrap().run(|| {
            std::thread::scope(|scope| {
                let tried: Vec<_> = many.iter().map(|cell| scope.spawn(|| reaches(cell))).collect();
                tried.into_iter().map(|one| one.join().unwrap()).filter(|opened| *opened).count()
            })
        });
        assert_eq!(opened.unwrap(), 0, "{what}: nobody knows who asks");
        goes_on(what);
    }
    assert!(dropped(&lab, DropReason::AskUnknown) >= 384);
    assert!(dropped(&lab, DropReason::AskTimeout) > 0);
    assert!(dropped(&lab, DropReason::AskQueueFull) > 0, "what waits is bounded");
    let fabric = lab.topology().fabric.clone();
    lab.answer_with(fabric.run(Conntrack::open).unwrap().unwrap()).unwrap();
    assert!(wrong(&lab, &[open.clone(), stranger, tcp], NodePort::OriginalClient).is_empty(), "all is as before");
    goes_on("at the end");
}
