//! Loss, duplicates, reordering and delays that a device plants are counted exactly.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use penstock_bench::pktgen::{
    Flows, FrameShape, Limit, PortChoice, Progress, Rate, ReceiveChoice, ReceiveSpec, Spec, TrialSpec, trial,
};

use crate::cable::{Bench, RIGHT};
use crate::forwarder::{Fault, Forwarder};

fn spec(bench: &Bench, sink: ReceiveChoice, frames: u64) -> TrialSpec {
    let flows =
        Flows { groups: Some(1), ..Flows::between("10.70.0.1".parse().unwrap(), "10.70.0.2".parse().unwrap(), 9, 10) };
    let send = Spec {
        port: PortChoice::AfPacket,
        interface: "eth0".into(),
        namespace: Some(bench.left.name().into()),
        cpu: None,
        destination_mac: Some(RIGHT),
        gateway: None,
        source_mac: None,
        frames: FrameShape::udp(60),
        flows,
        rate: Rate::FramesPerSecond(5_000.0),
        limit: Limit::frames(frames),
    };
    let receive = ReceiveSpec {
        port: sink,
        interface: "eth0".into(),
        namespace: Some(bench.right.name().into()),
        stamped_only: true,
        latency: true,
        ..ReceiveSpec::default()
    };
    TrialSpec { send, receive, answer: false, settle: Duration::from_secs(1) }
}

#[test]
fn what_is_planted_is_counted() {
    let bench = Bench::new();
    for sink in [ReceiveChoice::Xdp, ReceiveChoice::AfXdp, ReceiveChoice::AfPacket] {
        let forwarder = Forwarder::start(&bench.middle, Fault::LoseDoubleSwap);
        let outcome = trial(&spec(&bench, sink, 5_000), &AtomicBool::new(false), &Progress::default()).unwrap();
        let planted = forwarder.end();
        assert_eq!((outcome.sent.offered, outcome.sent.refused, planted.seen), (5_000, 0, 5_000), "{sink:?}");
        assert!(planted.dropped > 40 && planted.doubled > 40 && planted.overtaken > 40, "{planted:?}");
        let received = outcome.received;
        let counted = (outcome.lost, received.duplicates, received.reordered, received.stale);
        assert_eq!(counted, (planted.dropped, planted.doubled, planted.overtaken, 0), "{sink:?} {planted:?}");
        assert_eq!(received.frames, 5_000 - planted.dropped + planted.doubled);
        assert_eq!(outcome.latency.unwrap().count, received.frames);
    }
}

/// A generator that waited for the device would send the frames of the stall later, and one of them would be slow. Here each of
/// them is as late as it is.
#[test]
fn a_stall_counts_for_every_frame_that_was_due_in_it() {
    let bench = Bench::new();
    for sink in [ReceiveChoice::Xdp, ReceiveChoice::AfPacket] {
        let time = Duration::from_millis(300);
        let forwarder = Forwarder::start(&bench.middle, Fault::Stall { after: 1_000, time });
        // Over 0.6 s; half of the frames are due in the stall, evenly over it.
        let outcome = trial(&spec(&bench, sink, 3_000), &AtomicBool::new(false), &Progress::default()).unwrap();
        forwarder.end();
        assert_eq!(outcome.lost, 0, "{sink:?}");
        let latency = outcome.latency.unwrap();
        assert!(latency.max >= 295_000_000 && latency.p90 >= 200_000_000, "{sink:?}: {latency}");
    }
}
