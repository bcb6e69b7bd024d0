//! Why a connection is allowed or denied, told rule by rule: which policies isolate each end, which of their rules
//! match and by which selectors, and for a denial what does not match and which rule would allow it.
//!
//! This reads the policies one rule after the other, as a person would. The verdict is the one of
//! [`super::judge::Judge`]; a property test holds the two equal, and checks that taking the named rules away, or adding
//! the suggested one, turns the answer round.

mod matching;
mod suggest;
mod text;

use std::net::IpAddr;

use dataplane::frontend::Place;
use dataplane::packet::Direction;
use serde::{Serialize, Serializer};

use super::behind::{Behind, ByNode, behind};
use super::cluster::{Cluster, NetworkPolicy, ObjectName, Peer, Pod, PolicyRule, Service as ClusterService};
use super::probe::{Connection, EndVerdict, Probe, ProbeError, Service, Target, Via};

pub use suggest::{DeniedDns, Suggestion, denied_dns};

/// Why a question got its answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who opens the connection.
    pub from: Target,
    /// Its address.
    pub from_address: IpAddr,
    /// To whom.
    pub to: Target,
    /// Its address.
    pub to_address: IpAddr,
    /// On which port.
    #[serde(serialize_with = "as_text")]
    pub service: Service,
    /// Whether it is allowed, all in all.
    pub verdict: EndVerdict,
    /// The source's side.
    pub egress: EndExplanation,
    /// The destination's side.
    pub ingress: EndExplanation,
    /// What a person should know besides.
    pub notes: Vec<String>,
    /// DNS that the source may not ask, if it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_dns: Option<DeniedDns>,
}

/// One end's side of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndExplanation {
    /// What this end says.
    pub verdict: EndVerdict,
    /// The pod whose policies decided, if there is one.
    #[serde(serialize_with = "as_optional_text")]
    pub pod: Option<ObjectName>,
    /// Why.
    pub reason: EndReason,
}

/// Why an end says what it says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "because")]
pub enum EndReason {
    /// No pod with a wire is at this end.
    NoPod,
    /// The pod speaks to itself, which never leaves it.
    Loopback,
    /// No policy selects the pod for this direction.
    NotIsolated,
    /// The pod's own node always reaches it.
    OwnNode,
    /// Rules allow it: all of them are here, the one that decided first.
    Allowed {
        /// The rules.
        rules: Vec<MatchedRule>,
    },
    /// Policies isolate the pod, and none has a rule that allows it.
    Denied {
        /// All that isolate it, and why each does not allow it.
        policies: Vec<PolicyMiss>,
        /// A rule that would allow it.
        suggestion: Suggestion,
    },
}

/// A rule that allows the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MatchedRule {
    /// Whose.
    #[serde(serialize_with = "as_text")]
    pub policy: ObjectName,
    /// Its `ingress` or its `egress`.
    #[serde(serialize_with = "as_name")]
    pub direction: Direction,
    /// Which rule of that list, from 0.
    pub rule: usize,
    /// The policy's podSelector, which selects the pod.
    pub pod_selector: String,
    /// The peer that matches, in words.
    pub peer: String,
    /// The port that matches, in words.
    pub port: String,
}

/// A policy that isolates the pod and does not allow the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyMiss {
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub policy: ObjectName,
    /// Its podSelector, which selects the pod.
    pub pod_selector: String,
    /// Its rules; none at all allows nothing.
    pub rules: Vec<RuleMiss>,
}

/// A rule that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleMiss {
    /// Which rule of the list, from 0.
    pub rule: usize,
    /// Why no peer of it matches, a reason each; empty if one does.
    pub peers: Vec<String>,
    /// Why no port of it matches, a reason each; empty if one does.
    pub ports: Vec<String>,
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_optional_text<T: std::fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn as_name<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(direction.name())
}

