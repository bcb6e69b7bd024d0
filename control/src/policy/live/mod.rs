//! The rules of local endpoints, kept up to date as objects come and go: each change costs what it touches.
//!
//! [`LiveRules`] says the same as [`super::resolve`], which resolves everything at once: property tests hold the two equal. Where
//! `resolve` writes the addresses of a selector into a rule, this writes a group, and tells beside the rules which groups an
//! address is in now. A pod that is not local changes no rule at all:
//!
//! | touched | what is done |
//! |---|---|
//! | an address | its owner's groups are looked up |
//! | a namespace's labels | if a selector's answer changed, the addresses of all its pods are |
//! | a local pod, its wire, a policy of its namespace, its node | its chains are written anew |
//! | a Service, its endpoints | its frontends are told; no rule names them |
//! | a number that a named port did not have | so are all chains, after which the group has a rule |

mod frontends;
mod groups;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::frontend::Frontend;
use dataplane::packet::Direction;
use dataplane::publish::Change;
use dataplane::rules::{GroupId, Peers, Policy, WireId, WireRules};

use super::cluster::{Cluster, ObjectName, Touched};
use super::resolve::{OwnNode, Resolver, RuleTable};

use frontends::Frontends;
pub(in crate::policy) use groups::Groups;
use groups::Lists;

/// Groups that no chain names any more are kept for the next one that does, and rules that are gone, up to this many beside as
/// many as are in use.
const IDLE: usize = 256;

/// A local endpoint.
#[derive(Debug)]
struct Endpoint {
    wire: WireId,
    /// The groups that its chains name.
    groups: Vec<GroupId>,
    /// Whether it has rules: otherwise its wire is closed.
    known: bool,
}

/// Rules that follow a cluster.
#[derive(Debug, Default)]
pub struct LiveRules {
    resolver: Resolver,
    groups: Groups,
    endpoints: BTreeMap<ObjectName, Endpoint>,
    table: Arc<RuleTable>,
    frontends: Frontends,
    /// Rules that the table knew when everything was told for the last time.
    fresh_rules: usize,
    /// What was told last may not have come through.
    in_doubt: bool,
}

impl LiveRules {
    /// Rules of no endpoint.
    pub fn new(own_node: OwnNode) -> Self {
        LiveRules { resolver: Resolver::new(own_node), ..Self::default() }
    }

    /// What the numbers of rules mean.
    pub fn table(&self) -> &Arc<RuleTable> {
        &self.table
    }

    /// The Services that are reached at a frontend, as it was told last.
    pub fn services(&self, frontend: &Frontend) -> impl Iterator<Item = &ObjectName> {
        self.frontends.services(frontend)
    }

    /// Begins anew, with these endpoints: the answer names all their rules and all members of their groups, and every other wire
    /// is gone.
    pub fn start(&mut self, cluster: &Cluster, endpoints: impl IntoIterator<Item = (ObjectName, WireId)>) -> Change {
        self.groups = Groups::after(&self.groups);
        self.table = Arc::default();
        self.in_doubt = false;
        let endpoint = |(name, wire)| (name, Endpoint { wire, groups: Vec::new(), known: false });
        self.endpoints = endpoints.into_iter().map(endpoint).collect();
        let mut change = Change { whole: true, ..Change::default() };
        let mut all: Vec<ObjectName> = self.endpoints.keys().cloned().collect();
        self.write(cluster, &mut all, &mut change);
        self.resolver.forget_all_but(&self.table);
        self.fresh_rules = self.table.len();
        let addresses = cluster.pods().flat_map(|pod| cluster.addresses_of(pod));
        let mut lists = Lists::default();
        let members = addresses.map(|address| (address.into(), lists.of(cluster, &mut self.groups, address)));
        change.members = members.filter(|(_, groups)| !groups.is_empty()).collect();
        // In their order the compiler reads them where they are.
        change.members.sort_unstable_by_key(|&(address, _)| address);
        change.frontends = self.frontends.start(cluster);
        change
    }

    /// Follows from one reading of a cluster to its successor, and from the endpoints before to these. Where the difference
    /// cannot be told, it begins anew.
    pub fn follow(
        &mut self,
        before: &Cluster,
        cluster: &Cluster,
        endpoints: impl IntoIterator<Item = (ObjectName, WireId)>,
    ) -> Change {
        let Some(touched) = cluster.changes_since(before).filter(|_| !self.wants_start()) else {
            return self.start(cluster, endpoints);
        };
        let mut change = Change::default();
        let moved = self.move_endpoints(endpoints, &mut change);
        self.continue_with(cluster, &touched, moved, change)
    }

    /// Follows a change of the cluster that it has been told of from the start.
    pub fn update(&mut self, cluster: &Cluster, touched: &Touched) -> Change {
        if self.wants_start() {
            let endpoints: Vec<_> =
                self.endpoints.iter().map(|(name, endpoint)| (name.clone(), endpoint.wire)).collect();
            return self.start(cluster, endpoints);
        }
        self.continue_with(cluster, touched, Vec::new(), Change::default())
    }

    /// [`LiveRules::update`], with these endpoints from now on.
    pub fn update_with(
        &mut self,
        cluster: &Cluster,
        touched: &Touched,
        endpoints: impl IntoIterator<Item = (ObjectName, WireId)>,
    ) -> Change {
        if self.wants_start() {
            return self.start(cluster, endpoints);
        }
        let mut change = Change::default();
        let moved = self.move_endpoints(endpoints, &mut change);
        self.continue_with(cluster, touched, moved, change)
    }

    /// Something else holds for the pods' own nodes: the next word begins anew.
    pub fn set_own_node(&mut self, own_node: OwnNode) {
        self.resolver.set_own_node(own_node);
        self.distrust();
    }

