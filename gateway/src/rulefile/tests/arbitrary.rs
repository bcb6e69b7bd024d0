//! Random rule sets: anything that the model can hold, sense or not.

use std::ops::RangeInclusive;
use std::sync::Arc;

use dataplane::address::Address;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::*;
use crate::values::REJECTS;

fn nowhere() -> Origin {
    Origin { file: Arc::from(""), line: 0 }
}

/// Names, of which many look like something else.
pub(super) fn name() -> impl Strategy<Value = String> {
    const TRAPS: [&str; 28] = [
        "on",
        "no",
        "y",
        "true",
        "null",
        "~",
        "010",
        "1e3",
        "0x1f",
        ".5",
        "- a",
        "a: b",
        "a #b",
        "*a",
        "&a",
        "!a",
        "{a",
        "not",
        "set",
        "input",
        "KUBE-SVC-X2Y3",
        "FWDI_public_allow",
        "a:b#c",
        "x{[\"",
        "é-chain",
        "eth+",
        "<<",
        "---",
    ];
    prop_oneof![select(&TRAPS[..]).prop_map(str::to_owned), "[a-z]{1,4}", "\\PC{1,8}", any::<String>()]
}

fn few<T: std::fmt::Debug + Clone>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    vec(of, 0..4)
}

fn range<T: Ord + Clone + std::fmt::Debug>(
    of: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = RangeInclusive<T>> {
    prop_oneof![
        of.clone().prop_map(|one| one.clone()..=one),
        (of.clone(), of).prop_map(|(a, b)| a.clone().min(b.clone())..=a.max(b)),
    ]
}

fn addresses() -> impl Strategy<Value = RangeInclusive<Address>> {
    let v4 = any::<u32>().prop_map(|bits| Address::v4(bits.to_be_bytes()));
    let v6 = any::<[u8; 16]>().prop_map(Address::v6).prop_filter("IPv4-mapped", |address| !address.is_v4());
    prop_oneof![
        range(v4),
        range(v6),
        network().prop_map(|net| Address::from(net.network())..=Address::from(net.broadcast())),
    ]
}

fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0..=32u8)
        .prop_map(|(address, prefix)| Ipv4Net::new(address.into(), prefix).unwrap().trunc());
    let v6 = (any::<[u8; 16]>(), 0..=128u8)
        .prop_map(|(address, prefix)| Ipv6Net::new(address.into(), prefix).unwrap().trunc());
    prop_oneof![v4.prop_map(IpNet::from), v6.prop_map(IpNet::from)]
}

fn part(dimension: Dimension) -> BoxedStrategy<Part> {
    let protocol = option::of(select(&[1, 6, 17, 47, 58, 200][..]));
    match dimension {
        Dimension::Address => addresses().prop_map(Part::Addresses).boxed(),
        Dimension::Port => (protocol, range(any::<u16>())).prop_map(|(of, range)| Part::Ports(of, range)).boxed(),
    }
}

fn set() -> impl Strategy<Value = Set> {
    let dimension = select(&[Dimension::Address, Dimension::Port][..]);
    vec(dimension, 1..=3).prop_flat_map(|dimensions| {
        let element = dimensions.iter().map(|of| part(*of)).collect::<Vec<_>>();
        (Just(dimensions), vec(element.clone(), 0..8), few(element)).prop_map(|(dimensions, elements, exceptions)| {
            Set { dimensions, elements, exceptions, file: None, origin: nowhere() }
        })
    })
}

fn test() -> impl Strategy<Value = Test> {
    let end = select(&[End::Source, End::Destination][..]);
    let icmp =
        (prop_oneof![select(&[0, 3, 8, 11, 128, 135][..]), any::<u8>()], prop_oneof![Just(0..=255), range(0..8u8)])
            .prop_map(|(kind, codes)| IcmpType { kind, codes });
    prop_oneof![
        few(name()).prop_map(Test::In),
        few(name()).prop_map(Test::Out),
        few(addresses()).prop_map(Test::Source),
        few(addresses()).prop_map(Test::Destination),
        (name(), few(end)).prop_map(|(name, ends)| Test::Set { name, ends }),
        few(prop_oneof![select(&[1, 6, 17, 58][..]), any::<u8>()]).prop_map(Test::Protocol),
        few(range(any::<u16>())).prop_map(Test::SourcePort),
        few(range(any::<u16>())).prop_map(Test::DestinationPort),
        few(range(any::<u16>())).prop_map(Test::EitherPort),
        few(icmp).prop_map(Test::Icmp),
        prop_oneof![Just((0x17, 2)), any::<(u8, u8)>()].prop_map(|(mask, set)| Test::TcpFlags { mask, set }),
        (0..128u8).prop_map(|bits| Test::State(States(bits))),
        any::<String>().prop_map(Test::Nothing),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        select(&[Action::Allow, Action::Drop, Action::Return, Action::Continue][..]),
        select(&REJECTS[..]).prop_map(|(_, with)| Action::Reject(with)),
        name().prop_map(Action::Jump),
        name().prop_map(Action::Goto),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let matches = vec((any::<bool>(), test()).prop_map(|(negated, test)| Match { negated, test }), 0..6);
    let per = select(&[Per::Second, Per::Minute, Per::Hour, Per::Day][..]);
    let limit = (1u32.., per, 1u32..).prop_map(|(packets, per, burst)| Limit { packets, per, burst });
    let log = (prop_oneof![Just(String::new()), any::<String>()], option::of(0..8u8));
    let log = log.prop_map(|(prefix, level)| Log { prefix, level });
    (option::of(name()), option::of(any::<String>()), matches, option::of(limit), option::of(log), action()).prop_map(
        |(name, comment, matches, limit, log, action)| Rule {
            name,
            comment,
            origin: nowhere(),
            matches,
            limit,
            log,
            action,
        },
    )
}

fn chain() -> impl Strategy<Value = Chain> {
    let families = select(&[None, None, Some(Family::V4), Some(Family::V6)][..]);
    let hook = option::of((select(&Hook::ALL[..]), select(&[Policy::Allow, Policy::Drop][..])));
    (name(), families, hook, vec(rule(), 0..4)).prop_map(|(name, families, hook, rules)| Chain {
        name: hook.map_or(name, |(hook, _)| hook.name().to_owned()),
        families,
        hook,
        rules,
        origin: nowhere(),
    })
}

/// A rule set that a file can hold, without origins. Names need not be there, and chains may be there twice.
pub(super) fn ruleset() -> impl Strategy<Value = Ruleset> {
    let group = (few(name()), few(network())).prop_map(|(interfaces, networks)| Group {
        interfaces,
        networks,
        origin: nowhere(),
    });
    (btree_map(name(), group, 0..3), btree_map(name(), set(), 0..3), vec(chain(), 0..6))
        .prop_map(|(groups, sets, chains)| Ruleset { groups, sets, chains })
}
