use dataplane::classify::stateful::StatefulTable;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::rules::{Decision, Query, RejectWith as EngineReject};

use super::*;
use crate::judge::{Header, Verdict};
use crate::model::{Chain, Hook, Match, Part, Policy, Rule, Test};
use crate::testing::{self, INTERFACES, Random, World, origin};

const STATES: [(ConnectionState, States); 4] = [
    (ConnectionState::New, States::NEW),
    (ConnectionState::Established, States::ESTABLISHED),
    (ConnectionState::Related, States::RELATED),
    (ConnectionState::Invalid, States::INVALID),
];

fn query(direction: Direction, packet: &Header<'_>) -> Query {
    let (local, peer) = match direction {
        Direction::Egress => (packet.source, packet.destination),
        Direction::Ingress => (packet.destination, packet.source),
    };
    Query {
        peer,
        local,
        protocol: Protocol(packet.protocol),
        port: packet.destination_port,
        source_port: packet.source_port,
        flags: TcpFlags(packet.tcp_flags),
    }
}

fn same(verdict: Verdict, action: Action) -> bool {
    match verdict {
        Verdict::Allow => action == Action::Allow,
        Verdict::Drop => action == Action::Deny,
        Verdict::Reject(crate::model::RejectWith::TcpReset) => action == Action::Reject(EngineReject::TcpReset),
        Verdict::Reject(_) => matches!(action, Action::Reject(EngineReject::Icmp { .. })),
    }
}

fn transparent(inside: &str, outside: &str) -> BTreeMap<String, Placement> {
    let placement = Placement::Transparent { inside: inside.to_owned(), outside: outside.to_owned() };
    BTreeMap::from([("wire".to_owned(), placement)])
}

/// Holds what the engine is told equal to the rules, with a token for every limit.
fn held_equal(ruleset: &Ruleset, lowered: &Lowered, random: &mut Random, places: (&str, &str), context: &str) {
    for direction in Direction::BOTH {
        let rules = &lowered.wires["wire"][direction as usize];
        let table = StatefulTable::new(rules);
        let (input, output) = if direction == Direction::Egress { places } else { (places.1, places.0) };
        for _ in 0..25 {
            let near = testing::packet(random, Hook::Forward);
            let (engine, state) = random.pick(&STATES);
            let packet = Header { input: Some(input), output: Some(output), state, ..near };
            let expected = ruleset.judge(Hook::Forward, &packet, &mut |_, _| true);
            let question = query(direction, &packet);
            let told: [Decision; 2] =
                [rules.judge(direction, engine, question), rules.granted(table.judge(direction, engine, question))];
            assert_eq!(told[0], told[1], "{context}");
            assert!(same(expected.verdict, told[0].action), "{context}: {packet:?}: {expected:?} {told:?}");
            let by = told[0].rule.and_then(|number| lowered.whose(number));
            let chain = ruleset.base(Hook::Forward, Family::of(packet.destination)).map(|(chain, _)| chain);
            assert_eq!(by, Some(expected.rule.map_or(Whose::Policy(chain), Whose::Rule)), "{context}: {packet:?}");
        }
    }
}

#[test]
fn the_engine_is_told_what_the_rules_say() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    for size in 0..150 {
        let world = World { chains: size % 4, rules: 2 + size % 6, views: true, limits: size % 3 == 0 };
        let ruleset = testing::ruleset(&mut random, world);
        let places = (random.pick(&INTERFACES), random.pick(&INTERFACES));
        let context = format!("PENSTOCK_SEED={seed}, set {size}");
        let lowered = lower(&ruleset, &transparent(places.0, places.1), 1, None).expect("small rule sets are flat");
        held_equal(&ruleset, &lowered, &mut random, places, &context);
        // A rule more, a rule less, another one: as if it were told anew, and the others keep their numbers.
        let mut changed = ruleset.clone();
        let chain = random.below(changed.chains.len());
        let other = testing::ruleset(&mut random, world).chains.remove(0).rules;
        let rules = &mut changed.chains[chain].rules;
        let at = random.below(rules.len().max(1));
        let plain = other
            .into_iter()
            .find(|rule| !matches!(rule.action, crate::model::Action::Jump(_) | crate::model::Action::Goto(_)));
        match (random.below(3), plain) {
            (0, _) if !rules.is_empty() => drop(rules.remove(at)),
            (_, Some(rule)) => rules.insert(at.min(rules.len()), rule),
            _ => {}
        }
        if let Ok(after) = lower(&changed, &transparent(places.0, places.1), 1, Some((&ruleset, &lowered))) {
            held_equal(&changed, &after, &mut random, places, &context);
        }
    }
}

