//! The largest UDP datagram, in pieces: as the kernel sends them, and in other orders.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use control::lab::Family;
use dataplane::packet::{Direction, Protocol};
use dataplane::port::PortKind;
use dataplane::rules::Policy;
use dataplane::verdict::DropReason;
use penstock_tests::each_port;
use penstock_tests::payload::{random, sha256};
use penstock_tests::policy::{closed, only};
use penstock_tests::process::python;
use penstock_tests::site::{Cable, Host, Site, eventually};

each_port!(datagrams);

const FRAGMENTS: &str = include_str!("../../src/scripts/fragments.py");

const SOURCE: u16 = 4000;
const ALLOWED: u16 = 5000;
const DENIED: u16 = 6000;

/// The most that fits behind the headers of IP and UDP.
fn largest(family: Family) -> usize {
    match family {
        Family::V4 => 65_535 - 20 - 8,
        Family::V6 => 65_535 - 8,
    }
}

fn socket(host: &Host, family: Family, port: u16) -> UdpSocket {
    let address = SocketAddr::new(host.ip(family), port);
    let socket = host.namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).expect("a datagram");
    sha256(&buffer[..length])
}

/// Sends from the pod in pieces of this order and answers how many they are.
fn send(pod: &Host, server: &Host, family: Family, order: &str, port: u16, payload: &[u8]) -> u64 {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), payload).unwrap();
    let arguments = [
        "eth0".to_owned(),
        order.to_owned(),
        pod.ip(family).to_string(),
        server.ip(family).to_string(),
        pod.mac.to_string(),
        pod.gateway_mac.to_string(),
        SOURCE.to_string(),
        port.to_string(),
        file.path().display().to_string(),
    ];
    let said = python(&pod.namespace, FRAGMENTS, &arguments.each_ref().map(String::as_str));
    said.trim().parse().unwrap()
}

fn datagrams(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add("server", Cable::Straight);
    site.judge(&pod, only(&[(Protocol::UDP, ALLOWED)]), closed());
    for family in Family::ALL {
        // The kernel's fragments, there and back: the answer is part of an allowed flow.
        let payload = random(largest(family));
        let sum = sha256(&payload);
        let [here, there] = [socket(&pod, family, SOURCE), socket(&server, family, ALLOWED)];
        here.send_to(&payload, there.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&there), sum, "{family:?} {:?}", site.drops(&pod));
        there.send_to(&payload, here.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&here), sum, "{family:?} {:?}", site.drops(&pod));
        for order in ["forward", "reverse", "shuffled"] {
            let payload = random(largest(family));
            send(&pod, &server, family, order, ALLOWED, &payload);
            assert_eq!(receive(&there), sha256(&payload), "{family:?} {order} {:?}", site.drops(&pod));
        }
    }
    assert!(site.drops(&pod).is_empty(), "{:?}", site.drops(&pod));
    for family in Family::ALL {
        let there = socket(&server, family, DENIED);
        for order in ["forward", "reverse", "shuffled"] {
            denied(&site, &pod, || send(&pod, &server, family, order, DENIED, &random(largest(family))));
        }
        there.set_nonblocking(true).unwrap();
        assert!(there.recv(&mut [0; 16]).is_err(), "{family:?}: nothing came through");
    }
    // Opening the way now lets the next one pass.
    site.judge(&pod, Policy::Open, closed());
    for family in Family::ALL {
        let (there, payload) = (socket(&server, family, DENIED), random(largest(family)));
        send(&pod, &server, family, "reverse", DENIED, &payload);
        assert_eq!(receive(&there), sha256(&payload), "{family:?}");
    }
}

/// Every fragment of a datagram that policy denies is dropped, whichever came first.
fn denied(site: &Site, pod: &Host, send: impl FnOnce() -> u64) {
    let stats = site.stats(pod);
    let egress = stats.direction(Direction::Egress);
    let dropped = egress.dropped_total();
    let sent = send();
    eventually("all fragments are dropped", || egress.dropped_total() >= dropped + sent);
    let denied = egress.dropped(DropReason::PolicyDenied).get();
    assert_eq!((egress.dropped_total(), denied), (dropped + sent, dropped + sent), "{:?}", site.drops(pod));
}
