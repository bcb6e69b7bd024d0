//! What a matrix should say, from a small file.
//!
//! ```yaml
//! external: ["203.0.113.10"]
//! denied:
//! - {from: "*", to: japp/jpython}
//! passes:
//! - {from: test/client, to: japp/jpython, port: TCP/8080}
//! ```
//! Everything passes but what `denied` names; of that, what `passes` names passes after all. `*` is everybody,
//! `NAMESPACE/*` the pods of a namespace, `outside` every external address; without a port, all ports are meant.

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;

use super::OUTSIDE;
use super::error::{LabError, Result};
use super::matrix::{Matrix, Question};
use super::probe::ProbeOutcome;
use crate::policy::probe::Service;

/// Who should reach whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// External addresses that take part.
    #[serde(default)]
    pub external: Vec<IpAddr>,
    /// What does not pass.
    #[serde(default)]
    pub denied: Vec<Pattern>,
    /// What passes although `denied` names it.
    #[serde(default)]
    pub passes: Vec<Pattern>,
}

/// A set of questions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Senders.
    pub from: String,
    /// Receivers.
    pub to: String,
    /// Destination port; all without it.
    #[serde(default, deserialize_with = "service")]
    pub port: Option<Service>,
}

/// A question whose answer is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What was asked.
    pub question: Question,
    /// Whether it should pass.
    pub expected: bool,
    /// What came of it.
    pub outcome: ProbeOutcome,
}

fn service<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Service>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

impl Expectation {
    /// Reads a file, YAML or JSON.
    ///
    /// # Errors
    /// When the file cannot be read or is not of the form above.
    pub fn read(path: &Path) -> Result<Expectation> {
        let wrong = |error: String| LabError::Input(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))
    }

    /// Whether this should pass.
    pub fn passes(&self, question: &Question) -> bool {
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(question));
        !named(&self.denied) || named(&self.passes)
    }

    /// Everything in the matrix that is otherwise; what the matrix could not prove is a difference too.
    pub fn differences(&self, matrix: &Matrix) -> Vec<Difference> {
        let asked = matrix.results.iter().filter(|(_, outcome)| **outcome != ProbeOutcome::Unsupported);
        asked
            .filter(|(question, outcome)| outcome.passes() != Some(self.passes(question)))
            .map(|(question, outcome)| Difference {
                question: question.clone(),
                expected: self.passes(question),
                outcome: outcome.clone(),
            })
            .collect()
    }
}

impl Pattern {
    fn matches(&self, question: &Question) -> bool {
        names(&self.from, &question.from)
            && names(&self.to, &question.to)
            && self.port.is_none_or(|port| port == question.service)
    }
}

fn names(pattern: &str, endpoint: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => endpoint.starts_with(prefix),
        None if pattern == OUTSIDE => endpoint.parse::<IpAddr>().is_ok(),
        None => pattern == endpoint,
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Question { from, to, service, family } = &self.question;
        let expected = if self.expected { "should pass" } else { "should be denied" };
        write!(f, "{from} to {to} {service} ({}) {expected}: {}", family.name(), self.outcome.label())?;
        match &self.outcome {
            ProbeOutcome::Broken(why) | ProbeOutcome::Error(why) => write!(f, " ({why})"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::world::Family;

    fn question(from: &str, to: &str, port: u16) -> Question {
        Question { from: from.into(), to: to.into(), service: Service::tcp(port), family: Family::V4 }
    }

    #[test]
    fn exceptions_win_over_denials() {
        let text = "denied:\n- {from: \"*\", to: a/*}\n- {from: outside, to: b/y}\npasses:\n- {from: b/y, to: a/x, port: TCP/80}\n";
        let expectation: Expectation = serde_saphyr::from_str(text).unwrap();
        for (from, to, port, passes) in [
            ("b/y", "a/x", 80, true),
            ("b/y", "a/x", 81, false),
            ("b/z", "a/x", 80, false),
            ("a/x", "b/y", 80, true),
            ("1.2.3.4", "b/y", 80, false),
            ("2001:db8::1", "b/y", 80, false),
            ("1.2.3.4", "b/z", 80, true),
        ] {
            assert_eq!(expectation.passes(&question(from, to, port)), passes, "{from} {to} {port}");
        }
        let results = [
            (question("b/y", "a/x", 81), ProbeOutcome::Reached),
            (question("b/y", "a/x", 80), ProbeOutcome::Broken("x".into())),
        ];
        let matrix = Matrix { endpoints: vec![], results: results.into_iter().collect() };
        assert_eq!(expectation.differences(&matrix).len(), 2, "a broken server proves nothing");
    }

    #[test]
    fn unknown_fields_and_ports_are_refused() {
        for text in ["deny: []", "denied: [{from: a, to: b, port: HTTP}]", "denied: [{to: b}]"] {
            assert!(serde_saphyr::from_str::<Expectation>(text).is_err(), "{text}");
        }
    }
}
