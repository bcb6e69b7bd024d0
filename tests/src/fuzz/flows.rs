//! Any bytes as a sequence of frames, pauses and changes of policy on a wire.
//!
//! A sequence is a chain of steps. The first byte of each says what it is (its low three bits), and for a frame which way
//! it goes (bit 3) and, for a frame of its own bytes, how long it is (two bytes follow). All other frames belong to a few
//! conversations, so that they meet each other's flows.

use std::sync::Arc;
use std::time::Duration;

use dataplane::event::Outbox;
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::guard::Permissions;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::port::{MemoryLink, MemoryPort, Pool};
use dataplane::publish::Publisher;
use dataplane::rules::{
    Action, Chain, Peers, Policy, PortRange, Rule, RuleId, RuleSet, Services, Tier, WireId, WireRules,
};
use dataplane::stats::WireStats;
use dataplane::testing::{FrameBuilder, PAIRS, endpoint};
use dataplane::time::Time;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{Answer, AskQueues, Finding, Worker, WorkerConfig};

const WIRE: WireId = WireId(1);
const FLOWS: usize = 32;
const CHUNKS: usize = 256;
/// A frame of its own bytes, in steps.
const RAW: u8 = 0;

/// One step that is a frame of these bytes: what seeds are made of.
pub fn encode(direction: Direction, frame: &[u8]) -> Vec<u8> {
    let mut step = vec![RAW | (direction as u8) << 3];
    step.extend((frame.len() as u16).to_be_bytes());
    step.extend(frame);
    step
}

/// Plays the steps. Each frame is forwarded or dropped, once; the memory of all comes back; no more flows than fit.
pub fn flows(bytes: &[u8]) {
    let mut play = Play::new();
    let mut rest = Bytes(bytes);
    // Each step costs more than a byte of a longer sequence is worth.
    for _ in 0..512 {
        let Some(step) = rest.take() else { break };
        play.step(step, &mut rest);
    }
    play.end();
}

/// What has not been read yet.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn byte(&mut self) -> u8 {
        self.take().unwrap_or(0)
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn many(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Play {
    worker: Worker,
    publisher: Publisher,
    ask: AskQueues,
    /// By the direction of the frames that are put there.
    links: [MemoryLink; 2],
    stats: Arc<WireStats>,
    now: Time,
    injected: u64,
    out: u64,
}

impl Play {
    fn new() -> Play {
        let publisher = Publisher::new();
        let ask = AskQueues::default();
        let mut worker = Worker::new(WorkerConfig {
            id: 0,
            flows: FlowTable::new(FlowRegion::heap(FLOWS), FlowConfig { max_wires: 1, ..FlowConfig::default() }),
            fragments: FragmentTable::new(FragmentConfig { datagrams: 8, held: 16, ..FragmentConfig::default() }),
            policy: publisher.reader(),
            pool: Pool::new(CHUNKS, Pool::HEADROOM + 4096),
            events: Outbox::new(64),
            trace: None,
            ask: ask.clone(),
        });
        let (inside, near) = MemoryPort::new("inside");
        let (outside, far) = MemoryPort::new("outside");
        let stats = Arc::new(WireStats::default());
        let setup = WireSetup {
            id: WIRE,
            inside: Box::new(inside),
            outside: Box::new(outside),
            endpoint: Some(endpoint()),
            permissions: Permissions::POD,
            tracking: Tracking::Stateful,
            pool: None,
            stats: stats.clone(),
        };
        worker.attach(setup).expect("memory ports fit together");
        let links = [near, far];
        let mut play = Play { worker, publisher, ask, links, stats, now: Time(1_000_000_000), injected: 0, out: 0 };
        play.publish(0);
        play
    }

    fn publish(&mut self, which: u8) {
        let egress = policy(which);
        let ingress = policy(which >> 3);
        let wires = if which >> 6 == 3 { vec![] } else { vec![WireRules { wire: WIRE, egress, ingress }] };
        self.publisher.publish(RuleSet { wires }).expect("it compiles");
    }

    fn step(&mut self, step: u8, rest: &mut Bytes<'_>) {
        let direction = Direction::BOTH[usize::from(step >> 3 & 1)];
        match step & 7 {
            RAW => {
                let length = usize::from(rest.number() % 4000);
                let frame = rest.many(length).to_vec();
                self.inject(direction, frame);
            }
            1 => self.publish(rest.byte()),
            2 => self.now = self.now + Duration::from_millis(u64::from(rest.number()) * 20),
            3 => self.answer(rest.byte()),
            _ => {
                let frame = conversation(step, direction, rest).build();
                self.inject(direction, frame);
            }
        }
        self.worker.poll(self.now);
        self.out += self.links.iter().map(|link| link.drain().len() as u64).sum::<u64>();
        assert!(self.worker.flows().len() <= FLOWS);
        assert!(self.worker.chunks_outstanding() <= CHUNKS);
    }

    fn inject(&mut self, direction: Direction, frame: Vec<u8>) {
        self.links[direction as usize].inject(frame);
        self.injected += 1;
    }

    fn answer(&mut self, which: u8) {
        while let Some(question) = self.ask.question() {
            let finding = match which % 3 {
                0 => Finding::Allow,
                1 => Finding::Deny,
                _ => Finding::JudgeAs(question.tuple.reverse()),
            };
            self.ask.answer(Answer { ticket: question.ticket, finding });
        }
    }

    /// Time runs out for everything that waits.
    fn end(mut self) {
        for _ in 0..2 {
            self.now = self.now + Duration::from_secs(120);
            self.worker.housekeeping(self.now);
        }
        self.out += self.links.iter().map(|link| link.drain().len() as u64).sum::<u64>();
        assert_eq!(self.worker.chunks_outstanding(), 0, "every frame's memory came back");
        let [egress, ingress] = Direction::BOTH.map(|direction| self.stats.direction(direction));
        assert_eq!(egress.forwarded.get() + ingress.forwarded.get(), self.out);
        assert_eq!(
            self.out + egress.dropped_total() + ingress.dropped_total(),
            self.injected,
            "one fate for each frame"
        );
    }
}

/// Open, closed, by port, or asking.
fn policy(which: u8) -> Policy {
    let rule = |action, first, last| Rule {
        action,
        log: false,
        peers: Peers::Any,
        services: Services::Ports(
            [Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(|protocol| PortRange { protocol, first, last }).to_vec(),
        ),
        id: RuleId(first.into()),
    };
    let rules = match which & 7 {
        0..=2 => return Policy::Open,
        3 => vec![],
        4 => vec![rule(Action::Allow, 1, 2)],
        5 => vec![rule(Action::Allow, 3, 9)],
        6 => vec![rule(Action::Ask(0), 1, 4)],
        _ => vec![rule(Action::Deny, 1, 1), rule(Action::Ask(1), 2, 2), rule(Action::Allow, 3, 9)],
    };
    Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules, default: Action::Deny }] }))
}

