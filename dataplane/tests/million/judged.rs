//! One wire's share of the frames, each held against the oracle.

use std::sync::Arc;
use std::time::Duration;

use dataplane::event::{Event, Outbox, Trace};
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::frame::BURST;
use dataplane::guard::Permissions;
use dataplane::packet::{Direction, Protocol, Tuple};
use dataplane::parse::Medium;
use dataplane::port::{Pool, SentFrame};
use dataplane::publish::Publisher;
use dataplane::rules::{Action, Decision, Policy, Query, RuleSet, WireRules};
use dataplane::stats::WireStats;
use dataplane::testing::{Generator, endpoint};
use dataplane::time::Time;
use dataplane::verdict::{DropReason, Verdict};
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{AskQueues, Worker, WorkerConfig};

use crate::policies::Random;
use crate::port::{Far, FixedPort};
use crate::support::WIRE;
use crate::{Drops, allocation};

/// What each wire gets.
pub(crate) const FRAMES_A_WIRE: u64 = 1_000_000;
/// How often policy changes then.
const FRAMES_A_POLICY: u64 = 10_000;
/// Frames after which everything that is set up once has been.
const WARM_UP: u64 = 2_000;
/// Few enough to be full now and then.
const FLOWS: usize = 16_384;
/// Between two frames: fragments and flows run out on the way, and the limit of group frames is met now and then.
const STEP: Duration = Duration::from_micros(50);

/// What was seen.
pub(crate) struct Seen {
    pub(crate) frames: u64,
    pub(crate) classified: u64,
    pub(crate) forwarded: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) drops: Drops,
}

impl Default for Seen {
    fn default() -> Self {
        Seen { frames: 0, classified: 0, forwarded: 0, allowed: 0, denied: 0, drops: Drops::none() }
    }
}

impl Seen {
    pub(crate) fn merge(&mut self, other: &Seen) {
        self.frames += other.frames;
        self.classified += other.classified;
        self.forwarded += other.forwarded;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.drops.merge(&other.drops);
    }
}

/// A worker with one wire, and what the test knows of both.
struct Bench {
    worker: Worker,
    publisher: Publisher,
    /// By direction.
    policies: [Policy; 2],
    far: [Far; 2],
    stats: Arc<WireStats>,
    events: Outbox<Event>,
    trace: Outbox<Trace>,
    now: Time,
    seen: Seen,
    /// Frames that were judged as something else than what they show: their flow's originator, after a change of policy.
    judged_as_another: u64,
}

/// Pushes a million frames of this seed through a wire.
pub(crate) fn run(seed: u64, ethernet: bool) -> Seen {
    let mut bench = Bench::new(seed, ethernet);
    let medium = if ethernet { Medium::Ethernet } else { Medium::Ip };
    let mut generator = Generator::new(seed);
    // Frames that follow each other in one direction are one burst, so that the order of conversations is kept.
    let mut next = generator.next_frame(medium);
    let mut changes = 0;
    while bench.seen.frames < FRAMES_A_WIRE {
        let direction = next.0;
        let mut count = 0;
        while next.0 == direction && count < BURST as u64 && bench.seen.frames + count < FRAMES_A_WIRE {
            bench.inject(direction, &next.1);
            next = generator.next_frame(medium);
            count += 1;
        }
        bench.burst(direction, count);
        // In the second half, policy changes under the feet of live flows.
        if bench.seen.frames >= FRAMES_A_WIRE / 2 + changes * FRAMES_A_POLICY {
            if changes == 0 {
                bench.assert_all_as_shown();
            }
            changes += 1;
            bench.publish(seed.rotate_left(32) ^ changes);
        }
    }
    bench.end(seed)
}

impl Bench {
    fn new(seed: u64, ethernet: bool) -> Bench {
        let publisher = Publisher::new();
        let (events, trace) = (Outbox::new(4096), Outbox::new(4096));
        let mut worker = Worker::new(WorkerConfig {
            id: 0,
            flows: FlowTable::new(FlowRegion::heap(FLOWS), FlowConfig::default()),
            fragments: FragmentTable::new(FragmentConfig::default()),
            policy: publisher.reader(),
            pool: Pool::new(1024, 4096 + Pool::HEADROOM),
            events: events.clone(),
            trace: Some(trace.clone()),
            ask: AskQueues::default(),
        });
        let (inside, near) = FixedPort::new(ethernet);
        let (outside, far) = FixedPort::new(ethernet);
        let mut endpoint = endpoint();
        endpoint.mac = endpoint.mac.filter(|_| ethernet);
        let stats = Arc::new(WireStats::default());
        let setup = WireSetup {
            id: WIRE,
            inside: Box::new(inside),
            outside: Box::new(outside),
            endpoint: Some(endpoint),
            permissions: Permissions::POD,
            tracking: Tracking::Stateful,
            pool: None,
            stats: stats.clone(),
        };
        worker.attach(setup).expect("the ports fit together");
        let (far, now, seen) = ([near, far], Time(1_000_000_000), Seen::default());
        let policies = [Policy::Open, Policy::Open];
        let mut bench =
            Bench { worker, publisher, policies, far, stats, events, trace, now, seen, judged_as_another: 0 };
        bench.publish(seed);
        bench
    }

