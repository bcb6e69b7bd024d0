//! What the CNI plugin asks: pods come, are checked, and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cni::protocol::{Call, Outcome, Pod, Reason};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::core::Core;
use super::pods::{self, Carrying, Local, LocalWire};
use crate::policy::cluster::ObjectName;

/// How long a pod may take until it is answered: less than the plugin waits.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the watch has to tell of a pod before the API server is asked for it.
const WATCH_FIRST: Duration = Duration::from_secs(2);

/// Where an answer goes.
pub(super) type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// A pod that is waited for.
pub(super) struct Adding {
    /// Its sandbox.
    pub(super) container: String,
    since: Instant,
    /// The API server was asked for it.
    looked_up: bool,
    /// What the API server said, if that is the end of it.
    refused: Option<String>,
    reply: Reply,
}

/// A refusal.
pub(super) fn refused(reason: Reason, message: impl Into<String>) -> Outcome {
    Outcome::Refused { reason, message: message.into() }
}

impl Core {
    /// Does what the plugin asks; the answer may come later.
    pub(super) fn call(&mut self, call: Call, reply: Reply) {
        match call {
            Call::Add(pod) => self.add(pod, reply),
            Call::Remove { container, interfaces } => self.remove(&container, &interfaces, reply),
            Call::Check(pod) => reply(self.check(&pod)),
            Call::Status => reply(match self.not_ready() {
                None => Outcome::Done,
                Some(why) => refused(Reason::Later, why),
            }),
        }
    }

    /// A pod comes, or is told of again.
    pub(super) fn add(&mut self, pod: Pod, reply: Reply) {
        if pod.pod.namespace.is_empty() || pod.pod.name.is_empty() {
            let message = "the runtime does not say which pod this is (CNI_ARGS has no K8S_POD_NAMESPACE and K8S_POD_NAME), so \
                           no policy can be found for it";
            return reply(refused(Reason::Failed, message));
        }
        if pod.wires.is_empty() {
            return reply(refused(Reason::Failed, "there is no wire; the splice made none"));
        }
        self.take_in(&pod);
        let adding = Adding { container: pod.container, since: Instant::now(), looked_up: false, refused: None, reply };
        self.adding.push(adding);
    }

    /// Takes note of a sandbox and all its wires. Wires that are not as they were are made anew.
    pub(super) fn take_in(&mut self, pod: &Pod) {
        let mut gone = Vec::new();
        let local = self.locals.entry(pod.container.clone()).or_insert_with(|| Local::new(pod));
        (local.name, local.uid) = (ObjectName::new(&pod.pod.namespace, &pod.pod.name), pod.pod.uid.as_str().into());
        local.wires.retain(|interface, wire| {
            let stays = pod.wires.iter().any(|told| told.interface == *interface && *told == wire.told);
            if !stays {
                gone.push(wire.id);
                self.numbers.forget(&pod.container, interface);
            }
            stays
        });
        for told in &pod.wires {
            local.wires.entry(told.interface.clone()).or_insert_with(|| LocalWire {
                told: told.clone(),
                id: self.numbers.of(&pod.container, &told.interface),
                carrying: Carrying::Not,
            });
        }
        let (name, uid) = (local.name.clone(), Arc::clone(&local.uid));
        self.detach(gone, None);
        self.moved = true;
        self.assign(&name, &uid);
    }

    /// Tells the cluster's state which addresses the pod has here, and has those forgotten that were somebody else's.
    fn assign(&mut self, name: &ObjectName, uid: &Arc<str>) {
        let mine = |local: &&Local| local.name == *name && local.uid == *uid;
        let mut addresses: Vec<_> = self.locals.values().filter(mine).flat_map(Local::addresses).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let touched = self.source.assign(name, uid, &addresses);
        self.touch(touched);
        let reused = |address: &&std::net::IpAddr| {
            self.last_owners.insert(**address, Arc::clone(uid)).is_some_and(|before| before != *uid)
        };
        let reused: Vec<_> = addresses.iter().filter(reused).copied().collect();
        if !reused.is_empty() {
            // The flows of the old owner on wires of others; its own went with its wires.
            let flushed: usize = reused.into_iter().map(|address| self.node.engine.flush(address.into())).sum();
            tracing::debug!(pod = %name, flushed, "addresses have a new owner");
        }
    }

