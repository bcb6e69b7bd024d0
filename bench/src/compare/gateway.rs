//! A gateway's rules, in the form that each of the contenders takes: what `iptables-save` prints, which Penstock imports and iptables
//! restores as it is, and what an admin would write for ipset and nft instead.
//!
//! Connections that are known pass, invalid packets do not, and what is new goes through one chain of *services*: source prefix,
//! destination prefix, protocol, destination ports. The generated traffic matches the last four, a quarter of its sources each, so that who
//! reads rules one after the other reads them all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use dataplane::rules::stateful::StatefulRules;
use gateway::import::{Options, import};
use gateway::lower::lower;
use gateway::model::{Family, Ruleset};
use gateway::placement::Placement;

use crate::compare::policy::{self, SOURCES, UDP_PORTS};
use crate::compare::topology;
use crate::random::Random;

/// How many of the services the traffic matches.
pub const OF_THE_TRAFFIC: u32 = 4;
/// The most ports of a service: an ipset has an element for each.
const WIDEST: u32 = 8;
/// How long a server's prefix is: most are one host, and an ipset has an element for each host of the others.
const SERVERS: [u8; 8] = [32, 32, 32, 32, 32, 32, 30, 29];
/// The wire's name.
const WIRE: &str = "gateway";

/// One allowed (source, destination, protocol, ports).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Who asks: a prefix.
    pub source: (Ipv4Addr, u8),
    /// Who is asked: a prefix.
    pub destination: (Ipv4Addr, u8),
    /// TCP, or UDP.
    pub is_tcp: bool,
    /// First and last destination port.
    pub ports: (u16, u16),
}

impl Service {
    fn protocol(&self) -> &'static str {
        if self.is_tcp { "tcp" } else { "udp" }
    }

    fn ports(&self, separator: char) -> String {
        let (first, last) = self.ports;
        if first == last { first.to_string() } else { format!("{first}{separator}{last}") }
    }
}

/// A prefix as `nft` and `ipset` write it.
fn prefix((address, length): (Ipv4Addr, u8)) -> String {
    if length == 32 { address.to_string() } else { format!("{address}/{length}") }
}

/// So many services in an order of the seed, those of the traffic last. No two have the same source; three in four are TCP, three in ten
/// have a few ports in a row.
pub fn services(rules: u32, seed: u64) -> Vec<Service> {
    let mut random = Random::new(seed);
    let others = rules.saturating_sub(OF_THE_TRAFFIC);
    let mut services: Vec<Service> = (0..others)
        .map(|number| {
            let source = (Ipv4Addr::from_bits(0x0b00_0000 + (number << 8)), *random.pick(&[24u8, 26, 28, 32]));
            let server = Ipv4Addr::from_bits(0xac10_0000 + (random.below(1 << 12) << 8));
            let first = 1_024 + random.below(30_000) as u16;
            let width = if random.below(10) < 3 { random.below(WIDEST) as u16 } else { 0 };
            let (destination, is_tcp) = ((server, *random.pick(&SERVERS)), random.below(4) > 0);
            Service { source, destination, is_tcp, ports: (first, first + width) }
        })
        .collect();
    for at in (1..services.len()).rev() {
        services.swap(at, random.below(at as u32 + 1) as usize);
    }
    services.extend((0..OF_THE_TRAFFIC).filter_map(of_the_traffic));
    services
}

/// The service of one quarter of the generator's addresses.
fn of_the_traffic(quarter: u32) -> Option<Service> {
    let share = SOURCES / OF_THE_TRAFFIC;
    let std::net::IpAddr::V4(source) = policy::source(topology::Family::V4, quarter * share) else { return None };
    let destination = topology::Family::V4.sink().parse().ok()?;
    let length = (32 - share.ilog2()) as u8;
    let ports = (UDP_PORTS.0, UDP_PORTS.0 + WIDEST as u16 - 1);
    Some(Service { source: (source, length), destination: (destination, 32), is_tcp: false, ports })
}

/// The dump with `services` in their chain, and `first` before it: what `iptables-save` prints.
pub fn dump(first: &str, services: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:services - [0:0]\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         {first}-A FORWARD -i d0 -o d1 -j services\n{services}COMMIT\n"
    )
}

/// What `iptables-save` prints, one rule a service: Penstock imports it, `iptables-restore` takes it back.
pub fn iptables(services: &[Service]) -> String {
    dump("", &rules(services))
}

/// A rule a service, in the chain `services`.
pub fn rules(services: &[Service]) -> String {
    let mut text = String::new();
    for service in services {
        let ((source, from), (destination, to)) = (service.source, service.destination);
        let (protocol, ports) = (service.protocol(), service.ports(':'));
        let _ = writeln!(
            text,
            "-A services -s {source}/{from} -d {destination}/{to} -p {protocol} -m {protocol} --dport {ports} -j ACCEPT"
        );
    }
    text
}

/// What `ipset restore` reads: one set of (server, port, clients' network), an element for each server and port of a service.
pub fn ipset(services: &[Service]) -> String {
    let mut text = String::from("create services hash:ip,port,net family inet maxelem 4000000\n");
    for service in services {
        let (source, destination) = (prefix(service.source), prefix(service.destination));
        let ports = service.ports('-');
        let _ = writeln!(text, "add services {destination},{}:{ports},{source}", service.protocol());
    }
    text
}

