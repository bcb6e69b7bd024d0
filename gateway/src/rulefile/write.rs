//! A rule set as a rule file.

use super::emit::{Out, quoted};
use super::rule::{ENDS, SYN};
use crate::model::{
    Action, Chain, Dimension, End, Families, Group, Hook, Limit, Log, Policy, RejectWith, Rule, Ruleset, Set, States,
    Test,
};
use crate::values::{self, FLAGS, LEVELS};

/// Writes a rule set as a rule file that begins with these lines as a comment. The same rule set is always written the same.
///
/// Chains keep their order: what one document can't hold, chains of several families or a hook's behind others, goes on in
/// another one. The elements of a set with a file of its own are not written here but by [`write_elements`].
pub fn write(ruleset: &Ruleset, header: &str) -> String {
    let mut out = String::new();
    for line in header.lines() {
        // A comment can't hold every character that a text can.
        let line: String = line.chars().filter(|character| !character.is_control()).collect();
        out.push_str(format!("# {line}").trim_end());
        out.push('\n');
    }
    let runs = documents(&ruleset.chains);
    let first = runs.first().copied().unwrap_or(&[]);
    document(ruleset, first, true).emit(&mut out, 0);
    for chains in runs.iter().skip(1) {
        out.push_str("---\n");
        document(ruleset, chains, false).emit(&mut out, 0);
    }
    out
}

/// A rule on one line: what it means and does, without its name and comment.
pub fn line(of: &Rule, families: Families, ruleset: &Ruleset) -> String {
    let entries = match rule(of, families, ruleset) {
        Out::Block(entries) => entries.into_iter().filter(|(key, _)| key != "name" && key != "comment").collect(),
        _ => Vec::new(),
    };
    let text = Out::Map(entries).flow().unwrap_or_default();
    text.trim_start_matches('{').strip_suffix('}').unwrap_or(&text).to_owned()
}

/// Writes the elements of a set, as its own file has them: one a line.
pub fn write_elements(set: &Set) -> String {
    set.elements.iter().map(|element| values::show_element(element) + "\n").collect()
}

/// The chains in runs that one document each can hold: of the same families, no name twice, hooks' own before others.
fn documents(chains: &[Chain]) -> Vec<&[Chain]> {
    let mut runs = Vec::new();
    let mut start = 0;
    let mut names = std::collections::HashSet::new();
    for (index, chain) in chains.iter().enumerate() {
        let before = chains[start..index].last();
        let fits = before
            .is_none_or(|before| before.families == chain.families && (before.hook.is_some() || chain.hook.is_none()));
        if !(names.insert(&chain.name) && fits) {
            runs.push(&chains[start..index]);
            (start, names) = (index, std::iter::once(&chain.name).collect());
        }
    }
    runs.push(&chains[start..]);
    runs
}

fn document(ruleset: &Ruleset, chains: &[Chain], first: bool) -> Out {
    let mut entries = Vec::new();
    if let Some(family) = chains.first().and_then(|chain| chain.families) {
        entries.push(("family".to_owned(), Out::text(&family.to_string())));
    }
    if first && !ruleset.groups.is_empty() {
        let groups = ruleset.groups.iter().map(|(name, of)| (quoted(name), group(of)));
        entries.push(("groups".to_owned(), Out::Block(groups.collect())));
    }
    if first && !ruleset.sets.is_empty() {
        let sets = ruleset.sets.iter().map(|(name, of)| (quoted(name), set(of)));
        entries.push(("sets".to_owned(), Out::Block(sets.collect())));
    }
    let mut others = Vec::new();
    for chain in chains {
        let rules: Vec<Out> = chain.rules.iter().map(|of| rule(of, chain.families, ruleset)).collect();
        let rules = ("rules".to_owned(), Out::Lines(rules));
        match chain.hook {
            Some((hook, policy)) => {
                let policy = if policy == Policy::Allow { "allow" } else { "drop" };
                let policy = ("policy".to_owned(), Out::text(policy));
                entries.push((hook_key(hook), Out::Block(vec![policy, rules])));
            }
            None => others.push((quoted(&chain.name), Out::Block(vec![rules]))),
        }
    }
    if !others.is_empty() {
        entries.push(("chains".to_owned(), Out::Block(others)));
    }
    Out::Block(entries)
}

