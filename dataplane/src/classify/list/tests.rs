//! A table is held equal to reading the rules one after the other, whatever was changed on the way.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::address::Address;
use crate::packet::{Protocol, TcpFlags};
use crate::rules::list::{AddressRange, FlagMatch, ListRule, Ports};
use crate::rules::{Action, RuleId};

/// Addresses that lie close together, at the ends of prefixes, in both families.
fn address(v6: bool) -> impl Strategy<Value = Address> {
    let byte = || prop::sample::select(vec![0u8, 1, 2, 127, 128, 254, 255]);
    let v4 = prop::array::uniform4(byte()).prop_map(Address::v4);
    let v6_address = (prop::array::uniform4(byte()), prop::bool::ANY).prop_map(|(low, high)| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1], bytes[4]) = (0xfd, u8::from(high), low[0]);
        bytes[12..].copy_from_slice(&low);
        Address::v6(bytes)
    });
    if v6 { v6_address.boxed() } else { v4.boxed() }
}

fn range(v6: bool) -> impl Strategy<Value = AddressRange> {
    let prefix = (address(v6), 0u32..=32).prop_map(move |(address, below)| {
        let below = if below > 26 { 32 } else { below } * if v6 { 4 } else { 1 };
        let low = 1u128.checked_shl(below).map_or(u128::MAX, |bit| bit - 1);
        let bits = address.to_bits();
        AddressRange::new(Address::from_bits(bits & !low), Address::from_bits(bits | low)).unwrap_or(AddressRange::ANY)
    });
    let any = (address(v6), address(v6))
        .prop_filter_map("ends of one family", |(one, other)| AddressRange::new(one.min(other), one.max(other)));
    prop_oneof![
        5 => prefix,
        2 => any,
        1 => Just(AddressRange::ANY),
        1 => Just(AddressRange::ANY_V4),
        1 => address(v6).prop_map(|address| AddressRange { first: address, last: address }),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = || prop::sample::select(vec![0u16, 1, 22, 80, 81, 443, 1023, 1024, 65535]);
    prop_oneof![
        3 => Just(Ports::ANY),
        3 => port().prop_map(|port| Ports { first: port, last: port }),
        2 => (port(), port()).prop_map(|(first, last)| Ports { first, last }),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(0), Protocol(255)])
}

fn flags() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![0u8, TcpFlags::SYN, TcpFlags::ACK, TcpFlags::SYN | TcpFlags::ACK, 0xff])
}

fn rule() -> impl Strategy<Value = ListRule> {
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass, Action::Ask(700)]);
    let ends = prop::bool::weighted(0.3).prop_flat_map(|v6| (range(v6), range(v6)));
    let kind = (prop::option::of(protocol()), flags(), flags());
    (ends, ports(), ports(), kind, action, any::<bool>(), 0u32..1000).prop_map(
        |((source, destination), source_ports, destination_ports, (protocol, value, mask), action, log, id)| ListRule {
            source,
            destination,
            source_ports,
            destination_ports,
            protocol,
            flags: FlagMatch { value, mask },
            action,
            log,
            id: RuleId(id),
        },
    )
}

/// A question from anywhere, or one that a rule is about.
#[derive(Clone, Debug)]
struct Question {
    anywhere: Query,
    about: Option<(Index, [bool; 4], [i128; 2])>,
    direction: Direction,
}

fn question() -> impl Strategy<Value = Question> {
    let port = || prop::sample::select(vec![0u16, 1, 22, 80, 81, 443, 1023, 1024, 65535]);
    let beside = prop::sample::select(vec![0i128, 0, 0, 1, -1]);
    let ends = prop::bool::weighted(0.3).prop_flat_map(|v6| (address(v6), address(v6)));
    let direction = prop::sample::select(Direction::BOTH.to_vec());
    let about = prop::option::of((any::<Index>(), any::<[bool; 4]>(), prop::array::uniform2(beside)));
    (ends, protocol(), port(), port(), flags(), about, direction).prop_map(
        |((peer, local), protocol, port, source_port, flags, about, direction)| {
            let anywhere = Query { peer, protocol, port, local, source_port, flags: TcpFlags(flags) };
            Question { anywhere, about, direction }
        },
    )
}

