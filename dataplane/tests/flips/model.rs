//! What is sent, and what has to become of it: a model of the conversations that is moved by the trace alone.

use std::collections::HashMap;

use dataplane::event::Trace;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::publish::Generation;
use dataplane::rules::{Action, Policy};
use dataplane::testing::FrameBuilder;
use dataplane::verdict::{DropReason, Verdict};

use crate::support::{INSIDE, OUTSIDE, POD, POD6, chain, rule};

/// The far ends, one a family.
const PEERS: [&str; 2] = ["10.77.7.7", "fd77::7"];
/// Bytes of a sequence number: each frame's whole payload.
const MARK: usize = 8;

/// Egress and ingress rules of a variant. Port 1000 is always allowed, port 2000 in variant 0 only, and what enters to port
/// 3000 in variant 1 only.
pub(crate) fn rules(variant: usize) -> (Policy, Policy) {
    let to = |id, protocol, port| rule(id, Action::Allow, &[], Some((protocol, port)));
    let mut egress = vec![to(1, Protocol::TCP, 1000), to(2, Protocol::UDP, 1000)];
    let mut ingress = vec![];
    if variant == 0 {
        egress.extend([to(3, Protocol::TCP, 2000), to(4, Protocol::UDP, 2000)]);
    } else {
        ingress.push(to(5, Protocol::UDP, 3000));
    }
    (chain(egress, Action::Deny), chain(ingress, Action::Deny))
}

/// The conversations of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A frame of a handshake, or the first of a conversation, before the flips.
    Opening,
    /// UDP to port 1000, and its answers.
    Steady,
    SteadyReply,
    /// Data of an established connection to port 1000, both ways.
    Connection,
    ConnectionReply,
    /// UDP to port 2000, and its answers.
    Flipping,
    FlippingReply,
    /// UDP from outside to port 3000.
    Entering,
    /// Data of a connection to port 2000 that was established before the first flip.
    Doomed,
    /// A connection attempt to port 2000, again and again.
    Knocking,
}

impl Kind {
    /// Those that every variant allows.
    pub(crate) const ALWAYS: [Kind; 4] = [Kind::Steady, Kind::SteadyReply, Kind::Connection, Kind::ConnectionReply];
    /// All that go on.
    pub(crate) const ALL: [Kind; 9] = [
        Kind::Steady,
        Kind::Flipping,
        Kind::SteadyReply,
        Kind::FlippingReply,
        Kind::Connection,
        Kind::Entering,
        Kind::ConnectionReply,
        Kind::Doomed,
        Kind::Knocking,
    ];

    fn direction(self) -> Direction {
        match self {
            Kind::SteadyReply | Kind::ConnectionReply | Kind::FlippingReply | Kind::Entering => Direction::Ingress,
            _ => Direction::Egress,
        }
    }
}

/// A frame that was sent.
#[derive(Clone, Copy)]
struct Sent {
    kind: Kind,
    family: usize,
    verdict: Option<Verdict>,
    arrived: bool,
}

/// What there is of a family's conversations, as the trace tells.
#[derive(Clone, Copy, Default)]
struct Flows {
    flipping: bool,
    doomed: bool,
}

/// The model.
pub(crate) struct Model {
    templates: HashMap<(Kind, usize), Vec<u8>>,
    sent: Vec<Sent>,
    flows: [Flows; 2],
    /// By generation.
    variants: HashMap<u64, usize>,
    newest: u64,
    /// The last generation that the trace has told.
    generation: u64,
    judged: u64,
    judged_in_newest: u64,
    forwarded: u64,
    arrived: u64,
    switches: u64,
}

impl Model {
    pub(crate) fn new() -> Model {
        let mut templates = HashMap::new();
        for family in 0..PEERS.len() {
            for kind in Kind::ALL {
                templates.insert((kind, family), template(kind, family));
            }
        }
        Model {
            templates,
            sent: Vec::new(),
            flows: [Flows { flipping: false, doomed: true }; 2],
            variants: HashMap::new(),
            newest: 0,
            generation: 0,
            judged: 0,
            judged_in_newest: 0,
            forwarded: 0,
            arrived: 0,
            switches: 0,
        }
    }

    /// A variant of the rules was published.
    pub(crate) fn published(&mut self, generation: Generation, variant: usize) {
        self.variants.insert(generation.0, variant);
        (self.newest, self.judged_in_newest) = (generation.0, 0);
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.len() as u64
    }

