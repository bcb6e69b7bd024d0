//! Asking the daemon of this node.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exit::Failure;
use crate::gateway;
use crate::node::api::{DEFAULT_SOCKET, Request};
use crate::policy::cluster::Cluster;
use crate::policy::manifest;

/// How long a daemon may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the daemon listens.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SocketArgs {
    /// The socket of the daemon; a node's or a gateway's usual one if left away
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The lines of an answer.
pub(super) struct Answers {
    lines: Lines<BufReader<UnixStream>>,
}

impl SocketArgs {
    /// Asks the daemon.
    ///
    /// # Errors
    /// When nobody answers there.
    pub(super) fn ask(&self, request: &Request, goes_on: bool) -> Result<Answers, Failure> {
        // What is followed may be silent for long.
        ask(self.path(), request, (!goes_on).then_some(PATIENCE))
    }

    fn path(&self) -> &Path {
        let usual = [DEFAULT_SOCKET, gateway::api::DEFAULT_SOCKET].map(Path::new);
        let there = usual.into_iter().find(|path| path.exists());
        self.socket.as_deref().or(there).unwrap_or(Path::new(DEFAULT_SOCKET))
    }

    /// The objects by which the node judges.
    ///
    /// # Errors
    /// When nobody answers, or what it answers cannot be read.
    pub(super) fn cluster(&self) -> Result<Cluster, Failure> {
        let objects: Vec<Value> = self.ask(&Request::Objects, false)?.collect::<Result<_, _>>()?;
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        let loaded = manifest::load_text(&self.path().display().to_string(), &text.join("\n---\n"));
        loaded.map(|loaded| loaded.cluster).map_err(Failure::system)
    }
}

/// Asks whoever listens at a socket, who has so long to begin his answer.
///
/// # Errors
/// When nobody answers there.
pub(super) fn ask(socket: &Path, request: &impl Serialize, patience: Option<Duration>) -> Result<Answers, Failure> {
    let absent = |error: std::io::Error| {
        Failure::System(format!(
            "no penstock daemon answers at {} ({error}); run this as root where it runs, or name its socket with --socket",
            socket.display()
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(absent)?;
    stream.set_read_timeout(patience).map_err(absent)?;
    cni::protocol::write(&mut stream, request).map_err(absent)?;
    Ok(Answers { lines: BufReader::new(stream).lines() })
}

impl Iterator for Answers {
    type Item = Result<Value, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.lines.next()? {
            Ok(line) => line,
            Err(error) => {
                return Some(Err(Failure::System(format!(
                    "the daemon gave no whole answer ({error}); see its log, and try again"
                ))));
            }
        };
        let value: Result<Value, _> = serde_json::from_str(&line);
        Some(match value {
            Ok(value) => match value.get("error").and_then(Value::as_str) {
                Some(reason) if value.get("input").is_some() => Err(Failure::BadInput(reason.to_owned())),
                Some(reason) => Err(Failure::System(format!("the daemon refuses: {reason}"))),
                None => Ok(value),
            },
            Err(error) => Err(not_understood(&error)),
        })
    }
}

/// An answer as what it should be.
///
/// # Errors
/// When it is something else.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| not_understood(&error))
}

fn not_understood(error: &serde_json::Error) -> Failure {
    Failure::System(format!(
        "the daemon's answer is not understood ({error}); use the penstock of the same release as the daemon"
    ))
}
