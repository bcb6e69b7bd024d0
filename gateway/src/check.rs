//! What is wrong with a rule set, wherever it comes from: what a rule speak of that is not there, what no packet can meet,
//! what an engine could not carry out.
//!
//! An error makes a rule set unusable: nobody may judge packets by it. A warning says that a rule means nothing, or nothing
//! more than without one of its matches, and so probably not what was meant.

mod jumps;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use dataplane::address::Address;

use crate::model::{Chain, Dimension, Element, Family, Group, Hook, Origin, Part, Ruleset, Set};

/// So many errors, and so many warnings, are told at once.
pub const MOST_PROBLEMS: usize = 50;
/// An interface's name is no longer than this many bytes (`IFNAMSIZ` with its zero).
const LONGEST_INTERFACE: usize = 15;
/// A name in a rule file is no longer than this many bytes.
const LONGEST_NAME: usize = 255;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The rule set can't be used.
    Error,
    /// It can; but somebody probably meant something else.
    Warning,
}

/// Something wrong with a rule set. Displayed, it is one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is written.
    pub origin: Origin,
    /// What it is wrong with: `forward rule 3 (web)`, `set servers`. Empty: the file.
    pub object: String,
    /// The field of it. Empty: all of it.
    pub field: String,
    /// What is wrong, and what to do about it.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.text)
    }
}

impl Ruleset {
    /// What is wrong with the rule set: at most [`MOST_PROBLEMS`] errors and as many warnings. Whoever has a rule set without
    /// errors can follow all of its names, and every jump comes to an end.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        for (name, group) in &self.groups {
            check_group(name, group, &mut problems);
        }
        for (name, set) in &self.sets {
            check_set(name, set, &mut problems);
        }
        let graph = jumps::Graph::new(self);
        check_chains(self, &mut problems);
        graph.check(&mut problems);
        rules::check(self, &graph, &mut problems);
        problems.into_vec()
    }
}

/// Problems as they are found: the first ones of each severity.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    errors: usize,
    warnings: usize,
}

impl Problems {
    /// Tells of an error.
    pub(crate) fn error(&mut self, origin: &Origin, object: &str, field: &str, text: impl Into<String>) {
        self.errors += 1;
        if self.errors <= MOST_PROBLEMS {
            self.push(Severity::Error, origin, object, field, text.into());
        }
    }

    /// Tells of something that is probably not meant.
    pub(crate) fn warn(&mut self, origin: &Origin, object: &str, field: &str, text: impl Into<String>) {
        self.warnings += 1;
        if self.warnings <= MOST_PROBLEMS {
            self.push(Severity::Warning, origin, object, field, text.into());
        }
    }

    fn push(&mut self, severity: Severity, origin: &Origin, object: &str, field: &str, text: String) {
        let (object, field) = (object.to_owned(), field.to_owned());
        self.list.push(Problem { severity, origin: origin.clone(), object, field, text });
    }

    /// Whether no further error is told: what it costs to word one can be saved.
    pub(crate) fn full(&self) -> bool {
        self.errors >= MOST_PROBLEMS
    }

    /// How many errors there are, told or not.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// Adds those of another list.
    pub(crate) fn extend(&mut self, others: Vec<Problem>) {
        for Problem { severity, origin, object, field, text } in others {
            match severity {
                Severity::Error => self.error(&origin, &object, &field, text),
                Severity::Warning => self.warn(&origin, &object, &field, text),
            }
        }
    }

    /// All that are told, in the order in which they were found.
    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.list
    }
}

/// What a problem calls a chain.
pub(crate) fn chain_object(name: &str, is_hook: bool) -> String {
    if is_hook { name.to_owned() } else { format!("chain {name}") }
}

/// What a problem calls a rule; `index` counts from 0.
pub(crate) fn rule_object(chain: &str, is_hook: bool, index: usize, name: Option<&str>) -> String {
    let chain = chain_object(chain, is_hook);
    match name {
        Some(name) => format!("{chain} rule {} ({name})", index + 1),
        None => format!("{chain} rule {}", index + 1),
    }
}

/// Words of iptables and nftables, and those of a rule file: some look nearer to a word that means something else.
const OTHER_WORDS: [(&str, &str); 19] = [
    ("accept", "allow"),
    ("ctstate", "state"),
    ("deny", "drop"),
    ("destination", "to"),
    ("dport", "toPort"),
    ("dports", "toPort"),
    ("dst", "to"),
    ("iif", "in"),
    ("iifname", "in"),
    ("jump", "action"),
    ("oif", "out"),
    ("oifname", "out"),
    ("proto", "protocol"),
    ("saddr", "from"),
    ("daddr", "to"),
    ("source", "from"),
    ("sport", "fromPort"),
    ("sports", "fromPort"),
    ("src", "from"),
];

