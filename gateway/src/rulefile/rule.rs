//! One rule: its matches in the order in which they are written, its limit, log and action.

use std::sync::Arc;

use super::node::{Content, Key, Kind, Node};
use crate::check::{Problems, did_you_mean};
use crate::model::{Action, End, Families, Limit, Log, Match, Origin, RejectWith, Rule, States, Test};
use crate::values::{self, FLAGS, REJECTS};

pub(super) const MATCH_KEYS: [&str; 13] =
    ["in", "out", "from", "to", "set", "protocol", "fromPort", "toPort", "port", "icmp", "tcpFlags", "state", "never"];
pub(super) const RULE_KEYS: [&str; 19] = [
    "name", "comment", "in", "out", "from", "to", "set", "protocol", "fromPort", "toPort", "port", "icmp", "tcpFlags",
    "state", "never", "all", "limit", "log", "action",
];
pub(super) const SET_KEYS: [&str; 2] = ["name", "ends"];
pub(super) const FLAG_KEYS: [&str; 2] = ["mask", "set"];
pub(super) const LIMIT_KEYS: [&str; 2] = ["rate", "burst"];
pub(super) const LOG_KEYS: [&str; 2] = ["prefix", "level"];
pub(super) const ACTION_KEYS: [&str; 3] = ["reject", "jump", "goto"];
/// Ends as they are written.
pub(super) const ENDS: [(&str, End); 2] = [("source", End::Source), ("destination", End::Destination)];
/// The flags of a connection's first packet, `syn` for short: of those in the first, just those of the second.
pub(super) const SYN: (u8, u8) = (0x17, 0x02);
/// As many at once as iptables lets through when a limit does not say.
pub(super) const DEFAULT_BURST: u32 = 5;

/// What is read, and who is told what is wrong with it.
pub(super) struct At<'p> {
    pub(super) problems: &'p mut Problems,
    pub(super) file: &'p Arc<str>,
    pub(super) object: String,
}

impl At<'_> {
    pub(super) fn origin(&self, line: u32) -> Origin {
        Origin { file: Arc::clone(self.file), line }
    }

    pub(super) fn error(&mut self, line: u32, field: &str, text: impl Into<String>) {
        let origin = self.origin(line);
        self.problems.error(&origin, &self.object, field, text);
    }

    /// A mapping's entries. Keys that are not known are told of, and what is no mapping.
    pub(super) fn map<'n, 'a>(
        &mut self,
        field: &str,
        node: &'n Node<'a>,
        known: &[&str],
    ) -> Option<&'n [(Key<'a>, Node<'a>)]> {
        let Content::Map(entries) = &node.content else {
            self.error(node.line, field, format!("a mapping is expected, with {}", known.join(", ")));
            return None;
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&&*key.text)) {
            let remedy = did_you_mean(&key.text, known.iter().copied())
                .unwrap_or_else(|| format!("those known are {}", known.join(", ")));
            let field = if field.is_empty() { key.text.to_string() } else { format!("{field}.{}", key.text) };
            self.error(key.line, &field, format!("this key is not known here; {remedy}"));
        }
        Some(entries)
    }

    /// A mapping from names to what they stand for; nothing if nothing is written.
    pub(super) fn section<'n, 'a>(&mut self, field: &str, node: &'n Node<'a>) -> &'n [(Key<'a>, Node<'a>)] {
        match &node.content {
            Content::Map(entries) => entries,
            Content::Scalar(_, Kind::Null) => &[],
            _ => {
                self.error(node.line, field, "a mapping is expected: each name with what it stands for");
                &[]
            }
        }
    }

    pub(super) fn value<T>(
        &mut self,
        field: &str,
        node: &Node<'_>,
        read: impl Fn(&str, Kind) -> Result<T, String>,
    ) -> Option<T> {
        let read = match &node.content {
            Content::Scalar(_, Kind::Null) => {
                Err("nothing is written here; write a value, or take the key out".to_owned())
            }
            Content::Scalar(text, kind) => read(text, *kind),
            Content::List(_) => Err("one value is expected, not a list".to_owned()),
            Content::Map(_) => Err("a value is expected, not a mapping".to_owned()),
        };
        read.map_err(|reason| self.error(node.line, field, reason)).ok()
    }

    /// One value, or a list of them.
    pub(super) fn many<T>(
        &mut self,
        field: &str,
        node: &Node<'_>,
        read: impl Fn(&str, Kind) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let Content::List(nodes) = &node.content else { return Some(vec![self.value(field, node, read)?]) };
        let before = self.problems.errors();
        let values = nodes.iter().filter_map(|node| self.value(field, node, &read)).collect();
        (self.problems.errors() == before).then_some(values)
    }

    /// One text, or a list of them, each with its line.
    pub(super) fn lines_of(&mut self, field: &str, node: &Node<'_>) -> Option<Vec<(u32, String)>> {
        let texts = self.many(field, node, word)?;
        let lines: Vec<u32> = match &node.content {
            Content::List(nodes) => nodes.iter().map(|node| node.line).collect(),
            _ => vec![node.line],
        };
        Some(lines.into_iter().zip(texts).collect())
    }
}

