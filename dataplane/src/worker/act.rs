//! The journey's one exit: a frame whose fate is known leaves, is dropped, or waits; it is counted, logged and traced
//! here and nowhere else.

use crate::event::{Dropped, Event, Logged, Trace};
use crate::flow::Crossing;
use crate::frame::Frame;
use crate::packet::{Direction, Packet, Parsed, Payload};
use crate::parse::parse;
use crate::rules::{Action, Decision, RejectWith};
use crate::time::Time;
use crate::verdict::{DropReason, Verdict};

use super::Question;
use super::datapath::Datapath;
use super::handoff::Outcome;
use super::journey::{Fate, Report};
use super::reject::{self, MAX_ANSWER};

/// A frame whose fate is known.
pub(super) struct Judged<'a> {
    pub(super) crossing: Crossing,
    pub(super) fate: Fate,
    pub(super) report: &'a Report<'a>,
    pub(super) generation: u64,
}

impl Datapath {
    /// The journey's one exit: forward, drop, park or hold; count, log, trace.
    #[inline]
    pub(super) fn act(&mut self, at: usize, frame: Frame, judged: &Judged<'_>) {
        if let Some(decision) = judged.report.decision {
            self.note(at, decision, judged);
        }
        let settled = match judged.fate {
            Fate::Forward => Ok(frame),
            Fate::Drop(reason) => Err((frame, reason)),
            Fate::Reject(with) => {
                self.answer(at, &frame, with, judged);
                Err((frame, DropReason::PolicyRejected))
            }
            Fate::HandOver(owner) => match self.hand_over(at, owner, frame, judged) {
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
            Fate::Hold(_) | Fate::Ask(_) => match self.wait(judged, frame) {
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
        };
        match settled {
            Ok(frame) => self.forward(at, frame, judged),
            Err((frame, reason)) => self.drop_frame(at, frame, reason, judged),
        }
    }

    /// The classifier was asked: counts, and logs if the rule wants it.
    fn note(&mut self, at: usize, decision: Decision, judged: &Judged<'_>) {
        let Judged { crossing: Crossing { direction, now, .. }, report, generation, .. } = judged;
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        let tally = &mut wire.tallies[*direction as usize];
        tally.classified += 1;
        tally.rejudged += u64::from(report.rejudged);
        if let (true, Some(tuple)) = (decision.log, report.tuple()) {
            let (allowed, rule) = (decision.action == Action::Allow, decision.rule);
            let (direction, generation) = (*direction, *generation);
            let logged = Logged { at: *now, wire: wire.id, direction, tuple, allowed, rule, generation };
            if report.logs.is_empty() {
                self.events.post(Event::Logged(logged));
            }
            for &rule in &report.logs {
                self.events.post(Event::Logged(Logged { rule: Some(rule), ..logged }));
            }
        }
    }

    #[inline]
    fn forward(&mut self, at: usize, frame: Frame, judged: &Judged<'_>) {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        if let Some(trace) = &self.trace {
            trace.post(trace_of(&frame, judged, Verdict::Forward));
        }
        let Crossing { direction, length, now, .. } = judged.crossing;
        let headers = judged.report.packet.map_or(0, Packet::header_length);
        let own =
            if wire.hand_off.is_none() { Some(frame) } else { self.keep_own(at, frame, judged, Outcome::Forward) };
        if let Some(frame) = own {
            self.leave(at, frame, direction, length, headers, now);
        }
    }

    /// Puts a frame of this worker's memory on its way out. `headers` is their length, of a super-frame.
    #[inline]
    pub(super) fn leave(
        &mut self,
        at: usize,
        frame: Frame,
        direction: Direction,
        length: u32,
        headers: usize,
        now: Time,
    ) {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        let tally = &mut wire.tallies[direction as usize];
        tally.forwarded += 1;
        tally.forwarded_segments += match frame.gso {
            None => 1,
            Some(_) => frame.wire_packets(headers),
        };
        tally.forwarded_bytes += u64::from(length);
        wire.out[direction as usize].push(frame);
        if wire.out[direction as usize].is_full() {
            self.flush(at, now);
        }
    }

    fn drop_frame(&mut self, at: usize, frame: Frame, reason: DropReason, judged: &Judged<'_>) {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        if let Some(trace) = &self.trace {
            trace.post(trace_of(&frame, judged, Verdict::Drop(reason)));
        }
        let Judged { crossing: Crossing { direction, now, length, .. }, report, generation, .. } = *judged;
        wire.stats.direction(direction).dropped(reason).add(1);
        let (tuple, rule) = (report.tuple(), report.rule());
        let (judged, judged_as) = (report.judged.unwrap_or(direction), report.judged_as);
        let wire_id = wire.id;
        let dropped =
            Dropped { at: now, wire: wire_id, direction, judged, reason, tuple, judged_as, rule, generation, length };
        self.events.post(Event::Dropped(dropped));
        if let Some(pool) = &mut self.pools[wire.pool] {
            wire.release(frame, direction, pool);
        }
    }

