//! The state that policies are read against: namespaces, pods, nodes and the policies themselves.
//!
//! Objects come one at a time ([`Cluster::apply_pod`], [`Cluster::remove_pod`], …), from files now and from watch events
//! in the same way; the state depends on which objects are there, not on the order in which they came.
//!
//! * Every namespace carries the label `kubernetes.io/metadata.name`, as a real API server sets it. A namespace that
//!   only pods or policies speak of exists with that label alone.
//! * Finished pods (Succeeded, Failed) own nothing. Terminating ones keep their identity until they are gone.
//! * A hostNetwork pod owns no address: it is known by its node's.
//! * Where two live pods claim one address, the newest owns it ([`Cluster::owner`]); manifests refuse such worlds
//!   ([`Cluster::address_conflicts`]).

mod changes;
mod objects;
mod policies;
mod services;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use dataplane::address::Address;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;

use super::labels::{Interner, Labels};
use super::validation::{AcceptedPolicy, FieldError};

pub use objects::{ContainerPort, Namespace, Node, Phase, Pod};
pub use policies::{Block, NetworkPolicy, Peer, PolicyPorts, PolicyRule};
pub use services::{Endpoint, EndpointSlice, Service, ServicePort, Subset, TargetPort};

/// The name of a namespaced object: `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Puts a name together.
    pub fn new(namespace: &str, name: &str) -> Self {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(ObjectName::new(namespace, name))
            }
            _ => Err(format!("{text:?} is not namespace/name")),
        }
    }
}

/// Two live pods that claim one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressConflict {
    /// The address.
    pub address: IpAddr,
    /// Who claims it, oldest first.
    pub pods: Vec<ObjectName>,
}

/// What a change of one object may have changed for policies ([`super::live`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Pods that are new, gone or other ones.
    pub pods: Vec<ObjectName>,
    /// Addresses that may have another owner, or one with other labels or ports.
    pub addresses: Vec<IpAddr>,
    /// Namespaces whose labels may be other ones.
    pub namespaces: Vec<Arc<str>>,
    /// Nodes whose addresses may be.
    pub nodes: Vec<Arc<str>>,
    /// Policies that are new, gone or other ones.
    pub policies: Vec<ObjectName>,
    /// Services that are new, gone or other ones, or have other endpoints.
    pub services: Vec<ObjectName>,
}

/// A pod in the order of names, which takes no room beside it.
#[derive(Clone, Debug)]
struct ByName(Arc<Pod>);

impl Borrow<ObjectName> for ByName {
    fn borrow(&self) -> &ObjectName {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

/// Who claims an address: live pods with a wire.
#[derive(Clone, Debug)]
enum Claim {
    /// As nearly always.
    One(Arc<Pod>),
    /// In the order of age and name, the newest last.
    Many(Box<[Arc<Pod>]>),
}

impl Claim {
    fn pods(&self) -> &[Arc<Pod>] {
        match self {
            Claim::One(pod) => std::slice::from_ref(pod),
            Claim::Many(pods) => pods,
        }
    }

    /// Of these; `None` if there are none.
    fn of(mut pods: Vec<Arc<Pod>>) -> Option<Claim> {
        pods.sort_by(|a, b| a.age_order().cmp(&b.age_order()));
        match pods.len() {
            0 | 1 => pods.pop().map(Claim::One),
            _ => Some(Claim::Many(pods.into())),
        }
    }
}

/// Namespaces, pods, nodes and policies.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    symbols: Interner,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeSet<ByName>,
    nodes: BTreeMap<Arc<str>, Node>,
    /// Addresses of nodes that their objects do not list.
    further: HashMap<Arc<str>, Box<[IpAddr]>>,
    policies: BTreeMap<ObjectName, NetworkPolicy>,
    services: services::Services,
    /// Who claims an address.
    claims: HashMap<Address, Claim>,
    /// What many pods have alike is kept once.
    shared_labels: HashSet<Labels>,
    shared_ports: HashSet<Arc<[ContainerPort]>>,
    /// Addresses that a node gave to its pods, by name, with the UID of the pod that is meant.
    assigned: HashMap<ObjectName, (Arc<str>, Arc<[IpAddr]>)>,
    /// Policies come without their objects.
    lean: bool,
    no_object: Arc<networking::NetworkPolicy>,
}

impl Cluster {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty cluster that keeps of policies what rules are made of and not the objects themselves, which take several times as
    /// much memory: [`NetworkPolicy::object`] is empty, and [`super::oracle`] cannot be asked.
    pub fn lean() -> Self {
        Cluster { lean: true, ..Self::default() }
    }

    /// The texts of all labels.
    pub fn symbols(&self) -> &Interner {
        &self.symbols
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// A namespace.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// All pods, by namespace and name; finished ones included.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(|pod| &*pod.0)
    }

    /// A pod.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name).map(|pod| &*pod.0)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The node with an address.
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.values().find(|node| node.all_addresses.contains(&address))
    }

