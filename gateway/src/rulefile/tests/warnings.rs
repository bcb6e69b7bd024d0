//! What is probably not meant, word for word.

use super::errors::around;
use super::{read_str, sentences};
use crate::check::Severity;

#[test]
fn warnings() {
    let of = |text: &str| {
        let ruleset = read_str("r.yaml", text).unwrap_or_else(|problems| panic!("{text}: {:?}", sentences(&problems)));
        let problems = ruleset.check();
        assert!(problems.iter().all(|problem| problem.severity == Severity::Warning));
        sentences(&problems)
    };
    let rules = [
        (
            "from: [], action: drop",
            "from: no packet can meet all of its matches: this list is empty; add to it, or take the rule out",
        ),
        (
            "protocol: icmp, toPort: 80, action: drop",
            "protocol: no packet can meet all of its matches: its protocols, and those whose ports, flags or types it looks at, exclude one another; take one of them out",
        ),
        (
            "protocol: udp, tcpFlags: syn, action: drop",
            "protocol: no packet can meet all of its matches: its protocols, and those whose ports, flags or types it looks at, exclude one another; take one of them out",
        ),
        (
            "protocol: tcp, all: [{protocol: {not: tcp}}], action: drop",
            "protocol: no packet can meet all of its matches: its protocols, and those whose ports, flags or types it looks at, exclude one another; take one of them out",
        ),
        (
            "tcpFlags: {mask: [syn], set: [ack]}, action: drop",
            "tcpFlags: no packet can meet all of its matches: `set` has a flag that is not in `mask`; add it there",
        ),
        (
            "from: 10.0.0.1, to: 'fd00::1', action: drop",
            "from: no packet can meet all of its matches: `from` and `to` are of different families; take one of them out",
        ),
    ];
    for (rule, expected) in rules {
        assert_eq!(of(&around(rule)), [format!("r.yaml:5: warning: forward rule 1: {expected}")], "{rule}");
    }
    for rule in [
        "never: fragments are put together, action: drop",
        "protocol: {not: tcp}, action: drop",
        "protocol: tcp, action: {reject: tcp-reset}",
        "from: 10.0.0.1, action: {reject: host-prohibited}",
        "protocol: icmp, icmp: time-exceeded, action: drop",
        "tcpFlags: syn, action: {reject: tcp-reset}",
    ] {
        assert_eq!(of(&around(rule)), Vec::<String>::new(), "{rule}");
    }
    let text = "groups: {lan: [e]}\ninput: {policy: drop, rules: [{action: {jump: A}}]}\n\
                output: {policy: drop, rules: [{in: lan, action: drop}, {action: {jump: B}}]}\n\
                chains: {A: {rules: [{out: {not: lan}, action: drop}, {action: {jump: B}}]}, B: {rules: [{in: lan, out: lan, action: drop}]}}\n";
    let out = "what is for the gateway itself goes out by no interface, and only that comes here; take the match out";
    let within = "what the gateway sends itself came in by no interface, and only that comes here; take the match out";
    let expected = [
        format!("r.yaml:3: warning: output rule 1: in: {within}"),
        format!("r.yaml:4: warning: chain A rule 1: out: {out}"),
    ];
    assert_eq!(of(text), expected);
    assert_eq!(
        of("groups: {lan: []}\n"),
        ["r.yaml:1: warning: group lan: interfaces: no interface is in it; name one, such as eth0 or veth+"]
    );
}
