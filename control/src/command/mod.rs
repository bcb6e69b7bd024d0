//! The commands that people type.

mod apply;
mod diff;
mod eval;
mod exit;
mod explain;
mod gateway;
mod input;
mod live;
mod matrix;
mod observe;
mod output;
mod probe;
mod uninstall;

pub use exit::{CommandResult, Failure, Outcome, finish};
pub use input::{ManifestArgs, Output, load, load_again};
pub(crate) use output::write_stdout;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::{daemon, lab, process};

/// Kubernetes NetworkPolicy and a gateway's rules, enforced in userspace.
#[derive(Debug, clap::Parser)]
#[command(name = "penstock", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Lab(lab::command::LabArgs),
    Demo(lab::demo::DemoArgs),
    Eval(eval::EvalArgs),
    Matrix(matrix::MatrixArgs),
    Explain(explain::ExplainArgs),
    Diff(diff::DiffArgs),
    Run(daemon::RunArgs),
    Status(observe::StatusArgs),
    Pods(observe::PodsArgs),
    Policies(observe::PoliciesArgs),
    Flows(observe::FlowsArgs),
    Drops(observe::DropsArgs),
    Probe(probe::ProbeArgs),
    Import(gateway::ImportArgs),
    Equivalent(gateway::EquivalentArgs),
    Check(gateway::CheckArgs),
    Apply(apply::ApplyArgs),
    Confirm(apply::ConfirmArgs),
    Rollback(apply::RollbackArgs),
    Versions(apply::VersionsArgs),
    Rules(apply::RulesArgs),
    Set(apply::SetArgs),
    Uninstall(uninstall::UninstallArgs),
    /// A node's dataplane, as the wirer starts it.
    #[command(hide = true)]
    Dataplane,
    /// A node's control, as the wirer starts it.
    #[command(hide = true)]
    Control,
    /// Another program, in another mount namespace.
    #[command(hide = true)]
    InMounts {
        /// The mount namespace.
        mounts: PathBuf,
        /// The program.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Carries out what was typed.
pub fn main(cli: Cli) -> ExitCode {
    finish(match &cli.command {
        Command::Lab(args) => lab::command::run(args),
        Command::Demo(args) => lab::demo::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Matrix(args) => matrix::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Run(args) => daemon::run(args),
        Command::Status(args) => observe::status(args),
        Command::Pods(args) => observe::pods(args),
        Command::Policies(args) => observe::policies(args),
        Command::Flows(args) => observe::flows(args),
        Command::Drops(args) => observe::drops(args),
        Command::Probe(args) => probe::run(args),
        Command::Import(args) => gateway::import(args),
        Command::Equivalent(args) => gateway::equivalent(args),
        Command::Check(args) => gateway::check(args),
        Command::Apply(args) => apply::apply(args),
        Command::Confirm(args) => apply::confirm(args),
        Command::Rollback(args) => apply::rollback(args),
        Command::Versions(args) => apply::versions(args),
        Command::Rules(args) => apply::rules(args),
        Command::Set(args) => apply::set(args),
        Command::Uninstall(args) => uninstall::run(args),
        Command::Dataplane => process::dataplane::run(),
        Command::Control => process::control::run(),
        Command::InMounts { mounts, program, words } => process::in_mounts(mounts, program, words),
    })
}
