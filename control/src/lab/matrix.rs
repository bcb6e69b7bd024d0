//! Who reaches whom: every pair of endpoints, probed, and shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::probe::ProbeOutcome;
use super::world::Family;
use crate::policy::probe::Service;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The sender: a pod's key or an external address.
    pub from: String,
    /// The receiver: likewise.
    pub to: String,
    /// Destination port.
    pub service: Service,
    /// IPv4 or IPv6.
    pub family: Family,
}

/// All probes of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix {
    /// Senders and receivers, in the order of rows and columns.
    pub endpoints: Vec<String>,
    /// What came of each question.
    pub results: BTreeMap<Question, ProbeOutcome>,
}

/// How a matrix is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Whether colours are used.
    pub colour: bool,
    /// Columns of the terminal; `None` for as many as it takes.
    pub width: Option<u16>,
}

impl Look {
    /// What suits standard output: colours on a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Look {
        let width = Table::new().width();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Look { colour: std::io::stdout().is_terminal() && wanted, width }
    }
}

#[derive(Serialize)]
struct JsonProbe<'a> {
    from: &'a str,
    to: &'a str,
    protocol: String,
    port: u16,
    family: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    changed: bool,
}

impl Matrix {
    /// Whether packets pass, for all families asked: `None` when nothing was asked or proved, or the families differ.
    pub fn passes(&self, from: &str, to: &str, service: Service) -> Option<bool> {
        let mut answers = self.pair(from, to).filter(|(question, _)| question.service == service);
        let first = answers.next()?.1.passes()?;
        answers.all(|(_, outcome)| outcome.passes() == Some(first)).then_some(first)
    }

    /// Number of probes that pass, that are denied, and that prove nothing.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.results.values().fold((0, 0, 0), |(pass, denied, unproved), outcome| match outcome.passes() {
            Some(true) => (pass + 1, denied, unproved),
            Some(false) => (pass, denied + 1, unproved),
            None => (pass, denied, unproved + 1),
        })
    }

    /// The questions whose answer is not what it was.
    pub fn changes<'a>(&'a self, before: &'a Matrix) -> impl Iterator<Item = (&'a Question, &'a ProbeOutcome)> {
        self.results.iter().filter(|(question, outcome)| {
            before.results.get(question).is_some_and(|was| was.passes() != outcome.passes())
        })
    }

    /// One line of JSON: `{"probes": [{"from", "to", "protocol", "port", "family", "outcome", "changed"}, …]}`.
    pub fn to_json(&self, before: Option<&Matrix>) -> String {
        let changed: BTreeSet<_> =
            before.into_iter().flat_map(|before| self.changes(before)).map(|(question, _)| question).collect();
        let probes: Vec<_> = self.results.iter().map(|(question, outcome)| json(question, outcome, &changed)).collect();
        serde_json::json!({ "probes": probes }).to_string()
    }

    /// The table: senders down, receivers across; `✓` everything passes, `✗` nothing does, and otherwise what passes.
    /// Where names would make it wider than the terminal, columns have the numbers of the rows.
    pub fn to_table(&self, before: Option<&Matrix>, look: Look) -> String {
        let changed: BTreeSet<(&str, &str)> = before
            .into_iter()
            .flat_map(|before| self.changes(before))
            .map(|(question, _)| (question.from.as_str(), question.to.as_str()))
            .collect();
        let named = self.draw(&changed, Heads::Names, false);
        let width = named.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let heads =
            if look.width.is_some_and(|limit| width > usize::from(limit)) { Heads::Numbers } else { Heads::Names };
        let mut text = self.draw(&changed, heads, look.colour);
        text.push('\n');
        self.legend(&mut text, !changed.is_empty(), look);
        text
    }

    fn draw(&self, changed: &BTreeSet<(&str, &str)>, heads: Heads, colour: bool) -> String {
        let asked: BTreeSet<&str> = self.results.keys().map(|question| question.to.as_str()).collect();
        let endpoints = self.endpoints.iter().enumerate();
        let receivers: Vec<_> = endpoints.clone().filter(|(_, to)| asked.contains(to.as_str())).collect();
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let head = |(number, to): &(usize, &String)| {
            let text = match heads {
                Heads::Names => format!("{}\n{}", broken(to), self.ports(to)),
                Heads::Numbers => (number + 1).to_string(),
            };
            Cell::new(text).set_alignment(CellAlignment::Center)
        };
        table.set_header(std::iter::once(Cell::new("from ╲ to")).chain(receivers.iter().map(head)));
        for (number, from) in endpoints {
            let row = match heads {
                Heads::Names => from.clone(),
                Heads::Numbers => format!("{} {from} {}", number + 1, self.ports(from)),
            };
            let cells = receivers.iter().map(|(_, to)| {
                if *to == from {
                    return Cell::new("·").set_alignment(CellAlignment::Center).fg(Color::DarkGrey);
                }
                self.cell(from, to, changed.contains(&(from.as_str(), to.as_str())))
            });
            table.add_row(std::iter::once(Cell::new(row)).chain(cells));
        }
        table.to_string()
    }

    fn pair<'a>(&'a self, from: &str, to: &str) -> impl Iterator<Item = (&'a Question, &'a ProbeOutcome)> {
        self.results.iter().filter(move |(question, _)| question.from == from && question.to == to)
    }

    /// The ports of a receiver that are probed.
    fn ports(&self, to: &str) -> String {
        let services: BTreeSet<_> =
            self.results.keys().filter(|question| question.to == to).map(|question| question.service).collect();
        services.into_iter().map(short).collect::<Vec<_>>().join(" ")
    }

    fn cell(&self, from: &str, to: &str, changed: bool) -> Cell {
        let (text, colour) = summary(&self.pair(from, to).collect::<Vec<_>>());
        let text = if changed { format!("{text} *") } else { text };
        let cell = Cell::new(text).set_alignment(CellAlignment::Center).fg(colour);
        if changed { cell.add_attribute(Attribute::Bold) } else { cell }
    }

    fn legend(&self, text: &mut String, changed: bool, look: Look) {
        let (pass, denied, unproved) = self.counts();
        let paint = |colour: AnsiColor, words: String| {
            if look.colour {
                let style = Style::new().fg_color(Some(colour.into()));
                format!("{style}{words}{style:#}")
            } else {
                words
            }
        };
        let pass = paint(AnsiColor::Green, format!("✓ {pass} pass"));
        let denied = paint(AnsiColor::Red, format!("✗ {denied} denied"));
        let _ = write!(text, "{pass}, {denied}");
        if unproved > 0 {
            let _ = write!(text, ", {}", paint(AnsiColor::Yellow, format!("! {unproved} unproved")));
        }
        if changed {
            text.push_str(", * changed");
        }
        text.push('\n');
        let reasons: BTreeSet<String> = self
            .results
            .iter()
            .filter_map(|(question, outcome)| match outcome {
                ProbeOutcome::Broken(why) => {
                    Some(format!("{} {}: the server does not answer itself: {why}", question.to, question.service))
                }
                ProbeOutcome::Error(why) => {
                    Some(format!("{} to {} {}: {why}", question.from, question.to, question.service))
                }
                ProbeOutcome::Unsupported => {
                    Some(format!("{}: the lab does not speak {}", question.service, question.service.protocol))
                }
                _ => None,
            })
            .collect();
        for reason in reasons.iter().take(10) {
            let _ = writeln!(text, "! {reason}");
        }
    }
}

