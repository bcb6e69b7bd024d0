//! Each rule by itself: what it names, and whether a packet can meet it.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use dataplane::address::Address;

use super::jumps::Graph;
use super::{Problems, did_you_mean, is_range, rule_object};
use crate::judge::WITH_PORTS;
use crate::model::{Action, Chain, End, Family, Hook, Match, RejectWith, Rule, Ruleset, Test};
use crate::values::reject_name;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;

/// Says that a rule means nothing, and what to do.
const NO_PACKET: &str = "no packet can meet all of its matches";

pub(super) fn check(ruleset: &Ruleset, graph: &Graph<'_>, problems: &mut Problems) {
    let mut names: HashMap<&str, &Rule> = HashMap::new();
    for (at, chain) in ruleset.chains.iter().enumerate() {
        for (index, rule) in chain.rules.iter().enumerate() {
            let object = || rule_object(&chain.name, chain.hook.is_some(), index, rule.name.as_deref());
            let mut checked = Checked { ruleset, chain, rule, object: &object, problems };
            checked.matches();
            checked.interfaces(graph, at);
            checked.meaning();
            checked.limit_and_log();
            if let Some(name) = &rule.name {
                super::check_name(name, &rule.origin, &object(), problems);
                if let Some(first) = names.insert(name, rule) {
                    let text =
                        format!("the rule at {} has this name already; no two rules have the same", first.origin);
                    problems.error(&rule.origin, &object(), "name", text);
                }
            }
        }
    }
}

struct Checked<'a> {
    ruleset: &'a Ruleset,
    chain: &'a Chain,
    rule: &'a Rule,
    object: &'a dyn Fn() -> String,
    problems: &'a mut Problems,
}

