//! Services and the endpoints behind them: what a packet to a Service's address stands for.
//!
//! kube-proxy rewrites such a packet on the node's side of the pod's wire, so that the wire sees the Service. A Service is known here as its
//! *frontends* (an address, or every node, with a port), each with its *backends* (an endpoint's address and target port).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::frontend::{Backend, Frontend, Place};
use dataplane::packet::Protocol;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::objects::read_protocol;
use super::{Cluster, ObjectName, Touched};

/// The label by which a slice says whose endpoints it holds.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service, as far as traffic to it goes. Headless ones and names of other hosts have no frontends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its virtual addresses (`clusterIPs`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster: Vec<IpAddr>,
    /// Further ones that nodes take for it: `externalIPs` and those of a load balancer (`status.loadBalancer.ingress`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<IpAddr>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Whether what comes from outside stays on the node that it comes to, and keeps its source (`externalTrafficPolicy: Local`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty for the only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// The port of every node that leads to it; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub node_port: u16,
}

fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// Some endpoints of a Service: an EndpointSlice, or all of them where the server has Endpoints only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whose endpoints.
    pub service: String,
    /// Endpoints that have ports in common.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
}

/// Endpoints that have their ports in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// The ports, by the names of those of the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<TargetPort>,
    /// The endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPort {
    /// The name of the Service's port; empty for the only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is to get new connections.
    pub ready: bool,
    /// Whether it still answers: it does while it ends in order.
    pub serving: bool,
}

/// Texts of addresses; others are nobody's.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|&port| port != 0)
}

impl Service {
    /// What the object says. What is no address or port stands for nothing.
    pub fn read(object: &core::Service) -> Service {
        let (no_spec, no_status) = Default::default();
        let (spec, status) = (object.spec.as_ref().unwrap_or(&no_spec), object.status.as_ref().unwrap_or(&no_status));
        let listed = spec.cluster_ips.iter().flatten();
        let cluster = if spec.type_.as_deref() == Some("ExternalName") {
            Vec::new()
        } else {
            // A headless one says "None".
            addresses(spec.cluster_ip.iter().chain(listed))
        };
        let balanced = status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let external = spec.external_ips.iter().flatten().chain(balanced.filter_map(|ingress| ingress.ip.as_ref()));
        let ports = spec.ports.iter().flatten().filter_map(|listed| {
            Some(ServicePort {
                name: listed.name.clone().unwrap_or_default(),
                protocol: read_protocol(listed.protocol.as_deref())?,
                port: port(listed.port)?,
                node_port: listed.node_port.and_then(port).unwrap_or(0),
            })
        });
        let text = |text: &Option<String>, absent: &str| text.clone().unwrap_or_else(|| absent.to_owned());
        Service {
            namespace: text(&object.metadata.namespace, "default"),
            name: text(&object.metadata.name, ""),
            cluster,
            external: addresses(external),
            ports: ports.collect(),
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
        }
    }

    /// The API object, as far as it is kept.
    pub fn to_api(&self) -> core::Service {
        let text = |address: &IpAddr| address.to_string();
        let ports = self.ports.iter().map(|port| core::ServicePort {
            name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            protocol: Some(port.protocol.to_string()),
            port: port.port.into(),
            node_port: Some(port.node_port.into()).filter(|&port| port != 0),
            ..core::ServicePort::default()
        });
        let policy = if self.local { "Local" } else { "Cluster" };
        let spec = core::ServiceSpec {
            cluster_ip: Some(self.cluster.first().map_or_else(|| "None".to_owned(), text)),
            cluster_ips: Some(self.cluster.iter().map(text).collect()),
            external_ips: Some(self.external.iter().map(text).collect()),
            external_traffic_policy: Some(policy.to_owned()),
            ports: Some(ports.collect()),
            ..core::ServiceSpec::default()
        };
        core::Service { metadata: metadata(&self.namespace, &self.name), spec: Some(spec), status: None }
    }

    /// Its name.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }

