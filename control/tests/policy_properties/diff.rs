//! A difference is exact: of all connections, those change and no others.

use std::collections::HashMap;

use control::policy::cluster::Cluster;
use control::policy::diff::{Change, diff};
use control::policy::oracle;
use control::policy::probe::{Probe, Service, Target};
use dataplane::packet::Protocol;
use proptest::prelude::*;

use crate::worlds;

/// The same world with some policies taken away.
fn without(cluster: &Cluster, mask: u16) -> Cluster {
    let mut changed = cluster.clone();
    for (index, policy) in cluster.policies().enumerate() {
        if mask & 1 << index != 0 {
            changed.remove_policy(&policy.name);
        }
    }
    changed
}

fn says(changes: &HashMap<(Target, Target), &Change>, probe: &Probe) -> bool {
    changes.get(&(probe.from.clone(), probe.to.clone())).is_some_and(|change| {
        change.ports.iter().any(|range| {
            range.protocol == probe.service.protocol && (range.first..=range.last).contains(&probe.service.port)
        })
    })
}

fn by_pair(changes: &[Change]) -> HashMap<(Target, Target), &Change> {
    let by_pair: HashMap<_, _> =
        changes.iter().map(|change| ((change.from.clone(), change.to.clone()), change)).collect();
    assert_eq!(by_pair.len(), changes.len(), "a pair comes twice");
    by_pair
}

/// Asks about every pair of ends that is known, on every given port: what is said to change changes, and nothing else.
fn check(old: &Cluster, new: &Cluster, ports: &[u16]) -> Result<usize, TestCaseError> {
    let difference = diff(old, new, &[]);
    let (allowed, denied) = (by_pair(&difference.newly_allowed), by_pair(&difference.newly_denied));
    // The addresses that were asked about are unknown here unless something changed; pods are known.
    let changed = allowed.keys().chain(denied.keys()).flat_map(|(from, to)| [from.clone(), to.clone()]);
    let pods = old.pods().map(|pod| Target::Pod(pod.name.clone()));
    let mut ends: Vec<_> = changed.chain(pods).collect();
    ends.sort_unstable();
    ends.dedup();
    for from in &ends {
        for to in &ends {
            if matches!((from, to), (Target::Address(_), Target::Address(_))) {
                continue;
            }
            for &port in ports {
                for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                    let service = Service { protocol, port };
                    let probe = Probe { from: from.clone(), to: to.clone(), service, via: None };
                    let Ok(before) = oracle::evaluate(old, &probe) else { continue };
                    let after = oracle::evaluate(new, &probe).unwrap();
                    let (before, after) = (before.is_allowed(), after.is_allowed());
                    prop_assert_eq!(says(&allowed, &probe), !before && after, "{}", &probe);
                    prop_assert_eq!(says(&denied, &probe), before && !after, "{}", &probe);
                }
            }
        }
    }
    Ok(allowed.len() + denied.len())
}

/// Ports in and around those that the worlds and the examples name.
const EDGES: [u16; 19] = [1, 2, 52, 53, 54, 79, 80, 81, 82, 442, 443, 444, 5978, 6379, 8079, 8080, 8081, 65534, 65535];

/// Each example against the world without it.
#[test]
fn the_examples_change_what_is_said() {
    let examples = worlds::examples();
    let (_, world) = examples.iter().find(|(name, _)| name == "world").expect("the world without an example");
    for (name, cluster) in examples.iter().filter(|(name, _)| name != "world") {
        let pairs = check(world, cluster, &EDGES).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: {pairs} pairs change");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn exactly_what_changes_is_said_to(
        manifest in worlds::worlds(),
        masks in any::<[u16; 2]>(),
        ports in proptest::collection::vec(1..=u16::MAX, 8),
    ) {
        let world = worlds::load(&manifest);
        let (old, new) = (without(&world, masks[0]), without(&world, masks[1]));
        check(&old, &new, &[&EDGES[..], &ports].concat())?;
    }

    /// Addresses that nothing is said about do not change: whatever the samples missed is found here.
    #[test]
    fn an_address_outside_changes_only_if_its_sample_does(
        manifest in worlds::worlds(),
        mask in any::<u16>(),
        address in worlds::addresses(),
    ) {
        let old = worlds::load(&manifest);
        let new = without(&old, mask);
        let difference = diff(&old, &new, &[]);
        let outside = Target::Address(address);
        for pod in old.pods().map(|pod| Target::Pod(pod.name.clone())) {
            for (from, to) in [(&pod, &outside), (&outside, &pod)] {
                let probe = Probe { from: from.clone(), to: to.clone(), service: "TCP/80".parse().unwrap(), via: None };
                let Ok(before) = oracle::evaluate(&old, &probe) else { continue };
                let after = oracle::evaluate(&new, &probe).unwrap();
                let list = match (before.is_allowed(), after.is_allowed()) {
                    (true, false) => &difference.newly_denied,
                    (false, true) => &difference.newly_allowed,
                    _ => continue,
                };
                let sampled = list.iter().any(|change| {
                    let (near, far) = if from == &pod { (&change.from, &change.to) } else { (&change.to, &change.from) };
                    near == &pod && far != &pod
                });
                prop_assert!(sampled, "{probe} changes and nothing is said of {pod}");
            }
        }
    }
}
