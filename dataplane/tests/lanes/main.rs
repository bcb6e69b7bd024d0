//! A wire over several workers: each flow has one owner, whatever queues its frames come by, and the wire decides as one with
//! a single worker does.

#[path = "../support/mod.rs"]
mod support;

#[path = "../million/policies.rs"]
mod policies;

mod wire;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dataplane::event::Event;
use dataplane::flow::{FlowConfig, MidStream};
use dataplane::packet::{Direction, Protocol};
use dataplane::parse::Medium;
use dataplane::port::SentFrame;
use dataplane::rules::{Action, Chain, Peers, Policy, PortRange, Rule, RuleId, Services, Tier};
use dataplane::stats::{Counter, DirectionStats};
use dataplane::testing::{FrameBuilder, Generator, endpoint};
use dataplane::verdict::DropReason;
use dataplane::wire::Tracking;
use dataplane::worker::{Answer, Finding, Question};
use etherparse::{LaxNetSlice, LaxSlicedPacket};

use support::{INSIDE, OUTSIDE, allow, chain, rule};
use wire::Wire;

use Direction::{Egress, Ingress};

fn gateway(lanes: usize) -> Wire {
    Wire::new(lanes, None, &FlowConfig::default(), Tracking::Stateful)
}

fn deny() -> Policy {
    chain(Vec::new(), Action::Deny)
}

fn udp(from: &str, to: &str, ports: (u16, u16)) -> FrameBuilder {
    FrameBuilder::new().ethernet(INSIDE, OUTSIDE).ip(from, to).udp(ports.0, ports.1)
}

#[test]
fn replies_pass_by_state_whatever_queue_they_come_by() {
    let mut wire = gateway(2);
    wire.policy(allow(&[], Some((Protocol::UDP, 53))), deny());
    let (mut moved, count) = (0, 200);
    for port in 0..count {
        let (arrives, replies) = (usize::from(port) % 2, usize::from(port) / 2 % 2);
        let asks = udp("10.0.0.1", "10.9.0.1", (10_000 + port, 53)).build();
        let answers = udp("10.9.0.1", "10.0.0.1", (53, 10_000 + port)).build();
        assert!(wire.crosses(replies, Ingress, answers.clone()).is_empty(), "nobody has asked yet");
        let before = wire.count(Egress, |stats| &stats.handed_over);
        let out = wire.crosses(arrives, Egress, asks.clone());
        assert_eq!(out, [(arrives, SentFrame::from(asks))], "it leaves by the lane that it came by, as it came");
        moved += wire.count(Egress, |stats| &stats.handed_over) - before;
        let out = wire.crosses(replies, Ingress, answers.clone());
        assert_eq!(out, [(replies, SentFrame::from(answers))]);
    }
    let count = u64::from(count);
    assert!((count / 4..count * 3 / 4).contains(&moved), "about half of the flows are the other lane's: {moved}");
    assert_eq!(wire.flows().len() as u64, count, "each flow is known once");
    assert_eq!(wire.lanes.iter().map(|lane| lane.stats.flows.get()).sum::<u64>(), count);
    let counted = |direction, pick: fn(&DirectionStats) -> &Counter| wire.count(direction, pick);
    assert_eq!((counted(Egress, |it| &it.received), counted(Egress, |it| &it.forwarded)), (count, count));
    assert_eq!((counted(Ingress, |it| &it.received), counted(Ingress, |it| &it.forwarded)), (2 * count, count));
    assert_eq!(wire.dropped(Ingress, DropReason::PolicyDenied), count);
    assert_eq!(wire.close(), 0);
}

#[test]
fn more_than_a_lane_may_have_away_is_dropped_and_counted() {
    let mut wire = gateway(2);
    wire.policy(Policy::Open, Policy::Open);
    // A flow of the other lane, whose worker does not come to judge it.
    let is_others = |wire: &mut Wire, port| {
        let before = wire.count(Egress, |stats| &stats.handed_over);
        assert_eq!(wire.crosses(0, Egress, udp("10.0.0.1", "10.9.0.1", (port, 7)).build()).len(), 1);
        wire.count(Egress, |stats| &stats.handed_over) > before
    };
    let port = (1..100).find(|&port| is_others(&mut wire, port)).expect("half of the flows are");
    let earlier = wire.count(Egress, |stats| &stats.forwarded);
    for _ in 0..1_000 {
        wire.lanes[0].links[0].inject(udp("10.0.0.1", "10.9.0.1", (port, 7)).build());
        wire.lanes[0].worker.poll(wire.now);
    }
    assert_eq!(wire.dropped(Egress, DropReason::HandOffFull), 1_000 - 512);
    assert!(wire.drain(Egress).is_empty());
    wire.settle();
    assert_eq!(wire.drain(Egress).len(), 512, "what was taken is judged");
    assert_eq!(wire.count(Egress, |stats| &stats.forwarded), earlier + 512);
    assert_eq!(wire.crosses(0, Egress, udp("10.0.0.1", "10.9.0.1", (port, 7)).build()).len(), 1, "there is room again");
    let full =
        |event| matches!(event, Event::Dropped(it) if it.reason == DropReason::HandOffFull && it.tuple.is_some());
    let events = std::iter::from_fn(|| wire.lanes[0].events.take());
    assert_eq!(events.filter(|&event| full(event)).count(), 1_000 - 512);
    assert_eq!(wire.close(), 0);
}

