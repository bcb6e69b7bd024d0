//! Who is compared: what each contender is, how it is set up in the middle of a [`Topology`], and how it is asked.

pub mod calico;
pub mod kernel;
pub mod nftables;
pub mod userspace;
pub mod xdp;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::compare::policy::Tracking;
use crate::compare::process::{self, Background};
use crate::compare::topology::{Family, Middle, Topology};

/// How a userspace contender reaches its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// AF_XDP, copy mode on veth.
    AfXdp,
    /// AF_PACKET with virtio headers.
    AfPacket,
    /// TAP with virtio headers.
    Tap,
}

impl PortKind {
    /// As it is written in configurations.
    pub fn name(self) -> &'static str {
        match self {
            PortKind::AfXdp => "af_xdp",
            PortKind::AfPacket => "af_packet",
            PortKind::Tap => "tap",
        }
    }
}

/// How a gateway's rules are carried out ([`crate::compare::gateway`]), behind connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Gateway {
    /// Imported from what iptables-save prints, and compiled.
    Penstock(PortKind),
    /// The same text, loaded by iptables-legacy-restore.
    IptablesLegacy,
    /// The same text, loaded by iptables-nft-restore.
    IptablesNft,
    /// One rule and an ipset of (server, port, clients' network).
    Ipset,
    /// One rule and an nft verdict map of intervals.
    NftMap,
    /// nft, a rule a service.
    NftRules,
}

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Penstock: the engine's own worker thread with a wire, in a process of its own.
    Penstock(PortKind),
    /// Penstock without connection tracking: every frame is judged by the rules.
    PenstockStateless(PortKind),
    /// Penstock with a gateway's ordered rule list in place of a node's policies.
    PenstockList(PortKind),
    /// A gateway's rules, as iptables has them.
    Gateway(Gateway),
    /// A bare loop: nothing is looked at.
    Bare(PortKind),
    /// The kernel forwards without any filter.
    Forwarding,
    /// iptables-legacy, one rule after the other, no connection tracking.
    IptablesLegacy,
    /// The same by iptables-nft.
    IptablesNft,
    /// Connection tracking first, then iptables-legacy's rules.
    IptablesLegacyConntrack,
    /// Connection tracking first, then iptables-nft's rules.
    IptablesNftConntrack,
    /// The chains that Calico's felix renders, with its ipsets; connection tracking first.
    Calico,
    /// One ipset of (address, port), asked by one rule.
    Ipset,
    /// One nft verdict map of exact keys.
    NftExact,
    /// One nft verdict map of intervals.
    NftInterval,
    /// Connection tracking first, then the map of intervals.
    NftConntrackInterval,
    /// Our in-kernel XDP program: redirects, nothing else.
    XdpRedirect,
    /// Our in-kernel XDP program: a longest-prefix table and a hash of services.
    XdpPolicy,
    /// The same behind an LRU hash of connections.
    XdpConntrackPolicy,
    /// dpdk-testpmd's io forwarding over net_af_xdp or net_af_packet.
    Testpmd(PortKind),
}

impl Kind {
    /// As reports call it.
    pub fn name(self) -> String {
        match self {
            Kind::Penstock(port) => format!("Penstock {}", port.name()),
            Kind::PenstockStateless(port) => format!("Penstock {}, tracking off", port.name()),
            Kind::PenstockList(port) => format!("Penstock {}, rule list", port.name()),
            Kind::Gateway(Gateway::Penstock(port)) => format!("Penstock {}, imported", port.name()),
            Kind::Gateway(Gateway::IptablesLegacy) => "iptables-legacy, as saved".to_owned(),
            Kind::Gateway(Gateway::IptablesNft) => "iptables-nft, as saved".to_owned(),
            Kind::Gateway(Gateway::Ipset) => "ipset ip,port,net".to_owned(),
            Kind::Gateway(Gateway::NftMap) => "nft interval map of 4 fields".to_owned(),
            Kind::Gateway(Gateway::NftRules) => "nft, a rule each".to_owned(),
            Kind::Bare(port) => format!("bare {} loop", port.name()),
            Kind::Forwarding => "kernel forwarding".to_owned(),
            Kind::IptablesLegacy => "iptables-legacy".to_owned(),
            Kind::IptablesNft => "iptables-nft".to_owned(),
            Kind::IptablesLegacyConntrack => "conntrack + iptables-legacy".to_owned(),
            Kind::IptablesNftConntrack => "conntrack + iptables-nft".to_owned(),
            Kind::Calico => "Calico's chains".to_owned(),
            Kind::Ipset => "ipset".to_owned(),
            Kind::NftExact => "nft exact map".to_owned(),
            Kind::NftInterval => "nft interval map".to_owned(),
            Kind::NftConntrackInterval => "nft conntrack + interval map".to_owned(),
            Kind::XdpRedirect => "XDP redirect".to_owned(),
            Kind::XdpPolicy => "XDP policy".to_owned(),
            Kind::XdpConntrackPolicy => "XDP conntrack + policy".to_owned(),
            Kind::Testpmd(port) => format!("dpdk-testpmd io net_{}", port.name()),
        }
    }

