//! Ports that keep super-frames and unfinished checksums: `af_packet`, `tap` and `tun`, moving real traffic.

mod ports_support;

use dataplane::port::{Capabilities, PortKind, PortSpec, open_pair};
use ports_support::{Loop, World, everything};

const FRAMES: usize = 256;

#[test]
fn af_packet_to_af_packet() {
    let (world, [client, wire, server]) = World::with_veths("ap");
    let spec = |device| PortSpec::new(PortKind::AfPacket, device).in_namespace(&wire);
    let pair = open_pair(&spec("inside"), &spec("outside"), FRAMES).unwrap();
    assert!(pair.warnings.is_empty());
    let running = Loop::start(pair);
    everything(&world, &client, &server, 4 << 20);
    let seen = running.stop();
    assert!(seen.super_frames.iter().all(|&n| n > 10), "super-frames stay whole: {seen:?}");
    assert!(seen.partial.iter().all(|&n| n > 10), "checksums are left to the receiver: {seen:?}");
    for counters in seen.counters {
        assert_eq!((counters.receive_errors, counters.send_errors, counters.checksums_completed), (0, 0, 0));
    }
}

/// Both ends are devices that the ports make in the namespaces of client and server.
fn tunnel(kind: PortKind, test: &str) {
    let mut world = World::new(test);
    let [client, server] = ["client", "server"].map(|name| world.namespace(name));
    let spec = |namespace: &str| PortSpec::new(kind, "eth0").in_namespace(namespace).with_mtu(1400);
    let pair = open_pair(&spec(&client), &spec(&server), FRAMES).unwrap();
    for (namespace, n) in [(&client, 1), (&server, 2)] {
        world.address(namespace, "eth0", n);
        let link = world.inside(namespace, "ip link show eth0");
        assert!(link.contains("mtu 1400") && !link.contains("qlen 0"), "{link}");
    }
    let running = Loop::start(pair);
    everything(&world, &client, &server, 4 << 20);
    let seen = running.stop();
    assert!(seen.super_frames.iter().all(|&n| n > 10), "super-frames stay whole: {seen:?}");
    for counters in seen.counters {
        assert_eq!((counters.receive_errors, counters.send_errors), (0, 0));
    }
    let left = world.inside(&client, "ip -o link");
    assert!(!left.contains("eth0"), "the device goes with its port: {left}");
}

#[test]
fn tap_to_tap() {
    tunnel(PortKind::Tap, "tap");
}

#[test]
fn tun_to_tun() {
    tunnel(PortKind::Tun, "tun");
}

#[test]
fn a_limited_tap_does_the_work_itself() {
    let mut world = World::new("lim");
    let [client, server] = ["client", "server"].map(|name| world.namespace(name));
    let spec = |namespace: &str| PortSpec::new(PortKind::Tap, "eth0").in_namespace(namespace);
    let mut pair = open_pair(&spec(&client), &spec(&server), FRAMES).unwrap();
    for port in [&mut pair.inside, &mut pair.outside] {
        let plain = Capabilities { gso: false, partial_checksum: false, ..port.capabilities() };
        port.limit(plain).unwrap();
    }
    for (namespace, n) in [(&client, 1), (&server, 2)] {
        world.address(namespace, "eth0", n);
    }
    let running = Loop::start(pair);
    everything(&world, &client, &server, 1 << 20);
    let seen = running.stop();
    assert_eq!((seen.super_frames, seen.partial), ([0, 0], [0, 0]), "{seen:?}");
}

#[test]
fn tap_to_af_packet() {
    let (mut world, [client, wire, server]) = World::with_veths("mix");
    world.inside(&client, "ip link del eth0");
    let tap = PortSpec::new(PortKind::Tap, "eth0").in_namespace(&client).with_mac("02:00:00:00:00:07".parse().unwrap());
    let socket = PortSpec::new(PortKind::AfPacket, "outside").in_namespace(&wire);
    let pair = open_pair(&tap, &socket, FRAMES).unwrap();
    world.address(&client, "eth0", 1);
    assert!(world.inside(&client, "ip link show eth0").contains("02:00:00:00:00:07"));
    let running = Loop::start(pair);
    everything(&world, &client, &server, 4 << 20);
    let seen = running.stop();
    assert!(seen.super_frames.iter().all(|&n| n > 10), "{seen:?}");
    let _ = world.namespace("spare");
}
