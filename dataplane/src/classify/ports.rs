//! From protocol and port to a *column*: the class of all services that the same rules of a chain mean.

use std::collections::HashMap;

use super::CompileError;
use super::partition::{Classes, Cut};
use super::rank::RankBitmap;
use crate::packet::Protocol;
use crate::rules::{PortRange, Services};

/// Protocol × 65,536 + port: all services as one row of numbers.
const LAST: u128 = (1 << 24) - 1;

/// Up to this many cuts within a protocol a search in a short list is quicker than a bitmap of all ports.
const SHORT: usize = 8;

/// A list of services, as disjoint ranges of numbers.
pub(super) type ServiceList = Vec<(u128, u128)>;

/// The services of a rule as disjoint ranges, so that lists that mean the same are equal.
pub(super) fn ranges(services: &Services) -> ServiceList {
    let Services::Ports(ports) = services else { return vec![(0, LAST)] };
    let number = |protocol: Protocol, port: u16| u128::from(protocol.0) << 16 | u128::from(port);
    let mut ranges: Vec<_> = ports
        .iter()
        .filter(|range| range.first <= range.last)
        .map(|&PortRange { protocol, first, last }| (number(protocol, first), number(protocol, last)))
        .collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let joins = next.0 <= range.1 + 1;
        if joins {
            range.1 = range.1.max(next.1);
        }
        joins
    });
    ranges
}

/// All protocols and ports, cut where the services of some rules begin and end.
#[derive(Debug)]
pub(super) struct ServiceMap {
    /// Which of `maps` a protocol uses.
    protocols: [u8; 256],
    maps: Vec<PortMap>,
    columns: u32,
}

/// The ports of one protocol.
#[derive(Debug)]
enum PortMap {
    /// All alike, as for protocols that no rule names.
    Uniform(u32),
    /// A few ranges: their first ports after the first range's, and a column each.
    Short { starts: Vec<u16>, columns: Vec<u32> },
    /// Many: a bit for each port at which a range begins.
    Bitmap { starts: RankBitmap, columns: Vec<u32> },
}

impl PortMap {
    /// From the cuts of one protocol, of which the first is at or before port 0.
    fn new(cuts: &[Cut]) -> Self {
        let columns: Vec<u32> = cuts.iter().map(|cut| cut.class).collect();
        // The low half of a service's number is the port.
        let starts = cuts.iter().skip(1).map(|cut| cut.first as u16);
        match cuts {
            [cut] => PortMap::Uniform(cut.class),
            _ if cuts.len() <= SHORT => PortMap::Short { starts: starts.collect(), columns },
            _ => PortMap::Bitmap { starts: RankBitmap::new(starts.map(u32::from), 1 << 16), columns },
        }
    }

    fn column(&self, port: u16) -> u32 {
        match self {
            PortMap::Uniform(column) => *column,
            PortMap::Short { starts, columns } => columns[starts.iter().filter(|&&start| start <= port).count()],
            PortMap::Bitmap { starts, columns } => columns[starts.through(u32::from(port)) as usize],
        }
    }

    fn memory(&self) -> usize {
        match self {
            PortMap::Uniform(_) => 0,
            PortMap::Short { starts, columns } => size_of_val(&**starts) + size_of_val(&**columns),
            PortMap::Bitmap { starts, columns } => starts.memory() + size_of_val(&**columns),
        }
    }
}

impl ServiceMap {
    /// All services in one column.
    pub(super) fn uniform() -> Self {
        ServiceMap { protocols: [0; 256], maps: vec![PortMap::Uniform(0)], columns: 1 }
    }

    /// From lists of services, each as [`ranges`] gives them; answers the map, and for each list the columns it means.
    pub(super) fn new(services: &[&[(u128, u128)]]) -> Result<(Self, Vec<Columns>), CompileError> {
        let mut classes = Classes::new();
        let cuts = classes.partition(services.iter().copied(), 0, LAST)?;
        let mut map = ServiceMap { protocols: [0; 256], maps: Vec::new(), columns: classes.len() };
        let mut uniform = HashMap::new();
        let mut from = 0;
        for protocol in 0..256 {
            let first = (protocol as u128) << 16;
            from += cuts[from..].iter().skip(1).take_while(|cut| cut.first <= first).count();
            let more = cuts[from..].iter().skip(1).take_while(|cut| cut.first < first + (1 << 16)).count();
            // Both tables have at most one entry a protocol, so the index fits.
            let next = map.maps.len() as u8;
            let ports = PortMap::new(&cuts[from..=from + more]);
            map.protocols[protocol] = match ports {
                PortMap::Uniform(column) => *uniform.entry(column).or_insert(next),
                _ => next,
            };
            if map.protocols[protocol] == next && usize::from(next) == map.maps.len() {
                map.maps.push(ports);
            }
        }
        let mut columns = vec![Columns::none(map.columns); services.len()];
        for (class, members) in (0..).zip(classes.members()) {
            for service in members.iter().flat_map(|&(word, bits)| ones(word, bits)) {
                columns[service as usize].insert(class);
            }
        }
        Ok((map, columns))
    }

