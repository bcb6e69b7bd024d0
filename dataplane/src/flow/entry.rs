//! [`FlowEntry`]: what is kept of a flow.

use bytemuck::{Pod, Zeroable};

use super::{FlowKey, Judged, Origin};
use crate::address::Address;
use crate::packet::{Direction, Protocol, Tuple};
use crate::rules::{Epoch, WireId};
use crate::time::Time;

/// Declares [`FlowState`] with its names in one place.
macro_rules! flow_states {
    ($($(#[$doc:meta])* $state:ident = $number:literal, $name:literal;)*) => {
        /// Where a flow is in its life. One number space for all protocols: it is kept in a region that outlives
        /// the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FlowState { $($(#[$doc])* $state = $number,)* }

        impl FlowState {
            /// All of them.
            pub const ALL: &'static [FlowState] = &[$(FlowState::$state,)*];

            /// The name in listings.
            pub fn name(self) -> &'static str {
                match self { $(FlowState::$state => $name,)* }
            }

            /// The state of this number; `None` for a number that no state has.
            pub fn from_number(number: u8) -> Option<FlowState> {
                match number { $($number => Some(FlowState::$state),)* _ => None }
            }
        }
    };
}

flow_states! {
    /// No flow.
    Free = 0, "free";
    /// TCP: the originator's SYN was seen.
    SynSent = 1, "syn_sent";
    /// TCP: both ends sent a SYN (simultaneous open).
    SynSent2 = 2, "syn_sent2";
    /// TCP: a SYN was acknowledged with a SYN.
    SynReceived = 3, "syn_received";
    /// TCP: the handshake is over.
    Established = 4, "established";
    /// TCP: one end sent FIN.
    FinWait = 5, "fin_wait";
    /// TCP: one end's FIN is acknowledged; the other may still send.
    CloseWait = 6, "close_wait";
    /// TCP: both ends sent FIN.
    LastAck = 7, "last_ack";
    /// TCP: both FINs are acknowledged.
    TimeWait = 8, "time_wait";
    /// TCP: a reset was believed.
    Close = 9, "close";
    /// SCTP: INIT was seen.
    CookieWait = 10, "cookie_wait";
    /// SCTP: COOKIE ECHO was seen.
    CookieEchoed = 11, "cookie_echoed";
    /// SCTP: the handshake is over.
    Associated = 12, "associated";
    /// SCTP: the originator sent SHUTDOWN.
    ShutdownSent = 13, "shutdown_sent";
    /// SCTP: the other end sent SHUTDOWN.
    ShutdownReceived = 14, "shutdown_received";
    /// SCTP: SHUTDOWN ACK was seen.
    ShutdownAckSent = 15, "shutdown_ack_sent";
    /// SCTP: ABORT or SHUTDOWN COMPLETE was seen.
    Aborted = 16, "aborted";
    /// UDP, ICMP echo, others: no answer yet.
    Unreplied = 17, "unreplied";
    /// UDP, ICMP echo, others: answered.
    Replied = 18, "replied";
    /// UDP, ICMP echo, others: the originator went on after an answer.
    Stream = 19, "stream";
    /// Policy took its permission back; kept so that it stays cut.
    Cut = 20, "cut";
}

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

/// What is kept of a flow: plain old data, two cache lines, of which the first holds what every frame needs.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct FlowEntry {
    key: FlowKey,
    /// The destination port that it is judged as, with `JUDGED_AS` and the direction egress.
    judged_port: u16,
    /// The age of the policy that allowed it.
    epoch: u32,
    /// The second, since the clock's origin, from which the flow is gone.
    pub(super) expires: u32,
    state: u8,
    flags: u8,
    /// Window scales: the originator's in the low four bits; [`Self::NO_SCALE`] for none stated.
    scales: u8,
    /// Retransmissions in a row (2 bits), who made them, whether `probe` counts.
    marks: u8,
    /// A number that the next answer has to show; see [`crate::flow`]'s TCP part.
    probe: u32,
    pub(super) windows: [TcpWindow; 2],
    /// Frames a way, low 32 and high 16 bits.
    packets_low: [u32; 2],
    packets_high: [u16; 2],
    bytes: [u64; 2],
    /// The far end's address that it is judged as, with `JUDGED_AS`.
    judged_address: Address,
}

const _: () = assert!(size_of::<FlowEntry>() == 128);