#[test]
fn a_verdict_that_policy_has_overtaken_is_not_followed() {
    let mut wire = gateway(2);
    wire.policy(Policy::Open, Policy::Open);
    for port in 1..=40 {
        wire.lanes[0].links[0].inject(udp("10.0.0.1", "10.9.0.1", (port, 7)).build());
    }
    wire.lanes[0].worker.poll(wire.now);
    wire.lanes[1].worker.poll(wire.now);
    let own = wire.drain(Egress).len() as u64;
    let moved = wire.count(Egress, |stats| &stats.handed_over);
    assert!(own + moved == 40 && moved > 5, "{own} and {moved}");
    // The other lane has judged them by the policy before, and they are on their way home.
    wire.policy(deny(), Policy::Open);
    wire.settle();
    assert!(wire.drain(Egress).is_empty());
    assert_eq!(wire.dropped(Egress, DropReason::PolicyDenied), moved);
    assert_eq!(wire.count(Egress, |stats| &stats.forwarded), own);
    assert_eq!(wire.close(), 0);
}

#[test]
fn closing_finds_the_memory_of_frames_that_are_elsewhere() {
    for polls in 0..4 {
        let mut wire = gateway(3);
        let ask = chain(vec![rule(1, Action::Ask(1), &[], Some((Protocol::UDP, 7)))], Action::Allow);
        wire.policy(ask, Policy::Open);
        for port in 1..=100 {
            let lane = &wire.lanes[usize::from(port) % 3];
            lane.links[0].inject(udp("10.0.0.1", "10.9.0.1", (port, 7 + port % 2)).build());
            // The last fragment of a datagram whose first never comes is held by the lane of its addresses.
            let to = format!("10.9.0.{port}");
            lane.links[0].inject(
                FrameBuilder::new()
                    .ethernet(INSIDE, OUTSIDE)
                    .ip("10.0.0.1", &to)
                    .udp(port, 9)
                    .payload(&[1; 2000])
                    .fragments(1000)
                    .remove(1),
            );
        }
        for _ in 0..polls {
            wire.lanes.iter_mut().for_each(|lane| {
                lane.worker.poll(wire.now);
            });
        }
        assert_eq!(wire.close(), 0, "after {polls} polls");
    }
}

/// Asks about the datagrams to some ports, before anything else is looked at.
fn asking(policy: Policy) -> Policy {
    let Policy::Chain(compiled) = policy else { return policy };
    let services = Services::Ports(vec![PortRange { protocol: Protocol::UDP, first: 1, last: 3_000 }]);
    let rule = Rule { action: Action::Ask(3), log: true, peers: Peers::Any, services, id: RuleId(9_999) };
    let ask = Tier { rules: vec![rule], default: Action::Pass };
    Policy::Chain(Arc::new(Chain { tiers: std::iter::once(ask).chain(compiled.tiers.iter().cloned()).collect() }))
}

/// All that can be seen of a wire after some frames, in no order.
#[derive(Debug, PartialEq)]
struct Seen {
    out: [Vec<String>; 2],
    traces: Vec<String>,
    events: Vec<String>,
    flows: Vec<String>,
    counters: [Vec<u64>; 2],
}

fn sorted(things: impl Iterator<Item = String>) -> Vec<String> {
    let mut things: Vec<_> = things.collect();
    things.sort_unstable();
    things
}

