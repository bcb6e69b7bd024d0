//! One wire over several workers, all polled by hand: each lane with memory ports and a pool of its own.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::Arc;

use dataplane::event::{Event, Outbox, Trace};
use dataplane::flow::{FlowConfig, FlowInfo, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::Direction;
use dataplane::port::{MemoryLink, MemoryPort, Pool, SentFrame};
use dataplane::publish::Publisher;
use dataplane::rules::{Policy, RuleSet, WireId, WireRules};
use dataplane::stats::{Counter, DirectionStats, WireStats};
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{AskQueues, Doorbell, HandOff, Worker, WorkerConfig, settle};

pub(crate) const WIRE: WireId = WireId(7);
const FLOWS: usize = 65_536;

/// A worker and the far sides of its two ports, by the direction of what they put in.
pub(crate) struct Lane {
    pub(crate) worker: Worker,
    pub(crate) links: [MemoryLink; 2],
    pub(crate) stats: Arc<WireStats>,
    pub(crate) events: Outbox<Event>,
    pub(crate) trace: Outbox<Trace>,
    pub(crate) ask: AskQueues,
}

pub(crate) struct Wire {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) publisher: Publisher,
    pub(crate) now: Time,
}

impl Wire {
    /// One lane is a wire as it always was: nothing is handed over.
    pub(crate) fn new(lanes: usize, endpoint: Option<&Endpoint>, config: &FlowConfig, tracking: Tracking) -> Wire {
        Wire::traced(lanes, endpoint, config, tracking, false)
    }

    /// The same, with or without a trace of every frame's fate, which wants every frame read whole.
    pub(crate) fn traced(
        lanes: usize,
        endpoint: Option<&Endpoint>,
        config: &FlowConfig,
        tracking: Tracking,
        traces: bool,
    ) -> Wire {
        let publisher = Publisher::new();
        let pools: Vec<Pool> = (0..lanes).map(|_| Pool::new(2048, Pool::SUPER_FRAME)).collect();
        let joined: Vec<_> = pools.iter().map(|pool| (pool.id(), Arc::new(Doorbell::new().unwrap()))).collect();
        let hand_offs = HandOff::between(&joined).into_iter().map(|it| (lanes > 1).then(|| Box::new(it)));
        let lanes = pools.into_iter().zip(hand_offs).enumerate();
        let lanes = lanes.map(|(id, (pool, hand_off))| {
            let (events, trace, ask) = (Outbox::new(16_384), Outbox::new(16_384), AskQueues::default());
            let fragments = FragmentConfig { datagrams: 16_384, held: 1_024, ..FragmentConfig::default() };
            let mut worker = Worker::new(WorkerConfig {
                id,
                flows: FlowTable::new(FlowRegion::heap(FLOWS), config.clone()),
                fragments: FragmentTable::new(fragments),
                policy: publisher.reader(),
                pool: Pool::new(1, Pool::SUPER_FRAME),
                events: events.clone(),
                trace: traces.then(|| trace.clone()),
                ask: ask.clone(),
            });
            let (inside, from_inside) = MemoryPort::new("inside");
            let (outside, from_outside) = MemoryPort::new("outside");
            let stats = Arc::new(WireStats::default());
            let setup = WireSetup {
                id: WIRE,
                inside: Box::new(inside),
                outside: Box::new(outside),
                permissions: if endpoint.is_some() { Permissions::POD } else { Permissions::GATEWAY },
                tracking,
                endpoint: endpoint.cloned(),
                pool: Some(pool),
                stats: stats.clone(),
            };
            match hand_off {
                None => worker.attach(setup).unwrap(),
                Some(hand_off) => worker.attach_lane(setup, hand_off).unwrap(),
            };
            Lane { worker, links: [from_inside, from_outside], stats, events, trace, ask }
        });
        Wire { lanes: lanes.collect(), publisher, now: Time(1_000_000_000) }
    }

    pub(crate) fn policy(&self, egress: Policy, ingress: Policy) {
        let wires = vec![WireRules { wire: WIRE, egress, ingress }];
        self.publisher.publish(RuleSet { wires }).unwrap();
    }

    /// Polls all workers until none finds anything.
    pub(crate) fn settle(&mut self) {
        while self.lanes.iter_mut().map(|lane| lane.worker.poll(self.now).frames).sum::<usize>() > 0 {}
    }

    /// A frame arrives on a lane; answers what came out, and of which lane.
    pub(crate) fn crosses(
        &mut self,
        lane: usize,
        direction: Direction,
        frame: impl Into<SentFrame>,
    ) -> Vec<(usize, SentFrame)> {
        self.lanes[lane].links[direction as usize].inject(frame);
        self.settle();
        self.drain(direction)
    }

    /// What came out in a direction.
    pub(crate) fn drain(&self, direction: Direction) -> Vec<(usize, SentFrame)> {
        let out = |(number, lane): (usize, &Lane)| {
            let frames = lane.links[direction.reverse() as usize].drain();
            frames.into_iter().map(move |frame| (number, frame)).collect::<Vec<_>>()
        };
        self.lanes.iter().enumerate().flat_map(out).collect()
    }

    /// A counter of all lanes together.
    pub(crate) fn count(&self, direction: Direction, pick: impl Fn(&DirectionStats) -> &Counter) -> u64 {
        self.lanes.iter().map(|lane| pick(lane.stats.direction(direction)).get()).sum()
    }

    pub(crate) fn dropped(&self, direction: Direction, reason: DropReason) -> u64 {
        self.count(direction, |stats| stats.dropped(reason))
    }

    pub(crate) fn flows(&self) -> Vec<FlowInfo> {
        self.lanes.iter().flat_map(|lane| lane.worker.list_flows(self.now)).collect()
    }

    /// Closes all lanes; answers how many chunks are missing then.
    pub(crate) fn close(&mut self) -> usize {
        settle(self.lanes.iter_mut().filter_map(|lane| lane.worker.detach_lane(WIRE)).collect())
    }
}
