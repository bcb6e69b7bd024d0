//! What a change of policies or pods newly allows and newly denies.
//!
//! Two states are asked about every pair of ends that both know: pods, nodes, and addresses outside that stand for all
//! others like them. The ports are cut where any rule of either state begins or ends, so that one question answers for
//! a whole range: nothing that changes is missed, and what is printed are ranges.

mod sample;

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use dataplane::packet::{Direction, Protocol};
use dataplane::rules::PortRange;
use serde::{Serialize, Serializer};

use super::cluster::{Cluster, ObjectName};
use super::judge::Judge;
use super::probe::{Probe, Service, Target};

/// One pair of ends whose answer changes on some ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who opens the connection.
    pub from: Target,
    /// To whom.
    pub to: Target,
    /// On which ports; ranges of one protocol neither touch nor overlap.
    #[serde(serialize_with = "as_texts")]
    pub ports: Vec<PortRange>,
}

/// What changes between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Denied before, allowed now.
    pub newly_allowed: Vec<Change>,
    /// Allowed before, denied now.
    pub newly_denied: Vec<Change>,
    /// Pods that only the new state has; nothing is said about them.
    #[serde(serialize_with = "as_texts")]
    pub pods_added: Vec<ObjectName>,
    /// Pods that only the old state has.
    #[serde(serialize_with = "as_texts")]
    pub pods_removed: Vec<ObjectName>,
}

impl Difference {
    /// Whether no answer changes.
    pub fn is_empty(&self) -> bool {
        self.newly_allowed.is_empty() && self.newly_denied.is_empty()
    }
}

fn as_texts<T: TextElement, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(TextElement::text))
}

/// What is written as text in JSON.
trait TextElement {
    fn text(&self) -> String;
}

impl TextElement for ObjectName {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl TextElement for PortRange {
    /// `TCP/80`, `TCP/80-90`, `TCP/*`.
    fn text(&self) -> String {
        match (self.first, self.last) {
            (0 | 1, u16::MAX) => format!("{}/*", self.protocol),
            (first, last) if first == last => format!("{}/{first}", self.protocol),
            (first, last) => format!("{}/{first}-{last}", self.protocol),
        }
    }
}

/// Compares two states, on the given ports or, if there are none, on all.
pub fn diff(old: &Cluster, new: &Cluster, services: &[Service]) -> Difference {
    let ranges = if services.is_empty() { sample::port_ranges([old, new]) } else { single_ports(services) };
    let pods = |cluster: &Cluster| -> BTreeSet<ObjectName> {
        cluster.pods().filter(|pod| pod.phase != super::cluster::Phase::Finished).map(|pod| pod.name.clone()).collect()
    };
    let (old_pods, new_pods) = (pods(old), pods(new));
    let mut difference = Difference {
        pods_added: new_pods.difference(&old_pods).cloned().collect(),
        pods_removed: old_pods.difference(&new_pods).cloned().collect(),
        ..Difference::default()
    };
    let pods = old_pods.intersection(&new_pods).cloned().map(Target::Pod);
    let addresses = sample::addresses([old, new]).into_iter().map(Target::Address);
    let ends: Vec<_> = pods.chain(addresses).collect();
    let judges = (Judge::new(old), Judge::new(new));
    for from in &ends {
        for to in &ends {
            if matches!((from, to), (Target::Address(_), Target::Address(_))) {
                continue;
            }
            compare(&judges, from, to, &ranges, &mut difference);
        }
    }
    difference
}

fn single_ports(services: &[Service]) -> Vec<PortRange> {
    let services: BTreeSet<_> = services.iter().copied().collect();
    let range = |Service { protocol, port }| PortRange { protocol, first: port, last: port };
    services.into_iter().map(range).collect()
}

/// Asks both states about one pair.
fn compare(
    (old, new): &(Judge<'_>, Judge<'_>),
    from: &Target,
    to: &Target,
    ranges: &[PortRange],
    difference: &mut Difference,
) {
    let mut allowed = Vec::new();
    let mut denied = Vec::new();
    for &range in ranges {
        let service = Service { protocol: range.protocol, port: range.first };
        let probe = Probe { from: from.clone(), to: to.clone(), service, via: None };
        // Ends that have no address, or none of a common family, do not speak in either state.
        let (Ok(before), Ok(after)) = (old.answer(&probe), new.answer(&probe)) else { continue };
        match (before.is_allowed(), after.is_allowed()) {
            (false, true) => append(&mut allowed, range),
            (true, false) => append(&mut denied, range),
            _ => {}
        }
    }
    let change = |ports| Change { from: from.clone(), to: to.clone(), ports };
    if !allowed.is_empty() {
        difference.newly_allowed.push(change(allowed));
    }
    if !denied.is_empty() {
        difference.newly_denied.push(change(denied));
    }
}

/// Appends a range, joined with the last one if they touch.
fn append(ranges: &mut Vec<PortRange>, range: PortRange) {
    match ranges.last_mut() {
        Some(last) if last.protocol == range.protocol && last.last.checked_add(1) == Some(range.first) => {
            last.last = range.last;
        }
        _ => ranges.push(range),
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (title, changes) in [("newly allowed", &self.newly_allowed), ("newly denied", &self.newly_denied)] {
            if !changes.is_empty() {
                writeln!(f, "{title}:")?;
            }
            for change in changes {
                let ports: Vec<_> = change.ports.iter().map(TextElement::text).collect();
                writeln!(f, "  {} → {}  {}", change.from, change.to, ports.join(", "))?;
            }
        }
        if self.is_empty() {
            writeln!(f, "no answer changes")?;
        }
        for (title, pods) in [("only in the new", &self.pods_added), ("only in the old", &self.pods_removed)] {
            if !pods.is_empty() {
                let pods: Vec<_> = pods.iter().map(ToString::to_string).collect();
                writeln!(f, "{title}: pods {}", pods.join(", "))?;
            }
        }
        Ok(())
    }
}

/// The protocols that rules can name.
const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// Whether an address is of a pod, in either state.
fn is_of_a_pod(clusters: [&Cluster; 2], address: IpAddr) -> bool {
    clusters.iter().any(|cluster| cluster.owner(address).is_some())
}

/// All rules of all policies.
fn all_rules(clusters: [&Cluster; 2]) -> impl Iterator<Item = &super::cluster::PolicyRule> {
    let policies = clusters.into_iter().flat_map(Cluster::policies);
    policies.flat_map(|policy| Direction::BOTH.into_iter().flat_map(|way| policy.rules(way).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
