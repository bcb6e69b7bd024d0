//! A builder's layers, put together from the inside out.

use super::{FrameBuilder, HOP_BY_HOP, Ip, Upper};
use crate::packet::{Fragment, Protocol};
use crate::testing::{crc32c, internet_checksum};

const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

impl FrameBuilder {
    /// Puts the link layer around.
    pub(super) fn wrap(&self, network: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(22 + network.len() + self.padding);
        if let Some((source, destination)) = self.ethernet {
            frame.extend(destination.0);
            frame.extend(source.0);
            for tag in &self.vlan {
                frame.extend(tag.protocol.to_be_bytes());
                frame.extend(tag.control.to_be_bytes());
            }
            let natural = if self.ip.is_some() && !self.is_v4() { 0x86dd } else { 0x0800 };
            frame.extend(self.ether_type.unwrap_or(natural).to_be_bytes());
        }
        frame.extend(network);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// Puts the IP header, and the extension headers that are repeated in every fragment, before `body`.
    pub(super) fn internet(&self, body: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let ip = self.ip.as_ref().expect("call ip() or addresses() first");
        match (ip.source.to_v4_bits(), ip.destination.to_v4_bits()) {
            (Some(source), Some(destination)) => ip.v4(source, destination, self.protocol_number(), body, fragment),
            _ => ip.v6(self.first_fragmentable(), body, fragment),
        }
    }

    fn protocol_number(&self) -> u8 {
        match self.upper {
            Upper::Raw(protocol) => protocol,
            Upper::Tcp { .. } => Protocol::TCP.0,
            Upper::Udp { .. } => Protocol::UDP.0,
            Upper::Sctp { .. } => Protocol::SCTP.0,
            Upper::Icmp { .. } if self.is_v4() => Protocol::ICMP.0,
            Upper::Icmp { .. } => Protocol::ICMPV6.0,
        }
    }

    fn first_fragmentable(&self) -> u8 {
        let fragmentable = self.ip.iter().flat_map(|ip| &ip.extensions).find(|(number, _)| !is_repeated(*number));
        fragmentable.map_or_else(|| self.protocol_number(), |(number, _)| *number)
    }

    /// The part of the datagram that is fragmented: the IPv6 headers after a fragment header, transport, payload.
    pub(super) fn transport(&self) -> Vec<u8> {
        let ip = self.ip.as_ref().expect("call ip() or addresses() first");
        let fragmentable: Vec<_> = ip.extensions.iter().filter(|(number, _)| !is_repeated(*number)).collect();
        let mut bytes = chain(&fragmentable, self.protocol_number());
        bytes.extend(self.upper_bytes(ip));
        bytes
    }

    fn upper_bytes(&self, ip: &Ip) -> Vec<u8> {
        let mut bytes = Vec::new();
        let checksum_at = match &self.upper {
            Upper::Raw(_) => None,
            Upper::Tcp { ports, flags, sequence, acknowledgement, window, options } => {
                let length = 20 + options.len().next_multiple_of(4);
                extend_ports(&mut bytes, *ports);
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([(length / 4) as u8 * 16, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.resize(length, 0);
                Some(16)
            }
            Upper::Udp { ports } => {
                extend_ports(&mut bytes, *ports);
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0; 2]);
                Some(6)
            }
            Upper::Sctp { ports, tag } => {
                extend_ports(&mut bytes, *ports);
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0; 4]);
                None
            }
            Upper::Icmp { kind, code, rest } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest);
                Some(2)
            }
        };
        bytes.extend(&self.payload);
        if let Some(at) = checksum_at {
            let sum = self.checksum(ip, &bytes);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        } else if matches!(self.upper, Upper::Sctp { .. }) {
            let crc = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    fn checksum(&self, ip: &Ip, bytes: &[u8]) -> u16 {
        let protocol = self.protocol_number();
        if protocol == Protocol::ICMP.0 {
            return internet_checksum(&[bytes]);
        }
        let from = if ip.source.is_v4() { 12 } else { 0 };
        let length = (bytes.len() as u32).to_be_bytes();
        let parts = [&ip.source.0[from..], &ip.destination.0[from..], &length, &[0, 0, 0, protocol], bytes];
        match internet_checksum(&parts) {
            // RFC 768: a sum of zero is sent as all ones.
            0 if protocol == Protocol::UDP.0 => 0xffff,
            sum => sum,
        }
    }
}

impl Ip {
    fn v4(&self, source: u32, destination: u32, protocol: u8, body: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        assert!(self.extensions.is_empty(), "IPv4 has no extension headers");
        let header = 20 + self.options.len().next_multiple_of(4);
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + body.len()) as u16).to_be_bytes());
        bytes.extend((fragment.map_or(self.id, |fragment| fragment.id) as u16).to_be_bytes());
        let mut flags = fragment.map_or(0, |f| (f.offset / 8) as u16 | u16::from(f.more) << 13);
        flags |= u16::from(self.dont_fragment) << 14;
        bytes.extend(flags.to_be_bytes());
        bytes.extend([self.hop_limit, protocol, 0, 0]);
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend(&self.options);
        bytes.resize(header, 0);
        let checksum = internet_checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn v6(&self, first_fragmentable: u8, body: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        assert!(self.options.is_empty(), "IPv6 has no options in its header");
        let repeated: Vec<_> = self.extensions.iter().filter(|(number, _)| is_repeated(*number)).collect();
        let after = if fragment.is_some() { FRAGMENT } else { first_fragmentable };
        let mut extensions = chain(&repeated, after);
        if let Some(fragment) = fragment {
            extensions.extend([first_fragmentable, 0]);
            extensions.extend(((fragment.offset as u16) & !7 | u16::from(fragment.more)).to_be_bytes());
            extensions.extend(fragment.id.to_be_bytes());
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(((extensions.len() + body.len()) as u16).to_be_bytes());
        bytes.extend([repeated.first().map_or(after, |(number, _)| *number), self.hop_limit]);
        bytes.extend(self.source.0);
        bytes.extend(self.destination.0);
        bytes.extend(extensions);
        bytes.extend(body);
        bytes
    }
}

/// Whether every fragment repeats the extension header (RFC 8200 section 4.5, the per-fragment headers).
fn is_repeated(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING)
}

/// The extension headers, each naming the one after it and the last naming `last`.
fn chain(extensions: &[&(u8, Vec<u8>)], last: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, (number, body)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(last, |(number, _)| *number);
        let length = 2 + body.len();
        let units = if *number == AUTHENTICATION { length / 4 - 2 } else { length / 8 - 1 };
        bytes.extend([next, units as u8]);
        bytes.extend(body);
    }
    bytes
}

fn extend_ports(bytes: &mut Vec<u8>, (source, destination): (u16, u16)) {
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
}
