//! What the plugin says to the daemon: one connection, one request, one answer.
//!
//! Both are a line of JSON on a Unix socket. The daemon answers [`Call::Add`] only when the pod's wires carry frames
//! **and** every worker has acknowledged a policy generation that knows the pod; until then the runtime does not start
//! the pod's containers.
//!
//! ```text
//! → {"version":1,"call":"add","container":"…","pod":{…},"sandbox":"/run/netns/…","wires":[…]}
//! ← {"version":1,"outcome":"done"}
//! ← {"version":1,"outcome":"refused","reason":"later","message":"policies are not loaded yet"}
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::state::{End, PodIdentity, Splice, Wire};

/// The version that is spoken here. A daemon refuses others with [`Reason::Version`].
pub const VERSION: u32 = 1;

/// Where the daemon listens unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/penstock/cni.sock";

/// Longest message in bytes: a pod has a few wires.
const LONGEST: u64 = 1 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// What is asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "lowercase")]
pub enum Call {
    /// Carry and judge these wires, then answer. A repeated request for the same wires is answered alike.
    Add(Pod),
    /// Let go of a pod's wires: close ports and descriptors in their namespaces.
    Remove {
        /// The container.
        container: String,
        /// Names of the pod's interfaces whose wires end; empty: all.
        interfaces: Vec<String>,
    },
    /// Are these wires carried, under a policy that knows the pod?
    Check(Pod),
    /// Could a pod be added now?
    Status,
}

/// A pod with its wires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The runtime's name for its sandbox.
    pub container: String,
    /// Who it is.
    pub pod: PodIdentity,
    /// Path of its network namespace, in the host's mount namespace.
    pub sandbox: PathBuf,
    /// Its wires: all that it has, not only new ones.
    pub wires: Vec<PodWire>,
}

/// A wire to be carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodWire {
    /// The interface in the pod.
    pub interface: String,
    /// Its hardware address, `02:00:…`.
    pub mac: String,
    /// Its IP addresses, link-local ones included.
    pub addresses: Vec<IpAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The device towards the pod.
    pub inside: End,
    /// The device towards the host.
    pub outside: End,
    /// The primary's interface on the host.
    pub host_interface: String,
}

impl From<&Splice> for Pod {
    fn from(splice: &Splice) -> Self {
        Pod {
            container: splice.container.clone(),
            pod: splice.pod.clone(),
            sandbox: splice.sandbox.path.clone(),
            wires: splice.wires.iter().map(PodWire::from).collect(),
        }
    }
}

impl From<&Wire> for PodWire {
    fn from(wire: &Wire) -> Self {
        PodWire {
            interface: wire.interface.clone(),
            mac: wire.mac.clone(),
            addresses: wire.addresses.clone(),
            mtu: wire.mtu,
            inside: wire.inside.clone(),
            outside: wire.outside.clone(),
            host_interface: wire.host_interface.clone(),
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// As asked.
    Done,
    /// Not.
    Refused {
        /// What kind of refusal.
        reason: Reason,
        /// In a sentence, with the remedy.
        message: String,
    },
}

/// Why a daemon refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It isn't ready (no policies yet, shutting down): the runtime should try again.
    Later,
    /// It does not know, or does not carry, what it was asked about.
    Unknown,
    /// It speaks another version.
    Version,
    /// Anything else.
    Failed,
}

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("the penstock daemon does not answer at {}: {source}", socket.display())]
    Absent {
        /// Where.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It took the request and did not answer in time, or with something else than an answer.
    #[error("the penstock daemon at {} gave no answer: {reason}", socket.display())]
    Silent {
        /// Where.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// It said no.
    #[error("the penstock daemon refuses: {message}")]
    Refused {
        /// What kind of refusal.
        reason: Reason,
        /// Its words.
        message: String,
    },
}

/// Asks the daemon and waits for its answer, at most `timeout` for each read and write.
///
/// # Errors
/// See [`CallError`].
pub fn ask(socket: &Path, call: Call, timeout: Duration) -> Result<(), CallError> {
    let absent = |source| CallError::Absent { socket: socket.to_owned(), source };
    let silent = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("not within {timeout:?}"),
            _ => error.to_string(),
        };
        CallError::Silent { socket: socket.to_owned(), reason }
    };
    let mut stream = UnixStream::connect(socket).map_err(absent)?;
    stream.set_read_timeout(Some(timeout)).map_err(silent)?;
    stream.set_write_timeout(Some(timeout)).map_err(silent)?;
    write(&mut stream, &Request { version: VERSION, call }).map_err(silent)?;
    let answer: Answer = read(&stream).map_err(silent)?;
    match answer.outcome {
        Outcome::Done => Ok(()),
        Outcome::Refused { reason, message } => Err(CallError::Refused { reason, message }),
    }
}

/// Reads one message: a request, at the daemon's side.
///
/// # Errors
/// When the other side closes early, sends more than a message may have, or something that is none.
pub fn read<T: DeserializeOwned>(stream: impl Read) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the message has no end"));
    }
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes one message: an answer, at the daemon's side.
///
/// # Errors
/// When the other side is gone.
pub fn write(mut stream: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The daemon's answer to a request of another version.
pub fn refuse_version(asked: u32) -> Answer {
    let message = format!(
        "the plugin speaks version {asked} of the protocol and the daemon {VERSION}; install both from one release"
    );
    Answer { version: VERSION, outcome: Outcome::Refused { reason: Reason::Version, message } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_the_documentation_shows() {
        let call = Call::Remove { container: "c".into(), interfaces: vec!["eth0".into()] };
        let text = serde_json::to_string(&Request { version: VERSION, call }).unwrap();
        assert_eq!(text, r#"{"version":1,"call":"remove","container":"c","interfaces":["eth0"]}"#);
        let text = r#"{"version":1,"outcome":"refused","reason":"later","message":"not yet"}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        let refused = Outcome::Refused { reason: Reason::Later, message: "not yet".into() };
        assert_eq!(answer, Answer { version: VERSION, outcome: refused });
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
    }

    #[test]
    fn half_a_message_is_none() {
        assert_eq!(read::<Answer>(&b"{\"version\":1"[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read::<Answer>(&b"{}\n"[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nobody_at_the_socket_is_named() {
        let error = ask(Path::new("/no/such.sock"), Call::Status, Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, CallError::Absent { .. }));
        assert!(error.to_string().contains("/no/such.sock"), "{error}");
    }
}
