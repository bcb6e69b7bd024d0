//! The frame's journey between `receive` and `act`: what becomes of one frame, decided in the order of the steps
//! below. Nothing here sends, counts frames or logs; that is the worker's single exit.

use crate::classify::WireSlot;
use crate::flow::{Crossing, FlowRef, FlowTable, Judged, Origin, Tracked};
use crate::fragment::{Admission, DatagramRef, FragmentTable};
use crate::frame::Frame;
use crate::guard::Passage;
use crate::packet::{Direction, Icmp, IcmpMessage, Packet, Parsed, Payload, Protocol, Transport, Tuple};
use crate::parse::parse;
use crate::publish::Snapshot;
use crate::rules::{Action, Decision, Epoch, Query, RuleId};
use crate::verdict::DropReason;
use crate::wire::Wire;
use crate::worker::parking::Finding;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It leaves by the other port.
    Forward,
    /// It is dropped.
    Drop(DropReason),
    /// It waits for control's answer about this kind of question.
    Ask(u16),
    /// It waits for the first fragment of its datagram.
    Hold(DatagramRef),
}

/// What was learnt on the way, for the log and the trace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    pub(super) tuple: Option<Tuple>,
    pub(super) packet: Option<Packet>,
    /// The classifier was asked, and this is what it said.
    pub(super) decision: Option<Decision>,
    /// The direction whose policy it was asked about.
    pub(super) judged: Option<Direction>,
    /// A live flow was judged again.
    pub(super) rejudged: bool,
    /// The frame is the first fragment of this datagram: held ones follow it.
    pub(super) first_of: Option<DatagramRef>,
}

impl Report {
    pub(super) fn rule(&self) -> Option<RuleId> {
        self.decision.and_then(|decision| decision.rule)
    }
}

/// What a frame that has waited brings along: it goes on from where it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumed {
    /// Who talks to whom: a held fragment's is that of its datagram's first.
    pub(super) tuple: Tuple,
    /// Control's answer, if the frame was parked for one.
    pub(super) finding: Option<Finding>,
}

/// All that a frame's fate depends on.
pub(super) struct Journey<'a> {
    pub(super) wire: &'a mut Wire,
    pub(super) crossing: Crossing,
    pub(super) policy: &'a Snapshot,
    /// The wire's place in the policy; `None` when the policy does not know the wire.
    pub(super) slot: Option<WireSlot>,
    pub(super) flows: &'a mut FlowTable,
    pub(super) fragments: &'a mut FragmentTable,
    /// Set when the frame has waited.
    pub(super) resumed: Option<Resumed>,
    /// What control said that the flow stands for.
    pub(super) judged_as: Option<Query>,
    pub(super) report: Report,
}

