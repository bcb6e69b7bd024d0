//! A look at whether this machine can do what the other commands need: every port over a veth pair in namespaces of its own.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use control::lab::netns::{self, Namespace};

use crate::pktgen::{
    Error, Flows, FrameShape, Limit, PortChoice, Progress, Rate, ReceiveChoice, ReceiveSpec, Scaled, Spec, TrialSpec,
    trial,
};

/// Two namespaces and the cable between them, removed when dropped.
struct Cable([Namespace; 2]);

impl Cable {
    fn new() -> Result<Self, Error> {
        let name = |side: &str| Namespace::named(format!("penstock-selftest-{}-{side}", std::process::id()));
        let cable = Cable([name("a"), name("b")]);
        let fail = |error: control::lab::LabError| Error::Namespaces(error.to_string());
        netns::create(&cable.0).map_err(fail)?;
        let [left, right] = &cable.0;
        let add = format!(
            "link add eth0 numrxqueues 1 numtxqueues 1 type veth peer name eth0 numrxqueues 1 numtxqueues 1 netns {}",
            right.name()
        );
        left.batch(&[add, "link set eth0 up".into()]).map_err(fail)?;
        right.batch(&["link set eth0 up".into()]).map_err(fail)?;
        Ok(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = netns::remove(&self.0);
    }
}

/// Sends over every pair of ports and tells what came. Answers whether all did.
pub(super) fn run(stop: &AtomicBool) -> Result<bool, Error> {
    let cable = Cable::new()?;
    let mut all = true;
    for port in [PortChoice::LiveFrames, PortChoice::AfXdp, PortChoice::AfPacket] {
        for (sink, name) in
            [(ReceiveChoice::Xdp, "xdp"), (ReceiveChoice::AfXdp, "af-xdp"), (ReceiveChoice::AfPacket, "af-packet")]
        {
            let title = format!("{:>11} to {name:<9}", port.name());
            if port == PortChoice::LiveFrames && sink == ReceiveChoice::AfPacket {
                println!("{title}  left out: the far end of a veth needs an XDP program to take live frames");
                continue;
            }
            match trial(&spec(&cable, port, sink), stop, &Progress::default()) {
                Ok(outcome) => {
                    let passed =
                        outcome.lost == 0 && outcome.received.reordered == 0 && outcome.received.duplicates == 0;
                    all &= passed;
                    println!(
                        "{title}  {}: {} sent, {} received at {}frames/s",
                        if passed { "ok" } else { "FAILED" },
                        outcome.sent.offered,
                        outcome.received.frames,
                        Scaled(outcome.sent.offered_per_second()),
                    );
                }
                Err(error) => {
                    all = false;
                    println!("{title}  FAILED: {error}");
                }
            }
        }
    }
    Ok(all)
}

/// A thousand frames, few at a time, between addresses that no interface has, so that neighbours are asked and answered too.
fn spec(cable: &Cable, port: PortChoice, sink: ReceiveChoice) -> TrialSpec {
    let [left, right] = &cable.0;
    let to = "198.18.1.1".parse().expect("an address");
    let flows = Flows::between("198.18.0.1".parse().expect("an address"), to, 9, 64);
    let send = Spec {
        port,
        interface: "eth0".into(),
        namespace: Some(left.name().into()),
        cpu: None,
        destination_mac: None,
        gateway: None,
        source_mac: None,
        frames: FrameShape::udp(60),
        flows,
        rate: Rate::FramesPerSecond(2_000.0),
        limit: Limit::frames(1_000),
    };
    let receive = ReceiveSpec {
        port: sink,
        interface: "eth0".into(),
        namespace: Some(right.name().into()),
        stamped_only: true,
        answer: vec![(to, to)],
        ..ReceiveSpec::default()
    };
    TrialSpec { send, receive, answer: true, settle: Duration::from_millis(500) }
}
