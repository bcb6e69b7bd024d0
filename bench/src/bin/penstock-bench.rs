//! The `penstock-bench` command: Penstock and its peers side by side.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use control::lab::netns;
use penstock_bench::bare;
use penstock_bench::compare::contender::Loaded;
use penstock_bench::compare::contender::kernel::Limits;
use penstock_bench::compare::contender::userspace::Answer;
use penstock_bench::compare::gathered::{Part, gather};
use penstock_bench::compare::report::{self, Report};
use penstock_bench::compare::run::{Effort, Results};
use penstock_bench::compare::{experiment, process, topology, worker};
use penstock_bench::environment::Environment;
use penstock_bench::micro::fresh_seed;
use penstock_bench::seen;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Penstock beside what one would use instead.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build network namespaces, run every contender in turns, and write a report (root).
    Compare(Compare),
    /// A measurement that is not of contenders side by side, as JSON.
    #[command(hide = true)]
    Part {
        part: Part,
        #[arg(long)]
        quick: bool,
    },
    /// Whether the kernel's connection tracking knows first packets: watch an interface of this network namespace.
    #[command(hide = true)]
    Seen { interface: String, way: seen::Way, kind: seen::Kind },
    /// Open connections at a rate, for those who watch.
    #[command(hide = true)]
    Open {
        to: SocketAddr,
        kind: seen::Kind,
        rate: u32,
        seconds: u64,
        #[arg(long)]
        from: Option<IpAddr>,
    },
    /// Connect at a rate, and say how long it took.
    #[command(hide = true)]
    Connect {
        to: SocketAddr,
        from: IpAddr,
        rate: u32,
        seconds: u64,
        #[arg(long, default_value_t = 32)]
        threads: u32,
        #[arg(long, default_value_t = 1000)]
        milliseconds: u64,
    },
    /// A process in which Penstock is measured.
    #[command(hide = true)]
    Worker { order: String },
    /// A process in which a bare loop is measured.
    #[command(hide = true)]
    Bare {
        kind: bare::Kind,
        inside_namespace: String,
        inside: String,
        outside_namespace: String,
        outside: String,
        cpu: usize,
    },
}

