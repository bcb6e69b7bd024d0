//! The rules as control states them: what is compiled ([`crate::classify`]), and the form in which a rule is easiest
//! to read. Two front ends write it, Kubernetes policies and gateway rule lists.
//!
//! A direction of a wire is *open*, or has a [`Chain`]: tiers in order, each with ordered rules and a default. Within
//! a tier the first rule that matches decides; [`Action::Pass`] goes on to the next tier. NetworkPolicy v1 is one tier of
//! `Allow` rules with default `Deny`; ClusterNetworkPolicy's admin and baseline tiers stand before and after it.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use ipnet::IpNet;

use crate::address::Address;
use crate::packet::{Direction, Protocol, TcpFlags, Tuple};

pub mod list;
pub mod stateful;

use list::RuleList;
use stateful::{ConnectionState, StatefulRules};

/// A wire's number: unique within the process and never used again for another wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WireId(pub u32);

/// The age of a verdict: a number that a direction of a wire carries and that changes whenever its policy does
/// ([`crate::publish`]). A flow keeps the epoch that it was judged in; one that differs from the wire's is stale, and the
/// flow is judged again before its next frame passes. Compare for equality only: the numbers wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// No wire is ever in it: a flow that carries it is judged before its next frame passes.
    pub const NONE: Epoch = Epoch(0);

    /// The one after, which is never [`Epoch::NONE`].
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).unwrap_or(1))
    }

    /// Whether a verdict of this epoch still holds in a direction that is in epoch `now`.
    pub fn is_current(self, now: Epoch) -> bool {
        self == now && self != Epoch::NONE
    }
}

/// What a rule, or a tier's default, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Drop it, silently.
    Deny,
    /// Leave it to the next tier. After the last tier there is none: what passes there is allowed, as if no chain
    /// existed.
    Pass,
    /// Park it and ask control, which knows what the packet does not show. The number tells control what to find out.
    Ask(u16),
    /// Drop it and tell the sender.
    Reject(RejectWith),
    /// What a course says, whose number stands in place of the rule's ([`stateful`]). Only of a list's rule.
    Course,
}

/// How a sender is told that its packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RejectWith {
    /// A TCP reset; only of TCP.
    TcpReset,
    /// An ICMP error, of this type and code of the packet's family (RFC 792, RFC 4443).
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

/// The kinds of question that an [`Action::Ask`] of a rule, or a frontend, may put. Others are for whoever writes the rules and answers.
pub mod asked {
    /// Who is behind the source, which is a host's: the host itself, which passes, or somebody whose address was rewritten and who is
    /// judged instead.
    pub const CLIENT: u16 = 1;
    /// Whether the host, whose address the source is, opened the connection itself. Nobody else is let in by it.
    pub const HOST: u16 = 2;
    /// Which backend a frontend's connection reaches ([`crate::frontend`]).
    pub const BACKEND: u16 = 3;
}

/// A rule's number, which control can name: an index into a table that it keeps with the rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId(pub u32);

/// A group's number: a set of single addresses whose members come and go while the rules that name it stay. Who is in it is
/// told beside the rules ([`crate::publish::Change`]). A group that no rule names any more is forgotten, and its number not
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupId(pub u32);

/// A set of addresses, as sorted, disjoint, maximal ranges. IPv4 lives in its mapped form ([`Address`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AddressSet {
    ranges: Vec<(u128, u128)>,
}

impl AddressSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The ranges, first to last address inclusive, in order.
    pub fn ranges(&self) -> &[(u128, u128)] {
        &self.ranges
    }

    /// Whether the set holds no address.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: Address) -> bool {
        let bits = address.to_bits();
        let after = self.ranges.partition_point(|&(first, _)| first <= bits);
        after > 0 && bits <= self.ranges[after - 1].1
    }

    /// The addresses that are in `self` and not in `other`.
    pub fn subtract(&self, other: &AddressSet) -> AddressSet {
        let mut ranges = Vec::new();
        for &(first, last) in &self.ranges {
            let mut next = Some(first);
            let from = other.ranges.partition_point(|&(_, hole_last)| hole_last < first);
            for &(hole_first, hole_last) in &other.ranges[from..] {
                let Some(start) = next else { break };
                if hole_first > last {
                    break;
                }
                if hole_first > start {
                    ranges.push((start, hole_first - 1));
                }
                next = hole_last.checked_add(1).filter(|&after| after <= last);
            }
            if let Some(start) = next {
                ranges.push((start, last));
            }
        }
        AddressSet { ranges }
    }

    /// The first and last address of a prefix.
    pub fn range_of(net: &IpNet) -> (u128, u128) {
        let bits = |ip: IpAddr| Address::from(ip).to_bits();
        (bits(net.network()), bits(net.broadcast()))
    }
}

impl FromIterator<(u128, u128)> for AddressSet {
    fn from_iter<I: IntoIterator<Item = (u128, u128)>>(iter: I) -> Self {
        let mut ranges: Vec<_> = iter.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        AddressSet { ranges: merged }
    }
}

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(iter: I) -> Self {
        iter.into_iter().map(|net| AddressSet::range_of(&net)).collect()
    }
}

