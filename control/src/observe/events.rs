//! What the workers tell: drops go to the log, and the rest to whoever looks after it.
//!
//! The workers' queues have nothing to wait on, so this thread looks: often while there is something, ever less often when
//! there is nothing. The counters that `/metrics` shows do not depend on it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::address::Address;
use dataplane::event::{Dropped, Event, Logged};
use dataplane::packet::{Direction, Tuple};
use dataplane::rules::{RuleId, WireId};
use tracing::warn;

use super::drops::{Clocks, DropLog, Names, Record, TokenBucket, is_policy};
use crate::daemon::config::DropLogConfig;

/// How long to wait while there are events.
const BUSY: Duration = Duration::from_millis(20);
/// How long to wait at most when there are none.
const IDLE: Duration = Duration::from_millis(200);
/// The most events of one round: what comes later waits for the next, after everything else.
const ROUND: usize = 4_096;

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

/// What a line is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// The wire.
    pub(crate) wire: WireId,
    /// Which way the frame went.
    pub(crate) direction: Direction,
    /// The direction whose policy decided, if one did.
    pub(crate) judged: Option<Direction>,
    /// Who talked to whom, if the frame could be read so far.
    pub(crate) tuple: Option<Tuple>,
    /// The far end that it was judged as, and the port, if that is not what the frame shows.
    pub(crate) judged_as: Option<(Address, u16)>,
    /// The rule that decided, or that wants the line.
    pub(crate) rule: Option<RuleId>,
    /// The policy generation that it was judged by.
    pub(crate) generation: u64,
}

/// Whose events are heard.
pub(crate) trait Heard: Send + 'static {
    /// Where lines go.
    type Out: Write + Send;

    /// Takes events from the workers, at most so many.
    fn take(&mut self, most: usize) -> Vec<Event>;

    /// What things are called.
    fn names(&self, about: &About) -> Names;

    /// A device does not work any more.
    fn port_lost(&self, wire: WireId, side: Direction, errno: i32);

    /// Lines that were left out are counted here.
    fn suppressed(&self) -> &AtomicU64;

    /// Whether the log is to be opened anew; asked once for each time that it is.
    fn is_to_reopen(&self) -> bool;

    /// Opens the log.
    ///
    /// # Errors
    /// In a sentence, with the remedy.
    fn reopen(&self) -> Result<Self::Out, String>;

    /// Does what else there is to do now and then, and says how much it was.
    fn attend(&mut self) -> usize {
        0
    }
}

/// The thread. Dropping it stops it, after what is there has been told.
pub(crate) struct Listening {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start<H: Heard>(heard: H, limits: &DropLogConfig, out: H::Out) -> io::Result<Listening> {
        let stop = Arc::new(AtomicBool::new(false));
        let log = DropLog::new(out, TokenBucket::new(limits.per_second, limits.burst));
        let mut listener = Listener { heard, log, broken: false };
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
        Ok(Listening { stop, thread: Some(thread) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic has been told on standard error.
            let _panicked = thread.join();
        }
    }
}

struct Listener<H: Heard> {
    heard: H,
    log: DropLog<H::Out>,
    /// The log could not be written to; that has been told.
    broken: bool,
}

impl<H: Heard> Listener<H> {
    /// Takes what is there, and says how much it was.
    fn round(&mut self) -> usize {
        if self.heard.is_to_reopen() {
            match self.heard.reopen() {
                Ok(output) => self.log.write_to(output),
                Err(reason) => warn!("{reason}; lines go on to where they went"),
            }
            self.broken = false;
        }
        let clocks = Clocks::read();
        let taken = self.heard.take(ROUND);
        for event in &taken {
            let result = match event {
                Event::Dropped(dropped) => {
                    let Dropped { wire, direction, tuple, judged_as, rule, generation, .. } = *dropped;
                    let judged = is_policy(dropped.reason).then_some(dropped.judged);
                    let about = About { wire, direction, judged, tuple, judged_as, rule, generation };
                    self.record(Record::Dropped(dropped), &clocks, &about)
                }
                Event::Logged(logged) => {
                    let Logged { wire, direction, tuple, rule, generation, .. } = *logged;
                    let (judged, tuple, judged_as) = (Some(direction), Some(tuple), None);
                    let about = About { wire, direction, judged, tuple, judged_as, rule, generation };
                    self.record(Record::Verdict(logged), &clocks, &about)
                }
                Event::PortLost { wire, side, errno } => {
                    self.heard.port_lost(*wire, *side, *errno);
                    Ok(())
                }
            };
            self.tell_broken(result);
        }
        if !taken.is_empty() {
            let flushed = self.log.flush();
            self.tell_broken(flushed);
        }
        taken.len() + self.heard.attend()
    }

    fn record(&mut self, record: Record<'_>, clocks: &Clocks, about: &About) -> io::Result<()> {
        self.log.record(record, clocks, || self.heard.names(about), self.heard.suppressed())
    }

    fn tell_broken(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.broken, true)
        {
            warn!("the log of drops cannot be written ({error}); lines are lost until SIGHUP opens it anew");
        }
    }
}
