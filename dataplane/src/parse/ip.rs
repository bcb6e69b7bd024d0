//! What both IP versions share: impossible addresses, fragments.

use super::{View, transport};
use crate::address::Address;
use crate::packet::{Fragment, Icmp, IcmpMessage, NeighbourKind, NeighbourMessage, Packet, Protocol, Transport};
use crate::verdict::DropReason;

/// The most bytes that a datagram's fragments may add up to.
const MAX_DATAGRAM: usize = 65535;

/// A packet's IP headers, read.
pub(super) struct IpHeader {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) protocol: Protocol,
    pub(super) hop_limit: u8,
    /// The fragment's place; `None` for a whole packet, and for one whose fragment header says that it is whole.
    pub(super) fragment: Option<Fragment>,
    /// Whether there is a fragment header, of a whole packet too (RFC 6980).
    pub(super) fragment_header: bool,
    /// Bytes that every fragment's header adds to its datagram's length.
    pub(super) repeated_length: usize,
}

impl IpHeader {
    /// Whether this is a fragment that others follow, with the headers.
    pub(super) fn is_first_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.is_first())
    }
}

/// Reads what follows the IP headers, and puts the packet together.
pub(super) fn finish(ip: &IpHeader, view: View<'_>) -> Result<Packet, DropReason> {
    if is_martian(ip.source) || ip.source.is_group() {
        return Err(DropReason::MartianSource);
    }
    if is_martian(ip.destination) || ip.destination.is_unspecified() || is_interface_local(ip.destination) {
        return Err(DropReason::MartianDestination);
    }
    if let Some(fragment) = ip.fragment {
        check_fragment(ip, fragment)?;
    }
    let packet = Packet {
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        hop_limit: ip.hop_limit,
        transport_offset: u16::try_from(view.offset).map_err(|_| DropReason::Ipv6ExtensionLimit)?,
        transport_length: u32::try_from(view.length).map_err(|_| DropReason::FrameTooLong)?,
        fragment: ip.fragment,
        transport: transport::parse(ip, view)?,
    };
    if packet.source.is_unspecified() && !may_be_unspecified(&packet) {
        return Err(DropReason::MartianSource);
    }
    Ok(packet)
}

/// Addresses that no packet on a wire has, as source or destination: loopback, 0.0.0.0/8 but for 0.0.0.0 itself.
/// IPv4-mapped ones are caught earlier, while it is still known that they came as IPv6.
fn is_martian(address: Address) -> bool {
    match address.to_v4_bits() {
        Some(bits) => bits >> 24 == 127 || (bits >> 24 == 0 && bits != 0),
        None => address.to_bits() == 1,
    }
}

/// IPv6 groups of scope 0 (reserved) and 1 (interface), which must not be sent (RFC 4291 section 2.7).
fn is_interface_local(address: Address) -> bool {
    !address.is_v4() && address.0[0] == 0xff && address.0[1] & 0x0f <= 1
}

/// Who has no address yet may ask for one (RFC 2131), join groups (RFC 2236, RFC 3590), and look for routers
/// and for others with its address (RFC 4861, RFC 4862).
fn may_be_unspecified(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Udp { source_port: 68, destination_port: 67 } => packet.source.is_v4(),
        Transport::Other => packet.source.is_v4() && packet.protocol == Protocol::IGMP,
        Transport::Icmp(Icmp { message: IcmpMessage::MulticastListener, .. }) => true,
        Transport::Icmp(Icmp { message: IcmpMessage::Neighbour(NeighbourMessage { kind, .. }), .. }) => {
            matches!(kind, NeighbourKind::NeighbourSolicitation | NeighbourKind::RouterSolicitation)
        }
        _ => false,
    }
}

/// Holds a fragment's place against what a datagram can be, and against the headers that its first one must hold.
fn check_fragment(ip: &IpHeader, fragment: Fragment) -> Result<(), DropReason> {
    let (offset, length) = (fragment.offset as usize, fragment.length as usize);
    if (fragment.more && !length.is_multiple_of(8)) || offset + length + ip.repeated_length > MAX_DATAGRAM {
        return Err(DropReason::FragmentLength);
    }
    if fragment.is_first() {
        return Ok(());
    }
    if length == 0 {
        return Err(DropReason::FragmentLength);
    }
    // RFC 1858, RFC 3128: a second fragment that starts within the transport header rewrites it.
    let header = match ip.protocol {
        Protocol::TCP => 20,
        Protocol::SCTP => 16,
        _ => 8,
    };
    if offset < header { Err(DropReason::FragmentTiny) } else { Ok(()) }
}
