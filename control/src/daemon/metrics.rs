//! What a daemon of configured wires shows of itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use super::running::{Daemon, Wire};
use crate::observe::http::{Health, Observed};
use crate::observe::metrics::{self, counter, gauge};
use crate::observe::wires::{self, Shown};

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

impl Observed for Daemon {
    fn metrics(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_policy(encoder)?;
        metrics::engine(encoder, &self.enforcer, &self.counts.suppressed)?;
        let help = "Questions of rules that ask, all answered with no";
        counter(encoder, "questions_denied", help, self.counts.questions_denied.load(Ordering::Relaxed))?;
        // What wires over several workers count is summed up here.
        let _running = self.enforcer.wires();
        wires::encode(encoder, &self.wires().iter().map(shown).collect::<Vec<_>>())
    }

    /// Alive: every worker runs.
    fn alive(&self) -> Health {
        let dead = self.enforcer.dead_workers();
        match dead.is_empty() {
            true => Ok("alive\n".to_owned()),
            false => Err(format!("workers {dead:?} have died; restart penstock\n")),
        }
    }

    /// Ready: the first policy is in force on every worker. It stays so while a later one is refused; the answer says that.
    fn ready(&self) -> Health {
        if !self.ready.load(Ordering::Acquire) {
            return Err("not ready: no policy is in force yet\n".to_owned());
        }
        let mut text = format!("ready: policy generation {} is in force\n", self.enforcer.generation().0);
        if let Some(reasons) = self.refused() {
            for reason in reasons.lines() {
                text += &format!("the manifests that are there now are refused: {reason}\n");
            }
        }
        for wire in self.wires() {
            if let Some(reason) = wire.lost {
                text += &format!("wire {} is lost: {reason}\n", wire.config.name);
            }
        }
        Ok(text)
    }
}

impl Daemon {
    fn encode_policy(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.counts;
        let generation = self.enforcer.generation().0;
        let (policies, pods) = self
            .in_force(generation)
            .map_or((0, 0), |policy| (policy.cluster.policies().count(), policy.cluster.pods().count()));
        gauge(encoder, "policies", "NetworkPolicies in force", policies as u64)?;
        gauge(encoder, "pods", "Pods that the manifests in force tell of", pods as u64)?;
        let help = "Readings of the manifests, refused ones included";
        counter(encoder, "policy_reloads", help, counts.reloads.load(Ordering::Relaxed))?;
        let help = "Readings of the manifests that were refused, while the running policy stayed in force";
        counter(encoder, "policy_reload_failures", help, counts.reload_failures.load(Ordering::Relaxed))?;
        let refused = u64::from(self.refused().is_some());
        gauge(encoder, "policy_refused", "1 while the manifests that are there are refused, else 0", refused)?;
        let at = counts.last_reload.load(Ordering::Relaxed) as f64 / 1000.0;
        let help = "When the manifests were last read, since 1970";
        encoder
            .encode_descriptor("policy_last_reload_timestamp", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&at)?;
        metrics::applied(encoder, &counts.apply)
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
