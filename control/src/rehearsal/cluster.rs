//! A whole cluster in memory: the questions that people ask, answered by the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::classify::CompileError;
use dataplane::packet::Direction;
use dataplane::rules::{RuleId, WireId};
use dataplane::verdict::Verdict;

use super::{FirstFrame, Rehearsal};
use crate::policy::cluster::{Cluster, ObjectName};
use crate::policy::judge::number_wires;
use crate::policy::live::LiveRules;
use crate::policy::probe::{Answer, Connection, EndVerdict, Probe, ProbeError, Via};
use crate::policy::resolve::{OwnNode, RuleTable};

/// An answer and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    /// The answer.
    pub answer: Answer,
    /// Frames that the engine judged for it.
    pub frames: u64,
}

/// Every pod of a cluster behind a wire of its own.
pub struct ClusterRehearsal<'a> {
    cluster: &'a Cluster,
    wires: BTreeMap<ObjectName, WireId>,
    /// The pod's own node is exempt.
    exempt: Option<Stage>,
    /// It is not: for a node's address that stands for a client.
    strict: Option<Stage>,
}

struct Stage {
    engine: Rehearsal,
    table: Arc<RuleTable>,
}

impl<'a> ClusterRehearsal<'a> {
    /// Numbers the wires. The engine starts with the first question.
    pub fn new(cluster: &'a Cluster) -> Self {
        ClusterRehearsal { cluster, wires: number_wires(cluster), exempt: None, strict: None }
    }

    fn stage(&self, own_node: OwnNode) -> Result<Stage, CompileError> {
        let endpoints = self.wires.iter().map(|(name, &wire)| (name.clone(), wire));
        let mut rules = LiveRules::new(own_node);
        let change = rules.start(self.cluster, endpoints);
        let pods = self.wires.keys().filter_map(|name| self.cluster.pod(name));
        let addresses = pods.map(|pod| self.cluster.addresses_of(pod).map(Address::from).collect());
        let mut engine = Rehearsal::new(addresses);
        engine.publish(&change)?;
        Ok(Stage { engine, table: Arc::clone(rules.table()) })
    }

    /// Answers a question: the first frame of the connection goes through the source's wire and through the
    /// destination's, through both even when the first drops it. What a pod says to itself never leaves the pod.
    ///
    /// # Errors
    /// When an end cannot be found, or the policies are more than can be compiled.
    pub fn answer(&mut self, probe: &Probe) -> Result<Rehearsed, RehearsalError> {
        let connection = probe.locate(self.cluster)?;
        if connection.is_loopback() {
            return Ok(Rehearsed { answer: Answer::loopback(), frames: 0 });
        }
        let own_node = if probe.via == Some(Via::NodePort) { OwnNode::Judge } else { OwnNode::Allow };
        let kept = match own_node {
            OwnNode::Judge => self.strict.take(),
            _ => self.exempt.take(),
        };
        let mut stage = match kept {
            Some(stage) => stage,
            None => self.stage(own_node)?,
        };
        let rehearsed = self.rehearse(&mut stage, &connection);
        match own_node {
            OwnNode::Judge => self.strict = Some(stage),
            _ => self.exempt = Some(stage),
        }
        Ok(rehearsed)
    }

    fn rehearse(&self, stage: &mut Stage, connection: &Connection<'_>) -> Rehearsed {
        stage.engine.next_connection();
        let first = FirstFrame {
            source: connection.source.address.into(),
            destination: connection.destination.address.into(),
            protocol: connection.service.protocol,
            port: connection.service.port,
        };
        let (mut frames, mut rules) = (0, Vec::new());
        let [egress, ingress] = Direction::BOTH.map(|direction| {
            let pod = connection.local(direction).pod;
            let wire = pod.and_then(|pod| self.wires.get(&pod.name));
            let Some(judged) = wire.and_then(|&wire| stage.engine.judge(wire, direction, first)) else {
                return EndVerdict::None;
            };
            frames += 1;
            match judged.verdict {
                Verdict::Forward => {
                    rules.extend(judged.rule.map(|rule: RuleId| stage.table.describe(rule)));
                    EndVerdict::Allow
                }
                Verdict::Drop(_) => EndVerdict::Deny,
            }
        });
        Rehearsed { answer: Answer { egress, ingress, rules }, frames }
    }
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// It cannot be.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The policies are more than can be compiled.
    #[error("the policies can't be compiled: {0}")]
    Compile(#[from] CompileError),
}
