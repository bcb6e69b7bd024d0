//! Cluster state to rules: for each local endpoint and direction, `Open` or a chain.
//!
//! A pod that no policy selects for a direction is open in it. One that some policy selects gets a chain of one tier:
//! the allow rules of all policies that select it, in the order of their names, with default deny. Ingress begins with
//! the pod's own node, which always reaches it (kubelet's probes).
//!
//! Selectors become address sets here, shared by all rules that mean the same addresses; wires with equal chains share
//! one. Named ports become numbers: those of the local pod for ingress, those of each destination for egress, where one
//! named port may become several rules, each with the pods that give the name that number.
//!
//! A [`Resolver`] keeps the numbers of rules from one time to the next, so that a chain whose meaning did not change is
//! equal to the one before, and whoever publishes it can tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::rules::{
    Action, AddressSet, Chain, GroupId, Peers, Policy, PortRange, Rule, RuleId, RuleSet, Services, Tier, WireId,
    WireRules, asked,
};
use ipnet::IpNet;

use super::cluster::{Block, Cluster, NetworkPolicy, ObjectName, Peer, Pod, PolicyPorts, PolicyRule};
use super::live::Groups;
use super::selector::Selector;

mod table;

pub use table::{RuleOrigin, RulePlace, RuleTable};

/// What holds for a packet that comes from an address of the pod's own node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnNode {
    /// It is allowed: the node itself, kubelet.
    #[default]
    Allow,
    /// Control is asked whom the node's address stands for ([`asked::CLIENT`], [`asked::HOST`]).
    Ask(u16),
    /// The rules decide as for any other address: it stands for a client that is not the node.
    Judge,
}

/// The rules of a moment and what they mean.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// For the engine.
    pub rules: RuleSet,
    /// For people.
    pub table: Arc<RuleTable>,
}

/// Resolves once, the pod's own node allowed.
pub fn resolve(cluster: &Cluster, endpoints: impl IntoIterator<Item = (ObjectName, WireId)>) -> Resolved {
    Resolver::new(OwnNode::Allow).resolve(cluster, endpoints)
}

/// Resolves again and again, with rule numbers that stay.
#[derive(Debug, Default)]
pub struct Resolver {
    own_node: OwnNode,
    ids: BTreeMap<RulePlace, RuleId>,
    next: u32,
}

impl Resolver {
    /// A resolver that has not numbered any rule yet.
    pub fn new(own_node: OwnNode) -> Self {
        Resolver { own_node, ..Self::default() }
    }

    /// Something else holds for the pods' own nodes from now on.
    pub(super) fn set_own_node(&mut self, own_node: OwnNode) {
        self.own_node = own_node;
    }

    /// The rules of local endpoints. An endpoint whose pod is not there, has finished or is on its node's network gets
    /// none: its wire is closed.
    pub fn resolve(
        &mut self,
        cluster: &Cluster,
        endpoints: impl IntoIterator<Item = (ObjectName, WireId)>,
    ) -> Resolved {
        let mut table = RuleTable::default();
        let wires = Pass::new(cluster, self, None, &mut table).wires(endpoints);
        self.forget_all_but(&table);
        Resolved { rules: RuleSet { wires }, table: Arc::new(table) }
    }

    /// Forgets the numbers of rules that a table does not know: their places may come back as other rules.
    pub(super) fn forget_all_but(&mut self, table: &RuleTable) {
        self.ids.retain(|_, id| table.origins.contains_key(id));
    }

    /// The rules of some endpoints, with groups in the place of the addresses that selectors mean. What the numbers of these
    /// rules mean is added to a table.
    pub(super) fn resolve_live(
        &mut self,
        cluster: &Cluster,
        endpoints: impl IntoIterator<Item = (ObjectName, WireId)>,
        groups: &mut Groups,
        table: &mut RuleTable,
    ) -> Vec<WireRules> {
        Pass::new(cluster, self, Some(groups), table).wires(endpoints)
    }
}

/// What a set of addresses stands for: equal meanings are computed once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Meaning {
    /// Pods of one namespace.
    Namespace(Arc<str>, Selector),
    /// Pods of all namespaces that match.
    Namespaces(Selector, Selector),
    /// A block.
    Block(Block),
    /// All pods.
    Any,
}

impl Meaning {
    /// What a peer means in a policy of a namespace; no peer is everybody.
    fn of(peer: Option<&Peer>, own_namespace: &Arc<str>) -> Meaning {
        match peer {
            None => Meaning::Any,
            Some(Peer::Pods { namespaces: None, pods }) => Meaning::Namespace(Arc::clone(own_namespace), pods.clone()),
            Some(Peer::Pods { namespaces: Some(namespaces), pods }) => {
                Meaning::Namespaces(namespaces.clone(), pods.clone())
            }
            Some(Peer::Block(block)) => Meaning::Block(block.clone()),
        }
    }
}

