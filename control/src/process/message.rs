//! What the processes say to each other.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use cni::protocol::Pod;
use dataplane::address::Address;
use dataplane::event::Event;
use dataplane::flow::FlowInfo;
use dataplane::frontend::FrontendChange;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::publish::{Change, Generation};
use dataplane::rules::{Chain, GroupId, Policy, WireId, WireRules};
use dataplane::wire::Tracking;
use serde::{Deserialize, Serialize};

use crate::conntrack::asking::Counts;
use crate::node::wirer::{Notice, Sandbox};

/// Wirer to dataplane.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToDataplane {
    /// The first message; with a file of flows for each worker.
    Start {
        /// For each worker its CPU, if it is pinned.
        workers: Vec<Option<usize>>,
        /// Flows a worker.
        flows: usize,
        /// Until when, in nanoseconds of CLOCK_MONOTONIC, connections are picked up midway.
        mid_stream: Option<u64>,
    },
    /// With a socket to control, which takes the place of the one before.
    Link,
    /// With the sockets of a wire: towards the endpoint, and towards everything else.
    Ports { wire: WireId, devices: [String; 2], mtus: [usize; 2], serial: u64 },
    /// With a socket to whoever looks connections up ([`crate::conntrack::remote`]).
    LookUp,
    /// A wire is no more.
    Drop(WireId),
    /// To be answered when every worker has been heard.
    Ping(u64),
}

/// Dataplane to wirer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromDataplane {
    /// Workers run, and the process has shut itself in.
    Ready,
    /// The answer.
    Pong(u64),
    /// It could not start.
    Failed(String),
}

/// Wirer to control.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToControl {
    /// The first message; with the listening sockets for the plugin and for people.
    Start { file: PathBuf, text: String, workers: usize },
    /// With a socket to the dataplane, which takes the place of the one before.
    Link,
    /// Something happened.
    Notice(Notice),
    /// The answer to a request of this number.
    Answer(u64, Result<Answer, String>),
}

/// Control to wirer: a request, numbered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) ask: Ask,
}

/// What control may ask the wirer for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Open the sockets of a wire and hand them to the dataplane.
    Open {
        wire: WireId,
        ends: [End; 2],
    },
    /// Close them.
    Close(WireId),
    Spliced,
    Unspliced,
    Chained,
    Splice(Sandbox),
}

/// A device of a wire, as control names it: only what is written down on the node is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) netns: PathBuf,
    pub(super) interface: String,
}

/// What the wirer answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    /// The serial number of the wire's sockets.
    Opened(u64),
    Pods(Vec<Pod>),
    Chained(bool),
    Sandboxes(Vec<Sandbox>),
    Pod(Pod),
}

/// Control to dataplane. One at a time, each answered by one [`Told`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Engine {
    Change(Rules),
    /// With the serial number of its sockets ([`Answer::Opened`]), which come by another channel.
    Attach(WireId, u64, Carried),
    Detach(WireId),
    Wires,
    Events(usize),
    Flows,
    /// Forget the flows of an address.
    Flush(Address),
    Workers,
    /// What the workers asked.
    Asks,
}

/// How a wire is carried, beside its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) name: String,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) permissions: Permissions,
    pub(super) tracking: Tracking,
}

/// The dataplane's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Done,
    Generation(Generation),
    Found(bool),
    Wires(Vec<Counted>),
    Events(Vec<Event>, u64),
    Flows(Vec<FlowInfo>),
    Flushed(usize),
    Workers(usize, Vec<usize>),
    Asks(Counts),
    Refused(String),
}

/// A wire with what it counts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) wire: WireId,
    pub(super) name: String,
    pub(super) workers: Vec<usize>,
    pub(super) values: Vec<u64>,
    pub(super) warnings: Vec<String>,
}

/// A [`Change`] on its way. A chain that wires share is told once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rules {
    pub(super) whole: bool,
    chains: Vec<Arc<Chain>>,
    /// Each wire with its egress and its ingress: none is open, otherwise the number of a chain.
    wires: Vec<(WireId, [Option<u32>; 2])>,
    gone: Vec<WireId>,
    members: Vec<(Address, Arc<[GroupId]>)>,
    frontends: FrontendChange,
}

