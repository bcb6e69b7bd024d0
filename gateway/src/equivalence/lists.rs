//! Flat lists in numbers: every set of values that occurs in a dimension has one, so that rules are quickly compared.

use std::collections::HashMap;
use std::hash::Hash;

use crate::flat::FlatList;
use crate::judge::{RuleAt, Verdict};
use crate::model::{Family, Limit};
use crate::space::{Addresses, Cube, Flags, PortSet, Protocols, Ranges, Span, every_address, icmp};

/// What rules tell packets by. Protocols are told first: they say which of the others there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    Protocol,
    Destination,
    Source,
    DestinationPort,
    SourcePort,
    Flags,
}

impl Dimension {
    pub(super) const COUNT: usize = 6;
    pub(super) const ALL: [Dimension; Self::COUNT] = [
        Dimension::Protocol,
        Dimension::Destination,
        Dimension::Source,
        Dimension::DestinationPort,
        Dimension::SourcePort,
        Dimension::Flags,
    ];

    /// All of its values.
    pub(super) fn domain(self, family: Family) -> Span<u128> {
        let last = match self {
            Dimension::Source | Dimension::Destination => return every_address(family).hull(),
            Dimension::Protocol => u128::from(u8::MAX),
            Dimension::DestinationPort | Dimension::SourcePort => u128::from(u16::MAX),
            Dimension::Flags => 63,
        };
        Span { first: 0, last }
    }
}

/// A set of dimensions, one bit each.
pub(super) type Dimensions = u8;

pub(super) const EVERY_DIMENSION: Dimensions = (1 << Dimension::COUNT) - 1;

/// What there is of a protocol beside addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Ports,
    Icmp,
    Other,
}

impl Kind {
    pub(super) fn of(protocol: u8, family: Family) -> Kind {
        match protocol {
            6 => Kind::Tcp,
            _ if Protocols::with_ports().contains(protocol) => Kind::Ports,
            _ if protocol == icmp(family) => Kind::Icmp,
            _ => Kind::Other,
        }
    }

    pub(super) fn has(self, dimension: Dimension) -> bool {
        match dimension {
            Dimension::Protocol | Dimension::Source | Dimension::Destination => true,
            Dimension::DestinationPort => self != Kind::Other,
            Dimension::SourcePort => matches!(self, Kind::Tcp | Kind::Ports),
            Dimension::Flags => self == Kind::Tcp,
        }
    }

    /// The dimensions that its packets have beside the protocol.
    pub(super) fn dimensions(self) -> Dimensions {
        let has = |dimension: &&Dimension| self.has(**dimension) && **dimension != Dimension::Protocol;
        Dimension::ALL.iter().filter(has).fold(0, |all, dimension| all | 1 << *dimension as u8)
    }
}

/// Values by their numbers; 0 is the first that was numbered.
#[derive(Debug)]
struct Numbers<T> {
    numbers: HashMap<T, u32>,
    all: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn new(first: Option<T>) -> Self {
        let mut numbers = Numbers { numbers: HashMap::new(), all: Vec::new() };
        if let Some(first) = first {
            numbers.number(&first);
        }
        numbers
    }

    fn number(&mut self, value: &T) -> u32 {
        if let Some(&known) = self.numbers.get(value) {
            return known;
        }
        let number = self.all.len() as u32;
        self.numbers.insert(value.clone(), number);
        self.all.push(value.clone());
        number
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Decision {
    Verdict(Verdict),
    Limit { limit: Limit, token: u32, none: u32 },
}

/// A rule of a flat list in numbers. In a dimension that it does not restrict it has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) values: [u32; Dimension::COUNT],
    pub(super) decision: u32,
    /// The rules that decide, by their number.
    pub(super) rules: u32,
}

/// What numbers stand for, for lists of one family.
#[derive(Debug)]
pub(super) struct Values {
    addresses: Numbers<Addresses>,
    ports: Numbers<PortSet>,
    protocols: Numbers<Protocols>,
    flags: Numbers<Flags>,
    decisions: Numbers<Decision>,
    rules: Numbers<Vec<Option<RuleAt>>>,
}

impl Values {
    pub(super) fn new(family: Family) -> Self {
        let all = Cube::everything(family);
        Values {
            addresses: Numbers::new(Some(all.source)),
            ports: Numbers::new(Some(all.source_ports)),
            protocols: Numbers::new(Some(all.protocols)),
            flags: Numbers::new(Some(all.flags)),
            decisions: Numbers::new(None),
            rules: Numbers::new(None),
        }
    }

