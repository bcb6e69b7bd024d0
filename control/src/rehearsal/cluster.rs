//! A whole cluster in memory: the questions that people ask, answered by the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::classify::CompileError;
use dataplane::packet::{Direction, Tuple};
use dataplane::rules::{RuleId, WireId, asked};
use dataplane::verdict::Verdict;
use dataplane::worker::{Finding, Question};

use super::{FirstFrame, Rehearsal};
use crate::policy::behind::{Behind, behind};
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
    /// It is asked who is behind it.
    asking: Option<Stage>,
}

struct Stage {
    engine: Rehearsal,
    table: Arc<RuleTable>,
}

impl<'a> ClusterRehearsal<'a> {
    /// Numbers the wires. The engine starts with the first question.
    pub fn new(cluster: &'a Cluster) -> Self {
        ClusterRehearsal { cluster, wires: number_wires(cluster), exempt: None, strict: None, asking: None }
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
        if let Some(behind) = behind(self.cluster, probe)? {
            return self.answer_service(&behind);
        }
        let connection = probe.locate(self.cluster)?;
        if connection.is_loopback() {
            return Ok(Rehearsed { answer: Answer::loopback(), frames: 0 });
        }
        let own_node = match (probe.via, connection.hidden_by(self.cluster)) {
            (Some(Via::NodePort), Some(_)) => OwnNode::Ask(asked::CLIENT),
            (Some(Via::NodePort), None) => OwnNode::Judge,
            _ => OwnNode::Allow,
        };
        self.on_stage(own_node, |rehearsal, stage| rehearsal.rehearse(stage, &connection))
    }

    /// Does something on the stage for what holds for the pods' own nodes.
    fn on_stage<T>(
        &mut self,
        own_node: OwnNode,
        act: impl FnOnce(&Self, &mut Stage) -> T,
    ) -> Result<T, RehearsalError> {
        let kept = match own_node {
            OwnNode::Judge => self.strict.take(),
            OwnNode::Allow => self.exempt.take(),
            OwnNode::Ask(_) => self.asking.take(),
        };
        let mut stage = match kept {
            Some(stage) => stage,
            None => self.stage(own_node)?,
        };
        let done = act(self, &mut stage);
        match own_node {
            OwnNode::Judge => self.strict = Some(stage),
            OwnNode::Allow => self.exempt = Some(stage),
            OwnNode::Ask(_) => self.asking = Some(stage),
        }
        Ok(done)
    }

    /// A frame to the Service's address goes through the source's wire, and one to each endpoint through that one's. Where only some of
    /// them are let in, the answer is no.
    fn answer_service(&mut self, behind: &Behind) -> Result<Rehearsed, RehearsalError> {
        let mut connections = Vec::new();
        for endpoint in &behind.endpoints {
            connections.push(endpoint.locate(self.cluster)?);
        }
        self.on_stage(OwnNode::Allow, |rehearsal, stage| {
            let (mut frames, mut rules, mut ingress) = (0, Vec::new(), EndVerdict::None);
            let mut egress = EndVerdict::None;
            for (number, connection) in connections.iter().enumerate() {
                stage.engine.next_connection();
                if number == 0 {
                    let to = FirstFrame { destination: behind.address.into(), port: behind.port, ..first(connection) };
                    egress = rehearsal.pass(stage, connection, Direction::Egress, to, &mut frames, &mut rules);
                }
                if connection.is_loopback() {
                    continue;
                }
                let to = first(connection);
                let verdict = rehearsal.pass(stage, connection, Direction::Ingress, to, &mut frames, &mut rules);
                ingress = match (ingress, verdict) {
                    (EndVerdict::Deny, _) | (_, EndVerdict::Deny) => EndVerdict::Deny,
                    (EndVerdict::None, verdict) => verdict,
                    (ingress, _) => ingress,
                };
            }
            rules.dedup();
            Rehearsed { answer: Answer { egress, ingress, rules }, frames }
        })
    }

    fn rehearse(&self, stage: &mut Stage, connection: &Connection<'_>) -> Rehearsed {
        stage.engine.next_connection();
        let (mut frames, mut rules) = (0, Vec::new());
        let [egress, ingress] = Direction::BOTH
            .map(|direction| self.pass(stage, connection, direction, first(connection), &mut frames, &mut rules));
        Rehearsed { answer: Answer { egress, ingress, rules }, frames }
    }

    /// Sends a frame through the wire of the end whose policies count in a direction. What is hidden by a node's address is sent from
    /// that, and found when it is asked for.
    fn pass(
        &self,
        stage: &mut Stage,
        connection: &Connection<'_>,
        direction: Direction,
        frame: FirstFrame,
        frames: &mut u64,
        rules: &mut Vec<String>,
    ) -> EndVerdict {
        let pod = connection.local(direction).pod;
        let Some(&wire) = pod.and_then(|pod| self.wires.get(&pod.name)) else { return EndVerdict::None };
        let client = frame.source;
        let hidden = connection.hidden_by(self.cluster).filter(|_| direction == Direction::Ingress);
        let frame = FirstFrame { source: hidden.map_or(client, Address::from), ..frame };
        let answer = |question: &Question| match question.kind {
            asked::CLIENT => Finding::JudgeAs(Tuple { source: client, ..question.tuple }),
            _ => Finding::Unknown,
        };
        let Some(judged) = stage.engine.judge_with(wire, direction, frame, answer) else { return EndVerdict::None };
        *frames += 1;
        match judged.verdict {
            Verdict::Forward => {
                rules.extend(judged.rule.map(|rule: RuleId| stage.table.describe(rule)));
                EndVerdict::Allow
            }
            Verdict::Drop(_) => EndVerdict::Deny,
        }
    }
}

fn first(connection: &Connection<'_>) -> FirstFrame {
    FirstFrame {
        source: connection.source.address.into(),
        destination: connection.destination.address.into(),
        protocol: connection.service.protocol,
        port: connection.service.port,
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