    fn remove(&mut self, container: &str, interfaces: &[String], reply: Reply) {
        let Some(local) = self.locals.get_mut(container) else { return reply(Outcome::Done) };
        let (name, uid) = (local.name.clone(), Arc::clone(&local.uid));
        let mut gone = Vec::new();
        local.wires.retain(|interface, wire| {
            let ends = interfaces.is_empty() || interfaces.contains(interface);
            if ends {
                gone.push(wire.id);
                self.numbers.forget(container, interface);
            }
            !ends
        });
        if local.wires.is_empty() {
            self.locals.remove(container);
        }
        info!(pod = %name, container, wires = gone.len(), "wires closed");
        self.moved = true;
        self.assign(&name, &uid);
        self.detach(gone, Some(reply));
    }

    /// Forgets a sandbox that is no more.
    pub(super) fn forget(&mut self, container: &str) {
        self.remove(container, &[], Box::new(|_| ()));
    }

    /// Has the engine let go of wires, then answers.
    fn detach(&self, wires: Vec<dataplane::rules::WireId>, reply: Option<Reply>) {
        if wires.is_empty() && reply.is_none() {
            return;
        }
        let engine = Arc::clone(&self.node.engine);
        spawn_blocking(move || {
            for wire in wires {
                // One that is gone already is as good.
                let _was_there = engine.detach(wire);
            }
            if let Some(reply) = reply {
                reply(Outcome::Done);
            }
        });
    }

    fn check(&self, pod: &Pod) -> Outcome {
        let named = format!("pod {}/{} (container {})", pod.pod.namespace, pod.pod.name, pod.container);
        let Some(local) = self.locals.get(&pod.container) else {
            return refused(
                Reason::Unknown,
                format!("{named} is not behind wires of this daemon; delete it to have it made anew"),
            );
        };
        if !self.cluster().is_some_and(|cluster| local.is_known(cluster)) {
            return refused(Reason::Unknown, format!("the API server does not know {named}: nothing passes"));
        }
        let carried = |told: &cni::protocol::PodWire| {
            let wire = local.wires.get(&told.interface);
            wire.is_some_and(|wire| wire.told == *told && wire.carrying == Carrying::Done)
        };
        match pod.wires.iter().find(|wire| !carried(wire)) {
            None => Outcome::Done,
            Some(wire) => refused(Reason::Unknown, format!("interface {} of {named} is not carried", wire.interface)),
        }
    }

    /// Has all wires attached whose rules are in force.
    pub(super) fn attach_known(&mut self) {
        let Some(cluster) = self.source.cluster().filter(|_| self.told) else { return };
        let mut waiting = Vec::new();
        for local in self.locals.values_mut().filter(|local| local.is_known(cluster)) {
            for wire in local.wires.values_mut().filter(|wire| wire.carrying == Carrying::Not) {
                wire.carrying = Carrying::Begun(self.engine);
                waiting.push((local.container.clone(), wire.told.clone(), wire.id));
            }
        }
        if waiting.is_empty() {
            return;
        }
        // An engine that outlived the control before carries them still.
        let carried = self.node.engine.wires();
        for (container, told, id) in waiting {
            let (node, engine) = (Arc::clone(&self.node), self.engine);
            if carried.contains_key(&id) {
                self.attached(&container, id, engine, Ok(()));
                continue;
            }
            spawn_blocking(move || {
                let attached = pods::spec(&container, &told)
                    .and_then(|spec| node.engine.attach(id, &spec).map_err(|error| error.to_string()));
                node.tell(move |core| core.attached(&container, id, engine, attached));
            });
        }
    }

