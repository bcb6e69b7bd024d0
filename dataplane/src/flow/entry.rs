//! [`FlowEntry`] and [`FlowDetail`]: what is kept of a flow.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

use super::{FlowKey, FlowState, Origin};
use crate::packet::{Direction, Protocol, Tuple};
use crate::rules::Epoch;
use crate::time::Time;

/// What one end of a TCP connection has sent, and how much more the other end lets it send (RFC 9293 section 3.3.1).
/// An SCTP flow keeps its verification tag in `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TcpWindow {
    /// The sequence number after the last one sent (SND.NXT).
    pub end: u32,
    /// The highest acknowledgement of the other end (SND.UNA): the sequence number that it expects next.
    pub acked: u32,
    /// How far beyond `acked` the other end lets this one send, in units of the other end's window scale.
    pub offered: u16,
    /// The most it ever offered, in the same units; 0 while the other end has not been heard.
    pub max_offered: u16,
}

/// What every frame of a flow needs: plain old data, one cache line. The rest is in its [`FlowDetail`], at the same number
/// of another array.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct FlowEntry {
    key: FlowKey,
    /// Bytes a way, the low 16 bits; what is carried goes to the detail.
    bytes_low: [u16; 2],
    /// Frames a way, the low 24 bits, lowest byte first.
    packets_low: [[u8; 3]; 2],
    /// The age of the policy that allowed it.
    epoch: u32,
    /// The second, since the clock's origin, from which the flow is gone.
    pub(super) expires: u32,
    state: u8,
    flags: u8,
    /// Window scales: the originator's in the low four bits; [`Self::NO_SCALE`] for none stated.
    scales: u8,
    /// Retransmissions in a row (2 bits), who made them, whether the detail's `probe` counts.
    marks: u8,
}

const _: () = assert!(size_of::<FlowEntry>() == 64);

/// What some frames of a flow need: those of TCP and SCTP always, others when a counter is carried.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FlowDetail {
    pub(super) windows: [TcpWindow; 2],
    /// A number that the next answer has to show; see [`crate::flow`]'s TCP part.
    probe: u32,
    /// What it is judged as, with `JUDGED_AS`: a number in the region's [`super::JudgedPeer`]s.
    pub(super) judged: u32,
    bytes_high: [u32; 2],
    packets_high: [u16; 2],
}

const _: () = assert!(size_of::<FlowDetail>() == 44);

/// Both parts of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowView<'a> {
    pub(super) entry: &'a FlowEntry,
    pub(super) detail: &'a FlowDetail,
}

/// Both parts of a flow, to be changed. What is in the entry is reached as if it were the flow.
#[derive(Debug)]
pub(super) struct FlowMut<'a> {
    pub(super) entry: &'a mut FlowEntry,
    pub(super) detail: &'a mut FlowDetail,
}

impl Deref for FlowMut<'_> {
    type Target = FlowEntry;

    fn deref(&self) -> &FlowEntry {
        self.entry
    }
}

impl DerefMut for FlowMut<'_> {
    fn deref_mut(&mut self) -> &mut FlowEntry {
        self.entry
    }
}

/// The originator's frames cross in [`Direction::Ingress`].
const INGRESS: u8 = 1;
/// The other end was heard.
const REPLIED: u8 = 1 << 1;
/// Data is not acknowledged: the originator's; shifted by one the other end's.
const UNACKNOWLEDGED: u8 = 1 << 2;
/// FIN was sent, by the originator; shifted by one by the other end.
const FIN: u8 = 1 << 4;
/// The detail's `judged` counts.
const JUDGED_AS: u8 = 1 << 6;
/// Segments came in fragments, whose length the first one does not tell.
const FRAGMENTED: u8 = 1 << 7;

const RETRANSMISSIONS: u8 = 0x03;
const RETRANSMITTER: u8 = 0x04;
const PROBE: u8 = 0x08;

impl FlowEntry {
    /// The "scale" of an end that did not state one.
    const NO_SCALE: u8 = 15;

    /// A fresh entry.
    #[inline]
    pub(super) fn new(key: FlowKey, direction: Direction, epoch: Epoch, state: FlowState) -> Self {
        let mut entry = FlowEntry::zeroed();
        entry.key = key;
        entry.epoch = epoch.0;
        entry.state = state as u8;
        entry.flags = direction as u8 * INGRESS;
        entry.scales = Self::NO_SCALE << 4 | Self::NO_SCALE;
        entry
    }