/// A frame of one of a few conversations, well-formed but for what the bytes say.
fn conversation(step: u8, direction: Direction, rest: &mut Bytes<'_>) -> FrameBuilder {
    let (own, peer) = PAIRS[usize::from(step >> 4 & 1)];
    let ports = rest.byte();
    let (inner, outer) = (u16::from(ports & 7) + 1, u16::from(ports >> 3 & 7) + 1);
    let frame = FrameBuilder::new();
    let (frame, from, to) = match direction {
        Direction::Egress => (frame.ip(own, peer), inner, outer),
        Direction::Ingress => {
            let frame = frame.ethernet(FrameBuilder::DESTINATION_MAC, FrameBuilder::SOURCE_MAC);
            (frame.ip(peer, own), outer, inner)
        }
    };
    let payload = vec![0x55; usize::from(rest.byte())];
    match (step & 7, step >> 5) {
        // Numbers near each other and near the wrap.
        (4 | 5, _) => frame
            .tcp(from, to, rest.byte() | if step >> 5 == 0 { TcpFlags::SYN } else { 0 })
            .sequence(u32::from(rest.number()).wrapping_sub(0x4000))
            .acknowledgement(u32::from(rest.number()).wrapping_sub(0x4000))
            .window(rest.number())
            .payload(&payload),
        (6, 0..=3) => frame.udp(from, to).payload(&payload),
        (6, 4) => frame.echo_request(from, 1),
        (6, 5) => frame.echo_reply(from, 1),
        (6, _) => frame.sctp(from, to, u32::from(rest.byte() & 1), rest.byte() & 15).payload(&payload),
        (_, 0..=3) => {
            let offset = u32::from(rest.byte() & 31) * 8;
            frame.udp(from, to).payload(&payload).fragment(u32::from(step >> 5), offset, ports & 0x80 != 0)
        }
        _ => {
            // An error about a packet the other way.
            let quoted = match direction {
                Direction::Egress => FrameBuilder::packet().ip(peer, own),
                Direction::Ingress => FrameBuilder::packet().ip(own, peer),
            };
            frame.packet_too_big(u32::from(rest.number()), &quoted.udp(to, from).build())
        }
    }
}
