//! What is compared: experiments, each some contenders that do the same work in turns.

use serde::{Deserialize, Serialize};

use crate::compare::contender::{Gateway, Kind, Layout, PortKind, Setting};
use crate::compare::topology::Family;
use crate::compare::workload::{Flows, Work};

/// Contenders that take turns at one work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// A short name, which bars refer to and `--only` takes.
    pub name: String,
    /// What is done.
    pub work: Work,
    /// Who does it.
    pub settings: Vec<Setting>,
    /// How many times the usual number of rounds: of what differs much from one turn to the next.
    pub times: usize,
}

const ALL_SIZES: [u32; 4] = [10, 1_000, 10_000, 100_000];
/// The size of most bars.
pub const MANY: u32 = 10_000;
const AF_XDP: Kind = Kind::Penstock(PortKind::AfXdp);
const AF_PACKET: Kind = Kind::Penstock(PortKind::AfPacket);
/// Flows that fit a table in which every frame of a few seconds is a new one.
const ROOM_FOR_NEW: u32 = 1 << 23;

fn one(name: &str, work: Work, settings: Vec<Setting>) -> Experiment {
    let times = if matches!(work, Work::Bulk { .. } | Work::Connections | Work::Latency) { 2 } else { 1 };
    Experiment { name: name.to_owned(), work, settings, times }
}

/// In which layouts a contender is measured for packet rates: a kernel's one with everything on one CPU as well, because
/// some are faster so.
fn layouts(kind: Kind) -> &'static [Layout] {
    if kind.is_userspace() { &[Layout::TwoCpus] } else { &[Layout::OneCpu, Layout::TwoCpus] }
}

fn packets(kind: Kind, rules: u32) -> Vec<Setting> {
    layouts(kind).iter().map(|&layout| Setting::new(kind, rules, layout)).collect()
}

fn with_flows(settings: Vec<Setting>, flows: u32) -> Vec<Setting> {
    settings.into_iter().map(|setting| Setting { flows, ..setting }).collect()
}

/// Everything, in the order in which it is measured: the ceilings first. All rules are made from `seed`.
pub fn all(is_quick: bool, seed: u64) -> Vec<Experiment> {
    let mut all = vec![ceilings(is_quick), wire(), established(is_quick), new_flows(is_quick)];
    all.extend(sizes(is_quick));
    all.push(gateway(is_quick));
    all.push(numbers_of_flows(is_quick));
    if !is_quick {
        all.push(version_six());
        all.push(processor_time());
    }
    all.extend(clients(is_quick));
    all.extend(changes(is_quick));
    if is_quick {
        all.iter_mut().for_each(|experiment| experiment.times = 1);
    }
    for setting in all.iter_mut().flat_map(|experiment| &mut experiment.settings) {
        setting.seed = seed;
    }
    all
}

/// What this machine's interfaces can do without any policy.
fn ceilings(is_quick: bool) -> Experiment {
    let mut kinds = vec![Kind::Bare(PortKind::AfXdp), Kind::Bare(PortKind::AfPacket), Kind::Forwarding];
    if !is_quick {
        kinds.extend([Kind::Bare(PortKind::Tap), Kind::XdpRedirect]);
    }
    let settings = kinds.iter().flat_map(|&kind| packets(kind, 0)).collect();
    one("ceilings", Work::Packets(Flows::Established), settings)
}

/// The wire beside loops that do nothing else. They differ by less than the machine does from one minute to the next: alone and
/// more often, so that the turns of a round follow each other at once.
fn wire() -> Experiment {
    let kinds = [AF_XDP, Kind::Bare(PortKind::AfXdp), Kind::Testpmd(PortKind::AfXdp)];
    let settings = kinds.iter().flat_map(|&kind| packets(kind, MANY)).collect();
    Experiment { times: 3, ..one("wire", Work::Packets(Flows::Established), settings) }
}