impl Rules {
    /// A change, to be sent.
    ///
    /// # Errors
    /// When a wire has a gateway's list of rules, which a node's never has.
    pub(super) fn of(change: &Change) -> Result<Rules, String> {
        let mut chains: Vec<Arc<Chain>> = Vec::new();
        let mut numbers: HashMap<*const Chain, u32> = HashMap::new();
        let mut number = |policy: &Policy| match policy {
            Policy::Open => Ok(None),
            Policy::Chain(chain) => Ok(Some(*numbers.entry(Arc::as_ptr(chain)).or_insert_with(|| {
                chains.push(chain.clone());
                chains.len() as u32 - 1
            }))),
            Policy::List(_) | Policy::Stateful(_) => Err("a list of rules is a gateway's and no pod's".to_owned()),
        };
        let wires =
            change.wires.iter().map(|rules| Ok((rules.wire, [number(&rules.egress)?, number(&rules.ingress)?])));
        let wires = wires.collect::<Result<_, String>>()?;
        let (gone, members) = (change.gone.clone(), change.members.clone());
        Ok(Rules { whole: change.whole, chains, wires, gone, members, frontends: change.frontends.clone() })
    }

    /// The change, with its chains shared as they were.
    ///
    /// # Errors
    /// When a number is no chain's.
    pub(super) fn into_change(self) -> Result<Change, String> {
        let policy = |number: Option<u32>| match number {
            None => Ok(Policy::Open),
            Some(number) => match self.chains.get(number as usize) {
                Some(chain) => Ok(Policy::Chain(chain.clone())),
                None => Err(format!("there is no chain {number}")),
            },
        };
        let wires = self.wires.iter().map(|&(wire, [egress, ingress])| {
            Ok(WireRules { wire, egress: policy(egress)?, ingress: policy(ingress)? })
        });
        let wires = wires.collect::<Result<_, String>>()?;
        let Rules { whole, gone, members, frontends, .. } = self;
        Ok(Change { whole, wires, gone, members, frontends })
    }
}

#[cfg(test)]
mod tests {
    use dataplane::rules::{Action, AddressSet, Peers, PortRange, Rule, RuleId, Services, Tier};

    use super::*;

    #[test]
    fn a_change_arrives_as_it_was_with_its_chains_shared() {
        let set = Arc::new(AddressSet::from_iter([Address::v4([10, 0, 0, 1])]));
        let protocol = dataplane::packet::Protocol::TCP;
        let rule = |peers| Rule {
            action: Action::Allow,
            log: true,
            peers,
            services: Services::Ports(vec![PortRange { protocol, first: 80, last: 90 }]),
            id: RuleId(7),
        };
        let rules = vec![rule(Peers::Set(set)), rule(Peers::Group(GroupId(3))), rule(Peers::Any)];
        let chain = Arc::new(Chain { tiers: vec![Tier { rules, default: Action::Deny }] });
        let wires = (0..110).map(|wire| WireRules {
            wire: WireId(wire),
            egress: Policy::Open,
            ingress: Policy::Chain(chain.clone()),
        });
        let change = Change {
            whole: true,
            wires: wires.collect(),
            gone: vec![WireId(200)],
            members: vec![(Address::v4([10, 0, 0, 2]), Arc::from([GroupId(3)]))],
            frontends: FrontendChange {
                hosts: Some(Arc::from([Address::v4([10, 0, 0, 3])])),
                ..FrontendChange::default()
            },
        };
        let bytes = postcard::to_stdvec(&Rules::of(&change).unwrap()).unwrap();
        assert!(bytes.len() < 1024, "{} bytes: the chain is told more than once", bytes.len());
        let back = postcard::from_bytes::<Rules>(&bytes).unwrap().into_change().unwrap();
        assert_eq!(back, change);
        let shared = |rules: &WireRules| match &rules.ingress {
            Policy::Chain(chain) => Arc::as_ptr(chain),
            _ => panic!("no chain"),
        };
        assert_eq!(shared(&back.wires[0]), shared(&back.wires[109]));
    }
}
