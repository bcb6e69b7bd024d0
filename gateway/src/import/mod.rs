//! Rules from iptables: what `iptables-save`, `ip6tables-save` and `ipset save` print, as a [`Ruleset`].
//!
//! Only the filter table is taken over. What the other tables do stays in the kernel: the [`Report`] says which rules those are, and which
//! rules of the filter table depend on them. A rule that can't be expressed is refused, with its line, the match, and why; never left out.

mod ipset;
mod marks;
mod matches;
mod report;
mod rule;
mod targets;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::check::Severity;
use crate::model::{Action, Chain, Family, Group, Hook, Origin, Policy, Rule, Ruleset};
use marks::Marks;
pub use report::Report;

/// So many errors are told at once.
const MOST_ERRORS: usize = 50;

/// What a dump is read with.
#[derive(Clone, Debug)]
pub struct Options {
    /// IPv4 for `iptables-save`, IPv6 for `ip6tables-save`.
    pub family: Family,
    /// What the dump is called in errors.
    pub file: Arc<str>,
    /// What `ipset save` prints, with its name, for rules with `--match-set`.
    pub ipset: Option<(Arc<str>, String)>,
    /// Names of interface groups, by interface or pattern as it stands behind `-i` and `-o`. Others are groups of their own name.
    pub interfaces: BTreeMap<String, String>,
    /// The gateway's own addresses, for `addrtype`.
    pub local: Vec<IpNet>,
    /// Keep rules that can't be expressed as rules that mean no packet.
    pub lenient: bool,
}

impl Options {
    /// For a dump of this family, by this name, and nothing else.
    pub fn new(family: Family, file: Arc<str>) -> Options {
        Options { family, file, ipset: None, interfaces: BTreeMap::new(), local: Vec::new(), lenient: false }
    }
}

/// Rules that were taken over, and what people should know of that.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The rules.
    pub ruleset: Ruleset,
    /// What stays in the kernel, and what was taken for granted.
    pub report: Report,
}

/// Why a dump is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// Where.
    pub origin: Origin,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// Takes a dump over.
///
/// # Errors
/// All that is wrong with it, the first 50.
pub fn import(dump: &str, options: &Options) -> Result<Imported, Vec<ImportError>> {
    let tables = match tables(dump, &options.file) {
        Ok(tables) => tables,
        Err(error) => return Err(vec![error]),
    };
    let mut importer = Importer {
        options,
        marks: Marks::of(&tables),
        ruleset: Ruleset::default(),
        sets: HashSet::new(),
        report: Report::default(),
        errors: Vec::new(),
    };
    importer.report.kernel(&tables);
    for table in tables.iter().filter(|table| table.name == "filter") {
        importer.table(table);
    }
    importer.finish()
}

/// Reads a map of interfaces to groups: a line `eth0 wan` or `eth0=wan` each, comments from `#` on.
///
/// # Errors
/// Lines that are none.
pub fn interfaces(file: &Arc<str>, text: &str) -> Result<BTreeMap<String, String>, Vec<ImportError>> {
    let (mut map, mut errors) = (BTreeMap::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || c == '=').filter(|w| !w.is_empty()).collect();
        let mut fail = |text: String| {
            errors.push(ImportError { origin: Origin { file: Arc::clone(file), line: number }, text });
        };
        match words[..] {
            [] => {}
            [interface, group] => {
                if let Some(other) = map.insert(interface.to_owned(), group.to_owned()) {
                    fail(format!("{interface} is in group {other} already; an interface of iptables has one group"));
                }
            }
            _ => fail(format!("{:?} is no interface with its group; write a line such as `eth0 wan`", line.trim())),
        }
    }
    if errors.is_empty() { Ok(map) } else { Err(errors) }
}

/// A table of a dump.
struct Table<'a> {
    name: &'a str,
    /// Chains with their policies, in order; `None` of users' chains.
    chains: Vec<(&'a str, Option<&'a str>, Origin)>,
    /// Rules: the chain, the other words, the line.
    rules: Vec<(&'a str, &'a str, Origin)>,
}

