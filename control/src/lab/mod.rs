//! Pods as network namespaces on this machine, each behind a wire, and real connections between them.
//!
//! ```text
//!  Cluster ─▶ World ─▶ Topology (namespaces, cables) ─▶ Engine (a wire each) ─▶ Servers
//!                                                              ▲                   │
//!                                                           policy              Probes ─▶ Matrix
//! ```
//! A lab is one process: the engine's workers, the servers and the probes all run in it, in sockets that were made inside
//! the namespaces. Nothing outlives it ([`instance`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;

use dataplane::port::PortKind;

use self::engine::Engine;
use self::netns::Namespace;
use self::probe::Attempt;
use self::server::Servers;
use self::topology::Topology;
use self::world::{LabPod, World};
use crate::conntrack::asking::LookUp;
use crate::enforcer::Enforcer;
use crate::policy::cluster::Cluster;

mod banner;
pub mod command;
pub mod demo;
mod engine;
mod error;
pub mod expect;
pub mod instance;
pub mod matrix;
pub mod netns;
pub mod probe;
mod proxy;
mod server;
pub mod topology;
mod watch;
pub mod world;

pub use error::{LabError, Result};
pub use matrix::{Look, Matrix, Question};
pub use probe::ProbeOutcome;
pub use world::Family;

pub use crate::daemon::config::NodePort;
pub use crate::policy::probe::Service;

/// How a lab is built.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// The kind of the wires' ports; `None` joins pods and fabric by straight cables, without any enforcement.
    pub port: Option<PortKind>,
    /// Ports that every pod and the outside host shall serve, and that alone are probed; without any, each pod's
    /// container ports are.
    pub probes: Vec<Service>,
    /// External addresses beside those that ipBlocks suggest; no pod or node may have them.
    pub external: Vec<IpAddr>,
    /// Whether the outside host has the addresses of [`world::INTERNET`] too, save those that a pod or node has.
    pub internet: bool,
    /// By whom connections from the pods' own nodes are judged, where there are Services.
    pub node_port: NodePort,
}

impl Default for LabOptions {
    fn default() -> Self {
        LabOptions {
            port: Some(PortKind::AfPacket),
            probes: Vec::new(),
            external: Vec::new(),
            internet: true,
            node_port: NodePort::default(),
        }
    }
}

/// A running lab. [`Lab::stop`], or dropping it, removes everything.
pub struct Lab {
    // Fields are dropped in this order: first what holds sockets in the namespaces, then the namespaces.
    servers: BTreeMap<String, Servers>,
    engine: Option<Engine>,
    topology: Topology,
    world: World,
    options: LabOptions,
    /// Services' rules are in the fabric.
    has_services: bool,
}

/// Somebody who can send and receive: a pod or an external address.
struct Host<'a> {
    name: String,
    namespace: &'a Namespace,
    addresses: Vec<IpAddr>,
    /// Whether its namespace has other hosts' addresses too, so that a sender must say whose it is.
    shared: bool,
    services: Vec<Service>,
}

impl Lab {
    /// Builds a cluster's pods and puts its policies in force. Must be called within a Tokio runtime, and blocks while it
    /// works.
    ///
    /// # Errors
    /// [`LabError::Input`] when the cluster cannot be built, [`LabError::System`] when the system refuses; nothing is
    /// left behind then.
    pub fn start(cluster: &Cluster, options: LabOptions) -> Result<Lab> {
        let world = World::of(cluster, &options.external, options.internet)?;
        let mut lab = Lab::build(world, options)?;
        lab.enforce(cluster)?;
        Ok(lab)
    }

    /// Builds a world whose wires are closed until [`Lab::apply`] brings policies.
    ///
    /// # Errors
    /// As for [`Lab::start`].
    pub fn build(world: World, options: LabOptions) -> Result<Lab> {
        world.check()?;
        allow_many_descriptors();
        let topology = Topology::start(options.port)?;
        let engine = options.port.map(|port| Engine::start(port, options.node_port, &topology)).transpose()?;
        let mut lab =
            Lab { servers: BTreeMap::new(), engine, topology, world: World::default(), options, has_services: false };
        lab.rebuild(world)?;
        Ok(lab)
    }

    /// Goes over to another state of the cluster: pods come, go and change, and its policies are in force when this
    /// returns.
    ///
    /// # Errors
    /// As for [`Lab::start`]; a cluster that cannot be built changes nothing.
    pub fn apply(&mut self, cluster: &Cluster) -> Result<()> {
        self.rebuild(World::of(cluster, &self.options.external, self.options.internet)?)?;
        self.enforce(cluster)
    }

