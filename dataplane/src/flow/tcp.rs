//! TCP: states, windows, resets (RFC 9293, RFC 7323, RFC 5961).
//!
//! ```text
//!            SYN             SYN+ACK             ACK that fits        FIN       its ACK      FIN        its ACK
//!  (opens) ─────▶ SynSent ──────────▶ SynReceived ─────▶ Established ───▶ FinWait ──▶ CloseWait ──▶ LastAck ──▶ TimeWait
//!                    │ SYN of the other end ▲                                │ FIN of the other end    ▲           │ SYN
//!                    └────▶ SynSent2 ───────┘ SYN+ACK                        └─────────────────────────┘           ▼
//!  an exact RST leads from anywhere to Close; a SYN in TimeWait and Close opens a new flow                      (Reopen)
//! ```
//!
//! A segment lies in the window if (Rooij, "Real stateful TCP packet filtering", 2000)
//! 1. it starts no later than the right edge that the other end offered,
//! 2. it ends no earlier than one window before what its sender sent last,
//! 3. it acknowledges nothing that the other end has not sent,
//! 4. nor anything more than a window old.
//!
//! That admits retransmissions, keep-alives and zero-window probes. What the endpoint itself has to answer (RFC 5961's
//! challenge ACKs) is let through to it and changes nothing here. The number that such an answer must show is kept as
//! the flow's *probe*: in `SynSent` the acknowledgement of a bare ACK, with which the originator's reset will
//! come; later the end of a SYN that the originator sent, whose SYN+ACK shows that the other end has forgotten the connection.

use super::{FlowMut, FlowState, FlowView, Origin, TcpWindow};
use crate::packet::TcpSegment;
use crate::verdict::DropReason;

/// How old an acknowledgement may be at least, whatever the window.
const MIN_ACK_WINDOW: u32 = 66_000;

/// The most that a fragmented segment can be longer than its first fragment.
const FRAGMENT_SLACK: u32 = 65_535;

/// Scale assumed for a connection whose handshake was not seen.
const UNKNOWN_SCALE: u8 = 14;

/// What a frame does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The flow goes on, and its time starts again.
    Update,
    /// The frame passes, and the flow stays as it is.
    Ignore,
    /// The flow is over, and the frame opens another.
    Reopen,
}

/// Whether `a` comes after `b` (RFC 9293 section 3.4).
fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// Whether `first <= number <= last`.
fn between(number: u32, first: u32, last: u32) -> bool {
    !after(first, number) && !after(number, last)
}

/// The sequence number after the segment's last: SYN and FIN count as one each.
fn end_of(segment: &TcpSegment) -> u32 {
    let flags = u32::from(segment.flags.syn()) + u32::from(segment.flags.fin());
    segment.sequence.wrapping_add(segment.payload_length).wrapping_add(flags)
}

/// Bytes in units of a scale, rounded up.
fn in_units(bytes: u32, scale: u8) -> u16 {
    u16::try_from(bytes.div_ceil(1 << scale)).unwrap_or(u16::MAX)
}

impl TcpWindow {
    /// The end of what may be sent, where the other end's scale is `scale`.
    fn right_edge(&self, scale: u8) -> u32 {
        self.acked.wrapping_add(u32::from(self.offered) << scale)
    }

    /// Takes an acknowledgement and the window that comes with it, in units of the other end's scale.
    fn acknowledge(&mut self, number: u32, window: u16, scale: u8) {
        if after(self.acked, number) {
            return;
        }
        let offered = number.wrapping_add(u32::from(window) << scale);
        // A window never shrinks from the right (RFC 9293 section 3.8.6); who shrinks it must still take what was sent.
        let edge = if after(self.right_edge(scale), offered) { self.right_edge(scale) } else { offered };
        self.acked = number;
        self.offered = in_units(edge.wrapping_sub(number), scale);
        self.max_offered = self.max_offered.max(window).max(1);
    }
}

/// Begins a flow with the originator's SYN.
pub(super) fn open(entry: &mut FlowMut<'_>, segment: &TcpSegment) {
    entry.set_state(FlowState::SynSent);
    start(entry, Origin::Original, segment);
}

