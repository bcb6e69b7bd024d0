//! Rule lists of gateways: ordered rules over both ends of a packet, the first that matches decides.
//!
//! A [`ListRule`] means two ranges of addresses, two of ports, a protocol and TCP flags: what iptables' chains come to. A
//! [`RuleList`] is a sequence of them that is cheap to change: it is an immutable *base* with a small *delta* (rules
//! removed from the base, and rules added between those of the base), and a changed list shares the base with the one
//! that it was made from. So does what is compiled from it ([`crate::classify::list`]).
//!
//! A rule's place is its position, as in a vector: [`RuleList::insert`] and [`RuleList::remove`] move what follows. Inside, a
//! rule that was added knows in front of which rule of the base it stands. Since the base never changes, no number of it
//! ever has to, and a change in the middle touches nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;

use super::{Action, AddressSet, Decision, Query, RejectWith, RuleId};
use crate::address::Address;
use crate::classify::list::{Lane, Lookup};
use crate::packet::{Direction, Protocol, TcpFlags};

mod delta;
mod edit;
#[cfg(test)]
mod tests;

pub(crate) use delta::Delta;
pub use edit::Edit;

/// Neighbouring addresses, the last one included: a prefix, or any other range. IPv4 lives in its mapped form
/// ([`Address`]), so a range that holds `::ffff:0:0/96` holds all of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    pub(crate) first: Address,
    pub(crate) last: Address,
}

impl AddressRange {
    /// All addresses of both families.
    pub const ANY: AddressRange = AddressRange { first: Address([0; 16]), last: Address([0xff; 16]) };
    /// All addresses of IPv4.
    pub const ANY_V4: AddressRange = AddressRange { first: Address::v4([0; 4]), last: Address::v4([255; 4]) };

    /// From the first to the last address, which are one family's; `None` if they are not, or stand the other way round.
    pub fn new(first: Address, last: Address) -> Option<Self> {
        (first <= last && first.is_v4() == last.is_v4()).then_some(AddressRange { first, last })
    }

    /// The first address.
    pub fn first(self) -> Address {
        self.first
    }

    /// The last address.
    pub fn last(self) -> Address {
        self.last
    }

    /// Whether the address is in it.
    pub fn contains(self, address: Address) -> bool {
        self.first <= address && address <= self.last
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        let (first, last) = AddressSet::range_of(&net);
        AddressRange { first: Address::from_bits(first), last: Address::from_bits(last) }
    }
}

/// Neighbouring ports, the last one included. Nothing is in it if the first is above the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Ports {
    /// All.
    pub const ANY: Ports = Ports { first: 0, last: u16::MAX };

    /// Whether the port is in it.
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// Which TCP flags a rule looks at, and what it wants them to be. A packet that is not TCP has none set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlagMatch {
    /// The flags that must be set, of those in `mask`; the others in `mask` must not be.
    pub value: u8,
    /// The flags looked at; 0 for none.
    pub mask: u8,
}

impl FlagMatch {
    /// Whether these are as wanted.
    pub fn accepts(self, flags: TcpFlags) -> bool {
        (flags.0 ^ self.value) & self.mask == 0
    }
}

/// A rule of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListRule {
    /// Who sends.
    pub source: AddressRange,
    /// Who receives.
    pub destination: AddressRange,
    /// From which ports; protocols without ports have 0.
    pub source_ports: Ports,
    /// To which ports; for ICMP type × 256 + code.
    pub destination_ports: Ports,
    /// Which protocol; `None` for all.
    pub protocol: Option<Protocol>,
    /// Which TCP flags.
    pub flags: FlagMatch,
    /// What it does. [`Action::Pass`] leaves the list: there is nothing after it, so the packet is allowed.
    pub action: Action,
    /// Whether a packet that it decides is told to control.
    pub log: bool,
    /// Its number.
    pub id: RuleId,
}

impl ListRule {
    /// A rule that means every packet, to be narrowed by whoever writes one.
    pub fn of_everything(action: Action, id: RuleId) -> Self {
        ListRule {
            source: AddressRange::ANY,
            destination: AddressRange::ANY,
            source_ports: Ports::ANY,
            destination_ports: Ports::ANY,
            protocol: None,
            flags: FlagMatch::default(),
            action,
            log: false,
            id,
        }
    }

    /// Whether the rule means this packet: the definition that everything faster is held equal to.
    pub fn matches(&self, direction: Direction, query: &Query) -> bool {
        self.source.contains(query.source(direction))
            && self.destination.contains(query.destination(direction))
            && self.source_ports.contains(query.source_port)
            && self.destination_ports.contains(query.port)
            && self.protocol.is_none_or(|protocol| protocol == query.protocol)
            && self.flags.accepts(query.flags)
    }

    /// Whether it means anything but IPv4, or nothing at all: a [`Lane`] does not say all of it.
    fn is_wide(&self) -> bool {
        let of_v4 = |range: AddressRange| range.first.is_v4() && range.last.is_v4();
        !of_v4(self.source) || !of_v4(self.destination) || Lane::v4(self).is_none()
    }

