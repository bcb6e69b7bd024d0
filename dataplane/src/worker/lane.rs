//! A worker's share of a wire over several queues: whose a flow is, and what becomes of frames that change hands.

use super::Worker;
use super::act::Judged;
use super::ahead::{Ahead, Kind, Lookup, Read, Seen};
use super::datapath::{Datapath, Turn, pass};
use super::handoff::{ClosedLane, HandOff, Outcome, Returned};
use super::journey::{Fate, Journey, Resumed};
use crate::address::Address;
use crate::flow::{Crossing, FlowHash, FlowKey};
use crate::frame::{Burst, Frame};
use crate::packet::{Direction, IcmpMessage, Packet, Protocol, Transport, Tuple};
use crate::publish::PolicyReader;
use crate::rules::WireId;
use crate::time::Time;
use crate::verdict::DropReason;
use crate::wire::WireSetup;

impl Worker {
    /// Takes over a lane of a wire, and says at which place. The other lanes are other workers'.
    ///
    /// # Errors
    /// As [`Worker::attach`], and when the lane's memory is not the one that it was joined by.
    pub fn attach_lane(&mut self, setup: WireSetup, hand_off: Box<HandOff>) -> std::io::Result<usize> {
        if setup.pool.as_ref().map(crate::port::Pool::id) != Some(hand_off.pool()) {
            let reason = "a lane is joined to others by the memory of its own ports";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
        }
        let nobody = by_addresses(Address::default(), Address::default());
        if !hand_off.agrees(self.path.flows.hash(&FlowKey::new(WireId(0), Direction::Egress, &nobody))) {
            let reason = "the workers of a wire's lanes hash flows with the same key";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
        }
        let at = self.attach(setup)?;
        if let Some(Some(wire)) = self.path.wires.get_mut(at) {
            wire.hand_off = Some(hand_off);
            self.path.lanes.push(at);
        }
        Ok(at)
    }

    /// Gives a lane up. What is left of it has to be put together with what is left of the other lanes
    /// ([`super::settle`]): they may have frames of each other.
    pub fn detach_lane(&mut self, id: WireId) -> Option<ClosedLane> {
        self.close_wire(id)?
    }

    /// Whether another lane has something for this worker.
    pub(super) fn has_arrivals(&self) -> bool {
        let wires = self.path.lanes.iter().filter_map(|&at| self.path.wires.get(at)?.as_ref());
        wires.filter_map(|wire| wire.hand_off.as_ref()).any(|hand_off| hand_off.has_arrivals())
    }

    /// Whether the worker has a lane of some wire.
    pub(super) fn has_lanes(&self) -> bool {
        !self.path.lanes.is_empty()
    }

    /// Takes what other lanes have handed over or sent home, at most a burst of each.
    pub(super) fn collect(&mut self, now: Time) -> usize {
        let Worker { policy, burst, ahead, path } = self;
        let mut frames = 0;
        for index in 0..path.lanes.len() {
            let at = path.lanes[index];
            let Some(Some(wire)) = path.wires.get(at) else { continue };
            let lanes = wire.hand_off.as_ref().map_or(0, |hand_off| hand_off.lanes());
            let before = frames;
            for from in 0..lanes {
                frames += path.take_returned(at, from, policy, now);
                frames += path.judge_handed(at, from, policy, burst, ahead, now);
            }
            if frames > before {
                path.flush(at, now);
                path.count_flows_of(at);
            }
        }
        frames
    }
}