/// Begins a flow in the middle of a connection that is older than the table.
pub(super) fn pick_up(entry: &mut FlowMut<'_>, segment: &TcpSegment) {
    for end in [Origin::Original, Origin::Reply] {
        entry.state_scale(end, Some(UNKNOWN_SCALE));
    }
    entry.detail.windows[Origin::Original as usize] =
        TcpWindow { end: end_of(segment), acked: segment.sequence, offered: 0, max_offered: 0 };
    let peer = &mut entry.detail.windows[Origin::Reply as usize];
    *peer = TcpWindow { end: segment.acknowledgement, acked: segment.acknowledgement, offered: 0, max_offered: 0 };
    peer.acknowledge(segment.acknowledgement, segment.window, UNKNOWN_SCALE);
    entry.set_state(FlowState::Established);
    entry.set_unacknowledged(Origin::Original, true);
    close_if_finished(entry, Origin::Original, segment);
}

/// Takes a segment. `in_pieces`: it is the first fragment of a longer one.
pub(super) fn track(
    entry: &mut FlowMut<'_>,
    origin: Origin,
    segment: &TcpSegment,
    in_pieces: bool,
) -> Result<Step, DropReason> {
    if in_pieces {
        entry.set_fragmented();
    }
    match (segment.flags.rst(), segment.flags.syn(), segment.flags.ack()) {
        (true, ..) => reset(entry, origin, segment),
        (false, true, false) => syn(entry, origin, segment),
        (false, true, true) => syn_ack(entry, origin, segment),
        (false, false, true) => ack(entry, origin, segment),
        // RFC 9293 section 3.10.7.4: without ACK the endpoint drops it.
        (false, false, false) => Err(DropReason::TcpState),
    }
}

/// Notes an end's SYN: its first sequence number, its window, its scale.
fn start(entry: &mut FlowMut<'_>, end: Origin, segment: &TcpSegment) {
    entry.state_scale(end, segment.window_scale);
    let own = &mut entry.detail.windows[end as usize];
    own.end = end_of(segment);
    own.acked = segment.sequence.wrapping_add(1);
    // The window of a SYN is never scaled (RFC 7323 section 2.2).
    let peer = &mut entry.detail.windows[end.reverse() as usize];
    peer.offered = segment.window;
    peer.max_offered = segment.window.max(1);
}

/// Both scales are known: the windows of the SYNs, in bytes so far, are brought into units.
fn agree(entry: &mut FlowMut<'_>) {
    entry.agree_scales();
    for end in [Origin::Original, Origin::Reply] {
        let scale = entry.scale(end.reverse());
        let window = &mut entry.detail.windows[end as usize];
        window.offered = in_units(window.offered.into(), scale);
        window.max_offered = in_units(window.max_offered.into(), scale);
    }
}

fn syn(entry: &mut FlowMut<'_>, origin: Origin, segment: &TcpSegment) -> Result<Step, DropReason> {
    let same = entry.detail.windows[origin as usize].end == end_of(segment);
    match (entry.state(), origin) {
        (FlowState::TimeWait | FlowState::Close, _) => Ok(Step::Reopen),
        // Once more, or a new attempt from the same port.
        (FlowState::SynSent, Origin::Original) => {
            start(entry, origin, segment);
            Ok(Step::Update)
        }
        (FlowState::SynSent, Origin::Reply) => {
            start(entry, origin, segment);
            agree(entry);
            entry.set_state(FlowState::SynSent2);
            Ok(Step::Update)
        }
        (FlowState::SynSent2, _) if same => Ok(Step::Update),
        (FlowState::SynSent2, _) => Err(DropReason::TcpOutOfWindow),
        (FlowState::SynReceived, _) if same => Ok(Step::Ignore),
        // RFC 5961 section 4.2: whatever its number, the other end answers with a challenge ACK.
        (_, Origin::Original) => {
            entry.set_probe(end_of(segment));
            Ok(Step::Ignore)
        }
        (_, Origin::Reply) => Err(DropReason::TcpState),
    }
}