/// 64k established flows, 10,000 rules.
fn established(is_quick: bool) -> Experiment {
    let mut settings: Vec<Setting> = [AF_XDP, Kind::Bare(PortKind::AfXdp), Kind::Testpmd(PortKind::AfXdp)]
        .iter()
        .flat_map(|&kind| packets(kind, MANY))
        .collect();
    for kind in [Kind::NftConntrackInterval, Kind::Calico] {
        settings.extend(packets(kind, MANY));
    }
    settings.extend(packets(Kind::IptablesNft, 1_000));
    if !is_quick {
        for kind in [
            AF_PACKET,
            Kind::Bare(PortKind::AfPacket),
            Kind::Testpmd(PortKind::AfPacket),
            Kind::Penstock(PortKind::Tap),
            Kind::Forwarding,
            Kind::Ipset,
            Kind::NftExact,
            Kind::NftInterval,
            Kind::XdpPolicy,
            Kind::XdpConntrackPolicy,
        ] {
            settings.extend(packets(kind, MANY));
        }
        settings.extend(packets(Kind::IptablesLegacy, 1_000));
        // At a few thousand frames a second, more flows than these are not answered before the measurement begins.
        for kind in [Kind::IptablesLegacyConntrack, Kind::IptablesNftConntrack] {
            settings.extend(packets(kind, MANY).into_iter().map(|setting| Setting { active: 1_000, ..setting }));
        }
    }
    one("established", Work::Packets(Flows::Established), settings)
}

/// Every frame a new flow, 10,000 rules.
fn new_flows(is_quick: bool) -> Experiment {
    let mut kinds = vec![AF_XDP, Kind::NftConntrackInterval];
    if !is_quick {
        kinds.extend([Kind::Calico, Kind::XdpConntrackPolicy]);
    }
    let settings = kinds.into_iter().flat_map(|kind| packets(kind, MANY)).collect();
    one("new-flows", Work::Packets(Flows::New), with_flows(settings, ROOM_FOR_NEW))
}

/// How the number of rules shows.
fn sizes(is_quick: bool) -> Vec<Experiment> {
    let ends: &[u32] = if is_quick { &[10, 100_000] } else { &ALL_SIZES };
    let of = |kind: Kind| -> Vec<Setting> { ends.iter().flat_map(|&rules| packets(kind, rules)).collect() };
    let one_cpu = |kind: Kind, most: u32| -> Vec<Setting> {
        let sizes = ALL_SIZES.iter().filter(|&&rules| rules <= most);
        sizes.map(|&rules| Setting::new(kind, rules, Layout::OneCpu)).collect()
    };
    let mut all = vec![
        one("rules-new-flows", Work::Packets(Flows::New), with_flows(of(AF_XDP), ROOM_FOR_NEW)),
        one("rules-stateless", Work::Packets(Flows::Established), of(Kind::PenstockStateless(PortKind::AfXdp))),
    ];
    if !is_quick {
        let mut peers = Vec::new();
        peers.extend(one_cpu(Kind::IptablesLegacy, MANY));
        peers.extend(one_cpu(Kind::IptablesNft, MANY));
        peers.extend(one_cpu(Kind::Ipset, 100_000));
        peers.extend(one_cpu(Kind::NftExact, 100_000));
        peers.extend(one_cpu(Kind::NftInterval, 100_000));
        peers.extend(one_cpu(Kind::XdpPolicy, 100_000));
        all.push(one("rules-peers", Work::Packets(Flows::Established), peers));
    }
    all
}

/// How the number of rules shows that a gateway has imported from iptables, every frame a new flow; the kernel's filters have the same.
fn gateway(is_quick: bool) -> Experiment {
    let ends: &[u32] = if is_quick { &[10, 100_000] } else { &ALL_SIZES };
    let of = |way: Gateway, layout: Layout| -> Vec<Setting> {
        ends.iter().map(|&rules| Setting::new(Kind::Gateway(way), rules, layout)).collect()
    };
    let mut settings = of(Gateway::Penstock(PortKind::AfXdp), Layout::TwoCpus);
    let peers: &[Gateway] = match is_quick {
        true => &[Gateway::NftMap],
        false => &[Gateway::IptablesLegacy, Gateway::IptablesNft, Gateway::Ipset, Gateway::NftMap, Gateway::NftRules],
    };
    settings.extend(peers.iter().flat_map(|&way| of(way, Layout::OneCpu)));
    one("gateway", Work::Packets(Flows::New), with_flows(settings, ROOM_FOR_NEW))
}

/// How the number of flows shows.
fn numbers_of_flows(is_quick: bool) -> Experiment {
    let numbers: &[u32] = if is_quick { &[1_000, 1_000_000] } else { &[1, 1_000, 65_536, 1_000_000] };
    let mut settings = packets(AF_XDP, MANY);
    if !is_quick {
        settings.push(Setting::new(Kind::NftConntrackInterval, MANY, Layout::OneCpu));
        settings.push(Setting::new(Kind::XdpConntrackPolicy, MANY, Layout::OneCpu));
    }
    let of = |setting: &Setting| -> Vec<Setting> {
        numbers.iter().map(|&active| Setting { active, flows: 1 << 21, ..*setting }).collect()
    };
    let settings = settings.iter().flat_map(of).collect();
    one("flows", Work::Packets(Flows::Established), settings)
}