impl Datapath {
    /// Frames of this lane whose owner has judged them.
    fn take_returned(&mut self, at: usize, from: usize, policy: &mut PolicyReader, now: Time) -> usize {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return 0 };
        let Some(hand_off) = &mut wire.hand_off else { return 0 };
        let returned = hand_off.take_returned(from);
        let count = returned.len();
        if count == 0 {
            return 0;
        }
        // Loading says that nothing judged by an older policy will be sent: what was judged by one is judged again.
        let current = policy.load().generation().0;
        for Returned { frame, direction, stands_for, outcome, generation } in returned {
            match outcome {
                Outcome::Release => {
                    if let Some(Some(wire)) = self.wires.get(at)
                        && let Some(pool) = &mut self.pools[wire.pool]
                    {
                        pool.release(frame);
                    }
                    continue;
                }
                Outcome::Forward if generation >= current => {
                    let (length, headers) = (frame.length(), self.headers_of(at, &frame));
                    self.leave(at, frame, direction, length as u32, headers, now);
                    continue;
                }
                Outcome::Forward | Outcome::Fragment => {}
            }
            let turn = Turn { at, direction, policy: policy.load(), now };
            let resumed = stands_for.map(|tuple| Resumed { tuple, finding: None });
            self.judge_waiting(&turn, frame, resumed.as_ref());
        }
        count
    }

    /// Frames of another lane that belong to flows of this one.
    fn judge_handed(
        &mut self,
        at: usize,
        from: usize,
        policy: &mut PolicyReader,
        burst: &mut Box<Burst>,
        ahead: &mut Ahead,
        now: Time,
    ) -> usize {
        let mut count = 0;
        while count < crate::frame::BURST {
            let Some(Some(wire)) = self.wires.get_mut(at) else { break };
            let Some((direction, stands_for)) = wire.hand_off.as_mut().and_then(|it| it.take_handed(from, burst))
            else {
                break;
            };
            count += burst.len();
            let turn = Turn { at, direction, policy: policy.load(), now };
            match stands_for {
                None => self.judge_others(&turn, burst, ahead),
                Some(tuple) => {
                    for frame in burst.drain(..) {
                        self.judge_waiting(&turn, frame, Some(&Resumed { tuple, finding: None }));
                    }
                }
            }
        }
        count
    }

    /// A burst of another lane's frames, in order: what passes goes home with the others.
    fn judge_others(&mut self, turn: &Turn<'_>, burst: &mut Burst, ahead: &mut Ahead) {
        while !burst.is_empty() {
            let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return };
            wire.stand_in(turn.policy);
            let current = wire.current(turn.direction, turn.now);
            let whole = self.trace.is_some() || wire.standing.whole;
            let Seen { glances, reads, .. } = ahead.read(burst, wire, turn, &self.flows, whole);
            for ((frame, glance), read) in burst.drain(..glances.len()).zip(glances).zip(reads) {
                if pass(&mut self.flows, &current, &frame, glance) {
                    self.send_home(turn, frame);
                    continue;
                }
                if glance.kind != Kind::Unseen {
                    read.complete(&frame, glance);
                }
                self.judge(turn, frame, read, None, None);
            }
        }
    }

    /// A frame of another lane passes.
    #[inline]
    fn send_home(&mut self, turn: &Turn<'_>, frame: Frame) {
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return };
        let Some(hand_off) = &mut wire.hand_off else { return };
        let (direction, generation) = (turn.direction, turn.policy.generation().0);
        let returned = Returned { frame, direction, stands_for: None, outcome: Outcome::Forward, generation };
        // Nobody hands a frame over but the lane whose it is.
        if let Err(frame) = hand_off.send_home(returned)
            && let Some(pool) = &mut self.pools[wire.pool]
        {
            pool.release(frame);
        }
    }

    /// Hands a frame over of which a glance is enough to know that it is another lane's, to be read there; `Some` if it is not.
    #[inline]
    pub(super) fn hand_over_glanced(&mut self, turn: &Turn<'_>, frame: Frame, hash: FlowHash) -> Option<Frame> {
        let Some(Some(wire)) = self.wires.get_mut(turn.at) else { return Some(frame) };
        let Some(hand_off) = &mut wire.hand_off else { return Some(frame) };
        let owner = hash.part(hand_off.lanes());
        if owner == hand_off.lane() {
            return Some(frame);
        }
        // Without room it is read here, and dropped with all that there is to tell of it.
        let refused = hand_off.hand_over(owner, frame, turn.direction, None).err();
        wire.tallies[turn.direction as usize].handed_over += u64::from(refused.is_none());
        refused
    }

    /// Hands a frame to its flow's owner; a fragment of another lane goes home first, knowing its flow.
    pub(super) fn hand_over(
        &mut self,
        at: usize,
        owner: u16,
        frame: Frame,
        judged: &Judged<'_>,
    ) -> Result<(), (Frame, DropReason)> {
        let full = |frame| (frame, DropReason::HandOffFull);
        let Some(Some(wire)) = self.wires.get_mut(at) else { return Err(full(frame)) };
        let Some(hand_off) = &mut wire.hand_off else { return Err(full(frame)) };
        let (direction, stands_for) = (judged.crossing.direction, judged.report.stands_for);
        if hand_off.is_own(&frame) {
            wire.tallies[direction as usize].handed_over += 1;
            return hand_off.hand_over(owner.into(), frame, direction, stands_for).map_err(full);
        }
        let generation = judged.generation;
        let stands_for = judged.report.tuple();
        hand_off
            .send_home(Returned { frame, direction, stands_for, outcome: Outcome::Fragment, generation })
            .map_err(full)
    }

    /// Sends a frame home that is another lane's, with what was found; `Some` if it is this lane's own.
    #[inline]
    pub(super) fn keep_own(&mut self, at: usize, frame: Frame, judged: &Judged<'_>, outcome: Outcome) -> Option<Frame> {
        let Some(Some(wire)) = self.wires.get_mut(at) else { return Some(frame) };
        let Some(hand_off) = &mut wire.hand_off else { return Some(frame) };
        let (direction, stands_for) = (judged.crossing.direction, judged.report.stands_for);
        let returned = Returned { frame, direction, stands_for, outcome, generation: judged.generation };
        hand_off.send_home(returned).err()
    }
}

