//! The daemon while it runs: its wires, the policy in force, and what changes either.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::gateway::placement::Placement;
use dataplane::address::Address;
use dataplane::guard::{Endpoint, Permission, Permissions};
use dataplane::packet::Direction;
use dataplane::port::tap::TapOptions;
use dataplane::port::{PortKind, PortSpec};
use dataplane::rules::{Action, Chain, Policy, Tier, WireId, WireRules};
use dataplane::stats::WireStats;
use tracing::{error, info, warn};

use super::config::{Config, NonIp, Occupant, PortConfig, Traffic, WireConfig};
use super::host::{self, Nic};
use super::metrics::Counts;
use super::peer;
use super::preflight::{self, Interface};
use crate::enforcer::{Enforcer, EnforcerError, WireSpec};
use crate::gateway::Gateway;
use crate::observe::drops::{Clocks, Owner};
use crate::policy::cluster::{Cluster, ObjectName};
use crate::policy::live::LiveRules;
use crate::policy::manifest::{self, Loaded};
use crate::policy::resolve::{OwnNode, RuleTable};

/// How many generations are kept for the log: events of the one before may still be on their way.
const HISTORY: usize = 4;

/// A wire as the daemon keeps it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    /// What the configuration says.
    pub(super) config: WireConfig,
    /// Its number, the last one that it had if it is lost.
    pub(super) id: WireId,
    /// What it counts, or counted last.
    pub(super) stats: Arc<WireStats>,
    /// Which interfaces its ports stand on, inside and outside, as far as that could be looked up.
    interfaces: [Option<Option<Interface>>; 2],
    /// Why nothing passes, if a port is lost.
    pub(super) lost: Option<String>,
    /// What the engine was told of the endpoint.
    endpoint: Option<Endpoint>,
}

/// The policy of a generation, as the log needs it.
#[derive(Debug)]
pub(super) struct InForce {
    /// The generation.
    pub(super) generation: u64,
    /// The objects.
    pub(super) cluster: Arc<Cluster>,
    /// What rules mean.
    pub(super) table: Arc<RuleTable>,
}

impl InForce {
    /// Who owns an address.
    pub(super) fn owner(&self, address: IpAddr) -> Owner {
        if let Some(pod) = self.cluster.owner(address) {
            return Owner::Pod(pod.name.to_string());
        }
        self.cluster.node_at(address).map_or(Owner::Unknown, |node| Owner::Node(node.name.to_string()))
    }

    /// The policies that isolate a wire's pod.
    pub(super) fn policies(&self, wire: WireId, direction: Direction) -> Vec<String> {
        self.table.isolating(wire, direction).iter().map(ToString::to_string).collect()
    }
}

/// What was put in force, and how much of it was new.
#[derive(Clone, Copy, Debug)]
struct Applied {
    generation: u64,
    /// Wires whose rules were written anew.
    wires: usize,
    /// Addresses whose place in the rules was looked up anew.
    addresses: usize,
}

/// Why manifests are not in force.
enum NotApplied {
    /// They are wrong; the running policy stays.
    Refused(String),
    /// They are published, and not every worker follows them yet.
    Late(String),
}

