//! `/metrics`, `/livez` and `/readyz` of a node.

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dataplane::rules::WireId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::task::spawn_blocking;

use super::core::Core;
use super::shared::Node;
use crate::daemon::metrics::CONTENT_TYPE;
use crate::daemon::metrics::wires::{self, Shown, counter, encode_count, gauge};

/// Answers requests for ever.
///
/// # Errors
/// When the listener is refused by the runtime.
pub(super) async fn serve(listener: TcpListener, node: Arc<Node>) -> std::io::Result<()> {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("metrics and health on http://{address}/metrics, /livez and /readyz");
    }
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(node);
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    match spawn_blocking(move || text_of(node)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn text_of(node: Arc<Node>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("penstock");
    registry.register_collector(Box::new(Scrape { node }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Alive: the core answers. Workers are the wirer's to look after.
async fn livez(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    match spawn_blocking(move || node.ask(|_| ())).await {
        Ok(Some(())) => (StatusCode::OK, "alive\n".to_owned()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "control does not answer\n".to_owned()),
    }
}

/// Ready: the first state is in force on all workers, and the pods that are known are carried.
async fn readyz(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let answer = spawn_blocking(move || node.ask(|core| core.readiness())).await;
    match answer {
        Ok(Some(Ok(text))) => (StatusCode::OK, text),
        Ok(Some(Err(text))) => (StatusCode::SERVICE_UNAVAILABLE, text),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready: control does not answer\n".to_owned()),
    }
}

impl Core {
    /// Why it is not ready, a sentence each.
    pub(super) fn unready(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.not_ready().into_iter().collect();
        if !self.scans.read {
            reasons.push("which pods are behind wires is not known yet".to_owned());
        }
        reasons.extend(self.not_carried());
        reasons
    }

    fn readiness(&self) -> Result<String, String> {
        let reasons = self.unready();
        if !reasons.is_empty() {
            return Err(reasons.iter().map(|reason| format!("not ready: {reason}\n")).collect());
        }
        let generation = self.node.engine.generation().0;
        let mut text = format!("ready: policy generation {generation} is in force\n");
        self.problems.values().for_each(|problem| text += &format!("{problem}\n"));
        Ok(text)
    }

    /// What a scrape shows.
    fn figures(&self) -> Figures {
        let count = |count: usize| count as u64;
        let cluster = self.cluster();
        let names = self.locals.values().flat_map(|local| {
            let name = local.name.to_string();
            local
                .wires
                .iter()
                .map(move |(interface, wire)| (wire.id, format!("{}/{interface}", local.container), name.clone()))
        });
        Figures {
            ready: self.unready().is_empty(),
            synced: self.source.is_synced(),
            connected: self.lost_since.is_none() && self.source.is_synced(),
            objects: cluster.map_or([0; 4], |cluster| {
                [
                    count(cluster.policies().count()),
                    count(cluster.pods().count()),
                    count(cluster.namespaces().count()),
                    count(cluster.nodes().count()),
                ]
            }),
            local_pods: count(self.locals.len()),
            unspliced: count(self.scans.unspliced.len()),
            names: names.collect(),
        }
    }
}

/// What the core tells for a scrape.
#[derive(Default)]
struct Figures {
    ready: bool,
    synced: bool,
    connected: bool,
    /// Policies, pods, namespaces and nodes.
    objects: [u64; 4],
    local_pods: u64,
    unspliced: u64,
    names: Vec<(WireId, String, String)>,
}

struct Scrape {
    node: Arc<Node>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        encoder.encode_descriptor("build", "The program that answers", None, MetricType::Info)?.encode_info(&labels)?;
        let figures = self.node.ask(|core| core.figures()).ok_or(fmt::Error)?;
        self.encode_policy(encoder, &figures)?;
        self.encode_node(encoder, &figures)?;
        self.encode_engine(encoder)?;
        let running = self.node.engine.wires();
        let shown: Vec<Shown> = figures
            .names
            .into_iter()
            .map(|(id, name, pod)| match running.get(&id) {
                Some(wire) => Shown { name, pod, up: true, stats: Arc::clone(&wire.stats) },
                None => Shown { name, pod, up: false, stats: Arc::default() },
            })
            .collect();
        wires::encode(encoder, &shown)
    }
}

fn histogram(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
    let descriptor = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), histogram.metric_type())?;
    histogram.encode(descriptor)
}

impl Scrape {
    fn encode_policy(&self, encoder: &mut DescriptorEncoder<'_>, figures: &Figures) -> fmt::Result {
        let counts = &self.node.counts;
        let generation = self.node.engine.generation().0;
        gauge(encoder, "policy_generation", "The generation of the policy in force", generation)?;
        let help = [
            ("policies", "NetworkPolicies in force"),
            ("pods", "Pods of the cluster that are known"),
            ("namespaces", "Namespaces of the cluster that are known"),
            ("nodes", "Nodes of the cluster that are known"),
        ];
        for ((name, help), value) in help.into_iter().zip(figures.objects) {
            gauge(encoder, name, help, value)?;
        }
        let help = "Time from an event of the API server to the last worker's acknowledgement";
        histogram(encoder, "policy_implementation_delay", help, &counts.delay)?;
        let help = "Time from resolving a policy to the last worker's acknowledgement";
        histogram(encoder, "policy_apply", help, &counts.apply)
    }

    fn encode_node(&self, encoder: &mut DescriptorEncoder<'_>, figures: &Figures) -> fmt::Result {
        let counts = &self.node.counts;
        gauge(
            encoder,
            "node_ready",
            "1 while rules are in force and all known pods are carried",
            figures.ready.into(),
        )?;
        let help = "1 once the API server has told the whole state";
        gauge(encoder, "api_server_synced", help, figures.synced.into())?;
        let help = "1 while all kinds are listed or watched, 0 while the last known state is enforced";
        gauge(encoder, "api_server_connected", help, figures.connected.into())?;
        counter(
            encoder,
            "api_server_disconnections",
            "Reasons for which the API server was lost",
            &counts.disconnections,
        )?;
        gauge(encoder, "local_pods", "Sandboxes behind wires on this node", figures.local_pods)?;
        let help = "Running pods of this node without a wire: no policy holds for them";
        gauge(encoder, "unspliced_pods", help, figures.unspliced)?;
        let help = "Time from the CNI plugin's ADD to the answer that the pod may start";
        histogram(encoder, "cni_add_duration", help, &counts.adds)?;
        let mut family = encoder.encode_descriptor(
            "cni_calls",
            "Calls of the CNI plugin, by how they ended",
            None,
            MetricType::Counter,
        )?;
        for (result, value) in ["done", "later", "failed"].into_iter().zip(&counts.calls) {
            encode_count(&mut family.encode_family(&[("result", result)])?, value.load(Ordering::Relaxed))?;
        }
        Ok(())
    }

    fn encode_engine(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.node.counts;
        let (workers, dead) = self.node.engine.workers();
        gauge(encoder, "workers", "Workers that the configuration asks for", workers as u64)?;
        gauge(encoder, "workers_alive", "Workers that run", workers.saturating_sub(dead.len()) as u64)?;
        let restarts = AtomicU64::new(counts.engines.load(Ordering::Relaxed).saturating_sub(1));
        counter(encoder, "engine_restarts", "Engines that took over from another one", &restarts)?;
        let lost = AtomicU64::new(self.node.engine.events_lost());
        counter(encoder, "events_lost", "Events that the log was too slow for; drops are counted all the same", &lost)?;
        let help = "Drop lines that were left out to keep the log's rate";
        counter(encoder, "log_lines_suppressed", help, &counts.suppressed)
    }
}
