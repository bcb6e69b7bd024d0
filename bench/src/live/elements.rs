//! One element of a large set, to in force.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control::gateway::api::{Changed, Request};
use control::lab::netns::{self, Namespace};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::{Config, daemon, rules};
use crate::compare::contender::nftables::Library;
use crate::compare::process;
use crate::compare::statistics::percentile;
use crate::compare::topology::PREFIX;
use crate::random::Random;

/// Rules beside the set.
const SERVICES: u32 = 1_000;
/// So long a way has turns: what takes a second a change has fewer.
const BUDGET: Duration = Duration::from_secs(30);

/// By which way a change is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Penstock's socket.
    Socket,
    /// libnftables, a set of intervals.
    Library,
    /// libnftables, a set of single addresses.
    LibraryExact,
    /// `ipset -`, which runs.
    Session,
    /// `penstock set`.
    Command,
    /// `nft add element`, a set of intervals.
    Nft,
    /// `nft add element`, a set of single addresses.
    NftExact,
    /// `ipset add`.
    Ipset,
}

impl Way {
    const ALL: [Way; 8] =
        [Way::Socket, Way::Session, Way::LibraryExact, Way::Library, Way::Command, Way::Ipset, Way::NftExact, Way::Nft];

    /// As the report calls it.
    fn text(self) -> &'static str {
        match self {
            Way::Socket => "Penstock, its socket",
            Way::Library => "nft interval set, libnftables",
            Way::LibraryExact => "nft address set, libnftables",
            Way::Session => "ipset, a running `ipset -`",
            Way::Command => "Penstock, `penstock set`",
            Way::Nft => "nft interval set, `nft add/delete element`",
            Way::NftExact => "nft address set, `nft add/delete element`",
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

/// All that can be asked. nft's set of single addresses is in a namespace of its own: beside a large set of intervals every command
/// of nft takes longer.
struct Asked<'a> {
    socket: PathBuf,
    program: PathBuf,
    namespaces: &'a [Namespace; 2],
    libraries: [Library; 2],
    session: Session,
}

/// Moves this thread into a network namespace, with what it opens and starts from now on.
fn enter(namespace: &Namespace) -> Result<()> {
    let file = File::open(namespace.path())?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Runs a program whose network namespace is that of this thread.
fn command(program: &Path, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Asked<'_> {
    /// Lets an element come or go, and answers how long it took.
    fn change(&mut self, way: Way, comes: bool, element: &str) -> Result<Duration> {
        let (add, delete) = if comes { ("add", "add") } else { ("del", "delete") };
        let own = vec![element.to_owned()];
        let (added, removed) = if comes { (own, Vec::new()) } else { (Vec::new(), own) };
        let set = rules::SET;
        let nft = match way {
            Way::LibraryExact | Way::NftExact => {
                let address = element.split('/').next().unwrap_or_default();
                format!("{delete} element inet gateway {} {{ {address} }}", rules::EXACT)
            }
            _ => format!("{delete} element inet gateway {set} {{ {element} }}"),
        };
        let place = usize::from(matches!(way, Way::LibraryExact | Way::NftExact));
        enter(&self.namespaces[place])?;
        let begin = Instant::now();
        match way {
            Way::Socket => {
                let request = Request::Set { name: set.to_owned(), add: added, remove: removed, save: false };
                let _changed: Changed = daemon::ask(&self.socket, &request)?;
            }
            Way::Library | Way::LibraryExact => self.libraries[place].run(&nft)?,
            Way::Session => self.session.run(&format!("{add} {set} {element}"))?,
            Way::Command => {
                let option = if comes { "--add" } else { "--remove" };
                let socket = self.socket.to_str().context("a path of text")?;
                command(&self.program, &["set", set, option, element, "--socket", socket])?;
            }
            Way::Nft | Way::NftExact => command(Path::new("nft"), &[&nft])?,
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
    let namespaces =
        ["elements", "exact"].map(|name| Namespace::named(format!("{PREFIX}{}-{name}", std::process::id())));
    netns::create(&namespaces)?;
    let result = (|| {
        let [intervals, exact] = &namespaces;
        process::run(Some(intervals), &["ipset", "restore"], &rules::ipset(&elements))?;
        process::run(Some(intervals), &["nft", "-f", "-"], &rules::nft(&elements))?;
        process::run(Some(exact), &["nft", "-f", "-"], &rules::nft_exact(&elements))?;
        let (socket, program) = (daemon.socket(), daemon::program()?);
        intervals.run(|| {
            let (session, of_intervals) = (Session::start()?, Library::open()?);
            enter(exact)?;
            let libraries = [of_intervals, Library::open()?];
            rounds(config, &elements, Asked { socket, program, namespaces: &namespaces, libraries, session })
        })?
    })();
    netns::remove(&namespaces)?;
    result
}

/// In even rounds an element that is new comes and goes, in odd ones one that is there goes and comes.
fn rounds(config: &Config, elements: &[String], mut asked: Asked<'_>) -> Result<Vec<Element>> {
    let mut all: Vec<Element> = Way::ALL.iter().map(|&way| Element { way, times: Vec::new() }).collect();
    let mut random = Random::new(config.seed);
    for round in 0..=config.rounds {
        let is_new = round % 2 == 0;
        let element = match is_new {
            true => rules::element(config.elements + round, &mut random),
            false => elements[random.below(config.elements) as usize].clone(),
        };
        for of in all.iter_mut().filter(|of| of.times.iter().sum::<f64>() < BUDGET.as_secs_f64() * 1e6) {
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
    all.iter().for_each(|of| eprintln!("  {}", of.told()));
    Ok(all)
}
