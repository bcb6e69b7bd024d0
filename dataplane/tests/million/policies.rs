//! Random policies about the addresses that [`dataplane::testing::Generator`] uses.

use std::sync::Arc;

use dataplane::packet::Protocol;
use dataplane::rules::{Action, AddressSet, Chain, Peers, Policy, PortRange, Rule, RuleId, Services, Tier};
use ipnet::IpNet;

/// Random numbers (SplitMix64), the same ones for the same seed.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len() as u64) as usize]
    }

    /// Ordered tiers of rules that allow, deny and pass; what no rule means is denied in the end. Each rule has a number
    /// of its own, so that an answer tells which one decided.
    pub(crate) fn policy(&mut self) -> Policy {
        let count = 1 + self.below(3);
        let mut number = 0;
        let tiers = (0..count).map(|tier| self.tier(tier + 1 == count, &mut number)).collect();
        Policy::Chain(Arc::new(Chain { tiers }))
    }

    fn tier(&mut self, last: bool, number: &mut u32) -> Tier {
        let (actions, default): (&[Action], _) = if last {
            (&[Action::Allow, Action::Allow, Action::Deny], Action::Deny)
        } else {
            (&[Action::Allow, Action::Deny, Action::Pass], Action::Pass)
        };
        let count = 4 + self.below(12);
        let rules = (0..count).map(|_| {
            *number += 1;
            Rule {
                action: self.one_of(actions),
                log: self.below(50) == 0,
                peers: self.peers(),
                services: self.services(),
                id: RuleId(*number),
            }
        });
        Tier { rules: rules.collect(), default }
    }

    fn peers(&mut self) -> Peers {
        if self.below(6) == 0 {
            return Peers::Any;
        }
        let set: AddressSet = (0..1 + self.below(5)).map(|_| self.prefix()).collect();
        let except: AddressSet = (0..self.below(3)).map(|_| self.prefix()).collect();
        Peers::Set(Arc::new(set.subtract(&except)))
    }

    fn prefix(&mut self) -> IpNet {
        let [a, b, c] = [self.next() as u8, self.next() as u8, self.next() as u8];
        let text = match self.below(10) {
            0 => "224.0.0.0/4".to_owned(),
            1 => "ff00::/8".to_owned(),
            2..6 => format!("10.{a}.{b}.{c}/{}", 8 + self.below(12)),
            _ => format!("fd00::{a:x}:{b:x}{c:02x}/{}", 104 + self.below(12)),
        };
        text.parse().expect("a prefix")
    }

    fn services(&mut self) -> Services {
        const PROTOCOLS: [Protocol; 6] =
            [Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP];
        if self.below(3) == 0 {
            return Services::Any;
        }
        let ranges = (0..1 + self.below(4)).map(|_| match self.one_of(&PROTOCOLS) {
            // All types: the oracle here is asked about a packet's tuple, which tells echo requests only.
            Protocol::ICMP => PortRange::all(self.one_of(&[Protocol::ICMP, Protocol::ICMPV6])),
            protocol => {
                let (one, other) = (self.next() as u16, self.next() as u16);
                PortRange { protocol, first: one.min(other), last: one.max(other) }
            }
        });
        Services::Ports(ranges.collect())
    }
}