impl Checked<'_> {
    fn error(&mut self, field: &str, text: impl Into<String>) {
        self.problems.error(&self.rule.origin, &(self.object)(), field, text);
    }

    fn warn(&mut self, field: &str, text: impl Into<String>) {
        self.problems.warn(&self.rule.origin, &(self.object)(), field, text);
    }

    fn matches(&mut self) {
        for Match { negated, test } in &self.rule.matches {
            match test {
                Test::In(groups) | Test::Out(groups) => self.groups(test, groups),
                Test::Source(ranges) | Test::Destination(ranges) => self.addresses(test, ranges),
                Test::Set { name, ends } => self.set(name, ends),
                Test::SourcePort(ranges) | Test::DestinationPort(ranges) | Test::EitherPort(ranges) => {
                    if ranges.iter().any(RangeInclusive::is_empty) {
                        self.error(field(test), "a range of ports ends before it begins; write the lower port first");
                    }
                }
                Test::Icmp(types) => {
                    if types.iter().any(|of| of.codes.is_empty()) {
                        self.error("icmp", "a range of codes ends before it begins; write the lower code first");
                    }
                }
                Test::TcpFlags { mask, set } => {
                    if (mask | set) > 0x3f {
                        self.error(
                            "tcpFlags",
                            "there are six flags: fin, syn, rst, psh, ack, urg; leave the others out",
                        );
                    }
                    if set & !mask != 0 && !negated {
                        self.warn(
                            "tcpFlags",
                            format!("{NO_PACKET}: `set` has a flag that is not in `mask`; add it there"),
                        );
                    }
                }
                Test::State(states) => {
                    if states.0 > 0x7f {
                        self.error("state", "one of its states is not known; write those that a rule file has");
                    }
                }
                Test::Protocol(_) | Test::Nothing(_) => {}
            }
            if !negated && is_empty(test) {
                self.warn(field(test), format!("{NO_PACKET}: this list is empty; add to it, or take the rule out"));
            }
        }
    }

    fn groups(&mut self, test: &Test, groups: &[String]) {
        for group in groups.iter().filter(|group| !self.ruleset.groups.contains_key(*group)) {
            if self.problems.full() {
                return;
            }
            let remedy = did_you_mean(group, self.ruleset.groups.keys().map(String::as_str))
                .unwrap_or_else(|| format!("write its interfaces under `groups`, as {group}: [eth0]"));
            self.error(field(test), format!("there is no group {group:?}; {remedy}"));
        }
    }

    fn addresses(&mut self, test: &Test, ranges: &[RangeInclusive<Address>]) {
        for range in ranges {
            let (first, last) = (range.start(), range.end());
            if !is_range(range) {
                let text = format!(
                    "{first}-{last} ends before it begins, or in the other family; write the lower address first"
                );
                self.error(field(test), text);
            } else if let Some(family) = self.chain.families.filter(|family| *family != Family::of(*first)) {
                let text = format!(
                    "{first} is {} in a chain for {family} only; take it out, or put the rule into a chain for {}",
                    Family::of(*first),
                    Family::of(*first)
                );
                self.error(field(test), text);
            }
        }
    }

    fn set(&mut self, name: &str, ends: &[End]) {
        match self.ruleset.sets.get(name) {
            None if self.problems.full() => {}
            None => {
                let remedy = did_you_mean(name, self.ruleset.sets.keys().map(String::as_str))
                    .unwrap_or_else(|| "write it under `sets`".to_owned());
                self.error("set", format!("there is no set {name:?}; {remedy}"));
            }
            Some(set) if set.dimensions.len() != ends.len() => {
                let text = format!(
                    "the elements of {name:?} have {} part{}, but {} end{} named; name one end for each part",
                    set.dimensions.len(),
                    if set.dimensions.len() == 1 { "" } else { "s" },
                    ends.len(),
                    if ends.len() == 1 { " is" } else { "s are" }
                );
                self.error("set", text);
            }
            Some(_) => {}
        }
    }

    fn interfaces(&mut self, graph: &Graph<'_>, chain: usize) {
        for test in self.rule.matches.iter().map(|test| &test.test) {
            let text = match test {
                Test::In(_) if graph.only_from(chain, Hook::Output) => {
                    "what the gateway sends itself came in by no interface, and only that comes here; take the match out"
                }
                Test::Out(_) if graph.only_from(chain, Hook::Input) => {
                    "what is for the gateway itself goes out by no interface, and only that comes here; take the match out"
                }
                _ => continue,
            };
            self.warn(field(test), text);
        }
    }

    /// Which protocols and families are left by all matches together, and whether the action fits them.
    fn meaning(&mut self) {
        let mut families: Vec<Family> = Family::BOTH.into_iter().filter(|family| self.chain.is_for(*family)).collect();
        let mut protocols = [true; 256];
        let (mut named, mut ports) = (false, None);
        let mut keep = |holds: &dyn Fn(u8) -> bool| {
            (0..=255u8).zip(&mut protocols).for_each(|(number, left)| *left &= holds(number));
        };
        for Match { negated, test } in &self.rule.matches {
            match test {
                Test::Protocol(numbers) => {
                    named |= !negated;
                    keep(&|number| numbers.contains(&number) != *negated);
                }
                Test::SourcePort(_) | Test::DestinationPort(_) | Test::EitherPort(_) => {
                    ports = Some(field(test));
                    keep(&|number| WITH_PORTS.contains(&number));
                }
                Test::TcpFlags { .. } => keep(&|number| number == TCP),
                Test::Icmp(_) => {
                    let v4 = families.contains(&Family::V4);
                    let v6 = families.contains(&Family::V6);
                    keep(&|number| number == ICMP && v4 || number == ICMPV6 && v6);
                }
                Test::Source(ranges) | Test::Destination(ranges) if !negated => {
                    families.retain(|family| ranges.iter().any(|range| Family::of(*range.start()) == *family));
                }
                _ => {}
            }
        }
        if let (Some(field), false) = (ports, named) {
            self.error(field, "ports are looked at of a named protocol only; add `protocol: tcp`, or `[tcp, udp]`");
        }
        // What a list means that is empty, or of the wrong family, was said already.
        let said = self.rule.matches.iter().any(|Match { test, .. }| is_empty(test)) || self.wrong_family();
        let nothing = families.is_empty() || protocols.iter().all(|left| !left);
        if nothing && !said {
            let field = if families.is_empty() { "from" } else { "protocol" };
            let why = if families.is_empty() {
                "`from` and `to` are of different families"
            } else {
                "its protocols, and those whose ports, flags or types it looks at, exclude one another"
            };
            self.warn(field, format!("{NO_PACKET}: {why}; take one of them out"));
        }
        if let (Action::Reject(with), false) = (&self.rule.action, nothing) {
            self.reject(*with, &families, (0..=255u8).zip(protocols).all(|(number, left)| left == (number == TCP)));
        }
    }

    fn wrong_family(&self) -> bool {
        let Some(family) = self.chain.families else { return false };
        self.rule.matches.iter().any(|Match { test, .. }| match test {
            Test::Source(ranges) | Test::Destination(ranges) => {
                ranges.iter().any(|range| Family::of(*range.start()) != family)
            }
            _ => false,
        })
    }

    fn reject(&mut self, with: RejectWith, families: &[Family], only_tcp: bool) {
        if with == RejectWith::TcpReset && !only_tcp {
            self.error("action", "only TCP can be reset; add `protocol: tcp`, or reject in another way");
        }
        if let Some(family) = families.iter().find(|family| !with.is_of(**family)) {
            let text = format!(
                "{family} has no {:?}; use admin-prohibited, or put the rule into a chain for {} only",
                reject_name(with),
                if *family == Family::V4 { Family::V6 } else { Family::V4 }
            );
            self.error("action", text);
        }
    }

    fn limit_and_log(&mut self) {
        if self.rule.log.as_ref().and_then(|log| log.level).is_some_and(|level| level > 7) {
            self.error("log.level", "a level is 0 to 7; write one of these, or its name");
        }
        let Some(limit) = self.rule.limit else { return };
        if limit.packets == 0 || limit.burst == 0 {
            let text = "a limit of 0 lets no packet meet the rule; write at least 1, or take the rule out";
            self.error(if limit.packets == 0 { "limit.rate" } else { "limit.burst" }, text);
        }
    }
}