    /// A list's rules in numbers.
    pub(super) fn entries(&mut self, list: &FlatList) -> Vec<Entry> {
        let mut outcomes = vec![None; list.outcomes.len()];
        let entries = list.rules.iter().map(|rule| {
            let outcome = rule.outcome as usize;
            let (decision, rules) = *outcomes[outcome].get_or_insert_with(|| {
                let of = &list.outcomes[outcome];
                let limited = of.steps.iter().filter(|step| step.instead.is_some()).map(|step| Some(step.rule));
                let rules = limited.chain([of.rule]).collect();
                (self.decision(list, rule.outcome), self.rules.number(&rules))
            });
            let cube = &rule.cube;
            let values = [
                self.protocols.number(&cube.protocols),
                self.addresses.number(&cube.destination),
                self.addresses.number(&cube.source),
                self.ports.number(&cube.destination_ports),
                self.ports.number(&cube.source_ports),
                self.flags.number(&cube.flags),
            ];
            Entry { values, decision, rules }
        });
        entries.collect()
    }

    fn decision(&mut self, list: &FlatList, outcome: u32) -> u32 {
        let outcome = &list.outcomes[outcome as usize];
        let mut decision = self.decisions.number(&Decision::Verdict(outcome.verdict));
        for step in outcome.steps.iter().rev() {
            let (Some(limit), Some(instead)) = (step.limit, step.instead) else { continue };
            let token = self.decision(list, instead);
            if token != decision {
                decision = self.decisions.number(&Decision::Limit { limit, token, none: decision });
            }
        }
        decision
    }

    /// Calls with every range of a dimension's set of values.
    pub(super) fn spans(&self, dimension: Dimension, value: u32, mut call: impl FnMut(Span<u128>)) {
        let wide = |span: &Span<u16>| Span { first: span.first.into(), last: span.last.into() };
        let mut bits = |count: u128, contains: &dyn Fn(u8) -> bool| {
            let set: Vec<u128> = (0..count).filter(|bit| contains(*bit as u8)).collect();
            let runs = set.chunk_by(|one, next| one + 1 == *next);
            runs.for_each(|run| call(Span { first: run[0], last: run[run.len() - 1] }));
        };
        let value = value as usize;
        match dimension {
            Dimension::Protocol => bits(256, &|bit| self.protocols.all[value].contains(bit)),
            Dimension::Flags => bits(64, &|bit| self.flags.all[value].contains(bit)),
            Dimension::Source | Dimension::Destination => {
                self.addresses.all[value].spans().iter().copied().for_each(call);
            }
            Dimension::SourcePort | Dimension::DestinationPort => {
                self.ports.all[value].spans().iter().map(wide).for_each(call);
            }
        }
    }

    /// Whether two entries have a packet in common, as far as these dimensions tell.
    pub(super) fn meet(&self, left: &Entry, right: &Entry, dimensions: Dimensions) -> bool {
        fn meets<T: crate::space::Number>(of: &Numbers<Ranges<T>>, left: u32, right: u32) -> bool {
            of.all[left as usize].meets(&of.all[right as usize])
        }
        Dimension::ALL.iter().filter(|dimension| dimensions >> **dimension as u8 & 1 == 1).all(|&dimension| {
            let (left, right) = (left.values[dimension as usize], right.values[dimension as usize]);
            left == right
                || left == 0
                || right == 0
                || match dimension {
                    Dimension::Protocol => {
                        let [left, right] = [left, right].map(|value| self.protocols.all[value as usize]);
                        !left.and(right).is_empty()
                    }
                    Dimension::Flags => self.flags.all[left as usize].0 & self.flags.all[right as usize].0 != 0,
                    Dimension::Source | Dimension::Destination => meets(&self.addresses, left, right),
                    Dimension::SourcePort | Dimension::DestinationPort => meets(&self.ports, left, right),
                }
        })
    }
}
