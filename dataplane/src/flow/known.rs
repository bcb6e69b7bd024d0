//! The short way of a frame of a flow that is known, whose policy is the current one, and whose state it does not move: what
//! [`FlowTable::find_hashed`], [`FlowTable::judged_in`] and [`FlowTable::track`] do for it, at once. Whatever else a frame may
//! be is refused here, with nothing changed, and goes their way.

use super::tcp::{self, Step};
use super::{FlowEntry, FlowHash, FlowRef, FlowState, FlowTable, KeyWords, Origin};
use crate::arch::prefetch::prefetch_slice;
use crate::packet::{Direction, Protocol, TcpSegment};
use crate::rules::{Epoch, WireId};
use crate::time::Time;

/// What all frames of a burst have in common.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    /// Which way they go.
    direction: Direction,
    /// The ages of their wire's policies.
    epochs: [Epoch; 2],
    /// Whether datagrams of flows that have not been answered go the long way.
    each_new: bool,
    /// Whole seconds, rounded down and up.
    second: u32,
    next_second: u32,
}

impl Current {
    /// At this time, by policies of these ages. With `each_new`, datagrams of flows that have not been answered do not pass.
    #[inline]
    pub fn new(direction: Direction, epochs: [Epoch; 2], each_new: bool, now: Time) -> Self {
        Current { direction, epochs, each_new, second: now.as_secs(), next_second: second_after(now) }
    }
}

/// The whole second that comes next, or is now.
#[inline]
pub(super) fn second_after(now: Time) -> u32 {
    u32::try_from(now.0.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

impl FlowTable {
    /// Where a flow with this hash would be: nearly always the one that is found, if there is one. Its memory is asked for.
    #[inline(always)]
    pub fn candidate(&self, hash: FlowHash, protocol: Protocol) -> Option<FlowRef> {
        let number = self.index.candidate(hash.0)?;
        prefetch_slice(self.region().entries(), number as usize);
        if protocol == Protocol::TCP {
            prefetch_slice(self.region().details(), number as usize);
        }
        Some(FlowRef(number))
    }

    /// Whether the candidate is this key's flow, lives, and was judged by policy of the current age.
    #[inline(always)]
    fn is_current(&self, flow: FlowRef, words: &KeyWords, current: &Current) -> bool {
        let Some(entry) = self.region().entries().get(flow.0 as usize) else { return false };
        entry.key().words() == *words
            && current.second < entry.expires
            && entry.epoch() == current.epochs[entry.direction() as usize]
    }

    /// Lets a datagram of this many bytes pass if it is of the candidate's flow, and the flow stays in the state in which
    /// it is. `false`: nothing has changed.
    #[inline(always)]
    pub fn pass_datagram(&mut self, flow: FlowRef, words: &KeyWords, current: &Current, length: u32) -> bool {
        if !self.is_current(flow, words, current) {
            return false;
        }
        let seconds = &self.config().timeouts;
        let (stream, other) = (seconds.udp_stream, seconds.udp);
        let mut entry = self.flow_mut(flow);
        let origin = entry.origin(current.direction);
        let seconds = match (entry.state(), origin) {
            (FlowState::Stream, _) => stream,
            (FlowState::Replied, Origin::Reply) => other,
            (FlowState::Unreplied, Origin::Original) if !current.each_new => other,
            _ => return false,
        };
        entry.count(origin, length);
        self.live_until(flow, current.next_second.saturating_add(seconds));
        true
    }

    /// [`FlowTable::pass_datagram`] for a segment of a connection that is established in both directions.
    #[inline(always)]
    pub fn pass_segment(
        &mut self,
        flow: FlowRef,
        words: &KeyWords,
        current: &Current,
        length: u32,
        segment: &TcpSegment,
    ) -> bool {
        if !self.is_current(flow, words, current) {
            return false;
        }
        let mut entry = self.flow_mut(flow);
        let plain = segment.flags.ack() && !segment.flags.syn() && !segment.flags.rst() && !segment.flags.fin();
        if !plain || entry.state() != FlowState::Established || !entry.replied() || entry.is_closing() {
            return false;
        }
        let origin = entry.origin(current.direction);
        // One that does not fit changes nothing and is found out again, with its reason.
        let Ok(Step::Update) = tcp::track(&mut entry, origin, segment, false) else { return false };
        entry.count(origin, length);
        let expires = current.next_second.saturating_add(self.config().timeouts.of(self.entry(flow)));
        self.live_until(flow, expires);
        true
    }

    /// Adds the flow that a datagram of this many bytes opens, after policy has allowed it, where there is room without
    /// anything having to go. `false`: nothing has changed.
    #[inline]
    pub fn open_datagram(
        &mut self,
        wire: WireId,
        words: &KeyWords,
        hash: FlowHash,
        current: &Current,
        length: u32,
    ) -> bool {
        let key = words.key();
        let quota = self.config().wire_quota;
        // Whoever has to make room first goes the long way, before anything is looked up twice.
        let is_full = self.shares.free() == 0 || (quota > 0 && self.shares.flows(wire) >= quota);
        if is_full || !self.shares.has_room(wire) || self.find_key(&key, hash).is_some() {
            return false;
        }
        let epoch = current.epochs[current.direction as usize];
        let Some(flow) = self.add(wire, FlowEntry::new(key, current.direction, epoch, FlowState::Unreplied), hash)
        else {
            return false;
        };
        self.flow_mut(flow).count(Origin::Original, length);
        let expires = current.next_second.saturating_add(self.config().timeouts.udp);
        self.entry_mut(flow).expires = expires;
        self.note_expiry(expires);
        self.shares.list(wire, flow.0);
        self.prefetch_free();
        true
    }

    /// Sets when a flow is gone. One that lives on for longer changes nothing about which flow goes first.
    #[inline(always)]
    fn live_until(&mut self, flow: FlowRef, expires: u32) {
        let entry = self.entry_mut(flow);
        let before = std::mem::replace(&mut entry.expires, expires);
        if expires < before {
            self.note_expiry(expires);
        }
    }
}
