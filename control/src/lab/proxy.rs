//! What kube-proxy does on nodes, in front of the lab's pods: packets to a Service go to one of its endpoints, and where their way back
//! would miss the node, they get its address.
//!
//! The fabric is every node at once: who comes by a node's port is hidden behind that node's address, all others behind that of the pod's
//! own node. As with kube-proxy, `externalTrafficPolicy: Local` keeps the client's address and leads to endpoints of that node alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use dataplane::frontend::{Backend, Frontend, Place};
use dataplane::packet::Protocol;

use super::error::{LabError, Result};
use super::netns::Namespace;
use crate::policy::cluster::{Cluster, Service, ServicePort};

/// The mark of packets that are to have a node's address, which is kube-proxy's.
const MARK: &str = "0x4000";

/// Puts the rules for a cluster's Services in the place of those that there are. Without Services there are none.
///
/// # Errors
/// When there is no `nft`, or it refuses.
pub(super) fn set(fabric: &Namespace, cluster: &Cluster) -> Result<()> {
    let fail = |error: std::io::Error| {
        LabError::System(format!("the manifests hold Services, which the lab needs nft for: {error}; install nftables"))
    };
    let mut child =
        fabric.command().args(["nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(fail)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script(cluster).as_bytes()).map_err(fail)?;
    }
    let done = child.wait_with_output().map_err(fail)?;
    match done.status.success() {
        true => Ok(()),
        false => {
            Err(LabError::System(format!("nft refuses the Services' rules: {}", String::from_utf8_lossy(&done.stderr))))
        }
    }
}

/// The words for a family: of nft's expressions and of its types.
fn family(v6: bool) -> &'static str {
    if v6 { "ip6" } else { "ip" }
}

fn script(cluster: &Cluster) -> String {
    let mut rules = String::new();
    for service in cluster.services() {
        for (frontend, port) in service.frontends() {
            match frontend.place {
                Place::Address(address) => at_address(&mut rules, cluster, service, port, address.into()),
                Place::Hosts { v6 } => at_nodes(&mut rules, cluster, service, port, v6, frontend),
            }
        }
    }
    let mut back = String::new();
    for v6 in [false, true] {
        way_back(&mut back, cluster, v6);
    }
    format!(
        "table inet penstock_services\ndelete table inet penstock_services\ntable inet penstock_services {{\n\
         chain services {{\n{rules}}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain output {{ type nat hook output priority -100; jump services; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n{back}}}\n}}\n"
    )
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::UDP => "udp",
        Protocol::SCTP => "sctp",
        _ => "tcp",
    }
}

/// A rule that sends what matches to one of these.
fn to_one_of(rules: &mut String, matching: &str, v6: bool, backends: &[Backend]) {
    if backends.is_empty() {
        return;
    }
    let ends =
        backends.iter().enumerate().map(|(at, end)| format!("{at} : {} . {}", IpAddr::from(end.address), end.port));
    let ends: Vec<String> = ends.collect();
    // Writing to a string does not fail.
    let _written = writeln!(
        rules,
        "{matching} dnat {} to numgen random mod {} map {{ {} }}",
        family(v6),
        backends.len(),
        ends.join(", ")
    );
}

fn at_address(rules: &mut String, cluster: &Cluster, service: &Service, port: &ServicePort, address: IpAddr) {
    let v6 = address.is_ipv6();
    let matching = format!("{} daddr {address} {} dport {}", family(v6), protocol(port.protocol), port.port);
    // To a virtual address only those from elsewhere than the pods, to others all whose Service does not want them seen.
    let is_external = service.external.contains(&address);
    let pods = set_of(pods(cluster, v6).into_keys());
    let hides = match (is_external, service.local) {
        (true, true) => None,
        (true, false) => Some(String::new()),
        (false, _) if pods.is_empty() => Some(String::new()),
        (false, _) => Some(format!("{} saddr != {pods} ", family(v6))),
    };
    if let Some(whom) = hides {
        let _written = writeln!(rules, "{matching} {whom}meta mark set meta mark | {MARK}");
    }
    to_one_of(rules, &matching, v6, &cluster.backends(service, port, v6));
}

fn at_nodes(
    rules: &mut String,
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    v6: bool,
    frontend: Frontend,
) {
    let all = cluster.backends(service, port, v6);
    let on = pods(cluster, v6);
    for node in cluster.nodes() {
        for &address in node.addresses.iter().filter(|address| address.is_ipv6() == v6) {
            let matching =
                format!("{} daddr {address} {} dport {}", family(v6), protocol(port.protocol), frontend.port);
            if !service.local {
                let _written = writeln!(rules, "{matching} meta mark set meta mark | {MARK}");
                to_one_of(rules, &matching, v6, &all);
                continue;
            }
            // Pods go anywhere, others to endpoints of the node that they came to.
            let pods = set_of(on.keys().copied());
            if !pods.is_empty() {
                to_one_of(rules, &format!("{} saddr {pods} {matching}", family(v6)), v6, &all);
            }
            let is_here = |end: &&Backend| on.get(&end.address.into()).is_some_and(|own| *own == address);
            let here: Vec<Backend> = all.iter().filter(is_here).copied().collect();
            to_one_of(rules, &matching, v6, &here);
        }
    }
}

/// The addresses of pods, each with its node's.
fn pods(cluster: &Cluster, v6: bool) -> BTreeMap<IpAddr, IpAddr> {
    let of_family = move |address: &IpAddr| address.is_ipv6() == v6;
    let pods = cluster.pods().filter(|pod| pod.has_wire());
    let with_node = pods.flat_map(|pod| {
        let node = cluster.node_addresses(pod).iter().copied().find(of_family);
        cluster.addresses_of(pod).filter(of_family).zip(std::iter::repeat(node)).collect::<Vec<_>>()
    });
    with_node.filter_map(|(pod, node)| Some((pod, node?))).collect()
}

fn set_of(addresses: impl Iterator<Item = IpAddr>) -> String {
    let texts: Vec<String> = addresses.map(|address| address.to_string()).collect();
    if texts.is_empty() { String::new() } else { format!("{{ {} }}", texts.join(", ")) }
}

/// Who gets a node's address: what is marked, and a pod that reaches itself.
fn way_back(rules: &mut String, cluster: &Cluster, v6: bool) {
    let (pods, word) = (pods(cluster, v6), family(v6));
    let nodes = cluster.nodes().flat_map(|node| &node.addresses).filter(|address| address.is_ipv6() == v6);
    for node in nodes {
        let _written =
            writeln!(rules, "meta mark & {MARK} == {MARK} ct original {word} daddr {node} snat {word} to {node}");
    }
    if pods.is_empty() {
        return;
    }
    let map: Vec<String> = pods.iter().map(|(pod, node)| format!("{pod} : {node}")).collect();
    let map = format!("snat {word} to {word} daddr map {{ {} }}", map.join(", "));
    let _written = writeln!(rules, "meta mark & {MARK} == {MARK} {map}");
    let selves: Vec<String> = pods.keys().map(|pod| format!("{pod} . {pod}")).collect();
    let _written = writeln!(rules, "ct status dnat {word} saddr . {word} daddr {{ {} }} {map}", selves.join(", "));
}