    /// All policies, by namespace and name.
    pub fn policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.policies.values()
    }

    /// A policy.
    pub fn policy(&self, name: &ObjectName) -> Option<&NetworkPolicy> {
        self.policies.get(name)
    }

    /// The policies of a pod's namespace whose podSelector matches it, by name.
    pub fn policies_selecting<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.policies_in(&pod.name.namespace).filter(|policy| policy.pods.matches(&pod.labels))
    }

    /// The pods of a namespace, by name.
    pub fn pods_in<'a>(&'a self, namespace: &'a Arc<str>) -> impl Iterator<Item = &'a Pod> {
        let first = ObjectName { namespace: Arc::clone(namespace), name: Arc::from("") };
        self.pods.range(first..).map(|pod| &*pod.0).take_while(move |pod| pod.name.namespace == *namespace)
    }

    fn policies_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &NetworkPolicy> {
        let first = ObjectName { namespace: Arc::clone(namespace), name: Arc::from("") };
        let namespace = Arc::clone(namespace);
        self.policies
            .range(first..)
            .map(|(_, policy)| policy)
            .take_while(move |policy| policy.name.namespace == namespace)
    }

    /// The pod that owns an address: of the live pods with a wire that claim it, the newest by creation time, then by
    /// UID and name.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.claims.get(&Address::from(address)).and_then(|claim| claim.pods().last()).map(|pod| &**pod)
    }

    /// The addresses that a pod owns, in the order of its status.
    pub fn addresses_of<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + 'a {
        pod.addresses.iter().copied().filter(|&address| self.owner(address).is_some_and(|owner| owner.name == pod.name))
    }

    /// The addresses of a pod's own node.
    pub fn node_addresses(&self, pod: &Pod) -> &[IpAddr] {
        pod.node.as_ref().and_then(|node| self.nodes.get(node)).map_or(&[], |node| &node.all_addresses)
    }

    /// Addresses that several live pods claim, in order.
    pub fn address_conflicts(&self) -> Vec<AddressConflict> {
        let mut conflicts: Vec<_> = self
            .claims
            .iter()
            .map(|(&address, claim)| (IpAddr::from(address), claim.pods()))
            .filter(|(_, pods)| pods.len() > 1)
            .map(|(address, pods)| AddressConflict { address, pods: pods.iter().map(|pod| pod.name.clone()).collect() })
            .collect();
        conflicts.sort_unstable_by_key(|conflict| conflict.address);
        conflicts
    }

    /// Adds a namespace or replaces its labels.
    pub fn apply_namespace(&mut self, object: &core::Namespace) -> Touched {
        let name: Arc<str> = object.metadata.name.as_deref().unwrap_or_default().into();
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let namespace = Namespace::new(Arc::clone(&name), labels, true, &mut self.symbols);
        self.namespaces.insert(Arc::clone(&name), namespace);
        Touched { namespaces: vec![name], ..Touched::default() }
    }

    /// Removes a namespace. As long as pods or policies name it, it stays with its name as its only label.
    pub fn remove_namespace(&mut self, name: &str) -> Touched {
        self.namespaces.remove(name);
        let name: Arc<str> = name.into();
        let mut touched = Touched { namespaces: vec![Arc::clone(&name)], ..Touched::default() };
        if self.pods_in(&name).next().is_some() || self.policies_in(&name).next().is_some() {
            self.imply_namespace(&name, &mut touched);
        }
        touched
    }

    fn imply_namespace(&mut self, name: &Arc<str>, touched: &mut Touched) {
        if !self.namespaces.contains_key(name) {
            let namespace = Namespace::new(Arc::clone(name), BTreeMap::new(), false, &mut self.symbols);
            self.namespaces.insert(Arc::clone(name), namespace);
            touched.namespaces.push(Arc::clone(name));
        }
    }

    /// Adds or replaces a pod. An object that cannot be read leaves the state as it was.
    pub fn apply_pod(&mut self, object: &core::Pod) -> Result<Touched, Vec<FieldError>> {
        let mut pod = Pod::read(object, &mut self.symbols)?;
        if let Some((uid, addresses)) = self.assigned.get(&pod.name)
            && pod.uid.as_ref() == Some(uid)
        {
            pod.assign(addresses);
        }
        Ok(self.place_pod(pod))
    }

    /// Says which addresses a node gave to its pod of this name and UID: they are the pod's beside those that its status tells, which
    /// may come later, from now on and as long as there is such a pod. Without addresses, only its status counts again.
    pub fn assign(&mut self, name: &ObjectName, uid: &str, addresses: &[IpAddr]) -> Touched {
        match addresses.is_empty() {
            true => drop(self.assigned.remove(name)),
            false => drop(self.assigned.insert(name.clone(), (uid.into(), addresses.into()))),
        }
        let Some(pod) = self.pod(name).filter(|pod| pod.uid.as_deref() == Some(uid)) else { return Touched::default() };
        let mut pod = pod.clone();
        let before = pod.addresses.clone();
        pod.assign(addresses);
        if pod.addresses == before { Touched::default() } else { self.place_pod(pod) }
    }

    /// Puts a pod in the place of the one before.
    fn place_pod(&mut self, mut pod: Pod) -> Touched {
        let mut touched = self.remove_pod(&pod.name);
        self.share(&mut pod);
        self.imply_namespace(&pod.name.namespace, &mut touched);
        let pod = Arc::new(pod);
        for &address in pod.claimed_addresses() {
            let others = self.claims.remove(&address.into());
            let mut all = others.map_or_else(Vec::new, |claim| claim.pods().to_vec());
            all.push(Arc::clone(&pod));
            self.claims.extend(Claim::of(all).map(|claim| (address.into(), claim)));
        }
        touched.addresses.extend(pod.claimed_addresses());
        let name = pod.name.clone();
        self.pods.insert(ByName(pod));
        touched.pods = vec![name];
        touched
    }

    /// Lets a pod share what others have too: the name of its namespace, the name of its node, its labels, its ports.
    fn share(&mut self, pod: &mut Pod) {
        if let Some((namespace, _)) = self.namespaces.get_key_value(&pod.name.namespace) {
            pod.name.namespace = Arc::clone(namespace);
        }
        if let Some((node, _)) = pod.node.as_ref().and_then(|node| self.nodes.get_key_value(node)) {
            pod.node = Some(Arc::clone(node));
        }
        if self.shared_labels.len() + self.shared_ports.len() > 2 * self.pods.len() + 1_024 {
            self.shared_labels.retain(Labels::is_shared);
            self.shared_ports.retain(|ports| Arc::strong_count(ports) > 1);
        }
        match self.shared_labels.get(&pod.labels) {
            Some(labels) => pod.labels = labels.clone(),
            None => drop(self.shared_labels.insert(pod.labels.clone())),
        }
        match self.shared_ports.get(&pod.ports) {
            Some(ports) => pod.ports = Arc::clone(ports),
            None => drop(self.shared_ports.insert(Arc::clone(&pod.ports))),
        }
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, name: &ObjectName) -> Touched {
        let Some(ByName(pod)) = self.pods.take(name) else { return Touched::default() };
        for &address in pod.claimed_addresses() {
            let Some(claim) = self.claims.remove(&address.into()) else { continue };
            let left = claim.pods().iter().filter(|claimant| claimant.name != *name).cloned().collect();
            self.claims.extend(Claim::of(left).map(|claim| (address.into(), claim)));
        }
        let addresses = pod.claimed_addresses().to_vec();
        Touched { pods: vec![pod.name.clone()], addresses, ..Touched::default() }
    }

    /// Adds or replaces a node. An object that cannot be read leaves the state as it was.
    pub fn apply_node(&mut self, object: &core::Node) -> Result<Touched, Vec<FieldError>> {
        let node = Node::read(object)?;
        let name = Arc::clone(&node.name);
        let further = self.further.get(&name).map_or(&[][..], |further| &further[..]);
        self.nodes.insert(Arc::clone(&name), node.with(further));
        Ok(Touched { nodes: vec![name], ..Touched::default() })
    }

    /// Says which addresses a node has beside those that its object lists, such as a bridge's: it speaks to its pods from those.
    pub fn node_has(&mut self, name: &str, addresses: &[IpAddr]) -> Touched {
        let name: Arc<str> = name.into();
        self.further.insert(Arc::clone(&name), addresses.into());
        let Some(node) = self.nodes.get(&name) else { return Touched::default() };
        let with = node.clone().with(addresses);
        if with.all_addresses == node.all_addresses {
            return Touched::default();
        }
        self.nodes.insert(Arc::clone(&name), with);
        Touched { nodes: vec![name], ..Touched::default() }
    }

    /// Removes a node.
    pub fn remove_node(&mut self, name: &str) -> Touched {
        self.nodes.remove(name);
        Touched { nodes: vec![name.into()], ..Touched::default() }
    }

    /// Adds or replaces a policy.
    pub fn apply_policy(&mut self, accepted: AcceptedPolicy) -> Touched {
        let mut policy = NetworkPolicy::read(accepted, &mut self.symbols);
        if self.lean {
            policy.object = Arc::clone(&self.no_object);
        }
        let mut touched = Touched { policies: vec![policy.name.clone()], ..Touched::default() };
        self.imply_namespace(&policy.name.namespace, &mut touched);
        self.policies.insert(policy.name.clone(), policy);
        touched
    }

    /// Removes a policy; what was touched by that if there was one.
    pub fn remove_policy(&mut self, name: &ObjectName) -> Option<Touched> {
        let policy = self.policies.remove(name)?;
        Some(Touched { policies: vec![policy.name], ..Touched::default() })
    }

    /// The labels of a namespace; a namespace that nothing speaks of has none.
    pub fn namespace_labels(&self, name: &str) -> Labels {
        self.namespaces.get(name).map(|namespace| namespace.labels.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
