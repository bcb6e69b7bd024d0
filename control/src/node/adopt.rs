//! Pods that are there already, wires that are lost, engines that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::protocol::{Outcome, Pod};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::core::Core;
use super::pods::Carrying;
use super::wirer::{Notice, Sandbox};
use crate::daemon::config::RunningPods;
use crate::policy::cluster::ObjectName;

/// A sandbox that the node does not know (any more) is forgotten after this time: it may be about to be written down.
const YOUNG: Duration = Duration::from_secs(20);

/// What looking around found.
#[derive(Debug, Default)]
pub(super) struct Scans {
    /// All wires of the node were read at least once.
    pub(super) read: bool,
    reading: bool,
    /// The node was searched for pods without wires.
    pub(super) searched: bool,
    searching: bool,
    /// To be searched again as soon as rules are in force.
    pub(super) when_ready: bool,
    /// Sandboxes without wires, as they were found last, with the pod's name.
    pub(super) unspliced: BTreeMap<String, ObjectName>,
    /// Those of which has been told.
    said: BTreeSet<String>,
    /// Sandboxes with wires that were not known here when they were seen last.
    strangers: BTreeSet<String>,
}

impl Core {
    /// Reads which pods are behind wires.
    pub(super) fn begin(&mut self) {
        self.read_spliced();
    }

    /// Compares what is known with what there is.
    pub(super) fn look_around(&mut self) {
        self.read_spliced();
        self.search();
    }

    fn read_spliced(&mut self) {
        if std::mem::replace(&mut self.scans.reading, true) {
            return;
        }
        let node = Arc::clone(&self.node);
        spawn_blocking(move || {
            let found = node.wirer.spliced();
            node.tell(move |core| core.found_spliced(found));
        });
    }

    fn found_spliced(&mut self, found: Result<Vec<Pod>, String>) {
        self.scans.reading = false;
        let pods = match found {
            Ok(pods) => pods,
            Err(reason) => {
                let sentence = format!("which pods are behind wires cannot be found out: {reason}; it is tried again");
                return self.problem("wires", sentence);
            }
        };
        self.solved("wires");
        let first = !std::mem::replace(&mut self.scans.read, true);
        let mut strangers = BTreeSet::new();
        for pod in &pods {
            // One that is just being made is told of by the plugin, before it is seen twice.
            let stranger = !self.locals.contains_key(&pod.container);
            if stranger && (first || self.scans.strangers.contains(&pod.container)) && !pod.wires.is_empty() {
                self.take_in(pod);
            } else if stranger {
                strangers.insert(pod.container.clone());
            }
        }
        self.scans.strangers = strangers;
        let there: BTreeSet<&str> = pods.iter().map(|pod| pod.container.as_str()).collect();
        let gone = self.locals.values().filter(|local| !there.contains(local.container.as_str()));
        let gone: Vec<_> =
            gone.filter(|local| local.since.elapsed() > YOUNG).map(|local| local.container.clone()).collect();
        for container in gone {
            self.forget(&container);
        }
        if first {
            info!(pods = pods.len(), "pods behind wires are known");
            self.search();
        }
    }

    /// Searches the node for pods without wires.
    pub(super) fn search(&mut self) {
        if std::mem::replace(&mut self.scans.searching, true) {
            return;
        }
        let node = Arc::clone(&self.node);
        spawn_blocking(move || {
            let found = node.wirer.unspliced();
            node.tell(move |core| core.found_unspliced(found));
        });
    }

    fn found_unspliced(&mut self, found: Result<Vec<Sandbox>, String>) {
        self.scans.searching = false;
        let sandboxes = match found {
            Ok(sandboxes) => sandboxes,
            Err(reason) => {
                let sentence =
                    format!("whether pods without wires run here cannot be found out: {reason}; it is tried again");
                return self.problem("search", sentence);
            }
        };
        self.solved("search");
        let first = !std::mem::replace(&mut self.scans.searched, true);
        let before = std::mem::take(&mut self.scans.unspliced);
        let mut adopted = Vec::new();
        for sandbox in sandboxes {
            let name = ObjectName::new(&sandbox.pod.namespace, &sandbox.pod.name);
            let on_host = |core: &Core| core.cluster()?.pod(&name).map(|pod| pod.host_network);
            if on_host(self) == Some(true)
                || self.locals.get(&sandbox.container).is_some_and(|local| !local.wires.is_empty())
            {
                continue;
            }
            // One that is just being made is not: it is seen twice, or was there before Penstock.
            let stays = first || before.contains_key(&sandbox.container);
            self.scans.unspliced.insert(sandbox.container.clone(), name);
            if stays && self.node.own.pods == RunningPods::Adopt {
                adopted.push(sandbox);
            }
        }
        self.scans.said.retain(|container| self.scans.unspliced.contains_key(container));
        match self.node.own.pods {
            RunningPods::Adopt => self.adopt(adopted),
            RunningPods::Leave => self.say_unspliced(),
        }
    }