/// What stands above the columns.
#[derive(Clone, Copy)]
enum Heads {
    Names,
    Numbers,
}

/// A name on several lines: the namespace above the pod, an address broken in the middle.
fn broken(name: &str) -> String {
    if let Some((namespace, pod)) = name.split_once('/') {
        return format!("{namespace}/\n{pod}");
    }
    let separators = name.char_indices().filter(|(_, letter)| matches!(letter, '.' | ':'));
    match separators.map(|(at, _)| at + 1).min_by_key(|at| at.abs_diff(name.len() / 2)) {
        Some(at) => format!("{}\n{}", &name[..at], &name[at..]),
        None => name.to_owned(),
    }
}

/// A port in a cell: the bare number for TCP.
fn short(service: Service) -> String {
    match service.protocol {
        dataplane::packet::Protocol::TCP => service.port.to_string(),
        dataplane::packet::Protocol::UDP => format!("{}u", service.port),
        _ => format!("{}s", service.port),
    }
}

/// What a cell says of all probes of a pair.
fn summary(probes: &[(&Question, &ProbeOutcome)]) -> (String, Color) {
    if probes.is_empty() {
        return (String::new(), Color::Reset);
    }
    if probes.iter().all(|(_, outcome)| **outcome == ProbeOutcome::Unsupported) {
        return ("n/a".into(), Color::DarkGrey);
    }
    let answers: Vec<Option<bool>> =
        probes.iter().filter(|probe| *probe.1 != ProbeOutcome::Unsupported).map(|probe| probe.1.passes()).collect();
    if answers.contains(&None) {
        return ("!".into(), Color::Yellow);
    }
    if answers.iter().all(|answer| *answer == Some(true)) {
        return ("✓".into(), Color::Green);
    }
    if answers.iter().all(|answer| *answer == Some(false)) {
        return ("✗".into(), Color::Red);
    }
    // Some pass: name them, and the family only where the families differ.
    let mut passing: BTreeMap<Service, Vec<Family>> = BTreeMap::new();
    let mut asked: BTreeMap<Service, usize> = BTreeMap::new();
    for (question, outcome) in probes {
        *asked.entry(question.service).or_default() += 1;
        if outcome.passes() == Some(true) {
            passing.entry(question.service).or_default().push(question.family);
        }
    }
    let names = passing.iter().map(|(service, families)| match families[..] {
        [family] if asked[service] > 1 => {
            format!("{}({})", short(*service), if family == Family::V4 { "v4" } else { "v6" })
        }
        _ => short(*service),
    });
    (names.collect::<Vec<_>>().join(" "), Color::Yellow)
}