fn hook_key(hook: Hook) -> String {
    hook.name().to_owned()
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Out> {
    texts.into_iter().map(|text| Out::text(text)).collect()
}

fn entry(key: &str, value: Out) -> (String, Out) {
    (key.to_owned(), value)
}

fn group(group: &Group) -> Out {
    let interfaces = Out::List(texts(&group.interfaces));
    if group.networks.is_empty() {
        return interfaces;
    }
    let networks = group.networks.iter().map(|network| Out::text(&network.trunc().to_string())).collect();
    Out::Map(vec![entry("interfaces", interfaces), entry("networks", Out::List(networks))])
}

fn set(set: &Set) -> Out {
    let list =
        |elements: &[_]| Out::List(elements.iter().map(|element| scalar(values::show_element(element))).collect());
    if set.dimensions == [Dimension::Address] && set.exceptions.is_empty() && set.file.is_none() {
        return list(&set.elements);
    }
    let mut entries = Vec::new();
    if set.dimensions != [Dimension::Address] {
        let of = set.dimensions.iter().map(|of| Out::text(values::dimension_name(*of)));
        entries.push(entry("of", Out::some(of)));
    }
    match &set.file {
        Some(file) => entries.push(entry("file", Out::text(file))),
        None => entries.push(entry("elements", list(&set.elements))),
    }
    if !set.exceptions.is_empty() {
        entries.push(entry("except", list(&set.exceptions)));
    }
    Out::Map(entries)
}

/// A value whose reader takes numbers as well as text.
fn scalar(text: String) -> Out {
    if text.parse::<u32>().is_ok() { Out::Scalar(text) } else { Out::text(&text) }
}

fn rule(rule: &Rule, families: Families, ruleset: &Ruleset) -> Out {
    let mut entries = Vec::new();
    let texts = [("name", &rule.name), ("comment", &rule.comment)];
    entries.extend(texts.into_iter().filter_map(|(key, text)| Some(entry(key, Out::text(text.as_ref()?)))));
    let context = values::Context::of(families, &rule.matches);
    // From the first match on whose key is taken, all of them stand under `all`, so that they keep their order.
    let mut more: Vec<Vec<(String, Out)>> = Vec::new();
    for of in &rule.matches {
        let taken = |entries: &[(String, Out)], key: &str| entries.iter().any(|(taken, _)| taken == key);
        let into = if more.is_empty() { &entries } else { &more[more.len() - 1] };
        let keys = keys(&of.test, ruleset);
        let free = keys.iter().find(|key| !taken(into, key));
        let key = free.or(keys.first()).copied().unwrap_or_default();
        let written = entry(key, negatable(of.negated, test(&of.test, key, context)));
        match (free.is_some(), more.last_mut()) {
            (true, None) => entries.push(written),
            (true, Some(last)) => last.push(written),
            (false, _) => more.push(vec![written]),
        }
    }
    if !more.is_empty() {
        entries.push(entry("all", Out::List(more.into_iter().map(Out::Map).collect())));
    }
    entries.extend(rule.limit.as_ref().map(|of| entry("limit", limit(of))));
    entries.extend(rule.log.as_ref().map(|of| entry("log", log(of))));
    entries.push(entry("action", action(&rule.action)));
    Out::Block(entries)
}

fn negatable(negated: bool, test: Out) -> Out {
    if negated { Out::Map(vec![entry("not", test)]) } else { test }
}

/// The keys that a test can stand under, the best first.
fn keys(test: &Test, ruleset: &Ruleset) -> &'static [&'static str] {
    match test {
        Test::In(_) => &["in"],
        Test::Out(_) => &["out"],
        Test::Source(_) => &["from"],
        Test::Destination(_) => &["to"],
        Test::Set { name, ends } => {
            let of_ports = ruleset.sets.get(name).is_some_and(|set| set.dimensions != [Dimension::Address]);
            match ends[..] {
                [End::Source] if !of_ports => &["from", "set"],
                [End::Destination] if !of_ports => &["to", "set"],
                _ => &["set"],
            }
        }
        Test::Protocol(_) => &["protocol"],
        Test::SourcePort(_) => &["fromPort"],
        Test::DestinationPort(_) => &["toPort"],
        Test::EitherPort(_) => &["port"],
        Test::Icmp(_) => &["icmp"],
        Test::TcpFlags { .. } => &["tcpFlags"],
        Test::State(_) => &["state"],
        Test::Nothing(_) => &["never"],
    }
}

