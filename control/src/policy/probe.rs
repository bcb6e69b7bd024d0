//! Questions: may this end open a connection to that one? What `eval`, `matrix`, `explain` and `diff` ask.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::packet::{Direction, Protocol};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cluster::{Cluster, ObjectName, Phase, Pod};
use super::shown;

/// One end of a question, as people name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// `namespace/name`
    Pod(ObjectName),
    /// An address; one that a pod has *is* that pod.
    Address(IpAddr),
}

impl FromStr for Target {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Target::Address(address.to_canonical()));
        }
        text.parse().map(Target::Pod).map_err(|_| ProbeError::BadTarget(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Pod(name) => name.fmt(f),
            Target::Address(address) => address.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A protocol and a destination port: `TCP/80`, or `80` for TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port, 1–65535.
    pub port: u16,
}

impl Service {
    /// A TCP port.
    pub const fn tcp(port: u16) -> Self {
        Service { protocol: Protocol::TCP, port }
    }

    /// A UDP port.
    pub const fn udp(port: u16) -> Self {
        Service { protocol: Protocol::UDP, port }
    }
}

impl FromStr for Service {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let bad = || ProbeError::BadService(text.to_owned());
        let (protocol, port) = match text.split_once('/') {
            None => (Protocol::TCP, text),
            Some((protocol, port)) => (parse_protocol(protocol).ok_or_else(bad)?, port),
        };
        match port.parse() {
            Ok(port @ 1..) => Ok(Service { protocol, port }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.port)
    }
}

fn parse_protocol(name: &str) -> Option<Protocol> {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
        .into_iter()
        .find(|protocol| protocol.to_string().eq_ignore_ascii_case(name))
}

/// What hides behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Via {
    /// The node's address hides a client that came in by a NodePort: the client is judged, and the pod's own node is not exempt.
    #[serde(rename = "nodePort")]
    NodePort,
    /// The destination is a Service, by its name or an address of it: its endpoints are judged.
    #[serde(rename = "service")]
    Service,
}

/// A question. In JSON: `{"from": "ns/pod", "to": "10.0.0.1", "protocol": "TCP", "port": 80}`, perhaps with
/// `"via": "nodePort"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "ProbeText", into = "ProbeText")]
pub struct Probe {
    /// Who opens the connection.
    pub from: Target,
    /// To whom.
    pub to: Target,
    /// On which port.
    pub service: Service,
    /// What hides behind `from`.
    pub via: Option<Via>,
}

#[derive(Deserialize, Serialize)]
struct ProbeText {
    from: Target,
    to: Target,
    #[serde(default = "tcp")]
    protocol: String,
    port: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<Via>,
}

fn tcp() -> String {
    "TCP".to_owned()
}

impl TryFrom<ProbeText> for Probe {
    type Error = ProbeError;

    fn try_from(text: ProbeText) -> Result<Self, ProbeError> {
        let service = format!("{}/{}", text.protocol, text.port).parse()?;
        Ok(Probe { from: text.from, to: text.to, service, via: text.via })
    }
}

impl From<Probe> for ProbeText {
    fn from(probe: Probe) -> Self {
        let Service { protocol, port } = probe.service;
        ProbeText { from: probe.from, to: probe.to, protocol: protocol.to_string(), port: port.into(), via: probe.via }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} {}", self.from, self.to, self.service)
    }
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Neither a pod nor an address.
    #[error("{} is neither namespace/pod nor an IP address", shown::quoted(.0))]
    BadTarget(String),
    /// No protocol with a port.
    #[error(
        "{} is no port; write TCP/80, UDP/53, SCTP/7777, or 80 for TCP, with a port from 1 to 65535",
        shown::quoted(.0)
    )]
    BadService(String),
    /// No such pod.
    #[error("there is no pod {} in the manifests; known pods are {}", shown::name(&.0.to_string()), .1)]
    UnknownPod(ObjectName, String),
    /// It has no address.
    #[error("pod {0} has no address: {1}")]
    NoAddress(ObjectName, &'static str),
    /// One end is IPv4, the other IPv6.
    #[error("{0} and {1} have no address family in common; name an address of the same family")]
    NoCommonFamily(Target, Target),
    /// Nobody comes to it by a NodePort.
    #[error(
        "via nodePort: {0} is no pod of a node that the manifests have with an address; add the pod's spec.nodeName and the Node"
    )]
    NoNode(Target),
    /// No such Service, or no such port of it.
    #[error("there is no Service {0} with port {1} and an address in the manifests")]
    UnknownService(Target, Service),
    /// It leads nowhere.
    #[error(
        "Service {0} has no ready endpoint for {1} in the manifests: kube-proxy refuses connections to it, whatever policy says; if it has some, add its EndpointSlices"
    )]
    NoEndpoints(ObjectName, Service),
}

