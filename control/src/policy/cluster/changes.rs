//! In what two readings of the same manifests differ.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Cluster, Namespace, NetworkPolicy, Node, Pod, Touched};

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
        let pods = [before, self].map(|cluster| cluster.pods().map(|pod| (&pod.name, pod)));
        differences(pods, same_pod, |name, pods| {
            touched.pods.push(name.clone());
            touched.addresses.extend(pods.into_iter().flatten().flat_map(|pod| pod.claimed_addresses()));
        });
        touched.addresses.sort_unstable();
        touched.addresses.dedup();
        let policies = [before, self].map(|cluster| cluster.policies.iter());
        differences(policies, same_policy, |name, _| touched.policies.push(name.clone()));
        let namespaces = [before, self].map(|cluster| cluster.namespaces.iter());
        let same = |old: &Namespace, new: &Namespace| old.labels == new.labels;
        differences(namespaces, same, |name, _| touched.namespaces.push(Arc::clone(name)));
        let nodes = [before, self].map(|cluster| cluster.nodes.iter());
        let same = |old: &Node, new: &Node| old.all_addresses == new.all_addresses;
        differences(nodes, same, |name, _| touched.nodes.push(Arc::clone(name)));
        touched.services = self.services.changed_since(&before.services);
        Some(touched)
    }
}

/// Calls for each key whose value is new, gone or another one, with the values of both sides. Both are in the order of keys.
fn differences<'a, K: Ord + 'a, V: 'a>(
    [before, now]: [impl Iterator<Item = (&'a K, &'a V)>; 2],
    same: impl Fn(&V, &V) -> bool,
    mut each: impl FnMut(&'a K, [Option<&'a V>; 2]),
) {
    let (mut before, mut now) = (before.peekable(), now.peekable());
    while let Some(order) = match (before.peek(), now.peek()) {
        (Some((old, _)), Some((new, _))) => Some(old.cmp(new)),
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (None, None) => None,
    } {
        let old = before.next_if(|_| order.is_le());
        let new = now.next_if(|_| order.is_ge());
        let values = [old, new].map(|side| side.map(|(_, value)| value));
        if let [Some(old), Some(new)] = values
            && same(old, new)
        {
            continue;
        }
        if let Some((key, _)) = old.or(new) {
            each(key, values);
        }
    }
}

fn same_policy(old: &NetworkPolicy, new: &NetworkPolicy) -> bool {
    (&old.pods, &old.ingress, &old.egress) == (&new.pods, &new.ingress, &new.egress)
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
