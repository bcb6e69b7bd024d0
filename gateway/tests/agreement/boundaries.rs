//! Packets at the boundaries of what rules mean.

use std::ops::RangeInclusive;

use dataplane::address::Address;
use gateway::judge::RuleAt;
use gateway::model::{End, Match, Part, States, Test};

use crate::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP, icmp_of};
use crate::solver::{Solver, step};

impl Solver<'_> {
    /// Packets just inside and just outside of what a rule means, made from one that meets it.
    pub(crate) fn boundaries(&mut self, at: RuleAt, packet: &Packet) -> Vec<Packet> {
        let mut packets = Vec::new();
        let ruleset = self.ruleset;
        for one in &ruleset.chains[at.chain].rules[at.rule].matches {
            self.around(one, packet, &mut packets);
        }
        for packet in &mut packets {
            if packet.wish == States::INVALID {
                (packet.wish, packet.bad_checksum) = (States::NEW, false);
            }
            self.settle(packet);
        }
        packets
    }

    fn around(&mut self, one: &Match, packet: &Packet, packets: &mut Vec<Packet>) {
        let with = |change: &dyn Fn(&mut Packet)| {
            let mut packet = packet.clone();
            change(&mut packet);
            packet
        };
        let ends = |range: &RangeInclusive<Address>| {
            [*range.start(), *range.end(), step(*range.start(), false), step(*range.end(), true)]
        };
        let near = |range: &RangeInclusive<u16>| {
            [*range.start(), *range.end(), range.start().wrapping_sub(1), range.end().wrapping_add(1)]
        };
        match &one.test {
            Test::Source(ranges) => {
                let range = self.pick(ranges);
                packets.extend(range.iter().flat_map(ends).map(|to| with(&|packet| packet.source = to)));
            }
            Test::Destination(ranges) => {
                let range = self.pick(ranges);
                packets.extend(range.iter().flat_map(ends).map(|to| with(&|packet| packet.destination = to)));
            }
            Test::Set { name, ends: of } => {
                let Some(set) = self.ruleset.sets.get(name) else { return };
                for elements in [&set.elements, &set.exceptions] {
                    for _ in 0..4 {
                        let Some(element) = self.pick(elements) else { continue };
                        let mut inside = packet.clone();
                        element.iter().zip(of).for_each(|(part, end)| self.part(&mut inside, part, *end));
                        for (part, end) in element.iter().zip(of) {
                            let source = *end == End::Source;
                            match part {
                                Part::Addresses(range) => packets.extend(ends(range).map(|to| {
                                    let mut packet = inside.clone();
                                    *(if source { &mut packet.source } else { &mut packet.destination }) = to;
                                    packet
                                })),
                                Part::Ports(_, range) => packets.extend(near(range).map(|to| {
                                    let mut packet = inside.clone();
                                    *(if source { &mut packet.source_port } else { &mut packet.destination_port }) = to;
                                    packet
                                })),
                            }
                        }
                        packets.push(inside);
                    }
                }
            }
            Test::SourcePort(ranges) | Test::DestinationPort(ranges) | Test::EitherPort(ranges) => {
                for range in ranges {
                    for to in near(range) {
                        if !matches!(one.test, Test::DestinationPort(_)) {
                            packets.push(with(&|packet| packet.source_port = to));
                        }
                        if !matches!(one.test, Test::SourcePort(_)) {
                            packets.push(with(&|packet| packet.destination_port = to));
                        }
                    }
                }
            }
            Test::Icmp(types) => {
                for of in types {
                    let code = |code: u8| u16::from_be_bytes([of.kind, code]);
                    let (first, last) = (*of.codes.start(), *of.codes.end());
                    let other = [
                        u16::from_be_bytes([of.kind.wrapping_add(1), first]),
                        u16::from_be_bytes([of.kind.wrapping_sub(1), first]),
                    ];
                    for to in [code(first), code(last), code(last.wrapping_add(1)), other[0], other[1]] {
                        packets.push(with(&|packet| packet.destination_port = to));
                    }
                }
            }
            Test::TcpFlags { .. } => {
                packets.extend((0..6).map(|bit| with(&|packet| packet.tcp_flags ^= 1 << bit)));
            }
            Test::Protocol(_) => {
                for to in [TCP, UDP, 132, 136, 33, 47, icmp_of(self.family)] {
                    packets.push(with(&|packet| packet.protocol = to));
                }
            }
            Test::In(_) | Test::Out(_) => {
                for to in 0..self.interfaces.len() - 1 {
                    let change = |packet: &mut Packet| {
                        let side = if matches!(one.test, Test::In(_)) { &mut packet.input } else { &mut packet.output };
                        *side = side.map(|_| to);
                    };
                    packets.push(with(&change));
                }
            }
            Test::State(_) => {
                for flags in [SYN, ACK, RST, SYN | ACK, FIN | ACK] {
                    packets.push(with(&|packet| (packet.tcp_flags, packet.wish) = (flags, States::NEW)));
                }
                packets.push(with(&|packet| packet.wish = States::UNTRACKED));
            }
            Test::Nothing(_) => {}
        }
    }
}
