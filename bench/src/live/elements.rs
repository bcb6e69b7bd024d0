//! One element of a large set, to in force.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control::gateway::api::{Changed, Request};
use control::lab::netns::{self, Namespace};
use serde::{Deserialize, Serialize};

use super::{Config, daemon, rules};
use crate::compare::contender::nftables::Library;
use crate::compare::process;
use crate::compare::statistics::percentile;
use crate::compare::topology::PREFIX;
use crate::random::Random;

/// Rules beside the set.
const SERVICES: u32 = 1_000;

/// By which way a change is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Penstock's socket.
    Socket,
    /// libnftables.
    Library,
    /// `ipset -`, which runs.
    Session,
    /// `penstock set`.
    Command,
    /// `nft add element`.
    Nft,
    /// `ipset add`.
    Ipset,
}

impl Way {
    const ALL: [Way; 6] = [Way::Socket, Way::Library, Way::Session, Way::Command, Way::Nft, Way::Ipset];

    /// As the report calls it.
    fn text(self) -> &'static str {
        match self {
            Way::Socket => "Penstock, its socket",
            Way::Library => "nft, libnftables",
            Way::Session => "ipset, a running `ipset -`",
            Way::Command => "Penstock, `penstock set`",
            Way::Nft => "`nft add/delete element`",
            Way::Ipset => "`ipset add/del`",
        }
    }
}

/// One way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Element {
    /// Which.
    pub way: Way,
    /// Microseconds, one a change.
    pub times: Vec<f64>,
}

impl Element {
    /// Median, 99th percentile and the most, in milliseconds.
    fn figures(&self) -> [f64; 3] {
        let mut nanos: Vec<u64> = self.times.iter().map(|micros| (micros * 1e3) as u64).collect();
        nanos.sort_unstable();
        [0.5, 0.99, 1.0].map(|share| percentile(&nanos, share).unwrap_or(0) as f64 / 1e6)
    }

    /// In a few words.
    pub(super) fn told(&self) -> String {
        let [median, p99, _] = self.figures();
        format!("{} {median:.2} ms (p99 {p99:.2})", self.way.text())
    }

    /// A line of the table.
    pub(super) fn row(&self) -> String {
        let [median, p99, most] = self.figures();
        format!("| {} | {} | {median:.3} ms | {p99:.2} ms | {most:.2} ms |", self.way.text(), self.times.len())
    }
}

/// A process of `ipset -`.
struct Session(Child);

impl Session {
    fn start() -> Result<Session> {
        let mut command = Command::new("stdbuf");
        command.args(["-o0", "ipset", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut session = Session(command.spawn().context("cannot run ipset")?);
        session.prompt()?;
        Ok(session)
    }

    /// Reads to the next prompt.
    fn prompt(&mut self) -> Result<()> {
        let stdout = self.0.stdout.as_mut().context("stdout is piped")?;
        let mut byte = [0];
        let mut line = Vec::new();
        while !line.ends_with(b"ipset> ") {
            stdout.read_exact(&mut byte).context("`ipset -` ended")?;
            line.push(byte[0]);
        }
        ensure!(line == b"ipset> ", "ipset says {}", String::from_utf8_lossy(&line));
        Ok(())
    }

    fn run(&mut self, line: &str) -> Result<()> {
        let stdin = self.0.stdin.as_mut().context("stdin is piped")?;
        stdin.write_all(format!("{line}\n").as_bytes())?;
        self.prompt()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// All that can be asked, in the namespace of the kernel's sets.
struct Asked {
    socket: PathBuf,
    program: PathBuf,
    library: Library,
    session: Session,
}

/// Runs a program whose network namespace is that of this thread.
fn command(program: &Path, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Asked {
    /// Lets an element come or go, and answers how long it took.
    fn change(&mut self, way: Way, comes: bool, element: &str) -> Result<Duration> {
        let (add, delete) = if comes { ("add", "add") } else { ("del", "delete") };
        let own = vec![element.to_owned()];
        let (added, removed) = if comes { (own, Vec::new()) } else { (Vec::new(), own) };
        let set = rules::SET;
        let nft = format!("{delete} element inet gateway {set} {{ {element} }}");
        let begin = Instant::now();
        match way {
            Way::Socket => {
                let request = Request::Set { name: set.to_owned(), add: added, remove: removed, save: false };
                let _changed: Changed = daemon::ask(&self.socket, &request)?;
            }
            Way::Library => self.library.run(&nft)?,
            Way::Session => self.session.run(&format!("{add} {set} {element}"))?,
            Way::Command => {
                let option = if comes { "--add" } else { "--remove" };
                let socket = self.socket.to_str().context("a path of text")?;
                command(&self.program, &["set", set, option, element, "--socket", socket])?;
            }
            Way::Nft => command(Path::new("nft"), &[&nft])?,
            Way::Ipset => command(Path::new("ipset"), &[add, set, element])?,
        }
        Ok(begin.elapsed())
    }
}

/// Measures all ways in turns.
///
/// # Errors
/// When the daemon, nft or ipset fails.
pub(super) fn measure(config: &Config) -> Result<Vec<Element>> {
    let elements = rules::elements(config.elements, config.seed);
    let daemon = daemon::Daemon::start(&rules::file(SERVICES, &elements, config.seed)?, config.port)?;
    let namespace = [Namespace::named(format!("{PREFIX}{}-elements", std::process::id()))];
    netns::create(&namespace)?;
    let result = (|| {
        process::run(Some(&namespace[0]), &["ipset", "restore"], &rules::ipset(&elements))?;
        process::run(Some(&namespace[0]), &["nft", "-f", "-"], &rules::nft(&elements))?;
        let (socket, program) = (daemon.socket(), daemon::program()?);
        namespace[0].run(|| {
            let asked = Asked { socket, program, library: Library::open()?, session: Session::start()? };
            rounds(config, &elements, asked)
        })?
    })();
    netns::remove(&namespace)?;
    result
}

/// In even rounds an element that is new comes and goes, in odd ones one that is there goes and comes.
fn rounds(config: &Config, elements: &[String], mut asked: Asked) -> Result<Vec<Element>> {
    let mut all: Vec<Element> = Way::ALL.iter().map(|&way| Element { way, times: Vec::new() }).collect();
    let mut random = Random::new(config.seed);
    for round in 0..=config.rounds {
        let is_new = round % 2 == 0;
        let element = match is_new {
            true => rules::element(config.elements + round, &mut random),
            false => elements[random.below(config.elements) as usize].clone(),
        };
        for of in &mut all {
            process::check()?;
            for comes in [is_new, !is_new] {
                let took = asked.change(of.way, comes, &element).with_context(|| of.way.text())?;
                // The first round fills caches.
                if round > 0 {
                    of.times.push(took.as_secs_f64() * 1e6);
                }
            }
        }
    }
    Ok(all)
}
