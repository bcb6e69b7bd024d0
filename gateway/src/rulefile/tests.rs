//! Rule files read and written: round trips, every complaint by its words, and texts that are no rule file at all.

mod arbitrary;
mod errors;
mod files;
mod schema;
mod warnings;

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::load::Loader;
use super::{read, read_str, write};
use crate::check::Problem;
use crate::model::{Action, Origin, Ruleset, Test};

fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/gateway/rules.yaml")
}

/// A rule set without where it is written, so that two can be compared.
fn without_origins(mut ruleset: Ruleset) -> Ruleset {
    let nowhere = Origin { file: Arc::from(""), line: 0 };
    ruleset.groups.values_mut().for_each(|group| group.origin = nowhere.clone());
    ruleset.sets.values_mut().for_each(|set| set.origin = nowhere.clone());
    for chain in &mut ruleset.chains {
        chain.origin = nowhere.clone();
        chain.rules.iter_mut().for_each(|rule| rule.origin = nowhere.clone());
    }
    ruleset
}

fn sentences(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_reads_without_a_warning_and_is_written_back() {
    let ruleset = read(&example()).unwrap_or_else(|problems| panic!("{:#?}", sentences(&problems)));
    assert_eq!(sentences(&ruleset.check()), Vec::<String>::new());
    assert_eq!(ruleset.sets["blocked"].elements.len(), 4);
    assert_eq!((ruleset.chains.len(), ruleset.sets.len(), ruleset.groups.len()), (4, 4, 3));
    let written = write(&ruleset, "");
    let name = example().with_file_name("written.yaml");
    let again = read_str(&name.to_string_lossy(), &written).unwrap();
    assert_eq!(without_origins(again), without_origins(ruleset));
}

#[test]
fn everything_knows_its_line() {
    let text = "groups:\n  a: [eth0]\nsets:\n  s: [10.0.0.1]\ninput:\n  policy: drop\n  rules:\n  - in: a\n    action: allow\n  - action: drop\nchains:\n  C:\n    rules: [{action: return}]\n";
    let ruleset = read_str("r.yaml", text).unwrap();
    let lines = |rules: &crate::model::Chain| rules.rules.iter().map(|rule| rule.origin.line).collect::<Vec<_>>();
    assert_eq!((ruleset.groups["a"].origin.line, ruleset.sets["s"].origin.line), (2, 4));
    assert_eq!((ruleset.chains[0].origin.line, lines(&ruleset.chains[0])), (5, vec![8, 10]));
    assert_eq!((ruleset.chains[1].origin.line, lines(&ruleset.chains[1])), (12, vec![13]));
    assert_eq!(ruleset.chains[0].rules[0].origin.to_string(), "r.yaml:8");
}

#[test]
fn short_forms_mean_what_the_long_ones_do() {
    let pairs = [
        ("in: lan", "in: [lan]"),
        ("tcpFlags: syn", "tcpFlags: {mask: [syn, ack, fin, rst], set: [syn]}"),
        ("limit: 3/hour", "limit: {rate: 3/hour, burst: 5}"),
        ("action: reject", "action: {reject: port-unreachable}"),
        ("from: {set: s}", "set: {name: s, ends: [source]}"),
        ("to: {not: {set: s}}", "set: {not: {name: s, ends: destination}}"),
        ("protocol: tcp\n    toPort: 80", "protocol: 6\n    toPort: [\"80\"]"),
        ("icmp: ping", "icmp: [8, 128]"),
        ("log: true", "log: {}"),
        ("state: new", "all: [{state: [new]}]"),
    ];
    let read = |text: &str| {
        let action = if text.contains("action") { "" } else { "\n    action: allow" };
        let text = format!(
            "groups: {{lan: [e]}}\nsets: {{s: [10.0.0.1]}}\nforward:\n  policy: drop\n  rules:\n  - {text}{action}\n"
        );
        without_origins(read_str("r", &text).unwrap_or_else(|problems| panic!("{text}: {:?}", sentences(&problems))))
    };
    for (short, long) in pairs {
        assert_eq!(read(short), read(long), "{short}");
    }
}

#[test]
fn a_written_file_reads_well() {
    let text = "family: ipv4\ngroups: {lan: [eth1], 'on': ['010']}\nforward: {policy: drop, rules: [{name: web, in: {not: lan}, \
                protocol: tcp, toPort: [80, 8000-8080], from: 10.0.0.0/8, all: [{from: {set: s}}, {state: new}], \
                action: allow}]}\nsets: {s: [10.0.0.0-10.0.0.255, 10.1.0.1-10.1.0.5]}\nchains: {'no': {}}\n";
    let expected = "\
# Imported.
family: ipv4
groups:
  lan: [eth1]
  \"on\": [\"010\"]
sets:
  s: [10.0.0.0/24, 10.1.0.1-10.1.0.5]
forward:
  policy: drop
  rules:
  - name: web
    in: {not: lan}
    protocol: tcp
    toPort: [80, 8000-8080]
    from: 10.0.0.0/8
    set: {name: s, ends: source}
    state: [new]
    action: allow
chains:
  \"no\":
    rules: []
";
    assert_eq!(write(&read_str("r", text).unwrap(), "Imported."), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_written_is_read_back(ruleset in arbitrary::ruleset()) {
        let written = write(&ruleset, "Any\nheader: {");
        let (again, problems) = Loader::new().text("r.yaml", &written);
        prop_assert_eq!(without_origins(again), ruleset.clone(), "{}\n{:?}", written, sentences(&problems));
        prop_assert_eq!(write(&ruleset, "Any\nheader: {"), written);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-a-z0-9:{}\\[\\], \n\"'&*!#|>?%@~.+/]{0,80}", bytes in any::<Vec<u8>>()) {
        let _ = read_str("r", &text);
        let _ = read_str("r", &String::from_utf8_lossy(&bytes));
        let _ = read_str("r", &format!("forward:\n  policy: drop\n  rules:\n  - {text}\n"));
    }

    #[test]
    fn nor_a_file_with_other_bytes_in_it(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0..20usize) {
        let mut bytes = std::fs::read(example()).unwrap();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + cut).min(bytes.len()), [byte]);
        let _ = read_str("r", &String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_truncated_file_never_panics() {
    let text = std::fs::read_to_string(example()).unwrap();
    let name = example();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        // What was cut in the middle of a rule lacks its action or its value, or is a rule file of fewer rules.
        if let Ok(ruleset) = read_str(&name.to_string_lossy(), &text[..end]) {
            assert!(ruleset.chains.len() <= 4);
        }
    }
}

#[test]
fn large_files_are_read_whole() {
    let rule = |number: u32| {
        format!(
            "  - from: 10.{}.{}.0/24\n    protocol: tcp\n    toPort: {}\n    action: allow\n",
            number >> 8 & 255,
            number & 255,
            number % 60_000
        )
    };
    let mut text = "sets:\n  s:\n".to_owned();
    (0..100_000u32)
        .for_each(|number| text += &format!("  - 10.{}.{}.{}\n", number >> 16, number >> 8 & 255, number & 255));
    text += "forward:\n  policy: drop\n  rules:\n";
    (0..100_000).for_each(|number| text += &rule(number));
    text += "  - to: {set: s}\n    action: {jump: C}\nchains: {C: {}}\n";
    let ruleset = read_str("r", &text).unwrap();
    let rules = &ruleset.chains[0].rules;
    assert_eq!((ruleset.sets["s"].elements.len(), rules.len()), (100_000, 100_001));
    assert_eq!(rules[99_999].origin.line, 100_006 + 4 * 99_999);
    assert_eq!(rules[100_000].action, Action::Jump("C".to_owned()));
    assert!(matches!(&rules[100_000].matches[0].test, Test::Set { name, .. } if name == "s"));
    assert_eq!(without_origins(read_str("r", &write(&ruleset, "")).unwrap()), without_origins(ruleset));
}