    pub(crate) fn judged(&self) -> u64 {
        self.judged
    }

    /// Frames that were judged by the newest rules.
    pub(crate) fn judged_in_newest(&self) -> u64 {
        self.judged_in_newest
    }

    /// Frames that were sent and not judged.
    pub(crate) fn under_way(&self) -> u64 {
        self.sent() - self.judged
    }

    /// Frames that were forwarded and have not come out.
    pub(crate) fn not_arrived(&self) -> u64 {
        self.forwarded - self.arrived
    }

    /// The frames that make conversations, in order.
    pub(crate) fn openings(&mut self) -> Vec<(Direction, Vec<u8>)> {
        const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
        let mut frames = Vec::new();
        for (family, peer) in PEERS.into_iter().enumerate() {
            frames.push((Direction::Egress, family, template(Kind::Steady, family)));
            for (port, far) in [(10, 1000), (20, 2000)] {
                let syn = out(peer).tcp(port, far, TcpFlags::SYN).window(65_000);
                let syn_ack = back(peer).tcp(far, port, SYN_ACK).sequence(100).acknowledgement(1).window(65_000);
                frames.push((Direction::Egress, family, marked(syn)));
                frames.push((Direction::Ingress, family, marked(syn_ack)));
                frames.push((Direction::Egress, family, data(peer, port, far)));
            }
        }
        let number = |(direction, family, frame)| (direction, self.number(Kind::Opening, family, frame));
        frames.into_iter().map(number).collect()
    }

    /// The next frame of one of these kinds.
    pub(crate) fn next(&mut self, kinds: &[Kind]) -> (Direction, Vec<u8>) {
        let turn = self.sent.len();
        let (kind, family) = (kinds[turn % kinds.len()], turn / kinds.len() % PEERS.len());
        let frame = self.templates[&(kind, family)].clone();
        (kind.direction(), self.number(kind, family, frame))
    }

    fn number(&mut self, kind: Kind, family: usize, mut frame: Vec<u8>) -> Vec<u8> {
        let at = frame.len() - MARK;
        frame[at..].copy_from_slice(&(self.sent.len() as u64).to_be_bytes());
        self.sent.push(Sent { kind, family, verdict: None, arrived: false });
        frame
    }

    /// Holds a frame's fate against the rules of its generation.
    pub(crate) fn check(&mut self, trace: &Trace) {
        assert!(trace.generation >= self.generation, "generations never go back on a wire: {trace:?}");
        self.switches += u64::from(trace.generation != self.generation);
        self.generation = trace.generation;
        let ours = |tuple: dataplane::packet::Tuple| {
            let ends = [tuple.source, tuple.destination].map(|end| end.to_string());
            PEERS.iter().any(|peer| ends.iter().any(|end| end == peer))
        };
        if !trace.tuple.is_some_and(ours) {
            // The devices' own kernels have something to say now and then.
            return;
        }
        let number = u64::from_be_bytes(trace.mark) as usize;
        let Sent { kind, family, verdict, .. } = self.sent[number];
        assert_eq!(verdict, None, "frame {number} was judged twice");
        let open = self.variants[&trace.generation] == 0;
        let expected = self.expected(kind, family, open);
        let dropped = matches!(trace.verdict, Verdict::Drop(DropReason::PolicyDenied | DropReason::FlowCut));
        match expected {
            Expected::Forward => assert_eq!(trace.verdict, Verdict::Forward, "{kind:?} {trace:?}"),
            Expected::Denied => {
                assert_eq!(trace.verdict, Verdict::Drop(DropReason::PolicyDenied), "{kind:?} {trace:?}");
            }
            Expected::Gone => assert!(dropped, "{kind:?} {trace:?}"),
        }
        self.sent[number].verdict = Some(trace.verdict);
        self.judged += 1;
        self.judged_in_newest += u64::from(trace.generation == self.newest);
        self.forwarded += u64::from(trace.verdict == Verdict::Forward);
    }

