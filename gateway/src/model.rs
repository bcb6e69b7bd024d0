//! A rule set as it is written: chains with rules in order, named sets of addresses and ports, groups of interfaces.
//!
//! Names of chains, sets and groups are checked when a rule set is made ([`Ruleset::check`]): whoever has one that was
//! checked can follow them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use dataplane::address::Address;
use ipnet::IpNet;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: Address) -> Family {
        if address.is_v4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

/// Which families a file's chains are for: one, or both (`None`).
pub type Families = Option<Family>;

/// Where packets meet the rules: the names of iptables' built-in chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// To the gateway itself.
    Input,
    /// Through it.
    Forward,
    /// From the gateway itself.
    Output,
}

impl Hook {
    /// All.
    pub const ALL: [Hook; 3] = [Hook::Input, Hook::Forward, Hook::Output];

    /// Its name in a rule file.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
        }
    }
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file's name as it was given; `-` for standard input.
    pub file: Arc<str>,
    /// The line, from 1; 0 when it is not known.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Interfaces that rules speak of under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Names of interfaces; a `+` at the end stands for any ending, as in iptables.
    pub interfaces: Vec<String>,
    /// What is reached through them, for placements that see only one of a packet's two interfaces. Empty: not said.
    pub networks: Vec<IpNet>,
    /// Where it is written.
    pub origin: Origin,
}

impl Group {
    /// Whether an interface is in it.
    pub fn contains(&self, interface: &str) -> bool {
        self.interfaces.iter().any(|pattern| interface_matches(pattern, interface))
    }
}

/// Whether a pattern means an interface: `eth+` means every name that begins with `eth`.
pub fn interface_matches(pattern: &str, interface: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(beginning) => interface.starts_with(beginning),
        None => pattern == interface,
    }
}

/// What one part of a set's elements is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// An address or a range of addresses.
    Address,
    /// A port or a range of ports, of one protocol or of whichever the packet has.
    Port,
}

/// One part of an element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// From the first to the last address, both of one family, and only addresses of that family.
    Addresses(RangeInclusive<Address>),
    /// Ports. `None` for the protocol: of TCP, UDP, UDP-Lite, SCTP and DCCP alike. ICMP's are type × 256 + code.
    Ports(Option<u8>, RangeInclusive<u16>),
}

/// A member of a set: as many parts as the set has dimensions.
pub type Element = Vec<Part>;

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What its elements are made of: at least one part, at most three.
    pub dimensions: Vec<Dimension>,
    /// Who is in it, unless an exception says otherwise.
    pub elements: Vec<Element>,
    /// Who is not in it, although an element says so (`nomatch`). Of an element and an exception that both mean a packet, the
    /// more specific one decides, and of equal ones the exception.
    pub exceptions: Vec<Element>,
    /// The file that the elements stand in, if that is one of its own: named relative to the rule file, the first one if it
    /// includes others.
    pub file: Option<String>,
    /// Where it is written.
    pub origin: Origin,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Who sends.
    Source,
    /// Who receives.
    Destination,
}

/// Connection states: what iptables' `--ctstate` knows. The first five exclude one another; the last two come beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct States(pub u8);

impl States {
    /// Of a connection that has not been answered yet.
    pub const NEW: States = States(1);
    /// Of one that has been.
    pub const ESTABLISHED: States = States(2);
    /// About another connection: an ICMP error.
    pub const RELATED: States = States(4);
    /// Fits no connection and opens none.
    pub const INVALID: States = States(8);
    /// Is not tracked: neighbour discovery, and what a raw table says so of.
    pub const UNTRACKED: States = States(16);
    /// Its source is rewritten.
    pub const SNAT: States = States(32);
    /// Its destination is rewritten.
    pub const DNAT: States = States(64);
    /// With their names, as they are written.
    pub const NAMES: [(&'static str, States); 7] = [
        ("new", States::NEW),
        ("established", States::ESTABLISHED),
        ("related", States::RELATED),
        ("invalid", States::INVALID),
        ("untracked", States::UNTRACKED),
        ("snat", States::SNAT),
        ("dnat", States::DNAT),
    ];
    /// The five of which a packet has one.
    pub const EXCLUSIVE: [States; 5] =
        [States::NEW, States::ESTABLISHED, States::RELATED, States::INVALID, States::UNTRACKED];

    /// Whether a packet of this state (one of the exclusive ones, with or without the others) is meant.
    pub fn meets(self, packet: States) -> bool {
        self.0 & packet.0 != 0
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: States) -> States {
        States(self.0 | other.0)
    }
}

/// ICMP messages of one type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IcmpType {
    /// The type.
    pub kind: u8,
    /// The codes.
    pub codes: RangeInclusive<u8>,
}

