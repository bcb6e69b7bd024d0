//! What a generator of frames cannot bring about: full tables, policy that changes, questions, ports that are full, narrow
//! or gone.

use std::sync::Arc;

use dataplane::flow::FlowConfig;
use dataplane::frame::{Checksum, Gso, GsoKind};
use dataplane::frontend::{Backend, Frontend, FrontendChange, Place};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::Direction::{Egress, Ingress};
use dataplane::packet::{Protocol, TcpFlags};
use dataplane::port::{Capabilities, MemoryPort, SentFrame};
use dataplane::publish::Change;
use dataplane::rules::list::{ListRule, RuleList};
use dataplane::rules::{Action, Policy, RejectWith, RuleId, WireId, WireRules};
use dataplane::stats::WireStats;
use dataplane::testing::FrameBuilder;
use dataplane::verdict::DropReason;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{ASK_TIMEOUT, Answer, Finding};

use crate::Drops;
use crate::lanes;
use crate::port::FixedPort;
use crate::support::{Harness, INSIDE, OUTSIDE, POD, WIRE, address, chain, rule};

const PEER: &str = "10.9.9.9";
const TIMES: u16 = 120;

/// Runs them all; what was dropped.
pub(crate) fn all() -> Drops {
    let mut drops = Drops::none();
    for scenario in [
        closed,
        full,
        quota,
        cut,
        asked,
        not_known,
        services,
        rejected,
        timed_out,
        too_many_questions,
        no_room,
        others_are_slow,
        metadata,
        narrow,
        storm,
        resets,
        doubles,
    ] {
        drops.add(&scenario());
    }
    drops.add(&gone());
    drops
}

fn drops(wire: &Harness, direction: dataplane::packet::Direction, reason: DropReason) -> u64 {
    wire.stats.direction(direction).dropped(reason).get()
}

fn closed() -> Arc<WireStats> {
    let mut wire = Harness::new(None, FlowConfig::default(), 64);
    for port in 1000..1000 + TIMES {
        let frame = wire.from_pod(PEER).udp(port, 53).build();
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::WireClosed));
    }
    wire.stats.clone()
}

/// A TCP connection from the pod, established.
fn connect(wire: &mut Harness, port: u16) {
    const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
    let syn = wire.from_pod(PEER).tcp(port, 80, TcpFlags::SYN).window(65_000).build();
    let syn_ack = wire.to_pod(PEER).tcp(80, port, SYN_ACK).sequence(9).acknowledgement(1).window(65_000).build();
    assert_eq!(wire.crosses(Egress, syn), Ok(()));
    assert_eq!(wire.crosses(Ingress, syn_ack), Ok(()));
    assert_eq!(wire.crosses(Egress, data(wire, port)), Ok(()));
}

fn data(wire: &Harness, port: u16) -> Vec<u8> {
    wire.from_pod(PEER).tcp(port, 80, TcpFlags::ACK).sequence(1).acknowledgement(10).window(65_000).build()
}

/// A table of established connections takes no new ones, and they go on.
fn crowded(config: FlowConfig, capacity: usize, reason: DropReason) -> Arc<WireStats> {
    let endpoint = Endpoint { mac: Some(INSIDE), addresses: vec![address(POD)] };
    let mut wire = Harness::new(Some(endpoint), config, capacity);
    wire.policy(Policy::Open, Policy::Open);
    for port in 1..=8 {
        connect(&mut wire, port);
    }
    for port in 1000..1000 + TIMES {
        let frame = wire.from_pod(PEER).tcp(port, 80, TcpFlags::SYN).build();
        assert_eq!(wire.crosses(Egress, frame), Err(reason));
        let established = data(&wire, port % 8 + 1);
        assert_eq!(wire.crosses(Egress, established), Ok(()));
    }
    wire.stats.clone()
}

fn full() -> Arc<WireStats> {
    crowded(FlowConfig::default(), 8, DropReason::FlowTableFull)
}