/// The running daemon.
pub(super) struct Daemon {
    pub(super) config: Config,
    pub(super) enforcer: Enforcer,
    pub(super) counts: Counts,
    /// The first policy is in force on every worker.
    pub(super) ready: AtomicBool,
    /// The log of drops is to be opened anew.
    pub(super) reopen: AtomicBool,
    wires: Mutex<Vec<Wire>>,
    history: Mutex<VecDeque<Arc<InForce>>>,
    /// Why the manifests that are there now are not in force.
    refused: Mutex<Option<String>>,
    /// Held while anything is changed, so that changes come one after the other.
    rules: Mutex<LiveRules>,
    /// The rules of wires that are a gateway's.
    pub(super) gateway: Option<Arc<Gateway>>,
    /// It is time to end.
    pub(super) stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the manifests that the configuration names, as the successor of what was read before.
///
/// # Errors
/// All that is wrong with them, a sentence a line.
pub(super) fn load(config: &Config, before: &Cluster) -> Result<Loaded, String> {
    let Some(policy) = &config.policy else { return Ok(Loaded::default()) };
    if let Err(error) = std::fs::metadata(policy) {
        return Err(format!(
            "{}: policy: {} cannot be read ({error}); name the directory or file that holds the manifests",
            config.file.display(),
            policy.display()
        ));
    }
    manifest::load_again(&[policy], before).map_err(|errors| errors.to_string())
}

/// The addresses that the manifests give each wire's endpoint, in the order of the wires; `None` where nobody is pinned to
/// any.
///
/// # Errors
/// When a wire's pod is not there, or has no network of its own.
pub(super) fn addresses(config: &Config, cluster: &Cluster) -> Result<Vec<Option<Vec<Address>>>, String> {
    let all = |addresses: &[IpAddr]| Some(addresses.iter().copied().map(Address::from).collect());
    let of = |(index, wire): (usize, &WireConfig)| match &wire.occupant {
        Occupant::Gateway(..) | Occupant::Subnet { .. } => Ok(None),
        Occupant::Endpoint { addresses, .. } => Ok(all(addresses)),
        Occupant::Pod { name, .. } => {
            let fail = |reason: &str| Err(format!("{}: wires[{index}].pod: {reason}", config.file.display()));
            let Some(policy) = &config.policy else { return fail("there are no manifests; name them as policy") };
            let policy = policy.display();
            match name.parse::<ObjectName>().ok().and_then(|name| cluster.pod(&name)) {
                None => fail(&format!("there is no Pod {name} in {policy}; add its manifest, or correct the name")),
                Some(pod) if pod.host_network => fail(&format!(
                    "Pod {name} is on its node's network (hostNetwork) and has no wire of its own; take the wire away"
                )),
                Some(pod) => Ok(all(&pod.addresses)),
            }
        }
    };
    config.wires.iter().enumerate().map(of).collect()
}

/// What the engine is told of whoever is inside.
///
/// # Errors
/// When the MAC address is not given and cannot be read.
pub(super) fn endpoint(wire: &WireConfig, addresses: Option<Vec<Address>>) -> Result<Option<Endpoint>, String> {
    let Some(addresses) = addresses else { return Ok(None) };
    let given = match &wire.occupant {
        Occupant::Pod { mac, .. } | Occupant::Endpoint { mac, .. } => *mac,
        Occupant::Gateway(..) | Occupant::Subnet { .. } => None,
    };
    let mac = match given {
        _ if wire.inside.kind == PortKind::Tun => None,
        Some(mac) => Some(mac),
        None => Some(peer::mac_behind(&wire.inside).map_err(|reason| format!("wire {}: {reason}", wire.name))?),
    };
    Ok(Some(Endpoint { mac, addresses }))
}

/// The interfaces that the names of a wire's ports mean now; the outer `None` where they could not be looked up.
fn interfaces(wire: &WireConfig) -> [Option<Option<Interface>>; 2] {
    [&wire.inside, &wire.outside].map(|port| preflight::interface(port).ok())
}

/// # Errors
/// When an interface does not tell what a port has to be like.
fn spec(wire: &WireConfig, endpoint: Option<Endpoint>) -> Result<WireSpec, String> {
    let port = |port: &PortConfig| {
        let mut spec = PortSpec::new(port.kind, port.interface.clone());
        spec.namespace.clone_from(&port.namespace);
        spec.options.af_xdp.queue = port.queue;
        // A gateway's interfaces are the host's.
        spec.options.af_packet.sole = matches!(wire.occupant, Occupant::Gateway(..));
        spec
    };
    let permissions = match wire.occupant {
        _ if endpoint.is_some() => Permissions::POD,
        Occupant::Gateway(_, NonIp::Drop) => Permissions { non_ip: Permission::Refused, ..Permissions::GATEWAY },
        _ => Permissions::GATEWAY,
    };
    let (mut inside, outside) = (port(&wire.inside), port(&wire.outside));
    if let Occupant::Gateway(Placement::HostInside { .. }, _) = wire.occupant {
        let Nic { mac, mtu } = host::nic(&wire.outside)?;
        inside.options.tap = TapOptions { mac, mtu, persistent: true, ..TapOptions::default() };
    }
    Ok(WireSpec { name: wire.name.clone(), inside, outside, endpoint, permissions, tracking: wire.tracking })
}

/// The rules of a wire that no policy selects.
fn unselected(wire: WireId, traffic: Traffic) -> WireRules {
    let policy = match traffic {
        Traffic::Allow => Policy::Open,
        Traffic::Deny => {
            Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules: Vec::new(), default: Action::Deny }] }))
        }
    };
    WireRules { wire, egress: policy.clone(), ingress: policy }
}

