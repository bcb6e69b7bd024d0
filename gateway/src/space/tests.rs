use super::meaning::{Meaning, without};
use super::*;
use crate::judge::Header;
use crate::model::{Family, Hook};
use crate::testing::{self, Random, World};

#[test]
fn rules_mean_what_their_matches_do() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    for _ in 0..300 {
        let world = World { chains: 2, rules: 8, views: false, limits: false };
        let ruleset = testing::ruleset(&mut random, world);
        let mut meanings = Family::BOTH.map(|family| Meaning::new(&ruleset, family));
        for rule in ruleset.chains.iter().flat_map(|chain| &chain.rules) {
            let unions = meanings.each_mut().map(|meaning| meaning.of_rule(rule).expect("rules are small"));
            for _ in 0..60 {
                let packet = testing::packet(&mut random, Hook::Forward);
                let expected = rule.matches.iter().all(|test| ruleset.matches(test, &packet));
                let told = unions.iter().flatten().any(|cube| cube.contains(&packet));
                assert_eq!(told, expected, "PENSTOCK_SEED={seed}: {packet:?} {rule:#?} {unions:#?}");
            }
        }
    }
}

#[test]
fn cubes_are_sets() {
    let seed = testing::seed();
    let mut random = Random::new(seed);
    for _ in 0..300 {
        let world = World { chains: 0, rules: 8, views: false, limits: false };
        let ruleset = testing::ruleset(&mut random, world);
        let mut meaning = Meaning::new(&ruleset, Family::V4);
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let cubes: Vec<Cube> = rules.flat_map(|rule| meaning.of_rule(rule).expect("rules are small")).collect();
        for pair in cubes.windows(2) {
            let (one, other) = (&pair[0], &pair[1]);
            let (both, rest) = (one.intersection(other), one.difference(other));
            let back = without(vec![one.clone()], std::slice::from_ref(other)).expect("it is little");
            assert_eq!(rest, back);
            for _ in 0..40 {
                let packet = testing::packet(&mut random, Hook::Forward);
                let (in_one, in_other) = (one.contains(&packet), other.contains(&packet));
                let context = format!("PENSTOCK_SEED={seed}: {packet:?} {one:#?} {other:#?} {both:#?} {rest:#?}");
                assert_eq!(both.as_ref().is_some_and(|both| both.contains(&packet)), in_one && in_other, "{context}");
                let pieces = rest.iter().filter(|piece| piece.contains(&packet)).count();
                assert_eq!(pieces, usize::from(in_one && !in_other), "{context}");
                assert!(!one.is_subset(other) || !in_one || in_other, "{context}");
            }
            assert!(both.is_none_or(|both| both.is_subset(one) && both.is_subset(other)));
        }
    }
}

#[test]
fn ranges_are_kept_in_one_form() {
    let of = |spans: &[(u16, u16)]| Ranges::of(spans.iter().map(|&(first, last)| Span { first, last }).collect());
    assert_eq!(of(&[(5, 9), (0, 4)]), of(&[(0, 9)]));
    assert_eq!(of(&[]), None);
    let all: Ranges<u16> = Ranges::all();
    let some = of(&[(0, 3), (7, 7), (65535, 65535)]).expect("it is not empty");
    let rest = all.difference(&some).expect("some are left");
    assert_eq!(Some(rest.clone()), of(&[(4, 6), (8, 65534)]));
    assert_eq!(all.difference(&rest), Some(some.clone()));
    assert_eq!(some.intersection(&rest), None);
    assert!(!some.meets(&rest) && some.meets(&all) && some.is_subset(&all) && !all.is_subset(&some));
}

#[test]
fn what_no_packet_has_is_not_told_apart() {
    let all = || Cube::everything(Family::V4);
    let udp = all().and_protocols(Protocols::of(&[17])).expect("there is UDP");
    assert_eq!(udp.clone().and_flags(Flags::of(2, 2)), None);
    assert_eq!(udp.clone().and_flags(Flags::of(2, 0)), Some(udp));
    let gre = all().and_protocols(Protocols::of(&[47])).expect("there is GRE");
    let low = Ranges::from(Span { first: 0_u16, last: 9 });
    assert_eq!(gre.clone().and_source_ports(Some(low.clone())), Some(gre.clone()));
    assert_eq!(gre.and_source_ports(Ranges::all().difference(&low)), None);
    let packet = Header {
        input: None,
        output: None,
        source: dataplane::address::Address::v4([1, 2, 3, 4]),
        destination: dataplane::address::Address::v4([1, 2, 3, 4]),
        protocol: 47,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        state: crate::model::States::NEW,
    };
    assert!(all().contains(&packet));
}
