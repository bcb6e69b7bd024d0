//! A worker with one wire of memory ports, driven by hand.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::wrong_self_convention, reason = "a frame from the pod is not a conversion")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::address::{Address, MacAddress};
use dataplane::event::{Event, Outbox, Trace};
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::{Direction, Protocol};
use dataplane::port::{MemoryLink, MemoryPort, Pool, SentFrame};
use dataplane::publish::Publisher;
use dataplane::rules::{
    Action, AddressSet, Chain, Peers, Policy, PortRange, Rule, RuleId, RuleSet, Services, Tier, WireId, WireRules,
};
use dataplane::stats::WireStats;
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{AskQueues, Worker, WorkerConfig};

/// The endpoint's MAC address.
pub(crate) const INSIDE: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
/// Everybody else's.
pub(crate) const OUTSIDE: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
/// The endpoint.
pub(crate) const POD: &str = "10.0.0.1";
/// The endpoint, over IPv6.
pub(crate) const POD6: &str = "fd00::1";
/// The wire.
pub(crate) const WIRE: WireId = WireId(7);

pub(crate) fn address(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().expect("an address"))
}

/// A chain with one tier.
pub(crate) fn chain(rules: Vec<Rule>, default: Action) -> Policy {
    Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules, default }] }))
}

/// A rule about these prefixes, or all, and one port, or all.
pub(crate) fn rule(id: u32, action: Action, peers: &[&str], service: Option<(Protocol, u16)>) -> Rule {
    let set: AddressSet = peers.iter().map(|net| net.parse::<ipnet::IpNet>().expect("a prefix")).collect();
    Rule {
        action,
        log: false,
        peers: if peers.is_empty() { Peers::Any } else { Peers::Set(Arc::new(set)) },
        services: match service {
            None => Services::Any,
            Some((protocol, port)) => Services::Ports(vec![PortRange { protocol, first: port, last: port }]),
        },
        id: RuleId(id),
    }
}

/// Allows this and nothing else.
pub(crate) fn allow(peers: &[&str], service: Option<(Protocol, u16)>) -> Policy {
    chain(vec![rule(1, Action::Allow, peers, service)], Action::Deny)
}

/// The wire and everything around it.
pub(crate) struct Harness {
    pub(crate) worker: Worker,
    pub(crate) publisher: Publisher,
    pub(crate) inside: MemoryLink,
    pub(crate) outside: MemoryLink,
    pub(crate) stats: Arc<WireStats>,
    pub(crate) events: Outbox<Event>,
    pub(crate) trace: Outbox<Trace>,
    pub(crate) ask: AskQueues,
    pub(crate) now: Time,
    /// The wire's place at its worker.
    pub(crate) at: usize,
}

impl Harness {
    /// A pod behind a wire that is open both ways.
    pub(crate) fn pod() -> Harness {
        let harness = Harness::new(
            Some(Endpoint { mac: Some(INSIDE), addresses: vec![address(POD), address(POD6)] }),
            FlowConfig::default(),
            1024,
        );
        harness.policy(Policy::Open, Policy::Open);
        harness
    }

    /// A wire with these flows; no policy knows it yet.
    pub(crate) fn new(endpoint: Option<Endpoint>, config: FlowConfig, flows: usize) -> Harness {
        Harness::with_tracking(endpoint, config, flows, Tracking::Stateful)
    }

    /// The same with or without tracking.
    pub(crate) fn with_tracking(
        endpoint: Option<Endpoint>,
        config: FlowConfig,
        flows: usize,
        tracking: Tracking,
    ) -> Harness {
        Harness::traced(endpoint, config, flows, tracking, true)
    }

    /// The same, with or without a trace of every frame's fate.
    pub(crate) fn traced(
        endpoint: Option<Endpoint>,
        config: FlowConfig,
        flows: usize,
        tracking: Tracking,
        traces: bool,
    ) -> Harness {
        let publisher = Publisher::new();
        let (events, trace, ask) = (Outbox::new(4096), Outbox::new(4096), AskQueues::default());
        let mut worker = Worker::new(WorkerConfig {
            id: 0,
            flows: FlowTable::new(FlowRegion::heap(flows), config),
            fragments: FragmentTable::new(FragmentConfig::default()),
            policy: publisher.reader(),
            pool: Pool::new(1024, Pool::SUPER_FRAME),
            events: events.clone(),
            trace: traces.then(|| trace.clone()),
            ask: ask.clone(),
        });
        let (inside_port, inside) = MemoryPort::new("inside");
        let (outside_port, outside) = MemoryPort::new("outside");
        let stats = Arc::new(WireStats::default());
        let at = worker
            .attach(WireSetup {
                id: WIRE,
                inside: Box::new(inside_port),
                outside: Box::new(outside_port),
                permissions: if endpoint.is_some() { Permissions::POD } else { Permissions::GATEWAY },
                tracking,
                endpoint,
                pool: None,
                stats: stats.clone(),
            })
            .expect("memory ports fit together");
        Harness { worker, publisher, inside, outside, stats, events, trace, ask, now: Time(1_000_000_000), at }
    }

    /// Publishes what the endpoint may send and receive.
    pub(crate) fn policy(&self, egress: Policy, ingress: Policy) {
        let wires = vec![WireRules { wire: WIRE, egress, ingress }];
        self.publisher.publish(RuleSet { wires }).expect("it compiles");
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.worker.housekeeping(self.now);
    }

    /// The endpoint sends a frame; answers what came out on the other side.
    pub(crate) fn sends(&mut self, frame: impl Into<SentFrame>) -> Vec<SentFrame> {
        self.inside.inject(frame);
        self.worker.poll(self.now);
        self.outside.drain()
    }

    /// A frame arrives for the endpoint; answers what it received.
    pub(crate) fn receives(&mut self, frame: impl Into<SentFrame>) -> Vec<SentFrame> {
        self.outside.inject(frame);
        self.worker.poll(self.now);
        self.inside.drain()
    }

    /// A frame crosses in this direction, or is dropped for the reason.
    pub(crate) fn crosses(&mut self, direction: Direction, frame: impl Into<SentFrame>) -> Result<(), DropReason> {
        let before: Vec<u64> = self.drops(direction);
        let out = match direction {
            Direction::Egress => self.sends(frame),
            Direction::Ingress => self.receives(frame),
        };
        let after = self.drops(direction);
        match DropReason::ALL.iter().zip(before.iter().zip(&after)).find(|(_, (before, after))| before != after) {
            Some((reason, _)) => Err(*reason),
            None => {
                assert_eq!(out.len(), 1, "a frame that was not dropped came out");
                Ok(())
            }
        }
    }

    fn drops(&self, direction: Direction) -> Vec<u64> {
        let stats = self.stats.direction(direction);
        DropReason::ALL.iter().map(|&reason| stats.dropped(reason).get()).collect()
    }

    /// A frame from the endpoint to the world.
    #[allow(clippy::wrong_self_convention, reason = "a frame from the pod, not a conversion")]
    pub(crate) fn from_pod(&self, destination: &str) -> FrameBuilder {
        let source = if destination.contains(':') { POD6 } else { POD };
        FrameBuilder::new().ethernet(INSIDE, OUTSIDE).ip(source, destination)
    }

    /// A frame from the world to the endpoint.
    pub(crate) fn to_pod(&self, source: &str) -> FrameBuilder {
        let destination = if source.contains(':') { POD6 } else { POD };
        FrameBuilder::new().ethernet(OUTSIDE, INSIDE).ip(source, destination)
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.worker.detach(WIRE);
            assert_eq!(self.worker.chunks_outstanding(), 0, "every frame's memory came back");
        }
    }
}
