//! The frame's journey between `receive` and `act`: what becomes of one frame, decided in the order of the steps
//! below. Nothing here sends, counts frames or logs; that is the worker's single exit.

use arrayvec::ArrayVec;

use crate::address::Address;
use crate::flow::{Crossing, FlowRef, FlowTable, Judged, Origin, Tracked};
use crate::fragment::{Admission, DatagramRef, FragmentTable};
use crate::frame::Frame;
use crate::frontend::{Backend, Together, judge_together};
use crate::guard::Passage;
use crate::packet::{Direction, Icmp, IcmpMessage, Packet, Parsed, Payload, Transport, Tuple};
use crate::publish::Snapshot;
use crate::rules::stateful::{ConnectionState, MAX_LOGS};
use crate::rules::{Action, Decision, Epoch, Query, RejectWith, RuleId, asked};
use crate::verdict::DropReason;
use crate::wire::{Tracking, Wire};
use crate::worker::ahead::{Lookup, Read};
use crate::worker::parking::Finding;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It leaves by the other port.
    Forward,
    /// It is dropped.
    Drop(DropReason),
    /// It is dropped, and its sender is told.
    Reject(RejectWith),
    /// It waits for control's answer about this kind of question.
    Ask(u16),
    /// It waits for the first fragment of its datagram.
    Hold(DatagramRef),
    /// It belongs to the worker of this lane.
    HandOver(u16),
}

/// What was learnt on the way, for the log and the trace.
#[derive(Clone, Debug, Default)]
pub(super) struct Report<'a> {
    pub(super) packet: Option<&'a Packet>,
    /// Who talks to whom, where the packet does not show it: in a later fragment, or a frame that has waited.
    pub(super) stands_for: Option<Tuple>,
    /// The classifier was asked, and this is what it said.
    pub(super) decision: Option<Decision>,
    /// The direction whose policy it was asked about.
    pub(super) judged: Option<Direction>,
    /// The far end that it was judged as, and the port, if that is not what the packet shows.
    pub(super) judged_as: Option<(Address, u16)>,
    /// A live flow was judged again.
    pub(super) rejudged: bool,
    /// Rules that log it, if they are others than the one that decided.
    pub(super) logs: ArrayVec<RuleId, MAX_LOGS>,
    /// The frame is the first fragment of this datagram: held ones follow it.
    pub(super) first_of: Option<DatagramRef>,
}

impl Report<'_> {
    /// Who talks to whom, when the frame could be read that far.
    pub(super) fn tuple(&self) -> Option<Tuple> {
        self.stands_for.or_else(|| self.packet.map(Packet::tuple))
    }

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
pub(super) struct Journey<'a, 'r> {
    pub(super) wire: &'a mut Wire,
    pub(super) crossing: Crossing,
    pub(super) policy: &'a Snapshot,
    /// The frame's headers.
    pub(super) read: &'r Read,
    pub(super) flows: &'a mut FlowTable,
    pub(super) fragments: &'a mut FragmentTable,
    /// Set when the frame has waited.
    pub(super) resumed: Option<&'a Resumed>,
    /// What the policy says of the frame as the first of a new flow, if it has been asked already.
    pub(super) foretold: Option<Decision>,
    /// What control said that the flow stands for.
    pub(super) judged_as: Option<Query>,
    /// The worker's number.
    pub(super) worker: usize,
    pub(super) report: &'a mut Report<'r>,
}