fn rule(tests: Vec<Test>, action: crate::model::Action) -> Rule {
    Rule {
        name: None,
        comment: None,
        origin: origin(1),
        matches: tests.into_iter().map(Match::is).collect(),
        limit: None,
        log: None,
        action,
    }
}

fn forward(rules: Vec<Rule>) -> Ruleset {
    let hook = Some((Hook::Forward, Policy::Drop));
    let chain = Chain { name: "forward".to_owned(), families: None, hook, rules, origin: origin(1) };
    Ruleset { chains: vec![chain], ..Ruleset::default() }
}

fn addresses(count: u32) -> Vec<std::ops::RangeInclusive<dataplane::address::Address>> {
    // Every other one, so that none are neighbours.
    let address = |number: u32| dataplane::address::Address::v4((0x0a00_0000 + number * 2).to_be_bytes());
    (0..count).map(|number| address(number)..=address(number)).collect()
}

#[test]
fn an_element_more_is_a_change_of_one_box() {
    let mut ruleset = forward(vec![
        rule(vec![Test::State(States::ESTABLISHED)], crate::model::Action::Allow),
        rule(
            vec![Test::Set { name: "blocked".to_owned(), ends: vec![crate::model::End::Source] }],
            crate::model::Action::Drop,
        ),
        rule(vec![Test::Protocol(vec![6]), Test::DestinationPort(vec![80..=80])], crate::model::Action::Allow),
    ]);
    let element = |range: std::ops::RangeInclusive<dataplane::address::Address>| vec![Part::Addresses(range)];
    let set = crate::model::Set {
        dimensions: vec![crate::model::Dimension::Address],
        elements: addresses(5000).into_iter().map(element).collect(),
        exceptions: Vec::new(),
        file: None,
        origin: origin(1),
    };
    ruleset.sets.insert("blocked".to_owned(), set);
    let placements = transparent("eth0", "eth1");
    let before = lower(&ruleset, &placements, 1, None).unwrap();
    let list = |lowered: &Lowered, state| Arc::clone(lowered.wires["wire"][0].list(state));
    let new = list(&before, ConnectionState::New);
    assert!(new.len() > 5000);
    assert!(Arc::ptr_eq(&list(&before, ConnectionState::Related), &list(&before, ConnectionState::Invalid)), "shared");
    assert!(before.wires["wire"][0].passes() && before.wires["wire"][1].passes());
    let mut after = ruleset.clone();
    let blocked = dataplane::address::Address::v4([192, 0, 2, 1]);
    after.sets.get_mut("blocked").unwrap().elements.insert(0, element(blocked..=blocked));
    let changed = lower(&after, &placements, 1, Some((&ruleset, &before))).unwrap();
    let added = list(&changed, ConnectionState::New);
    assert_eq!((added.len(), added.beside_base()), (new.len() + 1, 1), "the base is shared");
    assert!(Arc::ptr_eq(&list(&before, ConnectionState::Established), &list(&changed, ConnectionState::Established)));
    // And a rule in front of all: the others keep their numbers.
    after.chains[0].rules.insert(0, rule(vec![Test::Protocol(vec![47])], crate::model::Action::Drop));
    let more = lower(&after, &placements, 1, Some((&ruleset, &before))).unwrap();
    let at = |rule| RuleAt { chain: 0, rule };
    assert_eq!(more.numbers.rule(at(2)), before.numbers.rule(at(1)));
    assert!(list(&more, ConnectionState::New).beside_base() <= 4);
}

/// Rules about two sets, one of each end, with others around them.
fn with_sets(random: &mut Random) -> Ruleset {
    use crate::model::{Action, Dimension, End};
    let named = |name: &str, end| Test::Set { name: name.to_owned(), ends: vec![end] };
    let mut ruleset = forward(vec![
        rule(vec![Test::State(States::ESTABLISHED)], Action::Allow),
        rule(vec![Test::Protocol(vec![47])], Action::Allow),
        rule(vec![named("from", End::Source), Test::Protocol(vec![6, 17])], Action::Drop),
        rule(vec![Test::Protocol(vec![6]), Test::DestinationPort(vec![80..=80])], Action::Allow),
        rule(vec![named("to", End::Destination), Test::State(States::NEW)], Action::Allow),
    ]);
    for name in ["from", "to"] {
        let elements = (0..200).map(|_| vec![Part::Addresses(some_range(random))]).collect();
        let dimensions = vec![Dimension::Address];
        let set = crate::model::Set { dimensions, elements, exceptions: Vec::new(), file: None, origin: origin(1) };
        ruleset.sets.insert(name.to_owned(), set);
    }
    ruleset
}

