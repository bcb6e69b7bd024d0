use std::hash::{DefaultHasher, Hash, Hasher};

use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::rules::{Action as EngineAction, Query, RuleId};

use super::*;
use crate::model::{Action, Chain, Limit, Match, Per, Policy, Test};
use crate::testing::{self, Random, World};

/// Whether a rule has a token: always the same answer for one packet of the test.
fn token(round: u64, rule: RuleAt) -> bool {
    let mut hasher = DefaultHasher::new();
    (round, rule).hash(&mut hasher);
    hasher.finish() & 1 == 1
}

fn view<'a>(hook: Hook, packet: &Header<'a>) -> View<'a> {
    let (input, output, state) = (packet.input, packet.output, packet.state);
    View { family: Family::of(packet.destination), hook, input, output, state, within: None }
}

fn matches(flat: &FlatBox, packet: &Header<'_>) -> bool {
    let query = Query {
        peer: packet.source,
        local: packet.destination,
        protocol: Protocol(packet.protocol),
        port: packet.destination_port,
        source_port: packet.source_port,
        flags: TcpFlags(packet.tcp_flags),
    };
    flat.rule(EngineAction::Allow, RuleId(0)).matches(Direction::Ingress, &query)
}

fn logging(ruleset: &Ruleset, met: impl IntoIterator<Item = RuleAt>) -> Vec<RuleAt> {
    met.into_iter().filter(|at| ruleset.chains[at.chain].rules[at.rule].log.is_some()).collect()
}

fn held_equal(ruleset: &Ruleset, random: &mut Random, rounds: u64, seed: u64) {
    for round in 0..rounds {
        let hook = random.pick(&Hook::ALL);
        let packet = testing::packet(random, hook);
        let list = flatten(ruleset, &view(hook, &packet)).expect("small rule sets are flat");
        for round in 0..40 {
            let near = testing::packet(random, hook);
            let packet = Header { input: packet.input, output: packet.output, state: packet.state, ..near };
            if Family::of(packet.destination) != list.rules[0].cube.family() {
                continue;
            }
            let expected = ruleset.judge(hook, &packet, &mut |at, _| token(round, at));
            let outcome = list.judge(&packet).expect("the last rule means everything");
            let told = list.resolve(outcome, &mut |at, _| token(round, at)).expect("the outcome is the list's");
            let context = format!("PENSTOCK_SEED={seed}: {packet:?} at {hook:?} by {ruleset:#?}\n{list:#?}");
            assert_eq!((told.verdict, told.rule), (expected.verdict, expected.rule), "{context}");
            let met = logging(ruleset, told.met.iter().copied().chain(told.rule));
            assert_eq!(met, logging(ruleset, expected.met.iter().copied()), "{context}");
            let counted = |at: &&RuleAt| matches!(ruleset.chains[at.chain].rules[at.rule].action, Action::Continue);
            assert!(expected.met.iter().filter(counted).eq(told.met.iter().filter(counted)), "{context}");
            assert!(told.path.iter().all(|at| expected.met.contains(at)), "{context}");
            let first = list.boxes().find(|flat| matches(flat, &packet)).expect("boxes mean everything");
            assert_eq!(first.outcome, outcome, "{context}");
        }
        if round == 0 {
            assert_eq!(list.box_count(), list.boxes().count() as u64);
        }
    }
}

#[test]
fn lists_and_boxes_decide_as_the_rules_do() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    for size in 0..300 {
        let world = World { chains: size % 5, rules: 2 + size % 6, views: size % 2 == 0, limits: size % 3 == 0 };
        let ruleset = testing::ruleset(&mut random, world);
        held_equal(&ruleset, &mut random, 6, seed);
    }
}

