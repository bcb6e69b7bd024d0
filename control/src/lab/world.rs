//! What the lab builds: the pods, nodes and external addresses of a cluster, and nothing of its policies.
//!
//! A [`World`] is plain data. Two worlds can be compared, and a running lab goes from one to the next by its
//! differences.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::error::{LabError, Result};
use crate::policy::cluster::{Cluster, Peer, Phase, PolicyPorts};
use crate::policy::probe::Service;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The name in output: `IPv4`, `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// A pod to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabPod {
    /// Namespace and name, joined by a slash.
    pub key: String,
    /// All of `status.podIPs`, in order; a hostNetwork pod's are its node's.
    pub addresses: Vec<IpAddr>,
    /// Whether it lives in its node's network: no wire, processes in the fabric's namespace.
    pub host_network: bool,
    /// The container ports.
    pub services: Vec<Service>,
}

/// A node: its addresses live in the fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabNode {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Everything that a lab builds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The pods that are alive, in order of their key.
    pub pods: Vec<LabPod>,
    /// The nodes.
    pub nodes: Vec<LabNode>,
    /// Addresses of the outside host.
    pub external: Vec<IpAddr>,
    /// What the outside host serves on each of its addresses.
    pub external_services: Vec<Service>,
}

impl World {
    /// What is to be built for a cluster: its live pods, its nodes, and external addresses: those given, those of
    /// [`INTERNET`] that no pod or node has if `internet` says so, and what its policies' ipBlocks suggest. The outside
    /// host serves the web, DNS, and the ports that egress rules name.
    ///
    /// # Errors
    /// When an external address that was given is a pod's or a node's, or cannot be an interface's own.
    pub fn of(cluster: &Cluster, external: &[IpAddr], internet: bool) -> Result<World> {
        let live = cluster.pods().filter(|pod| {
            // A pending pod has no address yet: it comes when it has one.
            pod.phase != Phase::Finished && !(pod.phase == Phase::Pending && pod.addresses.is_empty())
        });
        let pods = live.map(|pod| {
            let mut services: Vec<_> =
                pod.ports.iter().map(|port| Service { protocol: port.protocol, port: port.port }).collect();
            services.sort_unstable();
            services.dedup();
            let node = cluster.node_addresses(pod);
            let on_node = pod.host_network && !node.is_empty();
            LabPod {
                key: pod.name.to_string(),
                addresses: if on_node { node.to_vec() } else { pod.addresses.clone() },
                host_network: pod.host_network,
                services,
            }
        });
        let nodes =
            cluster.nodes().map(|node| LabNode { name: node.name.to_string(), addresses: node.addresses.clone() });
        let mut world = World { pods: pods.collect(), nodes: nodes.collect(), ..World::default() };
        for &address in external {
            world.check_external(address)?;
            world.add_external(address);
        }
        if internet {
            INTERNET.into_iter().for_each(|address| world.add_external(address));
        }
        let mut services = BTreeSet::from([Service::tcp(80), Service::tcp(443), Service::udp(53)]);
        for policy in cluster.policies() {
            let egress = policy.egress.iter().flatten();
            for peer in
                policy.ingress.iter().flatten().chain(egress.clone()).flat_map(|rule| rule.peers.iter().flatten())
            {
                if let Peer::Block(block) = peer {
                    world.add_block(block.network, &block.except);
                }
            }
            let named = egress.flat_map(|rule| rule.ports.iter().flatten()).filter_map(|ports| match ports {
                PolicyPorts::Range(range) if range.first > 0 => {
                    Some(Service { protocol: range.protocol, port: range.first })
                }
                _ => None,
            });
            services.extend(named);
        }
        world.external_services = services.into_iter().collect();
        Ok(world)
    }

    /// The pod of that key.
    pub fn pod(&self, key: &str) -> Option<&LabPod> {
        self.pods.iter().find(|pod| pod.key == key)
    }

    /// Checks what the lab needs of the objects.
    ///
    /// # Errors
    /// A pod without addresses, an address that two pods share, or one that cannot be given to an interface.
    pub fn check(&self) -> Result<()> {
        let mut owners = BTreeMap::new();
        for pod in &self.pods {
            if pod.addresses.is_empty() {
                return Err(LabError::Input(format!(
                    "pod {}: status.podIPs is empty; the lab needs an address for every pod: add status.podIPs",
                    pod.key
                )));
            }
            for &address in &pod.addresses {
                if !usable(address) {
                    return Err(LabError::Input(format!(
                        "pod {}: status.podIPs: {address} cannot be an interface's own address; give the pod another",
                        pod.key
                    )));
                }
                if pod.host_network {
                    continue;
                }
                if let Some(owner) = owners.insert(address, &pod.key) {
                    return Err(LabError::Input(format!(
                        "pods {owner} and {}: both have the address {address} in status.podIPs; give one another",
                        pod.key
                    )));
                }
            }
        }
        Ok(())
    }

    /// Adds an address to the outside host, unless a pod or node has it.
    pub fn add_external(&mut self, address: IpAddr) {
        if usable(address) && !self.owns(address) && !self.external.contains(&address) {
            self.external.push(address);
        }
    }

    /// Adds addresses that show what an ipBlock does: one that it holds, and one in each of its exceptions.
    pub fn add_block(&mut self, block: IpNet, except: &[IpNet]) {
        let inside = candidates(block).find(|&ip| !except.iter().any(|hole| hole.contains(&ip)) && !self.owns(ip));
        let holes = except.iter().filter_map(|&hole| candidates(hole).find(|&ip| !self.owns(ip))).collect::<Vec<_>>();
        for address in inside.into_iter().chain(holes) {
            if self.external.iter().filter(|ip| block.contains(*ip)).all(|ip| {
                // An address of the same kind is there already: in the block proper, or in the same exception.
                except.iter().position(|hole| hole.contains(ip))
                    != except.iter().position(|hole| hole.contains(&address))
            }) {
                self.add_external(address);
            }
        }
    }

    /// Whether the outside host can have an address that somebody asked for.
    fn check_external(&self, address: IpAddr) -> Result<()> {
        if let Some(owner) = self.owner(address) {
            return Err(LabError::Input(format!(
                "external address {address}: {owner} has it; give the outside host another"
            )));
        }
        if !usable(address) {
            return Err(LabError::Input(format!(
                "external address {address} cannot be an interface's own address; give the outside host another"
            )));
        }
        Ok(())
    }

    /// Who has the address, as text: `pod NAMESPACE/NAME` or `node NAME`.
    pub fn owner(&self, address: IpAddr) -> Option<String> {
        let pod = self.pods.iter().find(|pod| pod.addresses.contains(&address)).map(|pod| format!("pod {}", pod.key));
        let node = || self.nodes.iter().find(|node| node.addresses.contains(&address));
        pod.or_else(|| node().map(|node| format!("node {}", node.name)))
    }

    /// Whether a pod or node has the address.
    fn owns(&self, address: IpAddr) -> bool {
        self.owner(address).is_some()
    }
}

/// Where an external address for the whole internet is taken from (RFC 5737, RFC 3849).
pub const INTERNET: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))];

/// Whether an interface can carry the address and a route can lead to it.
fn usable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [169, 254, 1 | 2, _] | [0, ..]) || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// Addresses of a prefix that are worth a try, most telling first.
fn candidates(block: IpNet) -> impl Iterator<Item = IpAddr> {
    let well_known = INTERNET.into_iter().filter(move |ip| block.contains(ip));
    // Not the first addresses: those look like a network's router. Then a spread over the whole block, so that a big
    // exception at its start does not hide the rest.
    let (first, last, v4) = match block {
        IpNet::V4(net) => (u128::from(net.network().to_bits()), u128::from(net.broadcast().to_bits()), true),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits(), false),
    };
    let size = last - first;
    let near = [10, 9, 8, 1, 2, 3, 4, 5, 6, 7, 0].into_iter().filter(move |&n| n <= size).map(move |n| first + n);
    let spread = (1..=64).map(move |n| first + (size / 65).saturating_mul(n)).filter(move |_| size > 65);
    let ip = move |bits: u128| {
        if v4 { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) }
    };
    well_known.chain(near.chain(spread).map(ip)).filter(|&ip| usable(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pod(key: &str, addresses: &[&str]) -> LabPod {
        LabPod {
            key: key.into(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            host_network: false,
            services: vec![],
        }
    }

    #[test]
    fn services_are_read_as_people_write_them() {
        assert_eq!("TCP/80".parse(), Ok(Service::tcp(80)));
        assert_eq!("udp/53".parse(), Ok(Service::udp(53)));
        assert_eq!("8080".parse(), Ok(Service::tcp(8080)));
        for wrong in ["TCP/0", "TCP/http", "ICMP/8", "", "TCP/65536", "TCP/80/1"] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_block_gets_an_address_of_each_kind() {
        let mut world = World { pods: vec![pod("a/b", &["172.17.0.10"])], ..World::default() };
        world.add_block("172.17.0.0/16".parse().unwrap(), &["172.17.1.0/24".parse().unwrap()]);
        assert_eq!(world.external, [ip("172.17.0.9"), ip("172.17.1.10")], "not the pod's own address");
        world.add_block("172.17.0.0/16".parse().unwrap(), &["172.17.1.0/24".parse().unwrap()]);
        assert_eq!(world.external.len(), 2, "nothing new for the same block");
        world.add_block("0.0.0.0/0".parse().unwrap(), &["0.0.0.0/1".parse().unwrap()]);
        let rest = &world.external[2..];
        assert!(rest.is_empty() || rest.iter().all(|ip| usable(*ip)));
    }

    #[test]
    fn a_block_behind_a_large_exception_is_still_shown() {
        let mut world = World::default();
        world.add_block("10.0.0.0/8".parse().unwrap(), &["10.0.0.0/9".parse().unwrap()]);
        let high = world.external.iter().filter(|address| matches!(address, IpAddr::V4(v4) if v4.octets()[1] >= 128));
        assert_eq!((high.count(), world.external.len()), (1, 2), "{:?}", world.external);
        world.add_block("2001:db8::/32".parse().unwrap(), &[]);
        assert!(world.external.contains(&INTERNET[1]));
    }

    #[test]
    fn worlds_that_cannot_be_built_are_refused() {
        let two = World { pods: vec![pod("a/x", &["10.0.0.1"]), pod("a/y", &["10.0.0.1"])], ..World::default() };
        assert!(two.check().unwrap_err().to_string().contains("a/x and a/y"));
        for bad in [&[][..], &["127.0.0.1"], &["fe80::5"], &["224.0.0.1"], &["0.0.0.0"], &["169.254.1.1"]] {
            let world = World { pods: vec![pod("a/x", bad)], ..World::default() };
            let error = world.check().unwrap_err();
            assert!(matches!(&error, LabError::Input(text) if text.contains("a/x")), "{error}");
        }
    }
}
