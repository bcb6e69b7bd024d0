//! [`Core`]: the state of a node's control, and what becomes of news from the API server.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use dataplane::publish::Change;
use dataplane::rules::asked;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::adding::Adding;
use super::adopt::Scans;
use super::chain::Chain;
use super::numbers::Numbers;
use super::pods::{self, Carrying, Further, Local};
use super::proxy::Rewriting;
use super::shared::{Ask, Node};
use super::wirer::Notice;
use crate::daemon::config::{NodePort, ServiceMixed};
use crate::enforcer::EnforcerError;
use crate::kubernetes::{Batch, Report, Source, Update};
use crate::policy::cluster::{Cluster, Touched};
use crate::policy::live::LiveRules;
use crate::policy::resolve::OwnNode;

/// How often what waits is looked at: deadlines, wires that could not be attached, rules that did not come through.
const TICK: Duration = Duration::from_millis(500);
/// How often wires that could not be attached are tried again, and the node's wires compared with what is known.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// How soon rules that did not come through are told again.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// The state of control. It is one task's.
pub(super) struct Core {
    pub(super) node: Arc<Node>,
    pub(super) source: Source,
    pub(super) live: LiveRules,
    /// Whether who is behind the node's address can be found out.
    pub(super) rewriting: Rewriting,
    further: Further,
    /// Sandboxes with wires, by the runtime's name.
    pub(super) locals: BTreeMap<String, Local>,
    pub(super) numbers: Numbers,
    pub(super) adding: Vec<Adding>,
    pub(super) scans: Scans,
    pub(super) chain: Chain,
    /// What was touched since the rules were told last.
    pub(super) touched: Touched,
    /// Wires came or went since then.
    pub(super) moved: bool,
    /// The engine that there is has all rules.
    pub(super) told: bool,
    /// Engines so far.
    pub(super) engine: u64,
    pub(super) engine_since: Instant,
    /// What is not as it should be, by what it is about, a sentence each.
    pub(super) problems: BTreeMap<String, String>,
    /// Since when the API server is lost.
    pub(super) lost_since: Option<SystemTime>,
    /// What policies say that is not understood, by `namespace/name`.
    pub(super) not_understood: BTreeMap<String, Vec<String>>,
    /// Whose an address of this node was last, by UID.
    pub(super) last_owners: HashMap<IpAddr, Arc<str>>,
    /// Not before this, if they did not come through.
    pub(super) tell_again: Instant,
    look_after: Instant,
}

impl Core {
    /// A core that knows nothing yet.
    pub(super) fn new(node: Arc<Node>, source: Source) -> Core {
        let (numbers, trouble) = Numbers::read(&node.own.paths.wires());
        let mut core = Core {
            node,
            source,
            live: LiveRules::new(OwnNode::Allow),
            rewriting: Rewriting::default(),
            further: Further::default(),
            locals: BTreeMap::new(),
            numbers,
            adding: Vec::new(),
            scans: Scans::default(),
            chain: Chain::default(),
            touched: Touched::default(),
            moved: false,
            told: false,
            engine: 0,
            engine_since: Instant::now(),
            problems: BTreeMap::new(),
            lost_since: None,
            not_understood: BTreeMap::new(),
            last_owners: HashMap::new(),
            tell_again: Instant::now(),
            look_after: Instant::now() + LOOK_AFTER,
        };
        core.live.set_own_node(core.own_node());
        if let Some(trouble) = trouble {
            core.problem("wires.json", trouble);
        }
        core
    }

    /// Attends to everything until the node stops; gives itself back.
    pub(super) async fn run(mut self, mut asks: UnboundedReceiver<Ask>, notices: UnboundedReceiver<Notice>) -> Core {
        // Kept, so that a channel that has ended only says nothing.
        let (_silent, none) = unbounded_channel();
        let mut notices = notices;
        self.begin();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut none = Some(none);
        while !self.node.is_stopping() {
            let mut heard = None;
            tokio::select! {
                update = self.source.next() => heard = self.updated(update),
                Some(ask) = asks.recv() => {
                    ask(&mut self);
                    while let Ok(ask) = asks.try_recv() {
                        ask(&mut self);
                    }
                }
                notice = notices.recv() => match notice {
                    Some(notice) => self.noticed(notice),
                    None => notices = none.take().unwrap_or(notices),
                },
                _ = tick.tick() => self.tick(),
            }
            self.settle(heard);
        }
        self
    }

    /// Ends watching, and keeps the state.
    pub(super) async fn close(self) {
        if let Some(report) = self.source.close().await {
            warn!("{report}");
        }
    }

    /// Says once that something is wrong.
    pub(super) fn problem(&mut self, about: &str, sentence: String) {
        if self.problems.get(about) != Some(&sentence) {
            warn!("{sentence}");
            self.problems.insert(about.to_owned(), sentence);
        }
    }

