//! Files and their sections: from a text's nodes to groups, sets and chains.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::node::{Content, Kind, Node, parse};
use super::rule::{self, At};
use crate::check::{Problem, Problems, chain_object, rule_object};
use crate::model::{
    Action, Chain, Dimension, Element, Families, Family, Group, Hook, Origin, Policy, Rule, Ruleset, Set,
};
use crate::values;

/// All files of a rule set together have at most so many bytes.
const MAX_BYTES: u64 = 512 << 20;
/// Files include one another at most so deep.
const MAX_INCLUDES: usize = 16;

pub(super) const FILE_KEYS: [&str; 8] = ["family", "include", "groups", "sets", "input", "forward", "output", "chains"];
pub(super) const GROUP_KEYS: [&str; 2] = ["interfaces", "networks"];
pub(super) const SET_KEYS: [&str; 4] = ["of", "elements", "except", "file"];
pub(super) const HOOK_KEYS: [&str; 2] = ["policy", "rules"];
pub(super) const CHAIN_KEYS: [&str; 1] = ["rules"];

/// Reads files into one rule set.
pub(super) struct Loader {
    ruleset: Ruleset,
    problems: Problems,
    /// How many of the errors are within rules: with those alone, the rest can still be checked.
    in_rules: usize,
    /// The files that are being read, each included by the one before.
    open: Vec<PathBuf>,
    done: HashSet<PathBuf>,
    /// How many bytes were read.
    bytes: u64,
    /// Where the first file is.
    directory: PathBuf,
}

impl Loader {
    pub(super) fn new() -> Self {
        Loader {
            ruleset: Ruleset::default(),
            problems: Problems::default(),
            in_rules: 0,
            open: Vec::new(),
            done: HashSet::new(),
            bytes: 0,
            directory: PathBuf::new(),
        }
    }

    /// Reads a file and checks what is in it.
    pub(super) fn file(mut self, path: &Path) -> (Ruleset, Vec<Problem>) {
        let origin = Origin { file: path.to_string_lossy().into(), line: 0 };
        self.directory = directory_of(path).to_owned();
        self.load(path, &origin, "");
        self.checked()
    }

    /// The same of a text.
    pub(super) fn text(mut self, name: &str, text: &str) -> (Ruleset, Vec<Problem>) {
        let path = Path::new(name);
        self.open.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        self.directory = directory_of(path).to_owned();
        self.documents(&name.into(), directory_of(path), text);
        self.checked()
    }

    fn checked(mut self) -> (Ruleset, Vec<Problem>) {
        // What could not be read at all would be missed everywhere.
        if self.problems.errors() == self.in_rules {
            self.problems.extend(self.ruleset.check());
        }
        (self.ruleset, self.problems.into_vec())
    }

    fn at<'p>(&'p mut self, file: &'p Arc<str>, object: impl Into<String>) -> At<'p> {
        At { problems: &mut self.problems, file, object: object.into() }
    }

    /// Reads a file that `origin` asks for.
    fn load(&mut self, path: &Path, origin: &Origin, field: &str) {
        let shown = path.display();
        let canonical = match path.canonicalize() {
            Ok(canonical) => canonical,
            Err(error) => {
                let text = format!("{shown} can't be read ({error}); names are relative to the file they stand in");
                return self.problems.error(origin, "", field, text);
            }
        };
        if self.open.contains(&canonical) {
            let text = format!("{shown} comes to include itself; take this include out");
            return self.problems.error(origin, "", field, text);
        }
        if self.open.len() > MAX_INCLUDES {
            let text = format!("files include one another more than {MAX_INCLUDES} deep; include {shown} further up");
            return self.problems.error(origin, "", field, text);
        }
        if !self.done.insert(canonical.clone()) {
            return;
        }
        match self.contents(path) {
            Ok(text) => {
                self.open.push(canonical);
                self.documents(&path.to_string_lossy().into(), directory_of(path), &text);
                self.open.pop();
            }
            Err(reason) => self.problems.error(origin, "", field, reason),
        }
    }

