//! Kubernetes Events for denied traffic: `kubectl describe pod` shows who was refused, and by which policies.
//!
//! They are made of the lines of the log of drops, so that its rate bounds them too. An Event costs the API server a write: one for
//! each pod, direction and peer in [`QUIET`], and few for all of the node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use super::shared::Node;
use crate::kubernetes::Writer;
use crate::policy::cluster::ObjectName;

/// For how long nothing more is told of the same pod, direction and peer.
const QUIET: Duration = Duration::from_secs(300);
/// How many Events a node makes at once, and how long until there may be one more.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(6);
/// How many pairs are remembered; beyond that nobody is told of new ones until some are quiet no longer.
const REMEMBERED: usize = 4_096;

/// What is read of a line of the log of drops.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    event: String,
    pod: Option<String>,
    direction: String,
    peer: Option<String>,
    peer_pod: Option<String>,
    peer_node: Option<String>,
    rewritten_from: Option<String>,
    rewritten_from_pod: Option<String>,
    #[serde(default)]
    services: Vec<String>,
    protocol: Option<String>,
    destination_port: Option<u16>,
    reason: Option<String>,
    #[serde(default)]
    policies: Vec<String>,
}

impl Line {
    /// Whether a policy refused the frame.
    fn is_denial(&self) -> bool {
        const DENIALS: [&str; 5] = ["policy_denied", "ask_denied", "other_node", "service_denied", "service_mixed"];
        self.event == "drop" && self.reason.as_deref().is_some_and(|reason| DENIALS.contains(&reason))
    }

    /// What people read.
    fn message(&self) -> String {
        let whom = match (&self.peer_pod, &self.peer_node, &self.peer) {
            (Some(pod), _, Some(peer)) => format!("pod {pod} ({peer})"),
            (_, Some(node), Some(peer)) => match &self.rewritten_from {
                Some(client) => {
                    let pod = self.rewritten_from_pod.as_ref().map(|pod| format!(" (pod {pod})")).unwrap_or_default();
                    format!("{client}{pod}, which came as node {node} ({peer})")
                }
                None => format!("node {node} ({peer})"),
            },
            (_, _, Some(peer)) if !self.services.is_empty() => format!("service {} ({peer})", self.services.join(", ")),
            (_, _, Some(peer)) => peer.clone(),
            _ => "an unknown peer".to_owned(),
        };
        let way = if self.direction == "egress" { "to" } else { "from" };
        let what = match (&self.protocol, self.destination_port) {
            (Some(protocol), Some(port)) => format!("{protocol}/{port}"),
            (Some(protocol), None) => protocol.clone(),
            _ => "traffic".to_owned(),
        };
        let by = match self.policies.is_empty() {
            true => String::new(),
            false => format!("; the pod is isolated by {}", self.policies.join(", ")),
        };
        format!("{} of {what} {way} {whom} is denied{by}", self.direction)
    }
}

/// Which pairs were told of when, and how many Events may still be made.
struct Limit {
    told: HashMap<(String, String, String), Instant>,
    left: u32,
    refilled: Instant,
}

impl Limit {
    fn new(now: Instant) -> Limit {
        Limit { told: HashMap::new(), left: BURST, refilled: now }
    }

    /// Whether there may be an Event about this.
    fn admits(&mut self, pod: &str, line: &Line, now: Instant) -> bool {
        let periods = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        self.left = self.left.saturating_add(u32::try_from(periods).unwrap_or(BURST)).min(BURST);
        self.refilled += REFILL * u32::try_from(periods).unwrap_or(u32::MAX);
        let pair = (pod.to_owned(), line.direction.clone(), line.peer.clone().unwrap_or_default());
        if self.told.get(&pair).is_some_and(|then| now.saturating_duration_since(*then) < QUIET) || self.left == 0 {
            return false;
        }
        if self.told.len() >= REMEMBERED {
            self.told.retain(|_, then| now.saturating_duration_since(*then) < QUIET);
        }
        if self.told.len() >= REMEMBERED {
            return false;
        }
        self.left -= 1;
        self.told.insert(pair, now);
        true
    }
}

