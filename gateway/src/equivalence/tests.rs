use std::collections::{BTreeSet, HashMap};

use dataplane::address::Address;

use super::decision::Decision;
use super::*;
use crate::judge::{Header, RuleAt};
use crate::model::{Action, Chain, IcmpType, Match, Part, Policy, RejectWith, Rule, States, Test};
use crate::testing::{self, Random, World};

/// Where some rule's values of a dimension begin, and where they are over.
#[derive(Default)]
struct Boundaries {
    addresses: BTreeSet<u128>,
    ports: BTreeSet<u16>,
    flags: Vec<(u8, u8)>,
}

impl Boundaries {
    fn of(rulesets: [&Ruleset; 2]) -> Boundaries {
        let mut all = Boundaries::default();
        all.ports.insert(0);
        for bits in [0, 0xffff << 32, (0xffff << 32) + (1 << 32)] {
            all.addresses.insert(bits);
        }
        for ruleset in rulesets {
            let rules = || ruleset.chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.matches);
            let named = |name: &String| {
                rules().any(|test| matches!(&test.test, Test::Set { name: looked_at, .. } if looked_at == name))
            };
            let sets = ruleset.sets.iter().filter(|(name, _)| named(name)).map(|(_, set)| set);
            let sets = sets.flat_map(|set| set.elements.iter().chain(&set.exceptions)).flatten();
            for part in sets {
                match part {
                    Part::Addresses(range) => all.addresses(range.start(), range.end()),
                    Part::Ports(_, range) => all.ports(*range.start(), *range.end()),
                }
            }
            for test in rules() {
                match &test.test {
                    Test::Source(ranges) | Test::Destination(ranges) => {
                        ranges.iter().for_each(|range| all.addresses(range.start(), range.end()));
                    }
                    Test::SourcePort(ranges) | Test::DestinationPort(ranges) | Test::EitherPort(ranges) => {
                        ranges.iter().for_each(|range| all.ports(*range.start(), *range.end()));
                    }
                    Test::Icmp(types) => types.iter().for_each(|IcmpType { kind, codes }| {
                        let message = |code| u16::from_be_bytes([*kind, code]);
                        all.ports(message(*codes.start()), message(*codes.end()));
                    }),
                    Test::TcpFlags { mask, set } => all.flags.push((*mask, *set)),
                    _ => {}
                }
            }
        }
        all
    }

    fn addresses(&mut self, first: &Address, last: &Address) {
        self.addresses.insert(first.to_bits());
        self.addresses.extend(last.to_bits().checked_add(1));
    }

    fn ports(&mut self, first: u16, last: u16) {
        self.ports.insert(first);
        self.ports.extend(last.checked_add(1));
    }

    /// One combination of flags of each class.
    fn flags(&self) -> Vec<u8> {
        let mut classes: HashMap<Vec<bool>, u8> = HashMap::new();
        for flags in 0..64 {
            let class = self.flags.iter().map(|(mask, set)| flags & mask == *set).collect();
            classes.entry(class).or_insert(flags);
        }
        classes.into_values().collect()
    }
}

type Pair = (Family, Hook, Option<RuleAt>, Option<RuleAt>);

/// Judges a packet of every class by both rule sets, and collects the pairs of rules that decide otherwise.
fn brute_force(a: &Ruleset, b: &Ruleset, hooks: &[Hook], interfaces: &[&str]) -> BTreeSet<Pair> {
    let all = Boundaries::of([a, b]);
    let addresses: Vec<Address> = all.addresses.iter().map(|bits| Address::from_bits(*bits)).collect();
    let (flags, ports): (_, Vec<u16>) = (all.flags(), all.ports.iter().copied().collect());
    let mut pairs = BTreeSet::new();
    for &hook in hooks {
        for view in views::of(Family::V4, hook, &interfaces.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()) {
            for (&source, &destination) in
                addresses.iter().flat_map(|one| addresses.iter().map(move |other| (one, other)))
            {
                let family = Family::of(source);
                if family != Family::of(destination) {
                    continue;
                }
                for protocol in [6, 17, 33, 132, 136, 1, 58, 47, 0, 2] {
                    let kind = super::lists::Kind::of(protocol, family);
                    let none = vec![0];
                    let has = |dimension| kind.has(dimension);
                    let from = if has(super::lists::Dimension::SourcePort) { &ports } else { &none };
                    let to = if has(super::lists::Dimension::DestinationPort) { &ports } else { &none };
                    let flags = if protocol == 6 { &flags[..] } else { &[0] };
                    for (&source_port, &destination_port) in
                        from.iter().flat_map(|one| to.iter().map(move |other| (one, other)))
                    {
                        for &tcp_flags in flags {
                            let header = Header {
                                input: view.input,
                                output: view.output,
                                source,
                                destination,
                                protocol,
                                source_port,
                                destination_port,
                                tcp_flags,
                                state: view.state,
                            };
                            let [left, right] = [a, b].map(|ruleset| Decision::of(ruleset, hook, &header));
                            if let Some((left, right)) = left.differs(&right) {
                                pairs.insert((family, hook, left.rule, right.rule));
                            }
                        }
                    }
                }
            }
        }
    }
    pairs
}

