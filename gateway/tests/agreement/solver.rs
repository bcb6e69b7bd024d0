//! Packets that meet a rule: made from the matches along a way of jumps that leads to it, tried until the rules say so.

use std::ops::RangeInclusive;

use dataplane::address::Address;
use gateway::judge::RuleAt;
use gateway::model::{Action, End, Family, Hook, Match, Part, Ruleset, States, Test};

use crate::kernel::{LINK, groups, is_of_link, own};
use crate::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP, icmp_of};

/// How often a rule is tried.
const TRIES: usize = 400;

/// Makes packets for a rule set.
pub(crate) struct Solver<'a> {
    pub(crate) ruleset: &'a Ruleset,
    pub(crate) family: Family,
    pub(crate) interfaces: &'a [String],
    /// Who jumps to each chain.
    callers: Vec<Vec<RuleAt>>,
    /// First and last addresses of what rules speak of, and those beside them.
    addresses: Vec<Address>,
    pub(crate) random: fastrand::Rng,
}

pub(crate) fn step(address: Address, up: bool) -> Address {
    let bits = address.to_bits();
    let stepped = Address::from_bits(if up { bits.wrapping_add(1) } else { bits.wrapping_sub(1) });
    if Family::of(stepped) == Family::of(address) { stepped } else { address }
}

/// Whether the IP layer lets an address of its kind be a host's.
fn is_host(address: Address) -> bool {
    let bytes = address.0;
    match address.to_v4_bits() {
        Some(_) => !matches!(bytes[12], 0 | 127 | 224..),
        None => bytes[0] & 0xe0 == 0x20 || bytes[0] & 0xfe == 0xfc,
    }
}

/// What conntrack makes of a packet that is the first of its flow.
pub(crate) fn first_state(packet: &Packet) -> States {
    if packet.wish == States::UNTRACKED {
        return States::UNTRACKED;
    }
    let [kind, _] = packet.destination_port.to_be_bytes();
    let new = match packet.protocol {
        TCP => matches!(packet.tcp_flags & !8, SYN | ACK | 0x22 | 0x30),
        1 if packet.is_icmp() => matches!(kind, 8 | 13 | 15 | 17),
        58 if packet.is_icmp() && matches!(kind, 130..=136 | 143) => return States::UNTRACKED,
        58 if packet.is_icmp() => kind == 128,
        _ => true,
    };
    if new && !packet.bad_checksum { States::NEW } else { States::INVALID }
}

