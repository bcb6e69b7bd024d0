//! The rules of the gateway that runs: a set of what is refused, services, and what iperf3 and the probe need.

use std::net::Ipv4Addr;

use anyhow::Result;
use gateway::rulefile;

use crate::compare::gateway::{self as made, dump, imported};
use crate::random::Random;

/// The set.
pub(super) const SET: &str = "blocked";
/// The set of single addresses that nft has as well.
pub(super) const EXACT: &str = "addresses";
/// iperf3's port.
pub(super) const IPERF_PORT: u16 = 5201;
/// The probe's port.
pub(super) const PROBE_PORT: u16 = 7000;

/// The `number`-th element; those from `elements` on are in no set.
pub(super) fn element(number: u32, random: &mut Random) -> String {
    let length = *random.pick(&[24u8, 26, 28, 32]);
    let address = Ipv4Addr::from_bits(0x1400_0000 + (number << 8));
    if length == 32 { address.to_string() } else { format!("{address}/{length}") }
}

/// So many elements.
pub(super) fn elements(count: u32, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed ^ 0x5e7);
    (0..count).map(|number| element(number, &mut random)).collect()
}

/// What `ipset save` prints of the set.
pub(super) fn ipset(elements: &[String]) -> String {
    let mut text = format!("create {SET} hash:net family inet hashsize 65536 maxelem 1000000\n");
    for element in elements {
        text += &format!("add {SET} {element}\n");
    }
    text
}

/// The same for `nft -f`.
pub(super) fn nft(elements: &[String]) -> String {
    table(SET, "type ipv4_addr; flags interval;", &elements.join(", "))
}

/// The elements' first addresses, for `nft -f`.
pub(super) fn nft_exact(elements: &[String]) -> String {
    let addresses: Vec<&str> = elements.iter().filter_map(|element| element.split('/').next()).collect();
    table(EXACT, "type ipv4_addr;", &addresses.join(", "))
}

fn table(set: &str, kind: &str, elements: &str) -> String {
    format!(
        "table inet gateway {{\n set {set} {{ {kind} elements = {{ {elements} }} }}\n \
         chain forward {{ type filter hook forward priority filter; policy accept; ip saddr @{set} drop; }}\n}}\n"
    )
}

/// A rule file with so many services, as `penstock import` writes it.
///
/// # Errors
/// When the import refuses it.
pub(super) fn file(rules: u32, elements: &[String], seed: u64) -> Result<String> {
    let mut services = made::rules(&made::services(rules, seed));
    for (protocol, port) in [("tcp", IPERF_PORT), ("udp", IPERF_PORT), ("udp", PROBE_PORT)] {
        services += &format!(
            "-A services -s 10.1.0.0/16 -d 10.2.0.2/32 -p {protocol} -m {protocol} --dport {port} -j ACCEPT\n"
        );
    }
    let first = format!("-A FORWARD -i d0 -o d1 -m set --match-set {SET} src -j DROP\n");
    let ruleset = imported(&dump(&first, &services), Some(&ipset(elements)))?;
    Ok(rulefile::write(&ruleset, ""))
}
