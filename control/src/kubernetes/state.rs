//! The cluster's state as the API server told it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::lean::{Change, Key, Kind, NetworkPolicy, Object, Pod};
use super::policy;
use super::report::Report;
use super::{lean, server::Version};
use crate::policy::cluster::{Cluster, EndpointSlice, ObjectName, Service, Touched};
use crate::policy::validation::FieldError;

/// A cluster, with what is needed to tell whether something differs from it.
#[derive(Debug)]
pub(super) struct State {
    cluster: Cluster,
    /// The specifications as they came.
    policies: HashMap<ObjectName, Arc<str>>,
    /// Objects that were refused, and with which words.
    refused: HashMap<Key, Vec<String>>,
    /// Policies whose pruned fields were spoken of.
    pruned: HashSet<ObjectName>,
    version: Option<Version>,
}

impl Default for State {
    fn default() -> Self {
        State {
            cluster: Cluster::lean(),
            policies: HashMap::new(),
            refused: HashMap::new(),
            pruned: HashSet::new(),
            version: None,
        }
    }
}

/// Appends what another change touched.
pub(super) fn merge(touched: &mut Touched, other: Touched) {
    touched.pods.extend(other.pods);
    touched.addresses.extend(other.addresses);
    touched.namespaces.extend(other.namespaces);
    touched.nodes.extend(other.nodes);
    touched.policies.extend(other.policies);
    touched.services.extend(other.services);
}

/// Sorted, each once.
pub(super) fn tidy(touched: &mut Touched) {
    fn once<T: Ord>(list: &mut Vec<T>) {
        list.sort_unstable();
        list.dedup();
    }
    once(&mut touched.pods);
    once(&mut touched.addresses);
    once(&mut touched.namespaces);
    once(&mut touched.nodes);
    once(&mut touched.policies);
    once(&mut touched.services);
}

impl State {
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Takes note of the server's version; what is to be said of it.
    pub(super) fn server(&mut self, version: Option<Version>) -> Option<Report> {
        let before = std::mem::replace(&mut self.version, version);
        let version = version.filter(|version| *version < Version::KEEPS_END_PORT && before != Some(*version))?;
        Some(Report::DropsEndPort { version })
    }

    /// The name of an object that is there, as it is kept, so that one text serves all; otherwise the one given.
    pub(super) fn kept_name(&self, key: &Key) -> ObjectName {
        let kept = match key.kind {
            Kind::Pod => self.cluster.pod(&key.name).map(|pod| &pod.name),
            Kind::NetworkPolicy => self.cluster.policy(&key.name).map(|policy| &policy.name),
            Kind::Namespace | Kind::Node | Kind::Service | Kind::EndpointSlice => None,
        };
        kept.unwrap_or(&key.name).clone()
    }

    /// The objects of a kind.
    pub(super) fn names(&self, kind: Kind) -> Vec<ObjectName> {
        let plain = |name: &Arc<str>| ObjectName { namespace: "".into(), name: Arc::clone(name) };
        match kind {
            Kind::Namespace => {
                let declared = self.cluster.namespaces().filter(|namespace| namespace.declared);
                declared.map(|namespace| plain(&namespace.name)).collect()
            }
            Kind::Node => self.cluster.nodes().map(|node| plain(&node.name)).collect(),
            Kind::NetworkPolicy => self.policies.keys().cloned().collect(),
            Kind::Pod => self.cluster.pods().map(|pod| pod.name.clone()).collect(),
            Kind::Service => self.cluster.services().map(Service::object_name).collect(),
            Kind::EndpointSlice => self.cluster.slices().map(EndpointSlice::object_name).collect(),
        }
    }

    /// Whether an object is there, just like that.
    pub(super) fn holds(&self, object: &Object) -> bool {
        let symbols = self.cluster.symbols();
        match object {
            Object::Namespace(object) => self
                .cluster
                .namespace(&object.name)
                .is_some_and(|held| held.declared && lean::Namespace::of(held, symbols) == *object),
            Object::Node(object) => self.cluster.node(&object.name).is_some_and(|held| lean::Node::of(held) == *object),
            Object::NetworkPolicy(object) => {
                let name = ObjectName::new(&object.namespace, &object.name);
                let said = object.pruned.is_empty() || self.pruned.contains(&name);
                said && self.policies.get(&name).is_some_and(|spec| **spec == *object.spec)
            }
            Object::Pod(object) => {
                let name = ObjectName::new(&object.namespace, &object.name);
                self.cluster.pod(&name).is_some_and(|held| Pod::of(held, symbols) == *object)
            }
            Object::Service(object) => self.cluster.service(&object.object_name()) == Some(object),
            Object::EndpointSlice(object) => self.cluster.slice(&object.object_name()) == Some(object),
        }
    }

    /// Applies changes; of several to one object, the last. What they touched, and what is to be said.
    pub(super) fn apply(&mut self, changes: Vec<Change>, reports: &mut Vec<Report>) -> Touched {
        let mut touched = Touched::default();
        for change in last_of_each(changes) {
            let one = match change {
                Change::Apply(object) if self.holds(&object) => continue,
                Change::Apply(object) => self.apply_object(&object, reports),
                Change::Remove(key) => self.remove(&key),
            };
            merge(&mut touched, one);
        }
        tidy(&mut touched);
        touched
    }

