//! What an interface of a pod has, kept so that another interface in its place can be given the same.
//!
//! Messages are kept as the kernel wrote them ([`Raw`]); only what is derived is taken out before they are replayed.

use libc::{
    AF_INET, AF_INET6, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NUD_DELAY, NUD_PERMANENT, NUD_PROBE,
    NUD_REACHABLE, NUD_STALE,
};
use libc::{RTM_DELROUTE, RTM_GETADDR, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETRULE};
use libc::{RTM_NEWADDR, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Result, SpliceError};
use crate::link::{self, GENERATE_NONE, Likeness, Link};
use crate::netlink::{Body, Netlink, attribute, attributes, number, text};
use crate::netns::Namespace;
use crate::sysctl::{self, Setting};

/// Lengths of the fixed headers.
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const RULE_HEADER: usize = 12;
const NEIGHBOUR_HEADER: usize = 12;

/// `RTA_NH_ID`, `RTA_EXPIRES` (linux/rtnetlink.h), `IFA_FLAGS` (linux/if_addr.h), `FRA_IIFNAME`, `FRA_OIFNAME`
/// (linux/fib_rules.h).
const ROUTE_NEXT_HOP: u16 = 30;
const ADDRESS_FLAGS: u16 = 8;
const RULE_IN: u16 = 3;
const RULE_OUT: u16 = 17;

/// What an address may be told: everything else in its flags is what the kernel found (tentative, secondary, permanent).
const ADDRESS_FLAGS_KEPT: u32 =
    libc::IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | libc::IFA_F_NODAD | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN;
const IFA_F_MANAGETEMPADDR: u32 = 0x100;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFA_F_MCAUTOJOIN: u32 = 0x400;

/// `RTNH_F_ONLINK`: the only flag of a route that is told and not found.
const ROUTE_FLAGS_KEPT: u32 = 4;
/// `RTM_F_CLONED`: an entry of a cache.
const ROUTE_CLONED: u32 = 0x200;
/// `FIB_RULE_INVERT`.
const RULE_FLAGS_KEPT: u32 = 2;
/// `NTF_PROXY`.
const NEIGHBOUR_PROXY: u8 = 8;

/// Bytes as the kernel wrote them; in a file, hexadecimal text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            u8::from_str_radix(pair, 16).ok()
        });
        digits.collect::<Option<_>>().map(Raw).ok_or_else(|| D::Error::custom("hexadecimal digits, an even number"))
    }
}

/// Whether addresses of a replacement make the kernel add the routes of their prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixRoutes {
    /// They do not: those of the snapshot are added like any other.
    Ours,
    /// As each address had it at first; those that the kernel adds and the snapshot does not have are removed again.
    Original,
}

/// What an interface has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// What its replacement is made like.
    pub(crate) like: Likeness,
    addresses: Vec<Raw>,
    routes: Vec<Raw>,
    rules: Vec<Raw>,
    neighbours: Vec<Raw>,
    settings: Vec<Setting>,
}

impl Snapshot {
    /// Looks at an interface of a pod.
    pub(crate) fn take(pod: &Namespace, netlink: &mut Netlink, link: &Link) -> Result<Snapshot> {
        let mut dump = |what: &str, kind: u16, body: &[u8]| {
            netlink.dump(kind, body).map_err(SpliceError::kernel(format!("listing {what} of {}", link.like.name)))
        };
        let (index, name) = (link.index, &link.like.name);
        let addresses = dump("addresses", RTM_GETADDR, &[0; ADDRESS_HEADER])?;
        let routes = dump("routes", RTM_GETROUTE, &[0; ROUTE_HEADER])?;
        let rules = dump("rules", RTM_GETRULE, &[0; RULE_HEADER])?;
        let mut neighbours = dump("neighbours", RTM_GETNEIGH, &[0; NEIGHBOUR_HEADER])?;
        let mut proxies = [0; NEIGHBOUR_HEADER];
        proxies[10] = NEIGHBOUR_PROXY;
        neighbours.extend(dump("proxied neighbours", RTM_GETNEIGH, &proxies)?);
        let keep = |messages: Vec<Vec<u8>>, wanted: &dyn Fn(&[u8]) -> bool| -> Vec<Raw> {
            messages.into_iter().filter(|message| wanted(message)).map(Raw).collect()
        };
        Ok(Snapshot {
            like: link.like.clone(),
            addresses: keep(addresses, &|message| message.get(4..8).and_then(number) == Some(index)),
            routes: keep(routes, &|message| is_route_of(message, index)),
            rules: keep(rules, &|message| names_interface(message, name)),
            neighbours: keep(neighbours, &|message| {
                is_told_neighbour(message, index) || is_learnt_neighbour(message, index)
            }),
            settings: pod.run(|| sysctl::read(name))?,
        })
    }

