//! What the workers tell: drops go to the log, and to whoever follows them.
//!
//! Every line of the log passes `Drops::push`: who wants all of them calls `Drops::follow`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::event::{Dropped, Event, Logged};
use dataplane::packet::{Direction, Tuple};
use dataplane::rules::WireId;
use tokio::sync::broadcast;
use tracing::warn;

use super::core::Core;
use super::shared::Node;
use crate::daemon::drops::{Clocks, DropLog, Names, Owner, Record, TokenBucket, is_policy, peer_of};
use crate::daemon::events::{self, Output};

/// How long to wait while there are events, and at most when there are none.
const WAIT: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];
/// The most events of one round.
const ROUND: usize = 4_096;
/// Lines that are kept for those who ask.
const KEPT: usize = 4_096;

/// The latest lines, and those to come.
pub(super) struct Drops {
    latest: Mutex<VecDeque<Arc<str>>>,
    lines: broadcast::Sender<Arc<str>>,
}

impl Default for Drops {
    fn default() -> Self {
        Drops { latest: Mutex::default(), lines: broadcast::Sender::new(KEPT) }
    }
}

impl Drops {
    /// Every line of the log of drops comes by here, as JSON.
    fn push(&self, line: Arc<str>) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() >= KEPT {
            latest.pop_front();
        }
        latest.push_back(Arc::clone(&line));
        // Under the lock, so that who asks for both misses none and gets none twice. Nobody may be listening.
        let _nobody = self.lines.send(line);
    }

    /// The lines that are kept, oldest first, and those that come after them. Who is too slow is told how many it missed.
    pub(super) fn follow(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        (latest.iter().cloned().collect(), self.lines.subscribe())
    }
}

/// Writes to the log, and hands each line on.
struct Tee {
    output: Output,
    node: Arc<Node>,
    line: Vec<u8>,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.line);
                self.node.drops.push(String::from_utf8_lossy(&line).trim_end().into());
            }
        }
        // A log that cannot be written must not keep lines from those who follow.
        self.output.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The thread. Dropping it waits for its end, which comes after the node's.
pub(super) struct Listening(Option<JoinHandle<()>>);

impl Drop for Listening {
    fn drop(&mut self) {
        // A panic has been told on standard error.
        let _panicked = self.0.take().map(JoinHandle::join);
    }
}

/// Starts to listen to the engine.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(node: Arc<Node>, output: Output) -> io::Result<Listening> {
    let limits = &node.config.log.drops;
    let bucket = TokenBucket::new(limits.per_second, limits.burst);
    let log = DropLog::new(Tee { output, node: Arc::clone(&node), line: Vec::new() }, bucket);
    let mut listener = Listener { node, log, broken: false };
    let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
        let [busy, idle] = WAIT;
        let mut pause = busy;
        while !listener.node.is_stopping() {
            pause = if listener.round() > 0 { busy } else { (pause * 2).min(idle) };
            std::thread::sleep(pause);
        }
        listener.round();
    })?;
    Ok(Listening(Some(thread)))
}

struct Listener {
    node: Arc<Node>,
    log: DropLog<Tee>,
    /// The log could not be written to; that has been told.
    broken: bool,
}

impl Listener {
    /// Takes what is there, and says how much it was.
    fn round(&mut self) -> usize {
        if self.node.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        let node = Arc::clone(&self.node);
        let clocks = Clocks::read();
        let taken = node.engine.take_events(ROUND);
        let suppressed = &node.counts.suppressed;
        for event in &taken {
            let result = match event {
                Event::Dropped(dropped) => {
                    let Dropped { wire, direction, tuple, .. } = *dropped;
                    let judged = is_policy(dropped.reason).then_some(dropped.judged);
                    let names = || names(&node, wire, direction, judged, tuple);
                    self.log.record(Record::Dropped(dropped), &clocks, names, suppressed)
                }
                Event::Logged(logged) => {
                    let Logged { wire, direction, tuple, .. } = *logged;
                    let names = || names(&node, wire, direction, Some(direction), Some(tuple));
                    self.log.record(Record::Verdict(logged), &clocks, names, suppressed)
                }
                Event::PortLost { wire, errno, .. } => {
                    let (wire, reason) = (*wire, io::Error::from_raw_os_error(*errno).to_string());
                    node.tell(move |core| core.wire_lost(wire, &reason));
                    Ok(())
                }
            };
            self.tell_broken(result);
        }
        if !taken.is_empty() {
            let flushed = self.log.flush();
            self.tell_broken(flushed);
        }
        taken.len()
    }

    fn reopen(&mut self) {
        match events::open(self.node.config.log.drops.file.as_deref()) {
            Ok(output) => self.log.write_to(Tee { output, node: Arc::clone(&self.node), line: Vec::new() }),
            Err(reason) => warn!("{reason}; lines go on to where they went"),
        }
        self.broken = false;
    }

    fn tell_broken(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.broken, true)
        {
            warn!("the log of drops cannot be written ({error}); lines are lost until SIGHUP opens it anew");
        }
    }
}

/// Asks the core for names. Lines are few, whatever is dropped.
fn names(node: &Node, wire: WireId, direction: Direction, judged: Option<Direction>, tuple: Option<Tuple>) -> Names {
    let answer = node.ask(move |core| {
        let peer = tuple.map(|tuple| core.owner(peer_of(direction, &tuple))).unwrap_or_default();
        let found = core.wire(wire);
        Names {
            wire: found.map_or_else(
                || format!("number {}", wire.0),
                |(local, interface)| format!("{}/{interface}", local.container),
            ),
            pod: found.map(|(local, _)| local.name.to_string()),
            peer,
            policies: judged.map(|judged| core.isolating(wire, judged)).unwrap_or_default(),
        }
    });
    answer.unwrap_or_else(|| Names { wire: format!("number {}", wire.0), ..Names::default() })
}

impl Core {
    /// The policies that isolate a wire's pod.
    pub(super) fn isolating(&self, wire: WireId, direction: Direction) -> Vec<String> {
        let wire = self.first_of(wire);
        self.live.table().isolating(wire, direction).iter().map(ToString::to_string).collect()
    }

    /// Who owns an address.
    pub(super) fn owner(&self, address: std::net::IpAddr) -> Owner {
        let Some(cluster) = self.cluster() else { return Owner::Unknown };
        if let Some(pod) = cluster.owner(address) {
            return Owner::Pod(pod.name.to_string());
        }
        cluster.node_at(address).map_or(Owner::Unknown, |node| Owner::Node(node.name.to_string()))
    }

    /// The sandbox and the interface of a wire.
    pub(super) fn wire(&self, id: WireId) -> Option<(&super::pods::Local, &str)> {
        let wires = self.locals.values().flat_map(|local| local.wires.iter().map(move |wire| (local, wire)));
        wires
            .into_iter()
            .find(|(_, (_, wire))| wire.id == id)
            .map(|(local, (interface, _))| (local, interface.as_str()))
    }
}