fn quota() -> Arc<WireStats> {
    crowded(FlowConfig { wire_quota: 8, ..FlowConfig::default() }, 64, DropReason::FlowQuota)
}

/// What rules reject.
fn rejected() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    let with = RejectWith::Icmp { kind: 3, code: 13 };
    let rule = ListRule::of_everything(Action::Reject(with), RuleId(1));
    let list = RuleList::new(&[rule], Action::Deny).expect("a rule");
    wire.policy(Policy::List(Arc::new(list)), Policy::Open);
    for port in 1000..1000 + TIMES {
        let frame = wire.from_pod(PEER).udp(port, 53).build();
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::PolicyRejected));
        wire.inside.drain();
    }
    wire.stats.clone()
}

/// What policy cuts stays cut.
fn cut() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    for port in 1000..1000 + TIMES {
        connect(&mut wire, port);
    }
    wire.policy(chain(vec![], Action::Deny), Policy::Open);
    for port in 1000..1000 + TIMES {
        let frame = data(&wire, port);
        assert_eq!(wire.crosses(Egress, frame.clone()), Err(DropReason::PolicyDenied));
        wire.policy(Policy::Open, Policy::Open);
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::FlowCut));
        wire.policy(chain(vec![], Action::Deny), Policy::Open);
    }
    assert_eq!(wire.stats.direction(Egress).rejudged.get(), 2 * u64::from(TIMES), "each flow, at each change");
    wire.stats.clone()
}

/// A wire whose peers are asked about.
fn asking(questions: u16) -> Harness {
    let mut wire = Harness::pod();
    wire.policy(Policy::Open, chain(vec![rule(1, Action::Ask(0), &[], None)], Action::Deny));
    for port in 1000..1000 + questions {
        let frame = wire.to_pod(PEER).udp(port, 53).build();
        assert!(wire.receives(frame).is_empty());
    }
    wire
}

fn asked() -> Arc<WireStats> {
    let mut wire = asking(TIMES);
    while let Some(question) = wire.ask.question() {
        wire.ask.answer(Answer { ticket: question.ticket, finding: Finding::Deny });
    }
    wire.worker.housekeeping(wire.now);
    assert_eq!(drops(&wire, Ingress, DropReason::AskDenied), u64::from(TIMES));
    wire.stats.clone()
}

/// Nobody knows whom they stand for.
fn not_known() -> Arc<WireStats> {
    let mut wire = asking(TIMES);
    while let Some(question) = wire.ask.question() {
        wire.ask.answer(Answer { ticket: question.ticket, finding: Finding::Unknown });
    }
    wire.worker.housekeeping(wire.now);
    assert_eq!(drops(&wire, Ingress, DropReason::AskUnknown), u64::from(TIMES));
    wire.stats.clone()
}

/// Services of which policy allows no backend, and one of two, and another node.
fn services() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    let service = |port| Frontend { place: Place::Address(address(PEER)), protocol: Protocol::UDP, port };
    let backends = |list: &[&str]| list.iter().map(|text| Backend { address: address(text), port: 53 }).collect();
    let set = vec![(service(53), backends(&["10.1.1.1"])), (service(54), backends(&["10.1.1.1", "10.1.1.2"]))];
    let frontends = FrontendChange { set, hosts: Some([address("10.2.2.2")].into()), ..FrontendChange::default() };
    let egress = chain(vec![rule(1, Action::Allow, &["10.1.1.2/32"], None)], Action::Deny);
    let wires = vec![WireRules { wire: WIRE, egress, ingress: chain(vec![], Action::Deny) }];
    wire.publisher.change(&Change { whole: true, wires, frontends, ..Change::default() }).expect("it compiles");
    for port in 1000..1000 + TIMES {
        let frame = wire.from_pod(PEER).udp(port, 53).build();
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::ServiceDenied));
        let frame = wire.from_pod(PEER).udp(port, 54).build();
        assert!(wire.sends(frame).is_empty());
        let ticket = wire.ask.question().expect("which one is asked").ticket;
        wire.ask.answer(Answer { ticket, finding: Finding::Unknown });
        wire.worker.housekeeping(wire.now);
        let frame = wire.to_pod("10.2.2.2").udp(port, 53).build();
        assert_eq!(wire.crosses(Ingress, frame), Err(DropReason::OtherNode));
    }
    assert_eq!(drops(&wire, Egress, DropReason::ServiceMixed), u64::from(TIMES));
    wire.stats.clone()
}

