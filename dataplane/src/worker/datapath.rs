//! All of a worker that a frame passes through, in one piece: its policy and its burst are borrowed meanwhile.

use std::io;
use std::slice::from_ref;

use super::act::Judged;
use super::ahead::{Ahead, Glance, Kind, Read, Seen};
use super::journey::{Fate, Journey, Report, Resumed};
use super::parking::{Answer, Parking};
use crate::event::{Event, Outbox, Trace};
use crate::flow::{Crossing, Current, FlowTable};
use crate::fragment::{DatagramRef, FragmentTable, Held};
use crate::frame::{Burst, Frame};
use crate::packet::{Direction, TcpSegment};
use crate::parse::segment;
use crate::port::Pool;
use crate::publish::{PolicyReader, Snapshot};
use crate::rules::stateful::Limiter;
use crate::rules::{Action, Decision, WireId};
use crate::time::Time;
use crate::verdict::DropReason;
use crate::wire::{Tracking, Wire};

/// Lets a frame pass if it is of a known flow that it leaves as it is.
#[inline(always)]
pub(super) fn pass(flows: &mut FlowTable, current: &Current, frame: &Frame, glance: &Glance) -> bool {
    let length = frame.bytes().len() as u32;
    match glance.kind {
        Kind::Unseen => false,
        Kind::Datagram => flows.pass_datagram(glance.candidate, &glance.words, current, length),
        Kind::Segment => segment_of(frame, glance)
            .is_some_and(|segment| flows.pass_segment(glance.candidate, &glance.words, current, length, &segment)),
    }
}

/// The TCP header that a glance has found in a frame, if it is as it should be.
#[inline(always)]
fn segment_of(frame: &Frame, glance: &Glance) -> Option<TcpSegment> {
    segment(frame.bytes().get(usize::from(glance.transport_offset)..)?, glance.transport_length.into())
}

/// The wires and what they share.
pub(super) struct Datapath {
    /// The worker's number.
    pub(super) id: usize,
    /// For errors that tell senders of rejections.
    pub(super) answers: Limiter,
    pub(super) wires: Vec<Option<Wire>>,
    /// The places of wires that other workers have lanes of.
    pub(super) lanes: Vec<usize>,
    pub(super) pools: Vec<Option<Pool>>,
    pub(super) flows: FlowTable,
    pub(super) fragments: FragmentTable,
    pub(super) parking: Parking,
    pub(super) events: Outbox<Event>,
    pub(super) trace: Option<Outbox<Trace>>,
}

/// Whose turn it is: a direction of a wire, with the policy and the time that its frames are judged by.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) at: usize,
    pub(super) direction: Direction,
    pub(super) policy: &'a Snapshot,
    pub(super) now: Time,
}

impl Datapath {
    pub(super) fn place_of(&self, id: WireId) -> Option<usize> {
        self.wires.iter().position(|wire| wire.as_ref().is_some_and(|wire| wire.id == id))
    }