    /// What it is found by.
    #[inline]
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Its state; [`FlowState::Free`] if the number makes no sense.
    #[inline]
    pub fn state(&self) -> FlowState {
        FlowState::from_number(self.state).unwrap_or(FlowState::Free)
    }

    #[inline]
    pub(super) fn set_state(&mut self, state: FlowState) {
        self.state = state as u8;
    }

    /// The way of the originator's frames.
    #[inline]
    pub fn direction(&self) -> Direction {
        if self.flags & INGRESS == 0 { Direction::Egress } else { Direction::Ingress }
    }

    /// Whose way a frame goes that crosses in this direction.
    #[inline]
    pub fn origin(&self, direction: Direction) -> Origin {
        if direction == self.direction() { Origin::Original } else { Origin::Reply }
    }

    /// The originator's tuple.
    #[inline]
    pub fn tuple(&self) -> Tuple {
        self.key.tuple(self.direction())
    }

    /// Whether it is judged as if its far end were another.
    #[inline]
    pub(super) fn is_judged_as(&self) -> bool {
        self.flags & JUDGED_AS != 0
    }

    #[inline]
    pub(super) fn set_judged_as(&mut self, value: bool) {
        self.flags = if value { self.flags | JUDGED_AS } else { self.flags & !JUDGED_AS };
    }

    #[inline]
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    #[inline]
    pub(super) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch.0;
    }

    /// Whether the flow has run out.
    #[inline]
    pub fn is_expired(&self, now: Time) -> bool {
        now.as_secs() >= self.expires
    }

    /// Whether the flow may make room for another: the other end has not confirmed it, or it is over.
    #[inline]
    pub fn is_evictable(&self) -> bool {
        match self.state() {
            FlowState::Established => !self.replied(),
            FlowState::FinWait | FlowState::CloseWait | FlowState::LastAck => !self.replied(),
            FlowState::Associated
            | FlowState::ShutdownSent
            | FlowState::ShutdownReceived
            | FlowState::ShutdownAckSent
            | FlowState::Replied
            | FlowState::Stream => false,
            FlowState::Free
            | FlowState::SynSent
            | FlowState::SynSent2
            | FlowState::SynReceived
            | FlowState::TimeWait
            | FlowState::Close
            | FlowState::CookieWait
            | FlowState::CookieEchoed
            | FlowState::Aborted
            | FlowState::Unreplied
            | FlowState::Cut => true,
        }
    }

    /// Whether the other end was heard.
    #[inline]
    pub fn replied(&self) -> bool {
        self.flags & REPLIED != 0
    }

    /// Whether the other end has answered, in whatever protocol.
    #[inline]
    pub fn is_answered(&self) -> bool {
        self.replied()
            || matches!(
                self.state(),
                FlowState::Replied
                    | FlowState::Stream
                    | FlowState::CookieEchoed
                    | FlowState::Associated
                    | FlowState::ShutdownSent
                    | FlowState::ShutdownReceived
                    | FlowState::ShutdownAckSent
            )
    }

    /// Whether the bytes make a flow: false for what a crash or another program left.
    pub(super) fn is_sound(&self) -> bool {
        let state = self.state();
        let number = state as u8;
        let fits = match self.key.protocol() {
            _ if state == FlowState::Cut => true,
            Protocol::TCP => (FlowState::SynSent as u8..=FlowState::Close as u8).contains(&number),
            Protocol::SCTP => (FlowState::CookieWait as u8..=FlowState::Aborted as u8).contains(&number),
            _ => (FlowState::Unreplied as u8..=FlowState::Stream as u8).contains(&number),
        };
        fits && self.key.is_canonical()
    }
}

/// What TCP keeps in the flag bytes.
impl FlowEntry {
    /// The window scale of an end, 0 without one.
    #[inline]
    pub(super) fn scale(&self, origin: Origin) -> u8 {
        let scale = self.stated_scale(origin);
        if scale == Self::NO_SCALE { 0 } else { scale }
    }

    fn stated_scale(&self, origin: Origin) -> u8 {
        self.scales >> (4 * origin as u8) & 0x0f
    }

    /// Notes the window scale that an end stated. RFC 7323 section 2.3: what is above 14 counts as 14.
    pub(super) fn state_scale(&mut self, origin: Origin, scale: Option<u8>) {
        let scale = scale.map_or(Self::NO_SCALE, |scale| scale.min(14));
        let shift = 4 * origin as u8;
        self.scales = self.scales & !(0x0f << shift) | scale << shift;
    }