    fn enforce(&mut self, cluster: &Cluster) -> Result<()> {
        let has_services = cluster.services().next().is_some();
        if has_services || self.has_services {
            proxy::set(&self.topology.fabric, cluster)?;
            self.has_services = has_services;
        }
        self.engine.as_mut().map_or(Ok(()), |engine| engine.apply(cluster))
    }

    /// Goes from the world that is to another, without touching policies.
    ///
    /// # Errors
    /// As for [`Lab::start`]. What the system refused is tried again by the next call.
    pub fn rebuild(&mut self, world: World) -> Result<()> {
        world.check()?;
        let own = |pod: &&LabPod| !pod.host_network;
        let stays =
            |old: &LabPod| world.pod(&old.key).is_some_and(|new| !new.host_network && new.addresses == old.addresses);
        let gone: Vec<String> =
            self.world.pods.iter().filter(own).filter(|old| !stays(old)).map(|old| old.key.clone()).collect();
        self.remove_pods(&gone)?;
        self.topology.set_hosts(&world)?;
        let come: Vec<&LabPod> =
            world.pods.iter().filter(own).filter(|new| self.topology.place(&new.key).is_none()).collect();
        let keys: Vec<String> = come.iter().map(|pod| pod.key.clone()).collect();
        if let Err(error) = self.add_pods(&come) {
            // Half a pod would be taken for a whole one by the next call.
            self.remove_pods(&keys)?;
            return Err(error);
        }
        let before = std::mem::replace(&mut self.world, world);
        self.restart_servers(&before)
    }

    fn add_pods(&mut self, pods: &[&LabPod]) -> Result<()> {
        let places = self.topology.add_pods(pods)?;
        if let Some(engine) = &mut self.engine {
            for (pod, place) in pods.iter().zip(&places) {
                engine.attach(&pod.key, place, &self.topology)?;
            }
        }
        self.topology.bring_up(&places)
    }

