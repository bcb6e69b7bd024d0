//! Whole files of rules, applied while iperf3 runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::daemon::{self, Daemon};
use super::traffic::{self, Load, Probe, Transfer};
use super::{Config, rules};
use crate::compare::process;
use crate::compare::statistics::Samples;

/// Elements of the set beside the rules.
const ELEMENTS: u32 = 1_000;
/// Seconds in which the most is found.
const FINDING: u32 = 4;
/// The longest that files may be applied under one load.
const LONGEST: u32 = 240;

/// What happened under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applying {
    /// The load.
    pub load: Load,
    /// What iperf3 says, of the time in which files were applied.
    pub transfer: Transfer,
    /// The same without any change, of as long a time.
    pub quiet: Transfer,
    /// Whether its connection lasted to the end.
    pub is_whole: bool,
    /// What the probe saw.
    pub probe: Probe,
    /// What it saw without any change.
    pub quiet_probe: Probe,
    /// Milliseconds of each `penstock apply`.
    pub commands: Samples,
    /// Milliseconds of each switch.
    pub switches: Samples,
}

impl Applying {
    /// Frames that were allowed, and sent at a rate, and lost.
    pub(super) fn lost(&self) -> f64 {
        (self.transfer.lost + self.probe.lost) as f64
    }

    /// Whether it was a connection.
    pub(super) fn is_tcp(&self) -> bool {
        !matches!(self.load, Load::Udp(_))
    }

    /// In a few words.
    pub(super) fn told(&self) -> String {
        format!(
            "{} frames of iperf3 and {} of the probe, {} files; longest gap {:.1} ms, without any change {:.1} ms",
            self.transfer.frames,
            self.probe.sent,
            self.commands.0.len(),
            self.probe.gap_ms,
            self.quiet_probe.gap_ms
        )
    }

    /// A line of the table.
    pub(super) fn row(&self) -> String {
        let gigabits = |rate: f64| format!("{:.2} Gbit/s", rate / 1e9);
        let median = |samples: &Samples| samples.summary().map_or(f64::NAN, |summary| summary.median);
        let offered = gigabits(self.load.offered());
        let (frames, lost) = match self.is_tcp() {
            true => {
                (format!("{}, {} sent again", gigabits(self.transfer.rate), self.transfer.retransmits), "–".to_owned())
            }
            false => (self.transfer.frames.to_string(), self.transfer.lost.to_string()),
        };
        format!(
            "| {} | {offered} | {frames} | {lost} | {} | {} | {:.1} ms | {} | {:.0} ms | {:.1} ms | {} | {:.1} ms |",
            self.load.text(),
            self.probe.sent,
            self.probe.lost,
            self.probe.gap_ms,
            self.commands.0.len(),
            median(&self.commands),
            median(&self.switches),
            self.quiet.lost + self.quiet_probe.lost,
            self.quiet_probe.gap_ms,
        )
    }
}

/// Measures all loads.
///
/// # Errors
/// When the daemon or iperf3 fails. A connection that is cut is no error but a figure.
pub(super) fn measure(config: &Config) -> Result<Vec<Applying>> {
    let elements = rules::elements(ELEMENTS, config.seed);
    let texts = [1, 2].map(|version| rules::file(config.rules, &elements, config.seed ^ version));
    let [first, second] = texts;
    let (first, second) = (first?, second?);
    let daemon = Daemon::start(&first, config.port)?;
    let files = [daemon.keep("second.yaml", &second)?, daemon.keep("first.yaml", &first)?];
    let _server = traffic::serve(&daemon.topologies[0])?;
    let most = |load: Load| -> Result<f64> { Ok(traffic::finish(load.start(&daemon.topologies[0], FINDING)?)?.rate) };
    eprintln!("  a daemon with {} rules runs", config.rules);
    let (udp, tcp) = (most(Load::Udp(0.0))?, most(Load::Tcp(0.0))?);
    eprintln!("  flat out {:.2} Gbit/s UDP, {:.2} Gbit/s TCP", udp / 1e9, tcp / 1e9);
    let loads = [Load::Udp(udp / 2.0), Load::Tcp(tcp / 2.0)];
    loads.into_iter().map(|load| under(&daemon, &files, load, config.applications)).collect()
}

fn under(daemon: &Daemon, files: &[PathBuf; 2], load: Load, applications: u32) -> Result<Applying> {
    let topology = &daemon.topologies[0];
    // To know for how long iperf3 is to run.
    let began = Instant::now();
    for file in files {
        apply(daemon, file)?;
    }
    let pause = Duration::from_millis(500);
    eprintln!("  two files in {:.1} s", began.elapsed().as_secs_f64());
    let each = began.elapsed() / 2 + pause;
    let seconds = (each.as_secs_f64() * f64::from(applications) * 2.0 + 3.0).min(f64::from(LONGEST)) as u32;
    let (quiet, quiet_probe) = {
        let client = load.start(topology, seconds.min(15))?;
        traffic::probed(topology, || traffic::finish(client))?
    };
    let mut client = load.start(topology, seconds)?;
    let ((commands, switches, is_whole, transfer), probe) = traffic::probed(topology, || {
        process::rest(Duration::from_secs(1))?;
        let (mut commands, mut switches) = (Samples::default(), Samples::default());
        for number in 0..applications as usize {
            if !client.is_running() {
                break;
            }
            let (command, switch) = apply(daemon, &files[number % 2])?;
            commands.0.push(command);
            switches.0.push(switch);
            process::rest(pause)?;
        }
        let transfer = traffic::finish(client);
        let is_whole = transfer.is_ok();
        if let Err(error) = &transfer {
            eprintln!("  {}: {error:#}", load.text());
        }
        Ok((commands, switches, is_whole, transfer.unwrap_or_default()))
    })?;
    eprintln!("  {}: {} lost, {}", load.text(), transfer.lost + probe.lost, median_told(&commands, &switches));
    Ok(Applying { load, transfer, quiet, is_whole, probe, quiet_probe, commands, switches })
}

fn median_told(commands: &Samples, switches: &Samples) -> String {
    let median = |samples: &Samples| samples.summary().map_or(f64::NAN, |summary| summary.median);
    format!("{} files, command {:.0} ms, switch {:.1} ms", commands.0.len(), median(commands), median(switches))
}

/// Applies a file by the command; how long all of it took, and the switch, in milliseconds.
fn apply(daemon: &Daemon, file: &Path) -> Result<(f64, f64)> {
    let (program, socket) = (daemon::program()?, daemon.socket());
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path of text");
    let [program, file, socket] = [text(&program)?, text(file)?, text(&socket)?];
    let words = [&program, "apply", &file, "--yes", "--socket", &socket];
    let began = Instant::now();
    let text = process::run(None, &words, "")?;
    let command = began.elapsed().as_secs_f64() * 1e3;
    let took = text.rsplit_once('(').and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let took = took.with_context(|| format!("penstock apply says {text}"))?;
    Ok((command, took / 1e3))
}
