//! A flat list as boxes: one range in each dimension, one protocol or all, as the engine's rule lists have them.

use std::collections::HashMap;

use dataplane::packet::Protocol;
use dataplane::rules::list::{AddressRange, FlagMatch, ListRule, Ports};
use dataplane::rules::{Action, RuleId};

use crate::space::{Cube, Flags, PortSet, Protocols};

use super::{FlatList, FlatRule};

/// A rule without these few protocols may be written as one for all behind those that decide the few.
const MAX_WITHOUT: u32 = 8;

/// A box of packets and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlatBox {
    /// Who sends. A range of IPv6 addresses may hold all IPv4-mapped ones, with which no IPv6 packet comes: where lists of both families
    /// become one, IPv4's has to stand first. It decides every packet of IPv4.
    pub source: AddressRange,
    /// Who receives.
    pub destination: AddressRange,
    /// From which ports.
    pub source_ports: Ports,
    /// To which ports; of ICMP, type × 256 + code.
    pub destination_ports: Ports,
    /// Which protocol; `None` for all.
    pub protocol: Option<Protocol>,
    /// Which TCP flags.
    pub flags: FlagMatch,
    /// What becomes of its packets: an index of [`FlatList::outcomes`].
    pub outcome: u32,
}

impl FlatBox {
    /// The engine's rule for these packets, with an action and a number of the caller's.
    pub fn rule(&self, action: Action, id: RuleId) -> ListRule {
        ListRule {
            source: self.source,
            destination: self.destination,
            source_ports: self.source_ports,
            destination_ports: self.destination_ports,
            protocol: self.protocol,
            flags: self.flags,
            action,
            log: false,
            id,
        }
    }
}

/// A rule as it is written for the engine: what is neither a source nor a destination, once for each of them.
struct Written {
    cube: Cube,
    outcome: u32,
    heads: Vec<Head>,
}

#[derive(Clone, Copy)]
struct Head {
    protocol: Option<Protocol>,
    source_ports: Ports,
    destination_ports: Ports,
    flags: FlagMatch,
}

impl FlatList {
    /// The list as boxes, in order: the first that has a packet decides it, as the first rule does.
    ///
    /// A rule about many protocols is one box for all of them where the others have been decided before, or can be: boxes of
    /// what follows for the others are put in front then, if that is shorter.
    pub fn boxes(&self) -> impl Iterator<Item = FlatBox> + '_ {
        let mut covers = HashMap::new();
        (0..self.rules.len()).flat_map(move |index| self.written(index, &mut covers)).flat_map(|written| {
            let Written { cube, outcome, heads } = written;
            let family = cube.family;
            let range = move |span| {
                let (first, last) = crate::space::ends_of(span, family);
                AddressRange::new(first, last)
            };
            let sources: Vec<AddressRange> = cube.source.spans().iter().filter_map(|span| range(*span)).collect();
            let pairs = sources.into_iter().flat_map(move |source| {
                let destinations = cube.destination.clone();
                let count = destinations.spans().len();
                (0..count).filter_map(move |index| Some((source, range(destinations.spans()[index])?)))
            });
            pairs.flat_map(move |(source, destination)| {
                let boxes = heads.iter().map(|head| FlatBox {
                    source,
                    destination,
                    source_ports: head.source_ports,
                    destination_ports: head.destination_ports,
                    protocol: head.protocol,
                    flags: head.flags,
                    outcome,
                });
                boxes.collect::<Vec<_>>()
            })
        })
    }

    /// How many boxes [`FlatList::boxes`] comes to.
    pub fn box_count(&self) -> u64 {
        let mut covers = HashMap::new();
        (0..self.rules.len()).flat_map(|index| self.written(index, &mut covers)).map(|written| written.count()).sum()
    }

    fn written(&self, index: usize, covers: &mut HashMap<u64, Vec<FlagMatch>>) -> Vec<Written> {
        let rule = &self.rules[index];
        if rule.cube.protocols == Protocols::ALL || rule.cube.protocols.count() == 1 {
            return vec![Written::of(&rule.cube, rule.outcome, covers)];
        }
        let others = rule.cube.protocols.complement();
        let everyone = Cube { protocols: Protocols::ALL, ..rule.cube.clone() };
        let Some(beside) = everyone.clone().and_protocols(others) else {
            // No packet of another protocol has these ports or flags.
            return vec![Written::of(&everyone, rule.outcome, covers)];
        };
        let plain = Written::of(&rule.cube, rule.outcome, covers);
        if beside.protocols.count() > MAX_WITHOUT {
            return vec![plain];
        }
        let mut instead = Vec::new();
        let last = Written::of(&everyone, rule.outcome, covers);
        let mut count = last.count();
        for FlatRule { cube, outcome } in &self.rules[index + 1..] {
            let Some(both) = cube.intersection(&beside) else { continue };
            let covering = both == beside;
            let written = Written::of(&both, *outcome, covers);
            count = count.saturating_add(written.count());
            instead.push(written);
            if count >= plain.count() {
                return vec![plain];
            }
            if covering {
                break;
            }
        }
        instead.push(last);
        instead
    }
}

impl Written {
    fn of(cube: &Cube, outcome: u32, covers: &mut HashMap<u64, Vec<FlagMatch>>) -> Written {
        let flags = covers.entry(cube.flags.0).or_insert_with(|| cover(cube.flags)).clone();
        let protocols: Vec<Option<Protocol>> = if cube.protocols == Protocols::ALL {
            vec![None]
        } else {
            cube.protocols.iter().map(|number| Some(Protocol(number))).collect()
        };
        let mut heads = Vec::new();
        for protocol in protocols {
            let has = |set: Protocols| protocol.is_none_or(|protocol| set.contains(protocol.0));
            let source_ports = ranges(&cube.source_ports, has(Protocols::with_ports()));
            let destination_ports = ranges(&cube.destination_ports, has(Protocols::with_destination_port(cube.family)));
            let flags = if has(Protocols::of(&[6])) { &flags[..] } else { &[FlagMatch { value: 0, mask: 0 }] };
            for &source_ports in &source_ports {
                for &destination_ports in &destination_ports {
                    let with_flags =
                        flags.iter().map(|&flags| Head { protocol, source_ports, destination_ports, flags });
                    heads.extend(with_flags);
                }
            }
        }
        Written { cube: cube.clone(), outcome, heads }
    }

    fn count(&self) -> u64 {
        (self.cube.source.spans().len() as u64)
            .saturating_mul(self.cube.destination.spans().len() as u64)
            .saturating_mul(self.heads.len() as u64)
    }
}

/// The ports, or all of a protocol that has none: it has 0 there, and so has the set.
fn ranges(ports: &PortSet, looked_at: bool) -> Vec<Ports> {
    if !looked_at {
        return vec![Ports::ANY];
    }
    ports.spans().iter().map(|span| Ports { first: span.first, last: span.last }).collect()
}

/// Few tests of flags that hold just for these combinations: of all tests that hold for no other, always the one that adds
/// most.
fn cover(flags: Flags) -> Vec<FlagMatch> {
    let mut tests = Vec::new();
    for mask in 0..64_u8 {
        for value in (0..64_u8).filter(|value| value & !mask == 0) {
            let meant = Flags::of(mask, value).0;
            if meant & !flags.0 == 0 {
                tests.push((meant, FlagMatch { value, mask }));
            }
        }
    }
    let mut cover = Vec::new();
    let mut missing = flags.0;
    while missing != 0 {
        let Some(best) = tests.iter().max_by_key(|(meant, _)| (meant & missing).count_ones()) else { break };
        cover.push(best.1);
        missing &= !best.0;
    }
    cover
}
