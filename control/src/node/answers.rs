//! What people ask: the answers of `api.sock`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use cni::protocol;
use dataplane::flow::FlowInfo;
use dataplane::packet::{Direction, Tuple};
use dataplane::rules::WireId;
use dataplane::stats::WireStats;
use dataplane::verdict::DropReason;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Flow, PodStatus, PolicyStatus, Request, Status};
use super::core::Core;
use super::shared::Node;
use crate::policy::cluster::NetworkPolicy;
use crate::sockets::say;

/// How often flows are listed for who follows them.
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// Answers one connection.
pub(super) fn serve(node: &Arc<Node>, stream: &UnixStream) {
    let request = match protocol::read::<Request>(stream) {
        Ok(request) => request,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let _told =
                fail(stream, &format!("the request cannot be read: {error}; use the penstock of the same release"));
            return;
        }
        Err(_) => return,
    };
    let _there = match request {
        Request::Status => all(node, stream, |core| vec![core.status()]),
        Request::Pods => all(node, stream, |core| core.pods()),
        Request::Policies => all(node, stream, |core| core.policies()),
        Request::Objects => all(node, stream, |core| core.source.manifests()),
        Request::Flows { follow, pod } => flows(node, stream, follow, pod.as_deref()),
        Request::Drops { follow, pod } => drops(node, stream, follow, pod.as_deref()),
    };
}

/// Says that there is no answer; whether the caller is there still.
fn fail(stream: &UnixStream, reason: &str) -> bool {
    say(stream, &json!({ "error": reason }))
}

fn all<T: serde::Serialize + Send + 'static>(
    node: &Node,
    stream: &UnixStream,
    question: impl FnOnce(&mut Core) -> Vec<T> + Send + 'static,
) -> bool {
    match node.ask(question) {
        Some(lines) => lines.iter().all(|line| say(stream, line)),
        None => fail(stream, "control is busy or ends; try again"),
    }
}

fn drops(node: &Node, stream: &UnixStream, follow: bool, pod: Option<&str>) -> bool {
    let (latest, mut lines) = node.drops.follow();
    let is_asked_for = |line: &Value| pod.is_none_or(|pod| line["pod"] == pod);
    let tell = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(line) if is_asked_for(&line) => say(stream, &line),
        _ => true,
    };
    if !latest.iter().all(|line| tell(line)) {
        return false;
    }
    while follow && !node.is_stopping() {
        match lines.try_recv() {
            Ok(line) if !tell(&line) => return false,
            // Too slow: what was missed is in the log.
            Ok(_) | Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::TryRecvError::Closed) => return true,
            Err(tokio::sync::broadcast::error::TryRecvError::Empty) if is_gone(stream) => return false,
            Err(tokio::sync::broadcast::error::TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    true
}

/// Whether the caller has closed the connection: it says nothing after its request.
fn is_gone(stream: &UnixStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0u8; 1];
    matches!(recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 0)))
}

/// What tells a flow from another.
type FlowKey = (WireId, Direction, Tuple);

fn key(flow: &FlowInfo) -> FlowKey {
    (flow.wire, flow.direction, flow.tuple)
}

fn flows(node: &Node, stream: &UnixStream, follow: bool, pod: Option<&str>) -> bool {
    let mut before: Option<HashMap<FlowKey, FlowInfo>> = None;
    loop {
        let listed = match node.engine.flows() {
            Ok(flows) => flows,
            Err(error) => return fail(stream, &error.to_string()),
        };
        let now: HashMap<FlowKey, FlowInfo> = listed.iter().map(|flow| (key(flow), *flow)).collect();
        let news: Vec<(&'static str, FlowInfo)> = match &before {
            None => listed.iter().map(|flow| (if follow { "new" } else { "live" }, *flow)).collect(),
            Some(before) => {
                let gone = before.values().filter(|flow| !now.contains_key(&key(flow))).map(|flow| ("end", *flow));
                let new = listed.iter().filter(|flow| !before.contains_key(&key(flow))).map(|flow| ("new", *flow));
                gone.chain(new).collect()
            }
        };
        before = Some(now);
        if !news.is_empty() {
            let Some(lines) = node.ask(move |core| core.name_flows(&news)) else {
                return fail(stream, "control is busy or ends; try again");
            };
            let mut asked = lines.iter().filter(|line| pod.is_none_or(|pod| line.pod == pod));
            if !asked.all(|line| say(stream, line)) {
                return false;
            }
        }
        if !follow {
            return true;
        }
        for _ in 0..10 {
            if node.is_stopping() || is_gone(stream) {
                return false;
            }
            std::thread::sleep(LIST_AGAIN / 10);
        }
    }
}

