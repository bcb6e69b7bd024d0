//! A strict reader of the OpenMetrics text form, as far as the daemon uses it: what it accepts, a scraper accepts.

use std::collections::{BTreeMap, BTreeSet};

/// Labels, by name.
pub type Labels = BTreeMap<String, String>;

/// A scrape, read.
#[derive(Debug, Default)]
pub struct Metrics {
    types: BTreeMap<String, String>,
    samples: Vec<(String, Labels, f64)>,
}

impl Metrics {
    /// Reads a scrape, and panics where it breaks the specification.
    pub fn parse(text: &str) -> Metrics {
        assert!(text.ends_with("# EOF\n"), "no end");
        let mut metrics = Metrics::default();
        let (mut units, mut helps, mut series) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut family = String::new();
        for line in text.lines().take_while(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.splitn(3, ' ');
                let (what, name, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                if name != family {
                    assert!(!metrics.types.contains_key(name), "{name} is torn apart");
                    name.clone_into(&mut family);
                }
                let new = match what {
                    "TYPE" => metrics.types.insert(name.to_owned(), value.to_owned()).is_none(),
                    "HELP" => helps.insert(name.to_owned()) && !value.trim().is_empty(),
                    "UNIT" => units.insert(name.to_owned(), value.to_owned()).is_none(),
                    _ => false,
                };
                assert!(new, "{line}");
                continue;
            }
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            let suffixes: &[&str] = match metrics.types[&family].as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{family} is of type {other}"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(series.insert((name.clone(), labels.clone())), "{line} is there twice");
            metrics.samples.push((name, labels, value));
        }
        for (name, unit) in units {
            assert!(name.ends_with(&format!("_{unit}")), "{name} is not named after its unit {unit}");
        }
        for name in metrics.types.keys() {
            assert!(helps.contains(name), "{name} has no help");
            assert!(name.starts_with("penstock_"), "{name}");
        }
        metrics
    }

    /// The value of the one sample that has at least these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.matching(name, labels);
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0]
    }

    /// The sum of all samples that have at least these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).iter().sum()
    }

    /// The label sets of a name's samples.
    pub fn labels(&self, name: &str) -> Vec<&Labels> {
        self.samples.iter().filter(|(known, _, _)| known == name).map(|(_, labels, _)| labels).collect()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let has =
            |known: &Labels| labels.iter().all(|(key, value)| known.get(*key).is_some_and(|known| known == value));
        let samples = self.samples.iter().filter(|(known, known_labels, _)| known == name && has(known_labels));
        samples.map(|(_, _, value)| *value).collect()
    }
}

/// `name{key="value",…} number`
fn sample(line: &str) -> (String, Labels, f64) {
    let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            // No value of the daemon's has a quote or a backslash in it.
            let (value, after) = after.split_once('"').unwrap_or_else(|| panic!("{line}"));
            assert!(!value.contains('\\'), "{line}");
            assert!(labels.insert(key.to_owned(), value.to_owned()).is_none(), "{line}: {key} twice");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
}
