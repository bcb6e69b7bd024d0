//! Sets, as `ipset save` prints them.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::rule::{UNSEEN_PORTS, unseen_ports};
use super::words::words;
use super::{ImportError, Importer};
use crate::model::{Dimension, Element, Family, Origin, Part, Set};
use crate::values;

/// A set as it was created.
struct Created {
    kind: String,
    dimensions: Vec<Dimension>,
    /// Addresses stand for their network of this length.
    netmask: Option<u8>,
    elements: Vec<(String, Vec<String>, Origin)>,
    origin: Origin,
}

/// What the elements of a type of set are made of.
fn dimensions(kind: &str) -> Option<Vec<Dimension>> {
    let parts = kind.split_once(':')?.1;
    let part = |part: &str| match part {
        "ip" | "net" => Some(Dimension::Address),
        "port" => Some(Dimension::Port),
        _ => None,
    };
    parts.split(',').map(part).collect()
}

fn protocol(part: &Part) -> Option<u8> {
    match part {
        Part::Ports(protocol, _) => *protocol,
        Part::Addresses(_) => None,
    }
}

fn is_unseen(part: &Part) -> bool {
    protocol(part).is_some_and(|number| UNSEEN_PORTS.contains(&number))
}

impl Importer<'_> {
    /// Takes over the sets that rules name.
    pub(super) fn take_sets(&mut self) {
        let names: Vec<(String, Origin)> =
            self.sets.iter().map(|(name, origin)| (name.clone(), origin.clone())).collect();
        let Some((file, text)) = &self.options.ipset else {
            if let Some((name, origin)) = names.iter().min_by_key(|(_, origin)| origin.line) {
                let more = match names.len() {
                    1 => String::new(),
                    number => format!(", as others do {} more", number - 1),
                };
                let text = format!("this rule names the set {name}{more}: give what `ipset save` prints with --ipset");
                self.errors.push(ImportError { origin: origin.clone(), text });
            }
            return;
        };
        let created = match created(file, text) {
            Ok(created) => created,
            Err(error) => return self.errors.push(error),
        };
        for (name, origin) in names {
            match created.get(&name) {
                None => {
                    let text = format!(
                        "this rule names the set {name}, which is not in {file}; save all sets with `ipset save`"
                    );
                    self.errors.push(ImportError { origin, text });
                }
                Some(_) => {
                    if let Some(set) = self.set(&name, &created, 0) {
                        self.ruleset.sets.insert(name, set);
                    }
                }
            }
        }
    }

    fn set(&mut self, name: &str, all: &HashMap<String, Created>, depth: usize) -> Option<Set> {
        let of = all.get(name)?;
        let mut fail = |origin: &Origin, text: String| {
            self.errors.push(ImportError { origin: origin.clone(), text: format!("set {name}: {text}") });
        };
        if of.kind == "list:set" {
            if depth > 8 {
                fail(&of.origin, "sets of sets are nested too deep".to_owned());
                return None;
            }
            let mut set: Option<Set> = None;
            for (member, ..) in &of.elements {
                let member = self.set(member, all, depth + 1)?;
                match &mut set {
                    None => set = Some(Set { origin: of.origin.clone(), ..member }),
                    // An exception is one of its own member's elements, not of another's.
                    Some(set) if !(set.exceptions.is_empty() && member.exceptions.is_empty()) => {
                        let text = format!(
                            "set {name}: some members have exceptions (nomatch), which are no exceptions of the others; write a rule for each member"
                        );
                        self.errors.push(ImportError { origin: of.origin.clone(), text });
                        return None;
                    }
                    Some(set) if set.dimensions == member.dimensions => {
                        set.elements.extend(member.elements);
                        set.exceptions.extend(member.exceptions);
                    }
                    Some(_) => {
                        let text = format!(
                            "set {name}: its members are of different kinds, which one set can't be; write a rule for each"
                        );
                        self.errors.push(ImportError { origin: of.origin.clone(), text });
                        return None;
                    }
                }
            }
            return set;
        }
        if of.dimensions.is_empty() {
            let text = format!(
                "type {} can't be expressed: sets here are of addresses, protocols and ports; take its rules out, or give --lenient",
                of.kind
            );
            fail(&of.origin, text);
            return None;
        }
        let (mut elements, mut exceptions) = (Vec::new(), Vec::new());
        for (text, options, origin) in &of.elements {
            let mut options = options.iter();
            let mut nomatch = false;
            while let Some(option) = options.next() {
                match option.as_str() {
                    "nomatch" => nomatch = true,
                    "comment" | "packets" | "bytes" => drop(options.next()),
                    "timeout" => match options.next().map(String::as_str) {
                        Some("0") => {}
                        _ if self.options.lenient => {
                            self.report
                                .notes
                                .push(format!("{origin}: set {name}: {text} has a timeout, and stays for good here"));
                        }
                        _ => {
                            let text = format!(
                                "set {name}: {text} has a timeout: elements do not go by themselves here; give --lenient to keep it for good"
                            );
                            self.errors.push(ImportError { origin: origin.clone(), text });
                        }
                    },
                    other => {
                        let text = format!("set {name}: {text}: {other} can't be expressed");
                        self.errors.push(ImportError { origin: origin.clone(), text });
                    }
                }
            }
            match element(text, of) {
                Ok(element) if element.iter().any(is_unseen) => {
                    let reason = unseen_ports(element.iter().find_map(protocol).unwrap_or_default());
                    self.errors
                        .push(ImportError { origin: origin.clone(), text: format!("set {name}: {text}: {reason}") });
                }
                Ok(element) if nomatch => exceptions.push(element),
                Ok(element) => elements.push(element),
                Err(reason) => {
                    self.errors.push(ImportError { origin: origin.clone(), text: format!("set {name}: {reason}") });
                }
            }
        }
        Some(Set { dimensions: of.dimensions.clone(), elements, exceptions, file: None, origin: of.origin.clone() })
    }
}

