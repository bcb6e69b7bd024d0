//! The commands of `penstock-pktgen`.

mod args;
mod interrupt;
mod output;
mod parse;
mod selftest;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{Error, Outcome, Progress, Rate, Receiver, Scaled, SearchSpec, Step, Throughput, TrialSpec};
use super::{generate_with, search, trial};
use crate::plot::{LineChart, Point, Series, cdf};
use args::{ReceiveArgs, SendArgs, ToArgs};
use output::{json, outcome, with_progress};

/// Makes network traffic, counts it and times it, against any device under test.
#[derive(Debug, Parser)]
#[command(
    name = "penstock-pktgen",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        See whether this machine can do it all\n    penstock-pktgen selftest\n  \
        Through a router at 10.0.0.1 to a second interface, 1 million flows, half a million frames a second\n    \
        penstock-pktgen trial -i eth1 --source 10.0.0.0/26 --destination 10.9.0.2 --gateway 10.0.0.1 \\\n      \
        --answer --flows 1M --rate 500k --to-interface eth2\n  \
        The highest rate without loss\n    \
        penstock-pktgen search -i eth1 --destination 10.9.0.2 --gateway 10.0.0.1 --to-interface eth2\n\n\
        Exit codes: 0 done, 1 the answer is no (frames were lost), 2 bad input, 3 the system refused."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is printed
    #[arg(short, long, value_enum, default_value = "text", global = true)]
    output: Format,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// With a record of the machine
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send, at a rate or flat out
    Send(SendArgs),
    /// Count what arrives until Ctrl-C
    Receive(ReceiveArgs),
    /// Send at one end and count at the other: loss, reordering and duplicates, exactly
    Trial(TrialArgs),
    /// As trial, and how long frames take at a fixed rate, without coordinated omission
    Latency(LatencyArgs),
    /// The highest rate without loss, as RFC 2544 has it
    Search(SearchArgs),
    /// Try every port over a veth pair in namespaces of its own
    Selftest,
}

#[derive(Debug, Args)]
struct TrialArgs {
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    to: ToArgs,
    /// Share of frames that may be lost before the exit code is 1
    #[arg(long, default_value = "0", value_name = "SHARE")]
    tolerance: f64,
}

