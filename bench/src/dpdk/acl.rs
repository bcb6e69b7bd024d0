//! [`Acl`]: `librte_acl` with a ClassBench set.

use std::time::Duration;

use dataplane::address::Address;
use ipnet::IpNet;

use super::{Peer, Unavailable};
use crate::classbench::{Filter, Header};

/// What building took.
#[derive(Clone, Debug)]
pub struct Built {
    /// Adding the rules and building.
    pub time: Duration,
    /// The rules as it keeps them, to build from.
    pub rules_bytes: u64,
    /// The run-time tables.
    pub table_bytes: u64,
    /// What the process had resident after building, temporary memory included.
    pub peak_bytes: u64,
    /// Of that, in huge pages.
    pub huge_bytes: u64,
    /// The methods of classifying that this CPU has: `scalar`, `sse`, `avx2`, `avx512x16`, `avx512x32`.
    pub methods: Vec<String>,
}

/// `librte_acl` in a process of its own, with one set and the headers to ask about.
#[derive(Debug)]
pub struct Acl(Peer);

impl Acl {
    /// Starts it with filters and headers of one family, pinned to a CPU. `megabytes` bounds the memory of its tables.
    ///
    /// # Errors
    /// DPDK is missing, or does not start.
    pub fn start(cpu: usize, megabytes: usize, filters: &[Filter], headers: &[Header]) -> Result<Self, Unavailable> {
        Ok(Acl(Peer::start("acl_bench", cpu, megabytes, &input(filters, headers), &[])?))
    }

    /// Builds.
    ///
    /// # Errors
    /// It refuses the rules, or its memory does not do.
    pub fn build(&mut self) -> Result<Built, Unavailable> {
        let answer = self.0.ask("build")?;
        let number = |name| self.0.number(&answer, name);
        let methods = answer["methods"].as_array().into_iter().flatten();
        Ok(Built {
            time: Duration::from_nanos(number("build_ns")?),
            rules_bytes: number("rules_bytes")?,
            table_bytes: number("table_bytes")?,
            peak_bytes: number("peak_rss")?,
            huge_bytes: number("huge_bytes")?,
            methods: methods.filter_map(|method| method.as_str().map(str::to_owned)).collect(),
        })
    }

    /// Classifies `count` headers from number `from` on, `batch` (at most 256) in a call: nanoseconds a header.
    ///
    /// # Errors
    /// There are not so many headers, or the method is not of this CPU.
    pub fn round(&mut self, method: &str, batch: usize, from: usize, count: usize) -> Result<f64, Unavailable> {
        let answer = self.0.ask(&format!("round {method} {batch} {from} {count}"))?;
        Ok(self.0.number(&answer, "ns")? as f64 / count.max(1) as f64)
    }

    /// The place of the first filter that matches, for each header.
    ///
    /// # Errors
    /// The program failed.
    pub fn answers(&mut self, method: &str) -> Result<Vec<Option<usize>>, Unavailable> {
        let path = self.0.directory.path().join("answers");
        self.0.ask(&format!("answers {method} {}", path.display()))?;
        let bytes = std::fs::read(&path).map_err(|error| Unavailable::failed("its answers", error))?;
        let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
        Ok(words.map(|word| (word as usize).checked_sub(1)).collect())
    }
}

/// The file that the program reads: `struct sizes`, rules, headers.
fn input(filters: &[Filter], headers: &[Header]) -> Vec<u8> {
    let v4 = filters.first().is_none_or(Filter::is_v4);
    let flags = filters.iter().any(|filter| filter.flags_mask != 0);
    let sizes = [if v4 { 4 } else { 6 }, u32::from(flags), filters.len() as u32, headers.len() as u32];
    let mut bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_ne_bytes()).collect();
    for filter in filters {
        let nets = [filter.source, filter.destination];
        for net in nets {
            bytes.extend_from_slice(&match net {
                IpNet::V4(net) => {
                    let mut padded = [0; 16];
                    padded[..4].copy_from_slice(&net.network().octets());
                    padded
                }
                IpNet::V6(net) => net.network().octets(),
            });
        }
        bytes.extend(nets.map(|net| net.prefix_len()));
        bytes.extend(filter.protocol.map_or([0, 0], |protocol| [protocol, 0xff]));
        bytes.extend([filter.flags, filter.flags_mask]);
        let ports = [filter.source_ports, filter.destination_ports];
        bytes.extend(ports.iter().flat_map(|ports| [ports.first, ports.last]).flat_map(u16::to_ne_bytes));
        bytes.extend([0; 2]);
    }
    for header in headers {
        let address = |address: Address| if v4 { address.0[12..].to_vec() } else { address.0.to_vec() };
        bytes.extend([header.protocol, 0, 0, 0]);
        bytes.extend(address(header.source));
        bytes.extend(address(header.destination));
        bytes.extend([header.source_port, header.destination_port].iter().flat_map(|port| port.to_be_bytes()));
        bytes.extend([header.flags, 0, 0, 0]);
    }
    bytes
}
