//! Rule lists against `librte_acl`, the flow table against `rte_hash`.
//!
//! ```text
//! cargo bench -p penstock-bench --bench peers                                   # all, in minutes
//! cargo bench -p penstock-bench --bench peers -- lists --sizes 10k --source generated
//! cargo bench -p penstock-bench --bench peers -- flows --quick
//! ```

use anyhow::Result;
use clap::{Parser, ValueEnum};
use penstock_bench::classbench::{Kind, Size};
use penstock_bench::micro::{flows, fresh_seed, lists};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Lists,
    Flows,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    Files,
    Generated,
    Ipv6,
}

/// Parts of the engine beside DPDK's libraries, in turns on one CPU.
#[derive(Parser)]
struct Options {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
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
    /// Kinds of filters: acl1, fw1, ipc1.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Sizes of filter sets: 1k, 10k, 100k.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<String>,
    /// Where filters come from.
    #[arg(long, value_enum, default_value = "files")]
    source: Source,
    /// Filters of five fields, without flags.
    #[arg(long)]
    no_flags: bool,
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
    if options.what != What::Flows {
        let config = if options.quick { lists::Config::quick } else { lists::Config::full };
        let mut config = config(options.cpu, seed);
        config.rounds = options.rounds.unwrap_or(config.rounds);
        config.flags = !options.no_flags;
        config.source = match options.source {
            Source::Files => lists::Source::Files,
            Source::Generated => lists::Source::Generated,
            Source::Ipv6 => lists::Source::Ipv6,
        };
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
        config.kinds = Kind::ALL.into_iter().filter(|kind| named(&options.kinds, kind.name())).collect();
        if !options.sizes.is_empty() {
            config.sizes = Size::ALL.into_iter().filter(|size| named(&options.sizes, size.name())).collect();
        }
        let rows = lists::run(&config)?;
        print!("{}", lists::markdown(&rows));
        for row in &rows {
            for method in row.peer.iter().flat_map(|peer| &peer.methods) {
                println!("{}: librte_acl {}: {} ns", row.name, method.name, method.time);
            }
        }
    }
    if options.what != What::Lists {
        let config = if options.quick { flows::Config::quick } else { flows::Config::full };
        let mut config = config(options.cpu, seed);
        config.rounds = options.rounds.unwrap_or(config.rounds);
        if !options.flows.is_empty() {
            config.flows = options.flows;
        }
        print!("{}", flows::markdown(&flows::run(&config)?));
    }
    Ok(())
}
