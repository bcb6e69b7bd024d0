//! All pods of a cluster resolved at once, so that any connection can be judged: what the commands that need no packet
//! ask, and what the engine's own answers are compared with.

use std::collections::BTreeMap;

use dataplane::address::Address;
use dataplane::packet::Direction;
use dataplane::rules::{Action, Policy, Query, RuleId, WireId};

use super::cluster::{Cluster, ObjectName};
use super::probe::{Answer, Connection, EndVerdict, Probe, ProbeError, Via};
use super::resolve::{OwnNode, Resolved, Resolver};

/// Every pod behind a wire of its own.
#[derive(Debug)]
pub struct Judge<'a> {
    cluster: &'a Cluster,
    wires: BTreeMap<ObjectName, WireId>,
    /// The pod's own node exempt.
    exempt: Resolved,
    /// Without the exemption: for a node's address that stands for a client.
    strict: Resolved,
}

/// The wires that [`Judge`], and whoever wants to agree with it, gives to pods: numbered in the order of their names.
pub fn number_wires(cluster: &Cluster) -> BTreeMap<ObjectName, WireId> {
    let pods = cluster.pods().filter(|pod| pod.has_wire());
    (0..).map(WireId).zip(pods).map(|(wire, pod)| (pod.name.clone(), wire)).collect()
}

impl<'a> Judge<'a> {
    /// Resolves a cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        let wires = number_wires(cluster);
        let resolve = |own_node| {
            let endpoints = wires.iter().map(|(name, &wire)| (name.clone(), wire));
            Resolver::new(own_node).resolve(cluster, endpoints)
        };
        Judge { cluster, exempt: resolve(OwnNode::Allow), strict: resolve(OwnNode::Judge), wires }
    }

    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// What was resolved, the pod's own node exempt.
    pub fn resolved(&self) -> &Resolved {
        &self.exempt
    }

    /// The wire of a pod.
    pub fn wire(&self, pod: &ObjectName) -> Option<WireId> {
        self.wires.get(pod).copied()
    }

    /// Answers a question.
    pub fn answer(&self, probe: &Probe) -> Result<Answer, ProbeError> {
        Ok(self.judge(&probe.locate(self.cluster)?))
    }

    /// Judges a connection; both ends are asked even when the first denies.
    pub fn judge(&self, connection: &Connection<'_>) -> Answer {
        if connection.is_loopback() {
            return Answer::loopback();
        }
        let mut rules = Vec::new();
        let [egress, ingress] = Direction::BOTH.map(|direction| {
            let (verdict, rule) = self.judge_end(connection, direction);
            rules.extend(rule.map(|rule| self.table(connection).table.describe(rule)));
            verdict
        });
        Answer { egress, ingress, rules }
    }

    /// What one end says, and the rule that decided, if one did.
    pub fn judge_end(&self, connection: &Connection<'_>, direction: Direction) -> (EndVerdict, Option<RuleId>) {
        let Some(policy) =
            connection.local(direction).pod.and_then(|pod| self.policy(connection, &pod.name, direction))
        else {
            return (EndVerdict::None, None);
        };
        let peer = Address::from(connection.peer(direction).address);
        let service = connection.service;
        let decision = policy.judge(direction, Query::new(peer, service.protocol, service.port));
        let verdict = if decision.action == Action::Allow { EndVerdict::Allow } else { EndVerdict::Deny };
        (verdict, decision.rule)
    }

    fn table(&self, connection: &Connection<'_>) -> &Resolved {
        if connection.via == Some(Via::NodePort) { &self.strict } else { &self.exempt }
    }

    fn policy(&self, connection: &Connection<'_>, pod: &ObjectName, direction: Direction) -> Option<&Policy> {
        let wire = self.wire(pod)?;
        // Wires are numbered and resolved in the same order, and every pod with a wire has rules.
        let rules = self.table(connection).rules.wires.get(wire.0 as usize).filter(|rules| rules.wire == wire)?;
        Some(rules.policy(direction))
    }
}
