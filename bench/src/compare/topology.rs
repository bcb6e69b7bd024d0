//! The network that every contender is put into: three namespaces in a row.
//!
//! ```text
//!   generator            device under test              sink
//!   g0 10.1.0.2/16 ───── d0 10.1.0.1   d1 10.2.0.1 ───── s0 10.2.0.2/24
//!      fd00:1::2/64         fd00:1::1     fd00:2::1         fd00:2::2/64
//! ```
//!
//! Addresses, routes and MAC addresses are the same for all. What differs is to whom the ends send: a router is sent
//! to at its own MAC address; a wire, a loop or a switch in the middle has none, so that each end has the other as its
//! neighbour. All neighbours are permanent: nobody asks by ARP while something is measured. Every veth end has one queue
//! each way and GRO on, without which the kernel does not take XDP frames from the other end.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use control::lab::netns::{self, Namespace};
use serde::{Deserialize, Serialize};

use crate::compare::process;

/// What the names of all namespaces start with; the process number follows, then `-`.
pub const PREFIX: &str = "pbench";

/// MAC addresses of g0, d0, d1 and s0.
pub const GENERATOR_MAC: [u8; 6] = [2, 0x50, 0, 0, 1, 2];
/// See [`GENERATOR_MAC`].
pub const NEAR_MAC: [u8; 6] = [2, 0x50, 0, 0, 1, 1];
/// See [`GENERATOR_MAC`].
pub const FAR_MAC: [u8; 6] = [2, 0x50, 0, 0, 2, 1];
/// See [`GENERATOR_MAC`].
pub const SINK_MAC: [u8; 6] = [2, 0x50, 0, 0, 2, 2];

/// An IP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// The address of the sink's end: the pod.
    pub fn sink(self) -> &'static str {
        match self {
            Family::V4 => "10.2.0.2",
            Family::V6 => "fd00:2::2",
        }
    }

    /// The address of the generator's end.
    pub fn generator(self) -> &'static str {
        match self {
            Family::V4 => "10.1.0.2",
            Family::V6 => "fd00:1::2",
        }
    }
}

/// Who is in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// The kernel forwards: the ends send to it.
    Router,
    /// A wire, or a loop: the ends send to each other.
    Wire,
    /// A wire whose ports are TAP devices in the ends' own namespaces: nothing is in the middle to be set up, and the ends
    /// are called g0 and s0 as well.
    Taps,
    /// Two wires with a router between them: pod to pod on one node.
    TwoWires,
}

/// The namespaces of one contender; they are removed when it is dropped.
pub struct Topology {
    /// Where frames come from.
    pub generator: Namespace,
    /// The device under test.
    pub middle: Namespace,
    /// Where frames go to.
    pub sink: Namespace,
    /// The second wire's namespace, of [`Middle::TwoWires`].
    pub second: Option<Namespace>,
    /// The node between two wires.
    pub node: Option<Namespace>,
    kind: Middle,
}

/// A MAC address as `ip` writes it.
pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn veth(name: &str, name_mac: [u8; 6], peer: &str, peer_mac: [u8; 6], place: &Namespace) -> String {
    let queues = "numtxqueues 1 numrxqueues 1";
    format!(
        "link add {name} address {} {queues} type veth peer name {peer} address {} {queues} netns {}",
        mac(name_mac),
        mac(peer_mac),
        place.name()
    )
}

fn batch(namespace: &Namespace, lines: &[String]) -> Result<()> {
    namespace.batch(lines).map_err(|error| anyhow::anyhow!("{error}"))
}

fn end(namespace: &Namespace, device: &str, v4: &str, v6: &str) -> Result<()> {
    batch(
        namespace,
        &[
            "link set lo up".to_owned(),
            format!("link set {device} up"),
            format!("address add {v4} dev {device}"),
            format!("address add {v6} dev {device} nodad"),
        ],
    )
}

