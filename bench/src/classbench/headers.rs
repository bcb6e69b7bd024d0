//! [`headers`].

use std::collections::HashSet;

use dataplane::address::Address;
use dataplane::rules::AddressSet;
use ipnet::IpNet;

use super::{Filter, Header, Ports};
use crate::random::Random;

/// Protocols of a header where the filter leaves it open.
const PROTOCOLS: [u8; 8] = [6, 6, 6, 17, 17, 1, 47, 50];

/// `count` headers, no two alike, in no order. Three in four match a filter that is drawn evenly (not always as their
/// first match), each field at an end of its range or anywhere in it, one as likely as the other. One in eight
/// takes each field from another filter, and one in eight misses a filter by one at an end of one field.
///
/// Fewer come back if the filters leave no room for as many.
pub fn headers(filters: &[Filter], count: usize, seed: u64) -> Vec<Header> {
    let mut draw = Draw { random: Random::new(seed), filters };
    let mut known = HashSet::with_capacity(count);
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count * 20 {
        if filters.is_empty() || headers.len() == count {
            break;
        }
        let header = match draw.random.below(8) {
            0 => draw.crossed(),
            1 => draw.beside(),
            _ => {
                let filter = draw.filter();
                draw.inside(&filter)
            }
        };
        if known.insert(header) {
            headers.push(header);
        }
    }
    headers
}

struct Draw<'a> {
    random: Random,
    filters: &'a [Filter],
}

impl Draw<'_> {
    fn filter(&mut self) -> Filter {
        *self.random.pick(self.filters)
    }

    /// A header that the filter matches.
    fn inside(&mut self, filter: &Filter) -> Header {
        Header {
            source: self.address(&filter.source),
            destination: self.address(&filter.destination),
            source_port: self.port(filter.source_ports),
            destination_port: self.port(filter.destination_ports),
            protocol: filter.protocol.unwrap_or_else(|| *self.random.pick(&PROTOCOLS)),
            flags: filter.flags | self.random.next_u64() as u8 & !filter.flags_mask,
        }
    }

    /// A header with each field from another filter.
    fn crossed(&mut self) -> Header {
        let mut parts = || {
            let filter = self.filter();
            self.inside(&filter)
        };
        let [source, destination, ports, rest] = [parts(), parts(), parts(), parts()];
        let (source, destination) = (source.source, destination.destination);
        Header { source, destination, protocol: rest.protocol, flags: rest.flags, ..ports }
    }

    /// A header that a filter misses by one, unless the field is open.
    fn beside(&mut self) -> Header {
        let filter = self.filter();
        let mut header = self.inside(&filter);
        let up = self.random.below(2) == 0;
        let beside = |ports: Ports| if up { ports.last.wrapping_add(1) } else { ports.first.wrapping_sub(1) };
        let outside = |net: &IpNet| {
            let (first, last) = AddressSet::range_of(net);
            let bits = if up { last.wrapping_add(1) } else { first.wrapping_sub(1) };
            // Beyond the last of its family there is only its first again.
            let moved = Address::from_bits(bits);
            if moved.is_v4() == matches!(net, IpNet::V4(_)) { moved } else { Address::from_bits(first) }
        };
        match self.random.below(5) {
            0 => header.source = outside(&filter.source),
            1 => header.destination = outside(&filter.destination),
            2 => header.source_port = beside(filter.source_ports),
            3 => header.destination_port = beside(filter.destination_ports),
            _ => header.flags ^= filter.flags_mask,
        }
        header
    }

    fn address(&mut self, net: &IpNet) -> Address {
        let (first, last) = AddressSet::range_of(net);
        let bits = match self.random.below(4) {
            0 => first,
            1 => last,
            _ => {
                let drawn = u128::from(self.random.next_u64()) << 64 | u128::from(self.random.next_u64());
                first | drawn & (last ^ first)
            }
        };
        let address = Address::from_bits(bits);
        // IPv4 lives inside of `::/0`; a header of IPv6 is never of it.
        let strays = matches!(net, IpNet::V6(_)) && address.is_v4();
        if strays { Address::from_bits(first) } else { address }
    }

    fn port(&mut self, ports: Ports) -> u16 {
        let between = u32::from(ports.last - ports.first);
        match self.random.below(4) {
            0 => ports.first,
            1 => ports.last,
            _ => ports.first + self.random.below(between + 1) as u16,
        }
    }
}
