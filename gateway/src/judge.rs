//! What a rule set means: one packet, rule by rule, as iptables goes through its chains. Everything faster is held equal to this.

use std::ops::RangeInclusive;

use dataplane::address::Address;

use crate::model::{
    Action, Chain, Element, End, Family, Hook, IcmpType, Limit, Match, Part, Policy, RejectWith, Rule, Ruleset, Set,
    States, Test,
};

/// The protocols whose headers begin with two ports.
pub const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Deeper than any rule set nests its jumps; a rule set that was checked has no circles.
pub(crate) const MAX_DEPTH: usize = 256;

/// A packet, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header<'a> {
    /// The interface that it came in by; `None` of a packet that the gateway sends itself.
    pub input: Option<&'a str>,
    /// The interface that it goes out by; `None` of a packet for the gateway itself.
    pub output: Option<&'a str>,
    /// Who sends.
    pub source: Address,
    /// Who receives, of the same family.
    pub destination: Address,
    /// The protocol's number.
    pub protocol: u8,
    /// The source port; 0 of protocols without.
    pub source_port: u16,
    /// The destination port; type × 256 + code of ICMP; 0 of other protocols without.
    pub destination_port: u16,
    /// TCP's flags; 0 of other protocols.
    pub tcp_flags: u8,
    /// The state of its connection: one of [`States::EXCLUSIVE`], with or without [`States::SNAT`] and [`States::DNAT`].
    pub state: States,
}

impl<'a> Header<'a> {
    /// Nobody's packet to nobody, for tests that look at interfaces and the state alone.
    pub(crate) fn blank(input: Option<&'a str>, output: Option<&'a str>, state: States) -> Header<'a> {
        let (source, destination) = (Address::default(), Address::default());
        let (protocol, source_port, destination_port, tcp_flags) = (0, 0, 0, 0);
        Header { input, output, source, destination, protocol, source_port, destination_port, tcp_flags, state }
    }
}

impl Header<'_> {
    fn family(&self) -> Family {
        Family::of(self.destination)
    }

    fn has_ports(&self) -> bool {
        WITH_PORTS.contains(&self.protocol)
    }

    fn is_icmp(&self) -> bool {
        match self.family() {
            Family::V4 => self.protocol == 1,
            Family::V6 => self.protocol == 58,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped in silence.
    Drop,
    /// It is dropped, and the sender is told.
    Reject(RejectWith),
}

impl From<Policy> for Verdict {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Allow => Verdict::Allow,
            Policy::Drop => Verdict::Drop,
        }
    }
}

/// A rule of a rule set: the index of its chain, and its own in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleAt {
    /// Of [`Ruleset::chains`].
    pub chain: usize,
    /// Of [`Chain::rules`].
    pub rule: usize,
}

/// What a rule set answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The rule that decided; `None` for a hook's policy.
    pub rule: Option<RuleAt>,
    /// All rules that meant the packet, in order: those that logged, counted or jumped, and the one that decided. They are the
    /// rules whose counters iptables counts up.
    pub met: Vec<RuleAt>,
}

impl Ruleset {
    /// Judges a packet. `token` is asked of each rule with a limit, once all of its matches hold, and says whether there is a token.
    pub fn judge(&self, hook: Hook, packet: &Header<'_>, token: &mut dyn FnMut(RuleAt, &Limit) -> bool) -> Judgement {
        let mut met = Vec::new();
        let Some((chain, policy)) = self.base(hook, packet.family()) else {
            return Judgement { verdict: Verdict::Allow, rule: None, met };
        };
        let decided = self.walk(chain, packet, token, &mut met, 0);
        let (verdict, rule) = decided.map_or((policy.into(), None), |(verdict, rule)| (verdict, Some(rule)));
        Judgement { verdict, rule, met }
    }

