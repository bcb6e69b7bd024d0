//! Rules that would allow what is denied.

use std::net::IpAddr;

use dataplane::packet::{Direction, Protocol};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::cluster::{Cluster, NetworkPolicy, ObjectName, Pod, PolicyPorts};
use super::super::probe::{Connection, End, Service};
use super::{as_name, as_text, matching};

/// A rule to add to a policy that isolates the pod already: it opens nothing else and isolates nobody anew.
#[derive(Clone, Debug, Serialize)]
pub struct Suggestion {
    /// To which policy.
    #[serde(serialize_with = "as_text")]
    pub policy: ObjectName,
    /// To its `spec.ingress` or its `spec.egress`.
    #[serde(serialize_with = "as_name")]
    pub direction: Direction,
    /// The rule.
    pub rule: Value,
    /// What to mind.
    pub notes: Vec<String>,
}

impl Suggestion {
    /// The rule as an element of a YAML list, each line indented.
    pub fn to_yaml(&self, indent: usize) -> String {
        let mut lines = String::new();
        write_yaml(&json!([self.rule]), indent, &mut lines);
        lines
    }
}

/// Labels that change with every roll-out or belong to one replica: no selector should name them.
const VOLATILE_LABELS: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
];

/// A rule for one policy that allows a connection at one end.
pub(super) fn allow(
    cluster: &Cluster,
    connection: &Connection<'_>,
    direction: Direction,
    policy: &ObjectName,
) -> Suggestion {
    let Service { protocol, port } = connection.service;
    let mut notes = Vec::new();
    let peer = peer(cluster, connection.peer(direction), &policy.namespace, &mut notes);
    if let Some(others) = others_selected(cluster, policy, connection.local(direction)) {
        notes.push(others);
    }
    let list = if direction == Direction::Ingress { "from" } else { "to" };
    let rule = json!({list: [peer], "ports": [{"protocol": protocol.to_string(), "port": port}]});
    Suggestion { policy: policy.clone(), direction, rule, notes }
}

/// The narrowest lasting name of an end.
fn peer(cluster: &Cluster, end: &End<'_>, own_namespace: &str, notes: &mut Vec<String>) -> Value {
    let Some(pod) = end.pod else {
        let length = if end.address.is_ipv4() { 32 } else { 128 };
        return json!({"ipBlock": {"cidr": format!("{}/{length}", end.address)}});
    };
    let labels: Map<_, _> = pod
        .labels
        .to_text(cluster.symbols())
        .into_iter()
        .filter(|(key, _)| !VOLATILE_LABELS.contains(&key.as_str()))
        .map(|(key, value)| (key, Value::String(value)))
        .collect();
    let pods = if labels.is_empty() {
        notes.push(format!(
            "{} has no lasting label, so this allows its whole namespace; label it to be exact",
            pod.name
        ));
        json!({})
    } else {
        json!({"matchLabels": labels})
    };
    if *pod.name.namespace == *own_namespace {
        return json!({"podSelector": pods});
    }
    let name = json!({"kubernetes.io/metadata.name": &*pod.name.namespace});
    json!({"namespaceSelector": {"matchLabels": name}, "podSelector": pods})
}

/// Whom else a rule in the policy would be for.
fn others_selected(cluster: &Cluster, policy: &ObjectName, local: &End<'_>) -> Option<String> {
    let policy = cluster.policy(policy)?;
    let local = local.pod?;
    let selected = |pod: &&Pod| pod.name.namespace == policy.name.namespace && policy.pods.matches(&pod.labels);
    let others: Vec<_> = cluster.pods().filter(selected).filter(|pod| pod.name != local.name).collect();
    let first = others.first()?;
    let rest = if others.len() > 1 { format!(" and {} more", others.len() - 1) } else { String::new() };
    Some(format!(
        "the policy ({}) is for {}{rest} too; for {} alone, put the rule into a policy of its own",
        matching::selector_text(&policy.pods, cluster),
        first.name,
        local.name
    ))
}

/// DNS that a pod may not ask, though it may ask others: the usual surprise of an egress policy.
#[derive(Clone, Debug, Serialize)]
pub struct DeniedDns {
    /// The pod.
    #[serde(serialize_with = "as_text")]
    pub pod: ObjectName,
    /// Which of UDP and TCP port 53 it may not use.
    pub protocols: Vec<&'static str>,
    /// The policies that isolate its egress.
    pub policies: Vec<String>,
    /// A rule that would allow it.
    pub suggestion: Suggestion,
}

