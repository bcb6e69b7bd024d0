//! A running worker with a wire between two devices, and both devices' other ends.

use std::sync::Arc;

use dataplane::event::{Outbox, Trace};
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::frame::Burst;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::Direction;
use dataplane::port::{Pool, Port, PortKind, PortSpec, open_pair};
use dataplane::publish::{Generation, Publisher};
use dataplane::rules::{Policy, RuleSet, WireRules};
use dataplane::stats::WireStats;
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{AskQueues, Command, Pinning, WorkerConfig, WorkerHandle, spawn};

use crate::support::{INSIDE, POD, POD6, WIRE, address};

/// Room in the trace for all that can be under way, and more.
const TRACES: usize = 65_536;

/// The far ends of the wire's devices: `[inside, outside]`.
pub(crate) struct Lines {
    ports: [Box<dyn Port>; 2],
    pool: Pool,
    out: [Burst; 2],
    burst: Burst,
}

impl Lines {
    /// Raw access to `eth0` in both namespaces.
    pub(crate) fn open(client: &str, server: &str) -> Lines {
        let open = |namespace: &str| PortSpec::new(PortKind::AfPacket, "eth0").in_namespace(namespace);
        let pair = open_pair(&open(client), &open(server), 1024).expect("the devices are there");
        let ports = [pair.inside, pair.outside];
        Lines { ports, pool: pair.pool, out: [Burst::new(), Burst::new()], burst: Burst::new() }
    }

    /// A frame is to go this way.
    pub(crate) fn send(&mut self, direction: Direction, bytes: &[u8]) {
        if self.out[direction as usize].is_full() {
            self.flush();
        }
        let frame = self.pool.frame(bytes).expect("the pool has room");
        self.out[direction as usize].push(frame);
    }

    /// Everything is on its way.
    pub(crate) fn flush(&mut self) {
        for (port, out) in self.ports.iter_mut().zip(&mut self.out) {
            while !out.is_empty() {
                port.send(&mut self.pool, out, Time::ZERO).expect("the device is there");
            }
        }
    }

    /// What has come out this way.
    pub(crate) fn receive(&mut self, direction: Direction, mut with: impl FnMut(&[u8])) {
        let port = &mut self.ports[direction.reverse() as usize];
        loop {
            port.receive(&mut self.pool, &mut self.burst, Time::ZERO).expect("the device is there");
            if self.burst.is_empty() {
                break;
            }
            for frame in self.burst.drain(..) {
                with(frame.bytes());
                self.pool.release(frame);
            }
        }
    }

    fn close(mut self) {
        for port in &mut self.ports {
            assert_eq!(port.counters().receive_overflow, 0, "what came out was taken in time");
            port.close(&mut self.pool);
        }
    }
}

/// The wire.
pub(crate) struct Wire {
    worker: WorkerHandle,
    publisher: Publisher,
    stats: Arc<WireStats>,
    pub(crate) trace: Outbox<Trace>,
    pub(crate) lines: Lines,
}

impl Wire {
    /// A worker on its thread, with a wire of these ports in a namespace.
    pub(crate) fn start(namespace: &str, kind: PortKind, lines: Lines) -> Wire {
        let spec = |device| PortSpec::new(kind, device).in_namespace(namespace);
        let pair = open_pair(&spec("inside"), &spec("outside"), 1024).expect("the devices are there");
        let (publisher, trace, stats) = (Publisher::new(), Outbox::new(TRACES), Arc::new(WireStats::default()));
        let config = WorkerConfig {
            id: 0,
            flows: FlowTable::new(FlowRegion::heap(1024), FlowConfig::default()),
            fragments: FragmentTable::new(FragmentConfig::default()),
            policy: publisher.reader(),
            pool: pair.pool,
            events: Outbox::new(1),
            trace: Some(trace.clone()),
            ask: AskQueues::default(),
        };
        let worker = spawn(config, Pinning::None).expect("a thread");
        let setup = WireSetup {
            id: WIRE,
            inside: pair.inside,
            outside: pair.outside,
            endpoint: Some(Endpoint { mac: Some(INSIDE), addresses: vec![address(POD), address(POD6)] }),
            permissions: Permissions::POD,
            tracking: Tracking::Stateful,
            pool: None,
            stats: stats.clone(),
        };
        let attached = worker.ask(|answer| Command::Attach(Box::new(setup), answer));
        attached.expect("the worker lives").expect("the ports fit together");
        Wire { worker, publisher, stats, trace, lines }
    }

    /// Publishes these rules.
    pub(crate) fn publish(&self, (egress, ingress): (Policy, Policy)) -> Generation {
        self.publisher.publish(RuleSet { wires: vec![WireRules { wire: WIRE, egress, ingress }] }).expect("it compiles")
    }

    /// No device was ever full, and the worker still lives.
    pub(crate) fn stop(self) {
        self.worker.ask(Command::CountPorts).expect("the worker lives");
        for direction in Direction::BOTH {
            let stats = self.stats.direction(direction);
            for reason in [DropReason::PortOverflow, DropReason::PortUnavailable] {
                assert_eq!(stats.dropped(reason).get(), 0, "{reason:?}");
            }
            assert_eq!(self.stats.port(direction).receive_overflow.get(), 0, "the worker took everything in time");
            assert!(stats.rejudged.get() > 0, "flows were judged again");
        }
        assert_eq!(self.worker.ask(|answer| Command::Detach(WIRE, answer)), Some(true));
        self.lines.close();
    }
}