fn timed_out() -> Arc<WireStats> {
    let mut wire = asking(TIMES);
    wire.pass(ASK_TIMEOUT);
    assert_eq!(drops(&wire, Ingress, DropReason::AskTimeout), u64::from(TIMES));
    wire.stats.clone()
}

fn too_many_questions() -> Arc<WireStats> {
    let spaces = dataplane::worker::PARKING_SPACES as u16;
    let wire = asking(spaces + TIMES);
    assert_eq!(drops(&wire, Ingress, DropReason::AskQueueFull), u64::from(TIMES));
    wire.stats.clone()
}

fn no_room() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    wire.outside.limit_room(Some(0));
    for port in 1000..1000 + TIMES {
        let frame = wire.from_pod(PEER).udp(port, 53).build();
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::PortOverflow));
    }
    wire.stats.clone()
}

/// The other worker of a wire comes to judge nothing of what is its.
fn others_are_slow() -> Arc<WireStats> {
    let mut wire = lanes::Wire::new(2, None, &FlowConfig::default(), Tracking::Stateful);
    wire.policy(Policy::Open, Policy::Open);
    for port in 1..3_000 {
        let frame = FrameBuilder::new().ethernet(INSIDE, OUTSIDE).ip(POD, PEER).udp(port, 53).build();
        wire.lanes[0].links[0].inject(frame);
        wire.lanes[0].worker.poll(wire.now);
    }
    assert!(wire.dropped(Egress, DropReason::HandOffFull) >= u64::from(TIMES));
    let stats = wire.lanes[0].stats.clone();
    assert_eq!(wire.close(), 0);
    stats
}

/// Checksum and segmentation that point outside of the frame.
fn metadata() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    let bytes = wire.from_pod(PEER).udp(1, 53).payload(&[0; 10]).build();
    let length = bytes.len() as u16;
    let with = |checksum, gso| SentFrame { checksum, gso, ..SentFrame::from(bytes.clone()) };
    let endless = Gso { kind: GsoKind::UdpL4, size: 0, header_length: 42, ecn: false };
    for n in 0..TIMES {
        let frame = match n % 3 {
            0 => with(Checksum::Partial { start: 34, offset: length - 35 }, None),
            1 => with(Checksum::Partial { start: u16::MAX, offset: u16::MAX }, None),
            _ => with(Checksum::Valid, Some(endless)),
        };
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::ChecksumMetadata));
    }
    let fits = with(Checksum::Partial { start: 34, offset: length - 36 }, None);
    assert_eq!(wire.crosses(Egress, fits), Ok(()));
    wire.stats.clone()
}

/// A pod behind a port that carries short frames only.
fn narrow() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    let (inside, near) = MemoryPort::new("wide");
    let short = Capabilities {
        gso: false,
        partial_checksum: true,
        multi_segment: false,
        vlan: true,
        ethernet: true,
        max_frame: 200,
    };
    let (outside, _far) = MemoryPort::with_capabilities("narrow", short);
    attach(&mut wire, Box::new(inside), Box::new(outside));
    for n in 1000..1000 + TIMES {
        let frame = |length: usize| SentFrame::from(wire.from_pod(PEER).udp(n, 53).payload(&vec![0; length]).build());
        let gso = Gso { kind: GsoKind::UdpL4, size: 50, header_length: 42, ecn: false };
        near.inject(frame(200));
        near.inject(SentFrame { gso: Some(gso), ..frame(100) });
        near.inject(frame(158));
        wire.worker.poll(wire.now);
    }
    let stats = wire.stats.clone();
    let dropped = |reason| stats.direction(Egress).dropped(reason).get();
    assert_eq!(dropped(DropReason::FrameTooLong), u64::from(TIMES));
    assert_eq!(dropped(DropReason::GsoUnsupported), u64::from(TIMES));
    assert_eq!(stats.direction(Egress).forwarded.get(), u64::from(TIMES));
    stats
}

