//! SCTP: states by the first chunk of a packet, verification tags (RFC 9260).
//!
//! Each end chooses the tag that it wants to see; it tells the other end in INIT and INIT ACK. What the engine reads
//! of a packet is its header and the type of its first chunk, so a tag is learnt when it is first used (the other
//! end's packets: INIT ACK; the originator's: COOKIE ECHO) and held against every later packet. A flow's tags are kept
//! as `windows[way].end`.

use super::tcp::Step;
use super::{FlowMut, FlowState, Origin};
use crate::verdict::DropReason;

pub(super) const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Begins a flow with the originator's INIT.
pub(super) fn open(entry: &mut FlowMut<'_>) {
    entry.set_state(FlowState::CookieWait);
}

/// Takes a packet.
pub(super) fn track(entry: &mut FlowMut<'_>, origin: Origin, tag: u32, chunk: u8) -> Result<Step, DropReason> {
    use FlowState::{Aborted, Associated, CookieEchoed, CookieWait, ShutdownAckSent, ShutdownReceived, ShutdownSent};
    let state = entry.state();
    if chunk == INIT {
        return match state {
            Aborted => Ok(Step::Reopen),
            _ if tag != 0 => Err(DropReason::SctpState),
            CookieWait if origin == Origin::Original => {
                // Once more, or another attempt with another tag.
                entry.detail.windows = Default::default();
                Ok(Step::Update)
            }
            // Collision and restart (RFC 9260 section 5.2): the endpoint's to answer, and nothing changes here.
            _ => Ok(Step::Ignore),
        };
    }
    check_tag(entry, origin, tag, chunk)?;
    let next = match (chunk, origin, state) {
        (ABORT, ..) => Aborted,
        (INIT_ACK, Origin::Reply, CookieWait) => CookieWait,
        // A repeated answer, or one of a collision.
        (INIT_ACK, ..) => return Ok(Step::Ignore),
        (COOKIE_ECHO, Origin::Original, CookieWait) => CookieEchoed,
        (COOKIE_ECHO, Origin::Reply, CookieWait | CookieEchoed) => CookieEchoed,
        (COOKIE_ACK, _, CookieEchoed) => Associated,
        (ERROR, ..) => state,
        // Nothing else is sent before the cookie is.
        (_, _, CookieWait) => return Err(DropReason::SctpState),
        (SHUTDOWN, Origin::Original, Associated) => ShutdownSent,
        (SHUTDOWN, Origin::Reply, Associated) => ShutdownReceived,
        (SHUTDOWN_ACK, _, Associated | ShutdownSent | ShutdownReceived) => ShutdownAckSent,
        (SHUTDOWN_COMPLETE, _, Associated | ShutdownSent | ShutdownReceived | ShutdownAckSent) => Aborted,
        (SHUTDOWN | SHUTDOWN_ACK | SHUTDOWN_COMPLETE, _, CookieEchoed) => return Err(DropReason::SctpState),
        (_, _, Aborted) => return Err(DropReason::SctpState),
        _ => state,
    };
    entry.set_state(next);
    Ok(Step::Update)
}

/// RFC 9260 section 8.5: the tag is the one that the receiver chose. ABORT and SHUTDOWN COMPLETE of an end that has no
/// association carry their receiver's own packets' tag instead (section 8.5.1, the T bit).
fn check_tag(entry: &mut FlowMut<'_>, origin: Origin, tag: u32, chunk: u8) -> Result<(), DropReason> {
    let own = entry.detail.windows[origin as usize].end;
    let reflected = entry.detail.windows[origin.reverse() as usize].end;
    let learns = match (chunk, origin) {
        (INIT_ACK, Origin::Reply) | (COOKIE_ECHO, Origin::Original) => own == 0,
        // An end that refuses the INIT answers with the tag that was chosen in it, before anything else.
        (ABORT, Origin::Reply) => own == 0 && entry.state() == FlowState::CookieWait,
        _ => false,
    };
    if tag == 0 {
        return Err(DropReason::SctpState);
    }
    if learns {
        entry.detail.windows[origin as usize].end = tag;
        return Ok(());
    }
    let may_reflect = matches!(chunk, ABORT | SHUTDOWN_COMPLETE);
    if tag == own || (may_reflect && tag == reflected) { Ok(()) } else { Err(DropReason::SctpState) }
}
