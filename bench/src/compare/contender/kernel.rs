//! Contenders in the kernel that are set up by a program: how their rules are loaded and one of them changed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use control::lab::netns::Namespace;

use super::{Gateway, Kind, Loaded, Setting, calico, nftables};
use crate::compare::policy::{self, Tracking};
use crate::compare::topology::{Family, Topology};
use crate::compare::{gateway, process};

/// One program's work: its words, and what it reads.
type Step = (Vec<&'static str>, String);

/// Loads the rules of a contender into the middle of the topology.
///
/// # Errors
/// When its program refuses them.
pub fn load(setting: &Setting, topology: &Topology) -> Result<Loaded> {
    let steps = steps(setting);
    let before = kernel_memory();
    let begin = Instant::now();
    for (words, input) in &steps {
        process::run(Some(&topology.middle), words, input)?;
    }
    let time = begin.elapsed();
    if setting.kind.tracking() == Tracking::On {
        make_room(setting.flows)?;
    }
    Ok(Loaded { time, memory: kernel_memory().saturating_sub(before), flow_table: 0 })
}

fn restore(setting: &Setting, is_legacy: bool) -> Vec<&'static str> {
    vec![match (setting.family, is_legacy) {
        (Family::V4, true) => "iptables-legacy-restore",
        (Family::V6, true) => "ip6tables-legacy-restore",
        (Family::V4, false) => "iptables-nft-restore",
        (Family::V6, false) => "ip6tables-nft-restore",
    }]
}

fn steps(setting: &Setting) -> Vec<Step> {
    let (kind, family) = (setting.kind, setting.family);
    let entries = |exact| policy::entries(setting.rules, family, exact, setting.seed);
    let list = || policy::iptables(&policy::of_the_traffic(entries(false)), family, kind.tracking());
    let nft = |exact, tracking| vec![(vec!["nft", "-f", "-"], policy::nft(&entries(exact), family, exact, tracking))];
    match kind {
        Kind::IptablesLegacy | Kind::IptablesLegacyConntrack => {
            vec![(restore(setting, true), list())]
        }
        Kind::IptablesNft | Kind::IptablesNftConntrack => {
            vec![(restore(setting, false), list())]
        }
        Kind::Ipset => vec![
            (vec!["ipset", "restore"], policy::ipset(&entries(true), family)),
            (restore(setting, true), policy::ipset_rules(kind.tracking())),
        ],
        Kind::Calico => {
            let rendered = calico::render(&policy::node(setting.rules, setting.seed), family);
            vec![(vec!["ipset", "restore"], rendered.sets), (restore(setting, true), rendered.chains)]
        }
        Kind::NftExact => nft(true, Tracking::Off),
        Kind::NftInterval => nft(false, Tracking::Off),
        Kind::NftConntrackInterval => nft(false, Tracking::On),
        Kind::Gateway(way) => gateway_steps(setting, way),
        _ => Vec::new(),
    }
}

fn gateway_steps(setting: &Setting, way: Gateway) -> Vec<Step> {
    let services = gateway::services(setting.rules, setting.seed);
    match way {
        Gateway::Penstock(_) => Vec::new(),
        Gateway::IptablesLegacy => vec![(restore(setting, true), gateway::iptables(&services))],
        Gateway::IptablesNft => vec![(restore(setting, false), gateway::iptables(&services))],
        Gateway::Ipset => vec![
            (vec!["ipset", "restore"], gateway::ipset(&services)),
            (restore(setting, true), gateway::ipset_rules()),
        ],
        Gateway::NftMap => vec![(vec!["nft", "-f", "-"], gateway::nft(&services, false))],
        Gateway::NftRules => vec![(vec!["nft", "-f", "-"], gateway::nft(&services, true))],
    }
}

/// Lets the kernel track so many connections and more, in a hash with a bucket for each. The settings are those of the whole
/// machine; [`Limits`] puts them back.
fn make_room(flows: u32) -> Result<()> {
    let wanted = flows.saturating_mul(2);
    raise("/proc/sys/net/netfilter/nf_conntrack_max", wanted)?;
    raise("/sys/module/nf_conntrack/parameters/hashsize", flows)
}

fn raise(file: &str, wanted: u32) -> Result<()> {
    let now: u32 = std::fs::read_to_string(file)?.trim().parse()?;
    if now < wanted {
        std::fs::write(file, wanted.to_string())?;
    }
    Ok(())
}

