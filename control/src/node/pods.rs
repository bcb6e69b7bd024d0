//! The pods behind wires on this node, and what of them the engine is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use cni::protocol::{Pod, PodWire};
use dataplane::address::Address;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::port::{PortKind, PortSpec};
use dataplane::publish::Change;
use dataplane::rules::{WireId, WireRules};
use dataplane::wire::Tracking;

use crate::enforcer::WireSpec;
use crate::policy::cluster::{Cluster, ObjectName};

/// How far a wire is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carrying {
    /// Not attached: nothing reads it, nothing passes.
    Not,
    /// Being attached, to the engine of this number.
    Begun(u64),
    /// The engine carries it.
    Done,
    /// It cannot be attached, and why. It is tried again.
    Failed(String),
}

/// A wire of a local pod.
#[derive(Clone, Debug)]
pub(super) struct LocalWire {
    /// What the plugin tells of it.
    pub(super) told: PodWire,
    /// Its number.
    pub(super) id: WireId,
    /// How far it is.
    pub(super) carrying: Carrying,
}

/// A sandbox with wires.
#[derive(Clone, Debug)]
pub(super) struct Local {
    /// The runtime's name for it.
    pub(super) container: String,
    /// Its pod.
    pub(super) name: ObjectName,
    /// Which pod of that name; empty if the runtime does not say.
    pub(super) uid: Arc<str>,
    /// Its wires, by the pod's interface.
    pub(super) wires: BTreeMap<String, LocalWire>,
    /// Since when it is known here.
    pub(super) since: Instant,
}

impl Local {
    /// A sandbox whose wires are not known yet.
    pub(super) fn new(pod: &Pod) -> Local {
        Local {
            container: pod.container.clone(),
            name: ObjectName::new(&pod.pod.namespace, &pod.pod.name),
            uid: pod.pod.uid.as_str().into(),
            wires: BTreeMap::new(),
            since: Instant::now(),
        }
    }

    /// Whether the cluster's state has this very pod, with a network of its own.
    pub(super) fn is_known(&self, cluster: &Cluster) -> bool {
        let same = |uid: Option<&str>| self.uid.is_empty() || uid == Some(&*self.uid);
        cluster.pod(&self.name).is_some_and(|pod| pod.has_wire() && same(pod.uid.as_deref()))
    }

    /// Whether all wires are carried.
    pub(super) fn is_carried(&self) -> bool {
        !self.wires.is_empty() && self.wires.values().all(|wire| wire.carrying == Carrying::Done)
    }

    /// Addresses by which others know the pod.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.wires.values().flat_map(|wire| wire.told.addresses.iter().copied()).filter(is_of_a_pod)
    }
}

/// Link-local addresses mean somebody else on every link.
fn is_of_a_pod(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    }
}

/// What the engine is told of a wire.
///
/// # Errors
/// When the hardware address is none; a sentence.
pub(super) fn spec(container: &str, wire: &PodWire) -> Result<WireSpec, String> {
    let mac = wire.mac.parse().map_err(|reason: String| format!("interface {}: {reason}", wire.interface))?;
    let port = |end: &cni::state::End| {
        PortSpec::new(PortKind::AfPacket, end.interface.clone()).in_namespace(end.netns.display().to_string())
    };
    let addresses = wire.addresses.iter().copied().map(Address::from).collect();
    Ok(WireSpec {
        name: format!("{container}/{}", wire.interface),
        inside: port(&wire.inside),
        outside: port(&wire.outside),
        endpoint: Some(Endpoint { mac: Some(mac), addresses }),
        permissions: Permissions::POD,
        tracking: Tracking::Stateful,
    })
}

/// Which wires follow which rules. Rules are written for one wire of each pod; further ones have the same.
#[derive(Debug, Default)]
pub(super) struct Further {
    /// Rules of the first wires.
    rules: HashMap<WireId, WireRules>,
    /// Further wires, each with the first one of its pod, as they were told last.
    told: BTreeMap<WireId, WireId>,
}

/// The first wire of each pod, and the further ones with their first.
pub(super) type Endpoints = (Vec<(ObjectName, WireId)>, BTreeMap<WireId, WireId>);

/// The wires of the pods that the cluster knows, the newest sandbox of each pod first.
pub(super) fn endpoints<'a>(locals: impl Iterator<Item = &'a Local>, cluster: &Cluster) -> Endpoints {
    let mut known: Vec<&Local> = locals.filter(|local| local.is_known(cluster)).collect();
    known.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.container.cmp(&b.container)));
    let mut firsts: BTreeMap<ObjectName, WireId> = BTreeMap::new();
    let mut further = BTreeMap::new();
    for local in known {
        for wire in local.wires.values() {
            let first = *firsts.entry(local.name.clone()).or_insert(wire.id);
            if first != wire.id {
                further.insert(wire.id, first);
            }
        }
    }
    (firsts.into_iter().collect(), further)
}

impl Further {
    /// The wire that rules are written for, of a pod's wire.
    pub(super) fn first_of(&self, wire: WireId) -> WireId {
        self.told.get(&wire).copied().unwrap_or(wire)
    }

    /// Completes a change of the first wires' rules with those of the further wires.
    pub(super) fn complete(&mut self, change: &mut Change, further: BTreeMap<WireId, WireId>) {
        if change.whole {
            self.rules.clear();
            self.told.clear();
        }
        for wire in &change.gone {
            self.rules.remove(wire);
        }
        let mut news = BTreeSet::new();
        for rules in &change.wires {
            news.insert(rules.wire);
            self.rules.insert(rules.wire, rules.clone());
        }
        let gone: Vec<WireId> = change.gone.clone();
        for (&wire, first) in &further {
            let same = self.told.get(&wire) == Some(first) && !news.contains(first) && !gone.contains(first);
            if same && !gone.contains(&wire) {
                continue;
            }
            match self.rules.get(first) {
                Some(rules) => {
                    change.gone.retain(|other| *other != wire);
                    change.wires.push(WireRules { wire, ..rules.clone() });
                }
                None if !change.whole => change.gone.push(wire),
                None => {}
            }
        }
        for wire in self.told.keys() {
            let first_now = change.wires.iter().any(|rules| rules.wire == *wire) || self.rules.contains_key(wire);
            if !further.contains_key(wire) && !first_now {
                change.gone.push(*wire);
            }
        }
        change.gone.sort_unstable();
        change.gone.dedup();
        self.told = further;
    }
}