impl Question {
    /// At a corner of a rule or right beside it, if it is about one.
    fn ask(&self, rules: &[ListRule]) -> Query {
        let Some((index, corner, beside)) = &self.about else { return self.anywhere };
        let Some(rule) = rules.get(index.index(rules.len().max(1))) else { return self.anywhere };
        let end = |range: AddressRange, last: bool, beside: i128| {
            let end = if last { range.last() } else { range.first() };
            Address::from_bits(end.to_bits().wrapping_add_signed(beside))
        };
        let port = |ports: Ports, last: bool| if last { ports.last } else { ports.first };
        let (source, destination) =
            (end(rule.source, corner[0], beside[0]), end(rule.destination, corner[1], beside[1]));
        let (peer, local) = match self.direction {
            Direction::Egress => (destination, source),
            Direction::Ingress => (source, destination),
        };
        Query {
            peer,
            local,
            protocol: rule.protocol.unwrap_or(self.anywhere.protocol),
            port: port(rule.destination_ports, corner[2]),
            source_port: port(rule.source_ports, corner[3]),
            flags: TcpFlags(rule.flags.value),
        }
    }
}

/// A change at some position.
#[derive(Clone, Debug)]
enum Change {
    Insert(Index, ListRule),
    Remove(Index),
    Replace(Index, ListRule),
    Merge,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<Index>(), rule()).prop_map(|(at, rule)| Change::Insert(at, rule)),
        3 => any::<Index>().prop_map(Change::Remove),
        2 => (any::<Index>(), rule()).prop_map(|(at, rule)| Change::Replace(at, rule)),
        1 => Just(Change::Merge),
    ]
}

/// Makes a change to a list and to a vector.
fn apply(change: &Change, list: &RuleList, model: &mut Vec<ListRule>) -> RuleList {
    match change {
        Change::Insert(at, rule) => {
            let at = at.index(model.len() + 1);
            model.insert(at, *rule);
            list.insert(at, *rule).unwrap()
        }
        Change::Remove(at) if !model.is_empty() => {
            let at = at.index(model.len());
            model.remove(at);
            list.remove(at).unwrap()
        }
        Change::Replace(at, rule) if !model.is_empty() => {
            let at = at.index(model.len());
            model[at] = *rule;
            list.replace(at, *rule).unwrap()
        }
        Change::Remove(_) | Change::Replace(..) => list.clone(),
        Change::Merge => list.merged(),
    }
}

/// What the first rule that matches decides, without any of the code that is tested.
fn first_match(rules: &[ListRule], direction: Direction, query: &Query) -> Decision {
    let matching = rules.iter().find(|rule| rule.matches(direction, query));
    matching.map_or(Decision::CLOSED, |rule| rule.decision())
}

