//! The `penstock-pktgen` command: see `penstock-pktgen --help`.

use std::process::ExitCode;

use clap::Parser;
use penstock_bench::pktgen::command;

fn main() -> ExitCode {
    command::main(&command::Cli::parse())
}
