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
        let plain = other.into_iter().find(|rule| !matches!(rule.action, crate::model::Action::Jump(_) | crate::model::Action::Goto(_)));
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
        rule(vec![Test::Set { name: "blocked".to_owned(), ends: vec![crate::model::End::Source] }], crate::model::Action::Drop),
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