fn test(test: &Test, key: &str, context: values::Context) -> Out {
    match test {
        Test::In(groups) | Test::Out(groups) => Out::some(texts(groups)),
        Test::Source(ranges) | Test::Destination(ranges) => {
            Out::some(ranges.iter().map(|range| Out::text(&values::show_addresses(range))))
        }
        Test::Set { name, .. } if key != "set" => Out::Map(vec![entry("set", Out::text(name))]),
        Test::Set { name, ends } => {
            let ends = ends.iter().map(|end| Out::text(if *end == End::Source { ENDS[0].0 } else { ENDS[1].0 }));
            Out::Map(vec![entry("name", Out::text(name)), entry("ends", Out::some(ends))])
        }
        Test::Protocol(numbers) => Out::some(numbers.iter().map(|number| scalar(values::show_protocol(*number)))),
        Test::SourcePort(ranges) | Test::DestinationPort(ranges) | Test::EitherPort(ranges) => {
            Out::some(ranges.iter().map(|range| scalar(values::show_range(range))))
        }
        Test::Icmp(types) => Out::some(values::show_messages(types, context).into_iter().map(scalar)),
        Test::TcpFlags { mask, set } if (*mask, *set) == SYN => Out::text("syn"),
        Test::TcpFlags { mask, set } => {
            let flags = |bits: u8| {
                let set = (0..8).filter(move |bit| bits & 1 << bit != 0);
                Out::List(set.map(|bit: usize| Out::text(FLAGS[bit])).collect())
            };
            Out::Map(vec![entry("mask", flags(*mask)), entry("set", flags(*set))])
        }
        Test::State(states) => {
            let set = States::NAMES.iter().filter(|(_, state)| states.meets(*state));
            Out::List(set.map(|(name, _)| Out::text(name)).collect())
        }
        Test::Nothing(reason) => Out::text(reason),
    }
}

fn limit(limit: &Limit) -> Out {
    let burst = Out::Scalar(limit.burst.to_string());
    Out::Map(vec![entry("rate", Out::text(&values::show_rate(limit))), entry("burst", burst)])
}

fn log(log: &Log) -> Out {
    let mut entries = Vec::new();
    if !log.prefix.is_empty() {
        entries.push(entry("prefix", Out::text(&log.prefix)));
    }
    if let Some(level) = log.level {
        let name = LEVELS.get(usize::from(level)).map_or_else(|| level.to_string(), |name| (*name).to_owned());
        entries.push(entry("level", scalar(name)));
    }
    if entries.is_empty() { Out::Scalar("true".to_owned()) } else { Out::Map(entries) }
}

fn action(action: &Action) -> Out {
    let of = |key: &str, text: &str| Out::Map(vec![entry(key, Out::text(text))]);
    match action {
        Action::Allow => Out::text("allow"),
        Action::Drop => Out::text("drop"),
        Action::Reject(RejectWith::PortUnreachable) => Out::text("reject"),
        Action::Reject(with) => of("reject", values::reject_name(*with)),
        Action::Jump(chain) => of("jump", chain),
        Action::Goto(chain) => of("goto", chain),
        Action::Return => Out::text("return"),
        Action::Continue => Out::text("continue"),
    }
}