    /// It is no longer wrong.
    pub(super) fn solved(&mut self, about: &str) {
        if let Some(sentence) = self.problems.remove(about) {
            info!("no longer: {sentence}");
        }
    }

    /// Takes news; when the first of it was heard, if it is to be measured.
    fn updated(&mut self, update: Update) -> Option<Instant> {
        match update {
            Update::Restored(batch, written) => {
                let age = written.elapsed().unwrap_or_default();
                info!(objects = batch.changes, age = ?age, "the cluster's last state is restored, and holds until the API server answers");
                self.take(batch);
            }
            Update::Synced(batch) => {
                info!(objects = batch.changes, took = ?batch.received.elapsed(), "the API server has told the whole state");
                self.take(batch);
            }
            Update::Changed(batch) => {
                let received = batch.received;
                self.take(batch);
                return Some(received);
            }
            Update::Connected => {
                self.lost_since = None;
                let about: Vec<_> = self.problems.keys().filter(|about| about.starts_with("api")).cloned().collect();
                about.iter().for_each(|about| self.solved(about));
            }
            Update::Disconnected { since, trouble } => {
                self.node.counts.disconnections.fetch_add(1, Ordering::Relaxed);
                self.lost_since.get_or_insert(since);
                let sentence = format!("{trouble}; until then the last known state is enforced");
                self.problem(&format!("api {}", trouble.label()), sentence);
            }
            Update::Report(report) => self.report(&report),
        }
        None
    }

    fn report(&mut self, report: &Report) {
        warn!("{report}");
        let (about, problems) = match report {
            Report::PolicyInPart { policy, problems } => (policy, problems.clone()),
            Report::Refused { object, problems } => (object, problems.clone()),
            Report::Pruned { policy, .. } => (policy, vec![report.to_string()]),
            Report::DropsEndPort { .. } | Report::StateIgnored { .. } | Report::StateNotKept { .. } => return,
        };
        self.not_understood.insert(about.name.to_string(), problems);
    }

    fn take(&mut self, batch: Batch) {
        for policy in &batch.touched.policies {
            // Told again, before this, if it is still so.
            if self.source.cluster().is_none_or(|cluster| cluster.policy(policy).is_none()) {
                self.not_understood.remove(&policy.to_string());
            }
        }
        self.touch(batch.touched);
    }

    /// Takes note of the addresses that this node has.
    pub(super) fn host_has(&mut self, addresses: &[IpAddr]) {
        let touched = self.source.node_has(&self.node.own.name, addresses);
        self.touch(touched);
    }

    /// Something was touched that the rules are to follow.
    pub(super) fn touch(&mut self, touched: Touched) {
        self.touched.pods.extend(touched.pods);
        self.touched.addresses.extend(touched.addresses);
        self.touched.namespaces.extend(touched.namespaces);
        self.touched.nodes.extend(touched.nodes);
        self.touched.policies.extend(touched.policies);
        self.touched.services.extend(touched.services);
    }

    /// After all that is there was heard: tells the rules, attaches wires, answers calls.
    pub(super) fn settle(&mut self, heard: Option<Instant>) {
        if self.source.cluster().is_some() {
            if let Err(sentence) = self.numbers.write() {
                self.problem("wires.json", sentence);
            }
            self.tell_rules(heard);
            self.attach_known();
            if self.told && std::mem::take(&mut self.scans.when_ready) {
                self.search();
            }
            self.look_at_chain(false);
        }
        self.answer_adds();
    }

    /// What holds for connections from the node's own address.
    pub(super) fn own_node(&self) -> OwnNode {
        match self.node.own.node_port {
            NodePort::OriginalClient if self.rewriting.is_seen() => OwnNode::Ask(asked::CLIENT),
            NodePort::PostSnat if self.rewriting.is_seen() => OwnNode::Ask(asked::HOST),
            _ => OwnNode::Allow,
        }
    }