    /// Publishes other policies.
    fn publish(&mut self, seed: u64) {
        let mut random = Random(seed);
        self.policies = [random.policy(), random.policy()];
        let [egress, ingress] = self.policies.clone();
        let rules = RuleSet { wires: vec![WireRules { wire: WIRE, egress, ingress }] };
        self.publisher.publish(rules).expect("it compiles");
    }

    /// While policy does not change, every frame that is judged is judged as what it shows.
    fn assert_all_as_shown(&self) {
        let rejudged = Direction::BOTH.map(|direction| self.stats.direction(direction).rejudged.get());
        assert_eq!((rejudged, self.judged_as_another), ([0, 0], 0));
    }

    fn inject(&self, direction: Direction, frame: &SentFrame) {
        self.far[direction as usize].inject(frame);
    }

    /// The worker takes what was injected; then every fate is looked at.
    fn burst(&mut self, direction: Direction, count: u64) {
        self.now = self.now + STEP * count as u32;
        let before = (allocation::calls(), allocation::live());
        let progress = self.worker.poll_port(0, direction, self.now);
        self.worker.housekeeping(self.now);
        let (calls, bytes) = (allocation::calls() - before.0, allocation::live() - before.1);
        assert_eq!(progress.frames as u64, count);
        self.seen.frames += count;
        let steady = (calls, bytes) == (0, 0) || self.seen.frames < WARM_UP;
        assert!(steady, "{calls} allocations and {bytes} bytes more for {count} frames");
        while let Some(trace) = self.trace.take() {
            self.check(&trace);
        }
        while self.events.take().is_some() {}
        assert_eq!((self.trace.lost(), self.events.lost()), (0, 0));
    }

    /// Holds a frame's fate against the rules, read one after the other.
    fn check(&mut self, trace: &Trace) {
        let Trace { direction, tuple: Some(tuple), verdict, rule, .. } = *trace else {
            assert_eq!(trace.rule, None, "what could not be read was not judged");
            return;
        };
        let denied = verdict == Verdict::Drop(DropReason::PolicyDenied);
        if rule.is_some() || denied {
            let Decision { action, rule: deciding, .. } = self.oracle(direction, &tuple);
            self.judged_as_another += u64::from((action == Action::Deny, deciding) != (denied, rule));
            self.seen.allowed += u64::from(!denied);
            self.seen.denied += u64::from(denied);
        } else if verdict == Verdict::Forward && tuple.protocol.has_ports() {
            // It belongs to a flow, and policy allows one of its ends to open that.
            let allowed = |direction, tuple: &Tuple| self.oracle(direction, tuple).action == Action::Allow;
            assert!(allowed(direction, &tuple) || allowed(direction.reverse(), &tuple.reverse()), "{trace:?}");
        }
    }

    fn oracle(&self, direction: Direction, tuple: &Tuple) -> Decision {
        let peer = match direction {
            Direction::Egress => tuple.destination,
            Direction::Ingress => tuple.source,
        };
        // The rules mean all types of ICMP, or none.
        let port = match tuple.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => 0,
            _ => tuple.destination_port,
        };
        self.policies[direction as usize].judge(direction, Query::new(peer, tuple.protocol, port))
    }

    /// Counts add up, and all memory comes back.
    fn end(mut self, seed: u64) -> Seen {
        let far: u64 = self.far.iter().map(Far::sent).sum();
        self.worker.detach(WIRE);
        assert_eq!(self.worker.chunks_outstanding(), 0, "seed {seed}: every frame's memory came back");
        while let Some(trace) = self.trace.take() {
            self.check(&trace);
        }
        let mut rejudged = 0;
        for direction in Direction::BOTH {
            let stats = self.stats.direction(direction);
            let (received, forwarded) = (stats.received.get(), stats.forwarded.get());
            assert_eq!(received, forwarded + stats.dropped_total(), "seed {seed}: a frame is forwarded or dropped");
            self.seen.classified += stats.classified.get();
            self.seen.forwarded += forwarded;
            rejudged += stats.rejudged.get();
        }
        assert!(rejudged > 0 && self.judged_as_another <= rejudged, "{} of {rejudged}", self.judged_as_another);
        assert_eq!(self.seen.forwarded, far);
        assert_eq!(
            self.seen.classified,
            self.seen.allowed + self.seen.denied,
            "seed {seed}: every judgement was checked"
        );
        self.seen.drops.add(&self.stats);
        self.seen
    }
}