fn syn_ack(entry: &mut FlowMut<'_>, origin: Origin, segment: &TcpSegment) -> Result<Step, DropReason> {
    let own = entry.detail.windows[origin as usize];
    let peer = entry.detail.windows[origin.reverse() as usize];
    let acknowledges = between(segment.acknowledgement, peer.acked, peer.end);
    let same = own.end == end_of(segment);
    match (entry.state(), origin) {
        // Once more.
        (FlowState::SynReceived, Origin::Reply) if acknowledges && own.acked == segment.sequence.wrapping_add(1) => {
            Ok(Step::Update)
        }
        // In SynReceived: another answer to the same SYN, as SYN cookies make them.
        (FlowState::SynSent | FlowState::SynReceived, Origin::Reply) if acknowledges => {
            restart(entry, segment);
            Ok(Step::Update)
        }
        (FlowState::SynSent, Origin::Reply) => Err(DropReason::TcpOutOfWindow),
        // Simultaneous open.
        (FlowState::SynSent2 | FlowState::SynReceived, _) if same && acknowledges => {
            let scale = entry.scale(origin);
            let window = in_units(segment.window.into(), scale);
            entry.detail.windows[origin.reverse() as usize].acknowledge(segment.acknowledgement, window, scale);
            entry.set_state(FlowState::SynReceived);
            Ok(Step::Update)
        }
        (FlowState::SynSent2 | FlowState::SynReceived, _) => Err(DropReason::TcpOutOfWindow),
        (_, Origin::Original) => Err(DropReason::TcpState),
        // The other end knows nothing of this connection and takes the originator's new SYN for what it is. The flow ends
        // here; the SYN that the originator repeats opens, and is judged as, another.
        (_, Origin::Reply) if entry.probe() == Some(segment.acknowledgement) => {
            entry.set_state(FlowState::Close);
            Err(DropReason::TcpState)
        }
        (_, Origin::Reply) => check_window(entry, origin, segment).map(|()| Step::Ignore),
    }
}

/// Notes the other end's SYN+ACK, the first one or one of another number.
fn restart(entry: &mut FlowMut<'_>, segment: &TcpSegment) {
    let fresh = entry.state() == FlowState::SynSent;
    start(entry, Origin::Reply, segment);
    if fresh {
        agree(entry);
    } else {
        // The originator's window is in units already.
        entry.agree_scales();
        let scale = entry.scale(Origin::Reply);
        let window = &mut entry.detail.windows[Origin::Original as usize];
        window.offered = in_units(segment.window.into(), scale);
        window.max_offered = window.offered.max(1);
    }
    entry.detail.windows[Origin::Original as usize].acked = segment.acknowledgement;
    entry.set_state(FlowState::SynReceived);
}

fn reset(entry: &mut FlowMut<'_>, origin: Origin, segment: &TcpSegment) -> Result<Step, DropReason> {
    let own = entry.detail.windows[origin as usize];
    let peer = entry.detail.windows[origin.reverse() as usize];
    // RFC 9293 section 3.10.7.3: who has sent a SYN believes a reset that acknowledges it.
    let refuses = segment.flags.ack() && between(segment.acknowledgement, peer.acked, peer.end);
    let exact = match (entry.state(), origin) {
        (FlowState::SynSent, Origin::Reply) => refuses,
        (FlowState::SynSent, Origin::Original) => {
            segment.sequence == own.end || entry.probe() == Some(segment.sequence)
        }
        (FlowState::SynSent2, _) => refuses || segment.sequence == own.end,
        (FlowState::SynReceived, Origin::Reply) if segment.sequence == 0 && refuses => true,
        // What the receiver expects next, or what the sender would send next: a reset right behind its data.
        _ => segment.sequence == own.acked || segment.sequence == own.end,
    };
    let handshake = matches!(entry.state(), FlowState::SynSent | FlowState::SynSent2);
    if exact {
        entry.set_state(FlowState::Close);
        Ok(Step::Update)
    } else if !handshake && between(segment.sequence, own.acked, own.right_edge(entry.scale(origin.reverse()))) {
        // RFC 5961 section 3.2: the receiver challenges, and the sender, if it means it, answers with an exact one.
        Ok(Step::Ignore)
    } else {
        Err(DropReason::TcpResetInvalid)
    }
}

/// A segment without SYN and RST.
fn ack(entry: &mut FlowMut<'_>, origin: Origin, segment: &TcpSegment) -> Result<Step, DropReason> {
    match (entry.state(), origin) {
        (FlowState::SynSent, Origin::Reply) if segment.payload_length == 0 && !segment.flags.fin() => {
            // The other end has an old connection between these ports, and says where it stands.
            entry.set_probe(segment.acknowledgement);
            return Ok(Step::Ignore);
        }
        (FlowState::SynSent | FlowState::SynSent2, _) => return Err(DropReason::TcpState),
        (FlowState::SynReceived, Origin::Original) => {
            let peer = entry.detail.windows[Origin::Reply as usize];
            // Only who saw the SYN+ACK knows its number: a flooder's flow never gets beyond this state.
            if !between(segment.acknowledgement, peer.acked, peer.end) {
                return Err(DropReason::TcpOutOfWindow);
            }
        }
        _ => {}
    }
    check_window(entry, origin, segment)?;
    if entry.state() == FlowState::Close {
        return Ok(Step::Ignore);
    }
    let before = entry.detail.windows[origin as usize];
    advance(entry, origin, segment);
    let again = segment.payload_length > 0 && before.end == entry.detail.windows[origin as usize].end;
    entry.note_retransmission(origin, again);
    if entry.state() == FlowState::SynReceived && origin == Origin::Original {
        entry.set_state(FlowState::Established);
    }
    close_if_finished(entry, origin, segment);
    Ok(Step::Update)
}

