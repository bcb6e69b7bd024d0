//! What the workers tell of the wires of a configuration: lines with their names, lost ports to be opened again, questions that get
//! an answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::event::Event;
use dataplane::packet::Direction;
use dataplane::rules::WireId;
use dataplane::worker::{Answer, AskQueues, Finding};

use super::running::Daemon;
use crate::observe::drops::{Names, peer_of};
use crate::observe::events::{self, About, Heard, Listening, Output};

/// Starts to listen to the workers.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(daemon: Arc<Daemon>, output: Output) -> io::Result<Listening> {
    let limits = daemon.config.log.drops.clone();
    let asks = daemon.enforcer.asks();
    Listening::start(Workers { daemon, asks }, &limits, output)
}

struct Workers {
    daemon: Arc<Daemon>,
    asks: Vec<(AskQueues, Box<dyn Fn() + Send + Sync>)>,
}

impl Heard for Workers {
    type Out = Output;

    fn take(&mut self, most: usize) -> Vec<Event> {
        self.daemon.enforcer.take_events().take(most).collect()
    }

    fn names(&self, about: &About) -> Names {
        let About { wire, direction, judged, tuple, rule, generation, .. } = *about;
        let policy = self.daemon.in_force(generation);
        let found = self.daemon.wires().into_iter().find(|known| known.id == wire);
        let peer = tuple.zip(policy.as_ref()).map(|(tuple, policy)| policy.owner(peer_of(direction, &tuple)));
        Names {
            wire: found.as_ref().map_or_else(|| format!("number {}", wire.0), |wire| wire.config.name.clone()),
            pod: found.and_then(|wire| wire.config.occupant.pod().map(str::to_owned)),
            peer: peer.unwrap_or_default(),
            behind: None,
            rule: rule.zip(self.daemon.gateway.as_ref()).and_then(|(rule, gateway)| gateway.name_of(rule)),
            policies: policy.zip(judged).map(|(policy, judged)| policy.policies(wire, judged)).unwrap_or_default(),
        }
    }

    fn port_lost(&self, wire: WireId, side: Direction, errno: i32) {
        self.daemon.port_lost(wire, side, errno);
    }

    fn suppressed(&self) -> &AtomicU64 {
        &self.daemon.counts.suppressed
    }

    fn is_to_reopen(&self) -> bool {
        self.daemon.reopen.swap(false, Ordering::AcqRel)
    }

    fn reopen(&self) -> Result<Output, String> {
        events::open(self.daemon.config.log.drops.file.as_deref())
    }

    /// No rule of the daemon's asks anything yet. Should one, the answer is no.
    fn attend(&mut self) -> usize {
        let mut answered = 0;
        for (queues, wake) in &self.asks {
            let before = answered;
            while let Some(question) = queues.question() {
                queues.answer(Answer { ticket: question.ticket, finding: Finding::Deny });
                self.daemon.counts.questions_denied.fetch_add(1, Ordering::Relaxed);
                answered += 1;
            }
            if answered > before {
                wake();
            }
        }
        answered
    }
}
