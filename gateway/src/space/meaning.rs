//! Which packets a rule means: its matches as unions of cubes.

use std::collections::HashMap;

use crate::judge::{WITH_PORTS, width};
use crate::model::{Dimension, Element, End, Family, IcmpType, Match, Part, Rule, Ruleset, Set, Test};

use super::cube::{addresses_of, every_address, icmp, ports_of};
use super::{Addresses, Cube, Flags, PortSet, Protocols, Span};

/// A rule comes to at most so many cubes.
pub const MAX_CUBES: usize = 1 << 16;

/// A rule comes to more than [`MAX_CUBES`] cubes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyCubes;

/// A union of cubes.
pub type Union = Vec<Cube>;

/// Turns rules of one rule set into cubes of one family. Sets are turned once.
pub struct Meaning<'a> {
    ruleset: &'a Ruleset,
    family: Family,
    sets: HashMap<(&'a str, &'a [End]), Result<Union, TooManyCubes>>,
}

impl<'a> Meaning<'a> {
    /// Of this rule set's rules.
    pub fn new(ruleset: &'a Ruleset, family: Family) -> Self {
        Meaning { ruleset, family, sets: HashMap::new() }
    }

    /// What a rule means, whatever the interfaces and the connection's state are.
    ///
    /// # Errors
    /// It comes to too many cubes.
    pub fn of_rule(&mut self, rule: &'a Rule) -> Result<Union, TooManyCubes> {
        let mut union = vec![Cube::everything(self.family)];
        // What is taken away is taken from what the other matches leave, which is less.
        let (taken, given): (Vec<&Match>, _) = rule.matches.iter().partition(|test| takes(test));
        for test in given {
            union = match &test.test {
                Test::Set { name, ends } => meet(&union, self.of_set(name, ends)?)?,
                _ => meet(&union, &one(test, self.family))?,
            };
        }
        for test in taken {
            let Test::Set { name, ends } = &test.test else { continue };
            let cubes = self.of_set(name, ends)?;
            union = without(union, cubes)?;
        }
        Ok(union)
    }

    fn of_set(&mut self, name: &'a str, ends: &'a [End]) -> Result<&Union, TooManyCubes> {
        let (ruleset, family) = (self.ruleset, self.family);
        let known = self
            .sets
            .entry((name, ends))
            .or_insert_with(|| ruleset.sets.get(name).map_or(Ok(Union::new()), |set| of_set(set, ends, family)));
        known.as_ref().map_err(|error| *error)
    }
}

/// Whether the match is one that takes a union away.
fn takes(test: &Match) -> bool {
    test.negated && matches!(test.test, Test::Set { .. })
}

fn meet(left: &[Cube], right: &[Cube]) -> Result<Union, TooManyCubes> {
    let mut both = Vec::new();
    for one in left {
        both.extend(right.iter().filter_map(|other| one.intersection(other)));
        if both.len() > MAX_CUBES {
            return Err(TooManyCubes);
        }
    }
    Ok(both)
}

/// What is in the first union but not in the second.
///
/// # Errors
/// It comes to too many cubes.
pub fn without(mut union: Union, taken: &[Cube]) -> Result<Union, TooManyCubes> {
    for taken in taken {
        union = union.iter().flat_map(|cube| cube.difference(taken)).collect();
        if union.len() > MAX_CUBES {
            return Err(TooManyCubes);
        }
    }
    Ok(union)
}

/// A match that is no set's. Interfaces and states are not looked at here.
fn one(test: &Match, family: Family) -> Union {
    let all = Cube::everything(family);
    let addresses = |of: Option<Addresses>| {
        if test.negated { outside(&every_address(family), of.as_ref()) } else { of }
    };
    let ports = |of: Option<PortSet>| if test.negated { outside(&PortSet::all(), of.as_ref()) } else { of };
    let with_ports = all.clone().and_protocols(Protocols::of(&WITH_PORTS));
    let cube = match &test.test {
        Test::In(_) | Test::Out(_) | Test::State(_) => Some(all),
        Test::Nothing(_) => test.negated.then_some(all),
        Test::Source(ranges) => all.and_source(addresses(addresses_of(ranges, family))),
        Test::Destination(ranges) => all.and_destination(addresses(addresses_of(ranges, family))),
        Test::Protocol(numbers) => {
            let numbers = Protocols::of(numbers);
            all.and_protocols(if test.negated { numbers.complement() } else { numbers })
        }
        Test::SourcePort(ranges) => with_ports.and_then(|cube| cube.and_source_ports(ports(ports_of(ranges)))),
        Test::DestinationPort(ranges) => {
            with_ports.and_then(|cube| cube.and_destination_ports(ports(ports_of(ranges))))
        }
        Test::EitherPort(ranges) => {
            let wanted = ports(ports_of(ranges));
            let Some(with_ports) = with_ports else { return Union::new() };
            let from = with_ports.clone().and_source_ports(wanted.clone());
            if test.negated {
                from.and_then(|cube| cube.and_destination_ports(wanted))
            } else {
                return from.into_iter().chain(with_ports.and_destination_ports(wanted)).collect();
            }
        }
        Test::Icmp(types) => {
            let messages = PortSet::of(types.iter().filter_map(messages_of).collect());
            let cube = all.and_protocols(Protocols::of(&[icmp(family)]));
            cube.and_then(|cube| cube.and_destination_ports(ports(messages)))
        }
        Test::TcpFlags { mask, set } => {
            let flags = Flags::of(*mask, *set);
            let flags = if test.negated { Flags(!flags.0) } else { flags };
            all.and_protocols(Protocols::of(&[6])).and_then(|cube| cube.and_flags(flags))
        }
        Test::Set { .. } => None,
    };
    cube.into_iter().collect()
}