    fn contents(&mut self, path: &Path) -> Result<String, String> {
        let shown = path.display();
        let mut bytes = Vec::new();
        let left = MAX_BYTES.saturating_sub(self.bytes);
        File::open(path).and_then(|file| file.take(left + 1).read_to_end(&mut bytes)).map_err(|error| {
            format!("{shown} can't be read ({error}); names are relative to the file they stand in")
        })?;
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_BYTES {
            return Err(format!("with {shown}, the files have more than {} MiB; make them smaller", MAX_BYTES >> 20));
        }
        String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            format!("{shown} is not UTF-8 on line {line}; write it in UTF-8")
        })
    }

    fn documents(&mut self, file: &Arc<str>, directory: &Path, text: &str) {
        let documents = match parse(text) {
            Ok(documents) => documents,
            Err(error) => {
                let text = format!("it can't be read as YAML: {}", error.reason);
                return self.at(file, "").error(error.line, "", text);
            }
        };
        let documents: Vec<_> = documents.iter().filter(|document| !document.is_null()).collect();
        if documents.is_empty() && self.open.len() <= 1 {
            self.at(file, "").error(0, "", "there is nothing in it; write `{}` for a rule set without rules");
        }
        for document in documents {
            self.document(file, directory, document);
        }
    }

    fn document(&mut self, file: &Arc<str>, directory: &Path, node: &Node<'_>) {
        let Some(entries) = self.at(file, "").map("", node, &FILE_KEYS) else { return };
        let value = |key: &str| entries.iter().find(|(of, _)| of.text == key).map(|(_, node)| node);
        let families = value("family").and_then(|node| self.at(file, "").value("family", node, family));
        if let Some(node) = value("include") {
            for included in self.at(file, "").lines_of("include", node).unwrap_or_default() {
                let origin = Origin { file: Arc::clone(file), line: included.0 };
                self.load(&directory.join(included.1), &origin, "include");
            }
        }
        for (key, node) in entries {
            match &*key.text {
                "groups" => self.groups(file, node),
                "sets" => self.sets(file, directory, node),
                "chains" => {
                    for (name, node) in self.at(file, "").section("chains", node) {
                        self.chain(file, families, &name.text, None, name.line, node);
                    }
                }
                key_text => {
                    if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.name() == key_text) {
                        self.chain(file, families, hook.name(), Some(hook), key.line, node);
                    }
                }
            }
        }
    }

    fn groups(&mut self, file: &Arc<str>, node: &Node<'_>) {
        for (name, node) in self.at(file, "").section("groups", node) {
            let mut at = self.at(file, format!("group {}", name.text));
            let origin = at.origin(name.line);
            let mut group = Group { interfaces: Vec::new(), networks: Vec::new(), origin };
            if let Content::Map(_) = node.content {
                for (key, node) in at.map("", node, &GROUP_KEYS).unwrap_or_default() {
                    match &*key.text {
                        "interfaces" => group.interfaces = at.many("interfaces", node, rule::word).unwrap_or_default(),
                        "networks" => {
                            let networks = at.many("networks", node, |text, _| values::network(text));
                            group.networks = networks.unwrap_or_default();
                        }
                        _ => {}
                    }
                }
            } else {
                group.interfaces = at.many("", node, rule::word).unwrap_or_default();
            }
            let same = |first: &Group| Group { origin: group.origin.clone(), ..first.clone() } == group;
            if let Some(first) = self.ruleset.groups.get(&*name.text) {
                // Files of two families may each have what both of them need.
                if first.origin.file != *file && same(first) {
                    continue;
                }
                let text = format!("there is a group of this name at {} already; give one another name", first.origin);
                self.at(file, format!("group {}", name.text)).error(name.line, "", text);
            } else {
                self.ruleset.groups.insert(name.text.to_string(), group);
            }
        }
    }

    fn sets(&mut self, file: &Arc<str>, directory: &Path, node: &Node<'_>) {
        for (name, node) in self.at(file, "").section("sets", node) {
            let object = format!("set {}", name.text);
            let Some(set) = self.set(file, directory, object.clone(), name.line, node) else { continue };
            let same = |first: &Set| Set { origin: set.origin.clone(), ..first.clone() } == set;
            if let Some(first) = self.ruleset.sets.get(&*name.text) {
                if first.origin.file != *file && same(first) {
                    continue;
                }
                let text = format!("there is a set of this name at {} already; give one another name", first.origin);
                self.at(file, object).error(name.line, "", text);
            } else {
                self.ruleset.sets.insert(name.text.to_string(), set);
            }
        }
    }

    fn set(&mut self, file: &Arc<str>, directory: &Path, object: String, line: u32, node: &Node<'_>) -> Option<Set> {
        let mut at = self.at(file, object.as_str());
        let origin = at.origin(line);
        let address = vec![Dimension::Address];
        let mut set = Set { dimensions: address, elements: Vec::new(), exceptions: Vec::new(), file: None, origin };
        if !matches!(node.content, Content::Map(_)) {
            set.elements = at.many("", node, |text, _| values::element(text, &set.dimensions))?;
            return Some(set);
        }
        let entries = at.map("", node, &SET_KEYS)?;
        let value = |key: &str| entries.iter().find(|(of, _)| of.text == key).map(|(_, node)| node);
        if let Some(node) = value("of") {
            set.dimensions = at.many("of", node, dimension)?;
            if !(1..=3).contains(&set.dimensions.len()) {
                at.error(node.line, "of", "elements have one to three parts; write for each of them address or port");
                return None;
            }
        }
        let elements = |at: &mut At<'_>, key: &str| -> Option<Vec<Element>> {
            let read = |text: &str, _| values::element(text, &set.dimensions);
            value(key).map_or(Some(Vec::new()), |node| at.many(key, node, read))
        };
        (set.elements, set.exceptions) = (elements(&mut at, "elements")?, elements(&mut at, "except")?);
        match (value("file"), value("elements")) {
            (None, None) => {
                at.error(line, "", "its elements are missing; write `elements`, or the `file` they stand in");
                return None;
            }
            (Some(_), Some(node)) => {
                at.error(node.line, "elements", "its elements stand in a file of their own; write them there");
                return None;
            }
            (None, Some(_)) => {}
            (Some(node), None) => {
                let name = at.value("file", node, rule::word)?;
                let origin = at.origin(node.line);
                let path = directory.join(name);
                match self.contents(&path) {
                    Ok(text) => {
                        let file: Arc<str> = path.to_string_lossy().into();
                        set.elements = self.elements(&file, &object, &set.dimensions, &text);
                    }
                    Err(reason) => self.problems.error(&origin, &object, "file", reason),
                }
                // The name is relative to the file it stands in; the rule set's, to the first file.
                let file = path.strip_prefix(&self.directory).unwrap_or(&path);
                set.file = Some(file.to_string_lossy().into_owned());
            }
        }
        Some(set)
    }

    /// The elements of a set's own file: one a line, and comments from `#` on.
    fn elements(&mut self, file: &Arc<str>, object: &str, dimensions: &[Dimension], text: &str) -> Vec<Element> {
        let mut elements = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or("").trim();
            if text.is_empty() {
                continue;
            }
            match values::element(text, dimensions) {
                Ok(element) => elements.push(element),
                Err(reason) => self.at(file, object).error(line, "", reason),
            }
        }
        elements
    }

    fn chain(
        &mut self,
        file: &Arc<str>,
        families: Families,
        name: &str,
        hook: Option<Hook>,
        line: u32,
        node: &Node<'_>,
    ) {
        let mut at = self.at(file, chain_object(name, hook.is_some()));
        let origin = at.origin(line);
        let known: &[&str] = if hook.is_some() { &HOOK_KEYS } else { &CHAIN_KEYS };
        let Some(entries) = at.map("", node, known) else { return };
        let value = |key: &str| entries.iter().find(|(of, _)| of.text == key).map(|(_, node)| node);
        let policy = match (hook, value("policy")) {
            (None, _) => None,
            (Some(hook), Some(node)) => at.value("policy", node, policy).map(|policy| (hook, policy)),
            (Some(_), None) => {
                at.error(line, "policy", "it is missing; write allow or drop, for packets that no rule answers");
                None
            }
        };
        let rules = match value("rules").map(|node| (node, &node.content)) {
            None | Some((_, Content::Scalar(_, Kind::Null))) => Vec::new(),
            Some((_, Content::List(nodes))) => {
                let before = self.problems.errors();
                let rules =
                    nodes.iter().enumerate().map(|(index, node)| self.rule(file, families, name, hook, index, node));
                let rules = rules.collect();
                self.in_rules += self.problems.errors() - before;
                rules
            }
            Some((node, _)) => {
                at.error(node.line, "rules", "a list of rules is expected; begin each rule with a `-`");
                Vec::new()
            }
        };
        let chain = Chain { name: name.to_owned(), families, hook: policy, rules, origin };
        self.ruleset.chains.push(chain);
    }

    fn rule(
        &mut self,
        file: &Arc<str>,
        families: Families,
        chain: &str,
        hook: Option<Hook>,
        index: usize,
        node: &Node<'_>,
    ) -> Rule {
        let name = match &node.content {
            Content::Map(entries) => entries.iter().find_map(|(key, node)| match &node.content {
                Content::Scalar(text, Kind::Text) if key.text == "name" => Some(&**text),
                _ => None,
            }),
            _ => None,
        };
        let mut at = self.at(file, rule_object(chain, hook.is_some(), index, name));
        let before = at.problems.errors();
        let rule = rule::read(&mut at, families, node);
        if at.problems.errors() == before {
            return rule;
        }
        // A rule with errors keeps its place, so that others keep theirs, and says nothing that would be an error again.
        Rule { matches: Vec::new(), limit: None, action: Action::Continue, ..rule }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn family(text: &str, _: Kind) -> Result<Family, String> {
    let found = Family::BOTH.into_iter().find(|family| family.to_string() == text);
    found.ok_or_else(|| format!("{text:?} is no family; write ipv4 or ipv6, or leave it out for both"))
}

fn policy(text: &str, _: Kind) -> Result<Policy, String> {
    match text {
        "allow" => Ok(Policy::Allow),
        "drop" => Ok(Policy::Drop),
        _ => Err(format!("{text:?} is no policy; write allow or drop")),
    }
}

fn dimension(text: &str, _: Kind) -> Result<Dimension, String> {
    let found = [Dimension::Address, Dimension::Port].into_iter().find(|of| values::dimension_name(*of) == text);
    found.ok_or_else(|| format!("{text:?} is no part of an element; write address or port"))
}