impl<'a> Journey<'a, '_> {
    /// The whole journey of one frame.
    #[inline]
    pub(super) fn fate(&mut self, frame: &Frame) -> Fate {
        match self.steps(frame) {
            Ok(fate) => fate,
            Err(reason) => Fate::Drop(reason),
        }
    }

    #[inline]
    fn steps(&mut self, frame: &Frame) -> Result<Fate, DropReason> {
        let read = self.read;
        self.report.packet = read.packet();
        let parsed = read.parsed()?;
        self.wire.carries(frame)?;
        let (Passage::Judge, Payload::Ip(packet)) = (self.guard(parsed)?, &parsed.payload) else {
            return Ok(Fate::Forward);
        };
        if self.wire.hand_off.is_some()
            && let Some(elsewhere) = self.fragments_elsewhere(frame, packet)
        {
            return Ok(elsewhere);
        }
        let of_first;
        let lookup = match self.fragment(packet)? {
            Admission::Whole => read.lookup(),
            Admission::First(datagram) => {
                self.report.first_of = Some(datagram);
                read.lookup()
            }
            Admission::Later(tuple) => {
                self.report.stands_for = Some(tuple);
                of_first = self.look_up(tuple);
                &of_first
            }
            Admission::Hold(datagram) => return Ok(Fate::Hold(datagram)),
        };
        if self.wire.tracking == Tracking::Off {
            return self.untracked(packet, lookup);
        }
        if self.wire.hand_off.is_some()
            && let Some(elsewhere) = self.flow_elsewhere(packet, lookup)
        {
            return Ok(elsewhere);
        }
        if let Transport::Icmp(icmp) = packet.transport {
            match icmp.message {
                IcmpMessage::Error { .. } => return self.related(packet),
                IcmpMessage::EchoRequest(_) | IcmpMessage::EchoReply(_) => {}
                _ => return self.stateless(packet, icmp),
            }
        }
        match self.flows.find_hashed(&lookup.key, lookup.hash, &self.crossing) {
            Some((flow, origin)) => self.known(flow, origin, packet, lookup),
            None => self.new_flow(packet, lookup),
        }
    }

    /// What the endpoint may say of itself.
    #[inline]
    fn guard(&mut self, parsed: &Parsed) -> Result<Passage, DropReason> {
        self.wire.guard.check(self.crossing.direction, parsed, self.crossing.now)
    }

    /// Gives a later fragment the tuple of its first.
    #[inline]
    fn fragment(&mut self, packet: &Packet) -> Result<Admission, DropReason> {
        match (self.resumed, packet.fragment) {
            (Some(Resumed { tuple, .. }), _) => Ok(Admission::Later(*tuple)),
            (None, None) => Ok(Admission::Whole),
            (None, Some(_)) => self.fragments.admit(&self.crossing, packet),
        }
    }

    /// What the flow of another tuple than the frame's is looked up by.
    fn look_up(&self, tuple: Tuple) -> Lookup {
        Lookup::new(&tuple, self.crossing.wire, self.crossing.direction, self.flows)
    }

    /// A wire without tracking: each frame is judged by the policy of its direction.
    fn untracked(&mut self, packet: &Packet, lookup: &Lookup) -> Result<Fate, DropReason> {
        if let Transport::Icmp(icmp) = packet.transport {
            return self.stateless(packet, icmp);
        }
        if let Some(table) = self.stateful() {
            let tuple = lookup.key.tuple(self.crossing.direction);
            return self.judge_in_state(table, ConnectionState::New, packet, &tuple);
        }
        let decision = self.classify_frame(lookup)?;
        let direction = self.crossing.direction;
        self.settle(direction, Query::opening(direction, &lookup.key.tuple(direction)), decision)
    }

    /// An ICMP error passes if it is about a live flow that policy still allows.
    fn related(&mut self, packet: &Packet) -> Result<Fate, DropReason> {
        let table = self.stateful();
        let flow = match (self.flows.find_related(&self.crossing, packet), table) {
            (Err(reason), Some(table)) => return self.invalid(table, packet, &packet.tuple(), reason),
            (found, _) => found?,
        };
        match (self.judge_again(flow)?, table) {
            (Fate::Forward, None) => Ok(Fate::Forward),
            (Fate::Forward, Some(table)) => {
                self.judge_in_state(table, ConnectionState::Related, packet, &packet.tuple())
            }
            // The next frame of the flow itself asks; this one does not say enough.
            _ => Err(DropReason::AskUnknown),
        }
    }

    /// ICMP that is neither echo nor error has no flow: each message is judged by itself.
    fn stateless(&mut self, packet: &Packet, icmp: Icmp) -> Result<Fate, DropReason> {
        if let Some(table) = self.stateful() {
            return self.message_by_state(table, packet, icmp);
        }
        let port = u16::from(icmp.kind) << 8 | u16::from(icmp.code);
        let question = Query { port, ..Query::opening(self.crossing.direction, &packet.tuple()) };
        let decision = self.classify(self.crossing.direction, question)?;
        match decision.action {
            Action::Allow | Action::Pass => Ok(Fate::Forward),
            Action::Reject(with) => Ok(Fate::Reject(with)),
            Action::Deny | Action::Ask(_) | Action::Course => Err(self.denied(self.crossing.direction, question.peer)),
        }
    }

    #[inline]
    fn known(&mut self, flow: FlowRef, origin: Origin, packet: &Packet, lookup: &Lookup) -> Result<Fate, DropReason> {
        match self.judge_again(flow)? {
            Fate::Forward => {}
            waiting => return Ok(waiting),
        }
        if let Some(table) = self.stateful() {
            return self.known_by_state(table, flow, origin, packet, lookup);
        }
        match self.flows.track(flow, origin, packet, &self.crossing)? {
            Tracked::Continue => Ok(Fate::Forward),
            Tracked::Reopen => self.new_flow(packet, lookup),
        }
    }

    /// A flow whose policy epoch is older than its wire's is judged again, as the tuple it was judged as, before
    /// another of its frames passes.
    #[inline]
    fn judge_again(&mut self, flow: FlowRef) -> Result<Fate, DropReason> {
        let (direction, epoch) = self.flows.judged_in(flow);
        let current = self.epoch(direction)?;
        if epoch == current {
            return Ok(Fate::Forward);
        }
        self.judge_stale(flow, current)
    }

    #[cold]
    fn judge_stale(&mut self, flow: FlowRef, current: Epoch) -> Result<Fate, DropReason> {
        self.report.rejudged = true;
        let Judged { direction, tuple, stands_for, .. } = self.flows.judged(flow);
        let question = Query::opening(direction, &tuple);
        let settled = if stands_for && question.peer == question.local {
            // Nobody is kept from itself.
            Ok(Fate::Forward)
        } else if !stands_for && let Some(backends) = self.frontend(direction, &question) {
            // Which backend it reached is known by now, and that one is to be judged.
            self.settle_frontend(direction, question, backends, true)
        } else {
            let decision = self.classify(direction, question)?;
            match decision.action {
                // It was asked before: the host itself.
                Action::Ask(asked::CLIENT | asked::HOST) if stands_for => Ok(Fate::Forward),
                _ => self.settle(direction, question, decision),
            }
        };
        match settled {
            Ok(Fate::Forward) => {
                self.note_judged_as(flow)?;
                self.flows.set_epoch(flow, current);
                Ok(Fate::Forward)
            }
            Ok(rejected @ Fate::Reject(_)) => {
                self.flows.cut(flow, self.crossing.now);
                Ok(rejected)
            }
            Ok(waiting) => Ok(waiting),
            // Not to know is no verdict: the next frame asks again.
            Err(reason @ (DropReason::AskUnknown | DropReason::ServiceMixed)) => Err(reason),
            Err(reason) => {
                self.flows.cut(flow, self.crossing.now);
                Err(reason)
            }
        }
    }

    fn new_flow(&mut self, packet: &Packet, lookup: &Lookup) -> Result<Fate, DropReason> {
        if let Some(table) = self.stateful() {
            return self.new_by_state(table, packet, lookup);
        }
        self.flows.can_open(packet, self.crossing.now)?;
        let direction = self.crossing.direction;
        let epoch = self.epoch(direction)?;
        let question = Query::opening(direction, &lookup.key.tuple(direction));
        let decision = self.classify_frame(lookup)?;
        let settled = if decision != Decision::OPEN
            && let Some(backends) = self.frontend(direction, &question)
        {
            self.settle_frontend(direction, question, backends, false)
        } else {
            self.settle(direction, question, decision)
        };
        match settled? {
            Fate::Forward => {
                let flow = self.flows.insert_hashed(&lookup.key, lookup.hash, &self.crossing, packet, epoch)?;
                self.note_judged_as(flow)?;
                Ok(Fate::Forward)
            }
            waiting => Ok(waiting),
        }
    }

    #[inline]
    fn epoch(&self, direction: Direction) -> Result<Epoch, DropReason> {
        self.wire.standing.epoch(direction)
    }

    /// Asks about the frame, as it shows itself, unless that has been done.
    fn classify_frame(&mut self, lookup: &Lookup) -> Result<Decision, DropReason> {
        let direction = self.crossing.direction;
        let Some(decision) = self.foretold else {
            return self.classify(direction, Query::opening(direction, &lookup.key.tuple(direction)));
        };
        self.report.decision = Some(decision);
        self.report.judged = Some(direction);
        Ok(decision)
    }

    fn classify(&mut self, direction: Direction, query: Query) -> Result<Decision, DropReason> {
        let slot = self.wire.standing.slot.ok_or(DropReason::WireClosed)?;
        let policy: &'a Snapshot = self.policy;
        let mut decision = policy.classifier().judge(slot, direction, query);
        if let Some(table) = policy.classifier().stateful(slot, direction) {
            decision = self.go_course(table.rules(), decision, false);
        }
        self.report.decision = Some(decision);
        self.report.judged = Some(direction);
        Ok(decision)
    }

    /// The backends of the frontend that a packet is sent to.
    fn frontend(&self, direction: Direction, question: &Query) -> Option<&'a [Backend]> {
        let policy: &'a Snapshot = self.policy;
        match direction {
            Direction::Egress => policy.frontends().find(question.peer, question.protocol, question.port),
            Direction::Ingress => None,
        }
    }

    /// Turns what is said of a frontend's backends into a fate. Of a connection that `is_live` it is asked first which one it reaches:
    /// a frontend's backends come and go, and that one stays.
    #[cold]
    fn settle_frontend(
        &mut self,
        direction: Direction,
        question: Query,
        backends: &[Backend],
        is_live: bool,
    ) -> Result<Fate, DropReason> {
        let finding = self.resumed.and_then(|resumed| resumed.finding);
        match finding {
            Some(Finding::JudgeAs(tuple)) => {
                return self.judge_instead(direction, Query::opening(direction, &tuple), None);
            }
            Some(Finding::Deny) => return Err(DropReason::AskDenied),
            Some(Finding::Allow) => return Ok(Fate::Forward),
            Some(Finding::Unknown) => {}
            None if is_live => return Ok(Fate::Ask(asked::BACKEND)),
            None => {}
        }
        let slot = self.wire.standing.slot.ok_or(DropReason::WireClosed)?;
        let classifier = self.policy.classifier();
        let judge = |question| classifier.judge(slot, direction, question);
        let together = judge_together(backends, question, question.local, judge);
        let (Together::Allowed(decision) | Together::Denied(decision) | Together::Mixed(decision)) = together;
        self.report.decision = Some(decision);
        self.report.judged = Some(direction);
        match together {
            Together::Allowed(_) => Ok(Fate::Forward),
            Together::Denied(_) => Err(DropReason::ServiceDenied),
            // The kernel may know it from before: this table forgets sooner than that one.
            Together::Mixed(_) if finding.is_none() => Ok(Fate::Ask(asked::BACKEND)),
            Together::Mixed(_) if self.policy.frontends().mixed_pass() => Ok(Fate::Forward),
            Together::Mixed(_) => Err(DropReason::ServiceMixed),
        }
    }

    /// Turns a decision into a fate; an `Ask` uses control's answer if the frame has been parked for it.
    fn settle(&mut self, direction: Direction, question: Query, decision: Decision) -> Result<Fate, DropReason> {
        match (decision.action, self.resumed.and_then(|resumed| resumed.finding)) {
            (Action::Allow | Action::Pass, _) => Ok(Fate::Forward),
            (Action::Deny | Action::Course, _) => Err(self.denied(direction, question.peer)),
            (Action::Reject(with), _) => Ok(Fate::Reject(with)),
            (Action::Ask(kind), None) => Ok(Fate::Ask(kind)),
            (Action::Ask(kind), Some(Finding::Allow)) => {
                if matches!(kind, asked::CLIENT | asked::HOST) {
                    self.judged_as = Some(question);
                }
                Ok(Fate::Forward)
            }
            (Action::Ask(_), Some(Finding::Deny)) => Err(DropReason::AskDenied),
            (Action::Ask(_), Some(Finding::Unknown)) => Err(DropReason::AskUnknown),
            (Action::Ask(kind), Some(Finding::JudgeAs(tuple))) => {
                self.judge_instead(direction, Query::opening(direction, &tuple), Some(kind))
            }
        }
    }

    /// Judges what control said that the packet stands for.
    fn judge_instead(&mut self, direction: Direction, question: Query, kind: Option<u16>) -> Result<Fate, DropReason> {
        self.report.judged_as = Some((question.peer, question.port));
        // Nobody is kept from itself.
        let passes = question.peer == question.local || {
            let action = self.classify(direction, question)?.action;
            // An address that would be asked about is a host's own: it was the host that opened the connection.
            let is_host = matches!(action, Action::Ask(asked::CLIENT)) && kind == Some(asked::CLIENT);
            matches!(action, Action::Allow | Action::Pass) || is_host
        };
        if passes {
            self.judged_as = Some(question);
            return Ok(Fate::Forward);
        }
        Err(if kind.is_none() { DropReason::ServiceDenied } else { DropReason::AskDenied })
    }

    /// Why a packet is dropped that policy does not allow.
    #[cold]
    fn denied(&self, direction: Direction, peer: Address) -> DropReason {
        match direction {
            Direction::Ingress if self.policy.frontends().is_host(peer) => DropReason::OtherNode,
            _ => DropReason::PolicyDenied,
        }
    }

    /// A flow that control explained is judged as what it stands for from here on. Without room to note it the flow is gone.
    fn note_judged_as(&mut self, flow: FlowRef) -> Result<(), DropReason> {
        match self.judged_as.take() {
            Some(Query { peer, port, .. }) => self.flows.judge_as(flow, peer, port),
            None => Ok(()),
        }
    }
}