    /// Whether it is Penstock, in whichever way.
    pub fn is_penstock(self) -> bool {
        matches!(
            self,
            Kind::Penstock(_)
                | Kind::PenstockStateless(_)
                | Kind::PenstockList(_)
                | Kind::Gateway(Gateway::Penstock(_))
        )
    }

    /// Whether it moves frames in a process of its own, rather than in the kernel.
    pub fn is_userspace(self) -> bool {
        self.is_penstock() || matches!(self, Kind::Bare(_) | Kind::Testpmd(_))
    }

    /// Whether it has rules at all.
    pub fn has_rules(self) -> bool {
        !matches!(self, Kind::Bare(_) | Kind::Forwarding | Kind::XdpRedirect | Kind::Testpmd(_))
    }

    /// Whether it tracks connections.
    pub fn tracking(self) -> Tracking {
        match self {
            Kind::Penstock(_)
            | Kind::PenstockList(_)
            | Kind::Gateway(_)
            | Kind::IptablesLegacyConntrack
            | Kind::IptablesNftConntrack
            | Kind::Calico
            | Kind::NftConntrackInterval
            | Kind::XdpConntrackPolicy => Tracking::On,
            _ => Tracking::Off,
        }
    }

    fn middle(self) -> Middle {
        match self {
            Kind::Penstock(PortKind::Tap)
            | Kind::PenstockStateless(PortKind::Tap)
            | Kind::PenstockList(PortKind::Tap)
            | Kind::Gateway(Gateway::Penstock(PortKind::Tap))
            | Kind::Bare(PortKind::Tap) => Middle::Taps,
            kind if kind.is_userspace() => Middle::Wire,
            Kind::XdpRedirect | Kind::XdpPolicy | Kind::XdpConntrackPolicy => Middle::Wire,
            _ => Middle::Router,
        }
    }

    /// Why it cannot take part on this machine, if so.
    pub fn missing(self) -> Option<String> {
        let programs: &[&str] = match self {
            Kind::IptablesLegacy | Kind::IptablesLegacyConntrack | Kind::Gateway(Gateway::IptablesLegacy) => {
                &["iptables-legacy-restore"]
            }
            Kind::IptablesNft | Kind::IptablesNftConntrack | Kind::Gateway(Gateway::IptablesNft) => {
                &["iptables-nft-restore"]
            }
            Kind::Calico | Kind::Ipset | Kind::Gateway(Gateway::Ipset) => &["iptables-legacy-restore", "ipset"],
            Kind::NftExact
            | Kind::NftInterval
            | Kind::NftConntrackInterval
            | Kind::Gateway(Gateway::NftMap | Gateway::NftRules) => &["nft"],
            Kind::XdpRedirect | Kind::XdpPolicy | Kind::XdpConntrackPolicy => &["clang"],
            Kind::Testpmd(_) => &["dpdk-testpmd"],
            _ => &[],
        };
        let absent: Vec<&str> = programs.iter().copied().filter(|program| !process::is_installed(program)).collect();
        (!absent.is_empty()).then(|| format!("{} is not installed", absent.join(" and ")))
    }
}

/// Which CPU does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layout {
    /// Generator, the contender's work and the sink on CPU 0: the kernel does everything in the sender's context, so
    /// that nothing is lost between the generator and the contender.
    OneCpu,
    /// The generator on CPU 0, the contender's own work on CPU 1: a userspace contender's thread, or the kernel's
    /// threaded NAPI.
    TwoCpus,
    /// Bulk transfers, connections and latencies: clients on CPU 0, a userspace contender on CPU 1; servers where
    /// [`crate::compare::workload`] says.
    Clients,
}

impl Layout {
    /// Which CPU does what for this contender, in words.
    pub fn text(self, kind: Kind) -> &'static str {
        match (self, kind.is_userspace()) {
            (Layout::OneCpu, _) => "all on CPU 0",
            (Layout::TwoCpus, true) => "generator and receive softirq CPU 0; worker, transmit and sink CPU 1",
            (Layout::TwoCpus, false) => "generator CPU 0; forwarding (threaded NAPI), transmit and sink CPU 1",
            (Layout::Clients, true) => "client and server CPU 0; worker CPU 1",
            (Layout::Clients, false) => "client CPU 0, server CPU 1; forwarding in softirqs of both",
        }
    }
}

