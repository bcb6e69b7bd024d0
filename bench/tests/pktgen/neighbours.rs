//! ARP and neighbour discovery with the kernel at the other end.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_bench::pktgen::{
    Error, Flows, FrameShape, Limit, PortChoice, Progress, Rate, ReceiveChoice, ReceiveSpec, Receiver, Sink, SinkSpec,
    Spec, generate,
};

use crate::cable::{Cable, LEFT};

fn spec(cable: &Cable, port: PortChoice, source: &str, destination: &str, gateway: Option<&str>) -> Spec {
    Spec {
        port,
        interface: "eth0".into(),
        namespace: Some(cable.left.name().into()),
        cpu: None,
        destination_mac: None,
        gateway: gateway.map(|text| text.parse().unwrap()),
        source_mac: None,
        frames: FrameShape::udp(60),
        flows: Flows::between(source.parse().unwrap(), destination.parse().unwrap(), 9, 1),
        rate: Rate::FramesPerSecond(10_000.0),
        limit: Limit::frames(100),
    }
}

#[test]
fn the_kernel_is_asked_for_its_address() {
    let cable = Cable::new();
    let sink = SinkSpec { interface: "eth0".into(), namespace: Some(cable.right.name().into()), ..SinkSpec::default() };
    let sink = Sink::open(sink).unwrap();
    let mut expected = 0;
    for port in [PortChoice::LiveFrames, PortChoice::AfXdp, PortChoice::AfPacket] {
        for (source, destination, gateway) in [
            ("10.70.0.1", "10.70.0.2", None),
            ("fd70::1", "fd70::2", None),
            ("10.70.0.1", "192.0.2.7", Some("10.70.0.2")),
        ] {
            let report = generate(&spec(&cable, port, source, destination, gateway), &AtomicBool::new(false)).unwrap();
            assert_eq!(report.offered, 100);
            expected += 100;
            let start = Instant::now();
            while sink.counters().unwrap().stamped < expected && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(sink.counters().unwrap().stamped, expected, "{port:?} to {destination}");
        }
    }
}

#[test]
fn silence_is_told_with_the_address() {
    let cable = Cable::new();
    let asked = spec(&cable, PortChoice::AfPacket, "10.70.0.1", "10.70.0.99", None);
    let error = generate(&asked, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, Error::NoNeighbour { .. }) && error.is_system_refusal(), "{error}");
    assert!(error.to_string().contains("10.70.0.99") && error.to_string().contains("ARP"), "{error}");
}

#[test]
fn the_kernel_is_answered() {
    let cable = Cable::new();
    for (port, ip) in [
        (ReceiveChoice::Xdp, "10.70.0.77"),
        (ReceiveChoice::AfPacket, "10.70.0.78"),
        (ReceiveChoice::AfXdp, "10.70.0.79"),
        (ReceiveChoice::Xdp, "fd70::77"),
        (ReceiveChoice::AfXdp, "fd70::79"),
    ] {
        let address: IpAddr = ip.parse().unwrap();
        let receiver = Receiver::open(ReceiveSpec {
            port,
            interface: "eth0".into(),
            namespace: Some(cable.left.name().into()),
            answer: vec![(address, address)],
            ..ReceiveSpec::default()
        })
        .unwrap();
        let stop = AtomicBool::new(false);
        let received = std::thread::scope(|scope| {
            let running = scope.spawn(|| receiver.run(&stop, &Progress::default()));
            let send = || {
                let local = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                std::net::UdpSocket::bind(local).unwrap().send_to(b"hello", (address, 9)).unwrap();
            };
            cable.right.run(send).unwrap();
            let start = Instant::now();
            let neighbour = || {
                let output = cable.right.command().args(["ip", "neigh", "show", ip]).output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            while !neighbour().contains(&LEFT.to_string()) {
                assert!(start.elapsed() < Duration::from_secs(10), "{port:?} did not answer for {ip}: {}", neighbour());
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            running.join().unwrap().unwrap()
        });
        assert_eq!((received.counters.frames, received.counters.stamped), (1, 0), "{port:?} {ip}");
    }
}
