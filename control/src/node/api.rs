//! What `penstock status` and the other commands ask a node: one connection, one request, answers until it is closed.
//!
//! All are lines of JSON on a Unix socket ([`cni::protocol::read`] and [`cni::protocol::write`]). An answer that cannot be given is a
//! line `{"error":"…"}`.

use std::collections::BTreeMap;

use dataplane::flow::FlowInfo;
use serde::{Deserialize, Serialize};

/// Where the daemon listens unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/penstock/api.sock";

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Request {
    /// One [`Status`].
    Status,
    /// A [`PodStatus`] for each pod of the node, by name.
    Pods,
    /// A [`PolicyStatus`] for each policy, by name.
    Policies,
    /// A [`Flow`] for each live flow; with `follow` those that come and go, until the connection is closed.
    Flows {
        /// Go on.
        follow: bool,
        /// Only of this pod (`namespace/name`).
        pod: Option<String>,
    },
    /// Dropped frames: the latest that are kept, then, with `follow`, each new one until the connection is closed. The lines are
    /// those of the log of drops.
    Drops {
        /// Go on.
        follow: bool,
        /// Only of this pod (`namespace/name`).
        pod: Option<String>,
    },
    /// The objects by which this node judges, as manifests, one a line.
    Objects,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Penstock's version.
    pub version: String,
    /// Rules are in force and all pods that are known are carried.
    pub ready: bool,
    /// Why not; and what else an administrator should know: a sentence each.
    pub problems: Vec<String>,
    /// The generation in force.
    pub generation: u64,
    /// Whether the API server has told the whole state since the start.
    pub synced: bool,
    /// Since when the API server cannot be reached, as RFC 3339 time.
    pub disconnected_since: Option<String>,
    /// Objects of the cluster, by kind.
    pub objects: BTreeMap<String, u64>,
    /// Pods behind wires here.
    pub pods: u64,
    /// Pods of the node that no wire guards.
    pub unspliced: Vec<String>,
    /// Live flows, and how many there may be.
    pub flows: [u64; 2],
    /// Workers that should run, and that run.
    pub workers: [u64; 2],
    /// Seconds since the engine and control were started.
    pub uptime: BTreeMap<String, u64>,
    /// How often the engine was started anew since the wirer was.
    pub engine_restarts: u64,
}

/// A pod of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// `namespace/name`.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// The runtime's sandbox.
    pub container: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its wires, each by the pod's interface and the host's.
    pub wires: Vec<[String; 2]>,
    /// Whether its wires are carried.
    pub carried: bool,
    /// Policies that isolate it, for ingress and for egress; `None`: it is open in this direction.
    pub ingress: Option<Vec<String>>,
    /// See `ingress`.
    pub egress: Option<Vec<String>>,
    /// Its live flows.
    pub flows: u64,
    /// Frames dropped, by reason, both directions.
    pub drops: BTreeMap<String, u64>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// `namespace/name`.
    pub policy: String,
    /// `Ingress`, `Egress` or both.
    pub types: Vec<String>,
    /// Pods of this node that it selects, by name.
    pub pods: Vec<String>,
    /// What of it is not understood or not enforced, a sentence each.
    pub problems: Vec<String>,
}

/// A flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// `new`, `end`; without `follow` always `live`.
    pub event: String,
    /// The pod on whose wire it is.
    pub pod: String,
    /// `ingress` or `egress`: the way of its first frame.
    pub direction: String,
    /// The protocol's name.
    pub protocol: String,
    /// Who began it: the address, and the pod or node that has it.
    pub source: [String; 2],
    /// Its port; 0 where there is none.
    pub source_port: u16,
    /// The other end.
    pub destination: [String; 2],
    /// Its port.
    pub destination_port: u16,
    /// Its state.
    pub state: String,
    /// Frames of the originator, and of the other end.
    pub packets: [u64; 2],
    /// Bytes of the originator, and of the other end.
    pub bytes: [u64; 2],
    /// Seconds until it is gone, if nothing comes.
    pub expires_in: u32,
}

impl Flow {
    /// A flow of a wire or pod with this name, with what is known of its ends.
    pub(crate) fn of(event: &str, pod: String, source: [String; 2], destination: [String; 2], flow: &FlowInfo) -> Flow {
        Flow {
            event: event.to_owned(),
            pod,
            direction: flow.direction.name().to_owned(),
            protocol: flow.tuple.protocol.to_string(),
            source,
            source_port: flow.tuple.source_port,
            destination,
            destination_port: flow.tuple.destination_port,
            state: flow.state.name().to_owned(),
            packets: flow.packets,
            bytes: flow.bytes,
            expires_in: flow.expires_in,
        }
    }
}