fn outside<T: super::Number>(all: &super::Ranges<T>, taken: Option<&super::Ranges<T>>) -> Option<super::Ranges<T>> {
    taken.map_or_else(|| Some(all.clone()), |taken| all.difference(taken))
}

fn messages_of(of: &IcmpType) -> Option<Span<u16>> {
    let message = |code: &u8| u16::from_be_bytes([of.kind, *code]);
    let (first, last) = (message(of.codes.start()), message(of.codes.end()));
    (first <= last).then_some(Span { first, last })
}

fn of_set(set: &Set, ends: &[End], family: Family) -> Result<Union, TooManyCubes> {
    if let ([Dimension::Address], [end]) = (&set.dimensions[..], ends) {
        let all = Cube::everything(family);
        let members = members(set, family);
        let cube = match end {
            End::Source => all.and_source(members),
            End::Destination => all.and_destination(members),
        };
        return Ok(cube.into_iter().collect());
    }
    let exceptions: Vec<_> =
        set.exceptions.iter().filter_map(|one| Some((width(one), of_element(one, ends, family)?))).collect();
    let mut union = Union::new();
    for element in &set.elements {
        let Some(cube) = of_element(element, ends, family) else { continue };
        if exceptions.is_empty() {
            union.push(cube);
            continue;
        }
        let width = width(element);
        let narrower: Vec<Cube> =
            exceptions.iter().filter(|(of, _)| *of <= width).map(|(_, cube)| cube.clone()).collect();
        union.extend(without(vec![cube], &narrower)?);
    }
    let union = merged(union);
    if union.len() > MAX_CUBES { Err(TooManyCubes) } else { Ok(union) }
}

/// The addresses of a set that has only addresses: from the widest elements and exceptions to the narrowest, each says what
/// is in, and of equally wide ones the exception comes last.
fn members(set: &Set, family: Family) -> Option<Addresses> {
    let range = |element: &Element| match &element[..] {
        [Part::Addresses(range)] => addresses_of(std::slice::from_ref(range), family),
        _ => None,
    };
    let listed = |elements: &[Element], is_exception: bool| -> Vec<_> {
        elements.iter().filter_map(|one| Some((width(one), is_exception, range(one)?))).collect()
    };
    let mut written = listed(&set.elements, false);
    written.extend(listed(&set.exceptions, true));
    written.sort_by(|(left, last, _), (right, earlier, _)| right.cmp(left).then(last.cmp(earlier)));
    let mut members: Option<Addresses> = None;
    for run in written.chunk_by(|(_, left, _), (_, right, _)| left == right) {
        let spans = run.iter().flat_map(|(_, _, ranges)| ranges.spans()).copied();
        if run[0].1 {
            let taken = Addresses::of(spans.collect());
            members = members.and_then(|members| outside(&members, taken.as_ref()));
        } else {
            members = Addresses::of(members.iter().flat_map(|members| members.spans()).copied().chain(spans).collect());
        }
    }
    members
}

fn of_element(element: &Element, ends: &[End], family: Family) -> Option<Cube> {
    if element.len() != ends.len() {
        return None;
    }
    element.iter().zip(ends).try_fold(Cube::everything(family), |cube, (part, end)| match part {
        Part::Addresses(range) => {
            let addresses = addresses_of(std::slice::from_ref(range), family);
            match end {
                End::Source => cube.and_source(addresses),
                End::Destination => cube.and_destination(addresses),
            }
        }
        Part::Ports(protocol, range) => {
            let ports = ports_of(std::slice::from_ref(range));
            let cube =
                cube.and_protocols(protocol.map_or(Protocols::with_ports(), |number| Protocols::of(&[number])))?;
            // ICMP has its type and code in place of the destination port, from whichever end it is looked at.
            if *end == End::Destination || *protocol == Some(icmp(family)) {
                cube.and_destination_ports(ports)
            } else {
                cube.and_source_ports(ports)
            }
        }
    })
}

/// Fewer cubes with the same packets: those that differ in one dimension only become one.
fn merged(mut union: Union) -> Union {
    macro_rules! merge {
        ($field:ident, $any:expr) => {
            let mut groups: HashMap<Cube, Vec<_>> = HashMap::new();
            for cube in union.drain(..) {
                let spans = cube.$field.spans().to_vec();
                groups.entry(Cube { $field: $any, ..cube }).or_default().extend(spans);
            }
            let whole = groups.into_iter();
            union.extend(whole.filter_map(|(cube, spans)| Some(Cube { $field: super::Ranges::of(spans)?, ..cube })));
        };
    }
    if union.len() > 1 {
        merge!(source, Addresses::all());
        merge!(destination, Addresses::all());
        merge!(destination_ports, PortSet::all());
        merge!(source_ports, PortSet::all());
        let mut groups: HashMap<Cube, Protocols> = HashMap::new();
        for cube in union.drain(..) {
            let protocols = cube.protocols;
            let group = groups.entry(Cube { protocols: Protocols::ALL, ..cube }).or_insert(Protocols::NONE);
            *group = group.or(protocols);
        }
        union.extend(groups.into_iter().map(|(cube, protocols)| Cube { protocols, ..cube }));
        // Groups come in no order; the same set has to come to the same cubes.
        union.sort_by(|left, right| {
            let ends = |cube: &Cube| (cube.protocols.0, cube.flags.0);
            ends(left)
                .cmp(&ends(right))
                .then_with(|| left.destination.spans().cmp(right.destination.spans()))
                .then_with(|| left.source.spans().cmp(right.source.spans()))
                .then_with(|| left.destination_ports.spans().cmp(right.destination_ports.spans()))
                .then_with(|| left.source_ports.spans().cmp(right.source_ports.spans()))
        });
    }
    union
}