    fn apply_object(&mut self, object: &Object, reports: &mut Vec<Report>) -> Touched {
        match object {
            Object::Namespace(object) => self.cluster.apply_namespace(&object.to_api()),
            Object::NetworkPolicy(policy) => self.apply_policy(policy, reports),
            Object::Node(node) => {
                let applied = self.cluster.apply_node(&node.to_api());
                self.or_leave_out(object.key(), applied, reports)
            }
            Object::Pod(pod) => {
                let applied = self.cluster.apply_pod(&pod.to_api());
                self.or_leave_out(object.key(), applied, reports)
            }
            Object::Service(service) => self.cluster.apply_service(service.clone()),
            Object::EndpointSlice(slice) => self.cluster.apply_slice(slice.clone()),
        }
    }

    /// An object that cannot be takes the place of the one before, which is no longer true: neither is there.
    fn or_leave_out(
        &mut self,
        key: Key,
        applied: Result<Touched, Vec<FieldError>>,
        reports: &mut Vec<Report>,
    ) -> Touched {
        let errors = match applied {
            Ok(touched) => {
                self.refused.remove(&key);
                return touched;
            }
            Err(errors) => errors,
        };
        let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let said = self.refused.remove(&key);
        let touched = self.remove(&key);
        self.refused.insert(key.clone(), problems.clone());
        if said.as_ref() != Some(&problems) {
            reports.push(Report::Refused { object: key, problems });
        }
        touched
    }

    fn apply_policy(&mut self, object: &NetworkPolicy, reports: &mut Vec<Report>) -> Touched {
        let name = ObjectName::new(&object.namespace, &object.name);
        let key = Key { kind: Kind::NetworkPolicy, name: name.clone() };
        let drops = self.version.is_none_or(|version| version < Version::KEEPS_END_PORT);
        if !object.pruned.is_empty() && self.pruned.insert(name.clone()) && drops {
            reports.push(Report::Pruned { policy: key.clone(), fields: object.pruned.clone() });
        }
        if self.policies.get(&name).is_some_and(|spec| **spec == *object.spec) {
            return Touched::default();
        }
        let reading = policy::read(&object.namespace, &object.name, &object.spec);
        self.policies.insert(name.clone(), object.spec.as_str().into());
        let (applied, problems) = (reading.policy, reading.problems);
        let whole = applied.is_some();
        let touched = match applied {
            Some(policy) => self.cluster.apply_policy(policy),
            None => self.cluster.remove_policy(&name).unwrap_or_default(),
        };
        match problems.is_empty() {
            true => {}
            false if whole => reports.push(Report::PolicyInPart { policy: key, problems }),
            false => reports.push(Report::Refused { object: key, problems }),
        }
        touched
    }

    fn remove(&mut self, key: &Key) -> Touched {
        self.refused.remove(key);
        match key.kind {
            Kind::Namespace => match self.cluster.namespace(&key.name.name) {
                Some(namespace) if namespace.declared => self.cluster.remove_namespace(&key.name.name),
                _ => Touched::default(),
            },
            Kind::Node => match self.cluster.node(&key.name.name) {
                Some(_) => self.cluster.remove_node(&key.name.name),
                None => Touched::default(),
            },
            Kind::NetworkPolicy => {
                self.policies.remove(&key.name);
                self.pruned.remove(&key.name);
                self.cluster.remove_policy(&key.name).unwrap_or_default()
            }
            Kind::Pod => self.cluster.remove_pod(&key.name),
            Kind::Service => self.cluster.remove_service(&key.name),
            Kind::EndpointSlice => self.cluster.remove_slice(&key.name),
        }
    }

    /// [`Cluster::assign`].
    pub(super) fn assign(&mut self, name: &ObjectName, uid: &str, addresses: &[IpAddr]) -> Touched {
        self.cluster.assign(name, uid, addresses)
    }

    /// Says which addresses a node has beside those that its object lists; what that touches.
    pub(super) fn node_has(&mut self, name: &str, addresses: &[IpAddr]) -> Touched {
        self.cluster.node_has(name, addresses)
    }

    /// All objects, to be kept.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object> {
        let symbols = self.cluster.symbols();
        let declared = self.cluster.namespaces().filter(|namespace| namespace.declared);
        let namespaces = declared.map(|namespace| Object::Namespace(lean::Namespace::of(namespace, symbols)));
        let nodes = self.cluster.nodes().map(|node| Object::Node(lean::Node::of(node)));
        let policies = self.policies.iter().map(|(name, spec)| {
            Object::NetworkPolicy(NetworkPolicy {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                spec: spec.to_string(),
                pruned: Vec::new(),
            })
        });
        let pods = self.cluster.pods().map(|pod| Object::Pod(Pod::of(pod, symbols)));
        let services = self.cluster.services().map(|service| Object::Service(service.clone()));
        let slices = self.cluster.slices().map(|slice| Object::EndpointSlice(slice.clone()));
        namespaces.chain(nodes).chain(policies).chain(pods).chain(services).chain(slices)
    }
}

/// Of several changes to one object the last, in the order in which they came.
fn last_of_each(mut changes: Vec<Change>) -> Vec<Change> {
    if changes.len() > 1 {
        let mut seen = HashSet::new();
        let keep: Vec<bool> = changes.iter().rev().map(|change| seen.insert(change.key())).collect();
        let mut keep = keep.into_iter().rev();
        changes.retain(|_| keep.next().unwrap_or(true));
    }
    changes
}
