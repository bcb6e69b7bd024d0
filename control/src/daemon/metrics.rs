//! Metrics, in the text form of OpenMetrics 1.0. Each scrape reads the workers' counters as they are.
//!
//! A series exists for each wire and direction; a drop reason has one only once it has occurred there, so that a wire costs
//! a dozen series, not hundreds. A wire that is opened anew starts its counters at zero, which every rate function
//! understands.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use self::wires::{Shown, counter, gauge};
use super::running::{Daemon, Wire};

pub(crate) mod wires;

/// The content type of what [`Metrics::text`] gives.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the daemon itself counts.
#[derive(Debug)]
pub(super) struct Counts {
    /// Drop lines that were left out to keep the log's rate.
    pub(super) suppressed: AtomicU64,
    /// Questions of the workers that were answered with no.
    pub(super) questions_denied: AtomicU64,
    reloads: AtomicU64,
    reload_failures: AtomicU64,
    /// When the manifests were last read, in milliseconds since 1970.
    last_reload: AtomicU64,
    apply: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            suppressed: AtomicU64::new(0),
            questions_denied: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
            last_reload: AtomicU64::new(0),
            // 10 µs to 10 s by factors of four.
            apply: Histogram::new(exponential_buckets(0.000_01, 4.0, 11)),
        }
    }
}

impl Counts {
    /// The manifests have been read; whether what they say is in force.
    pub(super) fn reloaded(&self, in_force: bool) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.last_reload.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.reloads.fetch_add(1, Ordering::Relaxed);
        self.reload_failures.fetch_add(u64::from(!in_force), Ordering::Relaxed);
    }

    /// A policy has been put in force, and it took so long from resolving to the last worker's acknowledgement.
    pub(super) fn applied(&self, took: Duration) {
        self.apply.observe(took.as_secs_f64());
    }
}

/// The metrics of a daemon.
pub(super) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// All of them.
    pub(super) fn new(daemon: Arc<Daemon>) -> Metrics {
        let mut registry = Registry::with_prefix("penstock");
        registry.register_collector(Box::new(Scrape { daemon }));
        Metrics { registry }
    }

    /// What a scrape gets.
    ///
    /// # Errors
    /// Never while there is memory to write to.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

struct Scrape {
    daemon: Arc<Daemon>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        self.encode_build(encoder)?;
        self.encode_policy(encoder)?;
        self.encode_engine(encoder)?;
        // What wires over several workers count is summed up here.
        let _running = self.daemon.enforcer.wires();
        wires::encode(encoder, &self.daemon.wires().iter().map(shown).collect::<Vec<_>>())
    }
}

impl Scrape {
    fn encode_build(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        encoder.encode_descriptor("build", "The program that answers", None, MetricType::Info)?.encode_info(&labels)
    }

    fn encode_policy(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.daemon.counts;
        let generation = self.daemon.enforcer.generation().0;
        gauge(encoder, "policy_generation", "The generation of the policy in force", generation)?;
        let (policies, pods) = self
            .daemon
            .in_force(generation)
            .map_or((0, 0), |policy| (policy.cluster.policies().count(), policy.cluster.pods().count()));
        gauge(encoder, "policies", "NetworkPolicies in force", policies as u64)?;
        gauge(encoder, "pods", "Pods that the manifests in force tell of", pods as u64)?;
        counter(encoder, "policy_reloads", "Readings of the manifests, refused ones included", &counts.reloads)?;
        let help = "Readings of the manifests that were refused, while the running policy stayed in force";
        counter(encoder, "policy_reload_failures", help, &counts.reload_failures)?;
        let refused = u64::from(self.daemon.refused().is_some());
        gauge(encoder, "policy_refused", "1 while the manifests that are there are refused, else 0", refused)?;
        let at = counts.last_reload.load(Ordering::Relaxed) as f64 / 1000.0;
        let help = "When the manifests were last read, since 1970";
        let unit = Unit::Seconds;
        encoder
            .encode_descriptor("policy_last_reload_timestamp", help, Some(&unit), MetricType::Gauge)?
            .encode_gauge(&at)?;
        let help = "Time from resolving a policy to the last worker's acknowledgement";
        let histogram = &counts.apply;
        histogram.encode(encoder.encode_descriptor("policy_apply", help, Some(&unit), histogram.metric_type())?)
    }

    fn encode_engine(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.daemon.counts;
        let workers = self.daemon.config.workers.len();
        let alive = workers.saturating_sub(self.daemon.enforcer.dead_workers().len());
        gauge(encoder, "workers", "Workers that the configuration asks for", workers as u64)?;
        gauge(encoder, "workers_alive", "Workers that run", alive as u64)?;
        let lost = AtomicU64::new(self.daemon.enforcer.events_lost());
        counter(encoder, "events_lost", "Events that the log was too slow for; drops are counted all the same", &lost)?;
        let help = "Drop lines that were left out to keep the log's rate";
        counter(encoder, "log_lines_suppressed", help, &counts.suppressed)?;
        let help = "Questions of rules that ask, all answered with no";
        counter(encoder, "questions_denied", help, &counts.questions_denied)
    }
}

fn shown(wire: &Wire) -> Shown {
    Shown {
        name: wire.config.name.clone(),
        pod: wire.config.occupant.pod().unwrap_or_default().to_owned(),
        up: wire.lost.is_none(),
        stats: Arc::clone(&wire.stats),
    }
}