impl<'a> Solver<'a> {
    pub(crate) fn new(ruleset: &'a Ruleset, family: Family, interfaces: &'a [String], seed: u64) -> Solver<'a> {
        let mut callers = vec![Vec::new(); ruleset.chains.len()];
        let mut addresses = Vec::new();
        let mut add = |range: &RangeInclusive<Address>| {
            let (first, last) = (*range.start(), *range.end());
            if Family::of(first) == family {
                addresses.extend([first, last, step(first, false), step(last, true)]);
            }
        };
        for (chain, of) in ruleset.chains.iter().enumerate().filter(|(_, of)| of.is_for(family)) {
            for (rule, one) in of.rules.iter().enumerate() {
                if let Action::Jump(name) | Action::Goto(name) = &one.action
                    && let Some(target) = ruleset.chain(name, family)
                {
                    callers[target].push(RuleAt { chain, rule });
                }
                for of in &one.matches {
                    if let Test::Source(ranges) | Test::Destination(ranges) = &of.test {
                        ranges.iter().for_each(&mut add);
                    }
                }
            }
        }
        for element in ruleset.sets.values().flat_map(|set| set.elements.iter().chain(&set.exceptions)) {
            for part in element {
                if let Part::Addresses(range) = part {
                    add(range);
                }
            }
        }
        Solver { ruleset, family, interfaces, callers, addresses, random: fastrand::Rng::with_seed(seed) }
    }

    /// All rules that a hook may come to.
    pub(crate) fn rules(&self) -> Vec<RuleAt> {
        let chains = self.ruleset.chains.iter().enumerate().filter(|(_, chain)| chain.is_for(self.family));
        chains.flat_map(|(chain, of)| (0..of.rules.len()).map(move |rule| RuleAt { chain, rule })).collect()
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.random.usize(..of.len())].clone())
    }

    fn address(&mut self) -> Address {
        for _ in 0..20 {
            let address = if self.random.u8(..3) > 0 && !self.addresses.is_empty() {
                self.addresses[self.random.usize(..self.addresses.len())]
            } else {
                match self.family {
                    Family::V4 => Address::v4(self.random.u32(..).to_be_bytes()),
                    Family::V6 => Address::v6((self.random.u128(..) >> 3 | 1 << 125).to_be_bytes()),
                }
            };
            if is_host(address) {
                return address;
            }
        }
        match self.family {
            Family::V4 => Address::v4([192, 0, 2, 7]),
            Family::V6 => Address::from_bits(0x2001_0db8 << 96 | 7),
        }
    }

    fn within(&mut self, range: &RangeInclusive<Address>) -> Address {
        let (first, last) = (range.start().to_bits(), range.end().to_bits());
        // What the gateway takes in, of what it would not take otherwise.
        if is_of_link(*range.start()) && range.contains(&LINK) && self.random.bool() {
            return LINK;
        }
        let group = groups(self.family)[self.random.usize(..3)];
        if range.start().is_group() && range.contains(&group) && self.random.bool() {
            return group;
        }
        match self.random.u8(..4) {
            0 => *range.start(),
            1 => *range.end(),
            _ => Address::from_bits(self.random.u128(first..=last)),
        }
    }

    /// Any packet for a hook.
    pub(crate) fn any(&mut self, hook: Hook) -> Packet {
        let taps = self.interfaces.len() - 1;
        let input = (hook != Hook::Output).then(|| self.random.usize(..taps));
        let mut output = (hook != Hook::Input).then(|| self.random.usize(..taps));
        if input == output && taps > 1 && self.random.u8(..8) > 0 {
            output = output.map(|output| (output + 1) % taps);
        }
        let icmp = icmp_of(self.family);
        let protocol = [TCP, TCP, TCP, UDP, UDP, icmp, 132, 47, 50][self.random.usize(..9)];
        let echo = if self.family == Family::V4 { 8 } else { 128 } << 8;
        let (mut source, mut destination) = (self.address(), self.address());
        // The gateway's own addresses are what wires at its interfaces are about.
        if self.random.bool() {
            let own = own(self.family, self.random.usize(..taps));
            match hook {
                Hook::Input => destination = own,
                Hook::Output => source = own,
                Hook::Forward => {}
            }
        }
        Packet {
            hook,
            input,
            output,
            source,
            destination,
            protocol,
            source_port: self.random.u16(1024..),
            destination_port: if protocol == icmp { echo } else { self.random.u16(1..) },
            tcp_flags: SYN,
            sequence: self.random.u32(..),
            acknowledgement: 0,
            payload: self.random.usize(..32),
            // What is not tracked comes to rules that others never come to: those behind one about invalid packets.
            wish: if self.random.u8(..8) == 0 { States::UNTRACKED } else { States::NEW },
            about: None,
            bad_checksum: false,
            options: self.random.u8(..16) == 0,
        }
    }

    /// A way from a hook's own chain to a rule: the rules that jump, and the rule.
    fn way(&mut self, at: RuleAt) -> Option<(Hook, Vec<RuleAt>)> {
        let mut way = vec![at];
        for _ in 0..64 {
            let first = way[way.len() - 1];
            if let Some((hook, _)) = self.ruleset.chains[first.chain].hook {
                way.reverse();
                return Some((hook, way));
            }
            let callers = self.callers[first.chain].clone();
            way.push(self.pick(&callers)?);
        }
        None
    }

    /// A packet that meets the rule. `None`: none was found.
    pub(crate) fn solve(&mut self, at: RuleAt) -> Option<Packet> {
        (0..TRIES).find_map(|_| self.attempt(at))
    }

    fn attempt(&mut self, at: RuleAt) -> Option<Packet> {
        let (hook, way) = self.way(at)?;
        let mut packet = self.any(hook);
        let ruleset = self.ruleset;
        let mut matches: Vec<&Match> =
            way.iter().flat_map(|at| &ruleset.chains[at.chain].rules[at.rule].matches).collect();
        // Protocols first: ports and flags look at theirs. Then states, whose preparation others may overrule.
        matches.sort_by_key(|one| match one.test {
            Test::State(_) => 0,
            Test::Protocol(_) => 1,
            _ => 2,
        });
        for one in &matches {
            self.satisfy(&mut packet, one)?;
        }
        self.settle(&mut packet);
        let judgement = ruleset.judge(packet.hook, &packet.header(self.interfaces), &mut |_, _| true);
        judgement.met.contains(&at).then_some(packet)
    }

    /// Makes what a packet is to be as close to what it can be.
    pub(crate) fn settle(&mut self, packet: &mut Packet) {
        match packet.wish {
            States::NEW => packet.wish = first_state(packet),
            States::RELATED if packet.is_icmp() => {
                let mut inner = self.any(Hook::Forward);
                (inner.protocol, inner.source, inner.about) = (UDP, packet.destination, None);
                inner.destination_port = self.random.u16(1024..);
                packet.about = Some(inner.bytes());
            }
            States::INVALID => {
                packet.bad_checksum = first_state(packet) != States::INVALID;
            }
            _ => {}
        }
    }

    fn satisfy(&mut self, packet: &mut Packet, one: &Match) -> Option<()> {
        let wanted = !one.negated;
        match &one.test {
            Test::In(groups) => packet.input = Some(self.interface(groups, wanted)?),
            Test::Out(groups) => packet.output = Some(self.interface(groups, wanted)?),
            Test::Source(ranges) if wanted => packet.source = self.pick(ranges).map(|range| self.within(&range))?,
            Test::Destination(ranges) if wanted => {
                packet.destination = self.pick(ranges).map(|range| self.within(&range))?;
            }
            Test::Source(ranges) => packet.source = self.outside(ranges)?,
            Test::Destination(ranges) => packet.destination = self.outside(ranges)?,
            Test::Set { name, ends } if wanted => {
                let element = self.ruleset.sets.get(name).and_then(|set| self.pick(&set.elements))?;
                element.iter().zip(ends).for_each(|(part, end)| self.part(packet, part, *end));
            }
            Test::Protocol(numbers) if wanted => {
                self.protocol(packet, numbers)?;
            }
            Test::Protocol(numbers) => {
                let others = [TCP, UDP, icmp_of(self.family), 47, 132];
                let others: Vec<u8> = others.into_iter().filter(|number| !numbers.contains(number)).collect();
                self.protocol(packet, &others)?;
            }
            Test::SourcePort(ranges) | Test::DestinationPort(ranges) | Test::EitherPort(ranges) => {
                if !packet.has_ports() {
                    self.protocol(packet, &[TCP, UDP])?;
                }
                let port = self.port(ranges, wanted)?;
                let source = match one.test {
                    Test::SourcePort(_) => true,
                    Test::DestinationPort(_) => false,
                    _ => wanted && self.random.bool(),
                };
                *(if source { &mut packet.source_port } else { &mut packet.destination_port }) = port;
            }
            Test::Icmp(types) => {
                self.protocol(packet, &[icmp_of(self.family)])?;
                packet.destination_port = if wanted {
                    let of = self.pick(types)?;
                    u16::from_be_bytes([of.kind, self.random.u8(of.codes)])
                } else {
                    (0..50).map(|_| self.random.u16(..)).find(|port| !types.iter().any(|of| of.contains(*port)))?
                };
            }
            Test::TcpFlags { mask, set } => {
                self.protocol(packet, &[TCP])?;
                if wanted {
                    let others = [packet.tcp_flags, 0, self.random.u8(..64)][self.random.usize(..3)];
                    packet.tcp_flags = others & !mask | set;
                } else if packet.tcp_flags & mask == *set {
                    packet.tcp_flags = (0..50).map(|_| self.random.u8(..64)).find(|flags| flags & mask != *set)?;
                }
            }
            Test::State(states) => {
                let able: Vec<States> =
                    States::EXCLUSIVE.into_iter().filter(|state| states.meets(*state) == wanted).collect();
                packet.wish = self.pick(&able)?;
                match packet.wish {
                    States::RELATED => {
                        self.protocol(packet, &[icmp_of(self.family)])?;
                        packet.destination_port = if self.family == Family::V4 { 0x0301 } else { 0x0103 };
                    }
                    States::ESTABLISHED => {
                        self.protocol(packet, &[TCP, UDP])?;
                        packet.tcp_flags = ACK;
                    }
                    States::INVALID => packet.tcp_flags = [RST, SYN | ACK, FIN | ACK][self.random.usize(..3)],
                    _ => {}
                }
            }
            Test::Set { .. } => {}
            Test::Nothing(_) => return (!wanted).then_some(()),
        }
        Some(())
    }

    fn protocol(&mut self, packet: &mut Packet, numbers: &[u8]) -> Option<()> {
        if numbers.contains(&packet.protocol) {
            return Some(());
        }
        packet.protocol = self.pick(numbers)?;
        if packet.is_icmp() {
            packet.destination_port = if self.family == Family::V4 { 8 } else { 128 } << 8;
        }
        Some(())
    }

    fn interface(&mut self, groups: &[String], wanted: bool) -> Option<usize> {
        let ruleset = self.ruleset;
        let of =
            |name: &String| groups.iter().filter_map(|group| ruleset.groups.get(group)).any(|of| of.contains(name));
        let able: Vec<usize> =
            (0..self.interfaces.len()).filter(|index| of(&self.interfaces[*index]) == wanted).collect();
        // `lo` only where nothing else will do.
        let taps: Vec<usize> = able.iter().copied().filter(|index| *index + 1 < self.interfaces.len()).collect();
        self.pick(&taps).or_else(|| self.pick(&able))
    }

    fn outside(&mut self, ranges: &[RangeInclusive<Address>]) -> Option<Address> {
        (0..50).map(|_| self.address()).find(|address| !ranges.iter().any(|range| range.contains(address)))
    }

    fn port(&mut self, ranges: &[RangeInclusive<u16>], wanted: bool) -> Option<u16> {
        if !wanted {
            let one = self.pick(ranges)?;
            let near = [one.start().wrapping_sub(1), one.end().wrapping_add(1), self.random.u16(..)];
            let start = self.random.usize(..3);
            return (0..3)
                .map(|at| near[(start + at) % 3])
                .find(|port| !ranges.iter().any(|range| range.contains(port)));
        }
        let range = self.pick(ranges)?;
        Some(match self.random.u8(..4) {
            0 => *range.start(),
            1 => *range.end(),
            _ => self.random.u16(range),
        })
    }

    pub(crate) fn part(&mut self, packet: &mut Packet, part: &Part, end: End) {
        match part {
            Part::Addresses(range) => {
                let address = self.within(range);
                *(if end == End::Source { &mut packet.source } else { &mut packet.destination }) = address;
            }
            Part::Ports(protocol, range) => {
                match protocol {
                    Some(number) => packet.protocol = *number,
                    None if packet.has_ports() => {}
                    None => packet.protocol = TCP,
                }
                let port = self.random.u16(range.clone());
                let source = end == End::Source && !packet.is_icmp();
                *(if source { &mut packet.source_port } else { &mut packet.destination_port }) = port;
            }
        }
    }
}