/// Takes a dump apart.
fn tables<'a>(dump: &'a str, file: &Arc<str>) -> Result<Vec<Table<'a>>, ImportError> {
    let mut tables = Vec::new();
    let mut open: Option<Table<'a>> = None;
    let mut last = 0;
    for (number, line) in (1..).zip(dump.lines()) {
        last = number;
        let origin = Origin { file: Arc::clone(file), line: number };
        let fail = |text: String| Err(ImportError { origin: origin.clone(), text });
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('*') {
            if let Some(table) = &open {
                return fail(format!(
                    "table {name} begins before table {} ends with COMMIT: the dump is cut",
                    table.name
                ));
            }
            open = Some(Table { name, chains: Vec::new(), rules: Vec::new() });
            continue;
        }
        let Some(table) = &mut open else {
            return fail(format!("{line:?} stands outside of a table: this is not what iptables-save prints"));
        };
        if line == "COMMIT" {
            tables.extend(open.take());
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (Some(name), Some(policy)) = (words.next(), words.next()) else {
                return fail(format!("{line:?} declares no chain: a name and a policy are expected"));
            };
            if table.chains.iter().any(|(known, ..)| *known == name) {
                return fail(format!("chain {name} is declared twice in table {}", table.name));
            }
            table.chains.push((name, (policy != "-").then_some(policy), origin));
        } else {
            // Counters of iptables-save -c.
            let rule = match line.strip_prefix('[') {
                Some(counted) => counted.split_once(']').map_or("", |(_, rule)| rule.trim_start()),
                None => line,
            };
            let Some((chain, words)) = rule.strip_prefix("-A ").map(|rule| rule.split_once(' ').unwrap_or((rule, "")))
            else {
                return fail(format!("{line:?} is no rule: a line of iptables-save begins with `-A CHAIN`"));
            };
            if !table.chains.iter().any(|(known, ..)| *known == chain) {
                return fail(format!(
                    "there is no chain {chain} in table {}: the dump has no line `:{chain}`",
                    table.name
                ));
            }
            table.rules.push((chain, words, origin));
        }
    }
    if let Some(table) = open {
        let origin = Origin { file: Arc::clone(file), line: last };
        return Err(ImportError {
            origin,
            text: format!("table {} does not end with COMMIT: the dump is cut", table.name),
        });
    }
    if tables.is_empty() {
        let origin = Origin { file: Arc::clone(file), line: 0 };
        let text = "there is no table in it: give it what iptables-save or ip6tables-save prints".to_owned();
        return Err(ImportError { origin, text });
    }
    Ok(tables)
}

struct Importer<'a> {
    options: &'a Options,
    marks: Marks,
    ruleset: Ruleset,
    /// Sets that rules name.
    sets: HashSet<String>,
    report: Report,
    errors: Vec<ImportError>,
}