/// One rule as the engine sees it, by the identity of its shared parts.
type RuleKey = (RuleId, *const AddressSet, Option<GroupId>, Services);

/// One run over the endpoints.
struct Pass<'a> {
    cluster: &'a Cluster,
    resolver: &'a mut Resolver,
    /// Where selectors are groups.
    groups: Option<&'a mut Groups>,
    table: &'a mut RuleTable,
    /// The addresses of each meaning, equal sets shared.
    meanings: HashMap<Meaning, Arc<AddressSet>>,
    sets: HashSet<Arc<AddressSet>>,
    /// The rules of a policy's direction where they are the same for every pod.
    common: HashMap<(ObjectName, Direction), Arc<[Rule]>>,
    chains: HashMap<Vec<RuleKey>, Arc<Chain>>,
}

impl<'a> Pass<'a> {
    fn new(
        cluster: &'a Cluster,
        resolver: &'a mut Resolver,
        groups: Option<&'a mut Groups>,
        table: &'a mut RuleTable,
    ) -> Self {
        Pass {
            cluster,
            resolver,
            groups,
            table,
            meanings: HashMap::new(),
            sets: HashSet::new(),
            common: HashMap::new(),
            chains: HashMap::new(),
        }
    }

    fn wires(&mut self, endpoints: impl IntoIterator<Item = (ObjectName, WireId)>) -> Vec<WireRules> {
        let mut wires = Vec::new();
        for (name, wire) in endpoints {
            self.table.forget(wire);
            let Some(pod) = self.cluster.pod(&name).filter(|pod| pod.has_wire()) else { continue };
            let egress = self.policy(pod, wire, Direction::Egress);
            let ingress = self.policy(pod, wire, Direction::Ingress);
            wires.push(WireRules { wire, egress, ingress });
        }
        wires
    }

    fn policy(&mut self, pod: &Pod, wire: WireId, direction: Direction) -> Policy {
        let cluster = self.cluster;
        let policies: Vec<_> =
            cluster.policies_selecting(pod).filter(|policy| policy.rules(direction).is_some()).collect();
        if policies.is_empty() {
            return Policy::Open;
        }
        let names = policies.iter().map(|policy| policy.name.clone()).collect();
        self.table.isolating.insert((wire, direction), names);
        let mut rules = Vec::new();
        if direction == Direction::Ingress && self.resolver.own_node != OwnNode::Ask(asked::HOST) {
            rules.extend(self.own_node(pod));
        }
        for policy in policies {
            rules.extend_from_slice(&self.policy_rules(policy, direction, pod));
        }
        // What policy allows anyhow need not be asked about; who is not the node itself is let in by nothing else.
        if direction == Direction::Ingress && self.resolver.own_node == OwnNode::Ask(asked::HOST) {
            rules.extend(self.own_node(pod));
        }
        Policy::Chain(self.share_chain(rules))
    }

    fn share_chain(&mut self, rules: Vec<Rule>) -> Arc<Chain> {
        let key = rules.iter().map(|rule| {
            // Equal sets are one set within a pass, so the pointer stands for the addresses.
            let (set, group) = match &rule.peers {
                Peers::Any => (std::ptr::null(), None),
                Peers::Set(set) => (Arc::as_ptr(set), None),
                Peers::Group(group) => (std::ptr::null(), Some(*group)),
            };
            (rule.id, set, group, rule.services.clone())
        });
        let key = key.collect();
        let chain = self.chains.entry(key);
        Arc::clone(chain.or_insert_with(|| Arc::new(Chain { tiers: vec![Tier { rules, default: Action::Deny }] })))
    }

    fn own_node(&mut self, pod: &Pod) -> Option<Rule> {
        let action = match self.resolver.own_node {
            OwnNode::Allow => Action::Allow,
            OwnNode::Ask(question) => Action::Ask(question),
            OwnNode::Judge => return None,
        };
        let addresses = self.cluster.node_addresses(pod);
        if addresses.is_empty() {
            return None;
        }
        let set = self.share_set(addresses.iter().map(|&address| Address::from(address)).collect());
        let origin = RuleOrigin { place: RulePlace::OwnNode, peers: "the pod's own node".to_owned() };
        let id = self.number(origin);
        Some(Rule { action, log: false, peers: Peers::Set(set), services: Services::Any, id })
    }

