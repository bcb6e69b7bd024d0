//! Metrics, in the text form of OpenMetrics 1.0. Each scrape reads the workers' counters as they are.
//!
//! A series exists for each wire and direction; a drop reason has one only once it has occurred there, so that a wire costs
//! a dozen series, not hundreds. A wire that is opened anew starts its counters at zero, which every rate function
//! understands.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::http::Observed;
use crate::enforcer::Engine;

/// The content type of what [`text`] gives.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a scrape gets.
///
/// # Errors
/// When there is nothing to tell just now.
pub(crate) fn text(observed: Arc<dyn Observed>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("penstock");
    registry.register_collector(Box::new(Scrape { observed }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape {
    observed: Arc<dyn Observed>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        encoder.encode_descriptor("build", "The program that answers", None, MetricType::Info)?.encode_info(&labels)?;
        self.observed.metrics(&mut encoder)
    }
}

/// Writes what every engine has; `suppressed`: lines that the log of drops left out.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn engine(encoder: &mut DescriptorEncoder<'_>, engine: &dyn Engine, suppressed: &AtomicU64) -> fmt::Result {
    let (workers, dead) = engine.workers();
    gauge(encoder, "policy_generation", "The generation of the policy in force", engine.generation().0)?;
    gauge(encoder, "workers", "Workers that the configuration asks for", workers as u64)?;
    gauge(encoder, "workers_alive", "Workers that run", workers.saturating_sub(dead.len()) as u64)?;
    let help = "Events that the log was too slow for; drops are counted all the same";
    counter(encoder, "events_lost", help, engine.events_lost())?;
    let help = "Drop lines that were left out to keep the log's rate";
    counter(encoder, "log_lines_suppressed", help, suppressed.load(Ordering::Relaxed))
}

/// Writes how long policies took to be applied.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn applied(encoder: &mut DescriptorEncoder<'_>, took: &Histogram) -> fmt::Result {
    histogram(encoder, "policy_apply", "Time from resolving a policy to the last worker's acknowledgement", took)
}

/// Writes a gauge without labels.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

/// Writes a counter without labels.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encode_count(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, value)
}

/// Writes a histogram of seconds.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn histogram(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &Histogram) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), value.metric_type())?)
}

/// Writes a count.
///
/// # Errors
/// Never while there is memory to write to.
pub(crate) fn encode_count(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}
