//! What a connection gets, read straight off the NetworkPolicy objects: one object, one rule, one peer, one port after
//! the other, in the words of the API's own comments. Slow, and written to be checked by eye: [`super::resolve`] and the
//! compiled classifier are held equal to it. It uses neither selectors, nor address sets, nor numbered rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::packet::{Direction, Protocol};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cluster::{Cluster, Pod};
use super::probe::{Answer, Connection, End, EndVerdict, Probe, ProbeError, Service};
use super::validation::cidr::Cidr;

/// Answers a question.
pub fn evaluate(cluster: &Cluster, probe: &Probe) -> Result<Answer, ProbeError> {
    Ok(judge(cluster, &probe.locate(cluster)?))
}

/// Judges a connection.
pub fn judge(cluster: &Cluster, connection: &Connection<'_>) -> Answer {
    if connection.is_loopback() {
        return Answer::loopback();
    }
    let mut rules = Vec::new();
    let egress = judge_direction(cluster, connection, Direction::Egress, &mut rules);
    let ingress = judge_direction(cluster, connection, Direction::Ingress, &mut rules);
    Answer { egress, ingress, rules }
}

fn judge_direction(
    cluster: &Cluster,
    connection: &Connection<'_>,
    direction: Direction,
    rules: &mut Vec<String>,
) -> EndVerdict {
    let Some(pod) = connection.local(direction).pod else { return EndVerdict::None };
    let peer = connection.peer(direction);
    // "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod"
    let specs: Vec<_> = cluster
        .policies()
        .filter(|policy| policy.name.namespace == pod.name.namespace)
        .map(|policy| (&policy.name, policy.object.spec.as_ref().expect("an accepted policy has a spec")))
        .filter(|(_, spec)| isolates(spec, direction) && selects(spec.pod_selector.as_ref(), &labels(cluster, pod)))
        .collect();
    if specs.is_empty() {
        return EndVerdict::Allow;
    }
    // "OR if the traffic source is the pod's local node"
    if direction == Direction::Ingress && connection.is_from_own_node(cluster) {
        rules.push("own-node".to_owned());
        return EndVerdict::Allow;
    }
    // "OR if the traffic matches at least one ingress rule across all of the NetworkPolicy objects whose podSelector
    // matches the pod"
    for (name, spec) in specs {
        for (index, (peers, ports)) in rules_of(spec, direction).into_iter().enumerate() {
            // "If this field is empty or missing, this rule matches all sources"
            let peer_matches =
                peers.is_empty() || peers.iter().any(|wanted| matches_peer(cluster, wanted, &pod.name.namespace, peer));
            // "If this field is empty or missing, this rule matches all ports"
            let receiver = connection.destination.pod;
            let port_matches =
                ports.is_empty() || ports.iter().any(|wanted| matches_port(wanted, connection.service, receiver));
            if peer_matches && port_matches {
                rules.push(format!("{name} {}[{index}]", direction.name()));
                return EndVerdict::Allow;
            }
        }
    }
    EndVerdict::Deny
}

fn isolates(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let name = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    spec.policy_types.iter().flatten().any(|policy_type| policy_type == name)
}

type PeersAndPorts<'a> = (&'a [NetworkPolicyPeer], &'a [NetworkPolicyPort]);

fn rules_of(spec: &NetworkPolicySpec, direction: Direction) -> Vec<PeersAndPorts<'_>> {
    match direction {
        Direction::Ingress => {
            let rules = spec.ingress.iter().flatten();
            rules.map(|rule| (list(&rule.from), list(&rule.ports))).collect()
        }
        Direction::Egress => {
            let rules = spec.egress.iter().flatten();
            rules.map(|rule| (list(&rule.to), list(&rule.ports))).collect()
        }
    }
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn labels(cluster: &Cluster, pod: &Pod) -> BTreeMap<String, String> {
    pod.labels.to_text(cluster.symbols())
}

/// Whether a selector matches labels. An absent one matches everything here: callers know what absence means to them.
fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector else { return true };
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let values = list(&expression.values);
        match expression.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => !value.is_some_and(|value| values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            operator => unreachable!("operator {operator:?} in an accepted policy"),
        }
    });
    equal && expressions
}

fn matches_peer(cluster: &Cluster, wanted: &NetworkPolicyPeer, own_namespace: &str, peer: &End<'_>) -> bool {
    if let Some(block) = &wanted.ip_block {
        return in_block(block, peer.address);
    }
    let Some(pod) = peer.pod else { return false };
    let namespace_matches = match &wanted.namespace_selector {
        // "If PodSelector is also set … otherwise it selects the pods in the policy's own namespace"
        None => &*pod.name.namespace == own_namespace,
        Some(selector) => {
            let labels = cluster.namespace_labels(&pod.name.namespace).to_text(cluster.symbols());
            selects(Some(selector), &labels)
        }
    };
    namespace_matches && selects(wanted.pod_selector.as_ref(), &labels(cluster, pod))
}

fn in_block(block: &IPBlock, address: IpAddr) -> bool {
    let inside = |text: &str| Cidr::parse(text).is_some_and(|cidr| cidr.network().contains(&address));
    inside(&block.cidr) && !block.except.iter().flatten().any(|text| inside(text))
}

fn matches_port(wanted: &NetworkPolicyPort, service: Service, receiver: Option<&Pod>) -> bool {
    let protocol = match wanted.protocol.as_deref() {
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        _ => Protocol::TCP,
    };
    if protocol != service.protocol {
        return false;
    }
    let port = i32::from(service.port);
    match &wanted.port {
        // "If this field is not provided, this matches all port names and numbers"
        None => true,
        Some(IntOrString::Int(first)) => *first <= port && port <= wanted.end_port.unwrap_or(*first),
        Some(IntOrString::String(name)) => receiver.is_some_and(|pod| {
            pod.ports.iter().any(|own| {
                own.name.as_deref() == Some(name.as_str()) && own.protocol == protocol && own.port == service.port
            })
        }),
    }
}