impl FromIterator<Address> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Address>>(iter: I) -> Self {
        iter.into_iter().map(|address| (address.to_bits(), address.to_bits())).collect()
    }
}

/// Which far ends a rule means: the source of ingress, the destination of egress.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Peers {
    /// All.
    Any,
    /// The addresses of a set, shared by all rules that mean the same one.
    Set(Arc<AddressSet>),
    /// The members of a group.
    Group(GroupId),
}

/// Destination ports of one protocol. For ICMP the "port" is type × 256 + code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// Protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
}

impl PortRange {
    /// All ports of a protocol.
    pub fn all(protocol: Protocol) -> Self {
        PortRange { protocol, first: 0, last: u16::MAX }
    }
}

/// Which protocols and ports a rule means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Services {
    /// All protocols, those without ports included.
    Any,
    /// These only.
    Ports(Vec<PortRange>),
}

impl Services {
    /// Whether a service is meant.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Services::Any => true,
            Services::Ports(ranges) => {
                ranges.iter().any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port))
            }
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Whether a packet that it decides is told to control ([`crate::event`]).
    pub log: bool,
    /// Which far ends.
    pub peers: Peers,
    /// Which protocols and ports.
    pub services: Services,
    /// Its number.
    pub id: RuleId,
}

/// Ordered rules and what happens when none matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tier {
    /// The rules; the first that matches decides.
    pub rules: Vec<Rule>,
    /// When none does.
    pub default: Action,
}

/// All tiers of a direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chain {
    /// In order.
    pub tiers: Vec<Tier>,
}

/// What holds for a direction of a wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Everything passes.
    #[default]
    Open,
    /// A chain decides; wires whose chains are equal share one.
    Chain(Arc<Chain>),
    /// A list decides, as gateways have them; wires may share one.
    List(Arc<RuleList>),
    /// A list for each state of a packet's connection decides about every packet; wires may share them.
    Stateful(Arc<StatefulRules>),
}

/// Both directions of a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireRules {
    /// Which wire.
    pub wire: WireId,
    /// What the endpoint may send.
    pub egress: Policy,
    /// What it may receive.
    pub ingress: Policy,
}

impl WireRules {
    /// The policy of one direction.
    pub fn policy(&self, direction: Direction) -> &Policy {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

/// All rules of a moment. A wire that is not named here is closed: everything that needs a verdict is denied, until a
/// rule set knows the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// One entry a wire, in any order.
    pub wires: Vec<WireRules>,
}

/// What is asked of the rules: a new flow's first packet, or a flow that is judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// The far end: source of ingress, destination of egress.
    pub peer: Address,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port; type × 256 + code for ICMP; 0 where there is none.
    pub port: u16,
    /// The near end: source of egress, destination of ingress. Chains do not look at it.
    pub local: Address,
    /// Source port; 0 for ICMP and where there is none. Chains do not look at it.
    pub source_port: u16,
    /// The flags of a TCP segment; none for everything else. Chains do not look at them.
    pub flags: TcpFlags,
}

impl Query {
    /// A question that says all that chains look at, and nothing of the near end.
    pub fn new(peer: Address, protocol: Protocol, port: u16) -> Self {
        Query { peer, protocol, port, local: Address::default(), source_port: 0, flags: TcpFlags::default() }
    }

    /// What is asked about a flow whose first frame crosses the wire in this direction.
    pub fn opening(direction: Direction, tuple: &Tuple) -> Self {
        let (local, peer) = match direction {
            Direction::Egress => (tuple.source, tuple.destination),
            Direction::Ingress => (tuple.destination, tuple.source),
        };
        // An echo's tuple carries its identifier; rules know ICMP by type and code.
        let port = match tuple.protocol {
            Protocol::ICMP => 8 << 8,
            Protocol::ICMPV6 => 128 << 8,
            _ => tuple.destination_port,
        };
        // A connection is judged by its first segment; who picks one up in the middle, too.
        let (source_port, flags) = match tuple.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => (0, TcpFlags::default()),
            Protocol::TCP => (tuple.source_port, TcpFlags(TcpFlags::SYN)),
            _ => (tuple.source_port, TcpFlags::default()),
        };
        Query { peer, protocol: tuple.protocol, port, local, source_port, flags }
    }

    /// Who sends, in this direction.
    #[inline]
    pub fn source(&self, direction: Direction) -> Address {
        match direction {
            Direction::Egress => self.local,
            Direction::Ingress => self.peer,
        }
    }

    /// Who receives, in this direction.
    #[inline]
    pub fn destination(&self, direction: Direction) -> Address {
        match direction {
            Direction::Egress => self.peer,
            Direction::Ingress => self.local,
        }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// `Allow`, `Deny` or `Ask`; never `Pass`.
    pub action: Action,
    /// The rule that decided; `None` for a default or an open direction.
    pub rule: Option<RuleId>,
    /// Whether a rule on the way asked for a log entry.
    pub log: bool,
}

