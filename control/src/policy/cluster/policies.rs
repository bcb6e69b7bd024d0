//! Policies as rules over interned selectors.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::{Direction, Protocol};
use dataplane::rules::PortRange;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::labels::Interner;
use super::super::selector::Selector;
use super::super::validation::AcceptedPolicy;
use super::super::validation::cidr::Cidr;
use super::ObjectName;
use super::objects::read_protocol;

/// A NetworkPolicy that has passed validation.
#[derive(Clone, Debug)]
pub struct NetworkPolicy {
    /// Its name.
    pub name: ObjectName,
    /// The object itself, with defaults filled in; an empty one in a [`super::Cluster::lean`] cluster.
    pub object: Arc<networking::NetworkPolicy>,
    /// Which pods of its namespace it is for.
    pub pods: Selector,
    /// What it allows in. `None`: it does not speak of ingress; an empty list isolates.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What it allows out. `None`: it does not speak of egress; an empty list isolates.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One rule: any of the peers on any of the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Whom it allows; `None` is everybody, inside the cluster and out.
    pub peers: Option<Vec<Peer>>,
    /// On which ports; `None` is all of every protocol.
    pub ports: Option<Vec<PolicyPorts>>,
}

/// Whom a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Pods.
    Pods {
        /// In which namespaces; `None` is the policy's own.
        namespaces: Option<Selector>,
        /// Which pods there.
        pods: Selector,
    },
    /// Addresses, of pods or not.
    Block(Block),
}

/// A block of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// The block.
    pub network: IpNet,
    /// Its holes.
    pub except: Vec<IpNet>,
}

impl Block {
    /// Whether an address is in it and in none of its holes.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.contains(&address) && !self.except.iter().any(|hole| hole.contains(&address))
    }
}

/// Which ports a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PolicyPorts {
    /// Numbers.
    Range(PortRange),
    /// What the pod that receives calls so, in this protocol.
    Named {
        /// The protocol.
        protocol: Protocol,
        /// The name.
        name: Arc<str>,
    },
}

impl PolicyPorts {
    /// The numbers, where they are numbers.
    pub fn range(&self) -> Option<PortRange> {
        match self {
            PolicyPorts::Range(range) => Some(*range),
            PolicyPorts::Named { .. } => None,
        }
    }
}

impl NetworkPolicy {
    /// The rules of a direction; `None` if the policy does not isolate in it.
    pub fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    pub(super) fn read(accepted: AcceptedPolicy, symbols: &mut Interner) -> Self {
        let object = accepted.into_object();
        let name = ObjectName::new(
            object.metadata.namespace.as_deref().expect("an accepted policy has a namespace"),
            object.metadata.name.as_deref().expect("an accepted policy has a name"),
        );
        let spec = object.spec.as_ref().expect("an accepted policy has a spec");
        let isolates = |name: &str| spec.policy_types.iter().flatten().any(|policy_type| policy_type == name);
        let pods = spec.pod_selector.as_ref().map_or_else(Selector::everything, |pods| Selector::intern(pods, symbols));
        let ingress = isolates("Ingress").then(|| {
            let rules = spec.ingress.iter().flatten();
            rules.map(|rule| read_rule(&rule.from, &rule.ports, symbols)).collect()
        });
        let egress = isolates("Egress").then(|| {
            let rules = spec.egress.iter().flatten();
            rules.map(|rule| read_rule(&rule.to, &rule.ports, symbols)).collect()
        });
        NetworkPolicy { name, pods, ingress, egress, object: Arc::new(object) }
    }
}

fn read_rule(
    peers: &Option<Vec<networking::NetworkPolicyPeer>>,
    ports: &Option<Vec<networking::NetworkPolicyPort>>,
    symbols: &mut Interner,
) -> PolicyRule {
    let peers = peers.as_ref().filter(|peers| !peers.is_empty());
    let ports = ports.as_ref().filter(|ports| !ports.is_empty());
    PolicyRule {
        peers: peers.map(|peers| peers.iter().map(|peer| read_peer(peer, symbols)).collect()),
        ports: ports.map(|ports| ports.iter().map(read_port).collect()),
    }
}

fn read_peer(peer: &networking::NetworkPolicyPeer, symbols: &mut Interner) -> Peer {
    if let Some(block) = &peer.ip_block {
        let network = |text: &str| Cidr::parse(text).expect("an accepted policy has valid CIDRs").network();
        return Peer::Block(Block {
            network: network(&block.cidr),
            except: block.except.iter().flatten().map(|text| network(text)).collect(),
        });
    }
    Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(|selector| Selector::intern(selector, symbols)),
        pods: peer.pod_selector.as_ref().map_or_else(Selector::everything, |pods| Selector::intern(pods, symbols)),
    }
}

fn read_port(port: &networking::NetworkPolicyPort) -> PolicyPorts {
    let protocol = read_protocol(port.protocol.as_deref()).expect("an accepted policy has valid protocols");
    let number = |number: i32| u16::try_from(number).expect("an accepted policy has valid ports");
    match &port.port {
        None => PolicyPorts::Range(PortRange::all(protocol)),
        Some(IntOrString::Int(first)) => PolicyPorts::Range(PortRange {
            protocol,
            first: number(*first),
            last: number(port.end_port.unwrap_or(*first)),
        }),
        Some(IntOrString::String(name)) => PolicyPorts::Named { protocol, name: name.as_str().into() },
    }
}