    /// Takes a burst from a port. Nothing comes from a place without a wire.
    ///
    /// # Errors
    /// When the port is lost just now.
    pub(super) fn receive(&mut self, at: usize, direction: Direction, burst: &mut Burst, now: Time) -> io::Result<()> {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return Ok(()) };
        let Some(pool) = &mut self.pools[wire.pool] else { return Ok(()) };
        let received = wire.receive(direction, pool, burst, now);
        if let Err(error) = &received {
            let errno = error.raw_os_error().unwrap_or(0);
            self.events.post(Event::PortLost { wire: wire.id, side: direction, errno });
        }
        wire.stats.direction(direction).received.add(burst.len() as u64);
        received
    }

    /// All frames of a burst, in order, as if they had come one by one.
    ///
    /// A frame is large beside what is done with it: as long as all are of known flows they stay where they are, and leave with
    /// the burst that they came in.
    pub(super) fn judge_burst(&mut self, turn: &Turn<'_>, burst: &mut Box<Burst>, ahead: &mut Ahead) {
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return };
        wire.stand_in(turn.policy);
        // How many frames at the front of the burst are on their way out.
        let mut passed = 0;
        while passed < burst.len() {
            let Some(Some(wire)) = self.wires.get(turn.at) else { return };
            let whole = self.trace.is_some() || wire.standing.whole;
            let Seen { glances, decisions, reads } = ahead.read(&burst[passed..], wire, turn, &self.flows, whole);
            let plain = self.pass_plain(turn, &burst[passed..], glances, decisions);
            passed += plain;
            if plain == glances.len() {
                continue;
            }
            self.push_out(turn, burst.drain(..passed));
            passed = 0;
            for (at, frame) in (plain..glances.len()).zip(burst.drain(..glances.len() - plain)) {
                self.judge_glanced(turn, frame, &glances[at], &decisions[at], &mut reads[at]);
            }
        }
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return };
        let out = &mut wire.out[turn.direction as usize];
        if out.is_empty() {
            std::mem::swap(out, burst);
        } else {
            self.push_out(turn, burst.drain(..));
        }
    }

    /// Lets frames from the front of a burst pass as long as nothing but their counting is due: they are of known flows, or
    /// policy has allowed them beforehand. Says how many did.
    #[inline]
    fn pass_plain(
        &mut self,
        turn: &Turn<'_>,
        frames: &[Frame],
        glances: &[Glance],
        decisions: &[Option<Decision>],
    ) -> usize {
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return 0 };
        let current = wire.current(turn.direction, turn.now);
        let counting = wire.standing.slot.and_then(|slot| turn.policy.classifier().stateful(slot, turn.direction));
        let counting = counting.and_then(|table| Some((table.rules(), table.rules().counters()?)));
        // Of known flows, by family: packets and bytes.
        let mut known = [(0, 0); 2];
        let (mut passed, mut bytes, mut classified) = (0, 0, 0);
        for ((frame, glance), decision) in frames.iter().zip(glances).zip(decisions) {
            let length = frame.bytes().len() as u32;
            match decision {
                None if pass(&mut self.flows, &current, frame, glance) => {
                    if counting.is_some() {
                        let (packets, bytes) = &mut known[usize::from(!glance.words.is_v4())];
                        (*packets, *bytes) = (*packets + 1, *bytes + u64::from(length));
                    }
                }
                Some(Decision { action: Action::Allow | Action::Pass, log: false, rule }) => {
                    let passes = match (wire.tracking, glance.kind) {
                        (Tracking::Off, Kind::Segment) => segment_of(frame, glance).is_some(),
                        (Tracking::Off, _) => true,
                        (Tracking::Stateful, Kind::Datagram) => {
                            self.flows.open_datagram(wire.id, &glance.words, glance.hash, &current, length)
                        }
                        (Tracking::Stateful, _) => false,
                    };
                    if !passes {
                        break;
                    }
                    classified += 1;
                    if let (Some((_, counters)), Some(rule)) = (counting, rule) {
                        counters.count(self.id, *rule, 1, length.into(), turn.now);
                    }
                }
                _ => break,
            }
            passed += 1;
            bytes += u64::from(length);
        }
        if let Some((rules, counters)) = counting {
            for (is_v4, (packets, bytes)) in [true, false].into_iter().zip(known) {
                if let (1.., Some(rule)) = (packets, rules.passed_by(is_v4)) {
                    counters.count(self.id, rule, packets, bytes, turn.now);
                }
            }
        }
        let tally = &mut wire.tallies[turn.direction as usize];
        tally.forwarded += passed as u64;
        tally.forwarded_segments += passed as u64;
        tally.forwarded_bytes += bytes;
        tally.classified += classified;
        passed
    }

    /// Frames that pass, to be sent with what waits on the wire.
    fn push_out(&mut self, turn: &Turn<'_>, frames: impl Iterator<Item = Frame>) {
        let Some(Some(mut wire)) = self.wires.get_mut(turn.at).map(Option::as_mut) else { return };
        for frame in frames {
            wire.out[turn.direction as usize].push(frame);
            if wire.out[turn.direction as usize].is_full() {
                self.flush(turn.at, turn.now);
                let Some(Some(again)) = self.wires.get_mut(turn.at) else { return };
                wire = again;
            }
        }
    }

    /// One frame of a burst in which not all pass at once.
    fn judge_glanced(
        &mut self,
        turn: &Turn<'_>,
        mut frame: Frame,
        glance: &Glance,
        decision: &Option<Decision>,
        read: &mut Read,
    ) {
        if glance.kind == Kind::Unseen {
            return self.judge(turn, frame, read, None, None);
        }
        let (frames, glances, decisions) = (from_ref(&frame), from_ref(glance), from_ref(decision));
        if self.pass_plain(turn, frames, glances, decisions) == 1 {
            return self.push_out(turn, std::iter::once(frame));
        }
        match self.hand_over_glanced(turn, frame, glance.hash) {
            Some(own) => frame = own,
            None => return,
        }
        read.complete(&frame, glance);
        self.judge(turn, frame, read, None, *decision);
    }

    /// One frame, read already, to `act`, and the fragments that waited for it.
    #[inline]
    pub(super) fn judge(
        &mut self,
        turn: &Turn<'_>,
        frame: Frame,
        read: &Read,
        resumed: Option<&Resumed>,
        foretold: Option<Decision>,
    ) {
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return };
        let (direction, length) = (turn.direction, frame.length() as u32);
        let crossing = Crossing { wire: wire.id, direction, length, now: turn.now };
        let mut report = Report::default();
        let mut journey = Journey {
            wire,
            crossing,
            policy: turn.policy,
            read,
            flows: &mut self.flows,
            fragments: &mut self.fragments,
            resumed,
            foretold,
            judged_as: None,
            worker: self.id,
            report: &mut report,
        };
        let fate = journey.fate(&frame);
        let judged = Judged { crossing, fate, report: &report, generation: turn.policy.generation().0 };
        self.act(turn.at, frame, &judged);
        if let Some(datagram) = report.first_of {
            self.release_held(turn, datagram);
        }
    }

    /// Fragments that waited for the first one follow it.
    fn release_held(&mut self, turn: &Turn<'_>, datagram: DatagramRef) {
        while let Some((held, tuple)) = self.fragments.next_held(datagram) {
            let turn = Turn { direction: held.direction, ..*turn };
            self.judge_waiting(&turn, held.frame, Some(&Resumed { tuple, finding: None }));
        }
    }

    /// A frame that has waited goes on from where it was.
    #[cold]
    pub(super) fn judge_waiting(&mut self, turn: &Turn<'_>, frame: Frame, resumed: Option<&Resumed>) {
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return };
        wire.stand_in(turn.policy);
        let read = Read::new(&frame, wire.medium, wire.id, turn.direction, &self.flows);
        self.judge(turn, frame, &read, resumed, None);
    }

    /// Frames whose question has been answered go on.
    pub(super) fn resume(&mut self, policy: &mut PolicyReader, now: Time) -> usize {
        let mut frames = 0;
        while let Some(Answer { ticket, finding }) = self.parking.queues().take_answer() {
            while let Some(parked) = self.parking.answered(ticket) {
                frames += 1;
                match self.place_of(parked.wire) {
                    Some(at) => {
                        let turn = Turn { at, direction: parked.direction, policy: policy.load(), now };
                        let resumed = Resumed { tuple: parked.tuple, finding: Some(finding) };
                        self.judge_waiting(&turn, parked.frame, Some(&resumed));
                        self.flush(at, now);
                    }
                    None => drop(parked),
                }
            }
        }
        frames
    }

    /// Parked frames and held fragments whose time is up are dropped.
    pub(super) fn time_out(&mut self, policy: &mut PolicyReader, now: Time) -> usize {
        let mut frames = 0;
        while let Some(parked) = self.parking.timed_out(now) {
            frames += 1;
            let report = Report { stands_for: Some(parked.tuple), ..Report::default() };
            let crossing = Crossing { wire: parked.wire, direction: parked.direction, length: 0, now };
            self.drop_waiting(policy, crossing, parked.frame, DropReason::AskTimeout, report);
        }
        while let Some((held, reason)) = self.fragments.next_discarded(now) {
            frames += 1;
            let Held { frame, packet, wire, direction } = held;
            let report = Report { packet: Some(&packet), ..Report::default() };
            self.drop_waiting(policy, Crossing { wire, direction, length: 0, now }, frame, reason, report);
        }
        frames
    }

    /// `crossing` without its length.
    fn drop_waiting(
        &mut self,
        policy: &mut PolicyReader,
        crossing: Crossing,
        frame: Frame,
        reason: DropReason,
        report: Report<'_>,
    ) {
        if let Some(at) = self.place_of(crossing.wire) {
            let generation = policy.load().generation().0;
            let crossing = Crossing { length: frame.length() as u32, ..crossing };
            self.act(at, frame, &Judged { crossing, fate: Fate::Drop(reason), report: &report, generation });
        }
    }

    /// Makes the number of a wire's flows visible to everybody.
    pub(super) fn count_flows_of(&self, at: usize) {
        if let Some(Some(wire)) = self.wires.get(at) {
            wire.stats.flows.set(self.flows.wire_flows(wire.id).into());
        }
    }

    /// The same for all wires.
    pub(super) fn count_flows(&self) {
        for at in 0..self.wires.len() {
            self.count_flows_of(at);
        }
    }
}