/// Addresses out of few, so that ranges meet.
fn some_range(random: &mut Random) -> std::ops::RangeInclusive<dataplane::address::Address> {
    use dataplane::address::Address;
    let (first, more) = (random.below(4000) as u16, if random.one_in(4) { random.below(20) as u16 } else { 0 });
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        if first % 3 == 0 {
            Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low])
        } else {
            Address::v4([10, 0, high, low])
        }
    };
    address(first)..=address(first + more)
}

#[test]
fn elements_come_and_go_as_if_all_were_worked_out_anew() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    for round in 0..20 {
        let mut ruleset = with_sets(&mut random);
        let placements = transparent("eth0", "eth1");
        let mut lowered = lower(&ruleset, &placements, 1, None).unwrap();
        assert_eq!(lowered.loose.len(), 4, "{:?}", lowered.loose);
        for step in 0..30 {
            let name = random.pick(&["from", "to"]);
            let set = ruleset.sets.get_mut(name).unwrap();
            let (mut add, mut remove) = (Vec::new(), Vec::new());
            if random.one_in(2) {
                let at = random.below(set.elements.len());
                let element = set.elements.swap_remove(at);
                let Part::Addresses(range) = element[0].clone() else { panic!("an address") };
                remove.push(range);
            } else {
                let range = some_range(&mut random);
                set.elements.push(vec![Part::Addresses(range.clone())]);
                add.push(range);
            }
            let context = format!("PENSTOCK_SEED={seed}, round {round}, step {step}: {name} {add:?} {remove:?}");
            lowered =
                lowered.with_elements(&ruleset, name, &change(&add, &remove)).unwrap_or_else(|| panic!("{context}"));
            let range = add.iter().chain(&remove).next().unwrap();
            for direction in Direction::BOTH {
                let table = StatefulTable::new(&lowered.wires["wire"][direction as usize]);
                for _ in 0..20 {
                    let near = some_range(&mut random);
                    let of_family = Family::of(*near.start()) == Family::of(*range.start());
                    let near = if of_family && random.one_in(2) { *near.start() } else { *range.end() };
                    let other = *range.start();
                    let (source, destination) = if random.one_in(2) { (near, other) } else { (other, near) };
                    let (engine, state) = random.pick(&STATES);
                    let places = if direction == Direction::Egress { ("eth0", "eth1") } else { ("eth1", "eth0") };
                    let packet = Header {
                        input: Some(places.0),
                        output: Some(places.1),
                        source,
                        destination,
                        protocol: random.pick(&[6, 17, 47]),
                        source_port: 0,
                        destination_port: 0,
                        tcp_flags: 0,
                        state,
                    };
                    let packet = if packet.protocol == 47 {
                        packet
                    } else {
                        Header { source_port: 9, destination_port: random.pick(&[80, 81]), ..packet }
                    };
                    let expected = ruleset.judge(Hook::Forward, &packet, &mut |_, _| true);
                    let told = table.judge(direction, engine, query(direction, &packet));
                    assert!(same(expected.verdict, told.action), "{context}: {packet:?}: {expected:?} {told:?}");
                }
            }
        }
    }
}

#[test]
fn sets_that_are_named_otherwise_are_worked_out_anew() {
    use crate::model::{Action, End};
    let mut random = Random::new(1);
    let plain = with_sets(&mut random);
    let placements = transparent("eth0", "eth1");
    let named = |negated| Match { negated, test: Test::Set { name: "from".to_owned(), ends: vec![End::Source] } };
    let negated = Rule { matches: vec![named(true)], ..rule(vec![], Action::Drop) };
    let logged =
        Rule { matches: vec![named(false)], log: Some(crate::model::Log::default()), ..rule(vec![], Action::Drop) };
    let narrowed =
        Rule { matches: vec![named(false), Match::is(Test::Source(addresses(3)))], ..rule(vec![], Action::Drop) };
    for other in [negated, logged, narrowed] {
        let mut ruleset = plain.clone();
        ruleset.chains[0].rules.push(other);
        let lowered = lower(&ruleset, &placements, 1, None).unwrap();
        let more = addresses(1);
        assert!(lowered.with_elements(&ruleset, "from", &change(&more, &[])).is_none());
        assert!(lowered.with_elements(&ruleset, "to", &change(&more, &[])).is_some());
    }
}

fn change(
    add: &[std::ops::RangeInclusive<dataplane::address::Address>],
    remove: &[std::ops::RangeInclusive<dataplane::address::Address>],
) -> crate::rulefile::Change {
    let elements = |ranges: &[std::ops::RangeInclusive<_>]| {
        ranges.iter().map(|range| vec![Part::Addresses(range.clone())]).collect()
    };
    crate::rulefile::Change { came: elements(add), gone: elements(remove) }
}