/// The machine's limits for tracked connections, put back when this is dropped.
pub struct Limits(Vec<(&'static str, String)>);

impl Limits {
    /// The limits of now.
    pub fn keep() -> Limits {
        let files = ["/proc/sys/net/netfilter/nf_conntrack_max", "/sys/module/nf_conntrack/parameters/hashsize"];
        let read = |file| std::fs::read_to_string(file).ok().map(|text| (file, text));
        Limits(files.into_iter().filter_map(read).collect())
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for (file, text) in &self.0 {
            // Nothing more can be done where even this is refused.
            let _refused = std::fs::write(file, text);
        }
    }
}

/// Forgets all tracked connections of the middle.
///
/// # Errors
/// When `conntrack` is missing or refuses.
pub fn forget_flows(topology: &Topology) -> Result<()> {
    process::run(Some(&topology.middle), &["conntrack", "-F"], "").map(drop)
}

/// Adds one rule that nothing matches and, where that is cheap, takes it away again; answers how long the adding took, the start of the
/// program included for those that have no other way.
///
/// # Errors
/// When the kind has no rules, or its program refuses.
pub fn change_one(setting: &Setting, topology: &Topology, round: usize) -> Result<Duration> {
    let middle = &topology.middle;
    let port = (40_000 + round).to_string();
    let address = if setting.family == Family::V4 { "198.51.100.7" } else { "2001:db8::7" };
    let timed = |words: &[&str]| -> Result<Duration> {
        let begin = Instant::now();
        process::run(Some(middle), words, "")?;
        Ok(begin.elapsed())
    };
    match setting.kind {
        Kind::IptablesLegacy | Kind::IptablesLegacyConntrack | Kind::IptablesNft | Kind::IptablesNftConntrack => {
            let is_legacy = matches!(setting.kind, Kind::IptablesLegacy | Kind::IptablesLegacyConntrack);
            let program = match (setting.family, is_legacy) {
                (Family::V4, true) => "iptables-legacy",
                (Family::V6, true) => "ip6tables-legacy",
                (Family::V4, false) => "iptables-nft",
                (Family::V6, false) => "ip6tables-nft",
            };
            let rule = ["-s", address, "-p", "udp", "--dport", &port, "-j", "ACCEPT"];
            // It stays: to find it again takes iptables-nft seconds, and a few more at the end that nothing reaches
            // change nothing.
            timed(&[&[program, "-A", "FORWARD"], &rule[..]].concat())
        }
        Kind::Ipset => {
            let element = format!("{address},udp:{port}");
            let time = timed(&["ipset", "add", "allowed", &element])?;
            timed(&["ipset", "del", "allowed", &element])?;
            Ok(time)
        }
        Kind::Calico => {
            // A pod of a selected app comes or goes: one member of one set.
            let set = calico::SOME_SET;
            let time = timed(&["ipset", "add", set, address])?;
            timed(&["ipset", "del", set, address])?;
            Ok(time)
        }
        Kind::NftExact | Kind::NftInterval | Kind::NftConntrackInterval => {
            let exact = setting.kind == Kind::NftExact;
            nft_element(middle, &format!("{address} . udp . {port} : accept"), exact)
        }
        kind => bail!("{} has no rule to change", kind.name()),
    }
}

/// Through libnftables where it is there, which leaves the start of the program out; through `nft` otherwise.
fn nft_element(middle: &Namespace, element: &str, _exact: bool) -> Result<Duration> {
    let add = format!("add element inet compare allowed {{ {element} }}");
    let delete = format!("delete element inet compare allowed {{ {element} }}");
    let work = || -> Result<Duration> {
        let library = nftables::Library::open()?;
        // The first call fills the library's own tables.
        library.run(&add)?;
        library.run(&delete)?;
        let begin = Instant::now();
        library.run(&add)?;
        let time = begin.elapsed();
        library.run(&delete)?;
        Ok(time)
    };
    middle.run(work)?
}

/// What the kernel has allocated for tables, in bytes: slabs, virtually mapped memory and per-CPU memory. Other
/// programs move it too.
pub fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    ["Slab:", "VmallocUsed:", "Percpu:"].iter().map(|name| of(name)).sum::<u64>() * 1024
}