    fn number(&mut self, origin: RuleOrigin) -> RuleId {
        let next = &mut self.resolver.next;
        let id = *self.resolver.ids.entry(origin.place.clone()).or_insert_with(|| {
            let id = RuleId(*next);
            *next += 1;
            id
        });
        self.table.origins.insert(id, origin);
        id
    }

    /// The rules of one policy for one pod.
    fn policy_rules(&mut self, policy: &NetworkPolicy, direction: Direction, pod: &Pod) -> Arc<[Rule]> {
        let names_own_ports = direction == Direction::Ingress
            && policy
                .rules(direction)
                .unwrap_or_default()
                .iter()
                .flat_map(|rule| rule.ports.iter().flatten())
                .any(|ports| matches!(ports, PolicyPorts::Named { .. }));
        let key = (policy.name.clone(), direction);
        if let Some(rules) = self.common.get(&key).filter(|_| !names_own_ports) {
            return Arc::clone(rules);
        }
        let mut rules = Vec::new();
        for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
            let peers = rule.peers.as_ref().map_or(1, Vec::len);
            for peer_index in 0..peers {
                let place = Place { policy, direction, rule, index, peer: rule.peers.as_ref().map(|_| peer_index) };
                self.peer_rules(place, pod, &mut rules);
            }
        }
        let rules: Arc<[Rule]> = rules.into();
        if !names_own_ports {
            self.common.insert(key, Arc::clone(&rules));
        }
        rules
    }

    /// The rules for one peer of a rule: one for all its numbers, then those that its names mean.
    fn peer_rules(&mut self, place: Place<'_>, pod: &Pod, rules: &mut Vec<Rule>) {
        let peers = match place.peer() {
            None => Peers::Any,
            Some(peer) => self.peers(peer, &place.policy.name.namespace),
        };
        let text = place.peer().map_or_else(|| "anybody".to_owned(), |peer| peer_text(peer, self.cluster));
        let mut rule = |pass: &mut Self, port: Option<usize>, peers: Peers, services: Services| {
            let empty_set = matches!(&peers, Peers::Set(set) if set.is_empty());
            let empty_ports = matches!(&services, Services::Ports(ranges) if ranges.is_empty());
            // The number is given out even if the rule is left out: the table still says where it would be.
            let id = pass.number(RuleOrigin { place: place.rule_place(port), peers: text.clone() });
            if !empty_set && !empty_ports {
                rules.push(Rule { action: Action::Allow, log: false, peers, services, id });
            }
        };
        let Some(ports) = &place.rule.ports else { return rule(self, None, peers, Services::Any) };
        let ranges: Vec<_> = ports.iter().filter_map(PolicyPorts::range).collect();
        if !ranges.is_empty() {
            rule(self, None, peers.clone(), Services::Ports(merge_ranges(ranges)));
        }
        for (index, port) in ports.iter().enumerate() {
            let PolicyPorts::Named { protocol, name } = port else { continue };
            let range = |number| PortRange { protocol: *protocol, first: number, last: number };
            if place.direction == Direction::Ingress {
                let ranges = pod.named_ports(name, *protocol).into_iter().map(range).collect();
                rule(self, Some(index), peers.clone(), Services::Ports(ranges));
            } else {
                for (number, peers) in self.destinations(place, &peers, name, *protocol) {
                    rule(self, Some(index), peers, Services::Ports(vec![range(number)]));
                }
            }
        }
    }

    /// Whom a named port of egress means: for each number, the pods among the peers that give the name that number.
    fn destinations(
        &mut self,
        place: Place<'_>,
        peers: &Peers,
        name: &Arc<str>,
        protocol: Protocol,
    ) -> Vec<(u16, Peers)> {
        if let Some(groups) = &mut self.groups {
            let meaning = Meaning::of(place.peer(), &place.policy.name.namespace);
            let numbers = groups.family(self.cluster, meaning, name, protocol);
            return numbers.into_iter().map(|(number, group)| (number, Peers::Group(group))).collect();
        }
        let mut by_number: BTreeMap<u16, Vec<Address>> = BTreeMap::new();
        for pod in self.cluster.pods().filter(|pod| pod.has_wire()) {
            for number in pod.named_ports(name, protocol) {
                let addresses = self.cluster.addresses_of(pod).map(Address::from).filter(|&address| match peers {
                    Peers::Any => true,
                    Peers::Set(set) => set.contains(address),
                    Peers::Group(_) => false,
                });
                by_number.entry(number).or_default().extend(addresses);
            }
        }
        let sets = by_number.into_iter().filter(|(_, addresses)| !addresses.is_empty());
        let sets = sets.map(|(number, addresses)| (number, self.share_set(addresses.into_iter().collect())));
        sets.map(|(number, set)| (number, Peers::Set(set))).collect()
    }

    /// Whom a peer means: a block is a set of addresses for good, pods come and go.
    fn peers(&mut self, peer: &Peer, own_namespace: &Arc<str>) -> Peers {
        match (peer, &mut self.groups) {
            (Peer::Pods { .. }, Some(groups)) => {
                Peers::Group(groups.plain(self.cluster, Meaning::of(Some(peer), own_namespace)))
            }
            _ => Peers::Set(self.peer_set(peer, own_namespace)),
        }
    }

    fn peer_set(&mut self, peer: &Peer, own_namespace: &Arc<str>) -> Arc<AddressSet> {
        let meaning = Meaning::of(Some(peer), own_namespace);
        if let Some(set) = self.meanings.get(&meaning) {
            return Arc::clone(set);
        }
        let set = match &meaning {
            Meaning::Namespace(namespace, pods) => self.pod_set(pods, |name| name == &**namespace),
            Meaning::Namespaces(namespaces, pods) => {
                let matching: HashSet<&str> = self
                    .cluster
                    .namespaces()
                    .filter(|namespace| namespaces.matches(&namespace.labels))
                    .map(|namespace| &*namespace.name)
                    .collect();
                self.pod_set(pods, |name| matching.contains(name))
            }
            Meaning::Block(block) => block_set(block),
            Meaning::Any => self.pod_set(&Selector::everything(), |_| true),
        };
        let set = self.share_set(set);
        self.meanings.insert(meaning, Arc::clone(&set));
        set
    }

    fn pod_set(&self, pods: &Selector, in_namespace: impl Fn(&str) -> bool) -> AddressSet {
        let pods = self
            .cluster
            .pods()
            .filter(|pod| pod.has_wire() && in_namespace(&pod.name.namespace) && pods.matches(&pod.labels));
        pods.flat_map(|pod| self.cluster.addresses_of(pod)).map(Address::from).collect()
    }

    fn share_set(&mut self, set: AddressSet) -> Arc<AddressSet> {
        if let Some(shared) = self.sets.get(&set) {
            return Arc::clone(shared);
        }
        let set = Arc::new(set);
        self.sets.insert(Arc::clone(&set));
        set
    }
}

