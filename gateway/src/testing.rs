//! Random rule sets and packets for tests. They live in a small world (few addresses, ports, interfaces), so that rules meet.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use dataplane::address::Address;

use crate::judge::Header;
use crate::model::{
    Action, Chain, Dimension, Element, End, Family, Group, Hook, IcmpType, Limit, Log, Match, Origin, Part, Per,
    Policy, RejectWith, Rule, Ruleset, Set, States, Test,
};

/// Interfaces that packets use; rules know groups of some.
pub(crate) const INTERFACES: [&str; 4] = ["eth0", "eth1", "lan0", "wan"];
const PROTOCOLS: [u8; 8] = [6, 17, 1, 58, 132, 47, 33, 0];
const PORTS: [u16; 7] = [0, 1, 22, 80, 81, 443, 65535];
const MESSAGES: [u16; 5] = [0, 3 * 256, 3 * 256 + 1, 8 * 256, 128 * 256];
const FLAGS: [u8; 7] = [0, 2, 16, 18, 4, 20, 63];

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// The seed of a test's randomness: PENSTOCK_SEED, or one that never changes. Tests name it when they fail.
pub(crate) fn seed() -> u64 {
    std::env::var("PENSTOCK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// One of the world's sixteen addresses of a family: they lie in two blocks, one of them beside the IPv4-mapped ones.
pub(crate) fn address(family: Family, number: usize) -> Address {
    let number = number as u8;
    match family {
        Family::V4 if number < 8 => Address::v4([10, 0, 0, number]),
        Family::V4 => Address::v4([192, 168, 1, 240 + number]),
        Family::V6 if number < 8 => Address::from_bits((0xffff << 32) - 8 + u128::from(number)),
        Family::V6 => Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number]),
    }
}

fn addresses(random: &mut Random, family: Family) -> RangeInclusive<Address> {
    if random.one_in(12) {
        return match family {
            Family::V4 => Address::v4([0; 4])..=Address::v4([255; 4]),
            Family::V6 => Address::v6([0; 16])..=Address::v6([255; 16]),
        };
    }
    let (one, other) = (random.below(16), random.below(16));
    let last = if random.one_in(3) { one } else { one.max(other) };
    address(family, one.min(last))..=address(family, last)
}

fn some<T>(random: &mut Random, most: usize, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..1 + random.below(most)).map(|_| make(random)).collect()
}

fn ports(random: &mut Random) -> RangeInclusive<u16> {
    let (one, other) = (random.pick(&PORTS), random.pick(&PORTS));
    if random.one_in(2) { one..=one } else { one.min(other)..=one.max(other) }
}

fn part(random: &mut Random, dimension: Dimension, family: Family) -> Part {
    match dimension {
        Dimension::Address => Part::Addresses(addresses(random, family)),
        Dimension::Port if random.one_in(4) => {
            let protocol = if family == Family::V4 { 1 } else { 58 };
            let message = random.pick(&MESSAGES);
            Part::Ports(Some(protocol), message..=message)
        }
        Dimension::Port => {
            let protocol = [None, Some(6), Some(17), Some(47)][random.below(4)];
            Part::Ports(protocol, ports(random))
        }
    }
}

fn set(random: &mut Random, dimensions: &[Dimension]) -> Set {
    let elements = |random: &mut Random, most: usize| -> Vec<Element> {
        (0..random.below(most))
            .map(|_| {
                let family = random.pick(&Family::BOTH);
                dimensions.iter().map(|dimension| part(random, *dimension, family)).collect()
            })
            .collect()
    };
    let (members, mut exceptions) = (elements(random, 6), elements(random, 3));
    if let Some(first) = members.first().filter(|_| random.one_in(3)) {
        exceptions.push(first.clone());
    }
    Set { dimensions: dimensions.to_vec(), elements: members, exceptions, file: None, origin: origin(1) }
}

pub(crate) fn origin(line: u32) -> Origin {
    Origin { file: "test.rules".into(), line }
}

pub(crate) fn test(random: &mut Random, sets: &BTreeMap<String, Set>, full: bool) -> Test {
    let family = random.pick(&Family::BOTH);
    match random.below(if full { 14 } else { 11 }) {
        0 | 1 => Test::Source(some(random, 2, |random| addresses(random, family))),
        2 | 3 => Test::Destination(some(random, 2, |random| addresses(random, family))),
        4 => Test::Protocol(some(random, 2, |random| random.pick(&PROTOCOLS))),
        5 => Test::SourcePort(some(random, 2, ports)),
        6 => Test::DestinationPort(some(random, 2, ports)),
        7 => Test::EitherPort(some(random, 2, ports)),
        8 => Test::Icmp(some(random, 2, |random| {
            let [kind, code] = random.pick(&MESSAGES).to_be_bytes();
            let last = if random.one_in(2) { 255 } else { code };
            IcmpType { kind, codes: code..=last }
        })),
        9 => {
            let mask = random.below(64) as u8;
            Test::TcpFlags { mask, set: mask & random.pick(&FLAGS) }
        }
        10 => {
            let (name, set) = sets.iter().nth(random.below(sets.len())).expect("there are sets");
            let ends = set.dimensions.iter().map(|_| random.pick(&[End::Source, End::Destination])).collect();
            Test::Set { name: name.clone(), ends }
        }
        11 => Test::In(some(random, 2, |random| random.pick(&["inside", "ethernet"]).to_owned())),
        12 => Test::Out(some(random, 2, |random| random.pick(&["inside", "ethernet"]).to_owned())),
        _ if random.one_in(10) => Test::Nothing("no fragments here".to_owned()),
        _ => Test::State(States(random.below(128) as u8)),
    }
}

