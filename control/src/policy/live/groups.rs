//! The groups of addresses that rules name: for each pod that comes, goes or changes, which of them it is in.
//!
//! What a peer means ([`Meaning`]) is kept once, however many rules say it. A pod is compared only with meanings that it can have:
//! those of its namespace, those that ask for one of its labels, and the few that ask for neither. A named port of egress is a
//! *family*: a group for each number that pods among its peers give the name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::Protocol;
use dataplane::rules::GroupId;

use super::super::cluster::{Cluster, Pod};
use super::super::labels::Symbol;
use super::super::resolve::Meaning;

/// A port name among the pods of a meaning.
#[derive(Debug)]
struct Family {
    name: Arc<str>,
    protocol: Protocol,
    numbers: BTreeMap<u16, GroupId>,
}

/// A meaning and its groups.
#[derive(Debug)]
struct State {
    meaning: Meaning,
    /// All pods that it means.
    plain: Option<GroupId>,
    families: Vec<Family>,
    /// The namespaces that match, where the meaning selects namespaces.
    namespaces: HashSet<Arc<str>>,
}

impl State {
    fn means(&self, pod: &Pod, address: IpAddr) -> bool {
        match &self.meaning {
            Meaning::Namespace(namespace, pods) => *namespace == pod.name.namespace && pods.matches(&pod.labels),
            Meaning::Namespaces(_, pods) => self.namespaces.contains(&pod.name.namespace) && pods.matches(&pod.labels),
            Meaning::Block(block) => block.contains(address),
            Meaning::Any => true,
        }
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(in crate::policy) struct Groups {
    numbers: HashMap<Meaning, usize>,
    states: Vec<State>,
    by_namespace: HashMap<Arc<str>, Vec<usize>>,
    by_label: HashMap<(Symbol, Symbol), Vec<usize>>,
    /// Those that no index leads to.
    others: Vec<usize>,
    /// The meaning of each group, from the group `first` on.
    meanings: Vec<usize>,
    first: u32,
    /// How many chains name a group.
    named: HashMap<GroupId, usize>,
    /// A family got a number that no rule speaks of yet.
    pub(super) new_numbers: bool,
    /// Whether the answer depends on a pod's address and not only on its namespace, labels and ports.
    by_address: bool,
}

impl Groups {
    /// None, and the numbers of those before are not used again.
    pub(super) fn after(before: &Groups) -> Groups {
        Groups { first: before.first + before.meanings.len() as u32, ..Groups::default() }
    }

    /// How many groups there are, and how many of them a chain names.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.meanings.len(), self.named.len())
    }

    fn add_group(&mut self, state: usize) -> GroupId {
        self.meanings.push(state);
        GroupId(self.first + self.meanings.len() as u32 - 1)
    }

    fn state(&mut self, cluster: &Cluster, meaning: Meaning) -> usize {
        if let Some(&number) = self.numbers.get(&meaning) {
            return number;
        }
        let number = self.states.len();
        let index = match &meaning {
            Meaning::Namespace(namespace, _) => self.by_namespace.entry(Arc::clone(namespace)).or_default(),
            Meaning::Namespaces(_, pods) => match pods.wanted_label() {
                Some(label) => self.by_label.entry(label).or_default(),
                None => &mut self.others,
            },
            Meaning::Block(_) | Meaning::Any => &mut self.others,
        };
        index.push(number);
        let namespaces = match &meaning {
            Meaning::Namespaces(namespaces, _) => {
                let matching = cluster.namespaces().filter(|namespace| namespaces.matches(&namespace.labels));
                matching.map(|namespace| Arc::clone(&namespace.name)).collect()
            }
            _ => HashSet::new(),
        };
        self.states.push(State { meaning: meaning.clone(), plain: None, families: Vec::new(), namespaces });
        self.numbers.insert(meaning, number);
        number
    }

    /// The group of all pods that are meant.
    pub(in crate::policy) fn plain(&mut self, cluster: &Cluster, meaning: Meaning) -> GroupId {
        let state = self.state(cluster, meaning);
        if let Some(group) = self.states[state].plain {
            return group;
        }
        let group = self.add_group(state);
        self.states[state].plain = Some(group);
        group
    }

    /// For each number that a port name has among the pods that are meant, the group of those who give it that.
    pub(in crate::policy) fn family(
        &mut self,
        cluster: &Cluster,
        meaning: Meaning,
        name: &Arc<str>,
        protocol: Protocol,
    ) -> Vec<(u16, GroupId)> {
        let state = self.state(cluster, meaning);
        let families = &mut self.states[state].families;
        let known = families.iter().position(|family| family.protocol == protocol && family.name == *name);
        let family = known.unwrap_or_else(|| {
            families.push(Family { name: Arc::clone(name), protocol, numbers: BTreeMap::new() });
            families.len() - 1
        });
        if known.is_none() {
            self.by_address |= matches!(self.states[state].meaning, Meaning::Block(_));
            let mut numbers: Vec<u16> = Vec::new();
            self.each_pod(cluster, state, &mut |pod, _| numbers.extend(pod.named_ports(name, protocol)));
            numbers.sort_unstable();
            numbers.dedup();
            for number in numbers {
                let group = self.add_group(state);
                self.states[state].families[family].numbers.insert(number, group);
            }
        }
        self.states[state].families[family].numbers.iter().map(|(&number, &group)| (number, group)).collect()
    }

    /// Calls with each pod that a meaning means, and the address by which it does.
    fn each_pod(&self, cluster: &Cluster, state: usize, each: &mut dyn FnMut(&Pod, IpAddr)) {
        let state = &self.states[state];
        let mut look_at = |pod: &Pod| {
            if pod.has_wire() {
                cluster
                    .addresses_of(pod)
                    .filter(|&address| state.means(pod, address))
                    .for_each(|address| each(pod, address));
            }
        };
        match &state.meaning {
            Meaning::Namespace(namespace, _) => cluster.pods_in(namespace).for_each(&mut look_at),
            Meaning::Namespaces(..) => {
                let pods = state.namespaces.iter().flat_map(|namespace| cluster.pods_in(namespace));
                pods.for_each(&mut look_at);
            }
            Meaning::Block(_) | Meaning::Any => cluster.pods().for_each(&mut look_at),
        }
    }

    /// The addresses of a group's members.
    pub(super) fn members(&self, cluster: &Cluster, group: GroupId, addresses: &mut Vec<IpAddr>) {
        let state = self.meanings[(group.0 - self.first) as usize];
        self.each_pod(cluster, state, &mut |_, address| addresses.push(address));
    }

    /// One more chain names a group; whether it is the first.
    pub(super) fn hold(&mut self, group: GroupId) -> bool {
        let uses = self.named.entry(group).or_default();
        *uses += 1;
        *uses == 1
    }

    /// One chain less names a group.
    pub(super) fn release(&mut self, group: GroupId) {
        if let Some(uses) = self.named.get_mut(&group) {
            *uses -= 1;
            if *uses == 0 {
                self.named.remove(&group);
            }
        }
    }

    /// Reads a namespace's labels again; whether a selector that meant it does so no longer, or the other way round.
    pub(super) fn relabel_namespace(&mut self, cluster: &Cluster, name: &Arc<str>) -> bool {
        let labels = cluster.namespace(name).map(|namespace| &namespace.labels);
        let mut changed = false;
        for state in &mut self.states {
            let Meaning::Namespaces(namespaces, _) = &state.meaning else { continue };
            changed |= match labels.is_some_and(|labels| namespaces.matches(labels)) {
                true => state.namespaces.insert(Arc::clone(name)),
                false => state.namespaces.remove(name),
            };
        }
        changed
    }

    /// The groups that the owner of an address is in by it, of those that a chain names.
    fn of(&mut self, pod: &Pod, address: IpAddr) -> Vec<GroupId> {
        let by_label = pod.labels.pairs().iter().filter_map(|label| self.by_label.get(label));
        let candidates = self.by_namespace.get(&pod.name.namespace).into_iter().chain(by_label).chain([&self.others]);
        let mut states: Vec<usize> = candidates.flatten().copied().collect();
        states.retain(|&state| self.states[state].means(pod, address));
        let mut groups = Vec::new();
        for number in states {
            groups.extend(self.states[number].plain);
            for family in 0..self.states[number].families.len() {
                let Family { name, protocol, .. } = &self.states[number].families[family];
                for port in pod.named_ports(name, *protocol) {
                    let known = self.states[number].families[family].numbers.get(&port).copied();
                    groups.push(known.unwrap_or_else(|| {
                        self.new_numbers = true;
                        let group = self.add_group(number);
                        self.states[number].families[family].numbers.insert(port, group);
                        group
                    }));
                }
            }
        }
        groups.retain(|group| self.named.contains_key(group));
        groups.sort_unstable();
        groups
    }
}

/// Who is in which groups, with lists shared by pods that are alike.
#[derive(Default)]
pub(super) struct Lists {
    alike: HashMap<[usize; 3], Arc<[GroupId]>>,
    lists: HashSet<Arc<[GroupId]>>,
}

impl Lists {
    /// The groups of an address; none if nobody owns it.
    pub(super) fn of(&mut self, cluster: &Cluster, groups: &mut Groups, address: IpAddr) -> Arc<[GroupId]> {
        let Some(pod) = cluster.owner(address) else { return self.share(Vec::new()) };
        if groups.by_address {
            let list = groups.of(pod, address);
            return self.share(list);
        }
        // By the places in memory: what is shared is equal. The cluster holds them all for as long as this lives.
        let (namespace, ports) = (Arc::as_ptr(&pod.name.namespace), pod.ports.as_ptr());
        let key = [namespace.cast::<u8>().addr(), pod.labels.pairs().as_ptr().addr(), ports.addr()];
        if let Some(list) = self.alike.get(&key) {
            return Arc::clone(list);
        }
        let list = groups.of(pod, address);
        let list = self.share(list);
        self.alike.insert(key, Arc::clone(&list));
        list
    }

    fn share(&mut self, list: Vec<GroupId>) -> Arc<[GroupId]> {
        if let Some(shared) = self.lists.get(list.as_slice()) {
            return Arc::clone(shared);
        }
        let shared: Arc<[GroupId]> = list.into();
        self.lists.insert(Arc::clone(&shared));
        shared
    }
}