/// Routes everything through the device to `gateway`, which has this MAC address.
fn route(namespace: &Namespace, device: &str, gateway: [&str; 2], far: [&str; 2], next: [u8; 6]) -> Result<()> {
    let next = mac(next);
    let mut lines = Vec::new();
    for (gateway, far) in gateway.iter().zip(far) {
        lines.push(format!("neigh replace {gateway} lladdr {next} dev {device} nud permanent"));
        lines.push(format!("route add {far} via {gateway} dev {device}"));
    }
    batch(namespace, &lines)
}

impl Topology {
    /// Builds it.
    ///
    /// # Errors
    /// When the system refuses; nothing is left behind.
    pub fn build(kind: Middle) -> Result<Topology> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| Namespace::named(format!("{PREFIX}{}-{number}{end}", std::process::id()));
        let two = kind == Middle::TwoWires;
        let topology = Topology {
            generator: name("g"),
            middle: name("d"),
            sink: name("s"),
            second: two.then(|| name("e")),
            node: two.then(|| name("n")),
            kind,
        };
        let all = topology.namespaces();
        netns::create(&all).map_err(|error| anyhow::anyhow!("{error}")).context("run it as root")?;
        for namespace in &all {
            namespace.sysctl(&[
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
            ])?;
        }
        match kind {
            Middle::Router => topology.router()?,
            Middle::Wire => topology.wire()?,
            Middle::Taps => {}
            Middle::TwoWires => topology.two_wires()?,
        }
        Ok(topology)
    }

    fn namespaces(&self) -> Vec<Namespace> {
        let mut all = vec![self.generator.clone(), self.middle.clone(), self.sink.clone()];
        all.extend(self.second.clone());
        all.extend(self.node.clone());
        all
    }

    fn links(&self) -> Result<()> {
        batch(
            &self.middle,
            &[
                veth("d0", NEAR_MAC, "g0", GENERATOR_MAC, &self.generator),
                veth("d1", FAR_MAC, "s0", SINK_MAC, &self.sink),
            ],
        )?;
        for (namespace, device) in
            [(&self.generator, "g0"), (&self.middle, "d0"), (&self.middle, "d1"), (&self.sink, "s0")]
        {
            process::run(Some(namespace), &["ethtool", "-K", device, "gro", "on"], "")?;
        }
        Ok(())
    }

    fn router(&self) -> Result<()> {
        self.links()?;
        forward(&self.middle)?;
        end(&self.middle, "d0", "10.1.0.1/30", "fd00:1::1/126")?;
        end(&self.middle, "d1", "10.2.0.1/24", "fd00:2::1/64")?;
        // Whatever address a generated frame comes from, its answer goes to g0.
        batch(
            &self.middle,
            &["route add 10.1.0.0/16 via 10.1.0.2 dev d0", "route add fd00:1::/64 via fd00:1::2 dev d0"]
                .map(str::to_owned),
        )?;
        batch(
            &self.middle,
            &[
                ("10.1.0.2", "d0", GENERATOR_MAC),
                ("fd00:1::2", "d0", GENERATOR_MAC),
                ("10.2.0.2", "d1", SINK_MAC),
                ("fd00:2::2", "d1", SINK_MAC),
            ]
            .map(|(address, device, to)| {
                format!("neigh replace {address} lladdr {} dev {device} nud permanent", mac(to))
            }),
        )?;
        self.ends(NEAR_MAC, FAR_MAC)
    }

    fn wire(&self) -> Result<()> {
        self.links()?;
        silence(&self.middle)?;
        for device in ["d0", "d1"] {
            batch(&self.middle, &[format!("link set {device} arp off up")])?;
        }
        self.ends(SINK_MAC, GENERATOR_MAC)
    }

    /// Sets up the ends; they exist by now. `near` is who the generator sends to, `far` who the sink does.
    fn ends(&self, near: [u8; 6], far: [u8; 6]) -> Result<()> {
        end(&self.generator, "g0", "10.1.0.2/16", "fd00:1::2/64")?;
        end(&self.sink, "s0", "10.2.0.2/24", "fd00:2::2/64")?;
        route(&self.generator, "g0", ["10.1.0.1", "fd00:1::1"], ["10.2.0.0/24", "fd00:2::/64"], near)?;
        route(&self.sink, "s0", ["10.2.0.1", "fd00:2::1"], ["10.1.0.0/16", "fd00:1::/64"], far)
    }

    /// Sets up the ends of [`Middle::Taps`], once the ports have made the devices.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn taps_are_there(&self) -> Result<()> {
        if self.kind != Middle::Taps {
            return Ok(());
        }
        batch(&self.generator, &[format!("link set g0 address {}", mac(GENERATOR_MAC))])?;
        batch(&self.sink, &[format!("link set s0 address {}", mac(SINK_MAC))])?;
        self.ends(SINK_MAC, GENERATOR_MAC)
    }

    /// g0 – d0 d1 – n0 (node) n1 – e0 e1 – s0.
    fn two_wires(&self) -> Result<()> {
        let (Some(second), Some(node)) = (&self.second, &self.node) else { return Ok(()) };
        batch(
            &self.middle,
            &[
                veth("d0", [2, 0x50, 0, 0, 9, 1], "g0", GENERATOR_MAC, &self.generator),
                veth("d1", [2, 0x50, 0, 0, 9, 2], "n0", NEAR_MAC, node),
            ],
        )?;
        batch(
            second,
            &[
                veth("e1", [2, 0x50, 0, 0, 9, 3], "n1", FAR_MAC, node),
                veth("e0", [2, 0x50, 0, 0, 9, 4], "s0", SINK_MAC, &self.sink),
            ],
        )?;
        for (namespace, devices) in [(&self.middle, ["d0", "d1"]), (second, ["e0", "e1"])] {
            silence(namespace)?;
            for device in devices {
                batch(namespace, &[format!("link set {device} arp off up")])?;
            }
        }
        forward(node)?;
        end(node, "n0", "10.1.0.1/16", "fd00:1::1/64")?;
        end(node, "n1", "10.2.0.1/24", "fd00:2::1/64")?;
        batch(
            node,
            &[("10.1.0.2", "n0", GENERATOR_MAC), ("10.2.0.2", "n1", SINK_MAC)].map(|(address, device, to)| {
                format!("neigh replace {address} lladdr {} dev {device} nud permanent", mac(to))
            }),
        )?;
        self.ends(NEAR_MAC, FAR_MAC)
    }

    /// The MAC address that the generator's frames are sent to.
    pub fn generator_sends_to(&self) -> [u8; 6] {
        match self.kind {
            Middle::Router | Middle::TwoWires => NEAR_MAC,
            Middle::Wire | Middle::Taps => SINK_MAC,
        }
    }

    /// The MAC address that the sink's answers are sent to.
    pub fn sink_sends_to(&self) -> [u8; 6] {
        match self.kind {
            Middle::Router | Middle::TwoWires => FAR_MAC,
            Middle::Wire | Middle::Taps => GENERATOR_MAC,
        }
    }

    /// Gives the receiving of a device of the middle to a kernel thread of its own on one CPU (threaded NAPI). Without
    /// that, frames are received on the CPU that sent them.
    ///
    /// # Errors
    /// When the kernel has no such thing.
    pub fn receive_on(&self, device: &str, cpu: usize) -> Result<()> {
        let before = napi_threads();
        let file = format!("/sys/class/net/{device}/threaded");
        let script = format!("echo 1 > {file}");
        process::run(None, &["ip", "netns", "exec", self.middle.name(), "sh", "-c", &script], "")
            .context("threaded NAPI is not to be had")?;
        for thread in napi_threads().iter().filter(|thread| !before.contains(thread)) {
            process::run(None, &["taskset", "-pc", &cpu.to_string(), thread], "")?;
            process::run(None, &["renice", "-n", process::NICENESS, "-p", thread], "")?;
        }
        Ok(())
    }
}

fn napi_threads() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_napi = |process: &String| {
        std::fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.starts_with("napi/"))
    };
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(is_napi).collect()
}

fn forward(namespace: &Namespace) -> Result<()> {
    Ok(namespace.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
    ])?)
}

fn silence(namespace: &Namespace) -> Result<()> {
    Ok(namespace.sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?)
}

impl Drop for Topology {
    fn drop(&mut self) {
        // What is left is removed by the next run.
        let _left = netns::remove(&self.namespaces());
    }
}