    /// The IP addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(|Raw(message)| local_address(message)).collect()
    }

    /// Takes over from an earlier snapshot how addresses were when somebody else gave them.
    pub(crate) fn with_address_flags_of(mut self, earlier: &Snapshot) -> Snapshot {
        for address in &mut self.addresses {
            let same = |other: &&Raw| local_address(&other.0) == local_address(&address.0);
            if let Some(original) = earlier.addresses.iter().find(same) {
                *address = original.clone();
            }
        }
        self
    }

    /// Gives everything to the interface `index`, which is down, and sets it up if the one before was. Every step may
    /// find its work done: a replay that was cut off is simply repeated. Answers what could not be done and does not
    /// matter much.
    pub(crate) fn replay(
        &self,
        pod: &Namespace,
        netlink: &mut Netlink,
        index: u32,
        prefixes: PrefixRoutes,
    ) -> Result<Vec<String>> {
        link::imitate(netlink, index, &self.like)?;
        // Otherwise the kernel makes a link-local address of its own, and the old one would be tentative.
        link::set_address_generation(netlink, index, GENERATE_NONE)?;
        let warnings = pod.run(|| sysctl::write(&self.like.name, &self.settings))?;
        if self.like.flags & libc::IFF_UP as u32 != 0 {
            link::set_up(netlink, index, true)?;
        }
        for Raw(address) in &self.addresses {
            let told = address_to_tell(address, index, prefixes);
            change(netlink, "address", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &told)?;
        }
        for Raw(neighbour) in &self.neighbours {
            let told = neighbour_to_tell(neighbour, index);
            change(netlink, "neighbour", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &told)?;
        }
        if prefixes == PrefixRoutes::Original {
            self.remove_other_routes(netlink, index)?;
        }
        self.replay_routes(netlink)?;
        for Raw(rule) in &self.rules {
            change(netlink, "rule", RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &rule_to_tell(rule))?;
        }
        if let Some(mode) = self.like.address_generation {
            link::set_address_generation(netlink, index, mode)?;
        }
        Ok(warnings)
    }

    /// A route may need another one (the one to its gateway): what is refused is tried again as long as others succeed.
    fn replay_routes(&self, netlink: &mut Netlink) -> Result<()> {
        if self.like.flags & libc::IFF_UP as u32 == 0 {
            return Ok(());
        }
        let mut waiting: Vec<Vec<u8>> = self.routes.iter().map(|Raw(route)| route_to_tell(route)).collect();
        loop {
            let before = waiting.len();
            let mut refusal = None;
            waiting.retain(|route| {
                let flags = NLM_F_CREATE | how_to_add(route);
                let answer = change(netlink, "route", RTM_NEWROUTE, flags, route);
                answer.map_err(|error| refusal = Some(error)).is_err()
            });
            match refusal {
                None => return Ok(()),
                Some(error) if waiting.len() == before => return Err(error),
                Some(_) => {}
            }
        }
    }

    /// Removes routes of the interface that it did not have before.
    fn remove_other_routes(&self, netlink: &mut Netlink, index: u32) -> Result<()> {
        let known: Vec<Vec<u8>> = self.routes.iter().map(|Raw(route)| identity_of_route(route)).collect();
        let present = netlink
            .dump(RTM_GETROUTE, &[0; ROUTE_HEADER])
            .map_err(SpliceError::kernel(format!("listing routes of {}", self.like.name)))?;
        let ours = present.iter().filter(|route| is_route_of(route, index));
        for route in ours.filter(|route| !known.contains(&identity_of_route(route))) {
            match netlink.change(RTM_DELROUTE, 0, &route_to_tell(route)) {
                Err(error) if !error.is(libc::ESRCH) => {
                    return Err(SpliceError::kernel("removing a route that was not there before")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Beside what else may be there: a route of several next hops has lost those of the interface and kept the others; of
/// IPv4 routes to one prefix the order stays when they are appended, and IPv6 ones would be joined into one.
fn how_to_add(route: &[u8]) -> i32 {
    if attribute(&route[ROUTE_HEADER..], libc::RTA_MULTIPATH).is_some() {
        return NLM_F_REPLACE;
    }
    if i32::from(route[0]) == AF_INET { NLM_F_APPEND } else { 0 }
}

/// Adds something that may be there already.
fn change(netlink: &mut Netlink, what: &str, kind: u16, flags: i32, body: &[u8]) -> Result<()> {
    match netlink.change(kind, flags, body) {
        Err(error) if !error.is(libc::EEXIST) => {
            Err(SpliceError::kernel(format!("adding {what} {}", described(kind, body)))(error))
        }
        _ => Ok(()),
    }
}

/// What a message is about, for people.
fn described(kind: u16, body: &[u8]) -> String {
    let (header, destination) = match kind {
        RTM_NEWADDR => (ADDRESS_HEADER, libc::IFA_ADDRESS),
        RTM_NEWROUTE => (ROUTE_HEADER, libc::RTA_DST),
        RTM_NEWNEIGH => (NEIGHBOUR_HEADER, libc::NDA_DST),
        _ => return String::new(),
    };
    let address = attribute(body.get(header..).unwrap_or_default(), destination).and_then(ip);
    let length = body.get(1).copied().unwrap_or_default();
    match address {
        Some(address) if kind == RTM_NEWNEIGH => address.to_string(),
        Some(address) => format!("{address}/{length}"),
        None => "default".to_owned(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|&bytes| Ipv4Addr::from(bytes).into()),
        16 => bytes.first_chunk::<16>().map(|&bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// The interface's own address: of a point-to-point address, the local one.
fn local_address(message: &[u8]) -> Option<IpAddr> {
    let body = message.get(ADDRESS_HEADER..)?;
    attribute(body, libc::IFA_LOCAL).or_else(|| attribute(body, libc::IFA_ADDRESS)).and_then(ip)
}

fn rebuilt(message: &[u8], header: usize, keep: impl Fn(u16) -> bool) -> Body {
    let (header, body) = message.split_at(header);
    attributes(body)
        .filter(|&(kind, _)| keep(kind))
        .fold(Body::new(header), |body, (kind, value)| body.with(kind, value))
}

fn with_index(message: &[u8], offset: usize, index: u32) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(field) = message.get_mut(offset..offset + 4) {
        field.copy_from_slice(&index.to_ne_bytes());
    }
    message
}

fn address_to_tell(message: &[u8], index: u32, prefixes: PrefixRoutes) -> Vec<u8> {
    let body = message.get(ADDRESS_HEADER..).unwrap_or_default();
    let known = attribute(body, ADDRESS_FLAGS).and_then(number).unwrap_or_else(|| message[2].into());
    let mut flags = known & ADDRESS_FLAGS_KEPT | libc::IFA_F_NODAD;
    if prefixes == PrefixRoutes::Ours {
        flags |= IFA_F_NOPREFIXROUTE;
    }
    let mut told = with_index(message, 4, index);
    told[2] = 0;
    rebuilt(&told, ADDRESS_HEADER, |kind| kind != ADDRESS_FLAGS).number(ADDRESS_FLAGS, flags).bytes().to_vec()
}

fn route_to_tell(message: &[u8]) -> Vec<u8> {
    let mut told = message.to_vec();
    if let Some(field) = told.get_mut(8..12) {
        let flags = field.first_chunk().map_or(0, |&bytes| u32::from_ne_bytes(bytes)) & ROUTE_FLAGS_KEPT;
        field.copy_from_slice(&flags.to_ne_bytes());
    }
    let keep = |kind| kind != libc::RTA_CACHEINFO && kind != ROUTE_NEXT_HOP;
    rebuilt(&told, ROUTE_HEADER, keep).bytes().to_vec()
}

/// What two dumps of one route have in common.
fn identity_of_route(message: &[u8]) -> Vec<u8> {
    route_to_tell(message)
}

fn rule_to_tell(message: &[u8]) -> Vec<u8> {
    let mut told = message.to_vec();
    if let Some(field) = told.get_mut(8..12) {
        let flags = field.first_chunk().map_or(0, |&bytes| u32::from_ne_bytes(bytes)) & RULE_FLAGS_KEPT;
        field.copy_from_slice(&flags.to_ne_bytes());
    }
    told
}

/// Whether a route leaves by the interface, and is one that somebody added: those of the kernel's own in the local table
/// come and go with addresses.
fn is_route_of(message: &[u8], index: u32) -> bool {
    let (Some(header), Some(body)) = (message.get(..ROUTE_HEADER), message.get(ROUTE_HEADER..)) else { return false };
    let table = attribute(body, libc::RTA_TABLE).and_then(number).unwrap_or_else(|| header[4].into());
    let from_kernel = header[5] == libc::RTPROT_KERNEL;
    let flags = number(&header[8..12]).unwrap_or_default();
    let derived = flags & ROUTE_CLONED != 0 || (from_kernel && table == u32::from(libc::RT_TABLE_LOCAL));
    let family = i32::from(header[0]);
    (family == AF_INET || family == AF_INET6) && !derived && leaves_by(body, index)
}

fn leaves_by(body: &[u8], index: u32) -> bool {
    if attribute(body, libc::RTA_OIF).and_then(number) == Some(index) {
        return true;
    }
    // Next hops: `struct rtnexthop` {length: u16, flags: u8, hops: u8, index: i32}, attributes, aligned.
    let mut hops = attribute(body, libc::RTA_MULTIPATH).unwrap_or_default();
    while let Some(hop) = hops.get(..8) {
        let length = usize::from(u16::from_ne_bytes([hop[0], hop[1]]));
        if number(&hop[4..]) == Some(index) {
            return true;
        }
        hops = hops.get((length.max(8) + 3) & !3..).unwrap_or_default();
    }
    false
}

fn names_interface(message: &[u8], name: &str) -> bool {
    let body = message.get(RULE_HEADER..).unwrap_or_default();
    [RULE_IN, RULE_OUT].iter().any(|&kind| attribute(body, kind).map(text).as_deref() == Some(name))
}

/// What the host has learnt of a pod: it forgets that when the other end of the pair is moved, and whoever asks while nobody
/// reads the wire yet asks again only after a second.
pub(crate) struct Learnt(Vec<Raw>);

impl Learnt {
    /// Neighbours with these addresses on these interfaces.
    pub(crate) fn take(netlink: &mut Netlink, indexes: &[u32], addresses: &[IpAddr]) -> Result<Learnt> {
        let all = netlink.dump(RTM_GETNEIGH, &[0; NEIGHBOUR_HEADER]);
        let all = all.map_err(SpliceError::kernel("listing neighbours of the host".to_owned()))?;
        let is_of_pod = |message: &Vec<u8>| {
            indexes.iter().any(|&index| is_learnt_neighbour(message, index))
                && neighbour_address(message).is_some_and(|address| addresses.contains(&address))
        };
        Ok(Learnt(all.into_iter().filter(is_of_pod).map(Raw).collect()))
    }

    /// Tells the host again. What it does not take it learns.
    pub(crate) fn replay(&self, netlink: &mut Netlink) {
        for Raw(message) in &self.0 {
            let index = message.get(4..8).and_then(number).unwrap_or_default();
            let told = neighbour_to_tell(message, index);
            let _learnt_again = netlink.change(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &told);
        }
    }
}

/// A neighbour on another interface. What was learnt is told as something to be confirmed at its next use.
fn neighbour_to_tell(message: &[u8], index: u32) -> Vec<u8> {
    let learnt = message.get(4..8).and_then(number).is_some_and(|before| is_learnt_neighbour(message, before));
    let mut told = with_index(message, 4, index);
    if learnt {
        told[8..10].copy_from_slice(&NUD_STALE.to_ne_bytes());
    }
    told
}

fn neighbour_address(message: &[u8]) -> Option<IpAddr> {
    let address = attribute(message.get(NEIGHBOUR_HEADER..)?, libc::NDA_DST)?;
    match address.len() {
        4 => <[u8; 4]>::try_from(address).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(address).ok().map(IpAddr::from),
    }
}

/// Whether a neighbour's hardware address was learnt, and is good still.
fn is_learnt_neighbour(message: &[u8], index: u32) -> bool {
    const GOOD: u16 = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE;
    let Some(header) = message.get(..NEIGHBOUR_HEADER) else { return false };
    let family = i32::from(header[0]);
    let state = u16::from_ne_bytes([header[8], header[9]]);
    (family == AF_INET || family == AF_INET6)
        && number(&header[4..8]) == Some(index)
        && state & GOOD != 0
        && attribute(&message[NEIGHBOUR_HEADER..], libc::NDA_LLADDR).is_some()
}

/// Whether somebody told the neighbour.
fn is_told_neighbour(message: &[u8], index: u32) -> bool {
    let Some(header) = message.get(..NEIGHBOUR_HEADER) else { return false };
    let family = i32::from(header[0]);
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let told = state & NUD_PERMANENT != 0 || header[10] & NEIGHBOUR_PROXY != 0;
    (family == AF_INET || family == AF_INET6) && number(&header[4..8]) == Some(index) && told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u8, protocol: u8, index: u32) -> Vec<u8> {
        let header = [AF_INET as u8, 24, 0, 0, table, protocol, 253, 1, 0x10, 0, 0, 0];
        let body = Body::new(&header).with(libc::RTA_DST, &[10, 1, 0, 0]).number(libc::RTA_OIF, index);
        body.number(libc::RTA_CACHEINFO, 7).bytes().to_vec()
    }

    #[test]
    fn routes_that_come_with_addresses_are_left_out() {
        assert!(is_route_of(&route(254, libc::RTPROT_KERNEL, 5), 5));
        assert!(is_route_of(&route(100, libc::RTPROT_BOOT, 5), 5));
        assert!(!is_route_of(&route(libc::RT_TABLE_LOCAL, libc::RTPROT_KERNEL, 5), 5));
        assert!(!is_route_of(&route(254, libc::RTPROT_KERNEL, 6), 5));
    }

    #[test]
    fn one_of_several_next_hops_is_enough() {
        let hop = |index: u32| [&[8, 0, 0, 0][..], &index.to_ne_bytes()].concat();
        let header = [AF_INET as u8, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        let hops = [hop(3), hop(5)].concat();
        let message = Body::new(&header).with(libc::RTA_MULTIPATH, &hops).bytes().to_vec();
        assert!(is_route_of(&message, 5));
        assert!(!is_route_of(&message, 4));
    }

    #[test]
    fn what_the_kernel_found_is_not_told_again() {
        let told = route_to_tell(&route(254, libc::RTPROT_BOOT, 5));
        assert_eq!(told[8..12], [0; 4], "link-down is no wish");
        assert_eq!(attribute(&told[ROUTE_HEADER..], libc::RTA_CACHEINFO), None);
        assert_eq!(attribute(&told[ROUTE_HEADER..], libc::RTA_OIF).and_then(number), Some(5));

        let tentative = libc::IFA_F_TENTATIVE;
        let header = [AF_INET6 as u8, 64, tentative as u8, 0, 5, 0, 0, 0];
        let message = Body::new(&header).with(libc::IFA_ADDRESS, &[1; 16]).number(ADDRESS_FLAGS, tentative);
        let told = address_to_tell(message.bytes(), 9, PrefixRoutes::Ours);
        let flags = attribute(&told[ADDRESS_HEADER..], ADDRESS_FLAGS).and_then(number);
        assert_eq!(flags, Some(libc::IFA_F_NODAD | IFA_F_NOPREFIXROUTE));
        assert_eq!(number(&told[4..8]), Some(9));
        let told = address_to_tell(message.bytes(), 9, PrefixRoutes::Original);
        assert_eq!(attribute(&told[ADDRESS_HEADER..], ADDRESS_FLAGS).and_then(number), Some(libc::IFA_F_NODAD));
    }

    #[test]
    fn bytes_survive_a_file() {
        let raw = Raw(vec![0, 1, 0xfe, 0xff]);
        let text = serde_json::to_string(&raw).unwrap();
        assert_eq!(text, "\"0001feff\"");
        assert_eq!(serde_json::from_str::<Raw>(&text).unwrap(), raw);
        for bad in ["\"0\"", "\"zz\"", "\"+1\"", "3"] {
            assert!(serde_json::from_str::<Raw>(bad).is_err(), "{bad}");
        }
    }
}
