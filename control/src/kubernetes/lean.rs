//! Objects as they are kept between the API server and the cluster's state: the fields that policy reads, and no others.
//!
//! Each kind has one canonical form, whichever way it was reached (`wire` from the API server, [`Pod::of`] from the
//! cluster's state, or a file): two objects that mean the same to policy are equal. That is how updates that change nothing (a
//! pod's conditions, a node's heartbeat) are dropped before anything is computed from them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use dataplane::packet::Protocol;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use crate::policy::cluster::{self, EndpointSlice, ObjectName, Service};
use crate::policy::labels::Interner;

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces, for their labels.
    Namespace,
    /// Nodes, for their addresses.
    Node,
    /// Policies. They are applied before the pods, so that no pod is seen without them.
    NetworkPolicy,
    /// Pods that have not finished.
    Pod,
    /// Services: what their addresses stand for.
    Service,
    /// The endpoints of Services.
    EndpointSlice,
}

impl Kind {
    /// All kinds, in the order in which they are applied.
    pub const ALL: [Kind; 6] =
        [Kind::Namespace, Kind::Node, Kind::NetworkPolicy, Kind::Pod, Kind::Service, Kind::EndpointSlice];

    /// The kind as objects state it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }

    /// The kind as paths and access rules name it.
    pub fn resource(self) -> &'static str {
        match self {
            Kind::Namespace => "namespaces",
            Kind::Node => "nodes",
            Kind::NetworkPolicy => "networkpolicies",
            Kind::Pod => "pods",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
        }
    }
}

/// One object of a kind. What is in no namespace has the empty one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Namespace | Kind::Node => write!(f, "{} {}", self.kind.name(), self.name.name),
            _ => write!(f, "{} {}", self.kind.name(), self.name),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its internal and external addresses, in order, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// A port that a container states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Its number.
    pub number: i32,
}

/// A pod that has not finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which pod of that name it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its addresses, in order, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The ports of its containers and native sidecars.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The node that it runs on; empty before it is scheduled.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Whether it shares its node's network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Whether it has no address yet, or none any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Whether it has been asked to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
}

/// A policy, unread: `policy` reads it when it is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its specification, as compact JSON.
    pub spec: String,
    /// Fields that were given to the API server and that it did not keep. Not part of the policy.
    #[serde(skip)]
    pub pruned: Vec<String>,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A policy.
    NetworkPolicy(NetworkPolicy),
    /// A pod.
    Pod(Pod),
    /// A Service.
    Service(Service),
    /// Endpoints of a Service.
    EndpointSlice(EndpointSlice),
}

impl Object {
    /// Which object it is.
    pub fn key(&self) -> Key {
        let key = |kind, namespace: &str, name: &str| Key { kind, name: ObjectName::new(namespace, name) };
        match self {
            Object::Namespace(object) => key(Kind::Namespace, "", &object.name),
            Object::Node(object) => key(Kind::Node, "", &object.name),
            Object::NetworkPolicy(object) => key(Kind::NetworkPolicy, &object.namespace, &object.name),
            Object::Pod(object) => key(Kind::Pod, &object.namespace, &object.name),
            Object::Service(object) => key(Kind::Service, &object.namespace, &object.name),
            Object::EndpointSlice(object) => key(Kind::EndpointSlice, &object.namespace, &object.name),
        }
    }
}

impl Object {
    /// The object as a manifest says it; `None` for a policy whose specification is none.
    pub fn to_manifest(&self) -> Option<serde_json::Value> {
        match self {
            Object::Namespace(object) => serde_json::to_value(object.to_api()).ok(),
            Object::Node(object) => serde_json::to_value(object.to_api()).ok(),
            Object::Pod(object) => serde_json::to_value(object.to_api()).ok(),
            Object::Service(object) => serde_json::to_value(object.to_api()).ok(),
            Object::EndpointSlice(object) => serde_json::to_value(object.to_api()).ok(),
            Object::NetworkPolicy(object) => {
                let spec: serde_json::Value = serde_json::from_str(&object.spec).ok()?;
                let metadata = serde_json::json!({"namespace": object.namespace, "name": object.name});
                let (version, kind) = ("networking.k8s.io/v1", "NetworkPolicy");
                Some(serde_json::json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
            }
        }
    }
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, like this.
    Apply(Object),
    /// It is not there.
    Remove(Key),
}

impl Change {
    /// Which object it is about.
    pub fn key(&self) -> Key {
        match self {
            Change::Apply(object) => object.key(),
            Change::Remove(key) => key.clone(),
        }
    }
}

/// An address in its usual spelling; what is no address stays as it is, to be refused with its text.
pub(super) fn usual_address(text: &str) -> String {
    text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |address| address.to_string())
}

