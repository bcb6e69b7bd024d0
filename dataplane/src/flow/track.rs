//! What a packet may do: open a flow, go on with one.

use super::tcp::{self, Step};
use super::{Crossing, FlowMut, FlowRef, FlowState, FlowTable, MidStream, Origin, Tracked, sctp};
use crate::packet::{Icmp, IcmpMessage, Packet, Protocol, Transport};
use crate::time::Time;
use crate::verdict::DropReason;

/// Whether a packet belongs to flows at all. ICMP messages other than echo do not: errors are looked up with
/// [`FlowTable::find_related`], and each other message is judged by itself, lest one that is allowed open the way for
/// others between the same ends.
pub fn is_tracked(packet: &Packet) -> bool {
    !matches!(packet.transport, Transport::Icmp(Icmp { message, .. })
        if !matches!(message, IcmpMessage::EchoRequest(_) | IcmpMessage::EchoReply(_)))
}

impl FlowTable {
    /// Whether a packet that belongs to no flow may open one, policy permitting. Asked before policy is, so that garbage
    /// does not reach it.
    ///
    /// # Errors
    /// [`DropReason::TcpNotSyn`], [`DropReason::SctpState`], [`DropReason::IcmpReplyUnasked`],
    /// [`DropReason::IcmpUnrelated`].
    #[inline]
    pub fn can_open(&self, packet: &Packet, now: Time) -> Result<(), DropReason> {
        match packet.transport {
            Transport::Tcp(segment) => {
                let flags = segment.flags;
                let opens = flags.syn() && !flags.ack() && !flags.rst();
                let goes_on = flags.ack() && !flags.syn() && !flags.rst();
                let may_go_on = match self.config().mid_stream {
                    MidStream::Refuse => false,
                    MidStream::Until(end) => now < end,
                    MidStream::Always => !flags.fin(),
                };
                if opens || (goes_on && may_go_on) { Ok(()) } else { Err(DropReason::TcpNotSyn) }
            }
            Transport::Sctp { chunk: sctp::INIT, tag: 0, .. } => Ok(()),
            Transport::Sctp { .. } => Err(DropReason::SctpState),
            Transport::Icmp(Icmp { message, .. }) => match message {
                IcmpMessage::EchoReply(_) => Err(DropReason::IcmpReplyUnasked),
                IcmpMessage::Error { .. } => Err(DropReason::IcmpUnrelated),
                _ => Ok(()),
            },
            Transport::Fragment => match packet.protocol {
                Protocol::TCP => Err(DropReason::TcpNotSyn),
                Protocol::SCTP => Err(DropReason::SctpState),
                _ => Ok(()),
            },
            Transport::Udp { .. } | Transport::Other => Ok(()),
        }
    }

    /// Holds a packet of a known flow against the flow's state, moves the state, counts, and starts the flow's time again.
    ///
    /// # Errors
    /// Why the packet does not fit: [`DropReason::TcpOutOfWindow`], [`DropReason::TcpResetInvalid`],
    /// [`DropReason::TcpState`], [`DropReason::SctpState`], [`DropReason::IcmpReplyUnasked`],
    /// [`DropReason::FlowCut`].
    #[inline]
    pub fn track(
        &mut self,
        flow: FlowRef,
        origin: Origin,
        packet: &Packet,
        crossing: &Crossing,
    ) -> Result<Tracked, DropReason> {
        let mut entry = self.flow_mut(flow);
        let (before, evictable) = (entry.state(), entry.is_evictable());
        let step = step(&mut entry, origin, packet);
        if let Ok(Step::Update | Step::Ignore) = step {
            entry.count(origin, crossing.length);
        }
        let changed = before != entry.state();
        if evictable != entry.is_evictable() {
            self.relist(flow);
        }
        if changed || step == Ok(Step::Update) {
            self.refresh(flow, crossing.now);
        }
        if step? == Step::Reopen {
            return Ok(Tracked::Reopen);
        }
        Ok(Tracked::Continue)
    }
}

/// Moves a flow's state by a packet.
#[inline]
fn step(entry: &mut FlowMut<'_>, origin: Origin, packet: &Packet) -> Result<Step, DropReason> {
    if entry.state() == FlowState::Cut {
        return cut(origin, packet);
    }
    match packet.transport {
        Transport::Tcp(segment) => tcp::track(entry, origin, &segment, packet.fragment.is_some_and(|piece| piece.more)),
        Transport::Sctp { tag, chunk, .. } => sctp::track(entry, origin, tag, chunk),
        Transport::Icmp(Icmp { message, .. }) => match (message, origin) {
            (IcmpMessage::EchoRequest(_), Origin::Original) | (IcmpMessage::EchoReply(_), Origin::Reply) => {
                Ok(datagram(entry, origin))
            }
            // Both ends ask with the identifier 0: the one case in which their tuples are alike.
            (IcmpMessage::EchoRequest(_), Origin::Reply) => Ok(Step::Reopen),
            (IcmpMessage::EchoReply(_), Origin::Original) => Err(DropReason::IcmpReplyUnasked),
            _ => Err(DropReason::IcmpUnrelated),
        },
        // Of a connection's later fragments nothing is read: they pass while it lives and do not keep it alive.
        Transport::Fragment if matches!(entry.key().protocol(), Protocol::TCP | Protocol::SCTP) => Ok(Step::Ignore),
        Transport::Udp { .. } | Transport::Other | Transport::Fragment => Ok(datagram(entry, origin)),
    }
}

/// UDP and whatever else has no states of its own: a question, an answer, a conversation.
#[inline]
fn datagram(entry: &mut FlowMut<'_>, origin: Origin) -> Step {
    match (entry.state(), origin) {
        (FlowState::Unreplied, Origin::Reply) => entry.set_state(FlowState::Replied),
        (FlowState::Replied, Origin::Original) => entry.set_state(FlowState::Stream),
        _ => {}
    }
    Step::Update
}

/// What policy cut stays cut, unless its originator opens a new connection.
fn cut(origin: Origin, packet: &Packet) -> Result<Step, DropReason> {
    let opens = match packet.transport {
        Transport::Tcp(segment) => segment.flags.syn() && !segment.flags.ack() && !segment.flags.rst(),
        Transport::Sctp { chunk: sctp::INIT, tag: 0, .. } => true,
        _ => false,
    };
    if opens && origin == Origin::Original { Ok(Step::Reopen) } else { Err(DropReason::FlowCut) }
}