/// Explains the answer to a question.
///
/// # Errors
/// An end that cannot be found.
pub fn explain(cluster: &Cluster, probe: &Probe) -> Result<Explanation, ProbeError> {
    match behind(cluster, probe)? {
        Some(behind) => explain_service(cluster, &behind),
        None => explain_one(cluster, probe),
    }
}

/// A Service is explained by the endpoint that is denied, if one is.
fn explain_service(cluster: &Cluster, behind: &Behind) -> Result<Explanation, ProbeError> {
    let mut explanations = Vec::new();
    for endpoint in &behind.endpoints {
        explanations.push(explain_one(cluster, endpoint)?);
    }
    let named = |verdict: EndVerdict| -> Vec<String> {
        let of = explanations.iter().filter(|explanation| explanation.verdict == verdict);
        of.map(|explanation| format!("{} {}", explanation.to, explanation.service)).collect()
    };
    let (allowed, denied) = (named(EndVerdict::Allow), named(EndVerdict::Deny));
    // Only the sender's own wire judges the Service; an endpoint's judges what has reached it.
    let by_sender = explanations.iter().any(|of| of.egress.verdict == EndVerdict::Deny);
    let passes = match by_sender {
        true => "if it is known to reach one of the former, or with serviceMixed: allow",
        false => "when kube-proxy chooses one of the former",
    };
    let note = match (&allowed[..], &denied[..]) {
        (_, []) => format!("all of its endpoints are allowed: {}", allowed.join(", ")),
        ([], _) => format!("none of its endpoints is allowed: {}", denied.join(", ")),
        _ => format!(
            "of its endpoints {} are allowed and {} are not: a connection passes only {passes}",
            allowed.join(", "),
            denied.join(", ")
        ),
    };
    let note = format!("{} is Service {}; {note}", behind.address, behind.service);
    let shown = explanations.iter().position(|explanation| explanation.verdict == EndVerdict::Deny).unwrap_or(0);
    let mut explanation = explanations.swap_remove(shown);
    explanation.notes.insert(0, note);
    explanation.notes.extend(behind.by_node.as_ref().and_then(|by_node| by_way_of(cluster, behind, by_node)));
    Ok(explanation)
}

/// What becomes of clients that come by the node whose address was asked about.
fn by_way_of(cluster: &Cluster, behind: &Behind, by_node: &ByNode) -> Option<String> {
    let ByNode { node, is_local } = by_node;
    let is_here = |endpoint: &&Probe| match endpoint.to {
        Target::Address(address) => cluster.owner(address).and_then(|pod| pod.node.as_ref()) == Some(node),
        Target::Pod(_) => false,
    };
    let (here, away): (Vec<&Probe>, Vec<&Probe>) = behind.endpoints.iter().partition(is_here);
    let named = |of: &[&Probe]| of.iter().map(|endpoint| endpoint.to.to_string()).collect::<Vec<_>>().join(", ");
    match (is_local, &here[..], &away[..]) {
        (true, [], _) => Some(format!(
            "externalTrafficPolicy: Local, and {node} has no endpoint: kube-proxy drops what comes by it from outside"
        )),
        (true, here, [_, ..]) => Some(format!(
            "externalTrafficPolicy: Local: what comes by {node} from outside reaches its own endpoints only, {}",
            named(here)
        )),
        (false, _, away @ [_, ..]) => Some(format!(
            "externalTrafficPolicy: Cluster: what comes by {node} reaches {}, on other nodes, with the address of {node}, whoever the client \
             is. A policy there judges that address: dropped (other_node), unless a block holds it",
            named(away)
        )),
        (_, _, []) => None,
    }
}