/// What somebody may have meant who wrote `word`: the nearest of the words there are, if any is near, as a question.
pub(crate) fn did_you_mean<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    let words: Vec<&str> = words.collect();
    let other = OTHER_WORDS.iter().find(|(other, meant)| *other == word && words.contains(meant));
    let far = (word.chars().count() / 3).max(2);
    let near = || {
        let distance = |other: &str| strsim::damerau_levenshtein(&word, &other.to_lowercase());
        let (distance, nearest) = words.iter().map(|other| (distance(other), *other)).min()?;
        (distance <= far && distance < nearest.chars().count()).then_some(nearest)
    };
    let meant = other.map(|(_, meant)| *meant).or_else(near)?;
    Some(format!("did you mean {meant:?}?"))
}

fn check_name(name: &str, origin: &Origin, object: &str, problems: &mut Problems) {
    if name.is_empty() {
        problems.error(origin, object, "", "its name is empty; give it one");
    } else if name.len() > LONGEST_NAME {
        let text = format!("its name has {} bytes, more than {LONGEST_NAME}; give it a shorter one", name.len());
        problems.error(origin, object, "", text);
    }
}

fn check_group(name: &str, group: &Group, problems: &mut Problems) {
    let object = format!("group {name}");
    check_name(name, &group.origin, &object, problems);
    if group.interfaces.is_empty() {
        problems.warn(&group.origin, &object, "interfaces", "no interface is in it; name one, such as eth0 or veth+");
    }
    for interface in &group.interfaces {
        let bad = |character: char| character.is_whitespace() || character.is_control() || character == '/';
        if interface.is_empty() || interface.len() > LONGEST_INTERFACE || interface.contains(bad) {
            let text = format!(
                "{interface:?} can't be an interface's name: it has 1 to {LONGEST_INTERFACE} bytes, no space and no `/`"
            );
            problems.error(&group.origin, &object, "interfaces", text);
        }
    }
}

fn check_set(name: &str, set: &Set, problems: &mut Problems) {
    let object = format!("set {name}");
    check_name(name, &set.origin, &object, problems);
    if !(1..=3).contains(&set.dimensions.len()) {
        let text = format!("its elements would have {} parts; write one to three", set.dimensions.len());
        problems.error(&set.origin, &object, "of", text);
        return;
    }
    for (field, elements) in [("elements", &set.elements), ("except", &set.exceptions)] {
        for (index, element) in elements.iter().enumerate() {
            if let Some(text) = misfit(element, &set.dimensions) {
                problems.error(&set.origin, &object, &format!("{field}[{index}]"), text);
            }
        }
    }
}

/// Why an element can't be in a set of these dimensions.
fn misfit(element: &Element, dimensions: &[Dimension]) -> Option<String> {
    let kinds = element.iter().map(|part| match part {
        Part::Addresses(_) => Dimension::Address,
        Part::Ports(..) => Dimension::Port,
    });
    if !kinds.eq(dimensions.iter().copied()) {
        return Some("it is not made of the parts that the set's `of` names; write it as they say".to_owned());
    }
    let empty = element.iter().any(|part| match part {
        Part::Addresses(range) => !is_range(range),
        Part::Ports(_, range) => range.is_empty(),
    });
    empty.then(|| "its range ends before it begins, or in the other family; write the first address first".to_owned())
}

/// Whether a range of addresses is one: of one family, with an address in it.
pub(crate) fn is_range(range: &std::ops::RangeInclusive<Address>) -> bool {
    !range.is_empty() && range.start().is_v4() == range.end().is_v4()
}

/// The names of chains, each by itself and beside the others.
fn check_chains(ruleset: &Ruleset, problems: &mut Problems) {
    let mut first: HashMap<(&str, Family), &Chain> = HashMap::new();
    for chain in &ruleset.chains {
        let object = chain_object(&chain.name, chain.hook.is_some());
        check_name(&chain.name, &chain.origin, &object, problems);
        match (chain.hook, Hook::ALL.iter().find(|hook| hook.name() == chain.name)) {
            (Some((hook, _)), _) if hook.name() != chain.name => {
                let text = format!("a hook's own chain has the hook's name; call it {:?}", hook.name());
                problems.error(&chain.origin, &object, "", text);
            }
            (None, Some(hook)) => {
                let text = format!("{:?} is the name of a hook's own chain; give this one another", hook.name());
                problems.error(&chain.origin, &object, "", text);
            }
            _ => {}
        }
        let twice = Family::BOTH
            .into_iter()
            .filter(|family| chain.is_for(*family))
            .filter_map(|family| Some((family, first.insert((&chain.name, family), chain)?)))
            .next();
        if let Some((family, other)) = twice {
            let text = format!(
                "there is a chain of this name for {family} already, at {}; give one of them another name, or put their rules together",
                other.origin
            );
            problems.error(&chain.origin, &object, "", text);
        }
    }
}
