//! [`Node`]: what all parts of control share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;

use super::core::Core;
use super::drops::Drops;
use super::wirer::Wirer;
use crate::daemon::LogHandle;
use crate::daemon::config::{Config, NodeConfig};
use crate::enforcer::Engine;

/// A word to the core: it is said between two changes.
pub(super) type Ask = Box<dyn FnOnce(&mut Core) + Send>;

/// How long an answer of the core is waited for: longer than workers may take to acknowledge.
const PATIENCE: Duration = Duration::from_secs(10);

/// What control itself counts.
#[derive(Debug)]
pub(super) struct Counts {
    /// From the API server's word to the last worker's acknowledgement.
    pub(super) delay: Histogram,
    /// From resolving to the last worker's acknowledgement.
    pub(super) apply: Histogram,
    /// How long the CNI plugin's ADDs took.
    pub(super) adds: Histogram,
    /// Calls of the CNI plugin: done, later, and failed or unknown.
    pub(super) calls: [AtomicU64; 3],
    /// Engines that have started, the first included.
    pub(super) engines: AtomicU64,
    /// Times that the API server was lost.
    pub(super) disconnections: AtomicU64,
    /// Drop lines left out.
    pub(super) suppressed: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        // 100 µs to 26 s by factors of four.
        let histogram = || Histogram::new(exponential_buckets(0.000_1, 4.0, 10));
        Counts {
            delay: histogram(),
            apply: histogram(),
            adds: histogram(),
            calls: Default::default(),
            engines: AtomicU64::new(0),
            disconnections: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }
}

/// What all parts of control share.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) own: NodeConfig,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) wirer: Arc<dyn Wirer>,
    pub(super) counts: Counts,
    pub(super) drops: Drops,
    /// The log of drops is to be opened anew.
    pub(super) reopen: AtomicBool,
    pub(super) started: Instant,
    /// Who is behind the node's address cannot be found out.
    pub(super) hidden: AtomicBool,
    stopping: AtomicBool,
    asks: UnboundedSender<Ask>,
}

impl Node {
    /// What is shared, and where words to the core arrive.
    pub(super) fn new(
        config: Config,
        own: NodeConfig,
        engine: Arc<dyn Engine>,
        wirer: Arc<dyn Wirer>,
    ) -> (Node, UnboundedReceiver<Ask>) {
        let (asks, words) = unbounded_channel();
        let node = Node {
            config,
            own,
            engine,
            wirer,
            counts: Counts::default(),
            drops: Drops::default(),
            reopen: AtomicBool::new(false),
            started: Instant::now(),
            hidden: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            asks,
        };
        (node, words)
    }

    /// Says something to the core.
    pub(super) fn tell(&self, word: impl FnOnce(&mut Core) + Send + 'static) {
        // Nobody listens any more at the end.
        let _ended = self.asks.send(Box::new(word));
    }

    /// Asks the core something, and waits for the answer; `None` if it has ended or is busy for too long. Not to be called in the
    /// core's own task.
    pub(super) fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Core) -> T + Send + 'static) -> Option<T> {
        let (sender, answer) = std::sync::mpsc::sync_channel(1);
        self.tell(move |core| {
            // Who asked may have gone.
            let _gone = sender.send(question(core));
        });
        answer.recv_timeout(PATIENCE).ok()
    }

    /// Ends the core and the threads.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.tell(|_| ());
    }

    /// Whether it is time to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Opens the log of drops anew, and takes the log's level from the configuration as it is now.
    pub(super) fn reload(&self, log: Option<&LogHandle>) {
        self.reopen.store(true, Ordering::Release);
        match Config::load(&self.config.file) {
            Ok(config) => {
                let level = tracing::level_filters::LevelFilter::from(config.log.level);
                if let Some(Err(error)) = log.map(|log| log.modify(|filter| *filter = level)) {
                    warn!("the log's level stays: {error}");
                }
            }
            Err(error) => warn!("{error}; the log's level stays"),
        }
    }
}
