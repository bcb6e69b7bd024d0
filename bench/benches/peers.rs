//! The flow table against `rte_hash`.
//!
//! `cargo bench -p penstock-bench --bench peers -- --quick`

use anyhow::Result;
use clap::Parser;
use penstock_bench::micro::{flows, fresh_seed};

/// Parts of the engine beside DPDK's libraries, in turns on one CPU.
#[derive(Parser)]
struct Options {
    /// The CPU of both sides.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Of headers, filters and orders; a fresh one by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Fewer sizes and rounds.
    #[arg(long)]
    quick: bool,
    /// Rounds.
    #[arg(long)]
    rounds: Option<usize>,
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',')]
    flows: Vec<usize>,
    /// What cargo bench says.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}, CPU {}", options.cpu);
    let config = if options.quick { flows::Config::quick } else { flows::Config::full };
    let mut config = config(options.cpu, seed);
    config.rounds = options.rounds.unwrap_or(config.rounds);
    if !options.flows.is_empty() {
        config.flows = options.flows;
    }
    print!("{}", flows::markdown(&flows::run(&config)?));
    Ok(())
}