    /// Where it is reached, each with the port of the Service.
    pub fn frontends(&self) -> impl Iterator<Item = (Frontend, &ServicePort)> {
        self.ports.iter().flat_map(move |port| {
            let protocol = port.protocol;
            let addresses = self.cluster.iter().chain(&self.external);
            let virtual_ = addresses.map(move |&address| Frontend {
                place: Place::Address(address.into()),
                protocol,
                port: port.port,
            });
            let families = [false, true].into_iter().filter(move |_| port.node_port != 0);
            let nodes = families.map(move |v6| Frontend { place: Place::Hosts { v6 }, protocol, port: port.node_port });
            virtual_.chain(nodes).map(move |frontend| (frontend, port))
        })
    }
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

impl EndpointSlice {
    /// Endpoints, as the API states them, since a slice has one list of ports for all.
    pub fn to_api(&self) -> core::Endpoints {
        let subset = |subset: &Subset| {
            let ports = subset.ports.iter().map(|port| core::EndpointPort {
                name: Some(port.name.clone()).filter(|name| !name.is_empty()),
                protocol: Some(port.protocol.to_string()),
                port: port.port.into(),
                ..core::EndpointPort::default()
            });
            let listed = |ready| {
                let is_meant = move |endpoint: &&Endpoint| endpoint.ready == ready;
                let address = |endpoint: &Endpoint| core::EndpointAddress {
                    ip: endpoint.address.to_string(),
                    ..core::EndpointAddress::default()
                };
                Some(subset.endpoints.iter().filter(is_meant).map(address).collect())
            };
            core::EndpointSubset {
                ports: Some(ports.collect()),
                addresses: listed(true),
                not_ready_addresses: listed(false),
            }
        };
        let labels = Some(BTreeMap::from([(SERVICE_NAME.to_owned(), self.service.clone())]));
        core::Endpoints {
            metadata: ObjectMeta { labels, ..metadata(&self.namespace, &self.name) },
            subsets: Some(self.subsets.iter().map(subset).collect()),
        }
    }

    /// What an EndpointSlice says; of an address type that is none (FQDN), nothing.
    pub fn read(object: &discovery::EndpointSlice) -> EndpointSlice {
        let ports = object.ports.iter().flatten().filter_map(|listed| {
            Some(TargetPort {
                name: listed.name.clone().unwrap_or_default(),
                protocol: read_protocol(listed.protocol.as_deref())?,
                port: listed.port.and_then(port)?,
            })
        });
        let endpoints = object.endpoints.iter().flat_map(|listed| {
            let conditions = listed.conditions.clone().unwrap_or_default();
            // What is not said is so.
            let (ready, serving) = (conditions.ready.unwrap_or(true), conditions.serving);
            let endpoint = move |address| Endpoint { address, ready, serving: serving.unwrap_or(ready) };
            addresses(&listed.addresses).into_iter().map(endpoint)
        });
        let subset = Subset { ports: ports.collect(), endpoints: endpoints.collect() };
        let labels = object.metadata.labels.as_ref();
        EndpointSlice {
            namespace: object.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: object.metadata.name.clone().unwrap_or_default(),
            service: labels.and_then(|labels| labels.get(SERVICE_NAME)).cloned().unwrap_or_default(),
            subsets: vec![subset],
        }
    }

    /// What Endpoints say. They have the name of their Service, unless they are those of [`EndpointSlice::to_api`].
    pub fn read_endpoints(object: &core::Endpoints) -> EndpointSlice {
        let subset = |subset: &core::EndpointSubset| {
            let ports = subset.ports.iter().flatten().filter_map(|listed| {
                Some(TargetPort {
                    name: listed.name.clone().unwrap_or_default(),
                    protocol: read_protocol(listed.protocol.as_deref())?,
                    port: port(listed.port)?,
                })
            });
            let listed = |listed: &Option<Vec<core::EndpointAddress>>, ready| {
                let texts: Vec<String> = listed.iter().flatten().map(|address| address.ip.clone()).collect();
                addresses(&texts).into_iter().map(move |address| Endpoint { address, ready, serving: ready })
            };
            let endpoints = listed(&subset.addresses, true).chain(listed(&subset.not_ready_addresses, false));
            Subset { ports: ports.collect(), endpoints: endpoints.collect() }
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let service = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        EndpointSlice {
            namespace: object.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            service: service.unwrap_or(&name).clone(),
            name,
            subsets: object.subsets.iter().flatten().map(subset).collect(),
        }
    }

    /// Its name.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }

    /// The name of its Service.
    pub fn service_name(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.service)
    }
}

/// All Services and endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    services: BTreeMap<ObjectName, Arc<Service>>,
    slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// The slices of a Service.
    of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
}