impl Core {
    fn status(&self) -> Status {
        let count = |count: usize| count as u64;
        let reasons = self.unready();
        let mut problems = reasons.clone();
        problems.extend(self.problems.values().filter(|problem| !reasons.contains(problem)).cloned());
        let mut unspliced: Vec<String> = self.scans.unspliced.values().map(ToString::to_string).collect();
        unspliced.sort_unstable();
        let objects = self.cluster().map_or_else(BTreeMap::new, |cluster| {
            BTreeMap::from([
                ("namespaces".to_owned(), count(cluster.namespaces().count())),
                ("nodes".to_owned(), count(cluster.nodes().count())),
                ("pods".to_owned(), count(cluster.pods().count())),
                ("policies".to_owned(), count(cluster.policies().count())),
                ("services".to_owned(), count(cluster.services().count())),
            ])
        });
        let (workers, dead) = self.node.engine.workers();
        let flows = self.node.engine.wires().values().map(|wire| wire.stats.flows.get()).sum();
        let engines = self.node.counts.engines.load(std::sync::atomic::Ordering::Relaxed);
        let since = [("control", self.node.started), ("engine", self.engine_since)];
        Status {
            node: self.node.own.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: reasons.is_empty(),
            problems,
            generation: self.node.engine.generation().0,
            synced: self.source.is_synced(),
            disconnected_since: self
                .lost_since
                .and_then(|since| Timestamp::try_from(since).ok())
                .map(|at| format!("{at:.0}")),
            objects,
            pods: count(self.locals.values().filter(|local| local.is_carried()).count()),
            unspliced,
            flows: [flows, count(self.node.config.flows * workers)],
            workers: [count(workers), count(workers.saturating_sub(dead.len()))],
            uptime: since.into_iter().map(|(what, since)| (what.to_owned(), since.elapsed().as_secs())).collect(),
            engine_restarts: engines.saturating_sub(1),
        }
    }

    fn pods(&self) -> Vec<PodStatus> {
        let running = self.node.engine.wires();
        let mut pods: Vec<_> = self
            .locals
            .values()
            .map(|local| {
                let stats: Vec<&WireStats> =
                    local.wires.values().filter_map(|wire| running.get(&wire.id)).map(|wire| &*wire.stats).collect();
                let wire = local.wires.values().next().map(|wire| wire.id);
                let isolating = |direction| {
                    let policies = self.isolating(wire?, direction);
                    Some(policies).filter(|policies| !policies.is_empty())
                };
                let mut addresses: Vec<String> = local.addresses().map(|address| address.to_string()).collect();
                addresses.dedup();
                PodStatus {
                    pod: local.name.to_string(),
                    uid: local.uid.to_string(),
                    container: local.container.clone(),
                    addresses,
                    wires: local
                        .wires
                        .iter()
                        .map(|(interface, wire)| [interface.clone(), wire.told.host_interface.clone()])
                        .collect(),
                    carried: local.is_carried(),
                    ingress: isolating(Direction::Ingress),
                    egress: isolating(Direction::Egress),
                    flows: stats.iter().map(|stats| stats.flows.get()).sum(),
                    drops: drops_of(&stats),
                }
            })
            .collect();
        pods.sort_by(|a, b| (&a.pod, &a.container).cmp(&(&b.pod, &b.container)));
        pods
    }

    fn policies(&self) -> Vec<PolicyStatus> {
        let Some(cluster) = self.cluster() else { return Vec::new() };
        let status = |policy: &NetworkPolicy| {
            let here = self.locals.values().filter(|local| local.name.namespace == policy.name.namespace);
            let pods = here.filter_map(|local| cluster.pod(&local.name));
            let selected = pods.filter(|pod| policy.pods.matches(&pod.labels)).map(|pod| pod.name.to_string());
            let direction = |direction, name: &str| policy.rules(direction).map(|_| name.to_owned());
            let name = policy.name.to_string();
            PolicyStatus {
                types: [direction(Direction::Ingress, "Ingress"), direction(Direction::Egress, "Egress")]
                    .into_iter()
                    .flatten()
                    .collect(),
                pods: selected.collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
                problems: self.not_understood.get(&name).cloned().unwrap_or_default(),
                policy: name,
            }
        };
        cluster.policies().map(status).collect()
    }

    fn name_flows(&self, flows: &[(&'static str, FlowInfo)]) -> Vec<Flow> {
        let wires: HashMap<WireId, String> = self
            .locals
            .values()
            .flat_map(|local| local.wires.values().map(|wire| (wire.id, local.name.to_string())))
            .collect();
        let end = |address: IpAddr, behind: Option<String>| {
            let owner = Some(self.owner(address).text()).filter(|owner| !owner.is_empty());
            let texts: Vec<String> = owner.into_iter().chain(behind).collect();
            [address.to_string(), texts.join(", ")]
        };
        // What the far end's address stands for.
        let behind = |flow: &FlowInfo| {
            let far = |tuple: Tuple| match flow.direction {
                Direction::Egress => (tuple.destination, tuple.destination_port),
                Direction::Ingress => (tuple.source, tuple.source_port),
            };
            let behind = self.behind(flow.direction, &flow.tuple, flow.judged_as.map(far))?;
            Some(behind.text())
        };
        let ends = |flow: &FlowInfo| {
            let (of_source, of_destination) = match flow.direction {
                Direction::Egress => (None, behind(flow)),
                Direction::Ingress => (behind(flow), None),
            };
            (end(flow.tuple.source.into(), of_source), end(flow.tuple.destination.into(), of_destination))
        };
        let flow = |(event, flow): &(&'static str, FlowInfo)| {
            let (source, destination) = ends(flow);
            let pod = wires.get(&flow.wire).cloned().unwrap_or_else(|| format!("wire {}", flow.wire.0));
            Flow::of(event, pod, source, destination, flow)
        };
        flows.iter().map(flow).collect()
    }
}

/// Dropped frames of some wires by reason, both directions.
fn drops_of(stats: &[&WireStats]) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for stats in stats {
        for direction in Direction::BOTH {
            for &reason in DropReason::ALL {
                let count = stats.direction(direction).dropped(reason).get();
                if count > 0 {
                    *drops.entry(reason.label().to_owned()).or_default() += count;
                }
            }
        }
    }
    drops
}
