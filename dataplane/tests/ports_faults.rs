//! Ports at the edges: VLAN tags, frames that are too long, devices that go away, what cannot be opened, and a faulty wire that
//! TCP still gets through.

mod ports_support;

use std::time::Duration;

use dataplane::frame::{Burst, Checksum, Frame, Gso, GsoKind, VlanTag};
use dataplane::port::fault::{Fault, FaultPlan};
use dataplane::port::{OpenedPair, Pool, Port, PortError, PortKind, PortSpec, open_pair};
use dataplane::time::Time;
use ports_support::{Loop, World, transfer};

fn af_packet(namespace: &str, device: &str) -> PortSpec {
    PortSpec::new(PortKind::AfPacket, device).in_namespace(namespace)
}

fn send_one(port: &mut dyn Port, pool: &mut Pool, bytes: &[u8]) -> std::io::Result<usize> {
    let mut burst = Burst::new();
    burst.push(pool.frame(bytes).unwrap());
    let result = port.send(pool, &mut burst, Time::ZERO);
    let left = burst.len();
    burst.drain(..).for_each(|frame| pool.release(frame));
    result.map(|()| left)
}

/// A frame with the tag that was out of band.
type Tagged = (Option<(u16, u16)>, Vec<u8>);

/// Waits for frames to the address of this test.
fn receive_all(port: &mut dyn Port, pool: &mut Pool, wanted: usize) -> Vec<Tagged> {
    let mut found = Vec::new();
    for _ in 0..200 {
        let mut burst = Burst::new();
        port.receive(pool, &mut burst, Time::ZERO).unwrap();
        for frame in burst {
            if frame.bytes().starts_with(&[2, 0, 0, 0, 0, 9]) {
                found.push((frame.vlan.map(|tag| (tag.protocol, tag.control)), frame.bytes().to_vec()));
            }
            pool.release(frame);
        }
        if found.len() >= wanted {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    found
}

/// An Ethernet frame with tags in the bytes and an experimental EtherType.
fn tagged(tags: &[(u16, u16)], payload: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];
    for (protocol, control) in tags {
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend([0x88, 0xb5]);
    bytes.resize(bytes.len() + 46, payload);
    bytes
}

const TAGS: [&[(u16, u16)]; 5] =
    [&[], &[(0x8100, 5)], &[(0x8100, 0xe000)], &[(0x88a8, 0x3064), (0x8100, 7)], &[(0x8100, 1), (0x8100, 4095)]];

/// Sends tagged frames from the client through a wire of two ports to the server, and compares every byte.
fn tags_survive(test: &str, [first, second]: [PortKind; 2]) {
    let (_world, [client, wire, server]) = World::with_veths(test);
    let spec = |kind, device| PortSpec::new(kind, device).in_namespace(&wire);
    let running = Loop::start(open_pair(&spec(first, "inside"), &spec(second, "outside"), 1024).unwrap());
    let mut pool = Pool::new(128, 4096);
    let mut sender = af_packet(&client, "eth0").open().unwrap().port;
    let mut receiver = af_packet(&server, "eth0").open().unwrap().port;
    for (i, tags) in TAGS.iter().enumerate() {
        assert_eq!(send_one(&mut *sender, &mut pool, &tagged(tags, i as u8)).unwrap(), 0);
    }
    let found = receive_all(&mut *receiver, &mut pool, TAGS.len());
    assert_eq!(found.len(), TAGS.len());
    for (i, (tags, (vlan, bytes))) in TAGS.iter().zip(found).enumerate() {
        assert_eq!(vlan, tags.first().copied(), "the outermost tag, out of band");
        assert_eq!(bytes, tagged(tags.get(1..).unwrap_or(&[]), i as u8));
    }
    let seen = running.stop();
    if first == PortKind::AfPacket {
        assert_eq!(seen.tagged[0], 4, "{seen:?}");
    }
}

#[test]
fn vlan_tags_survive_af_packet() {
    tags_survive("vp", [PortKind::AfPacket; 2]);
}

#[test]
fn vlan_tags_survive_af_xdp() {
    tags_survive("vx", [PortKind::AfXdp; 2]);
}

#[test]
fn vlan_tags_survive_from_af_packet_to_af_xdp() {
    tags_survive("vm", [PortKind::AfPacket, PortKind::AfXdp]);
}

/// A frame in shared memory with all that AF_XDP cannot carry, at a place of its chunk that no descriptor names.
#[test]
fn metadata_is_written_into_frames_of_shared_memory() {
    let (_world, [_, wire, server]) = World::with_veths("sh");
    let xdp = |device| PortSpec::new(PortKind::AfXdp, device).in_namespace(&wire);
    let mut pair = open_pair(&xdp("inside"), &xdp("outside"), 1024).unwrap();
    let mut receiver = af_packet(&server, "eth0").open().unwrap().port;
    let mut pool = Pool::new(64, 4096);
    let mut bytes = tagged(&[], 0);
    bytes[20..22].copy_from_slice(&[0x12, 0x34]);
    for (tag, shift) in
        [(None, 0), (Some((0x8100, 77)), 0), (None, 31), (Some((0x88a8, 78)), 8), (Some((0x8100, 79)), -9)]
    {
        let mut chunk = pair.pool.take().unwrap();
        chunk.set_range((256i32 + shift) as usize, bytes.len());
        chunk.bytes_mut().copy_from_slice(&bytes);
        let mut frame = Frame::new(chunk);
        frame.vlan = tag.map(|(protocol, control)| VlanTag { protocol, control });
        frame.checksum = Checksum::Partial { start: 14, offset: 6 };
        let mut burst = Burst::new();
        burst.push(frame);
        pair.outside.send(&mut pair.pool, &mut burst, Time::ZERO).unwrap();
        assert!(burst.is_empty());
        let found = receive_all(&mut *receiver, &mut pool, 1);
        assert_eq!(found.len(), 1, "{tag:?} {shift}");
        let mut expected = bytes.clone();
        expected[20..22].copy_from_slice(&(!0x1234u16).to_be_bytes());
        assert_eq!(found[0], (tag, expected), "{shift}");
    }
    assert_eq!(pair.outside.counters().checksums_completed, 5);
    // A super-frame is refused, and nothing is lost.
    let mut frame = pair.pool.frame(&bytes).unwrap();
    frame.gso = Some(Gso { kind: GsoKind::TcpV4, size: 10, header_length: 54, ecn: false });
    let mut burst = Burst::new();
    burst.push(frame);
    pair.outside.send(&mut pair.pool, &mut burst, Time::ZERO).unwrap();
    assert!(burst.is_empty() && pair.outside.counters().send_errors == 1);
    for port in [&mut pair.inside, &mut pair.outside] {
        port.close(&mut pair.pool);
    }
    assert_eq!(pair.pool.outstanding(), 0);
}

#[test]
fn a_frame_longer_than_a_chunk_is_counted() {
    let (_world, [client, wire, _]) = World::with_veths("lg");
    let mut small = Pool::new(64, 1024);
    let mut large = Pool::new(4, 4096);
    let mut port = af_packet(&wire, "inside").open().unwrap().port;
    let mut sender = af_packet(&client, "eth0").open().unwrap().port;
    let mut long = tagged(&[], 1);
    long.resize(1500, 0);
    send_one(&mut *sender, &mut large, &long).unwrap();
    send_one(&mut *sender, &mut large, &tagged(&[], 2)).unwrap();
    let found = receive_all(&mut *port, &mut small, 1);
    assert_eq!(found.len(), 1, "the short one");
    assert_eq!(port.counters().receive_errors, 1);
    assert_eq!(small.outstanding(), 0);
    long.resize(1600, 0);
    assert_eq!(send_one(&mut *sender, &mut large, &long).unwrap(), 0, "beyond the MTU is refused for good");
    assert_eq!(sender.counters().send_errors, 1);
}

#[test]
fn a_lost_device_is_an_error_and_a_switched_off_one_is_not() {
    let (world, [_, wire, _]) = World::with_veths("ld");
    let mut pool = Pool::new(128, 4096);
    let tap = PortSpec::new(PortKind::Tap, "tap0").in_namespace(&wire);
    for (spec, device) in [(af_packet(&wire, "inside"), "inside"), (tap, "tap0")] {
        let mut port = spec.open().unwrap().port;
        world.inside(&wire, &format!("ip link set {device} down"));
        for _ in 0..2 {
            assert_eq!(send_one(&mut *port, &mut pool, &tagged(&[], 0)).unwrap(), 0, "{device}");
            port.receive(&mut pool, &mut Burst::new(), Time::ZERO).unwrap();
        }
        assert_eq!(port.counters().send_errors, 2, "{device}");
        world.inside(&wire, &format!("ip link set {device} up"));
        assert_eq!(send_one(&mut *port, &mut pool, &tagged(&[], 0)).unwrap(), 0);
        assert_eq!(port.counters().send_errors, 2, "{device}");
        world.inside(&wire, &format!("ip link del {device}"));
        assert!(port.receive(&mut pool, &mut Burst::new(), Time::ZERO).is_err(), "{device}");
        assert!(send_one(&mut *port, &mut pool, &tagged(&[], 0)).is_err(), "{device}");
        assert_eq!(pool.outstanding(), 0);
    }
}

#[test]
fn an_overflow_is_counted() {
    let (world, [client, wire, _]) = World::with_veths("of");
    let mut pool = Pool::new(64, 4096);
    let mut spec = af_packet(&wire, "inside");
    spec.options.af_packet.receive_buffer = 4096;
    let port = spec.open().unwrap().port;
    let tap = PortSpec::new(PortKind::Tap, "tap0").in_namespace(&client).open().unwrap().port;
    let mut to_veth = af_packet(&client, "eth0").open().unwrap().port;
    let mut to_tap = af_packet(&client, "tap0").open().unwrap().port;
    world.inside(&client, "ip link set tap0 txqueuelen 100");
    for _ in 0..300 {
        send_one(&mut *to_veth, &mut pool, &tagged(&[], 0)).unwrap();
        let _ = send_one(&mut *to_tap, &mut pool, &tagged(&[], 0)).unwrap();
    }
    let overflow = port.counters().receive_overflow;
    assert!((100..=300).contains(&overflow), "{overflow}");
    assert_eq!(port.counters().receive_overflow, overflow, "read twice, counted once");
    let overflow = tap.counters().receive_overflow;
    assert!((100..=300).contains(&overflow), "{overflow}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let (world, [client, wire, _]) = World::with_veths("er");
    let fails = |spec: PortSpec| spec.open().map(|_| ()).unwrap_err();
    let error = fails(af_packet(&wire, "nobody"));
    assert!(matches!(&error, PortError::NoSuchDevice { .. }) && error.to_string().contains(&wire), "{error}");
    let error = fails(af_packet("no-such-namespace", "eth0"));
    assert!(matches!(error, PortError::NoSuchNamespace { .. }), "{error}");
    for name in ["", "a name", "much-too-long-a-name", "a/b", ".."] {
        assert!(matches!(fails(af_packet(&wire, name)), PortError::BadName { .. }), "{name:?}");
    }
    let tap = |device: &str| PortSpec::new(PortKind::Tap, device).in_namespace(&wire);
    let first = tap("tap0").open().unwrap();
    for taken in ["tap0", "inside"] {
        assert!(matches!(fails(tap(taken)), PortError::DeviceExists { .. }), "{taken}");
    }
    drop(first);
    drop(tap("tap0").open().unwrap());
    world.inside(&client, "ip link add name tun0 type veth peer name tun1");
    let tun = PortSpec::new(PortKind::Tun, "tun2").in_namespace(&client);
    let error = open_pair(&tun, &af_packet(&wire, "inside"), 16).map(|_| ()).unwrap_err();
    assert!(matches!(error, PortError::Mismatch { .. }), "{error}");
    assert!(!world.inside(&client, "ip -o link").contains("tun2"), "nothing is left behind");
}

/// Opening as a process without privileges, in a namespace of which it may know.
#[test]
fn a_missing_capability_is_named() {
    let (_world, [_, wire, _]) = World::with_veths("cp");
    let specs = [PortKind::AfPacket, PortKind::AfXdp, PortKind::Tap].map(|kind| {
        let device = if kind == PortKind::Tap { "tap0" } else { "inside" };
        PortSpec::new(kind, device)
    });
    let errors = ports_support::inside(&wire, || {
        rustix::thread::set_capabilities(
            None,
            rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            },
        )
        .unwrap();
        specs.map(|spec| spec.open().map(|_| ()).unwrap_err())
    });
    for error in errors {
        assert!(matches!(error, PortError::Permission { .. }) && error.is_system_refusal(), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_"), "{error}");
    }
}

#[test]
fn tcp_gets_through_a_faulty_wire() {
    let (_world, [client, wire, server]) = World::with_veths("ft");
    let pair = open_pair(&af_packet(&wire, "inside"), &af_packet(&wire, "outside"), 512).unwrap();
    let plan = FaultPlan {
        drop: 0.01,
        duplicate: 0.02,
        reorder: 0.05,
        truncate: 0.002,
        corrupt: 0.0,
        stall: 0.001,
        stall_time: Duration::from_millis(5),
    };
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let [inside, outside] =
        [(pair.inside, seed), (pair.outside, seed + 1)].map(|(port, seed)| Fault::new(port, plan, seed).unwrap());
    let counts = [inside.counts(), outside.counts()];
    let faulty =
        OpenedPair { inside: Box::new(inside), outside: Box::new(outside), pool: pair.pool, warnings: pair.warnings };
    let running = Loop::start(faulty);
    for address in ["10.9.0.2", "fd09::2"] {
        transfer(&client, &server, address, 300_000);
    }
    running.stop();
    let total: u64 = counts.iter().map(|c| c.reordered.load(std::sync::atomic::Ordering::Relaxed)).sum();
    assert!(total > 0);
}

#[test]
fn a_device_is_the_port_of_one_wire_however_its_namespace_is_spelled() {
    let (_world, [_, wires, _]) = World::with_veths("claim");
    let one = af_packet(&wires, "inside").open().unwrap();
    let spelled = format!("/run/netns/{wires}");
    for other in [af_packet(&spelled, "inside"), PortSpec::new(PortKind::AfXdp, "inside").in_namespace(&wires)] {
        let refused = other.open().err().expect("another port has it");
        assert!(matches!(refused, PortError::Claimed { .. }) && refused.is_system_refusal(), "{refused}");
        assert!(refused.to_string().contains("inside is already the port of a wire of this process"), "{refused}");
    }
    af_packet(&wires, "outside").open().expect("another device is another matter");
    drop(one);
    af_packet(&spelled, "inside").open().expect("it is free again");
}