#[derive(clap::Args)]
struct Compare {
    /// A part that ends within five minutes.
    #[arg(long)]
    quick: bool,
    /// Only experiments whose name starts like this; repeatable.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Turns of each contender.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Seconds that a turn counts.
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// What the contenders' rules are made from; a fresh one by default, which the report tells.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the report goes.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench/report")]
    output: PathBuf,
    /// What the report is called, of a part that has one of its own.
    #[arg(long, value_name = "NAME", default_value = "report", requires = "only", conflicts_with_all = ["again", "update_readme"])]
    name: String,
    /// Put what --only names into the report that is in DIRECTORY already, in the place of what stands there.
    #[arg(long, requires = "only")]
    again: bool,
    /// Also copy the report to bench/report and write its table and plots into README.md, from the top of a checkout.
    #[arg(long)]
    update_readme: bool,
    /// Say the names of the experiments and end.
    #[arg(long)]
    list: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
    seconds.ok_or_else(|| "write a number of seconds above 0".into())
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Compare(options) => compare(&options),
        Command::Part { part, quick } => part.measure(quick),
        Command::Seen { interface, way, kind } => {
            seen::watch(&interface, way, kind, Duration::from_secs(2)).map(|seen| println!("{seen}"))
        }
        Command::Open { to, kind, rate, seconds, from } => {
            seen::open(to, from, kind, rate, Duration::from_secs(seconds)).map(|count| println!("{count}"))
        }
        Command::Connect { to, from, rate, seconds, threads, milliseconds } => {
            let (lasting, patience) = (Duration::from_secs(seconds), Duration::from_millis(milliseconds));
            seen::connect(to, from, rate, lasting, threads, patience).map(|seen| println!("{seen}"))
        }
        Command::Worker { order } => worker::main(&order),
        Command::Bare { kind, inside_namespace, inside, outside_namespace, outside, cpu } => {
            let (inside, outside) =
                (bare::End::new(inside_namespace, inside), bare::End::new(outside_namespace, outside));
            bare_loop(kind, &inside, &outside, cpu)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-bench: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn compare(options: &Compare) -> Result<()> {
    let seed = options.seed.unwrap_or_else(fresh_seed);
    check_names(options);
    let is_wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|start| name.starts_with(start));
    let experiments: Vec<_> =
        experiment::all(options.quick, seed).into_iter().filter(|experiment| is_wanted(&experiment.name)).collect();
    if options.list {
        for experiment in experiments {
            println!("{:<20} {} ({} contenders)", experiment.name, experiment.work.text(), experiment.settings.len());
        }
        for part in Part::ALL.iter().filter(|part| is_wanted(part.name())) {
            println!("{:<20} {}", part.name(), part.title());
        }
        return Ok(());
    }
    check_places(options)?;
    let before = options.again.then(|| Report::read(&options.output)).transpose()?;
    eprintln!("seed {seed}");
    process::stop_in_order();
    let _precedence = process::Precedence::take();
    netns::remove_orphans(topology::PREFIX);
    let _limits = Limits::keep();
    let effort = Effort {
        rounds: options.rounds.map_or(5, usize::from),
        seconds: options.seconds.unwrap_or(if options.quick { 0.4 } else { 1.0 }),
    };
    let mut environment = Environment::record();
    for (tool, arguments) in [
        ("iptables-legacy", "--version"),
        ("nft", "--version"),
        ("ipset", "--version"),
        ("iperf3", "--version"),
        ("clang", "--version"),
    ] {
        environment.add_tool(tool, &[arguments]);
    }
    let begin = Instant::now();
    let mut results = Results::default();
    for experiment in &experiments {
        results.run(experiment, effort)?;
    }
    let is_short = |part: &Part| !options.quick || *part != Part::Sync;
    let parts: Vec<Part> = Part::ALL.into_iter().filter(is_short).filter(|part| is_wanted(part.name())).collect();
    let gathered = gather(&parts, options.quick)?;
    let mut report = Report::new(environment, options.quick, seed, effort, results, gathered);
    let names: Vec<&str> = experiments.iter().map(|experiment| experiment.name.as_str()).collect();
    if !options.only.is_empty() {
        report.narrow(&names);
    }
    if let Some(mut whole) = before {
        let titles: Vec<&str> = parts.iter().map(|part| part.title()).collect();
        whole.renew(report, &names, &titles);
        report = whole;
    }
    report.write(&options.output, &options.name)?;
    if options.update_readme {
        let directory = "bench/report";
        Report::publish(&options.output, Path::new(directory))?;
        let readme = std::fs::read_to_string("README.md").context("reading README.md")?;
        let readme = report::update_readme(&readme, &report.summary(directory))?;
        std::fs::write("README.md", readme).context("writing README.md")?;
    }
    eprintln!(
        "{} in {:.0} s",
        options.output.join(&options.name).with_extension("md").display(),
        begin.elapsed().as_secs_f64()
    );
    let failures = report.results.missing.iter().filter(|missing| missing.is_failure).count();
    anyhow::ensure!(failures == 0, "{failures} contenders failed: see the report");
    Ok(())
}

/// Ends with a sentence where a name that is asked for is none's.
fn check_names(options: &Compare) {
    let experiments = experiment::all(options.quick, 0).into_iter().map(|experiment| experiment.name);
    let names: Vec<String> = experiments.chain(Part::ALL.iter().map(|part| part.name().to_owned())).collect();
    if let Some(wrong) = options.only.iter().find(|start| !names.iter().any(|name| name.starts_with(*start))) {
        let text = format!("--only {wrong}: no experiment's name starts like this; there are {}\n", names.join(", "));
        Cli::command().error(ErrorKind::InvalidValue, text).exit();
    }
}

/// What would be in the way only when everything has been measured.
fn check_places(options: &Compare) -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "building network namespaces needs root: run it as root");
    let output = &options.output;
    std::fs::create_dir_all(output).with_context(|| format!("making {}: name another --output", output.display()))?;
    if options.update_readme {
        anyhow::ensure!(
            options.only.is_empty() || options.again,
            "a part of the comparison is no report: leave --only or --update-readme away, or add --again"
        );
        let readme =
            std::fs::read_to_string("README.md").context("reading README.md: run it from the top of a checkout")?;
        report::update_readme(&readme, "").context("README.md")?;
    }
    Ok(())
}

/// Runs until stdin ends.
fn bare_loop(kind: bare::Kind, inside: &bare::End, outside: &bare::End, cpu: usize) -> Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut line = String::new();
            // Whatever ends the reading ends the loop.
            while std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {}
            stop.store(true, Ordering::Relaxed);
        });
        let ready = || {
            // Nobody listens any more: stdin has ended as well, then.
            let _gone = worker::say(&Answer::Ready(Loaded::default()));
        };
        let result = bare::run(kind, inside, outside, Some(cpu), stop, ready).context("the bare loop");
        if let Err(error) = &result {
            let _gone = worker::say(&Answer::Failed(format!("{error:#}")));
            std::process::exit(3);
        }
        result.map(drop)
    })
}
