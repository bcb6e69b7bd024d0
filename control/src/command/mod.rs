//! The commands that people type.

mod eval;
mod exit;
mod input;
mod matrix;

pub use exit::{CommandResult, Failure, Outcome, finish};
pub use input::{ManifestArgs, Output, Palette, load};

use std::process::ExitCode;

/// Kubernetes NetworkPolicy and gateway rules, enforced in userspace.
#[derive(Debug, clap::Parser)]
#[command(name = "penstock", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Eval(eval::EvalArgs),
    Matrix(matrix::MatrixArgs),
}

/// Carries out what was typed.
pub fn main(cli: Cli) -> ExitCode {
    finish(match &cli.command {
        Command::Eval(args) => eval::run(args),
        Command::Matrix(args) => matrix::run(args),
    })
}