#[test]
fn a_condition_narrows_the_list() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    for _ in 0..50 {
        let world = World { chains: 3, rules: 6, views: false, limits: true };
        let ruleset = testing::ruleset(&mut random, world);
        let packet = testing::packet(&mut random, Hook::Forward);
        let whole = flatten(&ruleset, &view(Hook::Forward, &packet)).expect("small rule sets are flat");
        let cube = whole.rules[random.below(whole.rules.len())].cube.clone();
        let list = flatten(&ruleset, &View { within: Some(cube.clone()), ..view(Hook::Forward, &packet) });
        let list = list.expect("small rule sets are flat");
        for _ in 0..200 {
            let packet = testing::packet(&mut random, Hook::Forward);
            let found = |list: &FlatList| list.judge(&packet).map(|outcome| list.resolve(outcome, &mut |_, _| true));
            let expected = cube.contains(&packet).then(|| found(&whole)).flatten();
            assert_eq!(found(&list), expected, "PENSTOCK_SEED={seed}");
        }
    }
}

fn chain(name: &str, hook: Option<Policy>, rules: Vec<crate::model::Rule>) -> Chain {
    let hook = hook.map(|policy| (Hook::Forward, policy));
    Chain { name: name.into(), families: None, hook, rules, origin: testing::origin(1) }
}

fn rule(line: u32, matches: Vec<Test>, action: Action) -> crate::model::Rule {
    crate::model::Rule {
        name: None,
        comment: None,
        origin: testing::origin(line),
        matches: matches.into_iter().map(Match::is).collect(),
        limit: None,
        log: None,
        action,
    }
}

fn new_connections() -> View<'static> {
    View {
        family: Family::V4,
        hook: Hook::Forward,
        input: Some("eth0"),
        output: Some("eth1"),
        state: States::NEW,
        within: None,
    }
}

fn forward(ruleset: &Ruleset) -> Result<FlatList, FlattenError> {
    flatten(ruleset, &new_connections())
}

fn port(port: u16) -> Test {
    Test::DestinationPort(vec![port..=port])
}

#[test]
fn returns_of_one_dimension_cost_nothing() {
    let from = |number| {
        let address = dataplane::address::Address::v4([10, 0, 0, number]);
        Test::Source(vec![address..=address])
    };
    let mut base = Vec::new();
    let mut chains = Vec::new();
    for number in 0..20 {
        base.push(rule(1, vec![], Action::Jump(format!("c{number}"))));
        chains.push(chain(
            &format!("c{number}"),
            None,
            vec![
                rule(2, vec![from(number)], Action::Return),
                rule(3, vec![Test::Protocol(vec![17]), port(u16::from(number))], Action::Drop),
            ],
        ));
    }
    chains.push(chain("forward", Some(Policy::Allow), base));
    let list = forward(&Ruleset { chains, ..Ruleset::default() }).expect("it is short");
    assert_eq!(list.rules.len(), 21);
}

#[test]
fn who_left_a_chain_before_a_count_is_not_counted() {
    let first = dataplane::address::Address::v4([10, 0, 0, 1]);
    let from = Test::Source(vec![first..=first]);
    let inner = vec![
        rule(2, vec![from], Action::Return),
        rule(3, vec![], Action::Continue),
        rule(4, vec![port(80)], Action::Drop),
    ];
    let jump = rule(1, vec![], Action::Jump("inner".into()));
    for (chains, inner) in [
        (vec![chain("forward", Some(Policy::Allow), vec![jump]), chain("inner", None, inner.clone())], 1),
        (vec![chain("forward", Some(Policy::Allow), inner)], 0),
    ] {
        let list = forward(&Ruleset { chains, ..Ruleset::default() }).expect("it is short");
        let packet = |source: u8| Header {
            input: Some("eth0"),
            output: Some("eth1"),
            source: dataplane::address::Address::v4([10, 0, 0, source]),
            destination: first,
            protocol: 17,
            source_port: 1,
            destination_port: 81,
            tcp_flags: 0,
            state: States::NEW,
        };
        let met = |source: u8| {
            let outcome = list.judge(&packet(source)).expect("the last rule means everything");
            list.resolve(outcome, &mut |_, _| true).expect("it is the list's").met
        };
        assert_eq!((met(1), met(2)), (vec![], vec![RuleAt { chain: inner, rule: 1 }]));
    }
}