    /// What it decides.
    pub fn decision(&self) -> Decision {
        match self.action {
            Action::Pass => Decision { action: Action::Allow, rule: None, log: self.log },
            action => Decision { action, rule: Some(self.id), log: self.log },
        }
    }
}

/// A position that the list does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no position {position} in a list of {length} rules")]
pub struct NoSuchPosition {
    /// What was asked for.
    pub position: usize,
    /// How many rules there are.
    pub length: usize,
}

/// A list has more rules than can be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list has {length} rules, and {} are the most: split it", RuleList::MAX_RULES)]
pub struct TooManyRules {
    /// How many rules there are.
    pub length: usize,
}

/// Where a rule of a list is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the base, by its rank.
    Base(u32),
    /// Among the rules added, by its index.
    Added(usize),
}

/// The rules that a list began with. It never changes, and lists that were made from one another share it.
#[derive(Debug)]
pub(crate) struct Base {
    rules: Rules,
    /// Made when the list is compiled for the first time.
    lookup: OnceLock<Arc<Lookup>>,
}

/// Rules in less than half of the room that [`ListRule`] takes: a hundred thousand of them should not crowd the cache out.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// What each rule means of IPv4.
    lanes: Box<[Lane]>,
    /// What each rule decides.
    verdicts: Box<[Verdict]>,
    /// The rules that mean anything but IPv4, with their ranks, sorted by them.
    wide: Box<[(u32, ListRule)]>,
}

/// A rule's action, log flag and number in eight bytes.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    id: RuleId,
    kind: u8,
    log: bool,
    /// What an [`Action::Ask`] asks, or what a rejection is told by.
    question: u16,
}

impl Verdict {
    fn new(rule: &ListRule) -> Self {
        let (kind, question) = match rule.action {
            Action::Allow => (0, 0),
            Action::Deny => (1, 0),
            Action::Pass => (2, 0),
            Action::Ask(question) => (3, question),
            Action::Course => (4, 0),
            Action::Reject(RejectWith::TcpReset) => (5, 0),
            Action::Reject(RejectWith::Icmp { kind, code }) => (6, u16::from_be_bytes([kind, code])),
        };
        Verdict { id: rule.id, kind, log: rule.log, question }
    }

    #[inline]
    fn action(self) -> Action {
        match self.kind {
            0 => Action::Allow,
            1 => Action::Deny,
            2 => Action::Pass,
            3 => Action::Ask(self.question),
            4 => Action::Course,
            5 => Action::Reject(RejectWith::TcpReset),
            _ => {
                let [kind, code] = self.question.to_be_bytes();
                Action::Reject(RejectWith::Icmp { kind, code })
            }
        }
    }
}

