//! Pods as network namespaces.
//!
//! ```text
//!   pod namespace        wires namespace                  fabric namespace                     outside namespace
//!  ┌─────────────┐      ┌──────────────────────┐      ┌─────────────────────────┐            ┌───────────────────┐
//!  │ eth0 ═══════╪═veth═╪══ iN ─ [engine] ─ oN ╪═veth═╪══ pN   routes, no policy ╪═══veth═════╪═ eth0             │
//!  │ 10.0.0.7/32 │      │  no addresses, no    │      │  169.254.1.1, fe80::1   │            │ lo: 203.0.113.10  │
//!  │ fd00::7/128 │      │  ARP, nothing listens│      │  lo: node addresses     │            │     2001:db8::10  │
//!  └─────────────┘      └──────────────────────┘      └─────────────────────────┘            └───────────────────┘
//! ```
//! The pod has its addresses as host routes and a link-local gateway, as the AWS VPC CNI gives them. The fabric stands
//! for every node and for the network between them; hostNetwork pods are processes in it. With TAP devices, eth0 and pN
//! themselves are the wire's ports and nothing lies in the wires namespace; without enforcement, eth0 and pN are
//! the two ends of one veth.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::address::MacAddress;
use dataplane::port::PortKind;

use super::error::Result;
use super::instance::Instance;
use super::netns::{self, Namespace};
use super::world::{LabPod, World};

/// Largest packet of every interface, in bytes. Plain Ethernet's; AF_XDP on a veth could take 3506.
pub const MTU: u32 = 1500;

/// The pod's end of its link.
pub const POD_INTERFACE: &str = "eth0";

/// A pod's place in the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its number, from which interface names come. Never used again in a lab's life.
    pub number: u32,
    /// eth0's address.
    pub mac: MacAddress,
    /// What eth0 carries.
    pub addresses: Vec<IpAddr>,
}

impl Place {
    /// The wire's end towards the pod, in the wires namespace.
    pub fn inside(&self) -> String {
        format!("i{}", self.number)
    }

    /// The wire's end towards the fabric, in the wires namespace.
    pub fn outside(&self) -> String {
        format!("o{}", self.number)
    }

    /// The fabric's interface for the pod.
    pub fn gateway(&self) -> String {
        format!("p{}", self.number)
    }
}

/// The namespaces of a lab.
#[derive(Debug)]
pub struct Topology {
    instance: Instance,
    /// Routes between all; nodes' addresses.
    pub fabric: Namespace,
    /// Wire ends.
    pub wires: Namespace,
    /// External addresses.
    pub outside: Namespace,
    port: Option<PortKind>,
    next: u32,
    /// Pods with a namespace of their own, by key.
    places: BTreeMap<String, Place>,
    /// What the fabric and the outside host carry.
    node_addresses: Vec<IpAddr>,
    external: Vec<IpAddr>,
}

impl Topology {
    /// Makes the three common namespaces. `port` is the kind of the wires' ports, or `None` for straight cables.
    ///
    /// # Errors
    /// When the system refuses; nothing is left behind then.
    pub fn start(port: Option<PortKind>) -> Result<Topology> {
        let instance = Instance::start()?;
        let [fabric, wires, outside] = ["fabric", "wires", "outside"].map(|name| instance.namespace(name));
        netns::create(&[fabric.clone(), wires.clone(), outside.clone()])?;
        fabric.sysctl(FABRIC)?;
        wires.sysctl(WIRES)?;
        outside.sysctl(HOST)?;
        fabric.batch(&fabric_script(&outside))?;
        outside.batch(&outside_script())?;
        fabric.batch(
            &["route add default via 169.254.2.2", "route add default via fe80::2 dev outside"].map(str::to_owned),
        )?;
        Ok(Topology {
            instance,
            fabric,
            wires,
            outside,
            port,
            next: 1,
            places: BTreeMap::new(),
            node_addresses: Vec::new(),
            external: Vec::new(),
        })
    }