impl RejectWith {
    /// Whether a family has this kind of refusal.
    pub fn is_of(self, family: Family) -> bool {
        match self {
            RejectWith::ProtocolUnreachable | RejectWith::NetProhibited | RejectWith::HostProhibited => {
                family == Family::V4
            }
            RejectWith::PolicyFail | RejectWith::RejectRoute => family == Family::V6,
            RejectWith::TcpReset
            | RejectWith::NetUnreachable
            | RejectWith::HostUnreachable
            | RejectWith::PortUnreachable
            | RejectWith::AdminProhibited => true,
        }
    }
}

/// What a rule file calls a test.
fn field(test: &Test) -> &'static str {
    match test {
        Test::In(_) => "in",
        Test::Out(_) => "out",
        Test::Source(_) => "from",
        Test::Destination(_) => "to",
        Test::Set { .. } => "set",
        Test::Protocol(_) => "protocol",
        Test::SourcePort(_) => "fromPort",
        Test::DestinationPort(_) => "toPort",
        Test::EitherPort(_) => "port",
        Test::Icmp(_) => "icmp",
        Test::TcpFlags { .. } => "tcpFlags",
        Test::State(_) => "state",
        Test::Nothing(_) => "never",
    }
}

/// Whether a test is a list without members.
fn is_empty(test: &Test) -> bool {
    match test {
        Test::In(list) | Test::Out(list) => list.is_empty(),
        Test::Source(list) | Test::Destination(list) => list.is_empty(),
        Test::Protocol(list) => list.is_empty(),
        Test::SourcePort(list) | Test::DestinationPort(list) | Test::EitherPort(list) => list.is_empty(),
        Test::Icmp(list) => list.is_empty(),
        Test::State(states) => states.0 == 0,
        Test::Set { .. } | Test::TcpFlags { .. } | Test::Nothing(_) => false,
    }
}