/// The originator's frames cross in [`Direction::Ingress`].
const INGRESS: u8 = 1;
/// The other end was heard.
const REPLIED: u8 = 1 << 1;
/// Data is not acknowledged: the originator's; shifted by one the other end's.
const UNACKNOWLEDGED: u8 = 1 << 2;
/// FIN was sent, by the originator; shifted by one by the other end.
const FIN: u8 = 1 << 4;
/// `judged_address` and `judged_port` count.
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
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Its state; [`FlowState::Free`] if the number makes no sense.
    pub fn state(&self) -> FlowState {
        FlowState::from_number(self.state).unwrap_or(FlowState::Free)
    }

    pub(super) fn set_state(&mut self, state: FlowState) {
        self.state = state as u8;
    }

    /// The way of the originator's frames.
    pub fn direction(&self) -> Direction {
        if self.flags & INGRESS == 0 { Direction::Egress } else { Direction::Ingress }
    }

    /// Whose way a frame goes that crosses in this direction.
    pub fn origin(&self, direction: Direction) -> Origin {
        if direction == self.direction() { Origin::Original } else { Origin::Reply }
    }

    /// The originator's tuple.
    pub fn tuple(&self) -> Tuple {
        self.key.tuple(self.direction())
    }

    /// What it was judged as.
    pub fn judged(&self) -> Judged {
        let (direction, mut tuple) = (self.direction(), self.tuple());
        if self.flags & JUDGED_AS != 0 {
            match direction {
                Direction::Egress => {
                    (tuple.destination, tuple.destination_port) = (self.judged_address, self.judged_port);
                }
                Direction::Ingress => tuple.source = self.judged_address,
            }
        }
        Judged { direction, tuple, epoch: Epoch(self.epoch) }
    }

    #[inline]
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    pub(super) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch.0;
    }

    pub(super) fn judge_as(&mut self, peer: Address, port: u16) {
        (self.judged_address, self.judged_port) = (peer, port);
        self.flags |= JUDGED_AS;
    }

    /// Whether the flow has run out.
    pub fn is_expired(&self, now: Time) -> bool {
        now.as_secs() >= self.expires
    }

    /// Whether the flow may make room for another: the other end has not confirmed it, or it is over.
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
    pub fn replied(&self) -> bool {
        self.flags & REPLIED != 0
    }

    /// Counts a frame.
    pub(super) fn count(&mut self, origin: Origin, length: u32) {
        let at = origin as usize;
        let (low, carried) = self.packets_low[at].overflowing_add(1);
        self.packets_low[at] = low;
        self.packets_high[at] = self.packets_high[at].wrapping_add(u16::from(carried));
        self.bytes[at] = self.bytes[at].wrapping_add(u64::from(length));
        if origin == Origin::Reply {
            self.flags |= REPLIED;
        }
    }

    /// Frames that went this way (modulo 2^48).
    pub fn packets(&self, origin: Origin) -> u64 {
        u64::from(self.packets_high[origin as usize]) << 32 | u64::from(self.packets_low[origin as usize])
    }

    /// Bytes that went this way.
    pub fn bytes(&self, origin: Origin) -> u64 {
        self.bytes[origin as usize]
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

    pub(super) fn fin(&self, origin: Origin) -> bool {
        self.flags & FIN << origin as u8 != 0
    }

    pub(super) fn set_fin(&mut self, origin: Origin) {
        self.flags |= FIN << origin as u8;
    }

    pub(super) fn set_unacknowledged(&mut self, origin: Origin, value: bool) {
        let bit = UNACKNOWLEDGED << origin as u8;
        self.flags = if value { self.flags | bit } else { self.flags & !bit };
    }

    pub(super) fn is_unacknowledged(&self) -> bool {
        self.flags & (UNACKNOWLEDGED | UNACKNOWLEDGED << 1) != 0
    }

    pub(super) fn set_fragmented(&mut self) {
        self.flags |= FRAGMENTED;
    }

    pub(super) fn is_fragmented(&self) -> bool {
        self.flags & FRAGMENTED != 0
    }

    /// Counts a retransmission in a row; a frame of the other end, or a new one of the same, starts again.
    pub(super) fn note_retransmission(&mut self, origin: Origin, again: bool) {
        let who = RETRANSMITTER * origin as u8;
        let count = match (again, self.marks & RETRANSMITTER == who) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => (self.marks & RETRANSMISSIONS).saturating_add(1).min(RETRANSMISSIONS),
        };
        self.marks = self.marks & PROBE | who | count;
    }

    pub(super) fn is_retransmitting(&self) -> bool {
        self.marks & RETRANSMISSIONS == RETRANSMISSIONS
    }

    /// The number that an answer has to show, if one is awaited.
    pub(super) fn probe(&self) -> Option<u32> {
        (self.marks & PROBE != 0).then_some(self.probe)
    }

    pub(super) fn set_probe(&mut self, number: u32) {
        self.probe = number;
        self.marks |= PROBE;
    }
}

/// A flow as it is listed: a copy, of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// The wire.
    pub wire: WireId,
    /// The way of the originator's frames.
    pub direction: Direction,
    /// The originator's tuple.
    pub tuple: Tuple,
    /// What it was judged as, if that is another tuple.
    pub judged_as: Option<Tuple>,
    /// The age of the policy that allowed it.
    pub epoch: Epoch,
    /// Its state.
    pub state: FlowState,
    /// Seconds until it is gone, if nothing comes.
    pub expires_in: u32,
    /// Frames of the originator, and of the other end.
    pub packets: [u64; 2],
    /// Bytes of the originator, and of the other end.
    pub bytes: [u64; 2],
}

impl FlowInfo {
    pub(super) fn new(entry: &FlowEntry, now: Time) -> Self {
        let judged = entry.judged();
        FlowInfo {
            wire: entry.key.wire(),
            direction: judged.direction,
            tuple: entry.tuple(),
            judged_as: (entry.flags & JUDGED_AS != 0).then_some(judged.tuple),
            epoch: judged.epoch,
            state: entry.state(),
            expires_in: entry.expires.saturating_sub(now.as_secs()),
            packets: [entry.packets(Origin::Original), entry.packets(Origin::Reply)],
            bytes: entry.bytes,
        }
    }
}

#[cfg(test)]
impl FlowEntry {
    /// Sets a way's count of frames.
    pub(super) fn preset_packets(&mut self, origin: Origin, packets: u64) {
        self.packets_low[origin as usize] = packets as u32;
        self.packets_high[origin as usize] = (packets >> 32) as u16;
    }
}
