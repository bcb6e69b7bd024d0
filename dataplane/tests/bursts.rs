//! Frames in bursts of 64 meet the fates that they meet one by one: what is read ahead of a frame's turn decides nothing. And
//! they meet them where nobody traces, so that frames of known flows pass by the short way.

mod support;

#[path = "million/policies.rs"]
mod policies;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dataplane::event::{Event, Trace};
use dataplane::flow::{FlowConfig, FlowInfo, MidStream};
use dataplane::frame::BURST;
use dataplane::packet::{Direction, Protocol};
use dataplane::parse::Medium;
use dataplane::port::SentFrame;
use dataplane::rules::{Action, Chain, Peers, Policy, PortRange, Rule, RuleId, Services, Tier};
use dataplane::testing::{Generator, endpoint};
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use dataplane::wire::Tracking;
use dataplane::worker::{Answer, Finding, Question};

use support::Harness;

/// Few, so that the table is full most of the time and flows are evicted.
const FLOWS: usize = 512;
const RUNS: u64 = 1_200;

/// All that can be seen of a worker after some frames.
#[derive(Debug, PartialEq)]
struct Seen {
    out: [Vec<SentFrame>; 2],
    traces: Vec<Trace>,
    events: Vec<Event>,
    questions: Vec<Question>,
    flows: Vec<(u32, FlowInfo)>,
    counters: [Vec<u64>; 2],
}

fn seen(harness: &Harness) -> Seen {
    let counters = |direction| {
        let stats = harness.stats.direction(direction);
        let forwarded = [&stats.received, &stats.forwarded, &stats.forwarded_segments, &stats.forwarded_bytes];
        let asked = [&stats.classified, &stats.rejudged];
        let dropped = DropReason::ALL.iter().map(|&reason| stats.dropped(reason));
        forwarded.into_iter().chain(asked).chain(dropped).map(dataplane::stats::Counter::get).collect()
    };
    Seen {
        out: [harness.outside.drain(), harness.inside.drain()],
        traces: std::iter::from_fn(|| harness.trace.take()).collect(),
        events: std::iter::from_fn(|| harness.events.take()).collect(),
        questions: std::iter::from_fn(|| harness.ask.question()).collect(),
        flows: harness.worker.flows().list(0, harness.now).collect(),
        counters: Direction::BOTH.map(counters),
    }
}

/// Asks about the datagrams to some ports, before anything else is looked at.
fn asking(policy: Policy) -> Policy {
    let Policy::Chain(chain) = policy else { return policy };
    let ports = PortRange { protocol: Protocol::UDP, first: 1, last: 3_000 };
    let services = Services::Ports(vec![ports]);
    let rule = Rule { action: Action::Ask(3), log: true, peers: Peers::Any, services, id: RuleId(9_999) };
    let ask = Tier { rules: vec![rule], default: Action::Pass };
    Policy::Chain(Arc::new(Chain { tiers: std::iter::once(ask).chain(chain.tiers.iter().cloned()).collect() }))
}

fn harness(tracking: Tracking, traces: bool) -> Harness {
    let mid_stream = MidStream::Until(Time(20_000_000_000));
    let config = FlowConfig { mid_stream, ..FlowConfig::default() };
    Harness::traced(Some(endpoint()), config, FLOWS, tracking, traces)
}

/// Frames of one direction, as many as fit into a burst at most.
fn run(generator: &mut Generator, waiting: &mut [VecDeque<SentFrame>; 2], random: u64) -> (Direction, Vec<SentFrame>) {
    let direction = Direction::BOTH[(random & 1) as usize];
    let count = 1 + (random >> 1) as usize % BURST;
    while waiting[direction as usize].len() < count {
        let (direction, frame) = generator.next_frame(Medium::Ethernet);
        waiting[direction as usize].push_back(frame);
    }
    (direction, waiting[direction as usize].drain(..count).collect())
}

fn compare(seed: u64, tracking: Tracking) {
    println!("PENSTOCK_SEED={seed} {tracking:?}");
    let mut random = policies::Random(seed);
    let mut generator = Generator::new(seed);
    let mut waiting = [VecDeque::new(), VecDeque::new()];
    let mut all = [true, true, false, false].map(|traces| harness(tracking, traces));
    let (mut forwarded, mut most) = (0, 0);
    for number in 0..RUNS {
        if number % 100 == 0 {
            let [egress, ingress] = [asking(random.policy()), asking(random.policy())];
            all.iter().for_each(|harness| harness.policy(egress.clone(), ingress.clone()));
        }
        let (direction, frames) = run(&mut generator, &mut waiting, random.next());
        for (harness, chunk) in all.iter_mut().zip([1, BURST, 1, BURST]) {
            let link = [&harness.inside, &harness.outside][direction as usize].clone();
            for frames in frames.chunks(chunk) {
                frames.iter().for_each(|frame| link.inject(frame.clone()));
                let progress = harness.worker.poll_port(harness.at, direction, harness.now);
                assert_eq!(progress.frames, frames.len());
            }
        }
        let [one_by_one, in_bursts, untraced @ ..] = all.each_ref().map(seen);
        assert_eq!(one_by_one, in_bursts, "seed {seed}, run {number}");
        for mut untraced in untraced {
            assert_eq!(untraced.traces, []);
            untraced.traces.clone_from(&one_by_one.traces);
            assert_eq!(one_by_one, untraced, "the short way, seed {seed}, run {number}");
        }
        forwarded += one_by_one.out.iter().map(Vec::len).sum::<usize>();
        most = most.max(one_by_one.flows.len());
        for Question { ticket, tuple, .. } in one_by_one.questions {
            let finding = match random.next() % 3 {
                0 => Finding::Allow,
                1 => Finding::Deny,
                _ => Finding::JudgeAs(tuple.reverse()),
            };
            all.iter().for_each(|harness| harness.ask.answer(Answer { ticket, finding }));
        }
        let time = Duration::from_millis(random.next() % 500);
        all.iter_mut().for_each(|harness| harness.pass(time));
    }
    assert!(forwarded > 5_000, "{forwarded} frames were forwarded");
    match tracking {
        Tracking::Stateful => assert!(most > FLOWS / 2, "{most} flows at once"),
        Tracking::Off => assert_eq!(most, 0, "nothing is kept of a frame"),
    }
}

fn seed() -> u64 {
    match std::env::var("PENSTOCK_SEED") {
        Ok(seed) => seed.parse().expect("PENSTOCK_SEED is a number"),
        Err(_) => {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64
        }
    }
}

#[test]
fn a_burst_is_judged_as_its_frames_one_by_one() {
    compare(seed(), Tracking::Stateful);
}

#[test]
fn a_burst_is_judged_as_its_frames_one_by_one_without_tracking() {
    compare(seed(), Tracking::Off);
}
