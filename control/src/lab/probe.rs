//! Probes: real connections from one namespace to another.
//!
//! Policy denies by silence, so a probe that hears nothing, or fails, is tried again before it counts, with a new socket each
//! time. Silence alone proves nothing: the caller backs it by a probe of the same server from inside its own namespace
//! ([`ProbeOutcome::Broken`] when that fails too).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::packet::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::Instant;

use super::netns::Namespace;
use crate::policy::probe::Service;

/// How long each try waits at least. A lost frame costs one try; a deny costs all.
const WAITS: [Duration; 3] = [Duration::from_millis(300), Duration::from_millis(400), Duration::from_millis(500)];

/// A try waits this many times as long as the slowest answer so far took: on a busy machine silence takes longer to tell.
const PATIENCE: u32 = 5;

/// Tries under way at once: each needs a descriptor or two.
const AT_ONCE: usize = 600;

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The server answered.
    Reached,
    /// The far end answered that nobody listens: packets pass both ways.
    Refused,
    /// Silence, although the server answers from inside its own namespace: denied.
    Timeout,
    /// Silence, and the server does not answer from inside its own namespace either: nothing is proved.
    Broken(String),
    /// The probe could not be made.
    Error(String),
    /// The lab does not speak this protocol.
    Unsupported,
}

impl ProbeOutcome {
    /// Whether packets pass; `None` when the probe proves nothing.
    pub fn passes(&self) -> Option<bool> {
        match self {
            ProbeOutcome::Reached | ProbeOutcome::Refused => Some(true),
            ProbeOutcome::Timeout => Some(false),
            ProbeOutcome::Broken(_) | ProbeOutcome::Error(_) | ProbeOutcome::Unsupported => None,
        }
    }

    /// What silence means depends on whether the server answers at all: `control` is what came of the same question
    /// from inside the server's own namespace.
    pub fn backed_by(self, control: &ProbeOutcome) -> ProbeOutcome {
        match (self, control) {
            (ProbeOutcome::Timeout, ProbeOutcome::Reached | ProbeOutcome::Refused) => ProbeOutcome::Timeout,
            (ProbeOutcome::Timeout, ProbeOutcome::Error(why)) => ProbeOutcome::Broken(why.clone()),
            (ProbeOutcome::Timeout, _) => ProbeOutcome::Broken("silence".into()),
            (outcome, _) => outcome,
        }
    }

    /// One word for JSON.
    pub fn label(&self) -> &'static str {
        match self {
            ProbeOutcome::Reached => "reached",
            ProbeOutcome::Refused => "refused",
            ProbeOutcome::Timeout => "denied",
            ProbeOutcome::Broken(_) => "broken",
            ProbeOutcome::Error(_) => "error",
            ProbeOutcome::Unsupported => "unsupported",
        }
    }
}

/// A connection to try.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Where it starts.
    pub namespace: Namespace,
    /// Its own address, where the namespace has several.
    pub source: Option<IpAddr>,
    /// The far end's address.
    pub target: IpAddr,
    /// The far end's port.
    pub service: Service,
    /// What the far end must answer.
    pub answer: String,
}

/// Tries all, many at once; one outcome each, in order. Never answers `Broken`: controls are the caller's.
pub async fn run(attempts: &[Attempt]) -> Vec<ProbeOutcome> {
    let mut outcomes = vec![ProbeOutcome::Timeout; attempts.len()];
    let mut pending: Vec<usize> = (0..attempts.len()).collect();
    let mut slowest = Duration::ZERO;
    for wait in WAITS {
        for chunk in pending.chunks(AT_ONCE) {
            let wait = wait.max(slowest * PATIENCE);
            slowest = slowest.max(round(attempts, chunk, wait, &mut outcomes).await);
        }
        // A busy server's reset proves as little as silence.
        pending.retain(|&index| matches!(outcomes[index], ProbeOutcome::Timeout | ProbeOutcome::Error(_)));
    }
    outcomes
}

/// One try of each of `chunk`, all at once. Answers how long the slowest answer took.
async fn round(attempts: &[Attempt], chunk: &[usize], wait: Duration, outcomes: &mut [ProbeOutcome]) -> Duration {
    let mut by_namespace: BTreeMap<&Namespace, Vec<usize>> = BTreeMap::new();
    for &index in chunk {
        by_namespace.entry(&attempts[index].namespace).or_default().push(index);
    }
    let mut tries = Vec::new();
    for (namespace, indexes) in by_namespace {
        let open = || indexes.iter().map(|&index| open(&attempts[index])).collect::<Vec<_>>();
        match namespace.run(open) {
            Ok(sockets) => tries.extend(indexes.into_iter().zip(sockets)),
            Err(error) => {
                for index in indexes {
                    outcomes[index] = ProbeOutcome::Error(error.to_string());
                }
            }
        }
    }
    let began = Instant::now();
    let tries = tries.into_iter().map(|(index, socket)| async move {
        let outcome = match socket {
            Ok(Some(socket)) => attempt(&attempts[index], socket, wait).await,
            Ok(None) => ProbeOutcome::Unsupported,
            Err(error) => ProbeOutcome::Error(error.to_string()),
        };
        (index, outcome, began.elapsed())
    });
    let mut slowest = Duration::ZERO;
    for (index, outcome, took) in futures::future::join_all(tries).await {
        if outcome.passes() == Some(true) {
            slowest = slowest.max(took);
        }
        outcomes[index] = outcome;
    }
    slowest
}

/// A socket for an attempt; called inside its namespace.
fn open(attempt: &Attempt) -> io::Result<Option<Socket>> {
    let kind = match attempt.service.protocol {
        Protocol::TCP => Type::STREAM,
        Protocol::UDP => Type::DGRAM,
        _ => return Ok(None),
    };
    let socket = Socket::new(Domain::for_address(SocketAddr::new(attempt.target, 0)), kind, None)?;
    if let Some(source) = attempt.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.set_nonblocking(true)?;
    Ok(Some(socket))
}

async fn attempt(attempt: &Attempt, socket: Socket, wait: Duration) -> ProbeOutcome {
    let target = SocketAddr::new(attempt.target, attempt.service.port);
    let talk = async {
        if attempt.service.protocol == Protocol::TCP {
            ask_tcp(socket, target).await
        } else {
            ask_udp(socket, target).await
        }
    };
    match tokio::time::timeout(wait, talk).await {
        Err(_) => ProbeOutcome::Timeout,
        Ok(Ok(answer)) if answer == attempt.answer.as_bytes() => ProbeOutcome::Reached,
        Ok(Ok(answer)) => {
            ProbeOutcome::Error(format!("somebody else answered: {}", String::from_utf8_lossy(&answer).trim()))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => ProbeOutcome::Refused,
        // The neighbour does not answer: as silent as it gets.
        Ok(Err(error)) if error.kind() == io::ErrorKind::HostUnreachable => ProbeOutcome::Timeout,
        Ok(Err(error)) => ProbeOutcome::Error(error.to_string()),
    }
}

async fn ask_tcp(socket: Socket, target: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpSocket::from_std_stream(socket.into()).connect(target).await?;
    // An empty line says that no HTTP request follows: the server need not wait for one.
    stream.write_all(b"\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn ask_udp(socket: Socket, target: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(target).await?;
    socket.send(b"penstock lab\n").await?;
    let mut answer = vec![0; 2048];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}