/// How wild a rule set is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    /// User chains.
    pub(crate) chains: usize,
    /// The most rules of a chain.
    pub(crate) rules: usize,
    /// Whether rules look at interfaces and states.
    pub(crate) views: bool,
    /// Whether there are limits.
    pub(crate) limits: bool,
}

/// A rule set. Chains jump to later ones only, and every hook has one.
pub(crate) fn ruleset(random: &mut Random, world: World) -> Ruleset {
    use Dimension::{Address, Port};
    let shapes: [&[Dimension]; 4] = [&[Address], &[Address, Port], &[Address, Address], &[Address, Port, Address]];
    let sets: BTreeMap<String, Set> =
        shapes.iter().enumerate().map(|(index, shape)| (format!("set{index}"), set(random, shape))).collect();
    let group = |interfaces: &[&str]| Group {
        interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
        networks: Vec::new(),
        origin: origin(2),
    };
    let groups = [("ethernet", group(&["eth+"])), ("inside", group(&["eth1", "lan+"]))];
    let mut chains: Vec<Chain> = Vec::new();
    let mut line = 10;
    for index in 0..3 + world.chains {
        let hook = Hook::ALL.get(index).map(|hook| (*hook, random.pick(&[Policy::Allow, Policy::Drop])));
        let count = random.below(world.rules + 1);
        let rules = (0..count).map(|_| {
            line += 1;
            let matches = (0..random.below(4))
                .map(|_| Match { negated: random.one_in(4), test: test(random, &sets, world.views) });
            let matches = matches.collect();
            let first = index.max(2) + 1 - 3;
            let target = (first < world.chains).then(|| first + random.below(world.chains - first));
            let action = match (random.below(10), target) {
                (0..=2, Some(target)) => Action::Jump(format!("chain{target}")),
                (3, Some(target)) => Action::Goto(format!("chain{target}")),
                (4, _) => Action::Return,
                (5, _) => Action::Continue,
                (6 | 0, _) => Action::Drop,
                (7, _) => Action::Reject(RejectWith::PortUnreachable),
                _ => Action::Allow,
            };
            let limit = (world.limits && random.one_in(6)).then(|| Limit {
                packets: 1 + random.below(2) as u32,
                per: Per::Second,
                burst: 5,
            });
            let log = random.one_in(6).then(Log::default);
            Rule { name: None, comment: None, origin: origin(line), matches, limit, log, action }
        });
        chains.push(Chain {
            name: hook.map_or_else(|| format!("chain{}", index - 3), |(hook, _)| hook.name().to_owned()),
            families: None,
            hook,
            rules: rules.collect(),
            origin: origin(line),
        });
    }
    Ruleset { groups: groups.map(|(name, group)| (name.to_owned(), group)).into(), sets, chains }
}

/// A packet for a hook, near the world's boundaries.
pub(crate) fn packet(random: &mut Random, hook: Hook) -> Header<'static> {
    let family = random.pick(&Family::BOTH);
    let mut end = || {
        let near = address(family, random.below(16)).to_bits() + 1 - random.below(3) as u128;
        // One above the world's lower addresses of IPv6 is IPv4's first: no packet of IPv6 has it.
        let near = Address::from_bits(near);
        if Family::of(near) == family { near } else { address(family, 7) }
    };
    let (source, destination) = (end(), end());
    let protocol = random.pick(&PROTOCOLS);
    let port = |random: &mut Random| random.pick(&PORTS).wrapping_add(random.below(2) as u16);
    let mut header = Header {
        input: (hook != Hook::Output).then(|| random.pick(&INTERFACES)),
        output: (hook != Hook::Input).then(|| random.pick(&INTERFACES)),
        source,
        destination,
        protocol,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        state: random.pick(&States::EXCLUSIVE).and(States(random.pick(&[0, 0, 32, 64, 96]))),
    };
    match (protocol, family) {
        (6 | 17 | 33 | 132, _) => {
            header.source_port = port(random);
            header.destination_port = port(random);
            if protocol == 6 {
                header.tcp_flags = random.pick(&FLAGS);
            }
        }
        (1, Family::V4) | (58, Family::V6) => header.destination_port = random.pick(&MESSAGES),
        _ => {}
    }
    header
}