impl Decision {
    /// What an open direction answers.
    pub const OPEN: Decision = Decision { action: Action::Allow, rule: None, log: false };
    /// What a wire without rules answers.
    pub const CLOSED: Decision = Decision { action: Action::Deny, rule: None, log: false };
}

impl Policy {
    /// Judges by reading the rules one after the other: the definition that [`crate::classify`] is held equal to. Groups have
    /// no members here, and a packet opens its connection.
    pub fn judge(&self, direction: Direction, query: Query) -> Decision {
        self.judge_among(direction, query, &|_, _| false)
    }

    /// Judges as [`Policy::judge`], with a function that knows who is in which group.
    pub fn judge_among(
        &self,
        direction: Direction,
        query: Query,
        is_member: &dyn Fn(GroupId, Address) -> bool,
    ) -> Decision {
        match self {
            Policy::Open => Decision::OPEN,
            Policy::Chain(chain) => chain.judge_among(query, is_member),
            Policy::List(list) => list.judge(direction, query),
            Policy::Stateful(rules) => rules.judge(direction, ConnectionState::New, query),
        }
    }
}

impl Chain {
    /// Judges by reading the rules one after the other, with a function that knows who is in which group.
    pub fn judge_among(&self, query: Query, is_member: &dyn Fn(GroupId, Address) -> bool) -> Decision {
        let mut log = false;
        for tier in &self.tiers {
            let matching = tier.rules.iter().find(|rule| rule.matches(query, is_member));
            let action = matching.map_or(tier.default, |rule| rule.action);
            log |= matching.is_some_and(|rule| rule.log);
            if action != Action::Pass {
                return Decision { action, rule: matching.map(|rule| rule.id), log };
            }
        }
        Decision { action: Action::Allow, rule: None, log }
    }
}

impl Rule {
    /// Whether the rule means this.
    pub fn matches(&self, query: Query, is_member: &dyn Fn(GroupId, Address) -> bool) -> bool {
        let peer = match &self.peers {
            Peers::Any => true,
            Peers::Set(set) => set.contains(query.peer),
            Peers::Group(group) => is_member(*group, query.peer),
        };
        peer && self.services.contains(query.protocol, query.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nets: &[&str]) -> AddressSet {
        nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
    }

    fn holds(set: &AddressSet, ip: &str) -> bool {
        set.contains(Address::from(ip.parse::<IpAddr>().unwrap()))
    }

    #[test]
    fn sets_merge_and_subtract() {
        let all = set(&["10.0.0.0/25", "10.0.0.128/25", "fd00::/64"]);
        assert_eq!(all.ranges().len(), 2, "neighbouring prefixes are one range");
        let rest = all.subtract(&set(&["10.0.0.0/32", "10.0.0.64/26", "10.0.0.255/32", "fd00::/65"]));
        for (ip, inside) in [
            ("10.0.0.0", false),
            ("10.0.0.1", true),
            ("10.0.0.63", true),
            ("10.0.0.64", false),
            ("10.0.0.127", false),
            ("10.0.0.128", true),
            ("10.0.0.255", false),
            ("10.0.1.0", false),
            ("fd00::1", false),
            ("fd00:0:0:0:8000::", true),
        ] {
            assert_eq!(holds(&rest, ip), inside, "{ip}");
        }
        assert!(all.subtract(&set(&["0.0.0.0/0", "::/0"])).is_empty());
        assert!(!holds(&set(&["::/0"]).subtract(&set(&["0.0.0.0/0"])), "1.2.3.4"));
    }

    #[test]
    fn tiers_pass_on_and_the_first_match_decides() {
        let rule = |action, id| Rule {
            action,
            log: action == Action::Pass,
            peers: Peers::Set(Arc::new(set(&["10.0.0.0/8"]))),
            services: Services::Ports(vec![PortRange { protocol: Protocol::TCP, first: 80, last: 90 }]),
            id: RuleId(id),
        };
        let chain = |first: Action| {
            Policy::Chain(Arc::new(Chain {
                tiers: vec![
                    Tier { rules: vec![rule(first, 0), rule(Action::Deny, 1)], default: Action::Pass },
                    Tier { rules: vec![rule(Action::Allow, 2)], default: Action::Deny },
                ],
            }))
        };
        let query = |ip: &str, port| Query::new(Address::from(ip.parse::<IpAddr>().unwrap()), Protocol::TCP, port);
        let egress = Direction::Egress;
        let answer = chain(Action::Pass).judge(egress, query("10.1.1.1", 90));
        assert_eq!(answer, Decision { action: Action::Allow, rule: Some(RuleId(2)), log: true });
        assert_eq!(chain(Action::Deny).judge(egress, query("10.1.1.1", 80)).rule, Some(RuleId(0)));
        assert_eq!(chain(Action::Pass).judge(egress, query("10.1.1.1", 91)), Decision::CLOSED);
        assert_eq!(Policy::Open.judge(egress, query("10.1.1.1", 91)), Decision::OPEN);
    }
}