impl Daemon {
    /// A daemon without wires.
    pub(super) fn new(config: Config, enforcer: Enforcer, gateway: Option<Gateway>) -> Daemon {
        Daemon {
            config,
            enforcer,
            counts: Counts::default(),
            ready: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            wires: Mutex::default(),
            history: Mutex::default(),
            refused: Mutex::default(),
            rules: Mutex::new(LiveRules::new(OwnNode::Allow)),
            gateway: gateway.map(Arc::new),
            stopping: AtomicBool::new(false),
        }
    }

    /// Opens all wires and puts the first policy in force.
    ///
    /// # Errors
    /// When a wire cannot be opened or the workers do not take the policy over. All wires close with the daemon.
    pub(super) fn start(&self, endpoints: Vec<Option<Endpoint>>, cluster: Cluster) -> Result<(), EnforcerError> {
        for (config, endpoint) in self.config.wires.iter().zip(endpoints) {
            let (id, stats) = self.attach(config, endpoint.clone())?;
            let interfaces = interfaces(config);
            lock(&self.wires).push(Wire { config: config.clone(), id, stats, interfaces, lost: None, endpoint });
        }
        self.put_in_force(&mut lock(&self.rules), Arc::new(cluster))?;
        self.counts.reloaded(true);
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    fn attach(&self, wire: &WireConfig, endpoint: Option<Endpoint>) -> Result<(WireId, Arc<WireStats>), EnforcerError> {
        let fail = |reason: String| EnforcerError::Wire { wire: wire.name.clone(), source: io::Error::other(reason) };
        let id = self.enforcer.attach(&spec(wire, endpoint).map_err(fail)?)?;
        if let Occupant::Gateway(Placement::HostInside { addresses, .. }, _) = &wire.occupant {
            host::give(&wire.inside, addresses).map_err(fail).inspect_err(|_| _ = self.enforcer.detach(id))?;
        }
        let running = self.enforcer.wires().remove(&id);
        for warning in running.iter().flat_map(|running| &running.warnings) {
            warn!(wire = wire.name, "{warning}");
        }
        info!(wire = wire.name, pod = wire.occupant.pod(), inside = %wire.inside, outside = %wire.outside, "wire open");
        Ok((id, running.map(|running| running.stats).unwrap_or_default()))
    }

    /// All wires, as they are now.
    pub(super) fn wires(&self) -> Vec<Wire> {
        lock(&self.wires).clone()
    }

    /// Publishes in what a cluster and the wires differ from those in force, and waits for every worker.
    fn put_in_force(&self, rules: &mut LiveRules, cluster: Arc<Cluster>) -> Result<Applied, EnforcerError> {
        let began = Clocks::read().engine;
        let wires = self.wires();
        let pods = wires.iter().filter_map(|wire| Some((wire.config.occupant.pod()?.parse().ok()?, wire.id)));
        let before = lock(&self.history).back().cloned();
        let mut change = match before {
            Some(before) => rules.follow(&before.cluster, &cluster, pods),
            None => rules.start(&cluster, pods),
        };
        // Kept before it is published, so that the log knows it by its first event. Nobody else publishes.
        let generation = self.enforcer.generation().0 + 1;
        self.remember(InForce { generation, cluster, table: Arc::clone(rules.table()) });
        let applied = Applied { generation, wires: change.wires.len(), addresses: change.members.len() };
        // Told each time: they are few, and one that says the same as before changes nothing.
        change.wires.extend(wires.iter().filter_map(|wire| match &wire.config.occupant {
            Occupant::Pod { .. } => None,
            Occupant::Gateway(..) => self.gateway_rules(wire),
            Occupant::Endpoint { traffic, .. } | Occupant::Subnet { traffic } => Some(unselected(wire.id, *traffic)),
        }));
        let published = self.enforcer.change(&change);
        if let Err(error) = &published
            && !matches!(error, EnforcerError::NotAcknowledged(_))
        {
            rules.distrust();
            lock(&self.history).pop_back();
        }
        published?;
        self.counts.applied(Clocks::read().engine.since(began));
        Ok(applied)
    }

    /// The rules of a gateway's wire.
    fn gateway_rules(&self, wire: &Wire) -> Option<WireRules> {
        let [egress, ingress] = self.gateway.as_ref()?.policies(&wire.config.name)?;
        Some(WireRules { wire: wire.id, egress, ingress })
    }

    fn remember(&self, policy: InForce) {
        let mut history = lock(&self.history);
        history.push_back(Arc::new(policy));
        while history.len() > HISTORY {
            history.pop_front();
        }
    }

    /// The policy of a generation, or the newest if that one is forgotten.
    pub(super) fn in_force(&self, generation: u64) -> Option<Arc<InForce>> {
        let history = lock(&self.history);
        history.iter().rev().find(|policy| policy.generation == generation).or_else(|| history.back()).cloned()
    }

    /// Why the manifests that are there now are not in force, if they are not.
    pub(super) fn refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    /// Reads the manifests again and puts them in force; manifests that are wrong change nothing.
    pub(super) fn reload(&self) {
        let mut rules = lock(&self.rules);
        let result = self.read_and_apply(&mut rules);
        self.counts.reloaded(result.is_ok());
        match &result {
            Ok((Applied { generation, wires, addresses }, policies)) => {
                info!(generation, policies, wires, addresses, "policy in force");
            }
            Err(NotApplied::Refused(reasons)) => {
                for reason in reasons.lines() {
                    error!("policy refused, the running one stays in force: {reason}");
                }
            }
            Err(NotApplied::Late(reason)) => error!("{reason}"),
        }
        *lock(&self.refused) = match result {
            Err(NotApplied::Refused(reasons)) => Some(reasons),
            Ok(_) | Err(NotApplied::Late(_)) => None,
        };
    }

    fn read_and_apply(&self, rules: &mut LiveRules) -> Result<(Applied, usize), NotApplied> {
        let before = lock(&self.history).back().map(|policy| Arc::clone(&policy.cluster)).unwrap_or_default();
        let loaded = load(&self.config, &before).map_err(NotApplied::Refused)?;
        let addresses = addresses(&self.config, &loaded.cluster).map_err(NotApplied::Refused)?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let policies = loaded.cluster.policies().count();
        let moved = self.move_endpoints(addresses);
        match self.put_in_force(rules, Arc::new(loaded.cluster)) {
            Ok(applied) => Ok((applied, policies)),
            Err(error @ EnforcerError::NotAcknowledged(_)) => Err(NotApplied::Late(error.to_string())),
            Err(error) => {
                if moved {
                    // Wires that were opened anew have a number that the rules in force do not know.
                    self.put_back(rules);
                }
                Err(NotApplied::Refused(error.to_string()))
            }
        }
    }

    /// Puts the policy in force for the wires as they are now.
    fn put_back(&self, rules: &mut LiveRules) {
        if let Err(error) = self.put_again(rules) {
            error!(
                "the policy in force could not be put on the wires that were opened anew, they stay closed: {error}"
            );
        }
    }

    fn put_again(&self, rules: &mut LiveRules) -> Result<(), EnforcerError> {
        let Some(policy) = lock(&self.history).back().cloned() else { return Ok(()) };
        self.put_in_force(rules, Arc::clone(&policy.cluster)).map(drop)
    }

    /// Puts what the gateway's rules are now in force.
    ///
    /// # Errors
    /// When they cannot be compiled, or not every worker follows them in time.
    pub(super) fn put_gateway_in_force(&self) -> Result<(), EnforcerError> {
        self.put_again(&mut lock(&self.rules))
    }

    /// Opens a wire anew whose endpoint has other addresses than before: what the old ones had is forgotten. Answers
    /// whether there was one.
    fn move_endpoints(&self, addresses: Vec<Option<Vec<Address>>>) -> bool {
        let mut moved = false;
        for (index, (wire, addresses)) in self.wires().into_iter().zip(addresses).enumerate() {
            let (Some(endpoint), Some(addresses)) = (&wire.endpoint, addresses) else { continue };
            if endpoint.addresses != addresses {
                info!(wire = wire.config.name, "the endpoint's addresses have changed, the wire is opened anew");
                // A pod that was made anew has another MAC address too.
                let mac = endpoint.mac;
                let moved_to = self::endpoint(&wire.config, Some(addresses.clone()));
                self.open_anew(index, &wire, moved_to.unwrap_or(Some(Endpoint { mac, addresses })));
                moved = true;
            }
        }
        moved
    }

    fn open_anew(&self, index: usize, wire: &Wire, endpoint: Option<Endpoint>) -> bool {
        self.enforcer.detach(wire.id);
        let attached = self.attach(&wire.config, endpoint.clone());
        let mut wires = lock(&self.wires);
        let Some(wire) = wires.get_mut(index) else { return false };
        wire.endpoint = endpoint;
        match attached {
            Ok((id, stats)) => {
                (wire.id, wire.stats, wire.lost) = (id, stats, None);
                wire.interfaces = interfaces(&wire.config);
                true
            }
            Err(error) => {
                // A wire that stays lost has been told of already.
                if wire.lost.is_none() {
                    error!("{error}; nothing passes until it can be opened");
                }
                wire.lost = Some(error.to_string());
                false
            }
        }
    }

    /// Takes note of a port that is gone.
    pub(super) fn port_lost(&self, id: WireId, side: Direction, errno: i32) {
        let reason = io::Error::from_raw_os_error(errno).to_string();
        self.lose(id, side, &reason);
    }

    fn lose(&self, id: WireId, side: Direction, reason: &str) {
        let mut wires = lock(&self.wires);
        let Some(wire) = wires.iter_mut().find(|wire| wire.id == id && wire.lost.is_none()) else { return };
        let port = match side {
            Direction::Egress => &wire.config.inside,
            Direction::Ingress => &wire.config.outside,
        };
        error!("wire {}: port {port} is lost ({reason}); nothing passes until its interface is back", wire.config.name);
        wire.lost = Some(reason.to_owned());
    }

    /// Finds wires whose interfaces are no longer the ones that their ports were opened on, which a quiet port does not
    /// notice, and tries to open lost wires anew.
    pub(super) fn look_after_wires(&self) {
        for wire in self.wires().iter().filter(|wire| wire.lost.is_none()) {
            for (side, (now, before)) in
                Direction::BOTH.into_iter().zip(interfaces(&wire.config).into_iter().zip(wire.interfaces))
            {
                // What cannot be looked up just now says nothing about the port.
                if now.zip(before).is_some_and(|(now, before)| now != before) {
                    self.lose(wire.id, side, "its interface was removed or made anew");
                }
            }
        }
        self.retry_lost();
    }

    /// Tries to open lost wires anew.
    fn retry_lost(&self) {
        let lost = |(_, wire): &(usize, Wire)| wire.lost.is_some();
        let lost: Vec<_> = self.wires().into_iter().enumerate().filter(lost).collect();
        if lost.is_empty() {
            return;
        }
        let mut rules = lock(&self.rules);
        let mut back = false;
        for (index, wire) in &lost {
            let addresses = wire.endpoint.as_ref().map(|endpoint| endpoint.addresses.clone());
            if let Ok(endpoint) = endpoint(&wire.config, addresses) {
                back |= self.open_anew(*index, wire, endpoint);
            }
        }
        if back {
            self.put_back(&mut rules);
        }
    }

    /// Closes all wires.
    pub(super) fn close(&self) {
        self.stopping.store(true, Ordering::Release);
        for wire in self.wires() {
            self.enforcer.detach(wire.id);
        }
    }
}