impl Services {
    /// Services that are not the same in both, or not their endpoints.
    pub(super) fn changed_since(&self, before: &Services) -> Vec<ObjectName> {
        let mut changed = BTreeSet::new();
        let names = before.services.keys().chain(self.services.keys());
        changed.extend(names.filter(|name| before.services.get(*name) != self.services.get(*name)).cloned());
        for name in before.slices.keys().chain(self.slices.keys()) {
            let both = [before.slices.get(name), self.slices.get(name)];
            if both[0] != both[1] {
                changed.extend(both.into_iter().flatten().map(|slice| slice.service_name()));
            }
        }
        changed.into_iter().collect()
    }
}

impl Cluster {
    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.services.values().map(|service| &**service)
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.services.get(name).map(|service| &**service)
    }

    /// All slices of endpoints, by name.
    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.services.slices.values().map(|slice| &**slice)
    }

    /// A slice of endpoints.
    pub fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        self.services.slices.get(name).map(|slice| &**slice)
    }

    /// Adds or replaces a Service.
    pub fn apply_service(&mut self, service: Service) -> Touched {
        let name = service.object_name();
        self.services.services.insert(name.clone(), Arc::new(service));
        Touched { services: vec![name], ..Touched::default() }
    }

    /// Removes a Service.
    pub fn remove_service(&mut self, name: &ObjectName) -> Touched {
        let services = self.services.services.remove(name).map(|_| name.clone()).into_iter().collect();
        Touched { services, ..Touched::default() }
    }

    /// Adds or replaces endpoints.
    pub fn apply_slice(&mut self, slice: EndpointSlice) -> Touched {
        let name = slice.object_name();
        let mut touched = self.remove_slice(&name);
        let service = slice.service_name();
        self.services.of.entry(service.clone()).or_default().insert(name.clone());
        self.services.slices.insert(name, Arc::new(slice));
        if !touched.services.contains(&service) {
            touched.services.push(service);
        }
        touched
    }

    /// Removes endpoints.
    pub fn remove_slice(&mut self, name: &ObjectName) -> Touched {
        let Some(slice) = self.services.slices.remove(name) else { return Touched::default() };
        let service = slice.service_name();
        if let Some(slices) = self.services.of.get_mut(&service) {
            slices.remove(name);
            if slices.is_empty() {
                self.services.of.remove(&service);
            }
        }
        Touched { services: vec![service], ..Touched::default() }
    }

    /// Whom connections to a port of a Service reach, over IPv6 or IPv4: endpoints that are ready, or those that still serve where none is.
    /// Sorted, each once.
    pub fn backends(&self, service: &Service, port: &ServicePort, v6: bool) -> Vec<Backend> {
        let slices = self.services.of.get(&service.object_name()).into_iter().flatten();
        let subsets = slices.filter_map(|name| self.services.slices.get(name)).flat_map(|slice| &slice.subsets);
        let (mut ready, mut serving) = (Vec::new(), Vec::new());
        for subset in subsets {
            let is_meant = |target: &&TargetPort| target.protocol == port.protocol && target.name == port.name;
            for target in subset.ports.iter().filter(is_meant) {
                for endpoint in subset.endpoints.iter().filter(|endpoint| endpoint.address.is_ipv6() == v6) {
                    let backend = Backend { address: Address::from(endpoint.address), port: target.port };
                    if endpoint.ready {
                        ready.push(backend);
                    } else if endpoint.serving {
                        serving.push(backend);
                    }
                }
            }
        }
        let mut backends = if ready.is_empty() { serving } else { ready };
        backends.sort_unstable();
        backends.dedup();
        backends
    }

    /// Where a Service is reached, each with its backends.
    pub fn frontends_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (Frontend, Vec<Backend>)> + 'a {
        service.frontends().map(move |(frontend, port)| {
            let v6 = match frontend.place {
                Place::Address(address) => !address.is_v4(),
                Place::Hosts { v6 } => v6,
            };
            (frontend, self.backends(service, port, v6))
        })
    }

    /// The Services that are reached at an address and port, each with the port of it that is meant.
    pub fn services_at(&self, address: IpAddr, protocol: Protocol, number: u16) -> Vec<(&Service, &ServicePort)> {
        let is_node = self.node_at(address).is_some();
        let meant = |service: &Service, port: &ServicePort| {
            let at_address =
                port.port == number && service.cluster.iter().chain(&service.external).any(|&at| at == address);
            port.protocol == protocol && (at_address || (is_node && port.node_port == number))
        };
        let all = self.services().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        all.filter(|(service, port)| meant(service, port)).collect()
    }
}

#[cfg(test)]
mod tests;