/// A contender with its rules and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// Who.
    pub kind: Kind,
    /// How many rules.
    pub rules: u32,
    /// IP version of the traffic.
    pub family: Family,
    /// Which CPU does what.
    pub layout: Layout,
    /// The flows that it must be able to hold.
    pub flows: u32,
    /// The flows that established traffic has.
    pub active: u32,
    /// Whether two of it stand in a row, with a router between: pod to pod.
    pub is_pair: bool,
    /// What the rules are made from.
    pub seed: u64,
}

impl Setting {
    /// One contender in the way, with the flows of a small node.
    pub fn new(kind: Kind, rules: u32, layout: Layout) -> Setting {
        let (family, flows, active) = (Family::V4, 1 << 18, 65_536);
        Setting { kind, rules, family, layout, flows, active, is_pair: false, seed: 1 }
    }
}

/// What loading told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// From the rules as text, or as the engine takes them, to in force.
    pub time: Duration,
    /// What it made the kernel or the process hold, in bytes; the flow table counted apart where that is known.
    pub memory: u64,
    /// Of a process: its flow table, in bytes, in `memory` as far as it was touched.
    pub flow_table: u64,
}

/// A contender that is in place.
pub struct Running {
    /// What it is.
    pub setting: Setting,
    /// Where it stands. Dropped last, and with it all rules and programs of the kernel.
    pub topology: Topology,
    /// What loading told.
    pub loaded: Loaded,
    processes: Vec<Background>,
    _programs: Option<xdp::Programs>,
}

impl Running {
    /// Builds the topology, puts the contender into it and its rules in force.
    ///
    /// # Errors
    /// When the contender or its rules cannot be set up.
    pub fn start(setting: Setting) -> Result<Running> {
        process::check()?;
        let middle =
            if setting.is_pair && setting.kind.is_userspace() { Middle::TwoWires } else { setting.kind.middle() };
        let topology = Topology::build(middle)?;
        let (mut processes, mut programs, mut loaded) = (Vec::new(), None, Loaded::default());
        if setting.kind.is_userspace() {
            (processes, loaded) = userspace::start(&setting, &topology)?;
            topology.taps_are_there()?;
        } else if matches!(setting.kind, Kind::XdpRedirect | Kind::XdpPolicy | Kind::XdpConntrackPolicy) {
            let begin = Instant::now();
            programs = Some(xdp::Programs::attach(&setting, &topology)?);
            loaded.time = begin.elapsed();
        } else {
            loaded = kernel::load(&setting, &topology)?;
        }
        if setting.layout == Layout::TwoCpus && !setting.kind.is_userspace() {
            topology.receive_on("d0", 1)?;
            topology.receive_on("d1", 1)?;
        }
        let running = Running { setting, topology, loaded, processes, _programs: programs };
        running.pause();
        Ok(running)
    }

    /// Takes its turn: a process that was stopped goes on.
    pub fn go_on(&self) {
        self.processes.iter().for_each(Background::go_on);
    }

    /// Ends its turn: it uses no CPU until its next.
    pub fn pause(&self) {
        self.processes.iter().for_each(Background::pause);
    }

    /// Forgets all connections.
    ///
    /// # Errors
    /// When it cannot.
    pub fn forget_flows(&mut self) -> Result<()> {
        match self.setting.kind {
            kind if kind.is_penstock() => {
                self.go_on();
                for process in &mut self.processes {
                    userspace::answer(&process.ask("forget")?)?;
                }
                // Wires that were opened anew have made their TAP devices anew.
                self.topology.taps_are_there()
            }
            kind if kind.tracking() == Tracking::On => kernel::forget_flows(&self.topology),
            _ => Ok(()),
        }
    }

    /// Changes one rule and puts it back. Answers how long the change took until it was in force.
    ///
    /// # Errors
    /// When it cannot.
    pub fn change_one(&mut self, round: usize) -> Result<Duration> {
        match self.setting.kind {
            kind if kind.is_penstock() => {
                self.go_on();
                userspace::change_one(&mut self.processes[0])
            }
            _ => kernel::change_one(&self.setting, &self.topology, round),
        }
    }

    /// CPU time of its processes so far, in nanoseconds.
    pub fn cpu_time(&self) -> u64 {
        self.processes.iter().map(Background::cpu_time).sum()
    }

    /// What a process of its own has to say about its frames; nothing of the kernel's contenders.
    pub fn statistics(&mut self) -> String {
        let told: Vec<String> = self.processes.iter_mut().filter_map(userspace::statistics).collect();
        told.join("; ")
    }
}
