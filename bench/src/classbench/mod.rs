//! Rule lists of gateways: ClassBench's format, generators of sets like its own, headers to ask them about, and an
//! oracle that answers quickly enough to check every answer.
//!
//! ClassBench (Taylor, Turner: "ClassBench: A Packet Classification Benchmark", 2007) is what published classifiers are
//! measured with. Three kinds of sets: `acl` (access lists: long prefixes on both sides, destination ports), `fw`
//! (firewalls: many wildcards), `ipc` (chains of a Linux host: of everything something).
//!
//! * [`read_set`], [`read_trace`]: the files ([`directory`] tells where they are).
//! * [`Generator`]: sets of any size from a seed, with the distributions learnt from a set that is read.
//! * [`headers`](headers()): headers that hit filters, evenly over the filters, or cross the fields of several.
//! * [`Oracle`]: the first filter that matches, by another algorithm than anything that is measured;
//!   [`first_match`] reads the filters one after the other and is the definition.

mod generator;
mod headers;
mod oracle;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use dataplane::address::Address;
use dataplane::rules::AddressSet;
use ipnet::IpNet;

pub use generator::Generator;
pub use headers::headers;
pub use oracle::Oracle;
pub use reader::{ReadError, directory, parse_set, parse_trace, read_set, read_trace};

/// A kind of rule list, by the name of the ClassBench seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Access control list (`acl1`).
    Acl,
    /// Firewall (`fw1`).
    Fw,
    /// IP chain (`ipc1`).
    Ipc,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Acl, Kind::Fw, Kind::Ipc];

    /// The seed's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Acl => "acl1",
            Kind::Fw => "fw1",
            Kind::Ipc => "ipc1",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sizes that the files come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Size {
    /// About 1,000 filters.
    K1,
    /// About 10,000 filters.
    K10,
    /// About 100,000 filters.
    K100,
}

impl Size {
    /// All of them.
    pub const ALL: [Size; 3] = [Size::K1, Size::K10, Size::K100];

    /// As it stands in the names of files.
    pub fn name(self) -> &'static str {
        match self {
            Size::K1 => "1k",
            Size::K10 => "10k",
            Size::K100 => "100k",
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Ports from the first to the last, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl Ports {
    /// All ports.
    pub const ANY: Ports = Ports { first: 0, last: u16::MAX };

    /// Whether the port is among them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// A filter: one line of a set. Its priority is its place; the first that matches wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Sources.
    pub source: IpNet,
    /// Destinations, of the same family.
    pub destination: IpNet,
    /// Source ports.
    pub source_ports: Ports,
    /// Destination ports.
    pub destination_ports: Ports,
    /// Protocol; `None` for any.
    pub protocol: Option<u8>,
    /// TCP flags as they must be under the mask; for ICMP, its type. ClassBench keeps either in the upper byte of its
    /// 16 bits and leaves the lower byte alone.
    pub flags: u8,
    /// Which bits of the flags are looked at; 0 for none.
    pub flags_mask: u8,
}

/// What a classifier is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Source.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Protocol.
    pub protocol: u8,
    /// TCP flags, or the ICMP type.
    pub flags: u8,
}

impl Filter {
    /// Whether the filter is about IPv4.
    pub fn is_v4(&self) -> bool {
        matches!(self.source, IpNet::V4(_))
    }

    /// Whether a header of the same family matches.
    pub fn matches(&self, header: &Header) -> bool {
        let inside = |net: &IpNet, address: Address| {
            let (first, last) = AddressSet::range_of(net);
            (first..=last).contains(&address.to_bits())
        };
        inside(&self.source, header.source)
            && inside(&self.destination, header.destination)
            && self.source_ports.contains(header.source_port)
            && self.destination_ports.contains(header.destination_port)
            && self.protocol.is_none_or(|protocol| protocol == header.protocol)
            && header.flags & self.flags_mask == self.flags
    }

    /// The same filter for IPv6. Bits of a prefix become two bits each below `2000::/3`, the second of them drawn from
    /// the bits before it, so that prefixes nest and meet as they did; a host (/32) becomes a host (/128), a /31 a /64.
    pub fn to_v6(&self, seed: u64) -> Filter {
        let source = reader::widen(self.source, seed);
        let destination = reader::widen(self.destination, seed);
        Filter { source, destination, ..*self }
    }
}

impl fmt::Display for Filter {
    /// As a line of a ClassBench set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}\t{}\t", self.source, self.destination)?;
        for ports in [self.source_ports, self.destination_ports] {
            write!(f, "{} : {}\t", ports.first, ports.last)?;
        }
        let (protocol, mask) = self.protocol.map_or((0, 0), |protocol| (protocol, 0xff));
        write!(f, "0x{protocol:02x}/0x{mask:02X}\t0x{:02x}00/0x{:02x}00\t", self.flags, self.flags_mask)
    }
}

impl fmt::Display for Header {
    /// As a line of a ClassBench trace, without the filter's place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |address: Address| match IpAddr::from(address) {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        let (source, destination) = (number(self.source), number(self.destination));
        let (ports, flags) = ((self.source_port, self.destination_port), u32::from(self.flags) << 24);
        write!(f, "{source}\t{destination}\t{}\t{}\t{}\t{flags}", ports.0, ports.1, self.protocol)
    }
}

/// The place of the first filter that matches, the filters read one after the other: the definition.
pub fn first_match(filters: &[Filter], header: &Header) -> Option<usize> {
    filters.iter().position(|filter| filter.matches(header))
}
