//! Why a frame did not pass: one reason for each way to fail. Every reason is a counter, a metric label and a test.

/// Declares [`DropReason`] with its labels and explanations in one place.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident => $label:literal, $explanation:literal;)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $explanation] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The label in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$variant => $label,)* }
            }

            /// One sentence for people.
            pub fn explanation(self) -> &'static str {
                match self { $(DropReason::$variant => $explanation,)* }
            }
        }
    };
}

drop_reasons! {
    // Parse: the frame.
    FrameTooShort => "frame_too_short", "The frame ends within its Ethernet header or VLAN tags.";
    VlanTooDeep => "vlan_too_deep", "The frame has more than two VLAN tags.";
    SourceMacGroup => "source_mac_group", "The frame's source MAC address is a group address.";
    ArpMalformed => "arp_malformed", "The ARP message is cut short, not for IPv4 over Ethernet, or neither request nor reply.";
    IpVersion => "ip_version", "The frame has no Ethernet header, and is neither IPv4 nor IPv6.";
    // Parse: IP.
    Ipv4HeaderTruncated => "ipv4_header_truncated", "The packet ends within its IPv4 header.";
    Ipv4VersionMismatch => "ipv4_version_mismatch", "The EtherType says IPv4 and the header says another version.";
    Ipv4HeaderLength => "ipv4_header_length", "The IPv4 header length is below 20 bytes or beyond the total length.";
    Ipv4TotalLength => "ipv4_total_length", "The IPv4 total length is beyond the end of the frame.";
    Ipv4Checksum => "ipv4_checksum", "The IPv4 header checksum is wrong.";
    Ipv4Options => "ipv4_options", "An IPv4 option is malformed, or is a source route (RFC 7126).";
    Ipv6HeaderTruncated => "ipv6_header_truncated", "The packet ends within its IPv6 header.";
    Ipv6VersionMismatch => "ipv6_version_mismatch", "The EtherType says IPv6 and the header says another version.";
    Ipv6PayloadLength => "ipv6_payload_length", "The IPv6 payload length is beyond the end of the frame, or a jumbogram's zero.";
    Ipv6ExtensionTruncated => "ipv6_extension_truncated", "The packet ends within an IPv6 extension header.";
    Ipv6ExtensionOrder => "ipv6_extension_order", "A hop-by-hop header that is not first, or a routing, fragment or authentication header that comes twice.";
    Ipv6ExtensionLimit => "ipv6_extension_limit", "The packet has more IPv6 extension headers than are read.";
    Ipv6RoutingHeader => "ipv6_routing_header", "A routing header of type 0 (RFC 5095), or one that leads on to other destinations.";
    Ipv6Options => "ipv6_options", "An IPv6 option's length leaves its header, or it is a home address (RFC 6275).";
    Ipv6NoNextHeader => "ipv6_no_next_header", "The packet carries nothing above IPv6 (next header 59).";
    MartianSource => "martian_source", "The source is a group, loopback, IPv4-mapped or otherwise impossible address.";
    MartianDestination => "martian_destination", "The destination is loopback, unspecified, IPv4-mapped or a group of one interface.";
    // Parse: transport.
    TcpTruncated => "tcp_truncated", "The packet ends within its TCP header.";
    TcpHeaderLength => "tcp_header_length", "The TCP data offset is below 20 bytes or beyond the packet.";
    TcpFlags => "tcp_flags", "A combination of TCP flags that no sender makes (none, SYN with FIN or RST, FIN with RST or without ACK).";
    TcpOptions => "tcp_options", "A TCP option's length leaves the header or is not its kind's.";
    UdpTruncated => "udp_truncated", "The packet ends within its UDP header.";
    UdpLength => "udp_length", "The UDP length is below 8 or beyond the packet.";
    SctpTruncated => "sctp_truncated", "The packet ends within its SCTP header or first chunk.";
    SctpChunk => "sctp_chunk", "The first SCTP chunk's length or tag is impossible, or it may not be bundled and is.";
    IcmpTruncated => "icmp_truncated", "The packet ends within its ICMP header.";
    IcmpQuoteTruncated => "icmp_quote_truncated", "The ICMP error quotes too little of the packet that it is about.";
    IcmpQuoteMalformed => "icmp_quote_malformed", "The ICMP error quotes something that is no packet of its own IP version.";
    IcmpFragmented => "icmp_fragmented", "A fragmented neighbour discovery or multicast listener message, or ICMP error (RFC 6980).";
    NeighbourMalformed => "neighbour_malformed", "The neighbour discovery message breaks RFC 4861 (hop limit, code, lengths, options, addresses).";
    ListenerMalformed => "listener_malformed", "The multicast listener message breaks RFC 3810 (hop limit 1, link-local source, length).";
    PortZero => "port_zero", "TCP, UDP or SCTP with port 0, but for a UDP source port (RFC 768).";
    // Fragments.
    FragmentTiny => "fragment_tiny", "The first fragment does not hold all headers (RFC 7112, RFC 1858).";
    FragmentOverlap => "fragment_overlap", "The fragment overlaps another one of its datagram; the datagram is dropped (RFC 5722).";
    FragmentDuplicate => "fragment_duplicate", "The fragment was seen already.";
    FragmentLength => "fragment_length", "The fragment ends beyond 65,535 bytes, beyond the last one, or its length is no multiple of 8.";
    FragmentOverflow => "fragment_overflow", "Too many fragments, datagrams in pieces, or held fragments.";
    FragmentTimeout => "fragment_timeout", "The first fragment did not arrive in time.";
    // Guard: what an endpoint may say.
    NotEthernetII => "not_ethernet_ii", "The endpoint may speak Ethernet II only, and this frame is LLC or SNAP.";
    EtherTypeNotAllowed => "ethertype_not_allowed", "The endpoint may speak IP and ARP only.";
    VlanNotAllowed => "vlan_not_allowed", "The endpoint may send and receive untagged frames only.";
    SpoofedMac => "spoofed_mac", "The frame's source MAC address is not the endpoint's.";
    ForeignMac => "foreign_mac", "The frame is addressed to another MAC address than the endpoint's.";
    SpoofedAddress => "spoofed_address", "The endpoint sends from an address that is not its own, or others from one that is.";
    SpoofedArp => "spoofed_arp", "The ARP message claims an address that is not its sender's.";
    SpoofedNeighbour => "spoofed_neighbour", "The neighbour discovery message claims an address that is not its sender's.";
    RouterAdvertisement => "router_advertisement", "An endpoint may not advertise itself as a router.";
    IcmpRedirect => "icmp_redirect", "An endpoint may not redirect others.";
    DhcpServer => "dhcp_server", "An endpoint may not answer as a DHCP server.";
    DhcpClient => "dhcp_client", "The endpoint has its addresses already and may not ask for others by DHCP.";
    GroupRateLimit => "group_rate_limit", "The endpoint sends more broadcast or multicast frames than its limit.";
    // Flows.
    TcpNotSyn => "tcp_not_syn", "The packet belongs to no known connection and does not open one.";
    TcpOutOfWindow => "tcp_out_of_window", "The segment lies outside the connection's window.";
    TcpResetInvalid => "tcp_reset_invalid", "The reset's sequence number is not what the connection expects (RFC 5961).";
    TcpState => "tcp_state", "The segment does not fit the connection's state.";
    SctpState => "sctp_state", "The SCTP chunk does not fit the association's state or its verification tag.";
    IcmpUnrelated => "icmp_unrelated", "The ICMP error is about no known flow.";
    IcmpMtuTooSmall => "icmp_mtu_too_small", "The path MTU message names an MTU below the floor.";
    IcmpReplyUnasked => "icmp_reply_unasked", "An echo reply that nobody asked for.";
    FlowTableFull => "flow_table_full", "The flow table has no room for a new flow.";
    FlowQuota => "flow_quota", "The wire has used up its share of the flow table.";
    FlowCut => "flow_cut", "The connection was cut when policy no longer allowed it; it stays cut.";
    // Policy.
    PolicyDenied => "policy_denied", "Policy does not allow it.";
    PolicyRejected => "policy_rejected", "Policy does not allow it, and its sender is told so.";
    OtherNode => "other_node", "It comes from another node's address, which policy does not allow: that node itself, or a client that kube-proxy hid there.";
    ServiceDenied => "service_denied", "Policy allows none of the endpoints that the Service's address stands for.";
    ServiceMixed => "service_mixed", "Policy allows only some of the endpoints that the Service's address stands for, and which one it reaches is not known.";
    WireClosed => "wire_closed", "No policy that knows this wire has been published yet.";
    AskDenied => "ask_denied", "Control found what the packet does not show, and policy does not allow that.";
    AskUnknown => "ask_unknown", "The kernel's connection tracking does not know whom the packet's address stands for, or could not be asked.";
    AskTimeout => "ask_timeout", "Control did not answer in time.";
    AskQueueFull => "ask_queue_full", "Too many packets wait for an answer of control.";
    // Ports.
    HandOffFull => "hand_off_full", "The worker that owns the flow has as many frames of this queue as it may, and is too slow to judge more.";
    PortOverflow => "port_overflow", "The other end of the wire had no room.";
    PortUnavailable => "port_unavailable", "The other end of the wire is gone.";
    FrameTooLong => "frame_too_long", "The frame is longer than the other end of the wire can carry.";
    GsoUnsupported => "gso_unsupported", "A super-frame or a multi-segment frame that the other end of the wire cannot carry.";
    ChecksumMetadata => "checksum_metadata", "The frame's checksum or segmentation metadata does not fit its bytes.";
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves by the other port.
    Forward,
    /// It does not.
    Drop(DropReason),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_unique_and_fit_for_metrics() {
        let labels: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(reason.label().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(reason.explanation().ends_with('.'));
        }
    }
}
