//! Every complaint about a file, word for word.

use super::{read_str, sentences};
use crate::check::MOST_PROBLEMS;

/// A rule of a chain for both families, between what it may speak of. It begins on line 5.
pub(super) fn around(rule: &str) -> String {
    format!(
        "groups: {{lan: [eth1]}}\nsets: {{servers: [10.0.0.1], services: {{of: [address, port], elements: []}}}}\n\
         forward:\n  policy: drop\n  rules: [{{{rule}}}]\nchains: {{C: {{}}}}\n"
    )
}

/// What is wrong with a rule, what is said of it, and whether the schema says so too.
pub(super) const RULES: &[(&str, &str, bool)] = &[
    ("actoin: allow", "actoin: this key is not known here; did you mean \"action\"?", true),
    (
        "quux: 1, action: allow",
        "quux: this key is not known here; those known are name, comment, in, out, from, to, set, protocol, fromPort, toPort, port, icmp, tcpFlags, state, never, all, limit, log, action",
        true,
    ),
    ("state: new", "action: it is missing; write allow, drop, reject, continue, return, or a jump", true),
    ("action: accept", "action: \"accept\" is no action; did you mean \"allow\"?", true),
    (
        "action: mangle",
        "action: \"mangle\" is no action; write allow, drop, reject, continue or return, {reject: tcp-reset}, {jump: CHAIN} or {goto: CHAIN}",
        true,
    ),
    ("dport: 80, action: allow", "dport: this key is not known here; did you mean \"toPort\"?", true),
    ("action: alow", "action: \"alow\" is no action; did you mean \"allow\"?", true),
    ("action: ~", "action: nothing is written here; write a value, or take the key out", true),
    ("action: [allow]", "action: a mapping is expected, with reject, jump, goto", true),
    ("action: {jump: C, goto: C}", "action: a rule has one action; write one of reject, jump, goto", true),
    ("action: {jump: X}", "action: there is no chain \"X\"; write it under `chains`", false),
    (
        "action: {goto: forward}",
        "action: \"forward\" is a hook's own chain, no rule can go there; put the rules into a chain",
        false,
    ),
    (
        "action: {reject: tcp-rst}",
        "action.reject: \"tcp-rst\" is no way to reject; write one of tcp-reset, net-unreachable, host-unreachable, protocol-unreachable, port-unreachable, net-prohibited, host-prohibited, admin-prohibited, policy-fail, reject-route",
        true,
    ),
    (
        "action: {reject: tcp-reset}",
        "action: only TCP can be reset; add `protocol: tcp`, or reject in another way",
        false,
    ),
    (
        "action: {reject: host-prohibited}",
        "action: ipv6 has no \"host-prohibited\"; use admin-prohibited, or put the rule into a chain for ipv4 only",
        false,
    ),
    (
        "action: {reject: policy-fail}",
        "action: ipv4 has no \"policy-fail\"; use admin-prohibited, or put the rule into a chain for ipv6 only",
        false,
    ),
    ("name: 010, action: allow", "name: 010 is a number to YAML; put it into quotes", true),
    ("name: [web], action: allow", "name: one value is expected, not a list", true),
    ("comment: true, action: allow", "comment: true is a boolean to YAML; put it into quotes", true),
    ("in: lna, action: allow", "in: there is no group \"lna\"; did you mean \"lan\"?", false),
    (
        "out: [lan, office], action: allow",
        "out: there is no group \"office\"; write its interfaces under `groups`, as office: [eth0]",
        false,
    ),
    ("in: {nut: lan}, action: allow", "in: a value is expected, not a mapping", true),
    (
        "from: 10.0.0.1/8, action: allow",
        "from: 10.0.0.1/8 has bits behind its prefix; write 10.0.0.0/8, or 10.0.0.1 for the host",
        false,
    ),
    (
        "from: example.org, action: allow",
        "from: \"example.org\" is no address; write it as 10.0.0.1, 10.0.0.0/8, 10.0.0.1-10.0.0.9 or 2001:db8::/32",
        true,
    ),
    (
        "from: 10.0.0.0/33, action: allow",
        "from: \"10.0.0.0/33\" is no network; write it as 10.0.0.0/8 or 2001:db8::/32",
        false,
    ),
    (
        "from: 10.0.0.9-10.0.0.1, action: allow",
        "from: the range 10.0.0.9-10.0.0.1 ends before it begins; write 10.0.0.1-10.0.0.9",
        false,
    ),
    (
        "from: '10.0.0.1-::1', action: allow",
        "from: the range 10.0.0.1-::1 is of two families; write a range for each",
        false,
    ),
    (
        "from: '::ffff:10.0.0.1', action: allow",
        "from: ::ffff:10.0.0.1 is an IPv4 address written as IPv6; write 10.0.0.1",
        false,
    ),
    (
        "from: [10.0.0.1, {set: servers}], action: allow",
        "from: a set can't stand in a list; write two rules, or put the addresses into the set",
        true,
    ),
    (
        "to: {sets: servers}, action: allow",
        "to: addresses are expected, or {set: NAME}, or {not: …} of one of them",
        true,
    ),
    ("to: {set: server}, action: allow", "set: there is no set \"server\"; did you mean \"servers\"?", false),
    ("to: {set: x}, action: allow", "set: there is no set \"x\"; write it under `sets`", false),
    (
        "to: {set: services}, action: allow",
        "set: the elements of \"services\" have 2 parts, but 1 end is named; name one end for each part",
        false,
    ),
    (
        "set: {name: servers, ends: [source, destination]}, action: allow",
        "set: the elements of \"servers\" have 1 part, but 2 ends are named; name one end for each part",
        false,
    ),
    (
        "set: {name: servers}, action: allow",
        "set: a set is named with the end that each part of its elements is looked for at: {name: …, ends: [source]}",
        true,
    ),
    (
        "set: {name: servers, ends: src}, action: allow",
        "set.ends: \"src\" is no end of a packet; write source or destination",
        true,
    ),
    (
        "protocol: tpc, action: allow",
        "protocol: \"tpc\" is no protocol known here; write a name such as tcp, udp, icmp, icmpv6, or a number to 255",
        false,
    ),
    (
        "protocol: 256, action: allow",
        "protocol: \"256\" is no protocol known here; write a name such as tcp, udp, icmp, icmpv6, or a number to 255",
        true,
    ),
    (
        "toPort: 80, action: allow",
        "toPort: ports are looked at of a named protocol only; add `protocol: tcp`, or `[tcp, udp]`",
        false,
    ),
    (
        "protocol: tcp, toPort: http, action: allow",
        "toPort: \"http\" is no port; write a number to 65535, or a range such as 1024-65535",
        true,
    ),
    (
        "protocol: tcp, toPort: 65536, action: allow",
        "toPort: \"65536\" is no port; write a number to 65535, or a range such as 1024-65535",
        true,
    ),
    ("protocol: tcp, fromPort: 9-1, action: allow", "fromPort: the range 9-1 ends before it begins; write 1-9", false),
    (
        "icmp: echo, action: allow",
        "icmp: \"echo\" is no ICMP message known here; write a name such as echo-request, a type, or type/code",
        false,
    ),
    (
        "icmp: time-exceeded, action: allow",
        "icmp: the number of \"time-exceeded\" in one family is another message in the other; add `protocol: icmp` or `protocol: icmpv6`",
        false,
    ),
    ("icmp: 3/9-4, action: allow", "icmp: the range 3/9-4 ends before it begins; write the lower code first", false),
    (
        "tcpFlags: ack, action: allow",
        "tcpFlags: write syn, or {mask: […], set: […]}: the flags looked at, and those that are set",
        true,
    ),
    (
        "tcpFlags: {mask: [syn]}, action: allow",
        "tcpFlags: write both: `mask`, the flags looked at, and `set`, those of them that are set",
        true,
    ),
    (
        "tcpFlags: {mask: [sin], set: []}, action: allow",
        "tcpFlags.mask: \"sin\" is no TCP flag; write one of fin, syn, rst, psh, ack, urg",
        true,
    ),
    (
        "tcpFlags: {mask: [ece], set: []}, action: allow",
        "tcpFlags: there are six flags: fin, syn, rst, psh, ack, urg; leave the others out",
        false,
    ),
    (
        "state: open, action: allow",
        "state: \"open\" is no state of a connection; write one of new, established, related, invalid, untracked, snat, dnat",
        true,
    ),
    ("all: {state: new}, action: allow", "all: a list of matches is expected, as [{state: new}, {set: …}]", true),
    (
        "all: [{name: web}], action: allow",
        "all[0].name: this key is not known here; those known are in, out, from, to, set, protocol, fromPort, toPort, port, icmp, tcpFlags, state, never",
        true,
    ),
    (
        "all: [{state: new}, {state: nwe}], action: allow",
        "all[1].state: \"nwe\" is no state of a connection; write one of new, established, related, invalid, untracked, snat, dnat",
        true,
    ),
    (
        "limit: 10, action: allow",
        "limit: \"10\" is no rate; write packets and a time: 10/second, /minute, /hour or /day",
        true,
    ),
    (
        "limit: 0/second, action: allow",
        "limit.rate: a limit of 0 lets no packet meet the rule; write at least 1, or take the rule out",
        true,
    ),
    (
        "limit: {rate: 1/day, burst: 0}, action: allow",
        "limit.burst: a limit of 0 lets no packet meet the rule; write at least 1, or take the rule out",
        true,
    ),
    (
        "limit: {rate: 1/day, burst: many}, action: allow",
        "limit.burst: \"many\" is no number of packets; write one from 1",
        true,
    ),
    ("limit: {burst: 1}, action: allow", "limit: its rate is missing; write {rate: 10/minute, burst: 5}", true),
    ("log: web, action: allow", "log: write true, or {prefix: …, level: info}", true),
    (
        "log: {level: loud}, action: allow",
        "log.level: \"loud\" is no level; write one of emerg, alert, crit, error, warning, notice, info, debug, or 0 to 7",
        true,
    ),
    ("log: {prefix: 1}, action: allow", "log.prefix: 1 is a number to YAML; put it into quotes", true),
    ("never: [a], action: allow", "never: one value is expected, not a list", true),
    (
        "from: {not: {not: 10.0.0.1}}, action: allow",
        "from: addresses are expected, or {set: NAME}, or {not: …} of one of them",
        true,
    ),
];

