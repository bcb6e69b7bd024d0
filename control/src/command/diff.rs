//! `penstock diff`: what a change newly allows and newly denies.

use std::path::PathBuf;

use super::exit::{CommandResult, Failure, Outcome};
use super::input::{Output, load};
use super::output::{write_json, write_stdout};
use crate::policy::diff::diff;
use crate::policy::probe::Service;

/// Compares two states, each with its namespaces, pods and policies: which connections the second newly allows and denies
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The old state, then the new one: a file or a directory each
    #[arg(short = 'f', long = "filename", value_name = "OLD|NEW", required = true)]
    paths: Vec<PathBuf>,
    /// Manifests that both states have, such as the pods when policies are compared; repeatable
    #[arg(long, value_name = "FILE|DIR")]
    common: Vec<PathBuf>,
    /// Ask about this port alone, such as TCP/80 or UDP/53; repeatable. All ports without it
    #[arg(long = "port", value_name = "PROTOCOL/PORT")]
    ports: Vec<Service>,
    /// End with exit code 1 unless nothing changes
    #[arg(long, value_enum)]
    expect: Option<Expect>,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Expect {
    None,
}

/// Carries the command out.
///
/// # Errors
/// Bad manifests, not two of them, or a state without pods.
pub(super) fn run(args: &DiffArgs) -> CommandResult {
    let [old, new] = &args.paths[..] else {
        return Err(Failure::BadInput(format!(
            "diff compares two states and got {}: write -f OLD -f NEW",
            args.paths.len()
        )));
    };
    if old == new {
        return Err(Failure::BadInput(format!("-f {}: old and new are the same; write -f OLD -f NEW", old.display())));
    }
    let state = |path: &PathBuf| load(&[&args.common[..], std::slice::from_ref(path)].concat());
    let (old, new) = (state(old)?, state(new)?);
    let side = match (old.pods().next().is_none(), new.pods().next().is_none()) {
        (false, false) => None,
        (true, false) => Some("the old state (the first -f)"),
        (false, true) => Some("the new state (the second -f)"),
        (true, true) => Some("either state"),
    };
    if let Some(side) = side {
        return Err(Failure::BadInput(format!(
            "there are no pods in the manifests of {side}: give the pods that both states have with --common FILE|DIR"
        )));
    }
    let difference = diff(&old, &new, &args.ports);
    match args.output {
        Output::Json => write_json(&difference)?,
        Output::Text => write_stdout(&difference.to_string())?,
    }
    let as_expected = args.expect.is_none() || difference.is_empty();
    Ok(if as_expected { Outcome::Done } else { Outcome::No })
}