/// What a rule looks at. Lists mean any of their members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// It came in by an interface of one of these groups. A packet that the gateway sends itself came in by none.
    In(Vec<String>),
    /// It goes out by an interface of one of these groups. A packet for the gateway itself goes out by none.
    Out(Vec<String>),
    /// Who sends.
    Source(Vec<RangeInclusive<Address>>),
    /// Who receives.
    Destination(Vec<RangeInclusive<Address>>),
    /// The named set has the packet: each dimension is looked at from this end.
    Set {
        /// The set's name.
        name: String,
        /// As many as the set has dimensions.
        ends: Vec<End>,
    },
    /// The protocol's number.
    Protocol(Vec<u8>),
    /// From which ports; only of packets with ports.
    SourcePort(Vec<RangeInclusive<u16>>),
    /// To which ports; only of packets with ports.
    DestinationPort(Vec<RangeInclusive<u16>>),
    /// From or to which ports; only of packets with ports.
    EitherPort(Vec<RangeInclusive<u16>>),
    /// ICMP or, of an IPv6 packet, ICMPv6 messages.
    Icmp(Vec<IcmpType>),
    /// Of these TCP flags (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32) just those of `set` are set; only of TCP.
    TcpFlags {
        /// Those that are looked at.
        mask: u8,
        /// Those of them that are set.
        set: u8,
    },
    /// The state of its connection.
    State(States),
    /// No packet, for the reason given: iptables' `-f` where fragments are put together first, a mark that nobody sets.
    Nothing(String),
}

/// A test, or its opposite. The opposite of a test that looks at one protocol's header only (ports, flags, ICMP) still means
/// that protocol's packets only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// Whether the test must not hold.
    pub negated: bool,
    /// The test.
    pub test: Test,
}

impl Match {
    /// A test that must hold.
    pub fn is(test: Test) -> Match {
        Match { negated: false, test }
    }

    /// A test that must not hold.
    pub fn not(test: Test) -> Match {
        Match { negated: true, test }
    }
}

/// The time in which a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Per {
    /// How many seconds it has.
    pub fn seconds(self) -> u32 {
        match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3600,
            Per::Day => 86_400,
        }
    }
}

/// A token bucket: the rule means only packets for which there is a token (iptables' `limit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// So many packets,
    pub packets: u32,
    /// in so much time,
    pub per: Per,
    /// and so many at once.
    pub burst: u32,
}

/// What is written of a packet that a rule means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// What the line begins with.
    pub prefix: String,
    /// syslog's severity, 0 to 7.
    pub level: Option<u8>,
}

/// How a refusal is told to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectWith {
    /// A TCP reset. Only TCP packets can be refused so.
    TcpReset,
    /// No route to the network (ICMP 3/0, ICMPv6 1/0).
    NetUnreachable,
    /// The host can't be reached (3/1, 1/3).
    HostUnreachable,
    /// The protocol is not spoken there (3/2; IPv4 only).
    ProtocolUnreachable,
    /// Nobody listens (3/3, 1/4).
    PortUnreachable,
    /// The network is forbidden (3/9; IPv4 only).
    NetProhibited,
    /// The host is forbidden (3/10; IPv4 only).
    HostProhibited,
    /// Forbidden by who administers this (3/13, 1/1).
    AdminProhibited,
    /// The source address fails a policy (1/5; IPv6 only).
    PolicyFail,
    /// There is a route that rejects (1/6; IPv6 only).
    RejectRoute,
}

/// What is done with a packet that a rule means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped in silence.
    Drop,
    /// It is dropped, and the sender is told.
    Reject(RejectWith),
    /// A chain goes on; if it ends without an answer, the next rule here does.
    Jump(String),
    /// A chain goes on; if it ends without an answer, whoever came here last by a jump goes on.
    Goto(String),
    /// This chain ends without an answer. A hook's own chain ends with its policy.
    Return,
    /// Nothing: it is counted, and logged if the rule says so, and the next rule goes on.
    Continue,
}

/// A rule: what all of its matches mean, as often as its limit allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A name of its own, by which counters and answers speak of it. No two rules of a rule set have the same.
    pub name: Option<String>,
    /// For people.
    pub comment: Option<String>,
    /// Where it is written.
    pub origin: Origin,
    /// All must hold.
    pub matches: Vec<Match>,
    /// How often.
    pub limit: Option<Limit>,
    /// What is written of it.
    pub log: Option<Log>,
    /// What is done.
    pub action: Action,
}

/// What a hook does with packets that no rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// They pass.
    Allow,
    /// They are dropped in silence.
    Drop,
}

/// Rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name: a hook's own chain has the hook's ([`Hook::name`]).
    pub name: String,
    /// For which packets.
    pub families: Families,
    /// The hook whose own chain it is, and that hook's policy.
    pub hook: Option<(Hook, Policy)>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Where it is written.
    pub origin: Origin,
}

/// A rule set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Groups of interfaces by name.
    pub groups: BTreeMap<String, Group>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains, in the order in which they are written. Of one name there is at most one for each family. A hook that has none
    /// lets everything pass.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// The chain of a name for a family, by its index.
    pub fn chain(&self, name: &str, family: Family) -> Option<usize> {
        self.chains.iter().position(|chain| chain.name == name && chain.families.is_none_or(|of| of == family))
    }

    /// A hook's own chain for a family, by its index, with the hook's policy.
    pub fn base(&self, hook: Hook, family: Family) -> Option<(usize, Policy)> {
        self.chains.iter().enumerate().find_map(|(index, chain)| {
            let (of, policy) = chain.hook?;
            (of == hook && chain.families.is_none_or(|of| of == family)).then_some((index, policy))
        })
    }
}
