//! AF_XDP ports, moving real traffic: two over one memory, one with memory of its own joined to other kinds, and what is
//! refused.

mod ports_support;

use dataplane::frame::Burst;
use dataplane::port::af_xdp::{self, Umem, XdpChoice};
use dataplane::port::{Pool, PortError, PortKind, PortSpec, open_pair};
use dataplane::time::Time;
use ports_support::{Loop, World, everything, inside};

const FRAMES: usize = 2048;

fn xdp(namespace: &str, device: &str) -> PortSpec {
    PortSpec::new(PortKind::AfXdp, device).in_namespace(namespace)
}

#[test]
fn af_xdp_to_af_xdp_over_one_memory() {
    let (world, [client, wire, server]) = World::with_veths("xx");
    let pair = open_pair(&xdp(&wire, "inside"), &xdp(&wire, "outside"), FRAMES).unwrap();
    assert!(pair.warnings.is_empty(), "veth has native XDP: {:?}", pair.warnings);
    assert!(!pair.inside.capabilities().gso && pair.inside.held_chunks() > 0);
    let running = Loop::start(pair);
    everything(&world, &client, &server, 2 << 20);
    let seen = running.stop();
    assert_eq!(seen.super_frames, [0, 0], "XDP switches them off");
    for counters in seen.counters {
        assert!(counters.checksums_completed > 10, "what the peers left unfinished: {seen:?}");
        assert_eq!((counters.receive_errors, counters.send_errors), (0, 0));
    }
    let link = world.inside(&wire, "ip -d link");
    assert!(!link.contains("xdp"), "the programs are gone: {link}");
}

#[test]
fn af_packet_to_af_xdp_segments_super_frames() {
    let (world, [client, wire, server]) = World::with_veths("px");
    let socket = PortSpec::new(PortKind::AfPacket, "inside").in_namespace(&wire);
    let pair = open_pair(&socket, &xdp(&wire, "outside"), 256).unwrap();
    assert!(pair.outside.capabilities().gso, "memory of its own takes segments");
    let running = Loop::start(pair);
    everything(&world, &client, &server, 2 << 20);
    let seen = running.stop();
    assert!(seen.super_frames[0] > 10, "the client still sends super-frames: {seen:?}");
    assert!(seen.counters[1].checksums_completed > 1000, "each segment has a checksum of its own: {seen:?}");
    assert!(seen.counters.iter().all(|counters| (counters.receive_errors, counters.send_errors) == (0, 0)));
}

#[test]
fn tap_to_af_xdp() {
    let (world, [client, wire, server]) = World::with_veths("tx");
    world.inside(&client, "ip link del eth0");
    let tap = PortSpec::new(PortKind::Tap, "eth0").in_namespace(&client);
    let pair = open_pair(&tap, &xdp(&wire, "outside"), 256).unwrap();
    world.address(&client, "eth0", 1);
    let running = Loop::start(pair);
    everything(&world, &client, &server, 2 << 20);
    let seen = running.stop();
    assert!(seen.super_frames[0] > 10, "{seen:?}");
}

#[test]
fn generic_mode_works_and_warns() {
    let (world, [client, wire, server]) = World::with_veths("gx");
    // Without native XDP a veth peer would send super-frames, which generic XDP cannot take.
    for end in [&client, &server] {
        world.inside(end, "ethtool -K eth0 tso off gso off");
    }
    let generic = |device| {
        let mut spec = xdp(&wire, device);
        spec.options.af_xdp.attach = XdpChoice::Generic;
        spec
    };
    let pair = open_pair(&generic("inside"), &generic("outside"), FRAMES).unwrap();
    assert_eq!(pair.warnings.len(), 2);
    assert!(pair.warnings[0].contains("inside") && pair.warnings[0].contains("generic"), "{:?}", pair.warnings);
    assert!(world.inside(&wire, "ip -d link show inside").contains("xdpgeneric"));
    let running = Loop::start(pair);
    everything(&world, &client, &server, 1 << 20);
    running.stop();
}