impl Importer<'_> {
    fn table(&mut self, table: &Table<'_>) {
        let mut places = HashMap::new();
        let names: HashMap<&str, String> =
            table.chains.iter().map(|(name, policy, _)| (*name, own_name(name, *policy))).collect();
        for (name, policy, origin) in &table.chains {
            let hook = match (*name, *policy) {
                (_, None) => None,
                ("INPUT", Some(policy)) => Some((Hook::Input, policy)),
                ("FORWARD", Some(policy)) => Some((Hook::Forward, policy)),
                ("OUTPUT", Some(policy)) => Some((Hook::Output, policy)),
                (name, Some(_)) => {
                    let text =
                        format!("chain {name} has a policy and is none of INPUT, FORWARD, OUTPUT of the filter table");
                    self.errors.push(ImportError { origin: origin.clone(), text });
                    None
                }
            };
            let hook = hook.and_then(|(hook, policy)| match policy {
                "ACCEPT" => Some((hook, Policy::Allow)),
                "DROP" => Some((hook, Policy::Drop)),
                other => {
                    let text = format!("chain {name} has the policy {other:?}; iptables knows ACCEPT and DROP");
                    self.errors.push(ImportError { origin: origin.clone(), text });
                    None
                }
            });
            let own = names[name].clone();
            if hook.is_none() && own != *name {
                self.report.notes.push(format!("{origin}: chain {name} is called {own}: {name} is a hook's name"));
            }
            places.insert(*name, self.ruleset.chains.len());
            let families = Some(self.options.family);
            self.ruleset.chains.push(Chain { name: own, families, hook, rules: Vec::new(), origin: origin.clone() });
        }
        for (chain, words, origin) in &table.rules {
            let rule = self.rule(words, origin, &names);
            let rule = match rule {
                Ok(rule) => rule,
                Err(reason) if self.options.lenient => self.left_out(words, origin, &reason),
                Err(reason) => {
                    self.errors
                        .push(ImportError { origin: origin.clone(), text: format!("{reason} (`-A {chain} {words}`)") });
                    continue;
                }
            };
            if let Some(chain) = places.get(chain).and_then(|place| self.ruleset.chains.get_mut(*place)) {
                chain.rules.push(rule);
            }
        }
    }

    /// A rule that can't be expressed, in its place and meaning nothing.
    fn left_out(&mut self, words: &str, origin: &Origin, reason: &str) -> Rule {
        let allows = words.contains("-j ACCEPT") || words.contains("-j RETURN");
        let side = if allows { "what it would allow may be refused" } else { "what it would refuse may be ALLOWED" };
        self.report.left_out.push(format!("{origin}: {reason}; the rule means nothing now, and {side}: `{words}`"));
        Rule {
            name: None,
            comment: Some(words.to_owned()),
            origin: origin.clone(),
            matches: vec![crate::model::Match::is(crate::model::Test::Nothing(reason.to_owned()))],
            limit: None,
            log: None,
            action: Action::Continue,
        }
    }

    /// The group of an interface as it stands behind `-i` or `-o`.
    fn group(&mut self, interface: &str, origin: &Origin) -> String {
        let name = self.options.interfaces.get(interface).map_or(interface, String::as_str).to_owned();
        let new = || Group { interfaces: Vec::new(), networks: Vec::new(), origin: origin.clone() };
        let group = self.ruleset.groups.entry(name.clone()).or_insert_with(new);
        if !group.interfaces.iter().any(|known| known == interface) {
            group.interfaces.push(interface.to_owned());
        }
        name
    }

    fn finish(mut self) -> Result<Imported, Vec<ImportError>> {
        self.take_sets();
        if self.errors.is_empty() {
            let (errors, warnings): (Vec<_>, Vec<_>) =
                self.ruleset.check().into_iter().partition(|problem| problem.severity == Severity::Error);
            self.report.notes.extend(warnings.iter().map(ToString::to_string));
            let error = |problem: crate::check::Problem| ImportError {
                origin: problem.origin,
                text: format!("{}: {}", problem.object, problem.text),
            };
            self.errors = errors.into_iter().map(error).collect();
        }
        if self.errors.is_empty() {
            return Ok(Imported { ruleset: self.ruleset, report: self.report });
        }
        let more = self.errors.len().saturating_sub(MOST_ERRORS);
        self.errors.truncate(MOST_ERRORS);
        if more > 0 {
            let origin = Origin { file: Arc::clone(&self.options.file), line: 0 };
            self.errors.push(ImportError { origin, text: format!("and {more} errors more") });
        }
        Err(self.errors)
    }
}

/// What a chain is called: hooks' own chains have the hooks' names, and nobody else has.
fn own_name(name: &str, policy: Option<&str>) -> String {
    match (name, policy) {
        ("INPUT" | "FORWARD" | "OUTPUT", Some(_)) => name.to_lowercase(),
        ("input" | "forward" | "output", _) => format!("{name}-chain"),
        _ => name.to_owned(),
    }
}
