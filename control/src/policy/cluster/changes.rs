//! In what two readings of the same manifests differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cluster, NetworkPolicy, Pod, Touched};

impl Cluster {
    /// An empty cluster to read the same objects into once more: what both have in common can be told
    /// ([`Cluster::changes_since`]).
    pub fn successor(&self) -> Cluster {
        Cluster { symbols: self.symbols.successor(), lean: self.lean, ..Cluster::default() }
    }

    /// What has been touched since an earlier reading; `None` where that cannot be told, because this is no successor of it.
    pub fn changes_since(&self, before: &Cluster) -> Option<Touched> {
        if !self.symbols.extends(&before.symbols) {
            return None;
        }
        let mut touched = Touched::default();
        differences(
            &before.pods,
            &self.pods,
            |old, new| same_pod(old, new),
            |name, pods| {
                touched.pods.push(name.clone());
                touched.addresses.extend(pods.into_iter().flatten().flat_map(|pod| pod.claimed_addresses()));
            },
        );
        touched.addresses.sort_unstable();
        touched.addresses.dedup();
        let alike = |old: &NetworkPolicy, new: &NetworkPolicy| {
            (&old.pods, &old.ingress, &old.egress) == (&new.pods, &new.ingress, &new.egress)
        };
        differences(&before.policies, &self.policies, alike, |name, _| touched.policies.push(name.clone()));
        let (namespaces, nodes) = (&mut touched.namespaces, &mut touched.nodes);
        let same_labels = |old: &super::Namespace, new: &super::Namespace| old.labels == new.labels;
        differences(&before.namespaces, &self.namespaces, same_labels, |name, _| namespaces.push(Arc::clone(name)));
        let same_addresses = |old: &super::Node, new: &super::Node| old.addresses == new.addresses;
        differences(&before.nodes, &self.nodes, same_addresses, |name, _| nodes.push(Arc::clone(name)));
        Some(touched)
    }
}

/// Calls for each key whose value is new, gone or another one, with the values of both sides.
fn differences<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
    mut each: impl FnMut(&'a K, [Option<&'a V>; 2]),
) {
    for (key, old) in before {
        let new = now.get(key);
        if new.is_none_or(|new| !same(old, new)) {
            each(key, [Some(old), new]);
        }
    }
    for (key, new) in now.iter().filter(|(key, _)| !before.contains_key(key)) {
        each(key, [None, Some(new)]);
    }
}

/// Whether both mean the same to rules, their own and those of others.
fn same_pod(old: &Pod, new: &Pod) -> bool {
    old.name == new.name
        && old.labels == new.labels
        && old.addresses == new.addresses
        && old.ports == new.ports
        && old.node == new.node
        && (old.host_network, old.phase) == (new.host_network, new.phase)
        // By these it is decided who owns an address that several claim.
        && (&old.uid, &old.created) == (&new.uid, &new.created)
}