fn element(text: &str, of: &Created) -> Result<Element, String> {
    let parts: Vec<String> =
        text.split(',').zip(&of.dimensions).map(|(part, dimension)| part_of(part, *dimension)).collect();
    let text = if parts.len() == text.split(',').count() { parts.join(",") } else { text.to_owned() };
    let mut element = values::element(&text, &of.dimensions)?;
    if let Some(length) = of.netmask {
        for part in &mut element {
            if let Part::Addresses(range) = part
                && let Ok(net) = IpNet::new((*range.start()).into(), length)
            {
                *range = net.network().into()..=net.broadcast().into();
            }
        }
    }
    Ok(element)
}

/// A part as it is written here: ICMP messages by their numbers, ports without a name for ICMP's.
fn part_of(text: &str, dimension: Dimension) -> String {
    let icmp = |family: Family, name: &str| {
        let found = values::messages(name, values::Context::of(Some(family), &[])).ok()?;
        let [of] = &found[..] else { return None };
        Some(format!("{}/{}-{}/{}", of.kind, of.codes.start(), of.kind, of.codes.end()))
    };
    match (dimension, text.split_once(':')) {
        (Dimension::Port, Some(("icmp", name))) => {
            icmp(Family::V4, name).map_or(text.to_owned(), |name| format!("icmp:{name}"))
        }
        (Dimension::Port, Some(("icmpv6" | "ipv6-icmp", name))) => {
            icmp(Family::V6, name).map_or(text.to_owned(), |name| format!("icmpv6:{name}"))
        }
        _ => text.to_owned(),
    }
}

/// Reads what `ipset save` prints.
fn created(file: &Arc<str>, text: &str) -> Result<HashMap<String, Created>, ImportError> {
    let mut sets: HashMap<String, Created> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let origin = Origin { file: Arc::clone(file), line: number };
        let fail = |text: String| ImportError { origin: origin.clone(), text };
        let words = words(line).map_err(fail)?;
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => {}
            ["create", name, kind, ref options @ ..] => {
                let netmask =
                    options.windows(2).find(|pair| pair[0] == "netmask").and_then(|pair| pair[1].parse().ok());
                let (dimensions, kind) = (dimensions(kind).unwrap_or_default(), kind.to_owned());
                let set = Created { kind, dimensions, netmask, elements: Vec::new(), origin: origin.clone() };
                if sets.insert(name.to_owned(), set).is_some() {
                    return Err(fail(format!("set {name} is created twice")));
                }
            }
            ["add", name, element, ref options @ ..] => {
                let Some(set) = sets.get_mut(name) else {
                    return Err(fail(format!("there is no set {name} to add to: no line creates it")));
                };
                let options = options.iter().map(|&option| option.to_owned()).collect();
                set.elements.push((element.to_owned(), options, origin));
            }
            _ => return Err(fail(format!("{line:?} is no line of `ipset save`"))),
        }
    }
    Ok(sets)
}