    fn expected(&mut self, kind: Kind, family: usize, open: bool) -> Expected {
        let flows = &mut self.flows[family];
        let by = |allowed| if allowed { Expected::Forward } else { Expected::Denied };
        match kind {
            Kind::Opening | Kind::Steady | Kind::SteadyReply | Kind::Connection | Kind::ConnectionReply => by(true),
            Kind::Entering => by(!open),
            Kind::Knocking => by(open),
            // A denied UDP flow is forgotten, and the next allowed packet opens it anew.
            Kind::Flipping => {
                flows.flipping = open;
                by(open)
            }
            // An answer passes while there is its question's flow.
            Kind::FlippingReply => {
                flows.flipping &= open;
                by(flows.flipping)
            }
            // Once cut, for ever cut.
            Kind::Doomed if flows.doomed => {
                flows.doomed = open;
                by(open)
            }
            Kind::Doomed => Expected::Gone,
        }
    }

    /// A frame came out at the far end.
    pub(crate) fn arrived(&mut self, bytes: &[u8]) {
        let macs = [[OUTSIDE.0, INSIDE.0].concat(), [INSIDE.0, OUTSIDE.0].concat()];
        if bytes.len() < 12 + MARK || !macs.iter().any(|macs| bytes.starts_with(macs)) {
            return;
        }
        let mark: [u8; MARK] = bytes[bytes.len() - MARK..].try_into().expect("its length");
        let number = u64::from_be_bytes(mark) as usize;
        let sent = &mut self.sent[number];
        assert!(!sent.arrived, "frame {number} came out twice");
        assert!(!matches!(sent.verdict, Some(Verdict::Drop(_))), "frame {number} was dropped and came out");
        sent.arrived = true;
        self.arrived += 1;
    }

    /// Everything was judged, and what was forwarded has come out, and nothing else.
    pub(crate) fn finish(&self, flips: u64) {
        for (number, sent) in self.sent.iter().enumerate() {
            let verdict = sent.verdict.unwrap_or_else(|| panic!("frame {number} ({:?}) is lost", sent.kind));
            assert_eq!(verdict == Verdict::Forward, sent.arrived, "frame {number} ({:?})", sent.kind);
        }
        assert_eq!(self.switches, flips + 1, "frames were judged by every generation");
        for kind in Kind::ALL {
            let fates = |forwarded| {
                let this = |sent: &&Sent| sent.kind == kind && (sent.verdict == Some(Verdict::Forward)) == forwarded;
                self.sent.iter().filter(this).count()
            };
            let (passed, denied) = (fates(true), fates(false));
            println!("{kind:?}: {passed} passed, {denied} did not");
            assert_eq!(denied == 0, Kind::ALWAYS.contains(&kind));
        }
    }
}

/// What the rules want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Forward,
    Denied,
    /// Dropped, because its connection was cut or because it is denied.
    Gone,
}

fn out(peer: &str) -> FrameBuilder {
    let pod = if peer.contains(':') { POD6 } else { POD };
    FrameBuilder::new().ethernet(INSIDE, OUTSIDE).ip(pod, peer)
}

fn back(peer: &str) -> FrameBuilder {
    let pod = if peer.contains(':') { POD6 } else { POD };
    FrameBuilder::new().ethernet(OUTSIDE, INSIDE).ip(peer, pod)
}

fn marked(frame: FrameBuilder) -> Vec<u8> {
    frame.payload(&[0; MARK]).build()
}

/// The same data of a connection again: a retransmission.
fn data(peer: &str, port: u16, far: u16) -> Vec<u8> {
    marked(out(peer).tcp(port, far, TcpFlags::ACK).sequence(1).acknowledgement(101).window(65_000))
}

fn template(kind: Kind, family: usize) -> Vec<u8> {
    let peer = PEERS[family];
    match kind {
        Kind::Opening | Kind::Steady => marked(out(peer).udp(30, 1000)),
        Kind::SteadyReply => marked(back(peer).udp(1000, 30)),
        Kind::Connection => data(peer, 10, 1000),
        Kind::ConnectionReply => {
            marked(back(peer).tcp(1000, 10, TcpFlags::ACK).sequence(101).acknowledgement(1).window(65_000))
        }
        Kind::Flipping => marked(out(peer).udp(40, 2000)),
        Kind::FlippingReply => marked(back(peer).udp(2000, 40)),
        Kind::Entering => marked(back(peer).udp(50, 3000)),
        Kind::Doomed => data(peer, 20, 2000),
        Kind::Knocking => marked(out(peer).tcp(60, 2000, TcpFlags::SYN).window(65_000)),
    }
}
