//! What is behind a Service that somebody asks about: a question for each of its endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::{Cluster, ObjectName, Service as ClusterService};
use super::probe::{Probe, ProbeError, Service, Target, Via};

/// A Service's port, and a question for each endpoint that it leads to.
#[derive(Clone, Debug)]
pub struct Behind {
    /// The Service.
    pub service: ObjectName,
    /// Where it is reached.
    pub address: IpAddr,
    /// At which port.
    pub port: u16,
    /// The questions, in the order of the endpoints' addresses.
    pub endpoints: Vec<Probe>,
    /// By which node, if a NodePort was asked about.
    pub by_node: Option<ByNode>,
}

/// The node at whose address a NodePort is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByNode {
    /// Its name.
    pub node: Arc<str>,
    /// Whether the Service has `externalTrafficPolicy: Local`.
    pub is_local: bool,
}

/// What is behind the end that is asked about, if that is a Service: its name with [`Via::Service`], or one of its addresses.
///
/// # Errors
/// When there is no such Service, port or endpoint.
pub fn behind(cluster: &Cluster, probe: &Probe) -> Result<Option<Behind>, ProbeError> {
    let Service { protocol, port: number } = probe.service;
    let v6 = probe.sources(cluster)?.first().is_some_and(|source| source.is_ipv6());
    let found = match (&probe.to, probe.via) {
        (Target::Address(address), via) => {
            let found = cluster.services_at(*address, protocol, number).into_iter().next();
            if found.is_none() && via == Some(Via::Service) {
                return Err(ProbeError::UnknownService(probe.to.clone(), probe.service));
            }
            found.map(|(service, port)| (service, port, *address))
        }
        (Target::Pod(name), Some(Via::Service)) => {
            let unknown = || ProbeError::UnknownService(probe.to.clone(), probe.service);
            let service = cluster.service(name).ok_or_else(unknown)?;
            let port = service.ports.iter().find(|port| port.protocol == protocol && port.port == number);
            let address = address_of(service, v6).ok_or_else(unknown)?;
            Some((service, port.ok_or_else(unknown)?, address))
        }
        (Target::Pod(_), _) => None,
    };
    let Some((service, port, address)) = found else { return Ok(None) };
    let question = |backend: dataplane::frontend::Backend| Probe {
        from: probe.from.clone(),
        to: Target::Address(backend.address.into()),
        service: Service { protocol, port: backend.port },
        via: None,
    };
    let endpoints: Vec<Probe> = cluster.backends(service, port, address.is_ipv6()).into_iter().map(question).collect();
    let node = cluster.node_at(address).filter(|_| port.node_port == number);
    let by_node = node.map(|node| ByNode { node: Arc::clone(&node.name), is_local: service.local });
    let service = service.object_name();
    match endpoints.is_empty() {
        true => Err(ProbeError::NoEndpoints(service, probe.service)),
        false => Ok(Some(Behind { service, address, port: number, endpoints, by_node })),
    }
}

/// An address of a Service of this family.
fn address_of(service: &ClusterService, v6: bool) -> Option<IpAddr> {
    let mut addresses = service.cluster.iter().chain(&service.external).copied();
    addresses.find(|address| address.is_ipv6() == v6)
}
