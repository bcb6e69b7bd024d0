//! The engine in memory: every pod behind a wire of memory ports, judged frame by frame by the same worker that runs
//! in the daemon, on a clock that only moves when told.
//!
//! `eval`, `matrix`, `explain` and `diff` ask their questions here. Nothing is looked up in a policy directly: a
//! question becomes the first frame of a connection, and the answer is what became of the frame.

use std::sync::Arc;
use std::time::Duration;

use dataplane::address::{Address, MacAddress};
use dataplane::classify::CompileError;
use dataplane::event::{Outbox, Trace};
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::port::{MemoryLink, MemoryPort, Pool};
use dataplane::publish::{Change, Publisher};
use dataplane::rules::{RuleId, WireId};
use dataplane::stats::WireStats;
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use dataplane::verdict::Verdict;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{Answer, AskQueues, Finding, Question, Worker, WorkerConfig};

mod cluster;

pub use cluster::{ClusterRehearsal, RehearsalError, Rehearsed};

/// The MAC address of everything outside.
const OUTSIDE: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0xfe]);
/// Time between two rehearsed connections: longer than any flow of a single frame lives, so that none meets another.
const APART: Duration = Duration::from_secs(3600);
/// The port that rehearsed connections come from.
const SOURCE_PORT: u16 = 40_000;

/// What became of a frame at one wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its fate.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
}

/// The first frame of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstFrame {
    /// Source address.
    pub source: Address,
    /// Destination address, of the same family.
    pub destination: Address,
    /// TCP, UDP or SCTP; ICMP and ICMPv6 send an echo request.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
}

struct Stage {
    wire: WireId,
    mac: MacAddress,
    at: usize,
    inside: MemoryLink,
    outside: MemoryLink,
}

/// Pods behind wires of memory ports.
pub struct Rehearsal {
    worker: Worker,
    publisher: Arc<Publisher>,
    trace: Outbox<Trace>,
    ask: AskQueues,
    stages: Vec<Stage>,
    now: Time,
}

impl Rehearsal {
    /// A wire for each endpoint, numbered in order from 0. All are closed until rules are published.
    pub fn new(endpoints: impl IntoIterator<Item = Vec<Address>>) -> Self {
        let publisher = Arc::new(Publisher::new());
        let (trace, ask) = (Outbox::new(64), AskQueues::default());
        let mut worker = Worker::new(WorkerConfig {
            id: 0,
            flows: FlowTable::new(FlowRegion::heap(1024), FlowConfig::default()),
            fragments: FragmentTable::new(FragmentConfig::default()),
            policy: publisher.reader(),
            pool: Pool::new(64, 2048),
            events: Outbox::new(64),
            trace: Some(trace.clone()),
            ask: ask.clone(),
        });
        let mut stages = Vec::new();
        for (number, addresses) in (0..).zip(endpoints) {
            let wire = WireId(number);
            let [_, a, b, c] = number.to_be_bytes();
            let mac = MacAddress([0x02, 0, 1, a, b, c]);
            let (inside, inside_link) = MemoryPort::new("inside");
            let (outside, outside_link) = MemoryPort::new("outside");
            let setup = WireSetup {
                id: wire,
                inside: Box::new(inside),
                outside: Box::new(outside),
                endpoint: Some(Endpoint { mac: Some(mac), addresses }),
                permissions: Permissions::POD,
                tracking: Tracking::Stateful,
                pool: None,
                stats: Arc::new(WireStats::default()),
            };
            match worker.attach(setup) {
                Ok(at) => stages.push(Stage { wire, mac, at, inside: inside_link, outside: outside_link }),
                // Two memory ports carry everything alike, and nothing refuses to limit them.
                Err(_impossible) => {}
            }
        }
        Rehearsal { worker, publisher, trace, ask, stages, now: Time::ZERO }
    }

    /// Puts rules in force.
    ///
    /// # Errors
    /// When there are more than can be compiled.
    pub fn publish(&mut self, change: &Change) -> Result<(), CompileError> {
        self.publisher.change(change).map(|_generation| ())
    }

    /// Starts over: what is judged from here on meets no flow of what was judged before.
    pub fn next_connection(&mut self) {
        self.now = self.now + APART;
        self.worker.housekeeping(self.now);
    }

    /// Sends the first frame of a connection through a wire and tells what became of it; `None` when there is no such
    /// wire. What it has to ask for is not known.
    pub fn judge(&mut self, wire: WireId, direction: Direction, first: FirstFrame) -> Option<Judged> {
        self.judge_with(wire, direction, first, |_| Finding::Unknown)
    }

    /// [`Rehearsal::judge`], with answers to what it has to ask for.
    pub fn judge_with(
        &mut self,
        wire: WireId,
        direction: Direction,
        first: FirstFrame,
        answer: impl Fn(&Question) -> Finding,
    ) -> Option<Judged> {
        let stage = self.stages.get(wire.0 as usize).filter(|stage| stage.wire == wire)?;
        let (into, out_of, macs) = match direction {
            Direction::Egress => (&stage.inside, &stage.outside, (stage.mac, OUTSIDE)),
            Direction::Ingress => (&stage.outside, &stage.inside, (OUTSIDE, stage.mac)),
        };
        into.inject(first.build(macs));
        let at = stage.at;
        self.worker.poll_port(at, direction, self.now);
        while let Some(question) = self.ask.question() {
            self.ask.answer(Answer { ticket: question.ticket, finding: answer(&question) });
            self.worker.housekeeping(self.now);
        }
        out_of.drain();
        let trace = self.trace.take()?;
        Some(Judged { verdict: trace.verdict, rule: trace.rule })
    }
}

impl FirstFrame {
    fn build(&self, (source, destination): (MacAddress, MacAddress)) -> Vec<u8> {
        let frame = FrameBuilder::new().ethernet(source, destination).addresses(self.source, self.destination);
        match self.protocol {
            Protocol::TCP => frame.tcp(SOURCE_PORT, self.port, TcpFlags::SYN),
            Protocol::UDP => frame.udp(SOURCE_PORT, self.port),
            Protocol::SCTP => frame.sctp(SOURCE_PORT, self.port, 0, 1),
            Protocol::ICMP | Protocol::ICMPV6 => frame.echo_request(1, 1),
            Protocol(other) => frame.protocol(other),
        }
        .build()
    }
}