    fn say_unspliced(&mut self) {
        for (container, name) in &self.scans.unspliced {
            if self.scans.said.insert(container.clone()) {
                warn!("pod {name} runs without a wire: no policy holds for it until it is made anew (pods: leave)");
            }
        }
    }

    /// Puts running pods behind wires that the rules can know, one after the other.
    fn adopt(&mut self, sandboxes: Vec<Sandbox>) {
        let ready = self.not_ready().is_none();
        let known = |sandbox: &Sandbox| {
            let name = ObjectName::new(&sandbox.pod.namespace, &sandbox.pod.name);
            let pod = self.cluster().and_then(|cluster| cluster.pod(&name));
            pod.is_some_and(|pod| sandbox.pod.uid.is_empty() || pod.uid.as_deref() == Some(&*sandbox.pod.uid))
        };
        let (known, unknown): (Vec<_>, Vec<_>) = sandboxes.into_iter().partition(|sandbox| ready && known(sandbox));
        if !ready && !unknown.is_empty() {
            self.scans.when_ready = true;
        }
        if known.is_empty() {
            return;
        }
        self.scans.searching = true;
        let node = Arc::clone(&self.node);
        spawn_blocking(move || {
            for sandbox in known {
                let began = Instant::now();
                let spliced = node.wirer.splice(&sandbox);
                let took = began.elapsed();
                node.tell(move |core| core.adopted(&sandbox, spliced, took));
            }
            node.tell(|core| core.scans.searching = false);
        });
    }

    fn adopted(&mut self, sandbox: &Sandbox, spliced: Result<Pod, String>, took: Duration) {
        let (container, name) = (sandbox.container.clone(), ObjectName::new(&sandbox.pod.namespace, &sandbox.pod.name));
        match spliced {
            Ok(pod) => {
                self.scans.unspliced.remove(&container);
                self.scans.said.remove(&container);
                info!(pod = %name, container, ?took, "running pod spliced");
                self.add(
                    pod,
                    Box::new(move |outcome| {
                        if let Outcome::Refused { message, .. } = outcome {
                            warn!("pod {name} was put behind wires, and nothing passes yet: {message}");
                        }
                    }),
                );
            }
            Err(reason) => {
                if self.scans.said.insert(container) {
                    warn!(
                        "running pod {name} cannot be put behind wires, no policy holds for it: {reason}; it is tried again"
                    );
                }
            }
        }
    }

    /// Something happened on the wirer's side.
    pub(super) fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::EngineStarted => {
                info!("the engine has started");
                self.node.counts.engines.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.engine += 1;
                self.engine_since = Instant::now();
                self.solved("engine");
                self.forget_told();
            }
            Notice::EngineLost(reason) => {
                error!("the engine is gone ({reason}); nothing passes until a new one has taken over");
                self.problem("engine", format!("the engine is gone: {reason}"));
                self.engine += 1;
                self.forget_told();
            }
            Notice::WireGone(wire) => self.wire_lost(wire, "its devices are gone"),
            Notice::Warning(sentence) => warn!("{sentence}"),
        }
    }

    /// There may be an engine that knows neither rules nor wires.
    fn forget_told(&mut self) {
        self.told = false;
        self.tell_again = Instant::now();
        for wire in self.locals.values_mut().flat_map(|local| local.wires.values_mut()) {
            wire.carrying = Carrying::Not;
        }
    }

    /// Nothing passes on a wire any more.
    pub(super) fn wire_lost(&mut self, id: dataplane::rules::WireId, reason: &str) {
        let mut wires = self.locals.values_mut().flat_map(|local| {
            let name = &local.name;
            local.wires.values_mut().map(move |wire| (name, wire))
        });
        let Some((name, wire)) = wires.find(|(_, wire)| wire.id == id) else { return };
        if matches!(wire.carrying, Carrying::Failed(_)) {
            return;
        }
        info!(pod = %name, interface = wire.told.interface, "a wire is lost: {reason}");
        wire.carrying = Carrying::Failed(reason.to_owned());
        let engine = Arc::clone(&self.node.engine);
        spawn_blocking(move || engine.detach(id));
        self.read_spliced();
    }
}