/// A text that is one to every reader of YAML.
pub(super) fn word(text: &str, kind: Kind) -> Result<String, String> {
    match kind {
        Kind::Text => Ok(text.to_owned()),
        kind => Err(format!("{text} is {} to YAML; put it into quotes", kind.name())),
    }
}

/// Reads a rule. What could not be read is told of, and missing from the answer.
pub(super) fn read(at: &mut At<'_>, families: Families, node: &Node<'_>) -> Rule {
    let origin = at.origin(node.line);
    let (limit, log, action) = (None, None, Action::Continue);
    let mut rule = Rule { name: None, comment: None, origin, matches: Vec::new(), limit, log, action };
    let before = at.problems.errors();
    let Some(entries) = at.map("", node, &RULE_KEYS) else { return rule };
    // What ICMP's names mean is known when all matches are.
    let mut icmp = Vec::new();
    for (key, value) in entries {
        match &*key.text {
            "name" => rule.name = at.value("name", value, word),
            "comment" => rule.comment = at.value("comment", value, word),
            "limit" => rule.limit = limit_of(at, value),
            "log" => rule.log = log_of(at, value),
            "action" => rule.action = action_of(at, value).unwrap_or(Action::Continue),
            "all" => all(at, value, &mut rule.matches, &mut icmp),
            key => rule.matches.extend(a_match(at, key, key, value, rule.matches.len(), &mut icmp)),
        }
    }
    // A rule with other errors may have its action under a key that is not known.
    if at.problems.errors() == before && !entries.iter().any(|(key, _)| key.text == "action") {
        at.error(node.line, "action", "it is missing; write allow, drop, reject, continue, return, or a jump");
    }
    let context = values::Context::of(families, &rule.matches);
    for Messages { index, field, node } in icmp {
        let types = at.many(&field, node, |text, _| values::messages(text, context)).unwrap_or_default();
        if let Some(Match { test: Test::Icmp(of), .. }) = rule.matches.get_mut(index) {
            *of = types.into_iter().flatten().collect();
        }
    }
    rule
}

/// A match of ICMP messages that is still to be read.
struct Messages<'n, 'a> {
    /// Which of the rule's matches.
    index: usize,
    field: String,
    node: &'n Node<'a>,
}

fn all<'n, 'a>(at: &mut At<'_>, node: &'n Node<'a>, matches: &mut Vec<Match>, icmp: &mut Vec<Messages<'n, 'a>>) {
    let Content::List(nodes) = &node.content else {
        return at.error(node.line, "all", "a list of matches is expected, as [{state: new}, {set: …}]");
    };
    for (number, node) in nodes.iter().enumerate() {
        let field = format!("all[{number}]");
        for (key, node) in at.map(&field, node, &MATCH_KEYS).unwrap_or_default() {
            matches.extend(a_match(at, &format!("{field}.{}", key.text), &key.text, node, matches.len(), icmp));
        }
    }
}