impl Journey<'_> {
    /// The whole journey of one frame.
    pub(super) fn fate(&mut self, frame: &Frame) -> Fate {
        match self.steps(frame) {
            Ok(fate) => fate,
            Err(reason) => Fate::Drop(reason),
        }
    }

    fn steps(&mut self, frame: &Frame) -> Result<Fate, DropReason> {
        let parsed = parse(frame, self.wire.medium)?;
        if let Payload::Ip(packet) = &parsed.payload {
            self.report.packet = Some(*packet);
            self.report.tuple = Some(packet.tuple());
        }
        self.wire.carries(frame)?;
        let packet = match self.guard(&parsed)? {
            Some(packet) => packet,
            None => return Ok(Fate::Forward),
        };
        let tuple = match self.fragment(&packet)? {
            Admission::Whole => packet.tuple(),
            Admission::First(datagram) => {
                self.report.first_of = Some(datagram);
                packet.tuple()
            }
            Admission::Later(tuple) => tuple,
            Admission::Hold(datagram) => return Ok(Fate::Hold(datagram)),
        };
        self.report.tuple = Some(tuple);
        if let Transport::Icmp(icmp) = packet.transport {
            match icmp.message {
                IcmpMessage::Error { .. } => return self.related(&packet),
                IcmpMessage::EchoRequest(_) | IcmpMessage::EchoReply(_) => {}
                _ => return self.stateless(&packet, icmp),
            }
        }
        match self.flows.find(&self.crossing, &tuple) {
            Some((flow, origin)) => self.known(flow, origin, &packet, &tuple),
            None => self.new_flow(&packet, &tuple),
        }
    }

    /// What the endpoint may say of itself. `None`: the frame passes without being judged by policy.
    fn guard(&mut self, parsed: &Parsed) -> Result<Option<Packet>, DropReason> {
        match (self.wire.guard.check(self.crossing.direction, parsed, self.crossing.now)?, parsed.payload) {
            (Passage::Judge, Payload::Ip(packet)) => Ok(Some(packet)),
            _ => Ok(None),
        }
    }

    /// Gives a later fragment the tuple of its first.
    fn fragment(&mut self, packet: &Packet) -> Result<Admission, DropReason> {
        match self.resumed {
            Some(Resumed { tuple, .. }) => Ok(Admission::Later(tuple)),
            None => self.fragments.admit(&self.crossing, packet),
        }
    }

    /// An ICMP error passes if it is about a live flow that policy still allows.
    fn related(&mut self, packet: &Packet) -> Result<Fate, DropReason> {
        let flow = self.flows.find_related(&self.crossing, packet)?;
        self.judge_again(flow)
    }

    /// ICMP that is neither echo nor error has no flow: each message is judged by itself.
    fn stateless(&mut self, packet: &Packet, icmp: Icmp) -> Result<Fate, DropReason> {
        let peer = self.peer(&packet.tuple());
        let port = u16::from(icmp.kind) << 8 | u16::from(icmp.code);
        let decision = self.classify(self.crossing.direction, Query { peer, protocol: packet.protocol, port })?;
        match decision.action {
            Action::Allow | Action::Pass => Ok(Fate::Forward),
            Action::Deny | Action::Ask(_) => Err(DropReason::PolicyDenied),
        }
    }

    fn known(&mut self, flow: FlowRef, origin: Origin, packet: &Packet, tuple: &Tuple) -> Result<Fate, DropReason> {
        match self.judge_again(flow)? {
            Fate::Forward => {}
            waiting => return Ok(waiting),
        }
        match self.flows.track(flow, origin, packet, &self.crossing)? {
            Tracked::Continue => Ok(Fate::Forward),
            Tracked::Reopen => self.new_flow(packet, tuple),
        }
    }

    /// A flow whose policy epoch is older than its wire's is judged again, as the tuple it was judged as, before
    /// another of its frames passes.
    fn judge_again(&mut self, flow: FlowRef) -> Result<Fate, DropReason> {
        let Judged { direction, tuple, epoch } = self.flows.judged(flow);
        let current = self.epoch(direction)?;
        if epoch == current {
            return Ok(Fate::Forward);
        }
        self.report.rejudged = true;
        let decision = self.classify(direction, query(direction, &tuple))?;
        match self.settle(direction, decision) {
            Ok(Fate::Forward) => {
                self.note_judged_as(flow);
                self.flows.set_epoch(flow, current);
                Ok(Fate::Forward)
            }
            Ok(waiting) => Ok(waiting),
            Err(reason) => {
                self.flows.cut(flow, self.crossing.now);
                Err(reason)
            }
        }
    }

    fn new_flow(&mut self, packet: &Packet, tuple: &Tuple) -> Result<Fate, DropReason> {
        self.flows.can_open(packet, self.crossing.now)?;
        let epoch = self.epoch(self.crossing.direction)?;
        let decision = self.classify(self.crossing.direction, query(self.crossing.direction, tuple))?;
        match self.settle(self.crossing.direction, decision)? {
            Fate::Forward => {
                let flow = self.flows.insert(&self.crossing, packet, tuple, epoch)?;
                self.note_judged_as(flow);
                Ok(Fate::Forward)
            }
            waiting => Ok(waiting),
        }
    }

    fn epoch(&self, direction: Direction) -> Result<Epoch, DropReason> {
        self.slot.map(|slot| self.policy.epoch(slot, direction)).ok_or(DropReason::WireClosed)
    }

    fn classify(&mut self, direction: Direction, query: Query) -> Result<Decision, DropReason> {
        let slot = self.slot.ok_or(DropReason::WireClosed)?;
        let decision = self.policy.classifier().judge(slot, direction, query);
        self.report.decision = Some(decision);
        self.report.judged = Some(direction);
        Ok(decision)
    }

    /// Turns a decision into a fate; an `Ask` uses control's answer if the frame has been parked for it.
    fn settle(&mut self, direction: Direction, decision: Decision) -> Result<Fate, DropReason> {
        match (decision.action, self.resumed.and_then(|resumed| resumed.finding)) {
            (Action::Allow | Action::Pass, _) => Ok(Fate::Forward),
            (Action::Deny, _) => Err(DropReason::PolicyDenied),
            (Action::Ask(kind), None) => Ok(Fate::Ask(kind)),
            (Action::Ask(_), Some(Finding::Allow)) => Ok(Fate::Forward),
            (Action::Ask(_), Some(Finding::Deny)) => Err(DropReason::AskDenied),
            (Action::Ask(_), Some(Finding::JudgeAs(tuple))) => {
                match self.classify(direction, query(direction, &tuple))?.action {
                    Action::Allow | Action::Pass => {
                        self.judged_as = Some(query(direction, &tuple));
                        Ok(Fate::Forward)
                    }
                    Action::Deny | Action::Ask(_) => Err(DropReason::AskDenied),
                }
            }
        }
    }

    /// A flow that control explained is judged as what it stands for from here on.
    fn note_judged_as(&mut self, flow: FlowRef) {
        if let Some(Query { peer, port, .. }) = self.judged_as.take() {
            self.flows.judge_as(flow, peer, port);
        }
    }

    fn peer(&self, tuple: &Tuple) -> crate::address::Address {
        query(self.crossing.direction, tuple).peer
    }
}

/// What the rules are asked about a flow whose first frame crossed the wire in this direction.
pub(super) fn query(direction: Direction, tuple: &Tuple) -> Query {
    let peer = match direction {
        Direction::Egress => tuple.destination,
        Direction::Ingress => tuple.source,
    };
    // An echo's tuple carries its identifier; rules know ICMP by type and code.
    let port = match tuple.protocol {
        Protocol::ICMP => 8 << 8,
        Protocol::ICMPV6 => 128 << 8,
        _ => tuple.destination_port,
    };
    Query { peer, protocol: tuple.protocol, port }
}
