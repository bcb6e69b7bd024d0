//! `penstock probe`: whether this kernel has what Penstock needs.

use comfy_table::{Table, presets};
use serde_json::json;

use super::exit::{CommandResult, Outcome};
use super::input::Output;
use super::output::{write_json, write_stdout};
use crate::process::features::{Feature, probe, release};

/// Try what Penstock needs of this machine's kernel; exit code 1 if a node could not run. Changes nothing
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ProbeArgs {
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Carries the command out.
///
/// # Errors
/// When standard output cannot take the answer.
pub(super) fn run(args: &ProbeArgs) -> CommandResult {
    let features = probe();
    let fit = !features.iter().any(|feature| feature.required && feature.missing.is_some());
    match args.output {
        Output::Json => {
            let architecture = std::env::consts::ARCH;
            write_json(
                &json!({ "kernel": release(), "architecture": architecture, "fit": fit, "features": features }),
            )?;
        }
        Output::Text => write_stdout(&text(&features))?,
    }
    Ok(if fit { Outcome::Done } else { Outcome::No })
}

fn text(features: &[Feature]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["FEATURE", "FOR", "SINCE LINUX", "HERE"]);
    for feature in features {
        let here = match (&feature.missing, feature.required) {
            (None, _) => "yes".to_owned(),
            (Some(reason), true) => format!("NO: {reason}"),
            (Some(reason), false) => format!("no (a node does without): {reason}"),
        };
        table.add_row([feature.name, feature.purpose, feature.since, &here]);
    }
    format!("Linux {} on {}\n{}\n", release(), std::env::consts::ARCH, table)
}