    /// Scales count only if both ends stated one (RFC 7323 section 2.2).
    pub(super) fn agree_scales(&mut self) {
        if [Origin::Original, Origin::Reply].into_iter().any(|end| self.stated_scale(end) == Self::NO_SCALE) {
            self.scales = Self::NO_SCALE << 4 | Self::NO_SCALE;
        }
    }

    #[inline]
    pub(super) fn fin(&self, origin: Origin) -> bool {
        self.flags & FIN << origin as u8 != 0
    }

    /// Whether any end sent FIN.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.flags & (FIN | FIN << 1) != 0
    }

    pub(super) fn set_fin(&mut self, origin: Origin) {
        self.flags |= FIN << origin as u8;
    }

    #[inline]
    pub(super) fn set_unacknowledged(&mut self, origin: Origin, value: bool) {
        let bit = UNACKNOWLEDGED << origin as u8;
        self.flags = if value { self.flags | bit } else { self.flags & !bit };
    }

    #[inline]
    pub(super) fn is_unacknowledged(&self) -> bool {
        self.flags & (UNACKNOWLEDGED | UNACKNOWLEDGED << 1) != 0
    }

    pub(super) fn set_fragmented(&mut self) {
        self.flags |= FRAGMENTED;
    }

    #[inline]
    pub(super) fn is_fragmented(&self) -> bool {
        self.flags & FRAGMENTED != 0
    }

    /// Counts a retransmission in a row; a frame of the other end, or a new one of the same, starts again.
    #[inline]
    pub(super) fn note_retransmission(&mut self, origin: Origin, again: bool) {
        let who = RETRANSMITTER * origin as u8;
        let count = match (again, self.marks & RETRANSMITTER == who) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => (self.marks & RETRANSMISSIONS).saturating_add(1).min(RETRANSMISSIONS),
        };
        self.marks = self.marks & PROBE | who | count;
    }

    #[inline]
    pub(super) fn is_retransmitting(&self) -> bool {
        self.marks & RETRANSMISSIONS == RETRANSMISSIONS
    }
}

impl FlowMut<'_> {
    /// Counts a frame.
    #[inline]
    pub(super) fn count(&mut self, origin: Origin, length: u32) {
        let at = origin as usize;
        let packets = low_packets(self.entry.packets_low[at]) + 1;
        let [low, middle, high, carried] = packets.to_le_bytes();
        self.entry.packets_low[at] = [low, middle, high];
        if carried != 0 {
            self.detail.packets_high[at] = self.detail.packets_high[at].wrapping_add(1);
        }
        let bytes = u64::from(self.entry.bytes_low[at]) + u64::from(length);
        self.entry.bytes_low[at] = bytes as u16;
        if bytes > u64::from(u16::MAX) {
            self.detail.bytes_high[at] = self.detail.bytes_high[at].wrapping_add((bytes >> 16) as u32);
        }
        if origin == Origin::Reply {
            self.entry.flags |= REPLIED;
        }
    }

    /// The number that an answer has to show, if one is awaited.
    #[inline]
    pub(super) fn probe(&self) -> Option<u32> {
        (self.entry.marks & PROBE != 0).then_some(self.detail.probe)
    }

    pub(super) fn set_probe(&mut self, number: u32) {
        self.detail.probe = number;
        self.entry.marks |= PROBE;
    }
}

impl FlowView<'_> {
    /// Frames that went this way (modulo 2^40).
    pub(super) fn packets(&self, origin: Origin) -> u64 {
        let at = origin as usize;
        u64::from(self.detail.packets_high[at]) << 24 | u64::from(low_packets(self.entry.packets_low[at]))
    }

    /// Bytes that went this way (modulo 2^48).
    pub(super) fn bytes(&self, origin: Origin) -> u64 {
        let at = origin as usize;
        u64::from(self.detail.bytes_high[at]) << 16 | u64::from(self.entry.bytes_low[at])
    }
}

#[inline(always)]
fn low_packets([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}

#[cfg(test)]
impl FlowMut<'_> {
    /// Sets a way's count of frames.
    pub(super) fn preset_packets(&mut self, origin: Origin, packets: u64) {
        let [low, middle, high, ..] = packets.to_le_bytes();
        self.entry.packets_low[origin as usize] = [low, middle, high];
        self.detail.packets_high[origin as usize] = (packets >> 24) as u16;
    }

    /// The flow, to be read.
    pub(super) fn view(&self) -> FlowView<'_> {
        FlowView { entry: self.entry, detail: self.detail }
    }
}
