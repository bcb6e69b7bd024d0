//! `penstock run` as a gateway between namespaces.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::gateway::api::Request;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::compare::contender::PortKind;
use crate::compare::process::{self, Background};
use crate::compare::topology::{Middle, Topology};

/// How long it may take to have its first rules in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon with its wires, and what stands around them.
pub(super) struct Daemon {
    process: Background,
    /// Rule files.
    directory: TempDir,
    /// The wire that carries the traffic first.
    pub(super) topologies: Vec<Topology>,
}

/// The program, which is built beside this one.
pub(super) fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    // Of a test, one directory further down.
    let found = own.ancestors().skip(1).take(2).map(|directory| directory.join("penstock")).find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no penstock beside {}: `cargo build --release -p penstock` builds it", own.display())
    })
}

impl Daemon {
    /// Starts it with these rules on two wires; they are in force when this returns.
    ///
    /// # Errors
    /// When it ends instead, with its last words.
    pub(super) fn start(rules: &str, port: PortKind) -> Result<Daemon> {
        let directory = tempfile::tempdir()?;
        let topologies = vec![Topology::build(Middle::Wire)?, Topology::build(Middle::Wire)?];
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("rules.yaml"), rules)?;
        let mut config = format!(
            "rules: rules.yaml\nstate: state\nsocket: {}\nworkers: [{{cpu: 1}}, {{cpu: 0}}]\nmetrics: {{address: 'off'}}\nwires:\n",
            at("socket").display()
        );
        for (number, topology) in topologies.iter().enumerate() {
            let end = |device: &str| {
                format!("{{kind: {}, interface: {device}, namespace: {}}}", port.name(), topology.middle.name())
            };
            config += &format!(
                "- {{name: wire{number}, placement: transparent, inside: {}, outside: {}}}\n",
                end("d1"),
                end("d0")
            );
        }
        std::fs::write(at("penstock.yaml"), config)?;
        let line = format!(
            "exec {} run --config {} > {} 2>&1",
            program()?.display(),
            at("penstock.yaml").display(),
            at("log").display()
        );
        let process = Background::start(None, None, &["sh".to_owned(), "-c".to_owned(), line])?;
        let mut daemon = Daemon { process, directory, topologies };
        let end = Instant::now() + PATIENCE;
        while daemon.ask::<Value>(&Request::Versions).is_err() {
            process::check()?;
            ensure!(daemon.process.is_running(), "penstock ended: {}", daemon.last_words());
            ensure!(Instant::now() < end, "penstock does not answer: {}", daemon.last_words());
            process::rest(Duration::from_millis(20))?;
        }
        Ok(daemon)
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Keeps a rule file for it.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn keep(&self, name: &str, rules: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, rules)?;
        Ok(path)
    }

    /// Asks it.
    ///
    /// # Errors
    /// As [`ask`].
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        ask(&self.socket(), request)
    }
}

/// Asks the daemon behind a socket for one answer.
///
/// # Errors
/// When it is not there or refuses.
pub(super) fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let value: Value = serde_json::from_str(&answer)?;
    if let Some(reason) = value.get("error") {
        bail!("the daemon refuses: {reason}");
    }
    Ok(serde_json::from_value(value)?)
}
