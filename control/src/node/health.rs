//! What a node shows of itself: `/metrics`, `/livez` and `/readyz`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::rules::WireId;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::core::Core;
use super::shared::Node;
use crate::conntrack::asking::{Counts, TIMES};
use crate::observe::http::{Health, Observed};
use crate::observe::metrics::{self, counter, encode_count, gauge, histogram};
use crate::observe::wires::{self, Shown};

impl Observed for Node {
    fn metrics(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.ask(|core| core.figures()).ok_or(fmt::Error)?;
        self.encode_policy(encoder, &figures)?;
        self.encode_node(encoder, &figures)?;
        metrics::engine(encoder, &*self.engine, &self.counts.suppressed)?;
        let restarts = self.counts.engines.load(Ordering::Relaxed).saturating_sub(1);
        counter(encoder, "engine_restarts", "Engines that took over from another one", restarts)?;
        let running = self.engine.wires();
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

    /// Alive: the core answers. Workers are the wirer's to look after.
    fn alive(&self) -> Health {
        self.ask(|_| "alive\n".to_owned()).ok_or_else(|| "control does not answer\n".to_owned())
    }

    /// Ready: the first state is in force on all workers, and the pods that are known are carried.
    fn ready(&self) -> Health {
        self.ask(|core| core.readiness()).unwrap_or_else(|| Err("not ready: control does not answer\n".to_owned()))
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

impl Node {
    /// What the workers asked of the kernel's connection tracking.
    fn encode_asked(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let asked = self.engine.asked();
        let help = "Connections that the kernel was asked about: who is behind the node's address, or which endpoint a Service's leads to";
        let mut family = encoder.encode_descriptor("lookups", help, None, MetricType::Counter)?;
        for (kind, answers) in Counts::KINDS.into_iter().zip(asked.answers) {
            for (outcome, value) in Counts::OUTCOMES.into_iter().zip(answers) {
                encode_count(&mut family.encode_family(&[("question", kind), ("outcome", outcome)])?, value)?;
            }
        }
        let help = "Time from when a question was taken to its answer";
        let buckets: Vec<(f64, u64)> = TIMES
            .into_iter()
            .map(|most| if most == u64::MAX { f64::MAX } else { most as f64 / 1e6 })
            .zip(asked.times)
            .collect();
        let count = asked.times.iter().sum();
        encoder
            .encode_descriptor("lookup_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(asked.micros as f64 / 1e6, count, &buckets, None)?;
        gauge(
            encoder,
            "kube_proxy_seen",
            "1 while it can be found out who is behind the node's own address, 0 while that is taken for the node",
            u64::from(!self.hidden.load(Ordering::Relaxed)),
        )
    }

    fn encode_policy(&self, encoder: &mut DescriptorEncoder<'_>, figures: &Figures) -> fmt::Result {
        let counts = &self.counts;
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
        metrics::applied(encoder, &counts.apply)
    }

    fn encode_node(&self, encoder: &mut DescriptorEncoder<'_>, figures: &Figures) -> fmt::Result {
        let counts = &self.counts;
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
            counts.disconnections.load(Ordering::Relaxed),
        )?;
        gauge(encoder, "local_pods", "Sandboxes behind wires on this node", figures.local_pods)?;
        let help = "Running pods of this node without a wire: no policy holds for them";
        gauge(encoder, "unspliced_pods", help, figures.unspliced)?;
        let help = "Time from the CNI plugin's ADD to the answer that the pod may start";
        histogram(encoder, "cni_add_duration", help, &counts.adds)?;
        self.encode_asked(encoder)?;
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
}