impl Rules {
    fn new(rules: &[ListRule]) -> Self {
        Rules {
            lanes: rules.iter().map(|rule| Lane::v4(rule).unwrap_or_default()).collect(),
            verdicts: rules.iter().map(Verdict::new).collect(),
            wide: (0..).zip(rules).filter(|(_, rule)| rule.is_wide()).map(|(rank, rule)| (rank, *rule)).collect(),
        }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// What each means of IPv4, by rank; a rule among [`Rules::wide`] may mean none.
    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The rules that mean anything but IPv4, with their ranks.
    pub(crate) fn wide(&self) -> &[(u32, ListRule)] {
        &self.wide
    }

    /// The rule of a rank.
    fn rule(&self, rank: u32) -> ListRule {
        if let Ok(place) = self.wide.binary_search_by_key(&rank, |&(rank, _)| rank) {
            return self.wide[place].1;
        }
        let verdict = self.verdicts[rank as usize];
        self.lanes[rank as usize].rule(verdict.action(), verdict.log, verdict.id)
    }

    /// What the rule of a rank decides.
    #[inline]
    fn decision(&self, rank: u32) -> Option<Decision> {
        let verdict = *self.verdicts.get(rank as usize)?;
        let action = verdict.action();
        Some(match action {
            Action::Pass => Decision { action: Action::Allow, rule: None, log: verdict.log },
            action => Decision { action, rule: Some(verdict.id), log: verdict.log },
        })
    }

    fn memory(&self) -> usize {
        size_of_val(&*self.lanes) + size_of_val(&*self.verdicts) + size_of_val(&*self.wide)
    }
}

/// Ordered rules, and what happens when none matches. Immutable: a change makes another list, which shares the base.
#[derive(Clone, Debug)]
pub struct RuleList {
    base: Arc<Base>,
    delta: Delta,
    default: Action,
    /// Lists with equal numbers say the same; those with others may.
    content: Content,
}

/// Names what a list says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content(u64);

impl Content {
    /// A number that no list has had.
    fn fresh() -> Content {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Content(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl RuleList {
    /// The most rules that a list can have.
    pub const MAX_RULES: usize = 1 << 22;

    /// When more rules are added than this, or more removed, [`RuleList::wants_merge`]: a lookup reads the added ones one
    /// after the other, eight at a time.
    pub const MAX_DELTA: usize = 128;

    /// A list of these rules, in this order.
    ///
    /// # Errors
    /// More rules than [`RuleList::MAX_RULES`].
    pub fn new(rules: &[ListRule], default: Action) -> Result<Self, TooManyRules> {
        if rules.len() > Self::MAX_RULES {
            return Err(TooManyRules { length: rules.len() });
        }
        let base = Arc::new(Base { rules: Rules::new(rules), lookup: OnceLock::new() });
        Ok(RuleList { base, delta: Delta::default(), default, content: Content::fresh() })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.base.rules.len() - self.delta.removed_count() + self.delta.added().len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happens when no rule matches.
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// The rule at a position.
    pub fn get(&self, position: usize) -> Option<ListRule> {
        Some(match self.place(position).ok()? {
            Place::Base(rank) => self.base.rules.rule(rank),
            Place::Added(index) => self.delta.added()[index].rule,
        })
    }

    /// The rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = ListRule> + '_ {
        let mut added = self.delta.added().iter().peekable();
        let mut rank = 0;
        std::iter::from_fn(move || {
            loop {
                if let Some(next) = added.next_if(|next| next.before <= rank) {
                    return Some(next.rule);
                }
                if rank as usize >= self.base.rules.len() {
                    return added.next().map(|next| next.rule);
                }
                rank += 1;
                if !self.delta.is_removed(rank - 1) {
                    return Some(self.base.rules.rule(rank - 1));
                }
            }
        })
    }

    /// Whether so much has changed since the base was made that lookups would gain from [`RuleList::merged`].
    pub fn wants_merge(&self) -> bool {
        self.delta.added().len() > Self::MAX_DELTA || self.delta.removed_count() > Self::MAX_DELTA.max(self.len() / 4)
    }

    /// The same list with a base of its own and no delta. It costs what compiling the list from scratch costs
    /// ([`RuleList::prepare`]): do it apart from changes that somebody waits for.
    pub fn merged(&self) -> RuleList {
        let rules: Vec<ListRule> = self.iter().collect();
        let base = Arc::new(Base { rules: Rules::new(&rules), lookup: OnceLock::new() });
        RuleList { base, delta: Delta::default(), default: self.default, content: self.content }
    }

    /// Compiles the base, unless that has been done for this list or one that it shares its base with.
    pub fn prepare(&self) -> &Arc<Lookup> {
        self.base.lookup.get_or_init(|| Arc::new(Lookup::new(&self.base.rules)))
    }

    /// Bytes on the heap: the rules, what is compiled from them, and the delta.
    pub fn memory(&self) -> usize {
        self.base.rules.memory() + self.base.lookup.get().map_or(0, |lookup| lookup.memory()) + self.delta.memory()
    }

    /// Judges by reading the rules one after the other: the definition that [`crate::classify::list`] is held equal to.
    pub fn judge(&self, direction: Direction, query: Query) -> Decision {
        let matching = self.iter().find(|rule| rule.matches(direction, &query));
        matching.map_or(self.default_decision(), |rule| rule.decision())
    }

    /// What is decided when no rule matches.
    #[inline]
    pub(crate) fn default_decision(&self) -> Decision {
        let action = if self.default == Action::Pass { Action::Allow } else { self.default };
        Decision { action, rule: None, log: false }
    }

    /// What is decided when this rule of the base is the first that matches; the default for a rank that there is not.
    #[inline]
    pub(crate) fn decision(&self, rank: u32) -> Decision {
        self.base.rules.decision(rank).unwrap_or(self.default_decision())
    }

    /// What has changed since the base was made.
    pub(crate) fn delta(&self) -> &Delta {
        &self.delta
    }

    fn place(&self, position: usize) -> Result<Place, NoSuchPosition> {
        let length = self.len();
        if position >= length {
            return Err(NoSuchPosition { position, length });
        }
        // The position of the rule added as the n-th is the number of rules in front of it.
        let added = self.delta.added();
        let at = |index: usize| self.delta.kept_before(added[index].before) + index;
        let (mut low, mut high) = (0, added.len());
        while low < high {
            let middle = (low + high) / 2;
            if at(middle) < position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low < added.len() && at(low) == position {
            return Ok(Place::Added(low));
        }
        Ok(Place::Base(self.delta.kept(position - low)))
    }
}

impl RuleList {
    /// Whether the other list says the same, as far as that is quickly told: a merged list says what the one before did; of two lists
    /// with one base it is what has changed since that counts, and of lists with different ones every rule.
    pub(crate) fn says(&self, other: &RuleList) -> bool {
        if self.content == other.content {
            true
        } else if Arc::ptr_eq(&self.base, &other.base) {
            self.default == other.default && self.delta == other.delta
        } else {
            self == other
        }
    }
}

impl PartialEq for RuleList {
    /// The same rules in the same order, and the same default, however they are kept.
    fn eq(&self, other: &Self) -> bool {
        if self.default != other.default || self.len() != other.len() {
            return false;
        }
        Arc::ptr_eq(&self.base, &other.base) && self.delta == other.delta || self.iter().eq(other.iter())
    }
}

impl Eq for RuleList {}