/// One match. `index` is the place it gets among the rule's.
fn a_match<'n, 'a>(
    at: &mut At<'_>,
    field: &str,
    key: &str,
    node: &'n Node<'a>,
    index: usize,
    icmp: &mut Vec<Messages<'n, 'a>>,
) -> Option<Match> {
    let (negated, node) = node.only("not").map_or((false, node), |inner| (true, inner));
    let ports = |text: &str, _| values::ports(text);
    let test = match key {
        "in" => Test::In(at.many(field, node, word)?),
        "out" => Test::Out(at.many(field, node, word)?),
        "from" | "to" => {
            let (end, of): (_, fn(_) -> _) =
                if key == "from" { (End::Source, Test::Source) } else { (End::Destination, Test::Destination) };
            match (&node.content, node.only("set")) {
                (_, Some(name)) => Test::Set { name: at.value(&format!("{field}.set"), name, word)?, ends: vec![end] },
                (Content::Map(_), None) => {
                    at.error(node.line, field, "addresses are expected, or {set: NAME}, or {not: …} of one of them");
                    return None;
                }
                (Content::List(nodes), _) if nodes.iter().any(|node| node.only("set").is_some()) => {
                    let text = "a set can't stand in a list; write two rules, or put the addresses into the set";
                    at.error(node.line, field, text);
                    return None;
                }
                _ => of(at.many(field, node, |text, _| values::addresses(text))?),
            }
        }
        "set" => set(at, field, node)?,
        "protocol" => Test::Protocol(at.many(field, node, |text, _| values::protocol(text))?),
        "fromPort" => Test::SourcePort(at.many(field, node, ports)?),
        "toPort" => Test::DestinationPort(at.many(field, node, ports)?),
        "port" => Test::EitherPort(at.many(field, node, ports)?),
        "icmp" => {
            icmp.push(Messages { index, field: field.to_owned(), node });
            Test::Icmp(Vec::new())
        }
        "tcpFlags" => flags(at, field, node)?,
        "state" => {
            let states = at.many(field, node, state)?;
            Test::State(states.into_iter().fold(States::default(), States::and))
        }
        "never" => Test::Nothing(at.value(field, node, word)?),
        _ => return None, // told of where the mapping was read
    };
    Some(Match { negated, test })
}

fn set(at: &mut At<'_>, field: &str, node: &Node<'_>) -> Option<Test> {
    let (mut name, mut ends) = (None, None);
    for (key, node) in at.map(field, node, &SET_KEYS)? {
        match &*key.text {
            "name" => name = Some(at.value(&format!("{field}.name"), node, word)?),
            "ends" => ends = Some(at.many(&format!("{field}.ends"), node, end)?),
            _ => {}
        }
    }
    if name.is_none() || ends.is_none() {
        let text =
            "a set is named with the end that each part of its elements is looked for at: {name: …, ends: [source]}";
        at.error(node.line, field, text);
    }
    Some(Test::Set { name: name?, ends: ends? })
}

fn end(text: &str, _: Kind) -> Result<End, String> {
    let found = ENDS.iter().find(|(name, _)| *name == text).map(|(_, end)| *end);
    found.ok_or_else(|| format!("{text:?} is no end of a packet; write source or destination"))
}

fn flags(at: &mut At<'_>, field: &str, node: &Node<'_>) -> Option<Test> {
    if let Content::Scalar(text, _) = &node.content {
        if text == "syn" {
            return Some(Test::TcpFlags { mask: SYN.0, set: SYN.1 });
        }
        at.error(node.line, field, "write syn, or {mask: […], set: […]}: the flags looked at, and those that are set");
        return None;
    }
    let (mut mask, mut set) = (None, None);
    for (key, node) in at.map(field, node, &FLAG_KEYS)? {
        let flags = at.many(&format!("{field}.{}", key.text), node, flag)?.into_iter().fold(0, |all, flag| all | flag);
        if key.text == "mask" { mask = Some(flags) } else { set = Some(flags) }
    }
    if mask.is_none() || set.is_none() {
        at.error(node.line, field, "write both: `mask`, the flags looked at, and `set`, those of them that are set");
    }
    Some(Test::TcpFlags { mask: mask?, set: set? })
}

