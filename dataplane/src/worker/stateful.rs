//! The journey under rules that look at connections: every packet is asked about, with the state of its connection, as iptables does it.
//! What has been found out beforehand (packets of answered connections pass) is not asked again.

use crate::classify::stateful::StatefulTable;
use crate::flow::{FlowRef, Origin, Tracked};
use crate::packet::{Direction, Icmp, Packet, Protocol, Transport, Tuple};
use crate::publish::Snapshot;
use crate::rules::stateful::{ConnectionState, StatefulRules};
use crate::rules::{Action, Decision, Query};
use crate::verdict::DropReason;
use crate::worker::ahead::Lookup;
use crate::worker::journey::{Fate, Journey};

impl<'a> Journey<'a, '_> {
    /// The rules of the frame's direction, if they look at connections.
    #[inline]
    pub(super) fn stateful(&self) -> Option<&'a StatefulTable> {
        let policy: &'a Snapshot = self.policy;
        policy.classifier().stateful(self.wire.standing.slot?, self.crossing.direction)
    }

    /// A packet of a known flow. The flow has moved on by it, whatever the rules say: so it does in the kernel.
    pub(super) fn known_by_state(
        &mut self,
        table: &StatefulTable,
        flow: FlowRef,
        origin: Origin,
        packet: &Packet,
        lookup: &Lookup,
    ) -> Result<Fate, DropReason> {
        let answered = origin == Origin::Reply || self.flows.entry(flow).is_answered();
        let tuple = lookup.key.tuple(self.crossing.direction);
        match self.flows.track(flow, origin, packet, &self.crossing) {
            // It has nothing that rules look at beside what its first one had, and that one was asked about.
            Ok(Tracked::Continue) if packet.transport == Transport::Fragment => Ok(Fate::Forward),
            Ok(Tracked::Continue) => {
                let state = if answered { ConnectionState::Established } else { ConnectionState::New };
                self.judge_in_state(table, state, packet, &tuple)
            }
            Ok(Tracked::Reopen) => self.new_by_state(table, packet, lookup),
            Err(DropReason::FlowCut) => Err(DropReason::FlowCut),
            Err(reason) => self.invalid(table, packet, &tuple, reason),
        }
    }

    /// A packet of no flow.
    pub(super) fn new_by_state(
        &mut self,
        table: &StatefulTable,
        packet: &Packet,
        lookup: &Lookup,
    ) -> Result<Fate, DropReason> {
        let direction = self.crossing.direction;
        let tuple = lookup.key.tuple(direction);
        if let Err(reason) = self.flows.can_open(packet, self.crossing.now) {
            return self.invalid(table, packet, &tuple, reason);
        }
        let epoch = self.wire.standing.epoch(direction)?;
        // What was asked beforehand was asked about a segment that opens a connection.
        let decision = match (self.foretold, packet.transport) {
            (Some(decision), Transport::Udp { .. }) => decision,
            _ => table.judge(direction, ConnectionState::New, shown(direction, packet, &tuple)),
        };
        match self.decide(table.rules(), decision)? {
            Fate::Forward => {
                self.flows.insert_hashed(&lookup.key, lookup.hash, &self.crossing, packet, epoch)?;
                Ok(Fate::Forward)
            }
            rejected => Ok(rejected),
        }
    }

    /// A packet that fits no connection: if the rules let it pass, it does, and nothing is kept of it. Otherwise it is dropped for what is
    /// wrong with it.
    pub(super) fn invalid(
        &mut self,
        table: &StatefulTable,
        packet: &Packet,
        tuple: &Tuple,
        reason: DropReason,
    ) -> Result<Fate, DropReason> {
        match self.judge_in_state(table, ConnectionState::Invalid, packet, tuple) {
            Err(DropReason::PolicyDenied) => Err(reason),
            fate => fate,
        }
    }

    /// ICMP that is neither echo nor error.
    pub(super) fn message_by_state(
        &mut self,
        table: &StatefulTable,
        packet: &Packet,
        icmp: Icmp,
    ) -> Result<Fate, DropReason> {
        let state = match (packet.protocol, icmp.kind) {
            // Timestamps, information, address masks; node information: questions and answers that the kernel tracks.
            (Protocol::ICMP, 13..=18) | (Protocol::ICMPV6, 139..=140) => ConnectionState::New,
            _ => ConnectionState::Invalid,
        };
        self.judge_in_state(table, state, packet, &packet.tuple())
    }

    /// Asks the rules about a packet as it shows itself.
    pub(super) fn judge_in_state(
        &mut self,
        table: &StatefulTable,
        state: ConnectionState,
        packet: &Packet,
        tuple: &Tuple,
    ) -> Result<Fate, DropReason> {
        let rules = table.rules();
        if state == ConnectionState::Established && rules.passes() {
            if let (Some(counters), Some(rule)) = (rules.counters(), rules.passed_by(tuple.source.is_v4())) {
                counters.count(self.worker, rule, 1, self.crossing.length.into(), self.crossing.now);
            }
            return Ok(Fate::Forward);
        }
        let direction = self.crossing.direction;
        let decision = table.judge(direction, state, shown(direction, packet, tuple));
        self.decide(rules, decision)
    }

    /// Turns what a list says into a fate.
    fn decide(&mut self, rules: &StatefulRules, decision: Decision) -> Result<Fate, DropReason> {
        let decision = self.go_course(rules, decision, true);
        self.report.decision = Some(decision);
        self.report.judged = Some(self.crossing.direction);
        match decision.action {
            Action::Allow | Action::Pass => Ok(Fate::Forward),
            Action::Reject(with) => Ok(Fate::Reject(with)),
            Action::Deny | Action::Ask(_) | Action::Course => Err(DropReason::PolicyDenied),
        }
    }

    /// What a list's decision comes to, where that is a course. A packet that is there is counted, and takes tokens; a flow that is
    /// judged again is taken to have had them.
    pub(super) fn go_course(&mut self, rules: &StatefulRules, decision: Decision, is_packet: bool) -> Decision {
        let (worker, length, now) = (self.worker, u64::from(self.crossing.length), self.crossing.now);
        let counters = rules.counters().filter(|_| is_packet);
        let count = |rule| {
            if let Some(counters) = counters {
                counters.count(worker, rule, 1, length, now);
            }
        };
        let (Action::Course, Some(number)) = (decision.action, decision.rule) else {
            decision.rule.into_iter().for_each(count);
            return decision;
        };
        let outcome = rules.follow(number, is_packet.then_some(now), count);
        let log = is_packet && !outcome.logs.is_empty();
        if is_packet {
            self.report.logs = outcome.logs;
        }
        let Some((action, rule)) = outcome.end else { return Decision::CLOSED };
        count(rule);
        Decision { action, rule: Some(rule), log }
    }
}

/// What the rules are asked about a packet itself: other than [`Query::opening`], with its own flags, and its type and code.
fn shown(direction: Direction, packet: &Packet, tuple: &Tuple) -> Query {
    let mut question = Query::opening(direction, tuple);
    match packet.transport {
        Transport::Tcp(segment) => question.flags = segment.flags,
        Transport::Icmp(icmp) => question.port = u16::from_be_bytes([icmp.kind, icmp.code]),
        _ => {}
    }
    question
}