fn check(list: &RuleList, model: &[ListRule], questions: &[Question]) -> Result<(), TestCaseError> {
    prop_assert!(list.iter().eq(model.iter().copied()));
    let table = ListTable::new(&Arc::new(list.clone()));
    for direction in Direction::BOTH {
        let asked = questions.iter().filter(|question| question.direction == direction);
        let queries: Vec<Query> = asked.map(|question| question.ask(model)).collect();
        let mut decisions = vec![Decision::OPEN; queries.len()];
        table.judge_burst(direction, &queries, &mut decisions);
        for (query, decision) in queries.iter().zip(decisions) {
            let expected = first_match(model, direction, query);
            prop_assert_eq!(decision, expected, "{:?}", query);
            prop_assert_eq!(table.judge(direction, *query), expected, "alone: {:?}", query);
            prop_assert_eq!(list.judge(direction, *query), expected, "read: {:?}", query);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_table_answers_as_the_rules_do(
        rules in prop::collection::vec(rule(), 0..200),
        changes in prop::collection::vec(change(), 0..12),
        questions in prop::collection::vec(question(), 1..80),
    ) {
        let mut model = rules.clone();
        let mut list = RuleList::new(&rules, Action::Deny).unwrap();
        check(&list, &model, &questions)?;
        for change in &changes {
            list = apply(change, &list, &mut model);
            check(&list, &model, &questions)?;
        }
    }
}

/// A rule between two hosts.
fn host_rule(number: u32) -> ListRule {
    let host = |bits: u32| AddressRange::from(ipnet::IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(bits))));
    let action = if number.is_multiple_of(2) { Action::Allow } else { Action::Deny };
    ListRule {
        source: host(0x0a00_0000 + number * 7),
        destination: host(0xc0a8_0000 + number % 4096),
        destination_ports: Ports { first: (number % 50) as u16, last: (number % 50) as u16 + 3 },
        protocol: Some(Protocol::TCP),
        ..ListRule::of_everything(action, RuleId(number))
    }
}

#[test]
fn rules_that_nothing_tells_apart_end_in_one_leaf() {
    let same = |id| ListRule { action: Action::Allow, id: RuleId(id), ..host_rule(1) };
    let rules: Vec<ListRule> = (0..100).map(same).collect();
    let mut list = RuleList::new(&rules, Action::Deny).unwrap();
    let rule = rules[0];
    let query = Query {
        peer: rule.destination.first(),
        local: rule.source.first(),
        ..Query::new(Address::default(), Protocol::TCP, rule.destination_ports.first)
    };
    // Each rule but the last is removed: the one behind it decides.
    for id in 0..100 {
        assert_eq!(ListTable::new(&Arc::new(list.clone())).judge(Direction::Egress, query).rule, Some(RuleId(id)));
        list = list.remove(0).unwrap();
    }
    assert_eq!(ListTable::new(&Arc::new(list)).judge(Direction::Egress, query), Decision::CLOSED);
}

#[test]
fn a_large_list_stays_small_and_a_change_compiles_nothing() {
    let rules: Vec<ListRule> = (0..20_000).map(host_rule).collect();
    let list = RuleList::new(&rules, Action::Deny).unwrap();
    let lookup = Arc::clone(list.prepare());
    assert!(list.memory() < 20_000 * 120, "{} bytes", list.memory());
    let changed =
        list.remove(7_000).unwrap().insert(3, host_rule(50_000)).unwrap().replace(19_000, host_rule(9)).unwrap();
    assert!(Arc::ptr_eq(changed.prepare(), &lookup));
    assert!(changed.memory() < list.memory() + 8_192);
}

#[test]
fn wildcards_on_both_sides_do_not_explode() {
    let wide = |number: u32| ListRule {
        source: AddressRange::ANY_V4,
        destination: AddressRange::ANY_V4,
        source_ports: Ports { first: (number * 13 % 50_000) as u16, last: (number * 13 % 50_000) as u16 + 5_000 },
        destination_ports: Ports { first: (number * 29 % 50_000) as u16, last: (number * 29 % 50_000) as u16 + 9_000 },
        ..host_rule(number)
    };
    let rules: Vec<ListRule> = (0..3_000).map(wide).collect();
    let list = RuleList::new(&rules, Action::Deny).unwrap();
    let table = ListTable::new(&Arc::new(list));
    assert!(table.memory() < 16 << 20, "{} bytes", table.memory());
    for port in (0..60_000).step_by(997) {
        let query = Query { source_port: port, ..Query::new(Address::v4([1; 4]), Protocol::TCP, port / 2) };
        let query = Query { local: Address::v4([2; 4]), ..query };
        assert_eq!(table.judge(Direction::Egress, query), first_match(&rules, Direction::Egress, &query), "{port}");
    }
}
