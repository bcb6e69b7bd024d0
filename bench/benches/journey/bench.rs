//! A worker with one wire, and the same two ports in a bare loop.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use dataplane::event::Outbox;
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::frame::Burst;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::port::{Pool, Port};
use dataplane::publish::Publisher;
use dataplane::stats::WireStats;
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{AskQueues, Worker, WorkerConfig};

use crate::port::{Far, MadePort, Source};
use crate::traffic::Traffic;

const CHUNKS: usize = 1_024;
const CHUNK_SIZE: usize = 2_048;
const TICK: u64 = 50_000;

pub(crate) struct Bench {
    worker: Worker,
    /// Keeps the policy.
    _publisher: Publisher,
    stats: Arc<WireStats>,
    /// By direction: where its frames are made.
    far: [Far; 2],
    /// For the bare loop.
    bare: [MadePort; 2],
    pool: Pool,
    burst: usize,
    now: Time,
    traffic: Traffic,
    /// Flows are opened beforehand.
    open: bool,
}

impl Bench {
    pub(crate) fn new(traffic: &Traffic, burst: usize, new: bool, tracking: bool) -> Bench {
        let publisher = Publisher::new();
        let flows = (traffic.flows.len() * 2).max(131_072);
        let mut worker = Worker::new(WorkerConfig {
            id: 0,
            flows: FlowTable::new(FlowRegion::heap(flows), FlowConfig::default()),
            fragments: FragmentTable::new(FragmentConfig::default()),
            policy: publisher.reader(),
            pool: Pool::new(CHUNKS, CHUNK_SIZE),
            events: Outbox::new(1_024),
            trace: None,
            ask: AskQueues::default(),
        });
        publisher.publish(traffic.rules.clone()).expect("generated rules compile");
        let (inside, near) = MadePort::new(Source::new(traffic, Direction::Egress, burst, new));
        let (outside, far) = MadePort::new(Source::new(traffic, Direction::Ingress, burst, new));
        let stats = Arc::new(WireStats::default());
        let endpoint = Endpoint { mac: Some(FrameBuilder::SOURCE_MAC), addresses: vec![traffic.own] };
        let setup = WireSetup {
            id: traffic.wire,
            inside: Box::new(inside),
            outside: Box::new(outside),
            endpoint: Some(endpoint),
            permissions: Permissions::POD,
            tracking: if tracking { Tracking::Stateful } else { Tracking::Off },
            pool: None,
            stats: stats.clone(),
        };
        worker.attach(setup).expect("the ports fit together");
        let bare = Direction::BOTH.map(|direction| MadePort::new(Source::new(traffic, direction, burst, new)).0);
        let (pool, now, traffic) = (Pool::new(CHUNKS, CHUNK_SIZE), Time(1_000_000_000), traffic.clone());
        Bench {
            worker,
            _publisher: publisher,
            stats,
            far: [near, far],
            bare,
            pool,
            burst,
            now,
            traffic,
            open: tracking && !new,
        }
    }

    /// The handshakes, or a datagram each way and another.
    pub(crate) fn open_flows(&mut self) {
        if !self.open {
            return;
        }
        let rounds = self.traffic.flows.len().div_ceil(self.burst);
        let steps: [(Direction, u8); 3] = [
            (Direction::Egress, TcpFlags::SYN),
            (Direction::Ingress, TcpFlags::SYN | TcpFlags::ACK),
            (Direction::Egress, TcpFlags::ACK),
        ];
        for (direction, flags) in steps {
            self.set_flags(direction, flags);
            for _ in 0..rounds {
                self.worker.poll_port(0, direction, self.now);
            }
        }
        self.set_flags(Direction::Egress, Traffic::DATA);
        let flows = self.traffic.flows.len();
        assert_eq!(self.worker.flows().len(), flows, "every flow is open");
    }

    fn set_flags(&self, direction: Direction, flags: u8) {
        let mut source = self.far[direction as usize].source.lock().unwrap_or_else(PoisonError::into_inner);
        source.template = self.traffic.template(flags);
        if direction == Direction::Ingress {
            exchange(&mut source.template);
        }
        if self.traffic.shape.protocol() == Protocol::TCP {
            number(&mut source.template, direction, flags);
        }
    }

    /// Frames from inside, through the worker.
    pub(crate) fn poll(&mut self, frames: usize) {
        for _ in 0..frames.div_ceil(self.burst) {
            self.worker.poll_port(0, Direction::Egress, self.now);
            self.worker.housekeeping(self.now);
            self.now = Time(self.now.0 + TICK);
        }
    }

    /// Frames from inside, from port to port.
    pub(crate) fn move_bare(&mut self, frames: usize) {
        let [inside, outside] = &mut self.bare;
        let mut burst = Burst::new();
        for _ in 0..frames.div_ceil(self.burst) {
            inside.receive(&mut self.pool, &mut burst, self.now).expect("the port works");
            outside.send(&mut self.pool, &mut burst, self.now).expect("the port works");
        }
    }

    /// Nothing was dropped, and what was forwarded was sent.
    pub(crate) fn check(&self) {
        for direction in Direction::BOTH {
            let stats = self.stats.direction(direction);
            for &reason in DropReason::ALL {
                assert_eq!(stats.dropped(reason).get(), 0, "{direction:?} {reason:?}");
            }
            let sent = self.far[direction.reverse() as usize].sent.load(Ordering::Relaxed);
            assert_eq!(stats.forwarded.get(), sent, "{direction:?}");
        }
    }
}

/// The offsets of the IP header's addresses and of the transport header.
fn offsets(bytes: &[u8]) -> (usize, usize, usize) {
    if bytes[12..14] == [8, 0] { (26, 4, 34) } else { (22, 16, 54) }
}

/// Exchanges MAC and IP addresses.
fn exchange(bytes: &mut [u8]) {
    let (at, length, _) = offsets(bytes);
    for n in 0..6 {
        bytes.swap(n, n + 6);
    }
    for n in at..at + length {
        bytes.swap(n, n + length);
    }
}

/// Sequence and acknowledgement numbers of a handshake in which each end begins with 1,000.
fn number(bytes: &mut [u8], direction: Direction, flags: u8) {
    let (_, _, transport) = offsets(bytes);
    let syn = flags & TcpFlags::SYN != 0;
    let (sequence, acknowledgement): (u32, u32) = match (syn, direction) {
        (true, Direction::Egress) => (1_000, 0),
        (true, Direction::Ingress) => (1_000, 1_001),
        (false, _) => (1_001, 1_001),
    };
    bytes[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
    bytes[transport + 8..transport + 12].copy_from_slice(&acknowledgement.to_be_bytes());
}
