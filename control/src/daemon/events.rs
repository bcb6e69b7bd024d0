//! What the workers tell: drops go to the log, lost ports to whoever opens them again, questions get an answer.
//!
//! The workers' queues have nothing to wait on, so this thread looks: often while there is something, ever less often when
//! there is nothing. The counters that `/metrics` shows do not depend on it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::event::{Dropped, Event, Logged};
use dataplane::packet::{Direction, Tuple};
use dataplane::rules::WireId;
use dataplane::worker::{Answer, AskQueues, Finding};
use tracing::warn;

use super::drops::{Clocks, DropLog, Names, Record, TokenBucket, is_policy, peer_of};
use super::running::Daemon;

/// How long to wait while there are events.
const BUSY: Duration = Duration::from_millis(20);
/// How long to wait at most when there are none.
const IDLE: Duration = Duration::from_millis(200);
/// The most events of one round: what comes later waits for the next, after everything else.
const ROUND: usize = 16_384;

/// Where drop lines go.
pub(crate) type Output = BufWriter<Box<dyn Write + Send>>;

/// Opens the file that the configuration names, or standard output.
///
/// # Errors
/// When the file cannot be opened; a sentence with the remedy.
pub(crate) fn open(file: Option<&Path>) -> Result<Output, String> {
    let output: Box<dyn Write + Send> = match file {
        None => Box::new(io::stdout()),
        Some(path) => Box::new(append(path).map_err(|error| {
            format!(
                "log.drops.file: {} cannot be opened for writing ({error}); make its directory, or name another file",
                path.display()
            )
        })?),
    };
    Ok(BufWriter::new(output))
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The thread. Dropping it stops it, after what is there has been told.
pub(super) struct Events {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(daemon: Arc<Daemon>, output: Output) -> io::Result<Events> {
        let stop = Arc::new(AtomicBool::new(false));
        let drops = &daemon.config.log.drops;
        let log = DropLog::new(output, TokenBucket::new(drops.per_second, drops.burst));
        let asks = daemon.enforcer.asks();
        let mut listener = Listener { daemon, log, asks, broken: false };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            let mut pause = BUSY;
            loop {
                // Asked for before the round, so that nothing that came before the stop is left behind.
                let last = stopped.load(Ordering::Acquire);
                let found = listener.round();
                if last && found < ROUND {
                    return;
                }
                pause = if found > 0 { BUSY } else { (pause * 2).min(IDLE) };
                if !last {
                    std::thread::park_timeout(pause);
                }
            }
        })?;
        Ok(Events { stop, thread: Some(thread) })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic has been told on standard error.
            let _panicked = thread.join();
        }
    }
}

struct Listener {
    daemon: Arc<Daemon>,
    log: DropLog<Output>,
    asks: Vec<(AskQueues, Box<dyn Fn() + Send + Sync>)>,
    /// The log could not be written to; that has been told.
    broken: bool,
}

impl Listener {
    /// Takes what is there, and says how much it was.
    fn round(&mut self) -> usize {
        if self.daemon.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        let daemon = self.daemon.clone();
        let clocks = Clocks::read();
        let mut found = 0;
        for event in daemon.enforcer.take_events().take(ROUND) {
            found += 1;
            let result = match &event {
                Event::Dropped(dropped) => {
                    let Dropped { wire, direction, tuple, generation, .. } = *dropped;
                    let judged = is_policy(dropped.reason).then_some(dropped.judged);
                    let names = || names(&daemon, wire, direction, judged, tuple, generation);
                    self.log.record(Record::Dropped(dropped), &clocks, names, &daemon.counts.suppressed)
                }
                Event::Logged(logged) => {
                    let Logged { wire, direction, tuple, generation, .. } = *logged;
                    let names = || names(&daemon, wire, direction, Some(direction), Some(tuple), generation);
                    self.log.record(Record::Verdict(logged), &clocks, names, &daemon.counts.suppressed)
                }
                Event::PortLost { wire, side, errno } => {
                    daemon.port_lost(*wire, *side, *errno);
                    Ok(())
                }
            };
            self.tell_broken(result);
        }
        if found > 0 {
            let flushed = self.log.flush();
            self.tell_broken(flushed);
        }
        found + self.answer()
    }

    fn reopen(&mut self) {
        let file = self.daemon.config.log.drops.file.as_deref();
        match open(file) {
            Ok(output) => self.log.write_to(output),
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

    /// No rule of the daemon's asks anything yet. Should one, the answer is no.
    fn answer(&mut self) -> usize {
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

fn names(
    daemon: &Daemon,
    wire: WireId,
    direction: Direction,
    judged: Option<Direction>,
    tuple: Option<Tuple>,
    generation: u64,
) -> Names {
    let policy = daemon.in_force(generation);
    let found = daemon.wires().into_iter().find(|known| known.id == wire);
    let peer = tuple.zip(policy.as_ref()).map(|(tuple, policy)| policy.owner(peer_of(direction, &tuple)));
    Names {
        wire: found.as_ref().map_or_else(|| format!("number {}", wire.0), |wire| wire.config.name.clone()),
        pod: found.and_then(|wire| wire.config.occupant.pod().map(str::to_owned)),
        peer: peer.unwrap_or_default(),
        policies: policy.zip(judged).map(|(policy, judged)| policy.policies(wire, judged)).unwrap_or_default(),
    }
}