/// One end of a question, found.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The pod behind it, if the pod has a wire. A hostNetwork pod has none: the node's address is all that is seen.
    pub pod: Option<&'a Pod>,
}

/// A question, its ends found.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who opens it.
    pub source: End<'a>,
    /// To whom.
    pub destination: End<'a>,
    /// On which port.
    pub service: Service,
    /// What hides behind the source.
    pub via: Option<Via>,
}

impl<'a> Connection<'a> {
    /// Whether a pod speaks to itself: that never leaves the pod, and no policy can forbid it.
    pub fn is_loopback(&self) -> bool {
        match (self.source.pod, self.destination.pod) {
            (Some(source), Some(destination)) => source.name == destination.name,
            _ => false,
        }
    }

    /// Whether the source is an address of the destination's own node and stands for that node.
    pub fn is_from_own_node(&self, cluster: &Cluster) -> bool {
        let node = self.destination.pod.map_or(&[][..], |pod| cluster.node_addresses(pod));
        self.via != Some(Via::NodePort) && node.contains(&self.source.address)
    }

    /// The address of the destination's node that hides the source, if that is asked about and the source is not the address itself.
    pub fn hidden_by(&self, cluster: &Cluster) -> Option<IpAddr> {
        let node = self.destination.pod.map_or(&[][..], |pod| cluster.node_addresses(pod));
        let same_family = |address: &&IpAddr| address.is_ipv4() == self.source.address.is_ipv4();
        let address = node.iter().find(same_family).filter(|_| self.via == Some(Via::NodePort))?;
        (!node.contains(&self.source.address)).then_some(*address)
    }

    /// Checks that what is asked about as [`Via::NodePort`] can be: the destination is a pod of a node that is known.
    ///
    /// # Errors
    /// It is not.
    pub fn check_via(&self, cluster: &Cluster) -> Result<(), ProbeError> {
        let node = self.destination.pod.map_or(&[][..], |pod| cluster.node_addresses(pod));
        if self.via != Some(Via::NodePort) || !node.is_empty() {
            return Ok(());
        }
        Err(ProbeError::NoNode(match self.destination.pod {
            Some(pod) => Target::Pod(pod.name.clone()),
            None => Target::Address(self.destination.address),
        }))
    }

    /// The pod whose policies count in a direction: the source's for egress.
    pub fn local(&self, direction: Direction) -> &End<'a> {
        match direction {
            Direction::Egress => &self.source,
            Direction::Ingress => &self.destination,
        }
    }

    /// The other one.
    pub fn peer(&self, direction: Direction) -> &End<'a> {
        self.local(direction.reverse())
    }
}

impl Probe {
    /// The addresses that who asks may come from, the first one first.
    pub(super) fn sources(&self, cluster: &Cluster) -> Result<Vec<IpAddr>, ProbeError> {
        Ok(candidates(&self.from, cluster)?.into_iter().map(|end| end.address).collect())
    }

    /// Finds both ends. Between two pods the first address of each counts, or, where these are of two families, the
    /// first family that both have; an address on one end picks the family of the other.
    pub fn locate<'a>(&self, cluster: &'a Cluster) -> Result<Connection<'a>, ProbeError> {
        let (sources, destinations) = (candidates(&self.from, cluster)?, candidates(&self.to, cluster)?);
        let pair = sources.iter().find_map(|source| {
            let same_family = |end: &&End<'a>| end.address.is_ipv4() == source.address.is_ipv4();
            Some((*source, *destinations.iter().find(same_family)?))
        });
        let (source, destination) =
            pair.ok_or_else(|| ProbeError::NoCommonFamily(self.from.clone(), self.to.clone()))?;
        Ok(Connection { source, destination, service: self.service, via: self.via })
    }
}

/// What a name can stand for, in order of preference.
fn candidates<'a>(target: &Target, cluster: &'a Cluster) -> Result<Vec<End<'a>>, ProbeError> {
    let name = match target {
        Target::Address(address) => return Ok(vec![End { address: *address, pod: cluster.owner(*address) }]),
        Target::Pod(name) => name,
    };
    let Some(pod) = cluster.pod(name) else {
        return Err(ProbeError::UnknownPod(name.clone(), known_pods(cluster)));
    };
    let ends: Vec<_> = if pod.host_network {
        let node = cluster.node_addresses(pod);
        let addresses = if node.is_empty() { &pod.addresses } else { node };
        addresses.iter().map(|&address| End { address, pod: None }).collect()
    } else {
        cluster.addresses_of(pod).map(|address| End { address, pod: Some(pod) }).collect()
    };
    if ends.is_empty() {
        let reason = match pod.phase {
            Phase::Finished => "it has finished",
            Phase::Pending => "it is pending",
            Phase::Running if pod.host_network => "it is on its node's network, and the node is not in the manifests",
            Phase::Running => "a newer pod has its address",
        };
        return Err(ProbeError::NoAddress(name.clone(), reason));
    }
    Ok(ends)
}