#[test]
fn a_device_without_native_xdp_falls_back() {
    let (world, [_, wire, _]) = World::with_veths("fb");
    world.inside(&wire, "ip link add link inside name above type macvlan mode bridge");
    let opened = xdp(&wire, "above").open().unwrap();
    assert!(opened.warnings.iter().any(|warning| warning.contains("above") && warning.contains("generic")));
    let mut spec = xdp(&wire, "above");
    drop(opened);
    spec.options.af_xdp.attach = XdpChoice::Native;
    let error = spec.open().map(|_| ()).unwrap_err();
    assert!(matches!(error, PortError::Unsupported { .. }) && error.is_system_refusal(), "{error}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let (world, [client, wire, _]) = World::with_veths("er");
    let fails = |spec: PortSpec| spec.open().map(|_| ()).unwrap_err();
    let error = fails(xdp(&wire, "nobody"));
    assert!(matches!(&error, PortError::NoSuchDevice { device, .. } if device == "nobody"), "{error}");
    assert!(!error.is_system_refusal());

    world.inside(&client, "ip link set eth0 mtu 4000");
    world.inside(&wire, "ip link set inside mtu 4000");
    let error = fails(xdp(&wire, "inside"));
    assert!(matches!(error, PortError::MtuTooLarge { mtu: 4000, limit: 3506, .. }), "{error}");
    world.inside(&wire, "ip link set inside mtu 1500");
    let error = fails(xdp(&wire, "inside"));
    assert!(matches!(error, PortError::MtuTooLarge { limit: 3506, .. }), "the peer's counts too: {error}");
    world.inside(&client, "ip link set eth0 mtu 1500");

    let first = xdp(&wire, "inside").open().unwrap();
    let error = fails(xdp(&wire, "inside"));
    assert!(matches!(error, PortError::Claimed { .. }), "{error}");
    assert!(error.is_system_refusal());
    drop(first);
    drop(xdp(&wire, "inside").open().unwrap());

    world.inside(&wire, "ip link add many numrxqueues 2 numtxqueues 2 type veth peer name twin numtxqueues 2");
    drop(xdp(&wire, "many").open().unwrap());
    drop(xdp(&wire, "many").with_queue(1).open().unwrap());
    let error = fails(xdp(&wire, "many").with_queue(7));
    assert!(matches!(error, PortError::Unsupported { .. }), "{error}");
}

#[test]
fn memory_is_shared_across_namespaces_and_survives_its_first_port() {
    let (_world, [client, wire, _]) = World::with_veths("ns");
    let (umem, mut pool): (Umem, Pool) = inside(&client, || af_xdp::umem(FRAMES as u32, 2048).unwrap());
    let mut first = xdp(&wire, "inside").open_with(&umem, &mut pool).unwrap().port;
    let mut second = xdp(&client, "eth0").open_with(&umem, &mut pool).unwrap().port;
    first.close(&mut pool);
    drop(first);
    let mut third = xdp(&wire, "outside").open_with(&umem, &mut pool).unwrap().port;
    let mut again = xdp(&wire, "inside").open_with(&umem, &mut pool).unwrap().port;
    assert!([&second, &third, &again].iter().all(|port| port.held_chunks() > 0));
    for port in [&mut second, &mut third, &mut again] {
        port.close(&mut pool);
    }
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn a_lost_device_is_an_error_and_a_switched_off_one_is_not() {
    let (world, [_, wire, _]) = World::with_veths("ld");
    let mut pair = open_pair(&xdp(&wire, "inside"), &xdp(&wire, "outside"), FRAMES).unwrap();
    let mut burst = Burst::new();
    let mut send = |pair: &mut dataplane::port::OpenedPair| {
        burst.push(pair.pool.frame(&[2; 60]).unwrap());
        pair.inside.send(&mut pair.pool, &mut burst, Time::ZERO).map(|()| burst.len())
    };
    world.inside(&wire, "ip link set inside down");
    for _ in 0..3 {
        assert_eq!(send(&mut pair).unwrap(), 0, "taken, whatever becomes of it");
    }
    assert_eq!(pair.inside.counters().send_errors, 2, "after the one that found out");
    world.inside(&wire, "ip link set inside up");
    send(&mut pair).unwrap();
    assert_eq!(pair.inside.counters().send_errors, 2);
    world.inside(&wire, "ip link del inside");
    let mut lost = false;
    for second in 1..10 {
        let mut burst = Burst::new();
        lost |= pair.inside.receive(&mut pair.pool, &mut burst, Time(second * 1_000_000_000)).is_err();
    }
    assert!(lost);
    assert!(send(&mut pair).is_err());
    for port in [&mut pair.inside, &mut pair.outside] {
        port.close(&mut pair.pool);
    }
}

#[test]
fn memory_and_pool_must_belong_together() {
    let (_world, [_, wire, _]) = World::with_veths("mp");
    let (umem, _pool) = inside(&wire, || af_xdp::umem(FRAMES as u32, 2048).unwrap());
    let mut other = Pool::new(FRAMES, 2048);
    assert!(xdp(&wire, "inside").open_with(&umem, &mut other).is_err());
    assert_eq!(other.outstanding(), 0);
}