#[derive(Debug, Args)]
struct LatencyArgs {
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    to: ToArgs,
    /// Write the distribution as PATH.svg and PATH.png
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SearchArgs {
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    to: ToArgs,
    /// Share of frames that may be lost: RFC 2544 has 0
    #[arg(long, default_value = "0", value_name = "SHARE")]
    tolerance: f64,
    /// The search ends when the rate is known to this share
    #[arg(long, default_value = "0.01", value_name = "SHARE")]
    resolution: f64,
    /// Write loss over rate as PATH.svg and PATH.png
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

/// Carries out what was typed.
pub fn main(cli: &Cli) -> ExitCode {
    let stop = interrupt::stop_flag();
    let is_json = cli.output == Format::Json;
    let result = match &cli.command {
        Command::Send(args) => send(args, is_json, stop),
        Command::Receive(args) => receive(args, is_json, stop),
        Command::Trial(args) => one_trial(args, is_json, stop),
        Command::Latency(args) => latency(args, is_json, stop),
        Command::Search(args) => throughput(args, is_json, stop),
        Command::Selftest => selftest::run(stop),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("penstock-pktgen: {error}");
            ExitCode::from(if error.is_system_refusal() { 3 } else { 2 })
        }
    }
}

/// Whether all went well, for the exit code.
type Answer = Result<bool, Error>;

fn send(args: &SendArgs, is_json: bool, stop: &AtomicBool) -> Answer {
    let spec = args.spec()?;
    let progress = Progress::default();
    let run = || generate_with(&spec, args.answer, stop, &progress);
    let report = with_progress("sending", spec.limit.duration, &progress, run)?;
    if is_json {
        json(&spec, &report, &[(spec.namespace.as_deref(), &spec.interface)])?;
    } else {
        println!("{report}");
    }
    Ok(true)
}

fn receive(args: &ReceiveArgs, is_json: bool, stop: &AtomicBool) -> Answer {
    let spec = args.spec();
    let receiver = Receiver::open(spec.clone())?;
    let progress = Progress::default();
    let run = || {
        std::thread::scope(|scope| {
            let duration = args.duration;
            if let Some(duration) = duration {
                scope.spawn(move || {
                    let start = Instant::now();
                    while start.elapsed() < duration && !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            }
            let result = receiver.run(stop, &progress);
            stop.store(true, Ordering::Relaxed);
            result
        })
    };
    let received = with_progress("receiving", args.duration, &progress, run)?;
    let counters = received.counters;
    let latency = received.latency.map(|latency| latency.summary());
    if is_json {
        let result = serde_json::json!({ "received": counters, "latency": latency });
        json(&spec, result, &[(spec.namespace.as_deref(), &spec.interface)])?;
    } else {
        println!(
            "received   {} frames, {} bytes; {} stamped; {} others left to the kernel\n\
             order      {} reordered, {} duplicates, {} too late to tell",
            counters.frames,
            counters.bytes,
            counters.stamped,
            counters.passed,
            counters.reordered,
            counters.duplicates,
            counters.stale
        );
        latency.iter().for_each(|latency| println!("{latency}"));
    }
    Ok(true)
}

/// The two interfaces of a trial.
fn interfaces(spec: &TrialSpec) -> [(Option<&str>, &str); 2] {
    let (send, receive) = (&spec.send, &spec.receive);
    [(send.namespace.as_deref(), &send.interface), (receive.namespace.as_deref(), &receive.interface)]
}

fn run_trial(spec: &TrialSpec, is_json: bool, stop: &AtomicBool) -> Result<Outcome, Error> {
    let progress = Progress::default();
    let result = with_progress("sending", spec.send.limit.duration, &progress, || trial(spec, stop, &progress))?;
    if is_json {
        json(spec, &result, &interfaces(spec))?;
    } else {
        println!("{}", outcome(&result));
    }
    Ok(result)
}

fn one_trial(args: &TrialArgs, is_json: bool, stop: &AtomicBool) -> Answer {
    let spec = args.to.trial(&args.send, false)?;
    Ok(run_trial(&spec, is_json, stop)?.loss() <= args.tolerance)
}

fn latency(args: &LatencyArgs, is_json: bool, stop: &AtomicBool) -> Answer {
    if args.send.rate == Rate::FlatOut {
        return Err(Error::input(
            "latency is measured at a fixed rate; name one below what the device forwards with --rate",
        ));
    }
    let spec = args.to.trial(&args.send, true)?;
    let result = run_trial(&spec, is_json, stop)?;
    if let (Some(path), Some(latency)) = (&args.plot, &result.distribution) {
        let bins = latency.bins().into_iter().map(|(time, count)| (time as f64 / 1e3, count)).collect();
        let title = format!("Latency at {}frames/s", Scaled(result.sent.offered_per_second()));
        write_plot(&cdf(&title, "µs", &[("all frames".to_owned(), bins)]), path)?;
    }
    Ok(true)
}

fn throughput(args: &SearchArgs, is_json: bool, stop: &AtomicBool) -> Answer {
    let trial = args.to.trial(&args.send, false)?;
    let highest = match args.send.rate {
        Rate::FlatOut => None,
        Rate::FramesPerSecond(rate) => Some(rate),
        Rate::BitsPerSecond(_) => return Err(Error::input("name the highest rate of a search in frames a second")),
    };
    let spec = SearchSpec {
        trial,
        duration: args.send.duration,
        tolerance: args.tolerance,
        resolution: args.resolution,
        highest,
    };
    let progress = Progress::default();
    let told = |step: &Step| eprintln!("{}", one_step(step));
    let found = with_progress("searching", None, &progress, || search(&spec, stop, &progress, told))?;
    if is_json {
        json(&spec, &found, &interfaces(&spec.trial))?;
    } else {
        println!("{}", answer(&found));
    }
    if let Some(path) = &args.plot {
        write_plot(&loss_chart(&found), path)?;
    }
    Ok(found.rate > 0.0)
}

fn one_step(step: &Step) -> String {
    let asked = step.rate.map_or("flat out".to_owned(), |rate| format!("{}frames/s", Scaled(rate)));
    let verdict = match (step.passed, step.kept) {
        (true, _) => "passed",
        (false, true) => "lost",
        (false, false) => "not kept by the generator",
    };
    format!("{asked:>20}: {verdict}, {} lost of {}", step.outcome.lost, step.outcome.sent.offered)
}

fn answer(found: &Throughput) -> String {
    let limit = if found.nothing_too_high { " (the generator's limit: the device may do more)" } else { "" };
    format!("throughput {} frames/s, {}bit/s{limit}", Scaled(found.rate), Scaled(found.bits_per_second))
}

fn loss_chart(found: &Throughput) -> LineChart {
    let mut points: Vec<Point> = found
        .steps
        .iter()
        .map(|step| Point::new(step.outcome.sent.offered_per_second(), 100.0 * step.outcome.loss()))
        .collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    LineChart {
        title: "Loss over offered rate".to_owned(),
        x_label: "frames/s offered".to_owned(),
        y_label: "% lost".to_owned(),
        has_dots: true,
        series: vec![Series { name: "trials".to_owned(), points }],
        ..LineChart::default()
    }
}

fn write_plot(chart: &LineChart, path: &Path) -> Result<(), Error> {
    let written = chart.write(path).map_err(|error| Error::input(error.to_string()))?;
    if written.png.is_none() {
        eprintln!(
            "penstock-pktgen: no font was found, so only {} was written; install fonts-dejavu-core",
            written.svg.display()
        );
    }
    Ok(())
}
