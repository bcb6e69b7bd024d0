//! A rule of IPv4 as seven words, and the packet that they are compared with.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;
use crate::arch::lanes::Key;
use crate::packet::{Direction, Protocol};
use crate::rules::list::{AddressRange, FlagMatch, ListRule, Ports};
use crate::rules::{Action, Query, RuleId};

/// What a rule means of IPv4, in the words that [`crate::arch::lanes`] compares: of each field the first value and
/// how many follow it; of the last, which bits must be what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Lane([u32; Lane::WORDS]);

impl Lane {
    /// Words of a lane.
    pub(crate) const WORDS: usize = 7;

    /// What a rule means of IPv4; `None` if that is nothing.
    pub(crate) fn v4(rule: &ListRule) -> Option<Lane> {
        let [source, destination] = [rule.source, rule.destination].map(v4_window);
        Lane::new(source?, destination?, rule)
    }

    /// A lane with these ends, first and last number, and the rest of a rule; `None` if it means no port.
    pub(crate) fn new(source: (u32, u32), destination: (u32, u32), rule: &ListRule) -> Option<Lane> {
        let span = |ports: Ports| ports.last.checked_sub(ports.first);
        let (value, mask) = match rule.protocol {
            Some(Protocol(number)) => (number, 0xff),
            None => (0, 0),
        };
        Some(Lane([
            source.0,
            source.1 - source.0,
            destination.0,
            destination.1 - destination.0,
            pair(rule.source_ports.first, rule.destination_ports.first),
            pair(span(rule.source_ports)?, span(rule.destination_ports)?),
            u32::from_le_bytes([value, rule.flags.value, mask, rule.flags.mask]),
        ]))
    }

    /// The rule again, if it means nothing but IPv4.
    pub(crate) fn rule(&self, action: Action, log: bool, id: RuleId) -> ListRule {
        let [source, source_span, destination, destination_span, ports, ports_span, kind] = self.0;
        let range = |first: u32, span: u32| {
            let [first, last] = [first, first + span].map(|bits| Address::v4(bits.to_be_bytes()));
            AddressRange { first, last }
        };
        let ports_of = |shift: u32| {
            let first = (ports >> shift) as u16;
            Ports { first, last: first + (ports_span >> shift) as u16 }
        };
        let [protocol, flags, protocol_mask, flags_mask] = kind.to_le_bytes();
        ListRule {
            source: range(source, source_span),
            destination: range(destination, destination_span),
            source_ports: ports_of(16),
            destination_ports: ports_of(0),
            protocol: (protocol_mask != 0).then_some(Protocol(protocol)),
            flags: FlagMatch { value: flags, mask: flags_mask },
            action,
            log,
            id,
        }
    }

    /// Its words.
    pub(crate) fn words(&self) -> &[u32; Lane::WORDS] {
        &self.0
    }

    /// Which bits of a key must be what for the lane to match: of a range, the leading bits that all its values share.
    pub(crate) fn bits(&self) -> Bits {
        let [source, source_span, destination, destination_span, ports, ports_span, kind] = self.0;
        let shared = |first: u32, span: u32| !((1u64 << (32 - (first ^ (first + span)).leading_zeros())) - 1) as u32;
        let shared_ports = |shift: u32| {
            let (first, span) = ((ports >> shift) & 0xffff, (ports_span >> shift) & 0xffff);
            shared(first, span) & 0xffff
        };
        let care = [
            shared(source, source_span),
            shared(destination, destination_span),
            shared_ports(16) << 16 | shared_ports(0),
            kind >> 16,
        ];
        let value = [source & care[0], destination & care[1], ports & care[2], kind & care[3]];
        let join = |words: [u32; 4]| [0, 2].map(|word| u64::from(words[word]) << 32 | u64::from(words[word + 1]));
        Bits { care: join(care), value: join(value) }
    }
}

/// What a rule asks of the bits of a key ([`Key::bits`]).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bits {
    /// The bits that must have a value.
    pub(crate) care: [u64; 2],
    /// That value; zeros elsewhere.
    pub(crate) value: [u64; 2],
}

/// The part of a range that is IPv4, as numbers.
fn v4_window(range: AddressRange) -> Option<(u32, u32)> {
    let window = AddressRange::ANY_V4;
    let (first, last) = (range.first.max(window.first), range.last.min(window.last));
    if first > last {
        return None;
    }
    Some((first.to_v4_bits()?, last.to_v4_bits()?))
}

fn pair(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

/// The key of a packet between the ends of these numbers.
#[inline(always)]
pub(crate) fn key(source: u32, destination: u32, query: &Query) -> Key {
    let kind = u32::from(query.flags.0) << 8 | u32::from(query.protocol.0);
    Key([source, destination, pair(query.source_port, query.port), kind])
}

/// The key of an IPv4 packet; `None` if one of its ends is none of IPv4.
#[inline(always)]
pub(crate) fn v4_key(direction: Direction, query: &Query) -> Option<Key> {
    let (source, destination) = (query.source(direction), query.destination(direction));
    Some(key(source.to_v4_bits()?, destination.to_v4_bits()?, query))
}