impl Journey<'_, '_> {
    /// The lane that has to see this fragment first, if it is another one: fragments of a datagram meet at the lane that
    /// their addresses name, since only the first of them shows more.
    #[inline]
    pub(super) fn fragments_elsewhere(&self, frame: &Frame, packet: &Packet) -> Option<Fate> {
        let hand_off = self.wire.hand_off.as_ref()?;
        if packet.fragment.is_none() || self.resumed.is_some() || !hand_off.is_own(frame) {
            return None;
        }
        self.elsewhere(hand_off, by_addresses(packet.source, packet.destination))
    }

    /// The lane that owns the frame's flow, if it is another one.
    #[inline]
    pub(super) fn flow_elsewhere(&self, packet: &Packet, lookup: &Lookup) -> Option<Fate> {
        let hand_off = self.wire.hand_off.as_ref()?;
        match owned_as(packet, &lookup.key.tuple(self.crossing.direction))? {
            Owned::ByFlow => owned_by(hand_off, lookup),
            Owned::As(tuple) => self.elsewhere(hand_off, tuple),
        }
    }

    /// `tuple` crosses the wire in the frame's direction.
    fn elsewhere(&self, hand_off: &HandOff, tuple: Tuple) -> Option<Fate> {
        let Crossing { wire, direction, .. } = self.crossing;
        owned_by(hand_off, &Lookup::new(&tuple, wire, direction, self.flows))
    }
}

/// A flow's key is the same for both of its directions, and so is the hash that names its owner.
#[inline]
fn owned_by(hand_off: &HandOff, lookup: &Lookup) -> Option<Fate> {
    let owner = lookup.hash.part(hand_off.lanes());
    (owner != hand_off.lane()).then_some(Fate::HandOver(owner as u16))
}

/// By what a packet finds its owner.
#[derive(Debug, PartialEq, Eq)]
enum Owned {
    /// By its own flow.
    ByFlow,
    /// By this tuple, which crosses the wire in the packet's direction.
    As(Tuple),
}

/// Whom a packet that shows this tuple, or stands for it, belongs to; nobody if it is judged wherever it arrives.
///
/// * TCP, UDP, SCTP and all others: their flow.
/// * ICMP errors: the flow that they are about, that is their quote's, turned round.
/// * ICMP echoes: their addresses. An error that quotes an echo does not tell whether that was a request or a reply, and the
///   identifier stands at another end in each.
/// * Other ICMP has no flow.
fn owned_as(packet: &Packet, tuple: &Tuple) -> Option<Owned> {
    match packet.transport {
        Transport::Icmp(icmp) => match icmp.message {
            IcmpMessage::Error { quoted, .. } => {
                let is_icmp = matches!(quoted.protocol, Protocol::ICMP | Protocol::ICMPV6);
                Some(Owned::As(match is_icmp {
                    true => by_addresses(quoted.destination, quoted.source),
                    false => Tuple {
                        source: quoted.destination,
                        destination: quoted.source,
                        protocol: quoted.protocol,
                        source_port: quoted.destination_port,
                        destination_port: quoted.source_port,
                    },
                }))
            }
            IcmpMessage::EchoRequest(_) | IcmpMessage::EchoReply(_) => {
                Some(Owned::As(by_addresses(packet.source, packet.destination)))
            }
            _ => None,
        },
        // A later fragment of an echo shows none of it but the tuple.
        _ if matches!(tuple.protocol, Protocol::ICMP | Protocol::ICMPV6) => {
            Some(Owned::As(by_addresses(tuple.source, tuple.destination)))
        }
        _ => Some(Owned::ByFlow),
    }
}

/// What stands for all traffic between two addresses.
fn by_addresses(source: Address, destination: Address) -> Tuple {
    Tuple { source, destination, protocol: Protocol(0), source_port: 0, destination_port: 0 }
}

impl Datapath {
    /// The length of a super-frame's headers; of others it is not asked for.
    fn headers_of(&self, at: usize, frame: &Frame) -> usize {
        let (Some(_), Some(Some(wire))) = (frame.gso, self.wires.get(at)) else { return 0 };
        let read = Read::new(frame, wire.medium, wire.id, Direction::Egress, &self.flows);
        read.packet().map_or(0, Packet::header_length)
    }
}

#[cfg(test)]
mod tests;