/// The same in IPv6.
fn version_six() -> Experiment {
    let kinds = [AF_XDP, Kind::Bare(PortKind::AfXdp), Kind::Forwarding, Kind::NftConntrackInterval, Kind::Calico];
    let settings: Vec<Setting> = kinds.iter().flat_map(|&kind| packets(kind, MANY)).collect();
    let settings = settings.into_iter().map(|setting| Setting { family: Family::V6, ..setting }).collect();
    one("ipv6", Work::Packets(Flows::Established), settings)
}

/// CPU time a frame at a rate that all can take.
fn processor_time() -> Experiment {
    let kinds = [
        AF_XDP,
        AF_PACKET,
        Kind::Bare(PortKind::AfXdp),
        Kind::Bare(PortKind::AfPacket),
        Kind::Forwarding,
        Kind::NftConntrackInterval,
        Kind::Calico,
        Kind::XdpConntrackPolicy,
    ];
    let settings = kinds.iter().map(|&kind| Setting::new(kind, MANY, Layout::TwoCpus)).collect();
    one("cpu", Work::FixedRate(100_000), settings)
}

/// TCP: bulk, connections, latency.
fn clients(is_quick: bool) -> Vec<Experiment> {
    let setting = |kind, rules| Setting::new(kind, rules, Layout::Clients);
    let mut kinds = vec![AF_PACKET, Kind::Bare(PortKind::AfPacket), Kind::NftConntrackInterval];
    if !is_quick {
        kinds.extend([
            Kind::Forwarding,
            Kind::Calico,
            Kind::Penstock(PortKind::Tap),
            Kind::Bare(PortKind::Tap),
            // A bare loop over AF_XDP completes no checksum, so that no TCP crosses it.
            AF_XDP,
        ]);
    }
    let settings = |flows| with_flows(kinds.iter().map(|&kind| setting(kind, 1_000)).collect(), flows);
    let mut all = Vec::new();
    for streams in [1, 4] {
        for reverse in [false, true] {
            if is_quick && reverse {
                continue;
            }
            let way = if reverse { "-back" } else { "" };
            let work = Work::Bulk { streams, reverse };
            all.push(one(&format!("bulk-{streams}{way}"), work, settings(1 << 18)));
            let pair = [AF_PACKET, Kind::Bare(PortKind::AfPacket)];
            let pair = pair.iter().map(|&kind| Setting { is_pair: true, ..setting(kind, 1_000) }).collect();
            all.push(one(&format!("pods-{streams}{way}"), work, pair));
        }
    }
    all.push(one("connections", Work::Connections, settings(1 << 20)));
    all.push(one("latency", Work::Latency, settings(1 << 18)));
    all
}

/// One rule changed.
fn changes(is_quick: bool) -> Vec<Experiment> {
    let sizes: &[u32] = if is_quick { &[100_000] } else { &[1_000, 10_000, 100_000] };
    let mut kinds = vec![Kind::PenstockList(PortKind::AfPacket), Kind::NftInterval];
    if !is_quick {
        kinds.extend([AF_PACKET, Kind::IptablesLegacy, Kind::IptablesNft, Kind::Ipset, Kind::NftExact, Kind::Calico]);
    }
    let experiment = |&rules: &u32| {
        // Calico's rules for so many policies take minutes to load.
        let kinds = kinds.iter().filter(|&&kind| kind != Kind::Calico || rules <= MANY);
        let settings = kinds.map(|&kind| Setting::new(kind, rules, Layout::OneCpu)).collect();
        one(&format!("change-{rules}"), Work::Change, settings)
    };
    sizes.iter().map(experiment).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_the_ceilings_come_first() {
        for is_quick in [false, true] {
            let all = all(is_quick, 7);
            assert_eq!(all[0].name, "ceilings");
            let names: BTreeSet<&str> = all.iter().map(|experiment| experiment.name.as_str()).collect();
            assert_eq!(names.len(), all.len());
            for experiment in &all {
                let mut seen = Vec::new();
                for setting in &experiment.settings {
                    assert!(!seen.contains(setting), "{}: {setting:?} twice", experiment.name);
                    seen.push(*setting);
                }
            }
        }
    }
}