    /// Tells a frame's sender that it is rejected. Without memory, or after too many errors, nobody is told.
    #[cold]
    fn answer(&mut self, at: usize, frame: &Frame, with: RejectWith, judged: &Judged<'_>) {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        let (Some(pool), Some(packet)) = (&mut self.pools[wire.pool], judged.report.packet) else { return };
        let Crossing { direction, now, .. } = judged.crossing;
        let mut bytes = [0; MAX_ANSWER];
        let Some(length) = reject::answer(frame.bytes(), wire.medium, packet, with, &mut bytes) else { return };
        if matches!(with, RejectWith::Icmp { .. }) && !self.answers.take(now) {
            return;
        }
        let Some(mut told) = pool.frame(&bytes[..length]) else { return };
        told.vlan = frame.vlan;
        let back = direction.reverse() as usize;
        if wire.out[back].is_full() {
            self.flush(at, now);
        }
        match self.wires.get_mut(at) {
            Some(Some(wire)) => wire.out[back].push(told),
            _ => drop(told),
        }
    }

    /// Lets the other lanes see what the last frames brought for them.
    pub(super) fn publish_lanes(&mut self) {
        for &at in &self.lanes {
            if let Some(Some(wire)) = self.wires.get_mut(at)
                && let Some(hand_off) = &mut wire.hand_off
            {
                hand_off.publish();
            }
        }
    }

    /// Keeps a frame that waits: a fragment for its first, a question for its answer.
    fn wait(&mut self, judged: &Judged<'_>, frame: Frame) -> Result<(), (Frame, DropReason)> {
        let Judged { crossing, fate, report, .. } = judged;
        match (fate, report.packet, report.tuple()) {
            (&Fate::Hold(datagram), Some(packet), _) => self.fragments.hold(datagram, crossing, frame, packet),
            (&Fate::Ask(kind), _, Some(tuple)) => {
                let Crossing { wire, direction, now, .. } = *crossing;
                let question = Question { ticket: 0, wire, direction, tuple, kind, rule: report.rule() };
                self.parking.park(frame, question, now)
            }
            // Only what could be read waits.
            _ => Err((frame, DropReason::AskDenied)),
        }
    }

    /// Sends what waits on a wire.
    pub(super) fn flush(&mut self, at: usize, now: Time) {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return };
        wire.settle();
        if let Some(hand_off) = &mut wire.hand_off {
            hand_off.publish();
        }
        let Some(pool) = &mut self.pools[wire.pool] else { return };
        for direction in Direction::BOTH {
            if wire.out[direction as usize].is_empty() {
                continue;
            }
            let (events, id, medium) = (&self.events, wire.id, wire.medium);
            let result = wire.flush(direction, pool, now, |stats, reason, frame| {
                // It was counted when it was judged.
                let headers = match parse(frame, medium) {
                    Ok(Parsed { payload: Payload::Ip(packet), .. }) => packet.header_length(),
                    _ => 0,
                };
                stats.forwarded.retract(1);
                stats.forwarded_segments.retract(frame.wire_packets(headers));
                stats.forwarded_bytes.retract(frame.length() as u64);
                stats.dropped(reason).add(1);
                let (judged, tuple, rule, generation) = (direction, None, None, 0);
                let length = frame.length() as u32;
                let judged_as = None;
                let dropped = Dropped {
                    at: now,
                    wire: id,
                    direction,
                    judged,
                    reason,
                    tuple,
                    judged_as,
                    rule,
                    generation,
                    length,
                };
                events.post(Event::Dropped(dropped));
            });
            if let Err(error) = result {
                let errno = error.raw_os_error().unwrap_or(0);
                self.events.post(Event::PortLost { wire: id, side: direction.reverse(), errno });
            }
        }
    }
}

fn trace_of(frame: &Frame, judged: &Judged<'_>, verdict: Verdict) -> Trace {
    let Judged { crossing: Crossing { wire, direction, now, .. }, report, generation, .. } = judged;
    let mut mark = [0; 8];
    if let Some(packet) = report.packet {
        let payload = frame.bytes().get(packet.header_length()..).unwrap_or_default();
        let length = payload.len().min(mark.len());
        mark[..length].copy_from_slice(&payload[..length]);
    }
    Trace {
        at: *now,
        wire: *wire,
        direction: *direction,
        tuple: report.tuple(),
        mark,
        verdict,
        rule: report.rule(),
        generation: *generation,
    }
}
