//! What only a rule set can have wrong that was not read from a rule file; the rest is with the reader's tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::address::Address;

use std::ops::RangeInclusive;

use super::*;
use crate::model::{Action, End, IcmpType, Log, Match, Policy, Rule, States, Test};

fn origin() -> Origin {
    Origin { file: Arc::from("dump"), line: 7 }
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { name: None, comment: None, origin: origin(), matches, limit: None, log: None, action }
}

fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name).map(|hook| (hook, Policy::Drop));
    Chain { name: name.to_owned(), families: None, hook, rules, origin: origin() }
}

fn sentences(ruleset: &Ruleset) -> Vec<String> {
    ruleset.check().iter().map(ToString::to_string).collect()
}

fn with_chains(chains: Vec<Chain>) -> Ruleset {
    Ruleset { chains, ..Ruleset::default() }
}

#[test]
fn tests_that_no_file_can_hold() {
    let (low, high, v6) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 9]), Address::v6([1; 16]));
    let order = "write the lower address first";
    let cases = [
        (
            Test::Source(vec![high..=low]),
            format!("from: 10.0.0.9-10.0.0.1 ends before it begins, or in the other family; {order}"),
        ),
        (
            Test::Destination(vec![low..=v6]),
            format!(
                "to: 10.0.0.1-101:101:101:101:101:101:101:101 ends before it begins, or in the other family; {order}"
            ),
        ),
        (
            Test::Icmp(vec![IcmpType { kind: 3, codes: RangeInclusive::new(4, 3) }]),
            "icmp: a range of codes ends before it begins; write the lower code first".into(),
        ),
        (Test::State(States(128)), "state: one of its states is not known; write those that a rule file has".into()),
    ];
    for (test, expected) in cases {
        let ruleset = with_chains(vec![chain("forward", vec![rule(vec![Match::is(test)], Action::Drop)])]);
        assert_eq!(sentences(&ruleset)[0], format!("dump:7: forward rule 1: {expected}"));
    }
    let mut logged = rule(Vec::new(), Action::Continue);
    logged.log = Some(Log { prefix: String::new(), level: Some(8) });
    assert_eq!(
        sentences(&with_chains(vec![chain("A", vec![logged])])),
        ["dump:7: chain A rule 1: log.level: a level is 0 to 7; write one of these, or its name"]
    );
}

#[test]
fn sets_whose_elements_do_not_fit() {
    let address = Part::Addresses(Address::v4([10, 0, 0, 1])..=Address::v4([10, 0, 0, 1]));
    let set = |dimensions: &[Dimension], elements: Vec<Element>, exceptions: Vec<Element>| {
        let set = Set { dimensions: dimensions.to_vec(), elements, exceptions, file: None, origin: origin() };
        sentences(&Ruleset { sets: BTreeMap::from([("s".to_owned(), set)]), ..Ruleset::default() })
    };
    assert_eq!(set(&[Dimension::Address], vec![vec![address.clone()]], Vec::new()), Vec::<String>::new());
    let misfit = "it is not made of the parts that the set's `of` names; write it as they say";
    assert_eq!(
        set(&[Dimension::Port], vec![vec![address.clone()]], vec![vec![]]),
        [format!("dump:7: set s: elements[0]: {misfit}"), format!("dump:7: set s: except[0]: {misfit}")]
    );
    assert_eq!(
        set(&[Dimension::Port], vec![vec![Part::Ports(None, RangeInclusive::new(2, 1))]], Vec::new()),
        [
            "dump:7: set s: elements[0]: its range ends before it begins, or in the other family; write the first address first"
        ]
    );
    assert_eq!(
        set(&[], Vec::new(), Vec::new()),
        ["dump:7: set s: of: its elements would have 0 parts; write one to three"]
    );
}