fn explain_one(cluster: &Cluster, probe: &Probe) -> Result<Explanation, ProbeError> {
    let connection = probe.locate(cluster)?;
    let [egress, ingress] = Direction::BOTH.map(|direction| explain_end(cluster, &connection, direction));
    let denied = [&egress, &ingress].iter().any(|end| end.verdict == EndVerdict::Deny);
    let name = |target: &Target, pod: Option<&Pod>| pod.map_or(target.clone(), |pod| Target::Pod(pod.name.clone()));
    Ok(Explanation {
        from: name(&probe.from, connection.source.pod),
        from_address: connection.source.address,
        to: name(&probe.to, connection.destination.pod),
        to_address: connection.destination.address,
        service: connection.service,
        verdict: if denied { EndVerdict::Deny } else { EndVerdict::Allow },
        notes: notes(cluster, probe, &connection, &egress, &ingress),
        denied_dns: connection.source.pod.and_then(|pod| denied_dns(cluster, pod)),
        egress,
        ingress,
    })
}

fn explain_end(cluster: &Cluster, connection: &Connection<'_>, direction: Direction) -> EndExplanation {
    let Some(pod) = connection.local(direction).pod else {
        return EndExplanation { verdict: EndVerdict::None, pod: None, reason: EndReason::NoPod };
    };
    let isolating: Vec<_> =
        cluster.policies_selecting(pod).filter(|policy| policy.rules(direction).is_some()).collect();
    let (verdict, reason) = if connection.is_loopback() {
        (EndVerdict::Allow, EndReason::Loopback)
    } else if isolating.is_empty() {
        (EndVerdict::Allow, EndReason::NotIsolated)
    } else if direction == Direction::Ingress && connection.is_from_own_node(cluster) {
        (EndVerdict::Allow, EndReason::OwnNode)
    } else {
        judge_rules(cluster, connection, direction, &isolating)
    };
    EndExplanation { verdict, pod: Some(pod.name.clone()), reason }
}

fn judge_rules(
    cluster: &Cluster,
    connection: &Connection<'_>,
    direction: Direction,
    isolating: &[&NetworkPolicy],
) -> (EndVerdict, EndReason) {
    let mut matched = Vec::new();
    let mut missed = Vec::new();
    for policy in isolating {
        let pod_selector = matching::selector_text(&policy.pods, cluster);
        let mut misses = Vec::new();
        for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
            match read_rule(cluster, connection, direction, policy, rule) {
                Ok((peer, port)) => matched.push(MatchedRule {
                    policy: policy.name.clone(),
                    direction,
                    rule: index,
                    pod_selector: pod_selector.clone(),
                    peer,
                    port,
                }),
                Err((peers, ports)) => misses.push(RuleMiss { rule: index, peers, ports }),
            }
        }
        missed.push(PolicyMiss { policy: policy.name.clone(), pod_selector, rules: misses });
    }
    if !matched.is_empty() {
        return (EndVerdict::Allow, EndReason::Allowed { rules: matched });
    }
    let suggestion = suggest::allow(cluster, connection, direction, nearest(&missed));
    (EndVerdict::Deny, EndReason::Denied { policies: missed, suggestion })
}

/// The policy that comes nearest to allowing it: one with a rule of which half matches, else the first.
fn nearest(missed: &[PolicyMiss]) -> &ObjectName {
    let half =
        missed.iter().find(|policy| policy.rules.iter().any(|rule| rule.peers.is_empty() || rule.ports.is_empty()));
    &half.unwrap_or(&missed[0]).policy
}

/// Which peer and port of a rule match, or why none does.
fn read_rule(
    cluster: &Cluster,
    connection: &Connection<'_>,
    direction: Direction,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
) -> Result<(String, String), (Vec<String>, Vec<String>)> {
    let peer = matching::peer(cluster, rule, &policy.name.namespace, connection.peer(direction), direction);
    let port = matching::port(rule, connection.service, connection.destination.pod);
    match (peer, port) {
        (Ok(peer), Ok(port)) => Ok((peer, port)),
        (peer, port) => Err((peer.err().unwrap_or_default(), port.err().unwrap_or_default())),
    }
}

