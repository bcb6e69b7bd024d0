//! Objects as the API server sends them, with the fields that are read. Whatever else an object holds (environment, volumes,
//! managed fields, conditions) is skipped while it is parsed and takes no memory.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::lean::{self, Change, Kind, Object, usual_address};
use crate::policy::cluster;

/// A kind that can be listed and watched.
pub(super) trait Watched: DeserializeOwned + Clone + Debug + Send + Sync + 'static {
    /// Which.
    const KIND: Kind;
    /// The version of the object, from which a watch can go on.
    fn version(&self) -> &str;
    /// What it means that the object is there.
    fn into_change(self) -> Change;
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<K> {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    /// The server writes `null` for none, at times.
    #[serde(default = "Option::default")]
    pub(super) items: Option<Vec<K>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<IgnoredAny>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    /// Of the mirror of a static pod: the UID by which the kubelet, and so the runtime, knows that pod.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Namespace {
    metadata: Metadata,
}

impl Watched for Namespace {
    const KIND: Kind = Kind::Namespace;

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn into_change(self) -> Change {
        let mut labels = self.metadata.labels.unwrap_or_default();
        // A server below 1.21 does not set it; in the cluster's state every namespace has it.
        labels.insert("kubernetes.io/metadata.name".to_owned(), self.metadata.name.clone());
        Change::Apply(Object::Namespace(lean::Namespace { name: self.metadata.name, labels }))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    metadata: Metadata,
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Watched for Node {
    const KIND: Kind = Kind::Node;

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn into_change(self) -> Change {
        let listed = self.status.addresses.into_iter().flatten();
        let ip = listed.filter(|entry| matches!(entry.kind.as_str(), "InternalIP" | "ExternalIP"));
        let addresses = once(ip.map(|entry| usual_address(&entry.address)));
        Change::Apply(Object::Node(lean::Node { name: self.metadata.name, addresses }))
    }
}

/// Without repetitions, in order.
fn once(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for text in texts {
        if !list.contains(&text) {
            list.push(text);
        }
    }
    list
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl PodSpec {
    /// The ports of containers, and of init containers that stay (native sidecars).
    fn take_ports(&mut self) -> Vec<lean::Port> {
        let sidecars = self.init_containers.take().into_iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = self.containers.take().into_iter().flatten().chain(sidecars);
        let ports = containers.flat_map(|container| container.ports.unwrap_or_default());
        ports
            .map(|port| lean::Port {
                name: port.name.unwrap_or_default(),
                protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
                number: port.container_port,
            })
            .collect()
    }
}

impl PodStatus {
    fn take_addresses(&mut self) -> Vec<String> {
        let mut addresses = once(self.pod_ips.take().into_iter().flatten().map(|entry| usual_address(&entry.ip)));
        if addresses.is_empty() {
            addresses.extend(self.pod_ip.take().filter(|ip| !ip.is_empty()).map(|ip| usual_address(&ip)));
        }
        addresses
    }
}

impl Watched for Pod {
    const KIND: Kind = Kind::Pod;

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn into_change(mut self) -> Change {
        let phase = self.status.phase.take().unwrap_or_default();
        let finished = matches!(phase.as_str(), "Succeeded" | "Failed");
        let addresses = self.status.take_addresses();
        let host_network = self.spec.host_network.unwrap_or(false);
        let pod = lean::Pod {
            name: self.metadata.name,
            namespace: self.metadata.namespace,
            uid: self.metadata.annotations.and_then(|annotations| annotations.mirror).unwrap_or(self.metadata.uid),
            created: self.metadata.creation_timestamp,
            labels: self.metadata.labels.unwrap_or_default(),
            ports: self.spec.take_ports(),
            node: self.spec.node_name.take().unwrap_or_default(),
            host_network,
            // A running pod whose sandbox is made anew has no address for a moment. A phase that is not known yet is one of a
            // pod that lives.
            pending: phase == "Pending" || (addresses.is_empty() && !host_network),
            terminating: self.metadata.deletion_timestamp.is_some(),
            addresses,
        };
        let object = Object::Pod(pod);
        // It owns nothing any more, and is no peer of anybody.
        if finished { Change::Remove(object.key()) } else { Change::Apply(object) }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkPolicy {
    metadata: PolicyMetadata,
    spec: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PolicyMetadata {
    name: String,
    namespace: String,
    resource_version: String,
    annotations: Option<PolicyAnnotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PolicyAnnotations {
    /// What `kubectl apply` was given.
    #[serde(rename = "kubectl.kubernetes.io/last-applied-configuration")]
    applied: Option<String>,
}

impl Watched for NetworkPolicy {
    const KIND: Kind = Kind::NetworkPolicy;

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn into_change(self) -> Change {
        let applied = self.metadata.annotations.and_then(|annotations| annotations.applied);
        let pruned = applied.map_or_else(Vec::new, |applied| super::server::pruned_fields(&applied, &self.spec));
        Change::Apply(Object::NetworkPolicy(lean::NetworkPolicy {
            name: self.metadata.name,
            namespace: self.metadata.namespace,
            spec: if self.spec.is_null() { "{}".to_owned() } else { self.spec.to_string() },
            pruned,
        }))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Service(core::Service);

impl Watched for Service {
    const KIND: Kind = Kind::Service;

    fn version(&self) -> &str {
        self.0.metadata.resource_version.as_deref().unwrap_or_default()
    }

    fn into_change(self) -> Change {
        Change::Apply(Object::Service(cluster::Service::read(&self.0)))
    }
}

/// An EndpointSlice, or Endpoints where the server has those only.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    metadata: ObjectMeta,
    /// Only slices have it.
    address_type: Option<String>,
    endpoints: Option<Vec<discovery::Endpoint>>,
    ports: Option<Vec<discovery::EndpointPort>>,
    subsets: Option<Vec<core::EndpointSubset>>,
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }

    fn into_change(self) -> Change {
        let EndpointSlice { metadata, address_type, endpoints, ports, subsets } = self;
        let slice = match address_type {
            Some(address_type) => cluster::EndpointSlice::read(&discovery::EndpointSlice {
                metadata,
                address_type,
                endpoints: endpoints.unwrap_or_default(),
                ports,
            }),
            None => cluster::EndpointSlice::read_endpoints(&core::Endpoints { metadata, subsets }),
        };
        Change::Apply(Object::EndpointSlice(slice))
    }
}
