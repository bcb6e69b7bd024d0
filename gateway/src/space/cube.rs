//! Products of one set in each dimension.

use std::ops::RangeInclusive;

use dataplane::address::Address;

use crate::judge::{Header, WITH_PORTS};
use crate::model::Family;

use super::{Ranges, Span};

/// Addresses of one family, by [`Address::to_bits`].
pub type Addresses = Ranges<u128>;
/// Ports; of ICMP, type × 256 + code.
pub type PortSet = Ranges<u16>;

/// IPv4's place among all addresses.
const V4: Span<u128> = Span { first: 0xffff << 32, last: (0xffff << 32) + u32::MAX as u128 };
const TCP: u8 = 6;

/// A set of protocols by their numbers: one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols(pub [u64; 4]);

impl Protocols {
    /// All 256.
    pub const ALL: Protocols = Protocols([u64::MAX; 4]);
    /// None.
    pub const NONE: Protocols = Protocols([0; 4]);
    const TCP: Protocols = Protocols([1 << TCP, 0, 0, 0]);

    /// Of these numbers.
    pub fn of(numbers: &[u8]) -> Protocols {
        let mut set = Protocols::NONE;
        for number in numbers {
            set.0[usize::from(number >> 6)] |= 1 << (number & 63);
        }
        set
    }

    /// Those whose headers begin with ports.
    pub fn with_ports() -> Protocols {
        Protocols::of(&WITH_PORTS)
    }

    /// Those that have something in place of the destination port: ports, or the family's ICMP types and codes.
    pub fn with_destination_port(family: Family) -> Protocols {
        let ports = Protocols::with_ports();
        ports.or(Protocols::of(&[icmp(family)]))
    }

    /// Whether it is in it.
    pub fn contains(self, number: u8) -> bool {
        self.0[usize::from(number >> 6)] >> (number & 63) & 1 == 1
    }

    /// How many.
    pub fn count(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self == Protocols::NONE
    }

    /// Whether everything in it is in the other.
    pub fn is_subset(self, other: Protocols) -> bool {
        self.and(other) == self
    }