/// Replaces the harness's wire by one with these ports.
fn attach(wire: &mut Harness, inside: Box<dyn dataplane::port::Port>, outside: Box<dyn dataplane::port::Port>) {
    assert!(wire.worker.detach(WIRE));
    wire.stats = Arc::new(WireStats::default());
    let (endpoint, permissions, tracking) = (None, Permissions::GATEWAY, Tracking::Stateful);
    let stats = wire.stats.clone();
    let setup = WireSetup { id: WIRE, inside, outside, endpoint, permissions, tracking, pool: None, stats };
    wire.worker.attach(setup).expect("the ports fit together");
}

/// More broadcasts at one moment than a second's worth.
fn storm() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    let mut refused = 0;
    for _ in 0..1000 + TIMES {
        let question = wire.from_pod(PEER).ethernet(INSIDE, dataplane::address::MacAddress::BROADCAST);
        let question = question.arp(1, (INSIDE, address(POD)), (OUTSIDE, address(PEER))).build();
        refused += u16::from(wire.crosses(Egress, question) == Err(DropReason::GroupRateLimit));
    }
    assert_eq!(refused, TIMES);
    wire.stats.clone()
}

/// Resets whose sequence numbers are guessed.
fn resets() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    connect(&mut wire, 1000);
    for n in 1..=u32::from(TIMES) {
        let guess = wire.to_pod(PEER).tcp(80, 1000, TcpFlags::RST).sequence(10 + n * 10_000_000).build();
        assert_eq!(wire.crosses(Ingress, guess), Err(DropReason::TcpResetInvalid));
    }
    let frame = data(&wire, 1000);
    assert_eq!(wire.crosses(Egress, frame), Ok(()), "the connection lives");
    wire.stats.clone()
}

/// Pieces of a datagram that come twice.
fn doubles() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    for id in 0..u32::from(TIMES) {
        let pieces = wire.to_pod(PEER).udp(1000, 53).payload(&[3; 4000]).id(id).fragments(1400);
        assert_eq!(wire.crosses(Ingress, pieces[0].clone()), Ok(()));
        assert_eq!(wire.crosses(Ingress, pieces[1].clone()), Ok(()));
        assert_eq!(wire.crosses(Ingress, pieces[1].clone()), Err(DropReason::FragmentDuplicate));
        assert_eq!(wire.crosses(Ingress, pieces[2].clone()), Ok(()));
    }
    wire.stats.clone()
}

/// The device of the other port goes away.
fn gone() -> Arc<WireStats> {
    let mut wire = Harness::pod();
    let (inside, near) = FixedPort::new(true);
    let (outside, far) = FixedPort::new(true);
    attach(&mut wire, Box::new(inside), Box::new(outside));
    far.break_down();
    for port in 1000..1000 + TIMES {
        near.inject(&SentFrame::from(wire.from_pod(PEER).udp(port, 53).build()));
        wire.worker.poll(wire.now);
    }
    assert_eq!(drops(&wire, Egress, DropReason::PortUnavailable), u64::from(TIMES));
    assert!(
        std::iter::from_fn(|| wire.events.take())
            .any(|event| matches!(event, dataplane::event::Event::PortLost { wire: WireId(7), side: Ingress, .. }))
    );
    wire.stats.clone()
}
