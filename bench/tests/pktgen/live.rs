//! Live frames into the counting sink.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use penstock_bench::pktgen::{
    Flows, FrameShape, Limit, Order, Pairs, PortChoice, Rate, Sink, SinkSpec, Spec, Transport, generate,
};

use crate::cable::{Cable, RIGHT};

fn spec(cable: &Cable) -> Spec {
    Spec {
        port: PortChoice::LiveFrames,
        interface: "eth0".into(),
        namespace: Some(cable.left.name().into()),
        cpu: None,
        destination_mac: Some(RIGHT),
        gateway: None,
        source_mac: None,
        frames: FrameShape::udp(60),
        flows: Flows::between("10.70.0.1".parse().unwrap(), "10.70.0.2".parse().unwrap(), 9, 1),
        rate: Rate::FramesPerSecond(50_000.0),
        limit: Limit::frames(10_000),
    }
}

fn sink(cable: &Cable) -> Sink {
    let spec = SinkSpec { interface: "eth0".into(), namespace: Some(cable.right.name().into()), ..SinkSpec::default() };
    Sink::open(spec).unwrap()
}

#[test]
fn what_is_sent_is_what_is_counted() {
    let cable = Cable::new();
    let mut sink = sink(&cable);
    let v6 = Flows::between("fd70::1".parse().unwrap(), "fd70::2".parse().unwrap(), 9, 100);
    let many = Flows {
        pairs: Pairs::Ranges {
            source: "10.1.0.0".parse().unwrap(),
            sources: 200,
            destination: "10.2.0.0".parse().unwrap(),
            destinations: 3,
            destination_port: 80,
            destination_ports: 2,
        },
        active: 1_000_000,
        order: Order::Zipf { exponent: 1.0 },
        ..Flows::between("10.70.0.1".parse().unwrap(), "10.70.0.2".parse().unwrap(), 9, 1)
    };
    let imix = FrameShape { sizes: FrameShape::IMIX.to_vec(), ..FrameShape::udp(60) };
    let tcp = FrameShape { transport: Transport::TcpSyn, ..FrameShape::udp(60) };
    let spec = spec(&cable);
    let specs = [
        spec.clone(),
        Spec { flows: v6.clone(), ..spec.clone() },
        Spec { flows: Flows { order: Order::Uniform, reversed: true, ..v6 }, frames: tcp.clone(), ..spec.clone() },
        Spec { flows: many, frames: imix, ..spec.clone() },
        Spec { frames: tcp, ..spec },
    ];
    for spec in specs {
        sink.restart().unwrap();
        let before = sink.counters().unwrap();
        let report = generate(&spec, &AtomicBool::new(false)).unwrap();
        let counted = sink.counters().unwrap() - before;
        assert_eq!((report.offered, report.refused), (10_000, 0), "{spec:?}");
        assert_eq!((counted.frames, counted.stamped, counted.bytes), (10_000, 10_000, report.bytes), "{spec:?}");
        assert_eq!((counted.reordered, counted.duplicates, counted.stale), (0, 0, 0), "{spec:?}");
    }
}

#[test]
fn a_generator_ends_at_its_time_and_when_it_is_stopped() {
    let cable = Cable::new();
    let _sink = sink(&cable);
    let timed = Spec { limit: Limit::duration(Duration::from_millis(200)), ..spec(&cable) };
    assert_eq!(generate(&timed, &AtomicBool::new(false)).unwrap().offered, 10_000);
    let endless = Spec { limit: Limit::default(), rate: Rate::FlatOut, ..spec(&cable) };
    assert_eq!(generate(&endless, &AtomicBool::new(true)).unwrap().offered, 0);
}