    /// A wire was attached, or not.
    fn attached(&mut self, container: &str, id: dataplane::rules::WireId, engine: u64, result: Result<(), String>) {
        let wire = self.locals.get_mut(container).and_then(|local| local.wires.values_mut().find(|wire| wire.id == id));
        let Some(wire) = wire else {
            // It was removed meanwhile.
            return self.detach(vec![id], None);
        };
        if wire.carrying != Carrying::Begun(engine) {
            return;
        }
        match result {
            Ok(()) => wire.carrying = Carrying::Done,
            Err(reason) => {
                warn!(container, interface = wire.told.interface, "a wire is not carried, nothing passes: {reason}");
                wire.carrying = Carrying::Failed(reason);
            }
        }
    }

    /// Answers those who wait, as far as there is an answer.
    pub(super) fn answer_adds(&mut self) {
        let mut waiting = Vec::new();
        for mut adding in std::mem::take(&mut self.adding) {
            match self.outcome(&mut adding) {
                None => waiting.push(adding),
                Some(outcome) => {
                    let took = adding.since.elapsed();
                    if let Some(local) = self.locals.get(&adding.container).filter(|_| outcome == Outcome::Done) {
                        self.node.counts.adds.observe(took.as_secs_f64());
                        info!(pod = %local.name, container = adding.container, wires = local.wires.len(), ?took, "pod behind wires");
                    }
                    (adding.reply)(outcome);
                }
            }
        }
        waiting.append(&mut self.adding);
        self.adding = waiting;
    }

    fn outcome(&mut self, adding: &mut Adding) -> Option<Outcome> {
        let Some(local) = self.locals.get(&adding.container) else {
            return Some(refused(Reason::Failed, "the pod was removed while it was added"));
        };
        if let Some(reason) = adding.refused.take() {
            return Some(refused(Reason::Failed, reason));
        }
        let known = self.source.cluster().is_some_and(|cluster| local.is_known(cluster));
        let ready = known && self.told && !self.moved;
        if ready && local.is_carried() {
            return Some(Outcome::Done);
        }
        let failure = local.wires.values().find_map(|wire| match &wire.carrying {
            Carrying::Failed(reason) => Some(format!("interface {}: {reason}", wire.told.interface)),
            _ => None,
        });
        if let Some(failure) = failure.filter(|_| ready) {
            return Some(refused(Reason::Failed, failure));
        }
        let waited = adding.since.elapsed();
        if waited >= PATIENCE {
            let message = match (self.not_ready(), known) {
                (Some(why), _) => why,
                (None, false) => format!("the API server has not told of pod {} (UID {}) yet", local.name, local.uid),
                (None, true) => "the pod's wires are not carried yet".to_owned(),
            };
            return Some(refused(Reason::Later, message));
        }
        if !known && waited >= WATCH_FIRST && self.source.is_synced() && !std::mem::replace(&mut adding.looked_up, true)
        {
            self.look_up(local.name.clone(), adding.container.clone());
        }
        None
    }

    /// Asks the API server for a pod of which the watch has not told.
    fn look_up(&self, name: ObjectName, container: String) {
        let (lookup, node) = (self.source.lookup(), Arc::clone(&self.node));
        tokio::spawn(async move {
            let answer = lookup.pod(&name).await;
            node.tell(move |core| match answer {
                Ok(Some(found)) => core.source.learn(found),
                Ok(None) => {
                    let adding = core.adding.iter_mut().find(|adding| adding.container == container);
                    if let Some(adding) = adding {
                        let reason = format!("the API server knows no pod {name}: it was deleted meanwhile");
                        adding.refused = Some(reason);
                    }
                }
                // The watch may tell of it yet.
                Err(trouble) => warn!("pod {name}: {trouble}"),
            });
        });
    }

    /// Counts a call that was answered.
    pub(super) fn count(outcome: &Outcome, calls: &[std::sync::atomic::AtomicU64; 3]) {
        let place = match outcome {
            Outcome::Done => 0,
            Outcome::Refused { reason: Reason::Later, .. } => 1,
            Outcome::Refused { .. } => 2,
        };
        calls[place].fetch_add(1, Ordering::Relaxed);
    }
}
