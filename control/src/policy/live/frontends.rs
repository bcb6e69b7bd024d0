//! Which frontends the engine was told of, and whose they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::frontend::{Backend, Frontend, FrontendChange};

use super::super::cluster::{Cluster, ObjectName, Touched};

/// Frontends that were told.
#[derive(Debug, Default)]
pub(super) struct Frontends {
    of: HashMap<ObjectName, Vec<Frontend>>,
    /// Whose a frontend is. Nearly always one Service's; of several that claim one external address kube-proxy takes any, and a packet is
    /// judged by the endpoints of all.
    claims: BTreeMap<Frontend, BTreeSet<ObjectName>>,
}

impl Frontends {
    /// All of them, whatever was told before.
    pub(super) fn start(&mut self, cluster: &Cluster) -> FrontendChange {
        *self = Frontends::default();
        let services: Vec<ObjectName> = cluster.services().map(|service| service.object_name()).collect();
        let mut change = self.tell(cluster, &services);
        change.hosts = Some(hosts(cluster));
        change
    }

    /// Those that are touched.
    pub(super) fn update(&mut self, cluster: &Cluster, touched: &Touched) -> FrontendChange {
        let mut change = self.tell(cluster, &touched.services);
        if !touched.nodes.is_empty() {
            change.hosts = Some(hosts(cluster));
        }
        change
    }

    /// The Services of a frontend.
    pub(super) fn services(&self, frontend: &Frontend) -> impl Iterator<Item = &ObjectName> {
        self.claims.get(frontend).into_iter().flatten()
    }

    fn tell(&mut self, cluster: &Cluster, services: &[ObjectName]) -> FrontendChange {
        let mut touched: BTreeSet<Frontend> = BTreeSet::new();
        for name in services {
            for frontend in self.of.remove(name).unwrap_or_default() {
                touched.insert(frontend);
                if let Some(claim) = self.claims.get_mut(&frontend) {
                    claim.remove(name);
                }
            }
            let Some(service) = cluster.service(name) else { continue };
            let frontends: Vec<Frontend> = service.frontends().map(|(frontend, _)| frontend).collect();
            for &frontend in &frontends {
                touched.insert(frontend);
                self.claims.entry(frontend).or_default().insert(name.clone());
            }
            self.of.insert(name.clone(), frontends);
        }
        let mut change = FrontendChange::default();
        for frontend in touched {
            let claim = self.claims.get(&frontend);
            if claim.is_none_or(BTreeSet::is_empty) {
                self.claims.remove(&frontend);
                change.gone.push(frontend);
                continue;
            }
            let services = claim.into_iter().flatten().filter_map(|name| cluster.service(name));
            let all = services.flat_map(|service| cluster.frontends_of(service));
            let mut backends: Vec<Backend> =
                all.filter(|(at, _)| *at == frontend).flat_map(|(_, backends)| backends).collect();
            backends.sort_unstable();
            backends.dedup();
            change.set.push((frontend, backends.into()));
        }
        change
    }
}

/// The addresses of all nodes.
fn hosts(cluster: &Cluster) -> Arc<[Address]> {
    cluster.nodes().flat_map(|node| &node.all_addresses).map(|&address| address.into()).collect()
}

#[cfg(test)]
mod tests {
    use dataplane::frontend::Place;
    use dataplane::packet::Protocol;
    use serde_json::json;

    use super::*;
    use crate::policy::cluster::{EndpointSlice, Service};

    fn service(name: &str, external: &str) -> Service {
        let object = json!({"metadata": {"namespace": "x", "name": name},
            "spec": {"clusterIP": "None", "externalIPs": [external], "ports": [{"port": 80}]}});
        Service::read(&serde_json::from_value(object).unwrap())
    }

    fn endpoints(name: &str, address: &str) -> EndpointSlice {
        let object = json!({"metadata": {"namespace": "x", "name": name},
            "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": 8080}]}]});
        EndpointSlice::read_endpoints(&serde_json::from_value(object).unwrap())
    }

    fn at(text: &str) -> Address {
        text.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn an_address_that_two_services_claim_stands_for_the_endpoints_of_both_until_one_is_gone() {
        let mut cluster = Cluster::new();
        for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
            cluster.apply_service(service(name, "198.51.100.1"));
            cluster.apply_slice(endpoints(name, address));
        }
        let mut frontends = Frontends::default();
        let frontend = Frontend { place: Place::Address(at("198.51.100.1")), protocol: Protocol::TCP, port: 80 };
        let backend = |text| Backend { address: at(text), port: 8080 };
        let told = frontends.start(&cluster);
        assert_eq!(told.set, [(frontend, Arc::from([backend("10.0.0.1"), backend("10.0.0.2")]))]);
        let touched = cluster.remove_service(&ObjectName::new("x", "a"));
        let told = frontends.update(&cluster, &touched);
        assert_eq!((told.set, told.gone), (vec![(frontend, Arc::from([backend("10.0.0.2")]))], vec![]));
        let touched = cluster.apply_service(service("b", "198.51.100.2"));
        let told = frontends.update(&cluster, &touched);
        assert_eq!(told.gone, [frontend]);
        assert_eq!(told.set.len(), 1);
        assert_eq!(frontends.update(&cluster, &Touched::default()), FrontendChange::default());
    }
}
