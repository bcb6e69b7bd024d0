//! Super-frames and unfinished checksums: kept where both ports can carry them, completed where one cannot.

use std::net::SocketAddr;

use control::lab::Family;
use dataplane::packet::Direction;
use dataplane::port::PortKind;
use penstock_tests::process::Background;
use penstock_tests::site::{Cable, Host, Ports, Site};
use penstock_tests::traffic::Stream;

const OFFLOADS: &str = include_str!("../../src/scripts/offloads.py");

const LENGTH: usize = 16 << 20;

/// Streams both ways in both families while the router's end of the pod's link is looked at.
fn stream(site: &Site, pod: &Host, server: &Host) -> [u64; 2] {
    let mut seen = [0; 2];
    for family in Family::ALL {
        let watcher = Background::python(&site.router, OFFLOADS, &[&pod.gateway_device()]);
        let target = SocketAddr::new(server.ip(family), 7000);
        Stream::connect(&pod.namespace, &server.namespace, target).exchange(LENGTH);
        let text = watcher.finish();
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        seen[0] += numbers[1];
        seen[1] += numbers[2];
    }
    for host in [pod, server] {
        let text = host.run("cat /proc/net/snmp /proc/net/snmp6");
        assert_eq!(checksum_errors(&text), 0, "{text}");
    }
    let drops = site.drops(pod);
    assert!(drops.is_empty(), "{drops:?}");
    seen
}

/// TCP's `InCsumErrors`, which counts both families.
fn checksum_errors(snmp: &str) -> u64 {
    let mut tcp = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let at = names.split(' ').position(|name| name == "InCsumErrors").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

fn wire(inside: PortKind, outside: PortKind) -> (Site, Host, Host) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(Ports { inside, outside }));
    let server = site.add("server", Cable::Straight);
    (site, pod, server)
}

fn keeps_super_frames(inside: PortKind, outside: PortKind) {
    let (site, pod, server) = wire(inside, outside);
    let [super_frames, partial] = stream(&site, &pod, &server);
    assert!(super_frames > 50 && partial > 50, "{super_frames} {partial}");
    let stats = site.stats(&pod);
    for direction in Direction::BOTH {
        let stats = stats.direction(direction);
        let (frames, segments) = (stats.forwarded.get(), stats.forwarded_segments.get());
        assert!(segments > 2 * frames, "{direction:?}: {segments} segments in {frames} frames");
        assert!(segments as usize > 2 * LENGTH / 1500, "{direction:?}: {segments} segments");
    }
}

/// One port takes packets of the link's size only: whatever leaves by it is complete.
fn completes(inside: PortKind, outside: PortKind) {
    let (site, pod, server) = wire(inside, outside);
    let [super_frames, partial] = stream(&site, &pod, &server);
    if outside == PortKind::AfXdp {
        assert_eq!([super_frames, partial], [0, 0], "the router's end sees plain packets");
    }
}

#[test]
fn af_packet_keeps_them() {
    keeps_super_frames(PortKind::AfPacket, PortKind::AfPacket);
}

#[test]
fn tap_keeps_them() {
    keeps_super_frames(PortKind::Tap, PortKind::Tap);
}

#[test]
fn tap_and_af_packet_keep_them() {
    keeps_super_frames(PortKind::Tap, PortKind::AfPacket);
}

#[test]
fn af_packet_to_af_xdp_completes_them() {
    completes(PortKind::AfPacket, PortKind::AfXdp);
}

#[test]
fn af_xdp_to_af_packet_completes_them() {
    completes(PortKind::AfXdp, PortKind::AfPacket);
}

#[test]
fn tap_to_af_xdp_completes_them() {
    completes(PortKind::Tap, PortKind::AfXdp);
}
