//! Whether a peer or a port of a rule matches, with the reason if it does not.

use dataplane::packet::Direction;

use super::super::cluster::{Block, Cluster, Peer, Pod, PolicyPorts, PolicyRule};
use super::super::labels::Labels;
use super::super::probe::{End, Service};
use super::super::resolve::peer_text;
use super::super::selector::Selector;

/// A selector as `kubectl get -l` writes it.
pub(super) fn selector_text(selector: &Selector, cluster: &Cluster) -> String {
    if selector.is_everything() { "{} (all pods)".to_owned() } else { selector.to_text(cluster.symbols()) }
}

/// Labels as `key=value,…`.
fn labels_text(labels: &Labels, cluster: &Cluster) -> String {
    let pairs: Vec<_> = labels.to_text(cluster.symbols()).iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "no labels".to_owned() } else { pairs.join(",") }
}

/// The peer of a rule that matches, in words, or why none does.
pub(super) fn peer(
    cluster: &Cluster,
    rule: &PolicyRule,
    own_namespace: &str,
    end: &End<'_>,
    direction: Direction,
) -> Result<String, Vec<String>> {
    let list = if direction == Direction::Ingress { "from" } else { "to" };
    let Some(peers) = &rule.peers else { return Ok(format!("no `{list}`: anybody")) };
    let mut misses = Vec::new();
    for (index, peer) in peers.iter().enumerate() {
        match peer_miss(cluster, peer, own_namespace, end) {
            None => return Ok(format!("{list}[{index}]: {}", peer_text(peer, cluster))),
            Some(reason) => misses.push(format!("{list}[{index}] ({}): {reason}", peer_text(peer, cluster))),
        }
    }
    Err(misses)
}

/// Why a peer does not match an end; `None` if it does.
fn peer_miss(cluster: &Cluster, peer: &Peer, own_namespace: &str, end: &End<'_>) -> Option<String> {
    let (namespaces, pods) = match peer {
        Peer::Block(block) => return block_miss(block, end),
        Peer::Pods { namespaces, pods } => (namespaces, pods),
    };
    let Some(pod) = end.pod else {
        return Some(format!("{} is no pod, and selectors match pods alone", end.address));
    };
    let namespace = &pod.name.namespace;
    match namespaces {
        None if **namespace != *own_namespace => {
            return Some(format!(
                "{} is in namespace {namespace}; without a namespaceSelector only pods of {own_namespace} match",
                pod.name
            ));
        }
        Some(selector) if !selector.matches(&cluster.namespace_labels(namespace)) => {
            let labels = labels_text(&cluster.namespace_labels(namespace), cluster);
            return Some(format!("namespace {namespace} has {labels}"));
        }
        _ => {}
    }
    (!pods.matches(&pod.labels)).then(|| format!("pod {} has {}", pod.name, labels_text(&pod.labels, cluster)))
}

fn block_miss(block: &Block, end: &End<'_>) -> Option<String> {
    if !block.network.contains(&end.address) {
        return Some(format!("{} is not in the block", end.address));
    }
    let hole = block.except.iter().find(|hole| hole.contains(&end.address))?;
    Some(format!("{} is in the exception {hole}", end.address))
}

/// The port of a rule that matches, in words, or why none does.
pub(super) fn port(rule: &PolicyRule, service: Service, receiver: Option<&Pod>) -> Result<String, Vec<String>> {
    let Some(ports) = &rule.ports else { return Ok("no `ports`: any".to_owned()) };
    let mut misses = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        match port {
            PolicyPorts::Range(range) => {
                let text = match (range.first, range.last) {
                    (0, u16::MAX) => format!("all of {}", range.protocol),
                    (first, last) if first == last => format!("{}/{first}", range.protocol),
                    (first, last) => format!("{}/{first}-{last}", range.protocol),
                };
                let matches = range.protocol == service.protocol && (range.first..=range.last).contains(&service.port);
                match matches {
                    true => return Ok(format!("ports[{index}]: {text}")),
                    false => misses.push(format!("ports[{index}] is {text}")),
                }
            }
            PolicyPorts::Named { protocol, name } => {
                let numbers = receiver.map(|pod| pod.named_ports(name, *protocol)).unwrap_or_default();
                let text = format!("the {protocol} port named {name:?}");
                if *protocol == service.protocol && numbers.contains(&service.port) {
                    return Ok(format!("ports[{index}]: {text}"));
                }
                let meaning = match (receiver, &numbers[..]) {
                    (None, _) => "an address that is no pod has no named ports".to_owned(),
                    (Some(pod), []) => format!("{} has none", pod.name),
                    (Some(pod), numbers) => {
                        let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                        format!("on {} it is {}", pod.name, numbers.join(" and "))
                    }
                };
                misses.push(format!("ports[{index}] is {text}; {meaning}"));
            }
        }
    }
    Err(misses)
}
