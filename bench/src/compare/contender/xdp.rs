//! The peer in the kernel that is our own: an XDP program that forwards between the two devices of the middle, without a
//! policy, with a longest-prefix table and a hash of services, or with an LRU hash of connections before them. Compiled
//! by clang when it is asked for. IPv4 only.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::xdp::DevMap;
use aya::maps::{HashMap, LpmTrie};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::{Kind, Setting};
use crate::compare::policy::{self, Entry};
use crate::compare::process;
use crate::compare::topology::{Family, Topology};

const SOURCE: &str = include_str!("policy.bpf.c");

/// Attached programs; dropping them detaches them.
pub struct Programs {
    _links: Vec<FdLink>,
    _program: Ebpf,
}

impl Programs {
    /// Compiles, loads, fills the tables and attaches to both devices.
    ///
    /// # Errors
    /// When clang or the kernel refuses, or the traffic is not IPv4.
    pub fn attach(setting: &Setting, topology: &Topology) -> Result<Programs> {
        if setting.family != Family::V4 {
            bail!("the XDP program reads IPv4 only");
        }
        let mode = match setting.kind {
            Kind::XdpRedirect => 0,
            Kind::XdpPolicy => 1,
            _ => 2,
        };
        let directory = tempfile::tempdir()?;
        let (source, object) = (directory.path().join("policy.bpf.c"), directory.path().join("policy.bpf.o"));
        std::fs::write(&source, SOURCE)?;
        let (source, object_text) = (source.display().to_string(), object.display().to_string());
        let define = format!("-DMODE={mode}");
        process::run(
            None,
            &["clang", "-target", "bpf", "-O2", "-g", "-Wall", &define, "-c", &source, "-o", &object_text],
            "",
        )?;
        let bytes = std::fs::read(&object)?;
        topology.middle.run(|| load(&bytes, setting))?
    }
}

fn load(bytes: &[u8], setting: &Setting) -> Result<Programs> {
    let entries = policy::entries(setting.rules, setting.family, true, setting.seed);
    let mut program = EbpfLoader::new()
        .map_max_entries("flows", setting.flows)
        .map_max_entries("classes", setting.rules + 1_000)
        .map_max_entries("services", 2 * setting.rules + 1_000)
        .load(bytes)
        .context("loading the XDP program")?;
    fill(&mut program, &entries)?;
    let indexes = ["d0", "d1"].map(index);
    let mut devices = DevMap::try_from(program.map_mut("devices").context("the program has the map")?)?;
    for (at, index) in (0u32..).zip(&indexes) {
        devices.set(at, index.as_ref().map_or(0, |index| *index), None, 0)?;
    }
    let mut links = Vec::new();
    for (name, index) in ["forward", "back"].into_iter().zip(indexes) {
        let xdp: &mut Xdp = program.program_mut(name).context("the object has the program")?.try_into()?;
        xdp.load()?;
        let link = xdp.attach_to_if_index(index?, XdpMode::Driver)?;
        links.push(FdLink::try_from(xdp.take_link(link)?).map_err(|_| anyhow::anyhow!("the kernel has no BPF links"))?);
    }
    Ok(Programs { _links: links, _program: program })
}

fn index(device: &str) -> Result<u32> {
    let text = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    rustix::net::netdevice::name_to_index(text, device).with_context(|| format!("there is no device {device}"))
}

/// The prefixes, each of a class of its own, and what each class may reach.
fn fill(program: &mut Ebpf, entries: &[Entry]) -> Result<()> {
    let allowed = Entry {
        address: IpAddr::from([10, 1, 0, 0]),
        length: 16,
        is_tcp: false,
        first: policy::UDP_PORTS.0,
        last: policy::UDP_PORTS.0,
    };
    let mut classes = std::collections::HashMap::new();
    let all: Vec<&Entry> = entries.iter().chain([&allowed]).collect();
    let mut trie: LpmTrie<_, [u8; 4], u32> =
        LpmTrie::try_from(program.map_mut("classes").context("the program has the map")?)?;
    for entry in &all {
        let IpAddr::V4(address) = entry.address else { continue };
        let next = classes.len() as u32 + 1;
        let class = *classes.entry((address, entry.length)).or_insert(next);
        trie.insert(&Key::new(u32::from(entry.length), address.octets()), class, 0)?;
    }
    let mut services: HashMap<_, [u32; 2], u32> =
        HashMap::try_from(program.map_mut("services").context("the program has the map")?)?;
    for entry in &all {
        let IpAddr::V4(address) = entry.address else { continue };
        let class = classes[&(address, entry.length)];
        let protocol = if entry.is_tcp { 6u32 } else { 17 };
        services.insert([class, protocol << 16 | u32::from(entry.first)], 1, 0)?;
    }
    Ok(())
}
