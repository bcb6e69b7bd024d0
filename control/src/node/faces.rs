//! The two faces of a connection that kube-proxy rewrote: the address that the pod's wire sees, and whom that stands for.

use std::net::IpAddr;

use dataplane::address::Address;
use dataplane::packet::{Direction, Tuple};

use super::core::Core;
use crate::observe::drops::{Behind, peer_of};
use crate::policy::cluster::Cluster;

/// The most endpoints of a Service that are named.
const ENDPOINTS: usize = 8;

/// An address with whose it is: `10.244.1.5 (web/client)`.
fn named(core: &Core, address: IpAddr) -> String {
    let owner = core.owner(address).text();
    if owner.is_empty() { address.to_string() } else { format!("{address} ({owner})") }
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
                let (address, port) = (peer_of(direction, tuple), tuple.destination_port);
                let services = cluster.services_at(address, tuple.protocol, port);
                if services.is_empty() {
                    return None;
                }
                let names = services.iter().map(|(service, _)| service.object_name().to_string());
                let endpoints = match judged_as {
                    Some((address, port)) => vec![format!("{}:{port}", named(self, address))],
                    None => self.endpoints(cluster, address, tuple),
                };
                Some(Behind { services: names.collect(), endpoints, ..Behind::default() })
            }
        }
    }

    /// The endpoints of the Services at an address, the first few by name.
    fn endpoints(&self, cluster: &Cluster, address: IpAddr, tuple: &Tuple) -> Vec<String> {
        let services = cluster.services_at(address, tuple.protocol, tuple.destination_port);
        let all = services.iter().flat_map(|(service, port)| cluster.backends(service, port, address.is_ipv6()));
        let mut named: Vec<String> =
            all.map(|backend| format!("{}:{}", named(self, backend.address.into()), backend.port)).collect();
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