#[test]
fn a_set_is_one_rule() {
    let addresses =
        (0..100_000_u32).map(|number| dataplane::address::Address::v4((number * 2).to_be_bytes())).map(|one| one..=one);
    let rules = vec![rule(1, vec![Test::Source(addresses.collect())], Action::Drop)];
    let ruleset = Ruleset { chains: vec![chain("forward", Some(Policy::Allow), rules)], ..Ruleset::default() };
    let list = forward(&ruleset).expect("it is short");
    assert_eq!((list.rules.len(), list.box_count()), (2, 100_001));
}

#[test]
fn what_is_about_all_but_tcp_is_few_boxes() {
    let mut not_tcp = rule(1, vec![], Action::Drop);
    not_tcp.matches = vec![Match::not(Test::Protocol(vec![6]))];
    let rules = vec![not_tcp, rule(2, vec![port(80)], Action::Drop), rule(3, vec![port(22)], Action::Allow)];
    let ruleset = Ruleset { chains: vec![chain("forward", Some(Policy::Allow), rules)], ..Ruleset::default() };
    let list = forward(&ruleset).expect("it is short");
    // Three for TCP and one for all; one for ICMP and one for all with each port; and the policy.
    assert_eq!(list.boxes().count(), 3 + 1 + 2 + 2 + 1);
}

#[test]
fn overlapping_logs_are_refused_by_name() {
    let log = |bit: u32| {
        let ranges = (0..1024_u16).filter(|port| port >> bit & 1 == 1).map(|port| port..=port).collect();
        rule(10 + bit, vec![Test::DestinationPort(ranges)], Action::Continue)
    };
    let rules = (0..10).map(log).collect();
    let ruleset = Ruleset { chains: vec![chain("forward", Some(Policy::Allow), rules)], ..Ruleset::default() };
    let flattener = Flattener::new(&ruleset, Family::V4).expect("the rules are small").at_most(500);
    let list = flattener.flatten(&new_connections());
    let error = list.expect_err("two to the tenth power of rules").to_string();
    assert!(error.starts_with("test.rules:1"), "{error}");
    assert!(error.contains("in chain forward: what follows this rule") && error.contains("than 500 rules"), "{error}");
}

#[test]
fn circles_are_refused() {
    let rules = vec![rule(7, vec![], Action::Jump("forward".into()))];
    let ruleset = Ruleset { chains: vec![chain("forward", Some(Policy::Allow), rules)], ..Ruleset::default() };
    assert!(matches!(forward(&ruleset), Err(FlattenError::TooDeep(_))));
}

#[test]
fn a_limited_jump_leads_into_its_chain_or_past_it() {
    let mut jump = rule(1, vec![port(80)], Action::Jump("web".into()));
    jump.limit = Some(Limit { packets: 5, per: Per::Second, burst: 5 });
    let chains = vec![
        chain("forward", Some(Policy::Drop), vec![jump]),
        chain("web", None, vec![rule(2, vec![Test::Protocol(vec![6])], Action::Allow)]),
    ];
    let list = forward(&Ruleset { chains, ..Ruleset::default() }).expect("it is short");
    let first = &list.outcomes[list.rules[0].outcome as usize];
    assert_eq!((first.verdict, first.steps.len()), (Verdict::Drop, 1));
    let resolve = |token: bool| list.resolve(list.rules[0].outcome, &mut |_, _| token).expect("it is the list's");
    assert_eq!((resolve(true).verdict, resolve(false).verdict), (Verdict::Allow, Verdict::Drop));
    assert_eq!(resolve(true).path, [RuleAt { chain: 0, rule: 0 }]);
}