    /// Where a pod with a namespace of its own is.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.places.get(key)
    }

    /// Makes namespaces and cables for pods; nothing is up yet, so that ports can be attached before the first frame.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add_pods(&mut self, pods: &[&LabPod]) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for pod in pods {
            let number = self.next;
            self.next += 1;
            let name = format!("p{number}-{}", pod.key.replace('/', "-"));
            let place = Place {
                namespace: self.instance.namespace(&name),
                number,
                mac: mac_of(number),
                addresses: pod.addresses.clone(),
            };
            self.places.insert(pod.key.clone(), place.clone());
            places.push(place);
        }
        netns::create(&places.iter().map(|place| place.namespace.clone()).collect::<Vec<_>>())?;
        for place in &places {
            place.namespace.sysctl(HOST)?;
        }
        match self.port {
            Some(PortKind::Tap) => {}
            None => self.fabric.batch(&places.iter().map(straight_cable).collect::<Vec<_>>())?,
            Some(_) => {
                let fabric = &self.fabric;
                self.wires.batch(&places.iter().flat_map(|place| cables(place, fabric)).collect::<Vec<_>>())?;
            }
        }
        Ok(places)
    }

    /// Gives pods their addresses and routes, and brings their links up.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn bring_up(&self, places: &[Place]) -> Result<()> {
        self.fabric.batch(&places.iter().flat_map(gateway_script).collect::<Vec<_>>())?;
        for place in places {
            place.namespace.batch(&pod_script(place))?;
        }
        Ok(())
    }

    /// Removes pods' namespaces and cables.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove_pods(&mut self, keys: &[String]) -> Result<()> {
        let places: Vec<_> = keys.iter().filter_map(|key| self.places.remove(key)).collect();
        let cables = |end: fn(&Place) -> String| places.iter().map(move |place| format!("link del {}", end(place)));
        match self.port {
            // The engine's descriptors are the devices.
            Some(PortKind::Tap) => {}
            None => self.fabric.batch(&cables(Place::gateway).collect::<Vec<_>>())?,
            Some(_) => {
                self.wires.batch(&cables(Place::inside).chain(cables(Place::outside)).collect::<Vec<_>>())?;
            }
        }
        netns::remove(&places.into_iter().map(|place| place.namespace).collect::<Vec<_>>())
    }

    /// Gives nodes' and external addresses to the fabric and the outside host, and takes away those that are no more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_hosts(&mut self, world: &World) -> Result<()> {
        let host_pods = world.pods.iter().filter(|pod| pod.host_network).flat_map(|pod| &pod.addresses);
        let mut nodes: Vec<_> = world.nodes.iter().flat_map(|node| &node.addresses).chain(host_pods).copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        self.fabric.batch(&address_changes(&self.node_addresses, &nodes))?;
        self.node_addresses = nodes;
        self.outside.batch(&address_changes(&self.external, &world.external))?;
        self.external.clone_from(&world.external);
        Ok(())
    }
}

/// What every host of the lab has: addresses usable at once, and no limit on the ICMP errors that say "refused".
const HOST: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// The fabric routes, whatever way packets come.
const FABRIC: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// Wire ends must not speak: the kernel sees a copy of each frame there.
const WIRES: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/arp_ignore", "8"),
    ("ipv4/conf/default/arp_ignore", "8"),
];

fn mac_of(number: u32) -> MacAddress {
    let [_, a, b, c] = number.to_be_bytes();
    MacAddress([0x0a, 0x58, 0, a, b, c])
}

/// A veth of one queue a side: AF_XDP takes a queue each, and the peer may not send on more.
fn veth(name: &str, flags: &str, peer: &str, peer_flags: &str, peer_namespace: &Namespace) -> String {
    let queues = "numtxqueues 1 numrxqueues 1";
    let netns = peer_namespace.name();
    format!(
        "link add {name} mtu {MTU} {queues} {flags} type veth peer name {peer} mtu {MTU} {queues} {peer_flags} netns {netns}"
    )
}

fn cables(place: &Place, fabric: &Namespace) -> Vec<String> {
    let (inside, outside) = (place.inside(), place.outside());
    vec![
        veth(&inside, "arp off", POD_INTERFACE, &format!("address {}", mac(place.mac)), &place.namespace),
        veth(&outside, "arp off", &place.gateway(), "", fabric),
        format!("link set {inside} up"),
        format!("link set {outside} up"),
    ]
}

fn straight_cable(place: &Place) -> String {
    veth(&place.gateway(), "", POD_INTERFACE, &format!("address {}", mac(place.mac)), &place.namespace)
}