fn flag(text: &str, _: Kind) -> Result<u8, String> {
    let found = FLAGS.iter().position(|name| *name == text).map(|bit| 1 << bit);
    found.ok_or_else(|| format!("{text:?} is no TCP flag; write one of fin, syn, rst, psh, ack, urg"))
}

fn state(text: &str, _: Kind) -> Result<States, String> {
    let names = States::NAMES.map(|(name, _)| name).join(", ");
    let found = States::NAMES.iter().find(|(name, _)| *name == text).map(|(_, state)| *state);
    found.ok_or_else(|| format!("{text:?} is no state of a connection; write one of {names}"))
}

fn limit_of(at: &mut At<'_>, node: &Node<'_>) -> Option<Limit> {
    if let Content::Scalar(..) = node.content {
        let (packets, per) = at.value("limit", node, |text, _| values::rate(text))?;
        return Some(Limit { packets, per, burst: DEFAULT_BURST });
    }
    let (mut rate, mut burst) = (None, DEFAULT_BURST);
    for (key, node) in at.map("limit", node, &LIMIT_KEYS)? {
        match &*key.text {
            "rate" => rate = Some(at.value("limit.rate", node, |text, _| values::rate(text))?),
            "burst" => {
                let burst_of = |text: &str, kind| match text.parse() {
                    Ok(burst) if kind == Kind::Number => Ok(burst),
                    _ => Err(format!("{text:?} is no number of packets; write one from 1")),
                };
                burst = at.value("limit.burst", node, burst_of)?;
            }
            _ => {}
        }
    }
    if rate.is_none() {
        at.error(node.line, "limit", "its rate is missing; write {rate: 10/minute, burst: 5}");
    }
    rate.map(|(packets, per)| Limit { packets, per, burst })
}

fn log_of(at: &mut At<'_>, node: &Node<'_>) -> Option<Log> {
    if let Content::Scalar(text, kind) = &node.content {
        match (kind, &**text) {
            (Kind::Bool, "true" | "True" | "TRUE") => return Some(Log::default()),
            (Kind::Bool, _) => return None,
            _ => at.error(node.line, "log", "write true, or {prefix: …, level: info}"),
        }
        return None;
    }
    let mut log = Log::default();
    for (key, node) in at.map("log", node, &LOG_KEYS)? {
        match &*key.text {
            "prefix" => log.prefix = at.value("log.prefix", node, word)?,
            "level" => log.level = Some(at.value("log.level", node, |text, _| values::level(text))?),
            _ => {}
        }
    }
    Some(log)
}

fn action_of(at: &mut At<'_>, node: &Node<'_>) -> Option<Action> {
    if let Content::Scalar(..) = node.content {
        return at.value("action", node, |text, _| match text {
            "allow" => Ok(Action::Allow),
            "drop" => Ok(Action::Drop),
            "reject" => Ok(Action::Reject(RejectWith::PortUnreachable)),
            "continue" => Ok(Action::Continue),
            "return" => Ok(Action::Return),
            _ => {
                let known = ["allow", "drop", "reject", "continue", "return"];
                let remedy = did_you_mean(text, known.into_iter()).unwrap_or_else(|| {
                    "write allow, drop, reject, continue or return, {reject: tcp-reset}, {jump: CHAIN} or {goto: CHAIN}".into()
                });
                Err(format!("{text:?} is no action; {remedy}"))
            }
        });
    }
    let entries = at.map("action", node, &ACTION_KEYS)?;
    let [(key, node)] = entries else {
        at.error(node.line, "action", "a rule has one action; write one of reject, jump, goto");
        return None;
    };
    match &*key.text {
        "jump" => at.value("action.jump", node, word).map(Action::Jump),
        "goto" => at.value("action.goto", node, word).map(Action::Goto),
        "reject" => at.value("action.reject", node, reject).map(Action::Reject),
        _ => None,
    }
}

fn reject(text: &str, _: Kind) -> Result<RejectWith, String> {
    let found = REJECTS.iter().find(|(name, _)| *name == text).map(|(_, with)| *with);
    found.ok_or_else(|| {
        format!("{text:?} is no way to reject; write one of {}", REJECTS.map(|(name, _)| name).join(", "))
    })
}