/// The pairs of a comparison's packets at the forward hook.
fn told(comparison: &Comparison) -> BTreeSet<Pair> {
    let pair = |difference: &Difference| {
        let Difference { packet, a, b } = difference;
        (Family::of(packet.destination), packet.hook, a.rule, b.rule)
    };
    comparison.differences.iter().map(pair).filter(|(_, hook, ..)| *hook == Hook::Forward).collect()
}

/// Another rule set that has much in common with this one.
fn changed(random: &mut Random, ruleset: &Ruleset) -> Ruleset {
    let mut changed = ruleset.clone();
    for _ in 0..1 + random.below(2) {
        let chains = changed.chains.len();
        let chain = &mut changed.chains[random.below(chains)];
        let count = chain.rules.len();
        if count == 0 || random.one_in(8) {
            let (hook, policy) = chain.hook.unwrap_or((Hook::Forward, Policy::Allow));
            let other = if policy == Policy::Allow { Policy::Drop } else { Policy::Allow };
            chain.hook = chain.hook.map(|_| (hook, other));
            continue;
        }
        let at = random.below(count);
        match random.below(6) {
            0 => drop(chain.rules.remove(at)),
            1 => chain.rules.swap(at, (at + 1) % count),
            2 => {
                let again = chain.rules[random.below(count)].clone();
                chain.rules.insert(at, again);
            }
            3 => {
                let actions = [Action::Allow, Action::Drop, Action::Reject(RejectWith::PortUnreachable)];
                chain.rules[at].action = actions[random.below(3)].clone();
            }
            4 => chain.rules[at].matches.iter_mut().for_each(|test| test.negated = !test.negated),
            _ => chain.rules[at].matches.push(Match::is(testing::test(random, &ruleset.sets, false))),
        }
    }
    changed
}

#[test]
fn all_packets_are_compared() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    let mut equal = 0;
    for round in 0..60 {
        let world = World { chains: round % 3, rules: 3, views: false, limits: false };
        let mut a = testing::ruleset(&mut random, world);
        // One set of several parts is enough for few classes.
        a.sets.retain(|name, _| name == "set0" || name == "set1");
        let b = if round % 5 == 0 { testing::ruleset(&mut random, world) } else { changed(&mut random, &a) };
        let context = format!("PENSTOCK_SEED={seed}, round {round}: {a:#?}\n{b:#?}");
        let comparison = compare(&a, &b, &Options::default()).expect("small rule sets are flat");
        assert!(comparison.undecided.is_empty() && !comparison.more, "{comparison:#?} {context}");
        let expected = brute_force(&a, &b, &[Hook::Forward], &["eth0"]);
        equal += usize::from(expected.is_empty());
        assert_eq!(told(&comparison), expected, "{context}");
    }
    assert!((5..55).contains(&equal), "{equal} equal ones of 60 say little");
}

