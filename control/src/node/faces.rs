//! The two faces of a connection that kube-proxy rewrote: the address that the pod's wire sees, and whom that stands for.

use std::net::{IpAddr, SocketAddr};

use dataplane::address::Address;
use dataplane::frontend::{Frontend, Place};
use dataplane::packet::{Direction, Tuple};

use super::core::Core;
use crate::observe::drops::{Behind, peer_of};
use crate::policy::cluster::{Cluster, ObjectName, ServicePort};

/// The most endpoints of a Service that are named.
const ENDPOINTS: usize = 8;

/// An endpoint with whose it is: `10.244.1.5:80 (web/backend)`.
fn named(core: &Core, address: IpAddr, port: u16) -> String {
    let (place, owner) = (SocketAddr::new(address, port), core.owner(address).text());
    if owner.is_empty() { place.to_string() } else { format!("{place} ({owner})") }
}

impl Core {
    /// Who is behind the far end of what crosses a pod's wire in this direction; `judged_as` is what the engine was told of it.
    pub(super) fn behind(
        &self,
        direction: Direction,
        tuple: &Tuple,
        judged_as: Option<(Address, u16)>,
    ) -> Option<Behind> {
        let cluster = self.cluster()?;
        let judged_as = judged_as.map(|(address, port)| (IpAddr::from(address), port));
        match direction {
            Direction::Ingress => {
                let (client, _) = judged_as.filter(|(client, _)| *client != peer_of(direction, tuple))?;
                Some(Behind { rewritten_from: Some(client), owner: self.owner(client), ..Behind::default() })
            }
            Direction::Egress => {
                let names = self.services_at(tuple);
                if names.is_empty() {
                    return None;
                }
                let endpoints = match judged_as {
                    Some((address, port)) => vec![named(self, address, port)],
                    None => self.endpoints(cluster, &names, tuple),
                };
                let services = names.iter().map(ToString::to_string).collect();
                Some(Behind { services, endpoints, ..Behind::default() })
            }
        }
    }

    /// The Services at a packet's destination. Not looked for among all of them: there may be many flows.
    fn services_at(&self, tuple: &Tuple) -> Vec<ObjectName> {
        let frontend = |place| Frontend { place, protocol: tuple.protocol, port: tuple.destination_port };
        let at = |place| self.live.services(&frontend(place)).cloned().collect::<Vec<_>>();
        let found = at(Place::Address(tuple.destination));
        let is_node = || self.cluster().is_some_and(|cluster| cluster.node_at(tuple.destination.into()).is_some());
        if found.is_empty() && is_node() { at(Place::Hosts { v6: !tuple.destination.is_v4() }) } else { found }
    }

    /// The endpoints of these Services behind a packet's destination, the first few by name.
    fn endpoints(&self, cluster: &Cluster, services: &[ObjectName], tuple: &Tuple) -> Vec<String> {
        let (v6, services) = (!tuple.destination.is_v4(), services.iter().filter_map(|name| cluster.service(name)));
        let is_meant = |port: &&ServicePort| {
            port.protocol == tuple.protocol && [port.port, port.node_port].contains(&tuple.destination_port)
        };
        let ports = services.flat_map(|service| service.ports.iter().filter(is_meant).map(move |port| (service, port)));
        let all = ports.flat_map(|(service, port)| cluster.backends(service, port, v6));
        let mut named: Vec<String> = all.map(|backend| named(self, backend.address.into(), backend.port)).collect();
        named.sort_unstable();
        named.dedup();
        let more = named.len().saturating_sub(ENDPOINTS);
        named.truncate(ENDPOINTS);
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        named
    }
}
