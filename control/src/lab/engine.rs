//! The lab's engine: a wire for each pod, and the policy on all of them.

use std::collections::BTreeMap;

use dataplane::guard::{Endpoint, Permissions};
use dataplane::port::{PortKind, PortSpec};
use dataplane::rules::{WireId, asked};
use dataplane::wire::Tracking;

use super::error::{LabError, Result};
use super::topology::{MTU, POD_INTERFACE, Place, Topology};
use crate::conntrack::Conntrack;
use crate::conntrack::asking::{Answering, LookUp};
use crate::daemon::config::NodePort;
use crate::enforcer::{Enforcer, EnforcerConfig, EnforcerError, WireSpec};
use crate::policy::cluster::{Cluster, ObjectName};
use crate::policy::live::LiveRules;
use crate::policy::resolve::OwnNode;

/// The running engine of a lab. Dropping it closes all wires.
pub(super) struct Engine {
    /// Ends before the engine.
    answering: Option<Answering>,
    enforcer: Enforcer,
    node_port: NodePort,
    /// There are Services, so that somebody may hide behind a node's address.
    has_services: bool,
    port: PortKind,
    wires: BTreeMap<ObjectName, WireId>,
    rules: LiveRules,
    /// Whose policies are in force.
    cluster: Option<Cluster>,
}

impl Engine {
    pub(super) fn start(port: PortKind, node_port: NodePort, topology: &Topology) -> Result<Engine> {
        let enforcer = Enforcer::start(&EnforcerConfig::default()).map_err(refused)?;
        let rules = LiveRules::new(OwnNode::Allow);
        let conntrack = topology.fabric.run(Conntrack::open).and_then(|opened| opened);
        let conntrack = conntrack.map_err(|error| LabError::system("ask for connections", error))?;
        let (wires, cluster, has_services) = (BTreeMap::new(), None, false);
        let mut engine = Engine { answering: None, enforcer, node_port, has_services, port, wires, rules, cluster };
        engine.answer_with(conntrack)?;
        Ok(engine)
    }

    /// Answers what the workers ask from now on by these look-ups.
    pub(super) fn answer_with(&mut self, look_up: impl LookUp) -> Result<()> {
        // Two would answer each some of the questions.
        self.answering = None;
        let answering = self.enforcer.answer_with(look_up);
        self.answering = Some(answering.map_err(|error| LabError::system("start a thread", error))?);
        Ok(())
    }

    /// Puts a pod behind a wire, closed until a policy knows it.
    pub(super) fn attach(&mut self, key: &str, place: &Place, topology: &Topology) -> Result<()> {
        let spec = |namespace: &super::netns::Namespace, device: &str| {
            let path = namespace.path().display().to_string();
            PortSpec::new(self.port, device).in_namespace(path).with_mtu(MTU as usize)
        };
        let (inside, outside) = match self.port {
            PortKind::Tap => {
                (spec(&place.namespace, POD_INTERFACE).with_mac(place.mac), spec(&topology.fabric, &place.gateway()))
            }
            _ => (spec(&topology.wires, &place.inside()), spec(&topology.wires, &place.outside())),
        };
        let endpoint = Endpoint {
            mac: Some(place.mac),
            addresses: place.addresses.iter().map(|&address| address.into()).collect(),
        };
        let spec = WireSpec {
            name: key.into(),
            inside,
            outside,
            endpoint: Some(endpoint),
            permissions: Permissions::POD,
            tracking: Tracking::Stateful,
        };
        let name = key.parse().map_err(LabError::Input)?;
        let wire = self.enforcer.attach(&spec).map_err(refused)?;
        for warning in self.enforcer.wires().get(&wire).iter().flat_map(|running| &running.warnings) {
            eprintln!("penstock: warning: {key}: {warning}");
        }
        self.wires.insert(name, wire);
        Ok(())
    }

    /// Takes a pod's wire away.
    pub(super) fn detach(&mut self, key: &str) {
        let wire = key.parse().ok().and_then(|name: ObjectName| self.wires.remove(&name));
        if let Some(wire) = wire {
            self.enforcer.detach(wire);
        }
    }

    /// Puts a cluster's policies in force on all wires, and returns when they are.
    pub(super) fn apply(&mut self, cluster: &Cluster) -> Result<()> {
        let has_services = cluster.services().next().is_some();
        if std::mem::replace(&mut self.has_services, has_services) != has_services {
            self.rules.set_own_node(match self.node_port {
                NodePort::OriginalClient if has_services => OwnNode::Ask(asked::CLIENT),
                NodePort::PostSnat if has_services => OwnNode::Ask(asked::HOST),
                _ => OwnNode::Allow,
            });
        }
        let wires = self.wires.iter().map(|(name, &wire)| (name.clone(), wire));
        let mut change = match &self.cluster {
            Some(before) => self.rules.follow(before, cluster, wires),
            None => self.rules.start(cluster, wires),
        };
        // The fabric is every node; whose own address it is only the rules tell, but where nobody hidden is let in.
        if self.node_port == NodePort::PostSnat {
            change.frontends.own = change.frontends.hosts.clone();
        }
        self.enforcer.change(&change).map_err(|error| {
            self.rules.distrust();
            refused(error)
        })?;
        self.cluster = Some(cluster.clone());
        Ok(())
    }

    /// Whose policies are in force.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub(super) fn enforcer(&self) -> &Enforcer {
        &self.enforcer
    }
}

fn refused(error: EnforcerError) -> LabError {
    LabError::System(error.to_string())
}