#[test]
fn interfaces_states_and_limits_are_compared() {
    let seed = testing::seed();
    let mut random = Random::new(seed ^ 7);
    for round in 0..40 {
        let world = World { chains: 1, rules: 2, views: true, limits: true };
        let mut a = testing::ruleset(&mut random, world);
        a.sets.retain(|name, _| name == "set0");
        let b = changed(&mut random, &a);
        let context = format!("PENSTOCK_SEED={seed}, round {round}: {a:#?}\n{b:#?}");
        let comparison = compare(&a, &b, &Options::default()).expect("small rule sets are flat");
        assert!(comparison.undecided.is_empty() && !comparison.more, "{comparison:#?} {context}");
        let expected = brute_force(&a, &b, &[Hook::Forward], &["eth1", "eth0", "lan0", "x"]);
        let found = comparison.differences.iter().any(|difference| difference.packet.hook == Hook::Forward);
        assert_eq!(found, !expected.is_empty(), "{comparison:#?} {expected:?} {context}");
    }
}

fn rule(line: u32, matches: Vec<Test>, action: Action) -> Rule {
    Rule {
        name: None,
        comment: None,
        origin: testing::origin(line),
        matches: matches.into_iter().map(Match::is).collect(),
        limit: None,
        log: None,
        action,
    }
}

fn forward(rules: Vec<Rule>) -> Ruleset {
    let chain = Chain {
        name: "forward".into(),
        families: Some(Family::V4),
        hook: Some((Hook::Forward, Policy::Drop)),
        rules,
        origin: testing::origin(1),
    };
    Ruleset { chains: vec![chain], ..Ruleset::default() }
}

fn net(third: u8, bits: u32) -> std::ops::RangeInclusive<Address> {
    let first = Address::v4([10, 1, third, 0]).to_bits();
    Address::from_bits(first)..=Address::from_bits(first + (1 << (32 - bits)) - 1)
}

fn tcp(port: std::ops::RangeInclusive<u16>) -> [Test; 2] {
    [Test::Protocol(vec![6]), Test::DestinationPort(vec![port])]
}

fn many(count: u16) -> Ruleset {
    let rules = (0..count).map(|number| {
        let [protocol, port] = tcp(number..=number);
        let action = if number % 3 == 0 { Action::Drop } else { Action::Allow };
        rule(10 + u32::from(number), vec![protocol, port, Test::Destination(vec![net(number as u8, 24)])], action)
    });
    forward(rules.collect())
}

#[test]
fn what_says_the_same_by_other_words_is_equal() {
    let a = many(600);
    let mut b = a.clone();
    let rules = &mut b.chains[0].rules;
    // Disjoint rules the other way round, a prefix split, two ports merged into a range.
    rules.reverse();
    let halves = [net(0, 25), *net(0, 24).start()..=*net(0, 24).end()];
    let split: Vec<Rule> = halves
        .into_iter()
        .map(|half| {
            let mut rule = rules[599].clone();
            rule.matches[2] = Match::is(Test::Destination(vec![half]));
            rule
        })
        .collect();
    rules.splice(599..600, split);
    let comparison = compare(&a, &b, &Options::default()).expect("they are flat");
    assert_eq!(comparison.answer(), Answer::Equal, "{comparison:#?}");
    let merged = forward(vec![rule(1, tcp(20..=21).into(), Action::Allow)]);
    let [one, other] = [20..=20, 21..=21].map(|port| rule(1, tcp(port).into(), Action::Allow));
    let comparison = compare(&merged, &forward(vec![one, other]), &Options::default()).expect("they are flat");
    assert_eq!(comparison.answer(), Answer::Equal, "{comparison:#?}");
}

#[test]
fn a_counter_example_is_one_line() {
    let a = many(600);
    let mut b = a.clone();
    b.chains[0].rules[7].action = Action::Drop;
    let comparison = compare(&a, &b, &Options::default()).expect("they are flat");
    let lines: Vec<String> = comparison.differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "forward in other0 out other0 tcp 198.51.100.7:40000 -> 10.1.7.1:7 syn, state new: A allows (test.rules:17: in \
          chain forward), B drops (test.rules:17: in chain forward)"
        ]
    );
}

#[test]
fn every_pair_of_rules_has_its_packet() {
    let a = many(600);
    let mut b = a.clone();
    let mut broad = rule(1, tcp(22..=40).into(), Action::Drop);
    b.chains[0].rules.insert(0, broad.clone());
    let count = |a: &Ruleset, b: &Ruleset| compare(a, b, &Options::default()).expect("they are flat").differences.len();
    // Of the nineteen rules about these ports, thirteen allow.
    assert_eq!(count(&a, &b), 13);
    broad.action = Action::Allow;
    b.chains[0].rules.remove(0);
    b.chains[0].rules.push(broad);
    assert_eq!(count(&a, &b), 1);
    let alike = |action: Action| {
        let to = |third| Test::Destination(vec![net(third, 24)]);
        let rules = (0..10).map(|third| rule(1, tcp(80..=80).into_iter().chain([to(third)]).collect(), action.clone()));
        forward(rules.collect())
    };
    assert_eq!(count(&alike(Action::Allow), &alike(Action::Reject(RejectWith::TcpReset))), 10);
}