    fn remove_pods(&mut self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.servers.remove(key);
            if let Some(engine) = &mut self.engine {
                engine.detach(key);
            }
        }
        self.topology.remove_pods(keys)
    }

    /// Servers of hosts that are new, or that serve something else than they did.
    fn restart_servers(&mut self, before: &World) -> Result<()> {
        let mut servers = std::mem::take(&mut self.servers);
        servers.retain(|key, _| match key.as_str() {
            OUTSIDE => {
                before.external == self.world.external && before.external_services == self.world.external_services
            }
            key => self.world.pod(key).is_some_and(|pod| before.pod(key) == Some(pod)),
        });
        let result = self.start_servers(&mut servers);
        self.servers = servers;
        result
    }

    fn start_servers(&self, servers: &mut BTreeMap<String, Servers>) -> Result<()> {
        for host in self.hosts() {
            // The outside host has many names, but serves them all alike.
            let external = self.world.pod(&host.name).is_none();
            let (key, addresses) = if external {
                (OUTSIDE.to_owned(), self.world.external.clone())
            } else {
                (host.name.clone(), host.addresses)
            };
            if servers.contains_key(&key) {
                continue;
            }
            let name = |address: IpAddr| if external { address.to_string() } else { host.name.clone() };
            servers.insert(key, server::serve(host.namespace, &addresses, &host.services, name)?);
        }
        Ok(())
    }

    /// Everybody who can send and receive: pods, then external addresses.
    fn hosts(&self) -> Vec<Host<'_>> {
        let pods = self.world.pods.iter().map(|pod| {
            let place = self.topology.place(&pod.key).filter(|_| !pod.host_network);
            Host {
                name: pod.key.clone(),
                namespace: place.map_or(&self.topology.fabric, |place| &place.namespace),
                addresses: pod.addresses.clone(),
                shared: place.is_none(),
                services: self.services(&pod.services),
            }
        });
        let external = self.world.external.iter().map(|address| Host {
            name: address.to_string(),
            namespace: &self.topology.outside,
            addresses: vec![*address],
            shared: true,
            services: self.services(&self.world.external_services),
        });
        pods.chain(external).collect()
    }

    /// What a host serves: its own ports and those that are to be probed.
    fn services(&self, own: &[Service]) -> Vec<Service> {
        let mut services: Vec<_> = own.iter().chain(&self.options.probes).copied().collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// Tries one connection. `from` and `to` are pods (`namespace/name`) or external addresses.
    ///
    /// # Errors
    /// When either is unknown or has no address of that family.
    pub async fn probe(&self, from: &str, to: &str, service: Service, family: Family) -> Result<ProbeOutcome> {
        let question = Question { from: from.into(), to: to.into(), service, family };
        Ok(self.ask(&[question]).await?.remove(0))
    }

    /// Tries many connections at once; one outcome each, in order.
    ///
    /// # Errors
    /// When an end is unknown or has no address of the family.
    pub async fn ask(&self, questions: &[Question]) -> Result<Vec<ProbeOutcome>> {
        let hosts = self.hosts();
        // Each server is asked once from inside its own namespace, whoever else asks it.
        let controls: BTreeSet<Question> =
            questions.iter().map(|question| Question { from: question.to.clone(), ..question.clone() }).collect();
        let mut attempts = questions.iter().map(|question| attempt(&hosts, question)).collect::<Result<Vec<_>>>()?;
        for question in &controls {
            attempts.push(Attempt { source: None, ..attempt(&hosts, question)? });
        }
        let mut outcomes = probe::run(&attempts).await;
        let proofs = outcomes.split_off(questions.len());
        let proofs: BTreeMap<Question, ProbeOutcome> = controls.into_iter().zip(proofs).collect();
        let backed = questions.iter().zip(outcomes).map(|(question, outcome)| {
            let control = &proofs[&Question { from: question.to.clone(), ..question.clone() }];
            outcome.backed_by(control)
        });
        Ok(backed.collect())
    }

    /// Probes every pair of endpoints, on each port of the receiver and each family that both have.
    ///
    /// # Errors
    /// Never for a world that could be built.
    pub async fn matrix(&self) -> Result<Matrix> {
        let hosts = self.hosts();
        let questions = self.questions(&hosts);
        let outcomes = self.ask(&questions).await?;
        let endpoints = hosts.iter().map(|host| host.name.clone()).collect();
        Ok(Matrix { endpoints, results: questions.into_iter().zip(outcomes).collect() })
    }

    fn questions(&self, hosts: &[Host<'_>]) -> Vec<Question> {
        let mut questions = Vec::new();
        for from in hosts {
            for to in hosts.iter().filter(|to| to.name != from.name) {
                // What external hosts do among themselves is nobody's concern here.
                if from.namespace == to.namespace && from.shared && to.shared {
                    continue;
                }
                let services = if self.options.probes.is_empty() { &to.services } else { &self.options.probes };
                for family in Family::ALL {
                    let has = |host: &Host<'_>| host.addresses.iter().any(|&address| Family::of(address) == family);
                    if has(from) && has(to) {
                        questions.extend(services.iter().map(|&service| Question {
                            from: from.name.clone(),
                            to: to.name.clone(),
                            service,
                            family,
                        }));
                    }
                }
            }
        }
        questions
    }

    /// A command that runs inside a pod's namespace (`outside` for the outside host): add program and arguments.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn command(&self, pod: &str) -> Result<Command> {
        Ok(self.namespace(pod)?.command())
    }

    /// The namespace that a pod's processes run in; `outside` for the outside host's.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn namespace(&self, pod: &str) -> Result<&Namespace> {
        if pod == OUTSIDE {
            return Ok(&self.topology.outside);
        }
        let hosts = self.hosts();
        find(&hosts, pod).map(|host| host.namespace)
    }

    /// Looks connections up in this way from now on instead of asking the kernel, to see what becomes of them when it does not answer.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn answer_with(&mut self, look_up: impl LookUp) -> Result<()> {
        self.engine.as_mut().map_or(Ok(()), |engine| engine.answer_with(look_up))
    }

    /// Whose policies are in force; `None` without enforcement.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.engine.as_ref().and_then(Engine::cluster)
    }

    /// What is built.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The engine; `None` without enforcement.
    pub fn enforcer(&self) -> Option<&Enforcer> {
        self.engine.as_ref().map(Engine::enforcer)
    }

    /// Removes everything, as dropping does.
    pub fn stop(self) {}
}

/// The outside host's name.
pub const OUTSIDE: &str = "outside";

fn find<'a, 'b>(hosts: &'a [Host<'b>], name: &str) -> Result<&'a Host<'b>> {
    hosts.iter().find(|host| host.name == name).ok_or_else(|| {
        let known = hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        LabError::Input(format!("the lab has no '{name}'; it has {known}"))
    })
}

fn address_of(host: &Host<'_>, family: Family) -> Result<IpAddr> {
    host.addresses
        .iter()
        .copied()
        .find(|&address| Family::of(address) == family)
        .ok_or_else(|| LabError::Input(format!("{} has no {} address", host.name, family.name())))
}

fn attempt(hosts: &[Host<'_>], question: &Question) -> Result<Attempt> {
    let (from, to) = (find(hosts, &question.from)?, find(hosts, &question.to)?);
    let source = address_of(from, question.family)?;
    Ok(Attempt {
        namespace: from.namespace.clone(),
        source: from.shared.then_some(source),
        target: address_of(to, question.family)?,
        service: question.service,
        answer: server::answer(&to.name, question.service),
    })
}

/// A matrix has hundreds of sockets open at once; the usual soft limit is 1024.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
