//! What the numbers of rules mean to people.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dataplane::packet::Direction;
use dataplane::rules::{RuleId, WireId};

use super::super::cluster::ObjectName;

/// A rule's place in the objects that people wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RulePlace {
    /// In none: the pod's own node always reaches it.
    OwnNode,
    /// In a NetworkPolicy.
    NetworkPolicy {
        /// Which.
        policy: ObjectName,
        /// Its `ingress` or its `egress`.
        direction: Direction,
        /// Which rule of that list, from 0.
        rule: usize,
        /// Which peer of the rule; `None` where the rule names none.
        peer: Option<usize>,
        /// Which port of the rule, where that port has a name; `None` stands for all of the rule's numbers.
        port: Option<usize>,
    },
}

/// Where a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrigin {
    /// Its place.
    pub place: RulePlace,
    /// Its peers in words: selectors as `kubectl get -l` writes them, or a block.
    pub peers: String,
}

/// What the numbers of rules mean, and who isolates whom. It goes with the rule set with which it was made, and with
/// those before it as long as their rules are still there.
#[derive(Clone, Debug, Default)]
pub struct RuleTable {
    pub(super) origins: BTreeMap<RuleId, RuleOrigin>,
    pub(super) isolating: HashMap<(WireId, Direction), Arc<[ObjectName]>>,
}

impl RuleTable {
    /// How many rules it knows, those that are gone among them until it is made anew.
    pub(in crate::policy) fn len(&self) -> usize {
        self.origins.len()
    }

    /// Forgets who isolates what is behind a wire.
    pub(in crate::policy) fn forget(&mut self, wire: WireId) {
        Direction::BOTH.into_iter().for_each(|direction| drop(self.isolating.remove(&(wire, direction))));
    }

    /// Where a rule comes from.
    pub fn origin(&self, id: RuleId) -> Option<&RuleOrigin> {
        self.origins.get(&id)
    }

    /// A rule in a few words: `japp/allow-jnginx ingress[0]`, `own-node`.
    pub fn describe(&self, id: RuleId) -> String {
        match self.origins.get(&id).map(|origin| &origin.place) {
            Some(RulePlace::OwnNode) => "own-node".to_owned(),
            Some(RulePlace::NetworkPolicy { policy, direction, rule, .. }) => {
                format!("{policy} {}[{rule}]", direction.name())
            }
            None => format!("rule {}", id.0),
        }
    }

    /// The policies that isolate a wire's endpoint in a direction, by name; none where it is open.
    pub fn isolating(&self, wire: WireId, direction: Direction) -> &[ObjectName] {
        self.isolating.get(&(wire, direction)).map_or(&[], |policies| policies)
    }
}