fn seen(wire: &Wire) -> Seen {
    let counters = |direction| {
        let taken: [fn(&DirectionStats) -> &Counter; 6] = [
            |it| &it.received,
            |it| &it.forwarded,
            |it| &it.forwarded_segments,
            |it| &it.forwarded_bytes,
            |it| &it.classified,
            |it| &it.rejudged,
        ];
        let counted = taken.into_iter().map(|pick| wire.count(direction, pick));
        counted.chain(DropReason::ALL.iter().map(|&reason| wire.dropped(direction, reason))).collect()
    };
    let traces = wire.lanes.iter().flat_map(|lane| std::iter::from_fn(|| lane.trace.take()));
    let events = wire.lanes.iter().flat_map(|lane| std::iter::from_fn(|| lane.events.take()));
    Seen {
        out: Direction::BOTH.map(|direction| sorted(wire.drain(direction).iter().map(|(_, it)| format!("{it:?}")))),
        traces: sorted(traces.map(|trace| format!("{trace:?}"))),
        events: sorted(events.map(|event| format!("{event:?}"))),
        flows: sorted(wire.flows().iter().map(|flow| format!("{flow:?}"))),
        counters: Direction::BOTH.map(counters),
    }
}

/// The queue that a frame comes by: any, but all fragments of a datagram by one, as a device's hash of their addresses has it.
/// What comes by several queues need not keep its order, and which of a flow's frames is the first can be seen.
fn queue(bytes: &[u8], any: u64) -> u64 {
    let Some(net) = LaxSlicedPacket::from_ethernet(bytes).ok().and_then(|packet| packet.net) else { return any };
    if !net.ip_payload_ref().is_some_and(|payload| payload.fragmented) {
        return any;
    }
    let addresses = match net {
        LaxNetSlice::Ipv4(ip) => [ip.header().source(), ip.header().destination()].concat(),
        LaxNetSlice::Ipv6(ip) => [ip.header().source(), ip.header().destination()].concat(),
        LaxNetSlice::Arp(_) => Vec::new(),
    };
    addresses.into_iter().map(u64::from).sum()
}

fn compare(seed: u64, lanes: usize, tracking: Tracking, traces: bool) {
    println!("PENSTOCK_SEED={seed} {lanes} lanes, {tracking:?}");
    let mut random = policies::Random(seed);
    let mut generator = Generator::new(seed);
    let config =
        FlowConfig { mid_stream: MidStream::Until(dataplane::time::Time(20_000_000_000)), ..FlowConfig::default() };
    let mut both = [1, lanes].map(|lanes| Wire::traced(lanes, Some(&endpoint()), &config, tracking, traces));
    let (mut forwarded, mut moved) = (0, 0);
    for run in 0..300 {
        if run % 30 == 0 {
            let [egress, ingress] = [asking(random.policy()), asking(random.policy())];
            both.iter().for_each(|wire| wire.policy(egress.clone(), ingress.clone()));
        }
        for _ in 0..20 {
            let (direction, frame) = generator.next_frame(Medium::Ethernet);
            let lane = queue(&frame.bytes, random.next()) as usize % lanes;
            for (wire, lane) in both.iter_mut().zip([0, lane]) {
                wire.lanes[lane].links[direction as usize].inject(frame.clone());
                wire.settle();
            }
        }
        let [one, several] = both.each_ref().map(seen);
        assert_eq!(one, several, "seed {seed}, run {run}");
        forwarded += one.out.iter().map(Vec::len).sum::<usize>();
        for wire in &both {
            for lane in &wire.lanes {
                while let Some(Question { ticket, tuple, .. }) = lane.ask.question() {
                    let finding = match (tuple.source_port ^ tuple.destination_port) % 3 {
                        0 => Finding::Allow,
                        1 => Finding::Deny,
                        _ => Finding::JudgeAs(tuple.reverse()),
                    };
                    lane.ask.answer(Answer { ticket, finding });
                }
            }
        }
        let time = Duration::from_millis(random.next() % 500);
        for wire in &mut both {
            wire.now = wire.now + time;
            wire.settle();
        }
        moved = both[1].count(Egress, |it| &it.handed_over) + both[1].count(Ingress, |it| &it.handed_over);
    }
    assert!(forwarded > 1_000, "{forwarded} frames were forwarded");
    match tracking {
        Tracking::Stateful => assert!(moved > 1_000, "{moved} frames changed hands"),
        Tracking::Off => assert!(moved > 0 && moved < 1_000, "only fragments have to meet: {moved}"),
    }
    assert_eq!(both[1].close(), 0, "no chunk is lost");
}

fn seed() -> u64 {
    match std::env::var("PENSTOCK_SEED") {
        Ok(seed) => seed.parse().expect("PENSTOCK_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64,
    }
}

#[test]
fn several_workers_decide_as_one_does() {
    compare(seed(), 2, Tracking::Stateful, false);
    compare(seed(), 3, Tracking::Stateful, true);
}

#[test]
fn several_workers_decide_as_one_does_without_tracking() {
    compare(seed(), 2, Tracking::Off, false);
}
