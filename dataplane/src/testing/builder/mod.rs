//! [`FrameBuilder`].

use super::internet_checksum;
use crate::address::{Address, MacAddress};
use crate::frame::VlanTag;
use crate::packet::{Fragment, TcpFlags};

mod assemble;
#[cfg(test)]
mod tests;

const HOP_BY_HOP: u8 = 0;

/// Builds a well-formed frame, checksums and lengths included. Later calls replace what earlier ones said, except for
/// those that say that they add.
///
/// ```
/// use dataplane::packet::TcpFlags;
/// use dataplane::testing::FrameBuilder;
///
/// let syn = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").tcp(40000, 80, TcpFlags::SYN).build();
/// assert_eq!(syn.len(), 14 + 20 + 20);
/// let six = FrameBuilder::new().ip("fd00::1", "fd00::2").udp(40000, 53).payload(b"question").build();
/// assert_eq!(six.len(), 14 + 40 + 8 + 8);
/// ```
#[derive(Clone, Debug)]
pub struct FrameBuilder {
    ethernet: Option<(MacAddress, MacAddress)>,
    vlan: Vec<VlanTag>,
    ether_type: Option<u16>,
    ip: Option<Ip>,
    upper: Upper,
    payload: Vec<u8>,
    padding: usize,
}

#[derive(Clone, Debug)]
struct Ip {
    source: Address,
    destination: Address,
    hop_limit: u8,
    id: u32,
    dont_fragment: bool,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<Fragment>,
}

#[derive(Clone, Debug)]
enum Upper {
    /// The payload follows the IP header (or the Ethernet header) as it is.
    Raw(u8),
    Tcp {
        ports: (u16, u16),
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        window: u16,
        options: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
    },
    Sctp {
        ports: (u16, u16),
        tag: u32,
    },
    /// Type, code, and the four bytes after the checksum.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// The sender's MAC address when none is said.
    pub const SOURCE_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    /// The receiver's MAC address when none is said.
    pub const DESTINATION_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    /// An Ethernet frame from [`Self::SOURCE_MAC`] to [`Self::DESTINATION_MAC`], empty so far.
    pub fn new() -> Self {
        FrameBuilder {
            ethernet: Some((Self::SOURCE_MAC, Self::DESTINATION_MAC)),
            vlan: Vec::new(),
            ether_type: None,
            ip: None,
            upper: Upper::Raw(253),
            payload: Vec::new(),
            padding: 0,
        }
    }

    /// A packet without an Ethernet header: a frame of a `tun` port, or what an ICMP error quotes.
    pub fn packet() -> Self {
        FrameBuilder { ethernet: None, ..Self::new() }
    }

    /// The MAC addresses.
    pub fn ethernet(mut self, source: MacAddress, destination: MacAddress) -> Self {
        self.ethernet = Some((source, destination));
        self
    }

    /// Adds a VLAN tag inside the tags that are there.
    pub fn vlan(mut self, tag: VlanTag) -> Self {
        self.vlan.push(tag);
        self
    }

    /// The EtherType, against what the frame carries; below 1536 it is an IEEE 802.3 length.
    pub fn ether_type(mut self, ether_type: u16) -> Self {
        self.ether_type = Some(ether_type);
        self
    }

    /// IPv4 or IPv6 addresses as text.
    ///
    /// # Panics
    /// When they are no addresses, or not of one family.
    pub fn ip(self, source: &str, destination: &str) -> Self {
        let address = |text: &str| -> Address {
            text.parse::<std::net::IpAddr>().unwrap_or_else(|_| panic!("{text:?} is no IP address")).into()
        };
        self.addresses(address(source), address(destination))
    }

    /// IPv4 or IPv6 addresses.
    ///
    /// # Panics
    /// When they are not of one family.
    pub fn addresses(mut self, source: Address, destination: Address) -> Self {
        assert_eq!(source.is_v4(), destination.is_v4(), "{source} and {destination} are of two families");
        let ip = Ip {
            source,
            destination,
            hop_limit: 64,
            id: 0,
            dont_fragment: false,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        };
        self.ip = Some(match self.ip.take() {
            Some(before) => Ip { source, destination, ..before },
            None => ip,
        });
        self
    }

    fn ip_mut(&mut self) -> &mut Ip {
        self.ip.as_mut().expect("call ip() or addresses() first")
    }

    fn is_v4(&self) -> bool {
        self.ip.as_ref().expect("call ip() or addresses() first").source.is_v4()
    }