/// A rule of a policy, and the peer of it that is being read.
#[derive(Clone, Copy)]
struct Place<'a> {
    policy: &'a NetworkPolicy,
    direction: Direction,
    rule: &'a PolicyRule,
    index: usize,
    peer: Option<usize>,
}

impl<'a> Place<'a> {
    fn peer(&self) -> Option<&'a Peer> {
        self.rule.peers.as_ref().zip(self.peer).map(|(peers, index)| &peers[index])
    }

    fn rule_place(&self, port: Option<usize>) -> RulePlace {
        let (policy, direction) = (self.policy.name.clone(), self.direction);
        RulePlace::NetworkPolicy { policy, direction, rule: self.index, peer: self.peer, port }
    }
}

/// The addresses of a block. IPv4 is kept within IPv6's number space, and an IPv6 block never means it.
fn block_set(block: &Block) -> AddressSet {
    let mut holes: Vec<IpNet> = block.except.clone();
    if matches!(block.network, IpNet::V6(_)) {
        holes.push(IpNet::new_assert(IpAddr::from([0, 0, 0, 0]), 0));
    }
    AddressSet::from_iter([block.network]).subtract(&holes.into_iter().collect())
}

/// The same ports in as few ranges as possible.
fn merge_ranges(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.protocol == range.protocol && range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// A peer in words.
pub(super) fn peer_text(peer: &Peer, cluster: &Cluster) -> String {
    let symbols = cluster.symbols();
    match peer {
        Peer::Block(block) if block.except.is_empty() => format!("ipBlock {}", block.network),
        Peer::Block(block) => {
            let except: Vec<_> = block.except.iter().map(ToString::to_string).collect();
            format!("ipBlock {} except {}", block.network, except.join(", "))
        }
        Peer::Pods { namespaces, pods } => {
            let pods =
                if pods.is_everything() { "all pods".to_owned() } else { format!("pods {}", pods.to_text(symbols)) };
            match namespaces {
                None => format!("{pods} in the policy's namespace"),
                Some(namespaces) if namespaces.is_everything() => format!("{pods} in all namespaces"),
                Some(namespaces) => format!("{pods} in namespaces {}", namespaces.to_text(symbols)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
