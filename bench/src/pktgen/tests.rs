//! Both generators write the same frames, and what they write is right.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use control::lab::netns::{self, Namespace};
use dataplane::address::MacAddress;
use dataplane::rules::AddressSet;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::frame::{Layout, Stamp, payload};
use super::spec::*;
use super::station::Station;
use super::{device, generate};

struct Cable([Namespace; 2]);

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = netns::remove(&self.0);
    }
}

const RIGHT: MacAddress = MacAddress([2, 0x70, 0, 0, 0, 2]);

fn cable() -> Cable {
    let name = |side: &str| Namespace::named(format!("penstock-frames-{}-{side}", std::process::id()));
    let cable = Cable([name("l"), name("r")]);
    netns::create(&cable.0).expect("namespaces can be made (run as root)");
    let add = format!(
        "link add eth0 numrxqueues 1 numtxqueues 1 type veth peer name eth0 address {RIGHT} numrxqueues 1 numtxqueues 1 netns {}",
        cable.0[1].name()
    );
    cable.0[0].batch(&[add, "link set eth0 up".into()]).unwrap();
    cable.0[1].batch(&["link set eth0 up".into()]).unwrap();
    cable
}

/// What a generator sends into the cable: UDP and TCP frames, as they arrive.
fn capture(spec: &Spec, receiver: &mut Station) -> Vec<Vec<u8>> {
    let report = generate(spec, &AtomicBool::new(false)).unwrap();
    assert_eq!((report.offered, report.refused), (spec.limit.frames.unwrap(), 0));
    let (mut frames, start) = (Vec::new(), Instant::now());
    while (frames.len() as u64) < report.offered && start.elapsed() < Duration::from_secs(5) {
        receiver.receive(|frame| frames.extend(payload(frame.bytes()).map(|_| frame.bytes().to_vec()))).unwrap();
    }
    assert_eq!(frames.iter().map(Vec::len).sum::<usize>() as u64, report.bytes);
    frames
}

/// A frame with right checksums and lengths, and nothing behind its stamp.
fn assert_right(frame: &[u8], layout: Layout) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match (packet.net.as_ref().unwrap(), packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            assert_eq!(udp.checksum(), expected);
            assert_eq!(usize::from(udp.length()), udp.payload().len() + 8);
        }
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap());
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap());
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            assert_eq!(tcp.checksum(), tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap());
        }
        other => panic!("{other:?}"),
    }
    let tail = if layout.has_stamp { Stamp::LENGTH } else { 0 };
    assert!(frame[layout.payload() + tail..].iter().all(|byte| *byte == 0));
}

/// The frame without what differs from run to run: the time, and the checksum over it.
fn without_time(frame: &[u8], layout: Layout) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if layout.has_stamp {
        let checksum = layout.transport() + if layout.is_tcp { 16 } else { 6 };
        bytes[checksum..checksum + 2].fill(0);
        bytes[layout.payload() + 8..layout.payload() + 16].fill(0);
    }
    bytes
}

fn variants() -> Vec<(FrameShape, Flows)> {
    let ip = |text: &str| text.parse().unwrap();
    let v4 = Flows::between(ip("10.70.0.1"), ip("10.70.0.2"), 9, 1);
    let v6 = Flows { active: 50, ..Flows::between(ip("fd70::1"), ip("fd70::2"), 9, 1) };
    let many = Flows {
        pairs: Pairs::Ranges {
            source: ip("10.1.0.250"),
            sources: 20,
            destination: ip("10.2.0.0"),
            destinations: 3,
            destination_port: 80,
            destination_ports: 2,
        },
        active: 100_000,
        ..v4.clone()
    };
    let list = Pairs::List(
        (1..8).map(|n| Pair { source: ip("fd00::1"), destination: ip("fd00::2"), destination_port: n }).collect(),
    );
    let shape = |transport, sizes: &[u16], stamp| FrameShape { transport, sizes: sizes.to_vec(), stamp };
    vec![
        (shape(Transport::Udp, &[60], true), v4.clone()),
        (shape(Transport::Udp, &[60], false), many.clone()),
        (shape(Transport::TcpSyn, &[60], false), v4),
        (shape(Transport::TcpAck, &FrameShape::IMIX, true), Flows { order: Order::Uniform, seed: 9, ..many.clone() }),
        (shape(Transport::Udp, &[1514, 61, 300], true), Flows { order: Order::Zipf { exponent: 1.2 }, ..many.clone() }),
        (shape(Transport::Udp, &[60], true), v6.clone()),
        (shape(Transport::TcpSyn, &[60, 1500], true), Flows { reversed: true, groups: Some(4), ..v6.clone() }),
        (shape(Transport::Udp, &[90], true), Flows { pairs: list, active: 300, first: 451_580, ..v6 }),
        (shape(Transport::Udp, &[60], true), Flows { reversed: true, first: 77, ..many }),
    ]
}

#[test]
fn both_generators_write_the_same_right_frames() {
    let cable = cable();
    let mut receiver =
        device::within(Some(cable.0[1].name()), "eth0", || Station::open(PortChoice::AfXdp, "eth0", AddressSet::new()))
            .unwrap();
    for (frames, flows) in variants() {
        let spec = |port| Spec {
            port,
            interface: "eth0".into(),
            namespace: Some(cable.0[0].name().into()),
            cpu: None,
            destination_mac: Some(RIGHT),
            gateway: None,
            source_mac: None,
            frames: frames.clone(),
            flows: flows.clone(),
            rate: Rate::FramesPerSecond(20_000.0),
            limit: Limit::frames(200),
        };
        let is_v6 = matches!(&flows.pairs, Pairs::List(list) if list[0].source.is_ipv6());
        let layout = Layout { is_v6, is_tcp: frames.transport != Transport::Udp, has_stamp: frames.stamp };
        let live = capture(&spec(PortChoice::LiveFrames), &mut receiver);
        let socket = capture(&spec(PortChoice::AfPacket), &mut receiver);
        assert_eq!((live.len(), socket.len()), (200, 200), "{frames:?} {flows:?}");
        for (a, b) in live.iter().zip(&socket) {
            assert_right(a, layout);
            assert_right(b, layout);
            assert_eq!(without_time(a, layout), without_time(b, layout), "{frames:?} {flows:?}");
        }
    }
}

#[test]
fn a_spec_survives_being_written_down() {
    for (frames, flows) in variants() {
        let spec = Spec {
            port: PortChoice::AfXdp,
            interface: "eth0".into(),
            namespace: None,
            cpu: Some(1),
            destination_mac: Some(RIGHT),
            gateway: Some("10.0.0.1".parse().unwrap()),
            source_mac: None,
            frames,
            flows,
            rate: Rate::BitsPerSecond(1e9),
            limit: Limit::duration(Duration::from_secs(3)),
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }
}
