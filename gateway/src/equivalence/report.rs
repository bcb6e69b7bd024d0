//! Counter-examples.

use std::fmt;

use dataplane::address::Address;

use crate::flat::{Place, View};
use crate::judge::{Header, RuleAt, Verdict, WITH_PORTS};
use crate::model::{Family, Hook, Limit, Per, Ruleset, States};

use super::decision::{Decision, Leaf};

/// A packet that two rule sets decide otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Where it meets the rules.
    pub hook: Hook,
    /// The interface that it comes in by.
    pub input: Option<String>,
    /// The interface that it goes out by.
    pub output: Option<String>,
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
    /// The protocol's number.
    pub protocol: u8,
    /// The source port; 0 of protocols without.
    pub source_port: u16,
    /// The destination port; type × 256 + code of ICMP; 0 of other protocols without.
    pub destination_port: u16,
    /// TCP's flags; 0 of other protocols.
    pub tcp_flags: u8,
    /// The state of its connection.
    pub state: States,
}

impl Packet {
    /// As rules look at it.
    pub fn header(&self) -> Header<'_> {
        Header {
            input: self.input.as_deref(),
            output: self.output.as_deref(),
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port: self.source_port,
            destination_port: self.destination_port,
            tcp_flags: self.tcp_flags,
            state: self.state,
        }
    }

    pub(super) fn new(view: &View<'_>, header: Header<'_>) -> Packet {
        Packet {
            hook: view.hook,
            input: view.input.map(str::to_owned),
            output: view.output.map(str::to_owned),
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            source_port: header.source_port,
            destination_port: header.destination_port,
            tcp_flags: header.tcp_flags,
            state: view.state,
        }
    }
}

/// What one of the rule sets says of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The rule that decides; `None` for the hook's policy.
    pub rule: Option<RuleAt>,
    /// The rule's file, line and chain, or the policy's hook.
    pub place: String,
    /// The limits that were asked, and whether each had a token.
    pub tokens: Vec<(Limit, bool)>,
}

impl Side {
    fn new(ruleset: &Ruleset, hook: Hook, leaf: &Leaf) -> Side {
        let place = leaf.rule.and_then(|at| Place::of(ruleset, at));
        Side {
            verdict: leaf.verdict,
            rule: leaf.rule,
            place: place.map_or_else(|| format!("policy of {}", hook.name()), |place| place.to_string()),
            tokens: leaf.tokens.clone(),
        }
    }
}

/// A packet and what either rule set says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The packet.
    pub packet: Packet,
    /// What the first rule set says.
    pub a: Side,
    /// What the second says.
    pub b: Side,
}

impl Difference {
    /// Judges a packet by both rule sets. `None` if they agree.
    pub(super) fn of(rulesets: [&Ruleset; 2], packet: Packet) -> Option<Difference> {
        let decisions = rulesets.map(|ruleset| Decision::of(ruleset, packet.hook, &packet.header()));
        let (left, right) = decisions[0].differs(&decisions[1])?;
        let [a, b] = rulesets;
        Some(Difference { a: Side::new(a, packet.hook, left), b: Side::new(b, packet.hook, right), packet })
    }
}

/// States by their names.
pub(super) fn states(states: States) -> String {
    let named = States::NAMES.iter().filter(|(_, state)| state.meets(states)).map(|(name, _)| *name);
    named.collect::<Vec<_>>().join("+")
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hook.name())?;
        if let Some(input) = &self.input {
            write!(f, " in {input}")?;
        }
        if let Some(output) = &self.output {
            write!(f, " out {output}")?;
        }
        match self.protocol {
            6 => f.write_str(" tcp")?,
            17 => f.write_str(" udp")?,
            1 => f.write_str(" icmp")?,
            58 => f.write_str(" icmpv6")?,
            33 => f.write_str(" dccp")?,
            132 => f.write_str(" sctp")?,
            136 => f.write_str(" udplite")?,
            number => write!(f, " protocol {number}")?,
        }
        let ends = [(self.source, self.source_port), (self.destination, self.destination_port)];
        for ((address, port), before) in ends.into_iter().zip([" ", " -> "]) {
            let family = Family::of(address);
            match (WITH_PORTS.contains(&self.protocol), family) {
                (false, _) => write!(f, "{before}{address}")?,
                (true, Family::V4) => write!(f, "{before}{address}:{port}")?,
                (true, Family::V6) => write!(f, "{before}[{address}]:{port}")?,
            }
        }
        let family = Family::of(self.destination);
        if (family, self.protocol) == (Family::V4, 1) || (family, self.protocol) == (Family::V6, 58) {
            let [kind, code] = self.destination_port.to_be_bytes();
            write!(f, " type {kind} code {code}")?;
        }
        if self.protocol == 6 {
            let names = ["fin", "syn", "rst", "psh", "ack", "urg"];
            let set: Vec<_> = (0..6).filter(|bit| self.tcp_flags >> bit & 1 == 1).map(|bit| names[bit]).collect();
            write!(f, " {}", if set.is_empty() { "no flags".to_owned() } else { set.join("+") })?;
        }
        write!(f, ", state {}", states(self.state))
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = match self.verdict {
            Verdict::Allow => "allows",
            Verdict::Drop => "drops",
            Verdict::Reject(_) => "rejects",
        };
        write!(f, "{does} ({}", self.place)?;
        if let Verdict::Reject(with) = self.verdict {
            write!(f, ", with {with:?}")?;
        }
        for (limit, token) in &self.tokens {
            let per = match limit.per {
                Per::Second => "second",
                Per::Minute => "minute",
                Per::Hour => "hour",
                Per::Day => "day",
            };
            let with = if *token { "with" } else { "without" };
            write!(f, ", {with} a token of {}/{per} burst {}", limit.packets, limit.burst)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: A {}, B {}", self.packet, self.a, self.b)
    }
}