    /// TTL or hop limit, 64 by default.
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.ip_mut().hop_limit = hop_limit;
        self
    }

    /// IPv4's identification, or that of the fragment header.
    pub fn id(mut self, id: u32) -> Self {
        self.ip_mut().id = id;
        self
    }

    /// IPv4's "don't fragment".
    pub fn dont_fragment(mut self) -> Self {
        self.ip_mut().dont_fragment = true;
        self
    }

    /// IPv4 options; they are padded to a multiple of four with "end of options".
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_mut().options = options.to_vec();
        self
    }

    /// Adds an IPv6 extension header. `body` is all after the next header and length bytes, 6 + 8n bytes long
    /// (authentication header: 6 + 4n). Hop-by-hop and routing headers stand before a fragment header, others after it.
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.ip_mut().extensions.push((number, body.to_vec()));
        self
    }

    /// Makes the packet one fragment: the first has the transport header and the payload, a later one the payload only.
    /// The transport checksum is that of the bytes that are there. See [`Self::fragments`] for all of a datagram.
    pub fn fragment(mut self, id: u32, offset: u32, more: bool) -> Self {
        self.ip_mut().fragment = Some(Fragment { id, offset, more, length: 0 });
        self
    }

    /// A TCP segment; window 65,535, sequence and acknowledgement numbers 0.
    pub fn tcp(mut self, source_port: u16, destination_port: u16, flags: u8) -> Self {
        let ports = (source_port, destination_port);
        self.upper = Upper::Tcp { ports, flags, sequence: 0, acknowledgement: 0, window: 65535, options: Vec::new() };
        self
    }

    /// Sequence number of the TCP segment.
    pub fn sequence(mut self, number: u32) -> Self {
        let Upper::Tcp { sequence, .. } = &mut self.upper else { panic!("call tcp() first") };
        *sequence = number;
        self
    }

    /// Acknowledgement number of the TCP segment; it sets ACK.
    pub fn acknowledgement(mut self, number: u32) -> Self {
        let Upper::Tcp { acknowledgement, flags, .. } = &mut self.upper else { panic!("call tcp() first") };
        *acknowledgement = number;
        *flags |= TcpFlags::ACK;
        self
    }

    /// Window of the TCP segment, not scaled.
    pub fn window(mut self, size: u16) -> Self {
        let Upper::Tcp { window, .. } = &mut self.upper else { panic!("call tcp() first") };
        *window = size;
        self
    }

    /// TCP options; they are padded to a multiple of four with "end of options".
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        let Upper::Tcp { options, .. } = &mut self.upper else { panic!("call tcp() first") };
        *options = bytes.to_vec();
        self
    }

    /// A UDP datagram.
    pub fn udp(mut self, source_port: u16, destination_port: u16) -> Self {
        self.upper = Upper::Udp { ports: (source_port, destination_port) };
        self
    }

    /// An SCTP packet with one chunk, its value filled with zeros to the least that its type needs.
    pub fn sctp(mut self, source_port: u16, destination_port: u16, tag: u32, chunk: u8) -> Self {
        let length: u16 = match chunk {
            1 | 2 => 20,
            0 => 17,
            3 => 16,
            7 => 8,
            _ => 4,
        };
        self.upper = Upper::Sctp { ports: (source_port, destination_port), tag };
        self.payload = vec![0; usize::from(length.next_multiple_of(4))];
        self.payload[0] = chunk;
        self.payload[2..4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// An ICMP or ICMPv6 message, by the family of the addresses: type, code, and the four bytes after the checksum.
    pub fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.upper = Upper::Icmp { kind, code, rest };
        self
    }

    /// An echo request.
    pub fn echo_request(self, id: u16, sequence: u16) -> Self {
        let kind = if self.is_v4() { 8 } else { 128 };
        self.echo(kind, id, sequence)
    }

    /// An echo reply.
    pub fn echo_reply(self, id: u16, sequence: u16) -> Self {
        let kind = if self.is_v4() { 0 } else { 129 };
        self.echo(kind, id, sequence)
    }

    fn echo(self, kind: u8, id: u16, sequence: u16) -> Self {
        let [a, b] = id.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        self.icmp(kind, 0, [a, b, c, d])
    }

    /// An ICMP error about `quoted`, a packet from its IP header on ([`Self::packet`]).
    pub fn icmp_error(self, kind: u8, code: u8, rest: u32, quoted: &[u8]) -> Self {
        self.icmp(kind, code, rest.to_be_bytes()).payload(quoted)
    }

    /// "Destination unreachable, port".
    pub fn port_unreachable(self, quoted: &[u8]) -> Self {
        let (kind, code) = if self.is_v4() { (3, 3) } else { (1, 4) };
        self.icmp_error(kind, code, 0, quoted)
    }

    /// "Fragmentation needed" or "packet too big".
    pub fn packet_too_big(self, mtu: u32, quoted: &[u8]) -> Self {
        let (kind, code) = if self.is_v4() { (3, 4) } else { (2, 0) };
        self.icmp_error(kind, code, mtu, quoted)
    }

    /// An ARP message (RFC 826): 1 request, 2 reply.
    ///
    /// # Panics
    /// When the addresses are not IPv4.
    pub fn arp(mut self, operation: u16, sender: (MacAddress, Address), target: (MacAddress, Address)) -> Self {
        let mut bytes = vec![0, 1, 8, 0, 6, 4];
        bytes.extend(operation.to_be_bytes());
        for (mac, address) in [sender, target] {
            bytes.extend(mac.0);
            bytes.extend(address.to_v4_bits().expect("ARP is for IPv4").to_be_bytes());
        }
        self.ip = None;
        self.ether_type = Some(0x0806);
        self.payload(&bytes)
    }

    /// A neighbour solicitation with a source link-layer address option; hop limit 255.
    pub fn neighbour_solicitation(self, target: Address, link_layer: Option<MacAddress>) -> Self {
        self.neighbour(135, [0; 4], &target.0, link_layer.map(|mac| (1, mac)))
    }

    /// A solicited, overriding neighbour advertisement with a target link-layer address option; hop limit 255.
    pub fn neighbour_advertisement(self, target: Address, link_layer: Option<MacAddress>) -> Self {
        self.neighbour(136, [0x60, 0, 0, 0], &target.0, link_layer.map(|mac| (2, mac)))
    }

    /// A neighbour advertisement that nobody asked for, to a group; overriding, hop limit 255.
    pub fn neighbour_unsolicited(self, target: Address, link_layer: Option<MacAddress>) -> Self {
        self.neighbour(136, [0x20, 0, 0, 0], &target.0, link_layer.map(|mac| (2, mac)))
    }

    /// A router solicitation; hop limit 255.
    pub fn router_solicitation(self, link_layer: Option<MacAddress>) -> Self {
        self.neighbour(133, [0; 4], &[], link_layer.map(|mac| (1, mac)))
    }

    /// A router advertisement (lifetime 30 minutes, no timers); hop limit 255.
    pub fn router_advertisement(self, link_layer: Option<MacAddress>) -> Self {
        self.neighbour(134, [64, 0, 0x07, 0x08], &[0; 8], link_layer.map(|mac| (1, mac)))
    }

    /// An ICMPv6 redirect: use `target` for `destination`; hop limit 255.
    pub fn redirect(self, target: Address, destination: Address) -> Self {
        self.neighbour(137, [0; 4], &[target.0, destination.0].concat(), None)
    }

    fn neighbour(self, kind: u8, rest: [u8; 4], body: &[u8], link_layer: Option<(u8, MacAddress)>) -> Self {
        let mut bytes = body.to_vec();
        if let Some((option, mac)) = link_layer {
            bytes.extend([option, 1]);
            bytes.extend(mac.0);
        }
        self.hop_limit(255).icmp(kind, 0, rest).payload(&bytes)
    }

    /// A group membership report: IGMPv2 (RFC 2236) or MLDv1 (RFC 2710), with hop limit 1 and the router alert option.
    /// The destination is the group, unless another was said.
    pub fn group_report(mut self, group: Address) -> Self {
        let Some(bits) = group.to_v4_bits() else {
            return self.hop_limit(1).extension(HOP_BY_HOP, &[5, 2, 0, 0, 1, 0]).icmp(131, 0, [0; 4]).payload(&group.0);
        };
        let mut bytes = [0x16, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&bits.to_be_bytes());
        let checksum = internet_checksum(&[&bytes]);
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        self.upper = Upper::Raw(2);
        self.hop_limit(1).ip_options(&[0x94, 4, 0, 0]).payload(&bytes)
    }

    /// Another protocol above IP, of which the payload is all.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.upper = Upper::Raw(protocol);
        self
    }

    /// What follows the last header.
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// Bytes after the IP packet, as Ethernet pads short frames.
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let Some(ip) = &self.ip else { return self.wrap(&self.payload) };
        let later = ip.fragment.is_some_and(|fragment| fragment.offset > 0);
        let upper = if later { self.payload.clone() } else { self.transport() };
        self.wrap(&self.internet(&upper, ip.fragment))
    }

    /// All fragments of the datagram, in order, each with at most `size` bytes of it (rounded down to a multiple of
    /// eight) after the IP header and the headers that are repeated.
    ///
    /// # Panics
    /// When `size` is below eight.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let size = size & !7;
        assert!(size > 0, "a fragment holds at least eight bytes");
        let id = self.ip.as_ref().expect("call ip() or addresses() first").id;
        let transport = self.transport();
        let mut offset = 0;
        let pieces = transport.chunks(size).map(|piece| {
            let more = offset + piece.len() < transport.len();
            let fragment = Fragment { id, offset: offset as u32, more, length: piece.len() as u32 };
            offset += piece.len();
            self.wrap(&self.internet(piece, Some(fragment)))
        });
        pieces.collect()
    }
}