/// All pods see the same gateway, on a link of their own each.
fn gateway_script(place: &Place) -> Vec<String> {
    let device = place.gateway();
    let mut lines = vec![
        format!("link set {device} addrgenmode none"),
        format!("link set {device} up"),
        format!("address add 169.254.1.1/32 dev {device} scope link"),
        format!("address add fe80::1/64 dev {device} nodad"),
    ];
    lines.extend(place.addresses.iter().map(|&address| format!("route add {} dev {device}", host(address))));
    lines
}

fn pod_script(place: &Place) -> Vec<String> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        // A TAP device has had no chance yet to get its address.
        format!("link set {POD_INTERFACE} address {} mtu {MTU}", mac(place.mac)),
        format!("link set {POD_INTERFACE} up"),
    ];
    lines.extend(place.addresses.iter().map(|&address| address_line("add", address, POD_INTERFACE)));
    if place.addresses.iter().any(IpAddr::is_ipv4) {
        lines.push(format!("route add 169.254.1.1 dev {POD_INTERFACE} scope link"));
        lines.push(format!("route add default via 169.254.1.1 dev {POD_INTERFACE}"));
    }
    if place.addresses.iter().any(IpAddr::is_ipv6) {
        lines.push(format!("route add default via fe80::1 dev {POD_INTERFACE}"));
    }
    lines
}

fn fabric_script(outside: &Namespace) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned(), veth("outside", "", POD_INTERFACE, "", outside)];
    lines.extend(
        [
            "link set outside addrgenmode none",
            "link set outside up",
            "address add 169.254.2.1/30 dev outside",
            "address add fe80::1/64 dev outside nodad",
        ]
        .map(str::to_owned),
    );
    lines
}

fn outside_script() -> Vec<String> {
    [
        "link set lo up",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
        "address add 169.254.2.2/30 dev eth0",
        "address add fe80::2/64 dev eth0 nodad",
        "route add default via 169.254.2.1 dev eth0",
        "route add default via fe80::1 dev eth0",
    ]
    .map(str::to_owned)
    .into()
}

/// The addresses of a host's loopback interface, from what they are to what they shall be.
fn address_changes(old: &[IpAddr], new: &[IpAddr]) -> Vec<String> {
    let gone = old.iter().filter(|address| !new.contains(address));
    let come = new.iter().filter(|address| !old.contains(address));
    gone.map(|&address| address_line("del", address, "lo"))
        .chain(come.map(|&address| address_line("add", address, "lo")))
        .collect()
}

fn address_line(verb: &str, address: IpAddr, device: &str) -> String {
    // Nobody else can have it, and a probe must not wait for duplicate address detection.
    let flags = if address.is_ipv6() && verb == "add" { " nodad" } else { "" };
    format!("address {verb} {} dev {device}{flags}", host(address))
}

fn host(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}

fn mac(address: MacAddress) -> String {
    address.0.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            namespace: Namespace::named("lab-pod"),
            number: 0x102,
            mac: mac_of(0x102),
            addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        }
    }

    #[test]
    fn a_pod_has_host_routes_and_a_link_local_gateway() {
        let lines = pod_script(&place());
        for line in [
            "link set eth0 address 0a:58:00:00:01:02 mtu 1500",
            "address add 10.0.0.7/32 dev eth0",
            "address add fd00::7/128 dev eth0 nodad",
            "route add default via 169.254.1.1 dev eth0",
            "route add default via fe80::1 dev eth0",
        ] {
            assert!(lines.iter().any(|have| have == line), "{line} in {lines:?}");
        }
        let v4_only = Place { addresses: vec!["10.0.0.7".parse().unwrap()], ..place() };
        assert!(!pod_script(&v4_only).iter().any(|line| line.contains("fe80::1")));
    }

    #[test]
    fn hosts_go_from_one_set_of_addresses_to_the_next() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let lines = address_changes(&ips(&["1.1.1.1", "2.2.2.2"]), &ips(&["2.2.2.2", "2001:db8::1"]));
        assert_eq!(lines, ["address del 1.1.1.1/32 dev lo", "address add 2001:db8::1/128 dev lo nodad"]);
    }
}