/// The four conditions at the top of this file.
fn check_window(entry: &FlowMut<'_>, origin: Origin, segment: &TcpSegment) -> Result<(), DropReason> {
    let own = entry.detail.windows[origin as usize];
    let peer = entry.detail.windows[origin.reverse() as usize];
    let (own_scale, peer_scale) = (entry.scale(origin), entry.scale(origin.reverse()));
    let end = end_of(segment);
    // Of an end that was picked up and has not spoken yet, no window is known.
    if own.max_offered > 0 {
        let window = u32::from(own.max_offered) << peer_scale;
        let fits = !after(segment.sequence, own.right_edge(peer_scale))
            && after(end, own.end.wrapping_sub(window).wrapping_sub(1));
        if !fits {
            return Err(DropReason::TcpOutOfWindow);
        }
    }
    if entry.fin(origin) && after(end, own.end) {
        return Err(DropReason::TcpState);
    }
    let acknowledges = match segment.sack {
        Some(sack) if after(sack, segment.acknowledgement) => sack,
        _ => segment.acknowledgement,
    };
    let newest = peer.end.wrapping_add(if entry.is_fragmented() { FRAGMENT_SLACK } else { 0 });
    let window = (u32::from(peer.max_offered) << own_scale).max(MIN_ACK_WINDOW);
    let oldest = peer.end.wrapping_sub(window);
    if between(acknowledges, oldest, newest) { Ok(()) } else { Err(DropReason::TcpOutOfWindow) }
}

/// Moves both ends' windows by a segment that lies in them.
fn advance(entry: &mut FlowMut<'_>, origin: Origin, segment: &TcpSegment) {
    let end = end_of(segment);
    let scale = entry.scale(origin);
    if after(end, entry.detail.windows[origin as usize].end) {
        entry.detail.windows[origin as usize].end = end;
        entry.set_unacknowledged(origin, true);
    }
    let fragmented = entry.is_fragmented();
    let peer = &mut entry.detail.windows[origin.reverse() as usize];
    if fragmented && after(segment.acknowledgement, peer.end) {
        peer.end = segment.acknowledgement;
    }
    peer.acknowledge(segment.acknowledgement, segment.window, scale);
    if peer.acked == peer.end {
        entry.set_unacknowledged(origin.reverse(), false);
    }
}

/// Follows the two FINs.
fn close_if_finished(entry: &mut FlowMut<'_>, origin: Origin, segment: &TcpSegment) {
    if segment.flags.fin() {
        entry.set_fin(origin);
    }
    if entry.state() == FlowState::SynReceived {
        return;
    }
    let taken = |end: Origin| entry.detail.windows[end as usize].acked == entry.detail.windows[end as usize].end;
    let next = match (entry.fin(Origin::Original), entry.fin(Origin::Reply)) {
        (false, false) => return,
        (true, true) if taken(Origin::Original) && taken(Origin::Reply) => FlowState::TimeWait,
        (true, true) => FlowState::LastAck,
        (true, false) if taken(Origin::Original) => FlowState::CloseWait,
        (false, true) if taken(Origin::Reply) => FlowState::CloseWait,
        _ => FlowState::FinWait,
    };
    entry.set_state(next);
}

/// Whether a segment with this sequence number can have been sent and not yet have been forgotten: for the segment
/// that an ICMP error quotes (RFC 5927 section 4).
pub(super) fn has_sent(flow: &FlowView<'_>, origin: Origin, sequence: u32) -> bool {
    let own = flow.detail.windows[origin as usize];
    let window = (u32::from(own.max_offered) << flow.entry.scale(origin.reverse())).max(1);
    between(sequence, own.acked.wrapping_sub(window), own.end)
}