    fn walk(
        &self,
        chain: usize,
        packet: &Header<'_>,
        token: &mut dyn FnMut(RuleAt, &Limit) -> bool,
        met: &mut Vec<RuleAt>,
        depth: usize,
    ) -> Option<(Verdict, RuleAt)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let rules = &self.chains.get(chain)?.rules;
        for (rule, Rule { matches, limit, action, .. }) in rules.iter().enumerate() {
            let at = RuleAt { chain, rule };
            if !matches.iter().all(|test| self.matches(test, packet)) {
                continue;
            }
            if limit.as_ref().is_some_and(|limit| !token(at, limit)) {
                continue;
            }
            met.push(at);
            match action {
                Action::Allow => return Some((Verdict::Allow, at)),
                Action::Drop => return Some((Verdict::Drop, at)),
                Action::Reject(with) => return Some((Verdict::Reject(*with), at)),
                Action::Return => return None,
                Action::Continue => {}
                Action::Jump(name) | Action::Goto(name) => {
                    let decided = self
                        .chain(name, packet.family())
                        .and_then(|target| self.walk(target, packet, token, met, depth + 1));
                    // A chain that was gone to ends where this one would have.
                    if decided.is_some() || matches!(action, Action::Goto(_)) {
                        return decided;
                    }
                }
            }
        }
        None
    }

    /// Whether a match means a packet.
    pub fn matches(&self, test: &Match, packet: &Header<'_>) -> bool {
        let in_groups = |groups: &[String], interface: Option<&str>| {
            interface.is_some_and(|interface| {
                groups.iter().filter_map(|group| self.groups.get(group)).any(|group| group.contains(interface))
            })
        };
        let any = |ranges: &[RangeInclusive<u16>], port: u16| ranges.iter().any(|range| range.contains(&port));
        // What looks at one protocol's header means only packets that have it, negated or not.
        let (applies, holds) = match &test.test {
            Test::In(groups) => (true, in_groups(groups, packet.input)),
            Test::Out(groups) => (true, in_groups(groups, packet.output)),
            Test::Source(ranges) => (true, ranges.iter().any(|range| means_address(range, packet.source))),
            Test::Destination(ranges) => (true, ranges.iter().any(|range| means_address(range, packet.destination))),
            Test::Set { name, ends } => (true, self.sets.get(name).is_some_and(|set| set.contains(packet, ends))),
            Test::Protocol(numbers) => (true, numbers.contains(&packet.protocol)),
            Test::SourcePort(ranges) => (packet.has_ports(), any(ranges, packet.source_port)),
            Test::DestinationPort(ranges) => (packet.has_ports(), any(ranges, packet.destination_port)),
            Test::EitherPort(ranges) => {
                (packet.has_ports(), any(ranges, packet.source_port) || any(ranges, packet.destination_port))
            }
            Test::Icmp(types) => (packet.is_icmp(), types.iter().any(|of| of.contains(packet.destination_port))),
            Test::TcpFlags { mask, set } => (packet.protocol == 6, packet.tcp_flags & mask == *set),
            Test::State(states) => (true, states.meets(packet.state)),
            Test::Nothing(_) => (true, false),
        };
        applies && holds != test.negated
    }
}

impl Chain {
    /// Whether the chain is for packets of this family.
    pub fn is_for(&self, family: Family) -> bool {
        self.families.is_none_or(|of| of == family)
    }
}

impl IcmpType {
    /// Whether a message, given as type × 256 + code, is of it.
    pub fn contains(&self, message: u16) -> bool {
        let [kind, code] = message.to_be_bytes();
        self.kind == kind && self.codes.contains(&code)
    }
}

impl Set {
    /// Whether a packet is in the set, its dimensions looked at from these ends.
    pub fn contains(&self, packet: &Header<'_>, ends: &[End]) -> bool {
        let best =
            |elements: &[Element]| elements.iter().filter(|element| means(element, packet, ends)).map(width).min();
        match (best(&self.elements), best(&self.exceptions)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(element), Some(exception)) => element < exception,
        }
    }
}

/// Whether a range means an address. `::/0` goes round IPv4's place among the addresses: it means IPv6 only.
fn means_address(range: &RangeInclusive<Address>, address: Address) -> bool {
    range.contains(&address) && range.start().is_v4() == address.is_v4()
}

fn means(element: &Element, packet: &Header<'_>, ends: &[End]) -> bool {
    element.len() == ends.len()
        && element.iter().zip(ends).all(|(part, end)| match part {
            Part::Addresses(range) => means_address(
                range,
                match end {
                    End::Source => packet.source,
                    End::Destination => packet.destination,
                },
            ),
            Part::Ports(protocol, range) => {
                let port = if packet.is_icmp() || *end == End::Destination {
                    packet.destination_port
                } else {
                    packet.source_port
                };
                protocol.map_or(packet.has_ports(), |number| number == packet.protocol) && range.contains(&port)
            }
        })
}

/// How many addresses an element means: the fewer, the more specific it is.
pub(crate) fn width(element: &Element) -> Vec<u128> {
    let size = |part: &Part| match part {
        Part::Addresses(range) => range.end().to_bits() - range.start().to_bits(),
        Part::Ports(_, range) => u128::from(range.end() - range.start()),
    };
    element.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ipv6_address_is_no_ipv4_address() {
        let all = Address::v6([0; 16])..=Address::v6([0xff; 16]);
        let (v4, v6) = (Address::v4([10, 0, 0, 1]), Address::v6([1; 16]));
        assert!(means_address(&all, v6) && !means_address(&all, v4));
        let ruleset = Ruleset::default();
        let packet = |address| Header {
            input: None,
            output: None,
            source: address,
            destination: address,
            protocol: 6,
            source_port: 0,
            destination_port: 0,
            tcp_flags: 0,
            state: States::NEW,
        };
        for test in [Test::Source(vec![all.clone()]), Test::Destination(vec![all])] {
            assert!(ruleset.matches(&Match::is(test.clone()), &packet(v6)));
            assert!(!ruleset.matches(&Match::is(test.clone()), &packet(v4)));
            assert!(ruleset.matches(&Match::not(test), &packet(v4)));
        }
    }
}