/// Makes Events until the node stops.
pub(super) async fn tell(node: Arc<Node>, writer: Writer) {
    let (_, mut lines) = node.drops.follow();
    let mut limit = Limit::new(Instant::now());
    let mut refused = None;
    loop {
        let text = match lines.recv().await {
            Ok(text) => text,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let Ok(line) = serde_json::from_str::<Line>(&text) else { continue };
        let Some(pod) = line.pod.clone().filter(|_| line.is_denial()) else { continue };
        if !limit.admits(&pod, &line, Instant::now()) {
            continue;
        }
        let Some((namespace, name)) = pod.split_once('/') else { continue };
        let about = ObjectName::new(namespace, name);
        let asked = Arc::clone(&node);
        let uid = tokio::task::spawn_blocking(move || {
            asked.ask(move |core| core.cluster()?.pod(&about)?.uid.as_deref().map(str::to_owned)).flatten()
        });
        let uid = uid.await.ok().flatten();
        let made = writer.event(&event(&node.own.name, (namespace, name), uid, line.message())).await;
        match made {
            Ok(()) => refused = None,
            Err(trouble) => {
                let trouble = trouble.to_string();
                if refused.as_ref() != Some(&trouble) {
                    warn!("denied traffic is not told as a Kubernetes Event: {trouble}");
                    refused = Some(trouble);
                }
            }
        }
    }
}

fn event(node: &str, (namespace, name): (&str, &str), uid: Option<String>, message: String) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            uid,
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some("PolicyDenied".to_owned()),
        message: Some(message),
        source: Some(EventSource { component: Some("penstock".to_owned()), host: Some(node.to_owned()) }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        reporting_component: Some("penstock".to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(peer: &str) -> Line {
        let text = format!(
            r#"{{"time":"","event":"drop","wire":"w","pod":"web/a","direction":"ingress","address":"10.0.0.1","peer":"{peer}",
                "protocol":"TCP","sourcePort":4711,"destinationPort":80,"peerPod":"dev/b","reason":"policy_denied",
                "policies":["web/deny"],"generation":3}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_denial_is_told_with_who_and_why() {
        assert!(line("10.0.0.2").is_denial());
        assert_eq!(
            line("10.0.0.2").message(),
            "ingress of TCP/80 from pod dev/b (10.0.0.2) is denied; the pod is isolated by web/deny"
        );
        let hidden = Line {
            peer_pod: None,
            peer_node: Some("n1".to_owned()),
            rewritten_from: Some("203.0.113.7".to_owned()),
            ..line("10.0.0.2")
        };
        assert_eq!(
            hidden.message(),
            "ingress of TCP/80 from 203.0.113.7, which came as node n1 (10.0.0.2) is denied; the pod is isolated by web/deny"
        );
        let other = Line { reason: Some("tcp_state".to_owned()), ..line("10.0.0.2") };
        assert!(!other.is_denial());
    }

    #[test]
    fn the_same_is_told_once_and_a_flood_is_bounded() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert!(limit.admits("web/a", &line("10.0.0.2"), start));
        assert!(!limit.admits("web/a", &line("10.0.0.2"), start));
        assert!(limit.admits("web/b", &line("10.0.0.2"), start), "another pod");
        let told = (0..200).filter(|peer| limit.admits("web/a", &line(&format!("10.1.0.{peer}")), start)).count();
        assert_eq!(told as u32, BURST - 2);
        assert!(limit.admits("web/c", &line("10.0.0.9"), start + REFILL));
        assert!(!limit.admits("web/d", &line("10.0.0.9"), start + REFILL));
        assert!(limit.admits("web/a", &line("10.0.0.2"), start + QUIET));
    }
}
