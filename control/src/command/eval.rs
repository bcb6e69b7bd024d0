//! `penstock eval`: one question a line, one answer a line.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Serialize;
use serde::de::IgnoredAny;

use super::exit::{CommandResult, Failure, Outcome};
use super::input::ManifestArgs;
use super::output::write_stdout;
use crate::policy::probe::{EndVerdict, Probe};
use crate::policy::shown;
use crate::rehearsal::{ClusterRehearsal, Rehearsed};

/// Answers questions from standard input, one a line: {"from":"ns/pod"|"IP","to":"ns/pod"|"IP","protocol":"TCP","port":80}
#[derive(Clone, Debug, clap::Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    manifests: ManifestArgs,
}

/// What a question may have.
const KEYS: [&str; 5] = ["from", "to", "protocol", "port", "via"];
/// A question, for people who got it wrong.
const QUESTION: &str =
    r#"{"from":"ns/pod"|"IP","to":"ns/pod"|"IP","protocol":"TCP","port":80}, perhaps with "via":"nodePort"|"service""#;

#[derive(Serialize)]
struct Line {
    verdict: EndVerdict,
    egress: EndVerdict,
    ingress: EndVerdict,
    rules: Vec<String>,
    frames: u64,
}

impl From<Rehearsed> for Line {
    fn from(Rehearsed { answer, frames }: Rehearsed) -> Self {
        let verdict = if answer.is_allowed() { EndVerdict::Allow } else { EndVerdict::Deny };
        Line { verdict, egress: answer.egress, ingress: answer.ingress, rules: answer.rules, frames }
    }
}

/// Carries the command out.
///
/// # Errors
/// Bad manifests, or a bad question: the answers to those before it have been written.
pub(super) fn run(args: &EvalArgs) -> CommandResult {
    if args.manifests.paths.iter().any(|path| path.as_os_str() == "-") {
        return Err(Failure::BadInput("-f -: eval reads its questions from standard input; name a file".to_owned()));
    }
    let cluster = args.manifests.load()?;
    let mut rehearsal = ClusterRehearsal::new(&cluster);
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| Failure::input(format!("standard input: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let answered = answer(&mut rehearsal, &line);
        let answered = match answered {
            Ok(answered) => serde_json::to_string(&answered).map_err(Failure::input)?,
            Err(reason) => return Err(Failure::BadInput(format!("standard input, line {number}: {reason}"))),
        };
        write_stdout(&(answered + "\n"))?;
    }
    Ok(Outcome::Done)
}

fn answer(rehearsal: &mut ClusterRehearsal<'_>, line: &str) -> Result<Line, String> {
    let explain = |reason: &dyn std::fmt::Display| format!("{reason}; a question is {QUESTION}");
    let probe: Probe = serde_json::from_str(line).map_err(|error| explain(&error))?;
    // A mistyped key would be a question that nobody asked.
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_str(line).map_err(|error| explain(&error))?;
    if let Some(unknown) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(explain(&format!("unknown key {}", shown::quoted(unknown))));
    }
    rehearsal.answer(&probe).map(Line::from).map_err(|error| error.to_string())
}