#[test]
fn rules() {
    for (rule, expected, _) in RULES {
        let problems = read_str("r.yaml", &around(rule)).expect_err(rule);
        assert_eq!(sentences(&problems), [format!("r.yaml:5: forward rule 1: {expected}")], "{rule}");
    }
}

/// What is wrong with a file, and what is said of it.
pub(super) const FILES: &[(&str, &str, bool)] = &[
    ("", "r.yaml: there is nothing in it; write `{}` for a rule set without rules", false),
    ("# only a comment\n", "r.yaml: there is nothing in it; write `{}` for a rule set without rules", false),
    (
        "- a\n",
        "r.yaml:1: a mapping is expected, with family, include, groups, sets, input, forward, output, chains",
        true,
    ),
    ("forwards: {}\n", "r.yaml:1: forwards: this key is not known here; did you mean \"forward\"?", true),
    ("family: ipv5\n", "r.yaml:1: family: \"ipv5\" is no family; write ipv4 or ipv6, or leave it out for both", true),
    (
        "a: 1\na: 2\n",
        "r.yaml:2: it can't be read as YAML: the key \"a\" stands twice in one mapping, first on line 1",
        false,
    ),
    ("forward: !x {}\n", "r.yaml:1: it can't be read as YAML: the tag !x has no meaning here; take it out", false),
    (
        "chains: {010: {}}\n",
        "r.yaml:1: it can't be read as YAML: the key 010 is a number to YAML; put it into quotes",
        false,
    ),
    (
        "forward: {rules: []}\n",
        "r.yaml:1: forward: policy: it is missing; write allow or drop, for packets that no rule answers",
        true,
    ),
    ("forward: {policy: accept}\n", "r.yaml:1: forward: policy: \"accept\" is no policy; write allow or drop", true),
    (
        "forward: {policy: drop, rules: {}}\n",
        "r.yaml:1: forward: rules: a list of rules is expected; begin each rule with a `-`",
        true,
    ),
    (
        "forward: {policy: drop, rules: [allow]}\n",
        "r.yaml:1: forward rule 1: a mapping is expected, with name, comment, in, out, from, to, set, protocol, fromPort, toPort, port, icmp, tcpFlags, state, never, all, limit, log, action",
        true,
    ),
    (
        "chains: {C: {policy: drop}}\n",
        "r.yaml:1: chain C: policy: this key is not known here; those known are rules",
        true,
    ),
    ("chains: []\n", "r.yaml:1: chains: a mapping is expected: each name with what it stands for", true),
    (
        "chains: {input: {}}\n",
        "r.yaml:1: chain input: \"input\" is the name of a hook's own chain; give this one another",
        false,
    ),
    ("chains: {'': {}}\n", "r.yaml:1: chain : its name is empty; give it one", false),
    (
        "chains: {A: {}}\n---\nfamily: ipv6\nchains: {A: {}}\n",
        "r.yaml:4: chain A: there is a chain of this name for ipv6 already, at r.yaml:1; give one of them another name, or put their rules together",
        false,
    ),
    (
        "forward: {policy: drop}\n---\nforward: {policy: drop}\n",
        "r.yaml:3: forward: there is a chain of this name for ipv4 already, at r.yaml:1; give one of them another name, or put their rules together",
        false,
    ),
    (
        "family: ipv4\nchains: {A: {}}\n---\nforward:\n  policy: drop\n  rules: [{action: {jump: A}}]\n",
        "r.yaml:6: forward rule 1: action: the chain \"A\" is for one family only, this one for both; write it for the other family as well",
        false,
    ),
    (
        "chains:\n  A: {rules: [{action: {jump: B}}]}\n  B: {rules: [{name: back, action: {goto: A}}]}\n",
        "r.yaml:3: chain B rule 1 (back): action: the jumps go in a circle (A → B → A); take one of them out",
        false,
    ),
    (
        "chains: {A: {rules: [{action: {jump: A}}]}}\n",
        "r.yaml:1: chain A rule 1: action: the jumps go in a circle (A → A); take one of them out",
        false,
    ),
    (
        "chains:\n  A: {rules: [{name: web, action: drop}]}\n  B: {rules: [{name: web, action: drop}]}\n",
        "r.yaml:3: chain B rule 1 (web): name: the rule at r.yaml:2 has this name already; no two rules have the same",
        false,
    ),
    (
        "family: ipv4\nchains: {A: {rules: [{from: '2001:db8::/32', action: drop}]}}\n",
        "r.yaml:2: chain A rule 1: from: 2001:db8:: is ipv6 in a chain for ipv4 only; take it out, or put the rule into a chain for ipv6",
        false,
    ),
    (
        "family: ipv6\nchains: {A: {rules: [{action: {reject: net-prohibited}}]}}\n",
        "r.yaml:2: chain A rule 1: action: ipv6 has no \"net-prohibited\"; use admin-prohibited, or put the rule into a chain for ipv4 only",
        false,
    ),
    (
        "groups: {lan: [eth0]}\n---\ngroups: {lan: [eth1]}\n",
        "r.yaml:3: group lan: there is a group of this name at r.yaml:1 already; give one another name",
        false,
    ),
    (
        "groups: {lan: [a/b]}\n",
        "r.yaml:1: group lan: interfaces: \"a/b\" can't be an interface's name: it has 1 to 15 bytes, no space and no `/`",
        true,
    ),
    (
        "groups: {lan: [abcdefghijklmnop]}\n",
        "r.yaml:1: group lan: interfaces: \"abcdefghijklmnop\" can't be an interface's name: it has 1 to 15 bytes, no space and no `/`",
        true,
    ),
    ("groups: {lan: [1]}\n", "r.yaml:1: group lan: 1 is a number to YAML; put it into quotes", true),
    (
        "groups: {lan: {interfaces: e, networks: 10.0.0.1}}\n",
        "r.yaml:1: group lan: networks: \"10.0.0.1\" is no network; write it as 10.0.0.0/8 or 2001:db8::/32",
        true,
    ),
    (
        "sets: {s: [1.1.1.1]}\n---\nsets: {s: []}\n",
        "r.yaml:3: set s: there is a set of this name at r.yaml:1 already; give one another name",
        false,
    ),
    (
        "sets:\n  s:\n  - 10.0.0.1\n  - 10.0.0.256\n",
        "r.yaml:4: set s: \"10.0.0.256\" is no address; write it as 10.0.0.1, 10.0.0.0/8, 10.0.0.1-10.0.0.9 or 2001:db8::/32",
        false,
    ),
    (
        "sets: {s: {of: mac, elements: []}}\n",
        "r.yaml:1: set s: of: \"mac\" is no part of an element; write address or port",
        true,
    ),
    (
        "sets: {s: {of: [], elements: []}}\n",
        "r.yaml:1: set s: of: elements have one to three parts; write for each of them address or port",
        true,
    ),
    (
        "sets: {s: {of: [address, port], elements: [10.0.0.1]}}\n",
        "r.yaml:1: set s: elements: \"10.0.0.1\" has 1 part, but the set's elements have 2: address, port",
        false,
    ),
    (
        "sets: {s: {of: port, elements: [\"icmp:8\"]}}\n",
        "r.yaml:1: set s: elements: \"icmp:8\" is no ICMP type with its code; write it as icmp:8/0 or icmp:3/0-3/255",
        false,
    ),
    (
        "sets: {s: {of: port}}\n",
        "r.yaml:1: set s: its elements are missing; write `elements`, or the `file` they stand in",
        true,
    ),
    (
        "sets: {s: {file: x, elements: []}}\n",
        "r.yaml:1: set s: elements: its elements stand in a file of their own; write them there",
        true,
    ),
    ("include: [1]\n", "r.yaml:1: include: 1 is a number to YAML; put it into quotes", true),
];