    /// Those in both.
    #[must_use]
    pub fn and(self, other: Protocols) -> Protocols {
        Protocols(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Those in either.
    #[must_use]
    pub fn or(self, other: Protocols) -> Protocols {
        Protocols(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// Those that are not in it.
    #[must_use]
    pub fn complement(self) -> Protocols {
        Protocols(self.0.map(|word| !word))
    }

    /// The numbers, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |number| self.contains(*number))
    }
}

/// The family's ICMP.
pub(crate) fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// A set of combinations of the six TCP flags: bit n stands for the combination n. Packets that are not TCP have 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags(pub u64);

impl Flags {
    /// All combinations.
    pub const ALL: Flags = Flags(u64::MAX);

    /// The combinations of which just `set` is set of the flags in `mask`. Of the eight bits only the lower six are looked at: a
    /// test for one of the others never holds.
    pub fn of(mask: u8, set: u8) -> Flags {
        Flags((0..64).filter(|combination| combination & mask == set).fold(0, |all, one| all | 1 << one))
    }

    /// Whether it is in it.
    pub fn contains(self, combination: u8) -> bool {
        self.0 >> (combination & 63) & 1 == 1
    }
}

/// A set of packets of one family: what is in all of its dimensions' sets. It is not empty.
///
/// Not every combination is a packet: protocols without ports have port 0, and only TCP has flags. Cubes are kept in a form
/// that says so: they mean only protocols that can meet their ports and flags, and a dimension that none of their protocols has
/// is not restricted. IPv4-mapped addresses do not occur in IPv6: they are in a set of IPv6 addresses if the address
/// before them is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cube {
    pub(crate) protocols: Protocols,
    pub(crate) flags: Flags,
    pub(crate) family: Family,
    pub(crate) source_ports: PortSet,
    pub(crate) destination_ports: PortSet,
    pub(crate) source: Addresses,
    pub(crate) destination: Addresses,
}

/// All addresses of a family.
pub(crate) fn every_address(family: Family) -> Addresses {
    match family {
        Family::V4 => V4.into(),
        Family::V6 => Addresses::all(),
    }
}

/// Those of these addresses that are of the family.
pub(crate) fn addresses_of(ranges: &[RangeInclusive<Address>], family: Family) -> Option<Addresses> {
    // A range means addresses of its first one's family, even where the other family's lie within.
    let of_family = |range: &&RangeInclusive<Address>| Family::of(*range.start()) == family;
    let spans = ranges.iter().filter(|range| range.start() <= range.end()).filter(of_family);
    let spans: Vec<_> =
        spans.map(|range| Span { first: range.start().to_bits(), last: range.end().to_bits() }).collect();
    let all = Addresses::of(spans)?;
    let v4 = Addresses::from(V4);
    match family {
        Family::V4 => all.intersection(&v4),
        Family::V6 => {
            let mut rest = all.difference(&v4)?;
            if rest.contains(V4.first - 1) {
                let mut spans = rest.spans().to_vec();
                spans.push(V4);
                rest = Addresses::of(spans)?;
            }
            Some(rest)
        }
    }
}

/// These addresses from the first to the last, without the IPv4-mapped ones at the end of a range of IPv6 addresses.
pub(crate) fn ends_of(span: Span<u128>, family: Family) -> (Address, Address) {
    let last = if family == Family::V6 && span.last == V4.last { V4.first - 1 } else { span.last };
    (Address::from_bits(span.first), Address::from_bits(last))
}

/// Those of these ports.
pub(crate) fn ports_of(ranges: &[RangeInclusive<u16>]) -> Option<PortSet> {
    let spans = ranges.iter().filter(|range| range.start() <= range.end());
    PortSet::of(spans.map(|range| Span { first: *range.start(), last: *range.end() }).collect())
}

impl Cube {
    /// All packets of a family.
    pub fn everything(family: Family) -> Cube {
        Cube {
            protocols: Protocols::ALL,
            flags: Flags::ALL,
            family,
            source_ports: PortSet::all(),
            destination_ports: PortSet::all(),
            source: every_address(family),
            destination: every_address(family),
        }
    }

    /// Those of them that come from these addresses; `None` if there are none. So do the methods that follow.
    pub fn and_source(mut self, addresses: Option<Addresses>) -> Option<Cube> {
        self.source = self.source.intersection(&addresses?)?;
        Some(self)
    }

    /// Those that go to these addresses.
    pub fn and_destination(mut self, addresses: Option<Addresses>) -> Option<Cube> {
        self.destination = self.destination.intersection(&addresses?)?;
        Some(self)
    }

    /// Those of these protocols.
    pub fn and_protocols(mut self, protocols: Protocols) -> Option<Cube> {
        self.protocols = self.protocols.and(protocols);
        self.normal()
    }

    /// Those from these ports.
    pub fn and_source_ports(mut self, ports: Option<PortSet>) -> Option<Cube> {
        self.source_ports = self.source_ports.intersection(&ports?)?;
        self.normal()
    }

    /// Those to these ports.
    pub fn and_destination_ports(mut self, ports: Option<PortSet>) -> Option<Cube> {
        self.destination_ports = self.destination_ports.intersection(&ports?)?;
        self.normal()
    }

    /// Those with these flags.
    pub fn and_flags(mut self, flags: Flags) -> Option<Cube> {
        self.flags = Flags(self.flags.0 & flags.0);
        self.normal()
    }

    /// How many of its dimensions are not restricted.
    pub(crate) fn breadth(&self) -> u32 {
        let everything = Cube::everything(self.family);
        [
            self.protocols == everything.protocols,
            self.flags == everything.flags,
            self.source_ports == everything.source_ports,
            self.destination_ports == everything.destination_ports,
            self.source == everything.source,
            self.destination == everything.destination,
        ]
        .into_iter()
        .map(u32::from)
        .sum()
    }

    /// Of which family its packets are.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What is in both; of two families nothing is.
    pub fn intersection(&self, other: &Cube) -> Option<Cube> {
        let protocols = self.protocols.and(other.protocols);
        let flags = Flags(self.flags.0 & other.flags.0);
        if self.family != other.family || protocols.is_empty() || flags.0 == 0 {
            return None;
        }
        let cube = Cube {
            protocols,
            flags,
            family: self.family,
            source_ports: self.source_ports.intersection(&other.source_ports)?,
            destination_ports: self.destination_ports.intersection(&other.destination_ports)?,
            source: self.source.intersection(&other.source)?,
            destination: self.destination.intersection(&other.destination)?,
        };
        cube.normal()
    }

    /// The same packets in the form that [`Cube`] speaks of.
    fn normal(mut self) -> Option<Cube> {
        if !self.flags.contains(0) {
            self.protocols = self.protocols.and(Protocols::TCP);
        }
        if !self.source_ports.contains(0) {
            self.protocols = self.protocols.and(Protocols::with_ports());
        }
        let with_destination = Protocols::with_destination_port(self.family);
        if !self.destination_ports.contains(0) {
            self.protocols = self.protocols.and(with_destination);
        }
        if self.protocols.is_empty() || self.flags.0 == 0 {
            return None;
        }
        if !self.protocols.contains(TCP) {
            self.flags = Flags::ALL;
        }
        if self.protocols.and(Protocols::with_ports()).is_empty() {
            self.source_ports = PortSet::all();
        }
        if self.protocols.and(with_destination).is_empty() {
            self.destination_ports = PortSet::all();
        }
        Some(self)
    }

    /// Whether everything in it is in the other, as far as that is seen dimension by dimension.
    pub fn is_subset(&self, other: &Cube) -> bool {
        self.family == other.family
            && self.protocols.is_subset(other.protocols)
            && (!self.protocols.contains(TCP) || self.flags.0 & !other.flags.0 == 0)
            && (self.protocols.and(Protocols::with_ports()).is_empty()
                || self.source_ports.is_subset(&other.source_ports))
            && (self.protocols.and(Protocols::with_destination_port(self.family)).is_empty()
                || self.destination_ports.is_subset(&other.destination_ports))
            && self.source.is_subset(&other.source)
            && self.destination.is_subset(&other.destination)
    }

    /// What is in this one but not in the other: disjoint cubes, at most one for each dimension.
    ///
    /// Ports and flags come first: what is left with a port other than 0 is of few protocols.
    pub fn difference(&self, other: &Cube) -> Vec<Cube> {
        if self.intersection(other).is_none() {
            return vec![self.clone()];
        }
        let mut left = Vec::new();
        let mut rest = self.clone();
        let outside = Flags(rest.flags.0 & !other.flags.0);
        left.extend(Cube { flags: outside, ..rest.clone() }.normal());
        rest.flags = Flags(rest.flags.0 & other.flags.0);
        macro_rules! dimension {
            ($($field:ident)*) => {$(
                if let Some(outside) = rest.$field.difference(&other.$field) {
                    left.extend(Cube { $field: outside, ..rest.clone() }.normal());
                    match rest.$field.intersection(&other.$field) {
                        Some(both) => rest.$field = both,
                        None => return left,
                    }
                }
            )*};
        }
        dimension!(source_ports destination_ports source destination);
        let outside = rest.protocols.and(other.protocols.complement());
        left.extend(Cube { protocols: outside, ..rest }.normal());
        left
    }

    /// Whether the packet is in it.
    pub fn contains(&self, packet: &Header<'_>) -> bool {
        self.family == Family::of(packet.destination)
            && self.protocols.contains(packet.protocol)
            && self.flags.contains(packet.tcp_flags)
            && self.source_ports.contains(packet.source_port)
            && self.destination_ports.contains(packet.destination_port)
            && self.source.contains(packet.source.to_bits())
            && self.destination.contains(packet.destination.to_bits())
    }
}