impl Namespace {
    /// The namespace as the cluster holds it.
    pub fn of(namespace: &cluster::Namespace, symbols: &Interner) -> Self {
        Namespace { name: namespace.name.to_string(), labels: namespace.labels.to_text(symbols) }
    }

    /// The API object.
    pub fn to_api(&self) -> core::Namespace {
        let (name, labels) = (Some(self.name.clone()), Some(self.labels.clone()));
        core::Namespace { metadata: ObjectMeta { name, labels, ..ObjectMeta::default() }, ..core::Namespace::default() }
    }
}

impl Node {
    /// The node as the cluster holds it.
    pub fn of(node: &cluster::Node) -> Self {
        Node { name: node.name.to_string(), addresses: node.addresses.iter().map(ToString::to_string).collect() }
    }

    /// The API object.
    pub fn to_api(&self) -> core::Node {
        let address = |address: &String| core::NodeAddress { address: address.clone(), type_: "InternalIP".to_owned() };
        let addresses = Some(self.addresses.iter().map(address).collect());
        core::Node {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            status: Some(core::NodeStatus { addresses, ..core::NodeStatus::default() }),
            ..core::Node::default()
        }
    }
}

impl Port {
    fn of(port: &cluster::ContainerPort) -> Self {
        let protocol = match port.protocol {
            Protocol::UDP => "UDP",
            Protocol::SCTP => "SCTP",
            _ => "TCP",
        };
        let name = port.name.as_deref().unwrap_or_default().to_owned();
        Port { name, protocol: protocol.to_owned(), number: port.port.into() }
    }

    fn to_api(&self) -> core::ContainerPort {
        core::ContainerPort {
            name: Some(self.name.clone()).filter(|name| !name.is_empty()),
            protocol: Some(self.protocol.clone()),
            container_port: self.number,
            ..core::ContainerPort::default()
        }
    }
}

impl Pod {
    /// The pod as the cluster holds it.
    pub fn of(pod: &cluster::Pod, symbols: &Interner) -> Self {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
        Pod {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
            uid: text(&pod.uid),
            created: pod.created.clone(),
            labels: pod.labels.to_text(symbols),
            addresses: pod.told_addresses().iter().map(ToString::to_string).collect(),
            ports: pod.ports.iter().map(Port::of).collect(),
            node: text(&pod.node),
            host_network: pod.host_network,
            pending: pod.phase == cluster::Phase::Pending,
            terminating: pod.terminating,
        }
    }

    /// The API object.
    pub fn to_api(&self) -> core::Pod {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let ports = Some(self.ports.iter().map(Port::to_api).collect());
        let addresses = self.addresses.iter().map(|ip| core::PodIP { ip: ip.clone() }).collect();
        core::Pod {
            metadata: ObjectMeta {
                name: some(&self.name),
                namespace: some(&self.namespace),
                uid: some(&self.uid),
                creation_timestamp: self.created.clone(),
                // When does not matter, and is not kept.
                deletion_timestamp: self.terminating.then(|| Time(Default::default())),
                labels: Some(self.labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(core::PodSpec {
                containers: vec![core::Container { ports, ..core::Container::default() }],
                node_name: some(&self.node),
                host_network: Some(self.host_network),
                ..core::PodSpec::default()
            }),
            status: Some(core::PodStatus {
                phase: Some(if self.pending { "Pending" } else { "Running" }.to_owned()),
                pod_ips: Some(addresses),
                ..core::PodStatus::default()
            }),
        }
    }
}
