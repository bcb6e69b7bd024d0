//! ICMP errors: matched to the flow of the packet that they quote.

use super::{Crossing, FlowRef, FlowState, FlowTable, Origin, tcp};
use crate::packet::{Icmp, IcmpMessage, Packet, Protocol, Quoted, Transport, Tuple};
use crate::verdict::DropReason;

/// The smallest path MTU that is believed over IPv4: Linux's `min_pmtu`. A smaller one is an attempt to make the sender
/// waste its packets on headers.
const MIN_MTU_V4: u32 = 552;

/// The smallest MTU of an IPv6 link (RFC 8200 section 5).
const MIN_MTU_V6: u32 = 1280;

impl FlowTable {
    /// The flow that an ICMP error is about. The error travels against the packet that it quotes and goes to who sent that
    /// packet; a quoted TCP segment must lie where its sender's segments lie (RFC 5927). Any error may be
    /// related: unreachable, too big, time exceeded (traceroute), parameter problem.
    ///
    /// # Errors
    /// [`DropReason::IcmpMtuTooSmall`] for a path MTU that no path has, [`DropReason::FlowCut`] when policy cut the flow,
    /// [`DropReason::IcmpUnrelated`] when there is no such flow, or the packet is no ICMP error.
    pub fn find_related(&self, crossing: &Crossing, packet: &Packet) -> Result<FlowRef, DropReason> {
        let Transport::Icmp(Icmp { message: IcmpMessage::Error { mtu, quoted }, .. }) = packet.transport else {
            return Err(DropReason::IcmpUnrelated);
        };
        if quoted.source != packet.destination {
            return Err(DropReason::IcmpUnrelated);
        }
        let (flow, origin) = self.find_quoted(crossing, &quoted).ok_or(DropReason::IcmpUnrelated)?;
        let entry = self.entry(flow);
        if entry.state() == FlowState::Cut {
            return Err(DropReason::FlowCut);
        }
        if let Some(sequence) = quoted.sequence
            && quoted.protocol == Protocol::TCP
            && !tcp::has_sent(&self.view(flow), origin, sequence)
        {
            return Err(DropReason::IcmpUnrelated);
        }
        let floor = if packet.destination.is_v4() { MIN_MTU_V4 } else { MIN_MTU_V6 };
        if mtu.is_some_and(|mtu| mtu < floor) { Err(DropReason::IcmpMtuTooSmall) } else { Ok(flow) }
    }

    /// The quoted packet's flow, and whose way that packet went. An echo that is quoted may be a request or a reply.
    fn find_quoted(&self, crossing: &Crossing, quoted: &Quoted) -> Option<(FlowRef, Origin)> {
        let direction = crossing.direction.reverse();
        let crossing = Crossing { direction, ..*crossing };
        let tuple = |source_port, destination_port| Tuple {
            source: quoted.source,
            destination: quoted.destination,
            protocol: quoted.protocol,
            source_port,
            destination_port,
        };
        match quoted.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => {
                let request = self.find(&crossing, &tuple(quoted.source_port, 0));
                request.or_else(|| self.find(&crossing, &tuple(0, quoted.destination_port)))
            }
            _ => self.find(&crossing, &tuple(quoted.source_port, quoted.destination_port)),
        }
    }
}
