//! Splices: made ([`splice`]), looked at ([`verify`], [`scan`]), kept in step with what they stand between ([`follow`]),
//! undone for a pod that goes on ([`unsplice`]) or ends ([`remove`]), and repaired after crashes ([`repair`]).
//!
//! # How one interface is spliced
//! Its end P is moved into a namespace made for the wire, where it keeps its index; a new pair takes its place: in the pod
//! an interface with P's name, index, hardware address, MTU, addresses, routes, neighbours and settings; in the wire
//! namespace the other end Q, with the index of the host's interface H. The host's side is not touched.
//!
//! The cut is from moving P to the end of the replay: about 20 ms for the move, which the kernel does one after another
//! for all pods, and a few for the rest. Connections survive; multicast memberships of running sockets, queueing
//! disciplines and offload settings that somebody gave to the interface inside the pod do not.
//!
//! # What must stay true
//! - Before something is changed, `state.json` says what ([`crate::state::Phase`]); whoever comes next goes on or goes
//!   back. A wire that was being made is finished, not undone, so that a pod never runs without it.
//! - A wire namespace is pinned as long as one of its interfaces is there: it would take both pairs along.
//! - P and Q live together: when one has gone (with H, or with the pod), [`repair`] removes the other.
//! - A pod's interface that could leave the pod without a wire is named by [`scan`].

mod follow;
mod make;
mod recover;
mod scan;
mod undo;
mod verify;

use std::path::Path;
use std::time::Duration;

use crate::error::{Result, SpliceError};
use crate::link::{self, Link};
use crate::netlink::Netlink;
use crate::netns::Namespace;
use crate::state::{PodIdentity, Splice, Wire};

pub use follow::follow;
pub use make::splice;
pub use recover::{Repaired, repair};
pub use scan::{Scan, Unspliced, scan};
pub use undo::{remove, unsplice};
pub use verify::verify;

/// Names of the interfaces in a wire namespace.
const INSIDE: &str = "inside";
const OUTSIDE: &str = "outside";

/// What is to be spliced.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The runtime's name for the sandbox.
    pub container: &'a str,
    /// The pod's network namespace.
    pub netns: &'a Path,
    /// The interface that the runtime asked for: wires made now end with it.
    pub attachment: &'a str,
    /// The network's name in the CNI configuration, if there is one.
    pub network: Option<&'a str>,
    /// The pod.
    pub pod: PodIdentity,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The pod with all its wires.
    pub splice: Splice,
    /// How many of them were made now.
    pub made: usize,
    /// The longest time that one interface was cut off.
    pub cut: Duration,
    /// What could not be done and does not keep the pod from working.
    pub warnings: Vec<String>,
}

/// A pod and its host, with a socket in each.
struct Scene<'a> {
    pod: Namespace,
    in_pod: Netlink,
    host: &'a Namespace,
    on_host: Netlink,
}

impl<'a> Scene<'a> {
    fn open(host: &'a Namespace, pod: Namespace) -> Result<Self> {
        let (in_pod, on_host) = (pod.netlink()?, host.netlink()?);
        Ok(Scene { pod, in_pod, host, on_host })
    }

    /// The pod of a splice, if its namespace is still the one that was spliced.
    fn of(splice: &Splice, host: &'a Namespace) -> Result<Option<Self>> {
        match Namespace::open(&splice.sandbox.path) {
            Ok(pod) if pod.identity() == splice.sandbox.identity => Scene::open(host, pod).map(Some),
            _ => Ok(None),
        }
    }

    /// Pairs that lead from the pod to the host with nothing between, each with its end on the host.
    fn direct_pairs(&mut self) -> Result<Vec<(Link, Link)>> {
        // In this order: the kernel numbers a namespace when it first tells of an interface whose peer is there.
        let links = link::all(&mut self.in_pod)?;
        let Some(host_number) = link::namespace_number(&mut self.in_pod, self.host)? else { return Ok(Vec::new()) };
        let leads_to_host = |link: &Link| link.is_veth() && link.peer_namespace == Some(host_number);
        let mut pairs = Vec::new();
        for end in links.into_iter().filter(leads_to_host) {
            let Some(peer) = end.peer else { continue };
            let host_end = link::by_index(&mut self.on_host, peer)?;
            pairs.extend(host_end.filter(Link::is_veth).map(|host_end| (end, host_end)));
        }
        Ok(pairs)
    }

    /// Whether a wire's end P is, again or still, in the pod.
    fn has_original(&mut self, wire: &Wire) -> Result<bool> {
        Ok(self.direct_pairs()?.iter().any(|(end, peer)| (end.index, peer.index) == (wire.index, wire.host_index)))
    }
}

/// A wire's namespaces, with a socket in each.
struct Between {
    inside: Namespace,
    outside: Namespace,
    in_inside: Netlink,
    in_outside: Netlink,
}

impl Between {
    fn new(inside: Namespace, outside: Namespace) -> Result<Self> {
        let (in_inside, in_outside) = (inside.netlink()?, outside.netlink()?);
        Ok(Between { inside, outside, in_inside, in_outside })
    }

    /// Those that are pinned. None if one of them is not there (any more).
    fn open(wire: &Wire) -> Result<Option<Self>> {
        match (Namespace::open(&wire.inside.netns), Namespace::open(&wire.outside.netns)) {
            (Ok(inside), Ok(outside)) => Between::new(inside, outside).map(Some),
            (Err(SpliceError::Namespace { .. }), _) | (_, Err(SpliceError::Namespace { .. })) => Ok(None),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Q, if it is there.
    fn inner(&mut self, wire: &Wire) -> Result<Option<Link>> {
        Ok(link::by_index(&mut self.in_inside, wire.inside.index)?.filter(Link::is_veth))
    }

    /// P, if it is there.
    fn outer(&mut self, wire: &Wire) -> Result<Option<Link>> {
        Ok(link::by_index(&mut self.in_outside, wire.outside.index)?.filter(Link::is_veth))
    }
}

/// A hardware address as people write it.
fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