    /// The column of a service.
    pub(super) fn column(&self, protocol: Protocol, port: u16) -> u32 {
        self.maps[usize::from(self.protocols[usize::from(protocol.0)])].column(port)
    }

    /// How many columns there are.
    pub(super) fn columns(&self) -> u32 {
        self.columns
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.maps) + self.maps.iter().map(PortMap::memory).sum::<usize>()
    }
}

/// The numbers of the bits set in a word of a bit vector.
pub(super) fn ones(word: u32, bits: u64) -> impl Iterator<Item = u32> {
    let next = |bits: &u64| Some(bits & (bits - 1)).filter(|&bits| bits != 0);
    std::iter::successors(Some(bits).filter(|&bits| bits != 0), next).map(move |bits| word * 64 + bits.trailing_zeros())
}

/// A set of columns.
#[derive(Clone, Debug)]
pub(super) struct Columns(Vec<u64>);

impl Columns {
    /// The empty set, with room for `columns`.
    pub(super) fn none(columns: u32) -> Self {
        Columns(vec![0; columns.div_ceil(64) as usize])
    }

    /// The set of all `columns`.
    pub(super) fn all(columns: u32) -> Self {
        let mut all = vec![u64::MAX; columns.div_ceil(64) as usize];
        if let (Some(last), 1..) = (all.last_mut(), columns % 64) {
            *last = (1 << (columns % 64)) - 1;
        }
        Columns(all)
    }

    /// Puts one in.
    pub(super) fn insert(&mut self, column: u32) {
        self.0[column as usize / 64] |= 1 << (column % 64);
    }

    /// Takes out what is in `other` too, and calls `taken` with each.
    pub(super) fn take_common(&mut self, other: &Columns, mut taken: impl FnMut(u32)) {
        for (index, (word, other)) in (0..).zip(self.0.iter_mut().zip(&other.0)) {
            let common = *word & other;
            *word &= !common;
            ones(index, common).for_each(&mut taken);
        }
    }

    /// Every one, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.0).flat_map(|(index, &word)| ones(index, word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(protocol: Protocol, first: u16, last: u16) -> PortRange {
        PortRange { protocol, first, last }
    }

    #[test]
    fn every_port_has_the_column_of_the_lists_that_mean_it() {
        let many = (0..40).map(|n| range(Protocol::UDP, n * 1000, n * 1000 + n)).collect();
        let lists = [
            Services::Ports(vec![range(Protocol::TCP, 0, 80), range(Protocol::TCP, 65535, 65535)]),
            Services::Ports(vec![range(Protocol::TCP, 80, 90), range(Protocol(255), 0, u16::MAX)]),
            Services::Ports(many),
            Services::Any,
            Services::Ports(vec![range(Protocol::TCP, 9, 8)]),
        ];
        let normal: Vec<_> = lists.iter().map(ranges).collect();
        let slices: Vec<_> = normal.iter().map(Vec::as_slice).collect();
        let (map, columns) = ServiceMap::new(&slices).unwrap();
        for protocol in [0, 1, 5, 6, 7, 16, 17, 18, 132, 254, 255].map(Protocol) {
            for port in 0..=u16::MAX {
                let column = map.column(protocol, port);
                for (list, columns) in lists.iter().zip(&columns) {
                    let meant = columns.iter().any(|meant| meant == column);
                    assert_eq!(meant, list.contains(protocol, port), "{protocol} {port} {list:?}");
                }
            }
        }
    }

    #[test]
    fn lists_that_mean_the_same_are_equal() {
        let one = Services::Ports(vec![range(Protocol::TCP, 1, 9)]);
        let two =
            Services::Ports(vec![range(Protocol::TCP, 4, 9), range(Protocol::TCP, 1, 3), range(Protocol::TCP, 2, 5)]);
        assert_eq!(ranges(&one), ranges(&two));
    }
}