fn json<'a>(question: &'a Question, outcome: &'a ProbeOutcome, changed: &BTreeSet<&Question>) -> JsonProbe<'a> {
    let error = match outcome {
        ProbeOutcome::Broken(why) | ProbeOutcome::Error(why) => Some(why.as_str()),
        _ => None,
    };
    JsonProbe {
        from: &question.from,
        to: &question.to,
        protocol: question.service.protocol.to_string(),
        port: question.service.port,
        family: question.family.name(),
        outcome: outcome.label(),
        error,
        changed: changed.contains(question),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(outcomes: &[(&str, &str, u16, Family, ProbeOutcome)]) -> Matrix {
        let results = outcomes.iter().map(|(from, to, port, family, outcome)| {
            let question =
                Question { from: (*from).into(), to: (*to).into(), service: Service::tcp(*port), family: *family };
            (question, outcome.clone())
        });
        Matrix { endpoints: vec!["a/x".into(), "b/y".into()], results: results.collect() }
    }

    #[test]
    fn a_cell_names_what_passes() {
        use Family::{V4, V6};
        use ProbeOutcome::{Broken, Reached, Refused, Timeout, Unsupported};
        for (outcomes, expected) in [
            (vec![(80, V4, Reached), (80, V6, Refused)], "✓"),
            (vec![(80, V4, Timeout), (80, V6, Timeout)], "✗"),
            (vec![(80, V4, Reached), (80, V6, Reached), (81, V4, Timeout), (81, V6, Timeout)], "80"),
            (vec![(80, V4, Reached), (80, V6, Timeout)], "80(v4)"),
            (vec![(80, V4, Timeout), (81, V4, Broken("x".into()))], "!"),
            (vec![(80, V4, Unsupported)], "n/a"),
            (vec![(80, V4, Unsupported), (81, V4, Timeout)], "✗"),
        ] {
            let rows: Vec<_> = outcomes.into_iter().map(|(port, family, o)| ("a/x", "b/y", port, family, o)).collect();
            let matrix = matrix(&rows);
            assert_eq!(summary(&matrix.pair("a/x", "b/y").collect::<Vec<_>>()).0, expected, "{rows:?}");
        }
    }

    #[test]
    fn changes_are_marked() {
        let before = matrix(&[("a/x", "b/y", 80, Family::V4, ProbeOutcome::Reached)]);
        let after = matrix(&[("a/x", "b/y", 80, Family::V4, ProbeOutcome::Timeout)]);
        assert!(after.to_table(Some(&before), Look::default()).contains("✗ *"));
        assert!(!after.to_table(Some(&after), Look::default()).contains('*'));
        let json = after.to_json(Some(&before));
        assert!(json.contains(r#""outcome":"denied","changed":true"#), "{json}");
    }

    #[test]
    fn a_narrow_terminal_gets_numbers() {
        let matrix = matrix(&[("a/x", "b/y", 80, Family::V4, ProbeOutcome::Timeout)]);
        let wide = matrix.to_table(None, Look { colour: false, width: Some(80) });
        let narrow = matrix.to_table(None, Look { colour: false, width: Some(15) });
        assert!(wide.contains("b/ ") && !wide.contains("2 b/y 80"), "{wide}");
        assert!(narrow.contains("2 b/y 80") && narrow.contains('✗'), "{narrow}");
        assert_eq!(broken("203.0.113.10"), "203.0.\n113.10");
        assert_eq!(broken("2001:db8::10"), "2001:\ndb8::10");
    }

    #[test]
    fn colours_only_when_asked_for() {
        let matrix = matrix(&[("a/x", "b/y", 80, Family::V4, ProbeOutcome::Reached)]);
        assert!(!matrix.to_table(None, Look::default()).contains('\u{1b}'));
        assert!(matrix.to_table(None, Look { colour: true, width: None }).contains('\u{1b}'));
    }
}
