//! Frontends: addresses with a port that stand for others, their *backends*. Somebody behind the wire rewrites the one to one of the others, as
//! kube-proxy does with a Service, so that a packet that an endpoint sends there does not show whom it will reach. It is judged by what its
//! backends are judged, never by the address that it has.
//!
//! Which hosts there are is part of it: some frontends are a port of every host (a Service's node port), and a source that is another host
//! is a reason of its own when it is dropped ([`DropReason::OtherNode`](crate::verdict::DropReason::OtherNode)).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::packet::Protocol;
use crate::rules::{Action, Decision, Query};

/// Where a frontend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// At this address.
    Address(Address),
    /// At any address of that family of any host.
    Hosts {
        /// IPv6.
        v6: bool,
    },
}

/// An address, or all hosts, with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frontend {
    /// Where.
    pub place: Place,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// One that a frontend stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Its address.
    pub address: Address,
    /// The port there.
    pub port: u16,
}

/// In what frontends are to be other than before: what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendChange {
    /// Frontends that are new or have other backends. With none it is left to whoever rewrites to refuse.
    pub set: Vec<(Frontend, Arc<[Backend]>)>,
    /// Frontends that are gone.
    pub gone: Vec<Frontend>,
    /// The addresses of all hosts, if they are other ones.
    pub hosts: Option<Arc<[Address]>>,
    /// Those of the host on which this runs, if they are other ones.
    pub own: Option<Arc<[Address]>>,
    /// Whether a packet passes when only some of its frontend's backends are allowed and nobody can tell which one it reaches, if
    /// that is another answer.
    pub mixed: Option<bool>,
}

impl FrontendChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == FrontendChange::default()
    }
}

/// What a frontend's backends are judged together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Together {
    /// All are allowed, or there are none.
    Allowed(Decision),
    /// None is.
    Denied(Decision),
    /// Some are; the decision about one that is not.
    Mixed(Decision),
}

/// All frontends. It never changes once it is published.
#[derive(Clone, Debug, Default)]
pub struct Frontends {
    backends: HashMap<Frontend, Arc<[Backend]>>,
    hosts: HashSet<Address>,
    own: HashSet<Address>,
    mixed_pass: bool,
}

impl Frontends {
    /// Takes over a change; with `whole`, what was before is forgotten first.
    pub fn apply(&mut self, change: &FrontendChange, whole: bool) {
        if whole {
            *self = Frontends::default();
        }
        for frontend in &change.gone {
            self.backends.remove(frontend);
        }
        self.backends.extend(change.set.iter().cloned());
        if let Some(hosts) = &change.hosts {
            self.hosts = hosts.iter().copied().collect();
        }
        if let Some(own) = &change.own {
            self.own = own.iter().copied().collect();
        }
        self.mixed_pass = change.mixed.unwrap_or(self.mixed_pass);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }

    /// Whether an address is a host's.
    pub fn is_host(&self, address: Address) -> bool {
        self.hosts.contains(&address)
    }

    /// Whether an address is the own host's.
    pub fn is_own(&self, address: Address) -> bool {
        self.own.contains(&address)
    }

    /// Whether packets pass of which nobody can tell whether they reach an allowed backend.
    pub fn mixed_pass(&self) -> bool {
        self.mixed_pass
    }

    /// The backends of the frontend that a packet is sent to.
    pub fn find(&self, address: Address, protocol: Protocol, port: u16) -> Option<&[Backend]> {
        if self.backends.is_empty() {
            return None;
        }
        let at = |place| self.backends.get(&Frontend { place, protocol, port });
        let found = at(Place::Address(address));
        found
            .or_else(|| if self.is_host(address) { at(Place::Hosts { v6: !address.is_v4() }) } else { None })
            .map(|backends| &**backends)
    }
}

/// Judges a packet to a frontend by all of its backends. `own` is the address that it comes from: nobody is kept from itself.
pub fn judge_together(
    backends: &[Backend],
    question: Query,
    own: Address,
    mut judge: impl FnMut(Query) -> Decision,
) -> Together {
    let (mut allowed, mut denied) = (None, None);
    for backend in backends {
        let decision = if backend.address == own {
            Decision::OPEN
        } else {
            judge(Query { peer: backend.address, port: backend.port, ..question })
        };
        match decision.action {
            Action::Allow | Action::Pass => allowed.get_or_insert(decision),
            Action::Deny | Action::Ask(_) | Action::Reject(_) | Action::Course => denied.get_or_insert(decision),
        };
        if let (Some(_), Some(denied)) = (allowed, denied) {
            return Together::Mixed(denied);
        }
    }
    match (allowed, denied) {
        (_, Some(denied)) => Together::Denied(denied),
        (allowed, None) => Together::Allowed(allowed.unwrap_or(Decision::OPEN)),
    }
}