/// Finds out whether egress policies keep a pod from asking DNS: from the DNS pods of the world (`k8s-app=kube-dns`), or,
/// where it has none, from everybody.
pub fn denied_dns(cluster: &Cluster, pod: &Pod) -> Option<DeniedDns> {
    let isolating: Vec<_> = cluster.policies_selecting(pod).filter(|policy| policy.egress.is_some()).collect();
    let first = isolating.first()?;
    let servers = dns_servers(cluster, pod);
    let allowed = |protocol| {
        let service = Service { protocol, port: 53 };
        match servers.is_empty() {
            true => isolating.iter().any(|policy| allows_anybody(policy, service)),
            false => servers.iter().any(|server| allows(cluster, &isolating, server, service)),
        }
    };
    let denied =
        [(Protocol::UDP, "UDP"), (Protocol::TCP, "TCP")].into_iter().filter(|&(protocol, _)| !allowed(protocol));
    let protocols: Vec<_> = denied.map(|(_, name)| name).collect();
    if protocols.is_empty() {
        return None;
    }
    let ports: Vec<_> = protocols.iter().map(|protocol| json!({"protocol": protocol, "port": 53})).collect();
    let servers = match servers.first() {
        Some(server) => peer(cluster, server, &first.name.namespace, &mut Vec::new()),
        None => json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}),
    };
    let rule = json!({"to": [servers], "ports": ports});
    Some(DeniedDns {
        pod: pod.name.clone(),
        protocols,
        policies: isolating.iter().map(|policy| policy.name.to_string()).collect(),
        suggestion: Suggestion { policy: first.name.clone(), direction: Direction::Egress, rule, notes: Vec::new() },
    })
}

/// The DNS pods of the world, by an address of a family that the pod has.
fn dns_servers<'a>(cluster: &'a Cluster, asking: &Pod) -> Vec<End<'a>> {
    let label = |text: &str| cluster.symbols().find(text);
    let (Some(key), Some(value)) = (label("k8s-app"), label("kube-dns")) else { return Vec::new() };
    let families: Vec<bool> = cluster.addresses_of(asking).map(|address| address.is_ipv4()).collect();
    let servers = cluster.pods().filter(|pod| pod.labels.get(key) == Some(value) && pod.name != asking.name);
    servers
        .filter_map(|pod| {
            let address = cluster.addresses_of(pod).find(|address: &IpAddr| families.contains(&address.is_ipv4()))?;
            Some(End { address, pod: Some(pod) })
        })
        .collect()
}

fn allows(cluster: &Cluster, isolating: &[&NetworkPolicy], server: &End<'_>, service: Service) -> bool {
    isolating.iter().any(|policy| {
        policy.egress.iter().flatten().any(|rule| {
            matching::peer(cluster, rule, &policy.name.namespace, server, Direction::Egress).is_ok()
                && matching::port(rule, service, server.pod).is_ok()
        })
    })
}

/// Whether a policy allows DNS to anybody at all. Ports named `dns` and `dns-tcp` are what DNS servers call theirs.
fn allows_anybody(policy: &NetworkPolicy, service: Service) -> bool {
    let is_named_dns = |port: &PolicyPorts| match port {
        PolicyPorts::Named { protocol, name } => *protocol == service.protocol && name.starts_with("dns"),
        PolicyPorts::Range(_) => false,
    };
    policy
        .egress
        .iter()
        .flatten()
        .any(|rule| matching::port(rule, service, None).is_ok() || rule.ports.iter().flatten().any(is_named_dns))
}

/// Writes JSON as block YAML: the few shapes that rules have. Text that YAML could read otherwise is quoted.
fn write_yaml(value: &Value, indent: usize, lines: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Array(elements) => {
            for element in elements {
                let mut block = String::new();
                write_yaml(element, indent + 2, &mut block);
                // The element's first line begins after the dash.
                lines.push_str(&format!("{pad}- {}", block.trim_start_matches(' ')));
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Object(inner) if inner.is_empty() => lines.push_str(&format!("{pad}{key}: {{}}\n")),
                    Value::Array(_) => {
                        lines.push_str(&format!("{pad}{key}:\n"));
                        write_yaml(value, indent, lines);
                    }
                    Value::Object(_) => {
                        lines.push_str(&format!("{pad}{key}:\n"));
                        write_yaml(value, indent + 2, lines);
                    }
                    scalar => lines.push_str(&format!("{pad}{key}: {}\n", scalar_yaml(scalar))),
                }
            }
        }
        scalar => lines.push_str(&format!("{pad}{}\n", scalar_yaml(scalar))),
    }
}

fn scalar_yaml(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte));
    let reserved = ["yes", "no", "on", "off", "true", "false", "null", "y", "n"];
    let is_plain = is_word && !reserved.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_plain { text.clone() } else { value.to_string() }
}
