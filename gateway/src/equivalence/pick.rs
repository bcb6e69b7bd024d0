//! Which value stands for a class: one that a packet on a wire may well have.

use std::net::Ipv6Addr;

use dataplane::address::Address;

use crate::judge::Header;
use crate::model::{Family, States};
use crate::space::Span;

use super::lists::Dimension;

/// How good a value is (the lower the better), and the value.
pub(super) type Pick = (u32, u128);

/// A packet of which some dimensions are still open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point([Option<u128>; Dimension::COUNT]);

impl Point {
    pub(super) fn with(mut self, dimension: Dimension, value: u128) -> Point {
        self.0[dimension as usize] = Some(value);
        self
    }

    /// The protocol, if it is known.
    pub(super) fn protocol(&self) -> Option<u8> {
        self.0[Dimension::Protocol as usize].map(|number| number as u8)
    }

    /// A packet there; of what is open, any.
    pub(super) fn header(&self, family: Family, state: States) -> Header<'static> {
        let protocol = self.protocol().unwrap_or(6);
        let of = |dimension: Dimension| {
            let picked = || pick(dimension, dimension.domain(family), family, state, Some(protocol)).1;
            self.0[dimension as usize].unwrap_or_else(picked)
        };
        let kind = super::lists::Kind::of(protocol, family);
        let port = |dimension| if kind.has(dimension) { of(dimension) as u16 } else { 0 };
        Header {
            input: None,
            output: None,
            source: Address::from_bits(of(Dimension::Source)),
            destination: Address::from_bits(of(Dimension::Destination)),
            protocol,
            source_port: port(Dimension::SourcePort),
            destination_port: port(Dimension::DestinationPort),
            tcp_flags: port(Dimension::Flags) as u8,
            state,
        }
    }
}

/// The best value of a range.
pub(super) fn pick(
    dimension: Dimension,
    span: Span<u128>,
    family: Family,
    state: States,
    protocol: Option<u8>,
) -> Pick {
    let icmp = crate::space::icmp(family);
    let listed = |wanted: &[u128]| {
        let found = wanted.iter().position(|value| span.contains(*value));
        found.map_or((wanted.len() as u32, span.first), |place| (place as u32, wanted[place]))
    };
    match dimension {
        Dimension::Protocol => listed(&[6, 17, u128::from(icmp), 132, 47, 50, 136, 33]),
        Dimension::Flags if state.meets(States::NEW) => listed(&[2, 16, 18, 24, 17, 4, 20]),
        Dimension::Flags => listed(&[16, 24, 18, 17, 2, 4, 20]),
        Dimension::DestinationPort if protocol == Some(icmp) => {
            let echo: u128 = if family == Family::V4 { 8 << 8 } else { 128 << 8 };
            listed(&[echo, echo | 1])
        }
        Dimension::DestinationPort | Dimension::SourcePort => {
            let usual = if dimension == Dimension::SourcePort { 40_000 } else { 9999 };
            if span.contains(usual) && span.last - span.first > 100 {
                (0, usual)
            } else {
                let first = span.first.max(1).min(span.last);
                (if first == 0 { 2 } else { 1 }, first)
            }
        }
        Dimension::Source | Dimension::Destination => address(span, family, dimension == Dimension::Source),
    }
}

fn address(span: Span<u128>, family: Family, source: bool) -> Pick {
    let host: u8 = if source { 7 } else { 9 };
    let v4 = |a, b, c| Address::v4([a, b, c, host]).to_bits();
    let v6 = |a, b| Ipv6Addr::new(a, b, 0xffff, 0, 0, 0, 0, u16::from(host)).to_bits();
    let usual = match family {
        Family::V4 => [v4(198, 51, 100), v4(203, 0, 113), v4(11, 0, 0), v4(100, 0, 0), v4(1, 0, 0), v4(172, 32, 0)],
        Family::V6 => [v6(0x2001, 0xdb8), v6(0x2400, 0), v6(0x2003, 0), v6(0x2a00, 0), v6(0x2000, 0), v6(0xfd00, 0)],
    };
    let wide = span.last - span.first >= 1 << if family == Family::V4 { 24 } else { 96 };
    let near = [span.first, span.first.saturating_add(1), span.last];
    let near = near.into_iter().filter(|bits| span.contains(*bits) && is_ordinary(*bits, family));
    let usual = usual.into_iter().filter(|bits| span.contains(*bits));
    let best = if wide { usual.chain(near).next() } else { near.chain(usual).next() };
    best.map_or((1, span.first), |bits| (0, bits))
}

/// Whether a host may well have the address and routers let it pass.
fn is_ordinary(bits: u128, family: Family) -> bool {
    let address = Address::from_bits(bits);
    match family {
        Family::V4 => {
            let [first, second, _, last] = (bits as u32).to_be_bytes();
            let special = first == 0 || first == 127 || first >= 224 || (first, second) == (169, 254);
            !special && last != 0 && last != 255
        }
        Family::V6 => {
            let first = address.0[0];
            (first & 0xe0 == 0x20 || first & 0xfe == 0xfc) && bits & 0xffff != 0
        }
    }
}
