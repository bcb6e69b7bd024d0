//! Namespaces, pods and nodes as policy sees them, read from API objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::Protocol;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::labels::{Interner, Labels};
use super::super::validation::FieldError;
use super::ObjectName;

/// The label that every namespace carries: its own name.
pub(in crate::policy) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels, its name among them.
    pub labels: Labels,
    /// Whether an object says so; otherwise other objects only speak of it.
    pub declared: bool,
}

impl Namespace {
    pub(super) fn new(
        name: Arc<str>,
        mut labels: BTreeMap<String, String>,
        declared: bool,
        symbols: &mut Interner,
    ) -> Self {
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_string());
        Namespace { labels: Labels::intern(&labels, symbols), name, declared }
    }
}

/// How far a pod's life has come (`status.phase`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started: it may have no address yet.
    Pending,
    /// Running, or of a phase that nobody stated.
    Running,
    /// Succeeded or Failed: all containers have ended, and the addresses may belong to others by now.
    Finished,
}

/// A port that a container says it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// Its name, for policies that name ports.
    pub name: Option<Arc<str>>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Its number, 1–65535.
    pub port: u16,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Which pod of that name it is, where known.
    pub uid: Option<Arc<str>>,
    /// When it was made, where known.
    pub created: Option<Time>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, in order, whether it still owns them or not ([`super::Cluster::addresses_of`]): those of its status, then those
    /// that only its node knows of so far ([`super::Cluster::assign`]).
    pub addresses: Vec<IpAddr>,
    /// How many of them its status tells.
    pub told: u8,
    /// The ports of its containers and native sidecars.
    pub ports: Arc<[ContainerPort]>,
    /// The node that it runs on, where known.
    pub node: Option<Arc<str>>,
    /// Whether it shares its node's network: it has no wire, and its node's addresses stand for it.
    pub host_network: bool,
    /// How far its life has come.
    pub phase: Phase,
    /// Whether it has been asked to end. It keeps its identity until it is gone.
    pub terminating: bool,
}

impl Pod {
    /// Whether the pod has a network of its own that a wire can lead to: not finished, not on its node's network.
    pub fn has_wire(&self) -> bool {
        self.phase != Phase::Finished && !self.host_network
    }

    /// The port numbers that a port name means on this pod, sorted. Name and protocol must both match.
    pub fn named_ports(&self, name: &str, protocol: Protocol) -> Vec<u16> {
        let matching = self.ports.iter().filter(|port| port.protocol == protocol && port.name.as_deref() == Some(name));
        let mut numbers: Vec<_> = matching.map(|port| port.port).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The addresses that its status tells.
    pub fn told_addresses(&self) -> &[IpAddr] {
        &self.addresses[..usize::from(self.told).min(self.addresses.len())]
    }

    /// Has these addresses beside those of its status, and no others.
    pub(super) fn assign(&mut self, addresses: &[IpAddr]) {
        self.addresses.truncate(usize::from(self.told));
        for address in addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        self.addresses.shrink_to_fit();
    }

    /// The addresses that the pod would own if nobody newer claimed them.
    pub(super) fn claimed_addresses(&self) -> &[IpAddr] {
        if self.has_wire() { &self.addresses } else { &[] }
    }

    /// Orders pods by age, the newest last.
    pub(super) fn age_order(&self) -> (Option<&Time>, Option<&Arc<str>>, &ObjectName) {
        (self.created.as_ref(), self.uid.as_ref(), &self.name)
    }

    pub(super) fn read(object: &core::Pod, symbols: &mut Interner) -> Result<Self, Vec<FieldError>> {
        let metadata = &object.metadata;
        let (no_spec, no_status) = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&no_spec);
        let status = object.status.as_ref().unwrap_or(&no_status);
        let mut errors = Vec::new();
        let host_network = spec.host_network.unwrap_or(false);
        let phase = match status.phase.as_deref() {
            None | Some("" | "Running" | "Unknown") => Phase::Running,
            Some("Pending") => Phase::Pending,
            Some("Succeeded" | "Failed") => Phase::Finished,
            Some(other) => {
                errors.push(FieldError::not_supported("status.phase", other, PHASES));
                Phase::Running
            }
        };
        let addresses = read_addresses(status, &mut errors);
        if addresses.is_empty() && errors.is_empty() && phase == Phase::Running && !host_network {
            errors.push(
                FieldError::required("status.podIPs", "a running pod has an address")
                    .with_hint("add the pod's addresses, or set status.phase to Pending".to_owned()),
            );
        }
        let ports = read_ports(spec, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Pod {
            name: ObjectName::new(
                metadata.namespace.as_deref().unwrap_or("default"),
                metadata.name.as_deref().unwrap_or_default(),
            ),
            uid: metadata.uid.as_deref().map(Arc::from),
            created: metadata.creation_timestamp.clone(),
            labels: Labels::intern(metadata.labels.as_ref().unwrap_or(&BTreeMap::new()), symbols),
            // One a family is the most.
            told: u8::try_from(addresses.len()).unwrap_or(u8::MAX),
            addresses,
            ports: ports.into(),
            node: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
            host_network,
            phase,
            terminating: metadata.deletion_timestamp.is_some(),
        })
    }
}

