//! What the workers tell: drops go to the log, and to whoever follows them.
//!
//! Every line of the log passes `Drops::push`: who wants all of them calls `Drops::follow`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dataplane::event::Event;
use dataplane::packet::Direction;
use dataplane::rules::WireId;
use tokio::sync::broadcast;

use super::core::Core;
use super::shared::Node;
use crate::observe::drops::{Names, Owner, peer_of};
use crate::observe::events::{self, About, Heard, Listening, Output};

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

/// Starts to listen to the engine.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(node: Arc<Node>, output: Output) -> io::Result<Listening> {
    let limits = node.config.log.drops.clone();
    let tee = tee(&node, output);
    Listening::start(OfNode(node), &limits, tee)
}

fn tee(node: &Arc<Node>, output: Output) -> Tee {
    Tee { output, node: Arc::clone(node), line: Vec::new() }
}

struct OfNode(Arc<Node>);

impl Heard for OfNode {
    type Out = Tee;

    fn take(&mut self, most: usize) -> Vec<Event> {
        self.0.engine.take_events(most)
    }

    /// Asks the core. Lines are few, whatever is dropped.
    fn names(&self, about: &About) -> Names {
        let About { wire, direction, judged, tuple, judged_as, .. } = *about;
        let answer = self.0.ask(move |core| {
            let peer = tuple.map(|tuple| core.owner(peer_of(direction, &tuple))).unwrap_or_default();
            let found = core.wire(wire);
            Names {
                wire: found.map_or_else(
                    || format!("number {}", wire.0),
                    |(local, interface)| format!("{}/{interface}", local.container),
                ),
                pod: found.map(|(local, _)| local.name.to_string()),
                peer,
                behind: tuple.and_then(|tuple| core.behind(direction, &tuple, judged_as)),
                policies: judged.map(|judged| core.isolating(wire, judged)).unwrap_or_default(),
                rule: None,
            }
        });
        answer.unwrap_or_else(|| Names { wire: format!("number {}", wire.0), ..Names::default() })
    }

    fn port_lost(&self, wire: WireId, _side: Direction, errno: i32) {
        let reason = io::Error::from_raw_os_error(errno).to_string();
        self.0.tell(move |core| core.wire_lost(wire, &reason));
    }

    fn suppressed(&self) -> &AtomicU64 {
        &self.0.counts.suppressed
    }

    fn is_to_reopen(&self) -> bool {
        self.0.reopen.swap(false, Ordering::AcqRel)
    }

    fn reopen(&self) -> Result<Tee, String> {
        Ok(tee(&self.0, events::open(self.0.config.log.drops.file.as_deref())?))
    }
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