    /// What was told last was not published: the next word begins anew.
    pub fn distrust(&mut self) {
        self.in_doubt = true;
    }

    /// Whether to begin anew: in doubt, or when most of what is kept is past.
    fn wants_start(&self) -> bool {
        let (groups, named) = self.groups.count();
        self.in_doubt || groups > 2 * named + IDLE || self.table.len() > 2 * self.fresh_rules + IDLE
    }

    /// Takes over which endpoints there are and behind which wires; those whose rules are to be written.
    fn move_endpoints(
        &mut self,
        endpoints: impl IntoIterator<Item = (ObjectName, WireId)>,
        change: &mut Change,
    ) -> Vec<ObjectName> {
        let mut before = std::mem::take(&mut self.endpoints);
        let mut moved = Vec::new();
        for (name, wire) in endpoints {
            let endpoint = match before.remove(&name) {
                Some(endpoint) if endpoint.wire == wire => endpoint,
                other => {
                    moved.push(name.clone());
                    before.extend(other.map(|endpoint| (name.clone(), endpoint)));
                    Endpoint { wire, groups: Vec::new(), known: false }
                }
            };
            self.endpoints.insert(name, endpoint);
        }
        for endpoint in before.into_values() {
            endpoint.groups.into_iter().for_each(|group| self.groups.release(group));
            Arc::make_mut(&mut self.table).forget(endpoint.wire);
            change.gone.extend(endpoint.known.then_some(endpoint.wire));
        }
        moved
    }

    fn continue_with(
        &mut self,
        cluster: &Cluster,
        touched: &Touched,
        mut local: Vec<ObjectName>,
        mut change: Change,
    ) -> Change {
        let mut addresses = touched.addresses.clone();
        for namespace in &touched.namespaces {
            if self.groups.relabel_namespace(cluster, namespace) {
                addresses.extend(cluster.pods_in(namespace).flat_map(|pod| cluster.addresses_of(pod)));
            }
        }
        local.extend(self.touched_endpoints(cluster, touched));
        let mut done = BTreeMap::new();
        loop {
            let fresh = self.write(cluster, &mut local, &mut change);
            for group in fresh {
                self.groups.members(cluster, group, &mut addresses);
            }
            let mut lists = Lists::default();
            for address in addresses.drain(..) {
                done.insert(address, lists.of(cluster, &mut self.groups, address));
            }
            if !std::mem::take(&mut self.groups.new_numbers) {
                break;
            }
            local = self.endpoints.keys().cloned().collect();
        }
        change.members = done.into_iter().map(|(address, groups)| (Address::from(address), groups)).collect();
        change.frontends = self.frontends.update(cluster, touched);
        change
    }

    /// The endpoints whose rules may be other ones.
    fn touched_endpoints(&self, cluster: &Cluster, touched: &Touched) -> Vec<ObjectName> {
        let mut local: Vec<ObjectName> =
            touched.pods.iter().filter(|name| self.endpoints.contains_key(*name)).cloned().collect();
        if !touched.policies.is_empty() || !touched.nodes.is_empty() {
            let is_touched = |name: &ObjectName| {
                touched.policies.iter().any(|policy| policy.namespace == name.namespace)
                    || cluster
                        .pod(name)
                        .and_then(|pod| pod.node.as_ref())
                        .is_some_and(|node| touched.nodes.contains(node))
            };
            local.extend(self.endpoints.keys().filter(|name| is_touched(name)).cloned());
        }
        local
    }

    /// Writes the rules of some endpoints; answers the groups that no chain named before.
    fn write(&mut self, cluster: &Cluster, local: &mut Vec<ObjectName>, change: &mut Change) -> Vec<GroupId> {
        local.sort_unstable();
        local.dedup();
        let mut fresh = Vec::new();
        if local.is_empty() {
            return fresh;
        }
        let wires: Vec<_> = local.drain(..).filter_map(|name| Some((self.endpoints.get(&name)?.wire, name))).collect();
        let endpoints = wires.iter().map(|(wire, name)| (name.clone(), *wire));
        let table = Arc::make_mut(&mut self.table);
        let rules = self.resolver.resolve_live(cluster, endpoints, &mut self.groups, table);
        let mut rules: HashMap<WireId, WireRules> = rules.into_iter().map(|rules| (rules.wire, rules)).collect();
        for (wire, name) in wires {
            let Some(endpoint) = self.endpoints.get_mut(&name) else { continue };
            let rules = rules.remove(&wire);
            let groups: Vec<GroupId> = rules.iter().flat_map(groups_of).collect();
            fresh.extend(groups.iter().copied().filter(|&group| self.groups.hold(group)));
            std::mem::replace(&mut endpoint.groups, groups).into_iter().for_each(|group| self.groups.release(group));
            change.wires.retain(|before| before.wire != wire);
            if rules.is_none() && endpoint.known {
                change.gone.push(wire);
            }
            endpoint.known = rules.is_some();
            change.wires.extend(rules);
        }
        fresh
    }
}

/// The groups that a wire's chains name.
fn groups_of(rules: &WireRules) -> Vec<GroupId> {
    let chains = Direction::BOTH.into_iter().filter_map(|direction| match rules.policy(direction) {
        Policy::Chain(chain) => Some(chain),
        Policy::Open | Policy::List(_) | Policy::Stateful(_) => None,
    });
    let rules = chains.flat_map(|chain| &chain.tiers).flat_map(|tier| &tier.rules);
    let mut groups: Vec<GroupId> = rules
        .filter_map(|rule| match rule.peers {
            Peers::Group(group) => Some(group),
            Peers::Any | Peers::Set(_) => None,
        })
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}