fn notes(
    cluster: &Cluster,
    probe: &Probe,
    connection: &Connection<'_>,
    egress: &EndExplanation,
    ingress: &EndExplanation,
) -> Vec<String> {
    let mut notes = Vec::new();
    let host_network = |target: &Target| match target {
        Target::Pod(name) => cluster.pod(name).is_some_and(|pod| pod.host_network),
        Target::Address(_) => false,
    };
    for target in [&probe.from, &probe.to].into_iter().filter(|target| host_network(target)) {
        notes.push(format!(
            "{target} is on its node's network: no policy is for it, and others know it by its node's address alone; \
             only an ipBlock can name it"
        ));
    }
    if matches!(ingress.reason, EndReason::OwnNode) {
        notes.push(format!(
            "{} is the pod's own node. NodePort and LoadBalancer traffic that the node forwards with its own address \
             (externalTrafficPolicy: Cluster) looks the same, whoever the client is: ask with --via nodePort what the \
             policies say about such a client, or set externalTrafficPolicy: Local to keep the client's address",
            connection.source.address
        ));
    }
    if connection.via == Some(Via::NodePort) {
        notes.push(match connection.hidden_by(cluster) {
            Some(node) => format!(
                "the pod sees {node} (its node, rewritten by kube-proxy from {}): the client is judged as itself; with nodePort: \
                 postSnat the node's address would be, with nodePort: allow nothing",
                connection.source.address
            ),
            None => format!(
                "{} stands for a client that came in by a NodePort: it is judged as this address, without the exemption of \
                 the pod's own node",
                connection.source.address
            ),
        });
    }
    notes.extend(connection.destination.pod.and_then(|pod| hidden_clients(cluster, pod)));
    if egress.verdict == EndVerdict::Deny && ingress.verdict == EndVerdict::Deny {
        notes.push("both ends deny it: both need a rule that allows it".to_owned());
    }
    notes
}

/// Blocks that mean clients, for a pod whose clients come by nodes' addresses.
fn hidden_clients(cluster: &Cluster, pod: &Pod) -> Option<String> {
    let is_block = |rule: &PolicyRule| rule.peers.iter().flatten().any(|peer| matches!(peer, Peer::Block(_)));
    let with_blocks =
        |policy: &&NetworkPolicy| policy.rules(Direction::Ingress).is_some_and(|rules| rules.iter().any(is_block));
    let policies: Vec<String> =
        cluster.policies_selecting(pod).filter(with_blocks).map(|policy| policy.name.to_string()).collect();
    let leads_here = |service: &&ClusterService| {
        let is_outside = |place| matches!(place, Place::Hosts { .. }) || !service.external.is_empty();
        let backends = cluster.frontends_of(service).filter(|(frontend, _)| is_outside(frontend.place));
        !service.local
            && backends.into_iter().any(|(_, ends)| ends.iter().any(|end| pod.addresses.contains(&end.address.into())))
    };
    let services: Vec<String> =
        cluster.services().filter(leads_here).map(|service| service.object_name().to_string()).collect();
    if policies.is_empty() || services.is_empty() {
        return None;
    }
    let others =
        || cluster.nodes().filter(|node| pod.node.as_ref() != Some(&node.name)).flat_map(|node| &node.all_addresses);
    let holds_a_node = cluster.policies_selecting(pod).any(|policy| {
        let mut peers =
            policy.rules(Direction::Ingress).into_iter().flatten().flat_map(|rule| rule.peers.iter().flatten());
        peers.any(|peer| matches!(peer, Peer::Block(block) if others().any(|address| block.contains(*address))))
    });
    let fate = match holds_a_node {
        true => {
            "which a block holds: whoever comes so passes, also who is in its `except`. Take the nodes' addresses out of the block"
        }
        false => "and are dropped (other_node), unless a block holds that address, which lets in all who come so",
    };
    Some(format!(
        "{} has ipBlocks, and clients from outside reach {} by Service {} with externalTrafficPolicy: Cluster: those that come by \
         another node are hidden behind that node's address, {fate}; with externalTrafficPolicy: Local the pod sees every client",
        policies.join(", "),
        pod.name,
        services.join(", ")
    ))
}

#[cfg(test)]
mod tests;
