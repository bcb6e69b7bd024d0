//! The commands that people type.

mod exit;

pub use exit::{CommandResult, Failure, Outcome, finish};

use std::process::ExitCode;

/// `penstock`: Kubernetes NetworkPolicy and gateway rules, enforced in userspace.
#[derive(Debug, clap::Parser)]
#[command(name = "penstock", version, about, max_term_width = 100)]
pub struct Cli {}

/// Carries out what was typed.
pub fn main(_cli: Cli) -> ExitCode {
    finish(Ok(Outcome::Done))
}