    /// Tells the engine what is different.
    fn tell_rules(&mut self, heard: Option<Instant>) {
        if self.told && !self.moved && self.touched == Touched::default() {
            return;
        }
        // An engine that carries wires already lets go of those that the first whole rules do not name: all must be known.
        if !self.told && (!self.scans.read || Instant::now() < self.tell_again) {
            return;
        }
        let Some(cluster) = self.source.cluster() else { return };
        let began = Instant::now();
        let touched = std::mem::take(&mut self.touched);
        self.moved = false;
        let (firsts, further) = pods::endpoints(self.locals.values(), cluster);
        let mut change = match self.told {
            true => self.live.update_with(cluster, &touched, firsts),
            false => self.live.start(cluster, firsts),
        };
        self.further.complete(&mut change, further);
        if change.frontends.hosts.is_some() {
            let own = cluster.node(&self.node.own.name).map_or(&[][..], |node| &node.all_addresses);
            change.frontends.own = Some(own.iter().map(|&address| address.into()).collect());
        }
        if change.whole {
            change.frontends.mixed = Some(self.node.own.service_mixed == ServiceMixed::Allow);
        }
        if change == Change::default() {
            return;
        }
        let (wires, addresses) = (change.wires.len(), change.members.len());
        match self.node.engine.change(&change) {
            Ok(generation) => {
                if !std::mem::replace(&mut self.told, true) {
                    info!(generation = generation.0, wires, addresses, "the rules are in force");
                }
                tracing::debug!(generation = generation.0, wires, addresses, "rules changed");
                self.node.counts.apply.observe(began.elapsed().as_secs_f64());
                if let Some(heard) = heard {
                    self.node.counts.delay.observe(heard.elapsed().as_secs_f64());
                }
                self.solved("rules");
            }
            Err(error) => self.not_told(&error),
        }
    }

    fn not_told(&mut self, error: &EnforcerError) {
        self.live.distrust();
        self.told = false;
        self.tell_again = Instant::now() + TELL_AGAIN;
        self.problem("rules", format!("the rules are not in force on all workers: {error}; they are told again"));
    }

    /// The wire whose rules a wire has: that of its pod's first one.
    pub(super) fn first_of(&self, wire: dataplane::rules::WireId) -> dataplane::rules::WireId {
        self.further.first_of(wire)
    }

    /// The cluster, if anything whole is known.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.source.cluster()
    }

    fn tick(&mut self) {
        if !self.scans.read {
            self.begin();
        }
        if Instant::now() < self.look_after {
            return;
        }
        self.look_after = Instant::now() + LOOK_AFTER;
        for wire in self.locals.values_mut().flat_map(|local| local.wires.values_mut()) {
            if matches!(wire.carrying, Carrying::Failed(_)) {
                wire.carrying = Carrying::Not;
            }
        }
        self.tell_conflicts();
        self.look_at_chain(true);
        self.look_around();
    }

    /// Addresses that several live pods claim: the newest has it, which may be wrong.
    fn tell_conflicts(&mut self) {
        let Some(cluster) = self.cluster() else { return };
        let stays = |name: &&crate::policy::cluster::ObjectName| cluster.pod(name).is_some_and(|pod| !pod.terminating);
        let sentences: BTreeMap<String, String> = cluster
            .address_conflicts()
            .into_iter()
            .filter(|conflict| conflict.pods.iter().filter(stays).count() > 1)
            .map(|conflict| {
                let pods: Vec<_> = conflict.pods.iter().map(ToString::to_string).collect();
                let (about, newest) = (format!("address {}", conflict.address), pods.last().cloned().unwrap_or_default());
                let sentence = format!(
                    "{} is claimed by pods {}: policies take it for that of {newest}, the newest; see what the primary CNI gave out",
                    conflict.address,
                    pods.join(" and ")
                );
                (about, sentence)
            })
            .collect();
        let past: Vec<_> = self.problems.keys().filter(|about| about.starts_with("address ")).cloned().collect();
        past.iter().filter(|about| !sentences.contains_key(*about)).for_each(|about| self.solved(about));
        sentences.into_iter().for_each(|(about, sentence)| self.problem(&about, sentence));
    }

    /// Whether pods may come, and why not.
    pub(super) fn not_ready(&self) -> Option<String> {
        if self.source.cluster().is_none() {
            let why = self.problems.iter().find(|(about, _)| about.starts_with("api"));
            let why = why.map_or_else(|| "the API server has not answered yet".to_owned(), |(_, why)| why.clone());
            return Some(format!("the cluster's policies are not known yet: {why}"));
        }
        if !self.told {
            let why = self.problems.get("rules").or_else(|| self.problems.get("engine"));
            return Some(why.cloned().unwrap_or_else(|| "no rules are in force yet".to_owned()));
        }
        None
    }

    /// Pods that are known and not carried, beside those that are being added.
    pub(super) fn not_carried(&self) -> Vec<String> {
        let Some(cluster) = self.cluster() else { return Vec::new() };
        let adding = |local: &Local| self.adding.iter().any(|adding| adding.container == local.container);
        let left =
            self.locals.values().filter(|local| local.is_known(cluster) && !local.is_carried() && !adding(local));
        left.map(|local| {
            let why = local.wires.values().find_map(|wire| match &wire.carrying {
                Carrying::Failed(why) => Some(why.as_str()),
                _ => None,
            });
            format!(
                "pod {}: its wires are not carried yet{}",
                local.name,
                why.map(|why| format!(": {why}")).unwrap_or_default()
            )
        })
        .collect()
    }
}