#[test]
fn files() {
    for (text, expected, _) in FILES {
        let problems = read_str("r.yaml", text).expect_err(text);
        assert_eq!(sentences(&problems), [*expected], "{text}");
    }
}

#[test]
fn broken_yaml_says_where() {
    for (text, line) in [("a: [1, 2\nb: 3\n", 2), ("a: \"x\n", 1), ("a:\n\t- b\n", 2), ("a: *b\n", 1)] {
        let problems = read_str("r.yaml", text).expect_err(text);
        assert!(problems[0].origin.line >= line, "{text}: {}", problems[0]);
        assert!(problems[0].text.starts_with("it can't be read as YAML: "), "{}", problems[0]);
    }
}

#[test]
fn all_problems_are_told_at_once_but_not_without_end() {
    let rules = "  - state: nwe\n    protocol: tpc\n    action: allow\n  - in: lan\n    action: allow\n";
    let problems = read_str("r.yaml", &format!("forward:\n  policy: drop\n  rules:\n{rules}")).unwrap_err();
    let lines: Vec<u32> = problems.iter().map(|problem| problem.origin.line).collect();
    assert_eq!(lines, [4, 5, 7]);
    let many = format!("forward:\n  policy: drop\n  rules:\n{}", rules.repeat(1000));
    assert_eq!(read_str("r.yaml", &many).unwrap_err().len(), MOST_PROBLEMS);
    let warned =
        format!("forward:\n  policy: drop\n  rules:\n{}  - {{}}\n", "  - {from: [], action: drop}\n".repeat(1000));
    assert_eq!(read_str("r.yaml", &warned).unwrap_err().len(), MOST_PROBLEMS + 1);
}