/// A few names to choose from.
fn known_pods(cluster: &Cluster) -> String {
    let mut names: Vec<_> = cluster.pods().take(9).map(|pod| pod.name.to_string()).collect();
    match names.len() {
        0 => "none".to_owned(),
        9 => {
            names.truncate(8);
            format!("{}, …", names.join(", "))
        }
        _ => names.join(", "),
    }
}

/// What one end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndVerdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// That end is no pod with a wire: it has no say.
    None,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the source's egress says.
    pub egress: EndVerdict,
    /// What the destination's ingress says.
    pub ingress: EndVerdict,
    /// The rules that allowed it, egress before ingress: `japp/allow-jnginx ingress[0]`, `own-node`.
    pub rules: Vec<String>,
}

impl Answer {
    /// What a pod's word to itself gets.
    pub fn loopback() -> Self {
        Answer { egress: EndVerdict::Allow, ingress: EndVerdict::Allow, rules: Vec::new() }
    }

    /// Whether the connection comes about: neither end denies it.
    pub fn is_allowed(&self) -> bool {
        self.egress != EndVerdict::Deny && self.ingress != EndVerdict::Deny
    }

    /// What an end says in its direction.
    pub fn of(&self, direction: Direction) -> EndVerdict {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::load_text;
    use super::*;

    const WORLD: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: dual}, spec: {nodeName: n}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: six}, status: {podIPs: [{ip: 'fd00::2'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: four}, status: {podIPs: [{ip: 10.0.0.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: host}, spec: {hostNetwork: true, nodeName: n}, status: {podIPs: [{ip: 192.168.0.1}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: done}, status: {phase: Succeeded, podIPs: [{ip: 10.0.0.1}]}}
";

    fn locate(from: &str, to: &str) -> Result<(String, String, bool, bool), String> {
        let cluster = load_text("w", WORLD).unwrap().cluster;
        let text = serde_json::json!({"from": from, "to": to, "port": 80});
        let probe: Probe = serde_json::from_value(text).map_err(|error| error.to_string())?;
        let found = probe.locate(&cluster).map_err(|error| error.to_string())?;
        let (source, destination) = (found.source, found.destination);
        let addresses = (source.address.to_string(), destination.address.to_string());
        Ok((addresses.0, addresses.1, source.pod.is_some(), destination.pod.is_some()))
    }

    #[test]
    fn the_first_address_counts_and_an_address_picks_the_family() {
        let found = |from: &str, to: &str| locate(from, to).unwrap();
        assert_eq!(found("default/dual", "default/four"), ("10.0.0.1".into(), "10.0.0.2".into(), true, true));
        assert_eq!(found("default/dual", "default/six"), ("fd00::1".into(), "fd00::2".into(), true, true));
        assert_eq!(found("2001:db8::1", "default/dual"), ("2001:db8::1".into(), "fd00::1".into(), false, true));
        assert_eq!(found("10.0.0.2", "1.2.3.4"), ("10.0.0.2".into(), "1.2.3.4".into(), true, false));
        assert_eq!(found("default/host", "default/dual"), ("192.168.0.1".into(), "10.0.0.1".into(), false, true));
        assert_eq!(found("::ffff:10.0.0.2", "10.0.0.1"), ("10.0.0.2".into(), "10.0.0.1".into(), true, true));
    }

    #[test]
    fn ends_that_cannot_be() {
        for (from, to, expected) in [
            (
                "default/four",
                "default/six",
                "default/four and default/six have no address family in common; name an address of the same family",
            ),
            ("default/done", "1.2.3.4", "pod default/done has no address: it has finished"),
            ("nobody", "1.2.3.4", "\"nobody\" is neither namespace/pod nor an IP address"),
            (
                "x/y",
                "1.2.3.4",
                "there is no pod x/y in the manifests; known pods are default/done, default/dual, default/four, default/host, default/six",
            ),
        ] {
            assert_eq!(locate(from, to).unwrap_err(), expected);
        }
    }

    #[test]
    fn services_and_probes_as_text() {
        assert_eq!("80".parse::<Service>().unwrap().to_string(), "TCP/80");
        assert_eq!("udp/53".parse::<Service>().unwrap().to_string(), "UDP/53");
        for bad in ["TCP/0", "TCP/65536", "ICMP/1", "http", ""] {
            assert!(bad.parse::<Service>().is_err(), "{bad}");
        }
        let text =
            serde_json::json!({"from": "a/b", "to": "1.2.3.4", "protocol": "UDP", "port": 53, "via": "nodePort"});
        let probe: Probe = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(probe.via, Some(Via::NodePort));
        assert_eq!(serde_json::to_value(&probe).unwrap(), text);
    }
}
