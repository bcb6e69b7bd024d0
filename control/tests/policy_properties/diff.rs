//! A difference is exact: of all connections, those change and no others.

use std::collections::HashMap;
use std::net::IpAddr;

use control::policy::cluster::{Cluster, Peer};
use control::policy::diff::{Change, diff};
use control::policy::oracle;
use control::policy::probe::{Probe, Service, Target};
use dataplane::packet::{Direction, Protocol};
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

    /// Addresses that were not asked about: an answer that changes there changes, in the same way, at one that was asked
    /// about and that all blocks hold alike.
    #[test]
    fn every_address_outside_has_its_sample(manifest in worlds::worlds(), masks in any::<[u16; 2]>()) {
        let world = worlds::load(&manifest);
        let (old, new) = (without(&world, masks[0]), without(&world, masks[1]));
        let difference = diff(&old, &new, &[]);
        let (allowed, denied) = (by_pair(&difference.newly_allowed), by_pair(&difference.newly_denied));
        let outside = worlds::AROUND_BLOCKS.map(|text| text.parse::<IpAddr>().unwrap());
        let samples: Vec<IpAddr> = allowed
            .keys()
            .chain(denied.keys())
            .flat_map(|(from, to)| [from, to])
            .filter_map(|end| if let Target::Address(address) = end { Some(*address) } else { None })
            .collect();
        for pod in world.pods().map(|pod| Target::Pod(pod.name.clone())) {
            for address in outside {
                let alike: Vec<_> = samples.iter().filter(|&&sample| holds_alike([&old, &new], sample, address)).collect();
                for (inward, service) in [true, false].into_iter().flat_map(|inward| SERVICES.map(|text| (inward, text))) {
                    let probe = |address| {
                        let (from, to) = (pod.clone(), Target::Address(address));
                        let (from, to) = if inward { (to, from) } else { (from, to) };
                        Probe { from, to, service: service.parse().unwrap(), via: None }
                    };
                    let Ok(before) = oracle::evaluate(&old, &probe(address)) else { continue };
                    let after = oracle::evaluate(&new, &probe(address)).unwrap();
                    let changes = match (before.is_allowed(), after.is_allowed()) {
                        (true, false) => &denied,
                        (false, true) => &allowed,
                        _ => continue,
                    };
                    let said = alike.iter().any(|&&sample| says(changes, &probe(sample)));
                    prop_assert!(said, "{} changes and nothing is said", probe(address));
                }
            }
        }
    }
}

const SERVICES: [&str; 4] = ["TCP/80", "TCP/81", "UDP/53", "SCTP/1"];

/// Whether every block of every policy of two states holds both addresses or neither.
fn holds_alike(clusters: [&Cluster; 2], a: IpAddr, b: IpAddr) -> bool {
    let rules = clusters.into_iter().flat_map(Cluster::policies).flat_map(|policy| {
        Direction::BOTH.into_iter().flat_map(|direction| policy.rules(direction).unwrap_or_default())
    });
    let blocks = rules.flat_map(|rule| rule.peers.iter().flatten()).filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } => None,
    });
    let networks = blocks.flat_map(|block| block.except.iter().chain([&block.network]));
    a.is_ipv4() == b.is_ipv4() && networks.into_iter().all(|network| network.contains(&a) == network.contains(&b))
}