#[test]
fn a_sets_exception_counts() {
    let mut a = forward(vec![rule(
        1,
        vec![Test::Set { name: "some".into(), ends: vec![crate::model::End::Source] }],
        Action::Allow,
    )]);
    let some = crate::model::Set {
        dimensions: vec![crate::model::Dimension::Address],
        elements: vec![vec![Part::Addresses(net(0, 16))]],
        exceptions: vec![],
        file: None,
        origin: testing::origin(1),
    };
    a.sets.insert("some".into(), some);
    let mut b = a.clone();
    let set = b.sets.get_mut("some").expect("it has just been put there");
    set.exceptions.push(vec![Part::Addresses(net(3, 24))]);
    let comparison = compare(&a, &b, &Options::default()).expect("they are flat");
    assert_eq!(comparison.differences.len(), 1);
    assert_eq!(comparison.differences[0].packet.source, Address::v4([10, 1, 3, 1]));
}

#[test]
fn limits_are_atoms() {
    let limited = |packets, action| {
        let mut rule = rule(1, vec![], action);
        rule.limit = Some(crate::model::Limit { packets, per: crate::model::Per::Second, burst: 5 });
        rule
    };
    let answer = |a: Vec<Rule>, b: Vec<Rule>| {
        compare(&forward(a), &forward(b), &Options::default()).expect("they are flat").answer()
    };
    let mut logging = limited(1, Action::Continue);
    logging.log = Some(crate::model::Log::default());
    assert_eq!(answer(vec![logging, limited(3, Action::Allow)], vec![limited(3, Action::Allow)]), Answer::Equal);
    assert_eq!(answer(vec![limited(3, Action::Allow)], vec![limited(4, Action::Allow)]), Answer::Different);
    assert_eq!(answer(vec![limited(3, Action::Drop)], vec![]), Answer::Equal);
    let both = [forward(vec![limited(3, Action::Allow)]), forward(vec![limited(3, Action::Continue)])];
    let comparison = compare(&both[0], &both[1], &Options::default()).expect("they are flat");
    let line = comparison.differences[0].to_string();
    let allows = "A allows (test.rules:1: in chain forward, with a token of 3/second burst 5)";
    assert!(line.ends_with(&format!("{allows}, B drops (policy of forward)")), "{line}");
    assert_eq!(answer(vec![limited(3, Action::Allow)], vec![]), Answer::Different);
}

#[test]
fn bounds_are_told() {
    let a = many(300);
    let mut b = a.clone();
    for rule in &mut b.chains[0].rules {
        rule.action = Action::Reject(RejectWith::HostProhibited);
    }
    let few = Options { max_differences: 10, ..Options::default() };
    let comparison = compare(&a, &b, &few).expect("they are flat");
    assert_eq!((comparison.differences.len(), comparison.more), (10, true));
    let idle = Options { max_work: 100, ..Options::default() };
    let comparison = compare(&a, &b, &idle).expect("they are flat");
    assert_eq!(comparison.answer(), Answer::Undecided);
    assert_eq!(comparison.undecided[0], "ipv4 forward in other0 out other0, state new");
}

#[test]
fn every_class_of_interfaces_has_a_name() {
    let group = |patterns: &[&str]| crate::model::Group {
        interfaces: patterns.iter().map(|name| (*name).to_owned()).collect(),
        networks: Vec::new(),
        origin: testing::origin(1),
    };
    let mut a = Ruleset::default();
    a.groups.insert("a".into(), group(&["eth+", "eth1+", "eth0", "lan"]));
    let names = views::interfaces([&a, &Ruleset::default()]);
    assert_eq!(names.len(), 5, "{names:?}");
    assert_eq!(States::EXCLUSIVE.len() * 4 * names.len(), views::of(Family::V4, Hook::Input, &names).len());
}