/// The rules that ask the set of [`ipset`].
pub fn ipset_rules() -> String {
    dump("", "-A services -m set --match-set services dst,dst,src -j ACCEPT\n")
}

/// What `nft -f` reads: the same as [`iptables`] with one verdict map of intervals, or with `one_by_one` a rule a service.
pub fn nft(services: &[Service], one_by_one: bool) -> String {
    let (mut map, mut rules) = (String::new(), String::new());
    if !one_by_one {
        map.push_str(" map services { type ipv4_addr . ipv4_addr . inet_proto . inet_service : verdict; flags interval; elements = {\n");
        rules.push_str("  ip saddr . ip daddr . meta l4proto . th dport vmap @services\n");
    }
    for service in services {
        let (source, destination) = (prefix(service.source), prefix(service.destination));
        let (protocol, ports) = (service.protocol(), service.ports('-'));
        let _ = if one_by_one {
            writeln!(rules, "  ip saddr {source} ip daddr {destination} {protocol} dport {ports} accept")
        } else {
            writeln!(map, "{source} . {destination} . {protocol} . {ports} : accept,")
        };
    }
    if !one_by_one {
        map.push_str(" } }\n");
    }
    format!(
        "table inet gateway {{\n{map} chain services {{\n{rules} }}\n \
         chain forward {{ type filter hook forward priority filter; policy drop;\n  \
         ct state established,related accept\n  ct state invalid drop\n  \
         iifname \"d0\" oifname \"d1\" jump services\n }}\n}}\n"
    )
}

/// Imports a dump as `penstock import iptables-save` does, with its sets where it has any.
///
/// # Errors
/// What the import says.
pub fn imported(dump: &str, sets: Option<&str>) -> Result<Ruleset> {
    let ipset = sets.map(|text| (Arc::from("ipset-save"), text.to_owned()));
    let options = Options { ipset, ..Options::new(Family::V4, "iptables-save".into()) };
    let all = |errors: Vec<gateway::import::ImportError>| {
        anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    Ok(import(dump, &options).map_err(all)?.ruleset)
}

/// The rules of a gateway as its one wire has them, from the text: what goes out of the inside, and what comes in.
///
/// # Errors
/// When the import or the compiler refuses them.
pub fn stateful(dump: &str) -> Result<[Arc<StatefulRules>; 2]> {
    let placement = Placement::Transparent { inside: "d1".to_owned(), outside: "d0".to_owned() };
    let placements = BTreeMap::from([(WIRE.to_owned(), placement)]);
    let mut lowered = lower(&imported(dump, None)?, &placements, 1, None)?;
    lowered.wires.remove(WIRE).context("the wire has rules")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::compare::policy::DENIED_PORT;
    use dataplane::address::Address;
    use dataplane::classify::stateful::StatefulTable;
    use dataplane::packet::{Direction, Protocol};
    use dataplane::rules::stateful::ConnectionState;
    use dataplane::rules::{Action, Query};

    #[test]
    fn every_service_is_asked_for_and_none_but_the_last_is_of_the_traffic() {
        for rules in [10, 2_000] {
            let services = services(rules, crate::micro::fresh_seed());
            assert_eq!(services.len(), rules as usize);
            let sources: std::collections::BTreeSet<_> = services.iter().map(|service| service.source).collect();
            assert_eq!(sources.len(), services.len(), "a map takes no element twice");
            let (others, traffic) = services.split_at(services.len() - OF_THE_TRAFFIC as usize);
            assert!(others.iter().all(|service| service.source.0.octets()[0] != 10));
            assert!(traffic.iter().all(|service| !service.is_tcp && service.ports.0 == UDP_PORTS.0));
            assert_eq!(iptables(&services).matches("-A services").count(), services.len());
            assert_eq!(nft(&services, true).matches(" accept\n").count(), services.len() + 1);
            assert_eq!(nft(&services, false).matches(" : accept").count(), services.len());
        }
    }

    #[test]
    fn what_is_imported_decides_by_the_last_rules() {
        let rules = stateful(&iptables(&services(200, 5))).unwrap();
        let table = StatefulTable::new(&rules[Direction::Ingress as usize]);
        let pod = Address::from(topology::Family::V4.sink().parse::<IpAddr>().unwrap());
        let judge = |number, port| {
            let peer = Address::from(policy::source(topology::Family::V4, number));
            let query = Query { local: pod, ..Query::new(peer, Protocol::UDP, port) };
            table.judge(Direction::Ingress, ConnectionState::New, query)
        };
        let rule = |number| judge(number, UDP_PORTS.0).rule;
        for number in [0, 63, 64, 255] {
            assert_eq!(judge(number, UDP_PORTS.0).action, Action::Allow);
            assert_eq!(judge(number, DENIED_PORT).action, Action::Deny);
        }
        assert!(rule(0) == rule(63) && rule(63) != rule(64) && rule(0) != rule(255), "a rule each quarter");
    }
}