#[test]
fn names_of_hooks_and_names_too_long() {
    let mut wrong = chain("forward", Vec::new());
    wrong.name = "FORWARD".to_owned();
    assert_eq!(
        sentences(&with_chains(vec![wrong])),
        ["dump:7: FORWARD: a hook's own chain has the hook's name; call it \"forward\""]
    );
    let long = "x".repeat(256);
    assert_eq!(
        sentences(&with_chains(vec![chain(&long, Vec::new())])),
        [format!("dump:7: chain {long}: its name has 256 bytes, more than 255; give it a shorter one")]
    );
}

#[test]
fn jumps_may_be_many_but_not_nested_without_end() {
    let line = |length: usize| {
        let mut chains = vec![chain("input", vec![rule(Vec::new(), Action::Jump("0".to_owned()))])];
        chains.extend((0..length).map(|number| {
            let next = (number + 1 < length).then(|| rule(Vec::new(), Action::Goto((number + 1).to_string())));
            chain(&number.to_string(), next.into_iter().collect())
        }));
        sentences(&with_chains(chains))
    };
    assert_eq!(line(256), Vec::<String>::new());
    let deep =
        ["dump:7: input: rules: its jumps are nested more than 256 deep; let chains follow on one another instead"];
    assert_eq!(line(257), deep);
    assert_eq!(line(100_000), deep);
    // Every chain jumps to all later ones: 2^40 ways, none of them a circle.
    let wide = (0..40).map(|number| {
        let rules = (number + 1..40).map(|later| rule(Vec::new(), Action::Jump(later.to_string())));
        chain(&number.to_string(), rules.collect())
    });
    assert_eq!(sentences(&with_chains(wide.collect())), Vec::<String>::new());
}

#[test]
fn a_circle_of_one_family_is_found() {
    let of = |name: &str, families, target: &str| Chain {
        families,
        ..chain(name, vec![rule(Vec::new(), Action::Jump(target.to_owned()))])
    };
    let ruleset = with_chains(vec![
        of("A", None, "B"),
        of("B", Some(Family::V4), "C"),
        of("B", Some(Family::V6), "A"),
        chain("C", Vec::new()),
    ]);
    assert_eq!(
        sentences(&ruleset),
        ["dump:7: chain B rule 1: action: the jumps go in a circle (A → B → A); take one of them out"]
    );
}

#[test]
fn a_set_is_looked_at_from_as_many_ends_as_it_has_parts() {
    let set = Set {
        dimensions: vec![Dimension::Port],
        elements: Vec::new(),
        exceptions: Vec::new(),
        file: None,
        origin: origin(),
    };
    let test = |ends: Vec<End>| Match::not(Test::Set { name: "s".to_owned(), ends });
    let of = |ends| {
        let mut ruleset = with_chains(vec![chain("A", vec![rule(vec![test(ends)], Action::Drop)])]);
        ruleset.sets.insert("s".to_owned(), set.clone());
        sentences(&ruleset)
    };
    assert_eq!(of(vec![End::Source]), Vec::<String>::new());
    assert_eq!(
        of(Vec::new()),
        [
            "dump:7: chain A rule 1: set: the elements of \"s\" have 1 part, but 0 ends are named; name one end for each part"
        ]
    );
}

#[test]
fn what_somebody_may_have_meant() {
    let words = ["action", "from", "to", "in"];
    let of = |word| did_you_mean(word, words.into_iter());
    assert_eq!(of("acton").as_deref(), Some("did you mean \"action\"?"));
    assert_eq!(of("From").as_deref(), Some("did you mean \"from\"?"));
    assert_eq!((of("xy"), of("protocol")), (None, None));
    assert_eq!(did_you_mean("a", std::iter::empty()), None);
    // iptables' words are not taken for the next best.
    let ports = || ["port", "fromPort", "toPort"].into_iter();
    assert_eq!(did_you_mean("dport", ports()).as_deref(), Some("did you mean \"toPort\"?"));
    assert_eq!(did_you_mean("prot", ports()).as_deref(), Some("did you mean \"port\"?"));
}