const PHASES: &[&str] = &["Failed", "Pending", "Running", "Succeeded", "Unknown"];

/// The addresses of `status.podIPs`, or of `status.podIP` alone where the list is absent.
fn read_addresses(status: &core::PodStatus, errors: &mut Vec<FieldError>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut add = |text: &str, field: String| match parse_address(text) {
        Ok(address) if addresses.contains(&address) => {}
        Ok(address) => addresses.push(address),
        Err(reason) => errors.push(FieldError::invalid(field, text, reason)),
    };
    for (index, entry) in status.pod_ips.iter().flatten().enumerate() {
        add(&entry.ip, format!("status.podIPs[{index}].ip"));
    }
    if let Some(text) = status.pod_ip.as_deref().filter(|text| !text.is_empty())
        && status.pod_ips.as_ref().is_none_or(Vec::is_empty)
    {
        add(text, "status.podIP".to_owned());
    }
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    let of_family = |v4: bool| addresses.iter().filter(|address| address.is_ipv4() == v4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        let listed: Vec<_> = listed.iter().map(|entry| entry.ip.as_str()).collect();
        let reason = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid("status.podIPs", &listed.join(", "), reason));
    }
    addresses.shrink_to_fit();
    addresses
}

/// An address that a pod or a node can have.
fn parse_address(text: &str) -> Result<IpAddr, &'static str> {
    let address: IpAddr = text.parse().map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err("must not be an IPv4-mapped IPv6 address"),
        address if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
            Err("must be the address of one host, not a loopback, unspecified or multicast address")
        }
        address => Ok(address),
    }
}

/// The ports of containers, and of init containers that stay (native sidecars: `restartPolicy: Always`).
fn read_ports(spec: &core::PodSpec, errors: &mut Vec<FieldError>) -> Vec<ContainerPort> {
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars = sidecars
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
        .map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    let containers =
        spec.containers.iter().enumerate().map(|(index, container)| (format!("spec.containers[{index}]"), container));
    let mut ports = Vec::new();
    for (container_field, container) in containers.chain(sidecars) {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let field = format!("{container_field}.ports[{index}]");
            match (u16::try_from(port.container_port), read_protocol(port.protocol.as_deref())) {
                (Ok(number @ 1..), Some(protocol)) => ports.push(ContainerPort {
                    name: port.name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
                    protocol,
                    port: number,
                }),
                (Ok(1..), None) => errors.push(FieldError::not_supported(
                    format!("{field}.protocol"),
                    port.protocol.as_deref().unwrap_or_default(),
                    &["SCTP", "TCP", "UDP"],
                )),
                _ => errors.push(FieldError::invalid_value(
                    format!("{field}.containerPort"),
                    port.container_port,
                    "must be between 1 and 65535, inclusive",
                )),
            }
        }
    }
    ports
}

/// A protocol that Kubernetes names; TCP where none is named.
pub(super) fn read_protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::TCP),
        Some("UDP") => Some(Protocol::UDP),
        Some("SCTP") => Some(Protocol::SCTP),
        Some(_) => None,
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// The addresses that its object lists, internal and external.
    pub addresses: Vec<IpAddr>,
    /// Those, and further ones that it is known to have ([`super::Cluster::node_has`]).
    pub all_addresses: Vec<IpAddr>,
}

impl Node {
    /// With further addresses beside those that its object lists.
    pub(super) fn with(mut self, further: &[IpAddr]) -> Self {
        self.all_addresses.clone_from(&self.addresses);
        self.all_addresses.extend(further.iter().filter(|address| !self.addresses.contains(address)));
        self
    }

    pub(super) fn read(object: &core::Node) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut addresses = Vec::new();
        let listed = object.status.iter().filter_map(|status| status.addresses.as_ref()).flatten();
        for (index, entry) in listed.enumerate() {
            if !matches!(entry.type_.as_str(), "InternalIP" | "ExternalIP") {
                continue;
            }
            match parse_address(&entry.address) {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(reason) => {
                    let field = format!("status.addresses[{index}].address");
                    errors.push(FieldError::invalid(field, &entry.address, reason));
                }
            }
        }
        let name = object.metadata.name.as_deref().unwrap_or_default().into();
        if errors.is_empty() { Ok(Node { name, all_addresses: addresses.clone(), addresses }) } else { Err(errors) }
    }
}
