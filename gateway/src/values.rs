//! The words of rules: how addresses, ports, protocols and the like are written in a rule file, and read back.
//!
//! What is shown here is read here as the same value.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use dataplane::address::Address;
use ipnet::IpNet;

use crate::model::{Dimension, Element, Limit, Part, Per, RejectWith};

mod icmp;

pub(crate) use icmp::{Context, messages, show_messages};

/// Protocols by name. Of two names for one number, the first is written.
const PROTOCOLS: [(&str, u8); 27] = [
    ("hopopt", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("ipencap", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("eigrp", 88),
    ("ospf", 89),
    ("ipip", 94),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// TCP's flags, from the lowest bit.
pub(crate) const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

/// syslog's severities, from 0.
pub(crate) const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"];

/// Refusals by name.
pub(crate) const REJECTS: [(&str, RejectWith); 10] = [
    ("tcp-reset", RejectWith::TcpReset),
    ("net-unreachable", RejectWith::NetUnreachable),
    ("host-unreachable", RejectWith::HostUnreachable),
    ("protocol-unreachable", RejectWith::ProtocolUnreachable),
    ("port-unreachable", RejectWith::PortUnreachable),
    ("net-prohibited", RejectWith::NetProhibited),
    ("host-prohibited", RejectWith::HostProhibited),
    ("admin-prohibited", RejectWith::AdminProhibited),
    ("policy-fail", RejectWith::PolicyFail),
    ("reject-route", RejectWith::RejectRoute),
];

/// The times of a rate by name.
const TIMES: [(&str, Per); 4] =
    [("second", Per::Second), ("minute", Per::Minute), ("hour", Per::Hour), ("day", Per::Day)];

/// The name of a refusal.
pub(crate) fn reject_name(with: RejectWith) -> &'static str {
    REJECTS.iter().find(|(_, of)| *of == with).map_or("", |(name, _)| name)
}

/// A number without sign or spaces.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A protocol by its name or number.
pub(crate) fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    named.or_else(|| number(text)).ok_or_else(|| {
        format!("{text:?} is no protocol known here; write a name such as tcp, udp, icmp, icmpv6, or a number to 255")
    })
}

/// A protocol's name, else its number.
pub(crate) fn show_protocol(number: u8) -> String {
    PROTOCOLS.iter().find(|(_, of)| *of == number).map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// A port or a range of ports.
pub(crate) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let error = || format!("{text:?} is no port; write a number to 65535, or a range such as 1024-65535");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first).ok_or_else(error)?, number(last).ok_or_else(error)?);
    if first > last {
        return Err(format!("the range {text} ends before it begins; write {last}-{first}"));
    }
    Ok(first..=last)
}

/// A range as its only member, or as first and last.
pub(crate) fn show_range<T: PartialEq + fmt::Display>(range: &RangeInclusive<T>) -> String {
    if range.start() == range.end() { range.start().to_string() } else { format!("{}-{}", range.start(), range.end()) }
}

fn address(text: &str) -> Result<Address, String> {
    let address: IpAddr = text.parse().map_err(|_| {
        format!("{text:?} is no address; write it as 10.0.0.1, 10.0.0.0/8, 10.0.0.1-10.0.0.9 or 2001:db8::/32")
    })?;
    plain(address)
}

fn plain(address: IpAddr) -> Result<Address, String> {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(format!("{v6} is an IPv4 address written as IPv6; write {v4}")),
            None => Ok(address.into()),
        },
        IpAddr::V4(_) => Ok(address.into()),
    }
}

/// A network. Bits behind the prefix are refused: whoever wrote them meant either the host or a longer prefix.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let net: IpNet =
        text.parse().map_err(|_| format!("{text:?} is no network; write it as 10.0.0.0/8 or 2001:db8::/32"))?;
    plain(net.network())?;
    if net.addr() != net.network() {
        return Err(format!(
            "{text} has bits behind its prefix; write {}, or {} for the host",
            net.trunc(),
            net.addr()
        ));
    }
    Ok(net)
}

/// An address, a network, or a range of addresses.
pub(crate) fn addresses(text: &str) -> Result<RangeInclusive<Address>, String> {
    if text.contains('/') {
        let net = network(text)?;
        return Ok(net.network().into()..=net.broadcast().into());
    }
    let Some((first, last)) = text.split_once('-') else {
        let address = address(text)?;
        return Ok(address..=address);
    };
    let (first, last) = (address(first)?, address(last)?);
    if first.is_v4() != last.is_v4() {
        return Err(format!("the range {text} is of two families; write a range for each"));
    }
    if first > last {
        return Err(format!("the range {text} ends before it begins; write {last}-{first}"));
    }
    Ok(first..=last)
}

/// A range of addresses as an address or a network if it is one, else as first and last.
pub(crate) fn show_addresses(range: &RangeInclusive<Address>) -> String {
    let (first, last) = (range.start(), range.end());
    let hosts = last.to_bits().wrapping_sub(first.to_bits());
    let is_network = hosts & hosts.wrapping_add(1) == 0 && first.to_bits() & hosts == 0;
    if first == last {
        first.to_string()
    } else if first < last && first.is_v4() == last.is_v4() && is_network {
        let bits = if first.is_v4() { 32 } else { 128 };
        format!("{first}/{}", bits - hosts.count_ones())
    } else {
        format!("{first}-{last}")
    }
}

/// Whether ports of a protocol are ICMP's type and code.
fn is_icmp(protocol: u8) -> bool {
    protocol == 1 || protocol == 58
}

/// A port of a set's element: `80`, `tcp:80-90`, `icmp:8/0`.
fn port_part(text: &str) -> Result<Part, String> {
    let Some((name, range)) = text.split_once(':') else { return Ok(Part::Ports(None, ports(text)?)) };
    let number_of = protocol(name)?;
    if !is_icmp(number_of) {
        return Ok(Part::Ports(Some(number_of), ports(range)?));
    }
    let message = |text: &str| {
        let (kind, code) = text.split_once('/')?;
        Some(u16::from_be_bytes([number(kind)?, number(code)?]))
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (message(first), message(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Part::Ports(Some(number_of), first..=last)),
        _ => Err(format!("{text:?} is no ICMP type with its code; write it as {name}:8/0 or {name}:3/0-3/255")),
    }
}

/// An element of a set with these dimensions: its parts with commas between.
pub(crate) fn element(text: &str, dimensions: &[Dimension]) -> Result<Element, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() != dimensions.len() {
        return Err(format!(
            "{text:?} has {} part{}, but the set's elements have {}: {}",
            parts.len(),
            if parts.len() == 1 { "" } else { "s" },
            dimensions.len(),
            dimensions.iter().map(|of| dimension_name(*of)).collect::<Vec<_>>().join(", ")
        ));
    }
    let part = |(text, dimension): (&str, &Dimension)| match dimension {
        Dimension::Address => addresses(text).map(Part::Addresses),
        Dimension::Port => port_part(text),
    };
    parts.into_iter().zip(dimensions).map(part).collect()
}

/// An element as it is read.
pub(crate) fn show_element(element: &Element) -> String {
    let part = |part: &Part| match part {
        Part::Addresses(range) => show_addresses(range),
        Part::Ports(None, range) => show_range(range),
        Part::Ports(Some(protocol), range) if is_icmp(*protocol) => {
            let show = |message: &u16| {
                let [kind, code] = message.to_be_bytes();
                format!("{kind}/{code}")
            };
            format!("{}:{}", show_protocol(*protocol), show_range(&(show(range.start())..=show(range.end()))))
        }
        Part::Ports(Some(protocol), range) => format!("{}:{}", show_protocol(*protocol), show_range(range)),
    };
    element.iter().map(part).collect::<Vec<_>>().join(",")
}

/// The name of a dimension.
pub(crate) fn dimension_name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Address => "address",
        Dimension::Port => "port",
    }
}

/// How many packets in which time: `10/minute`.
pub(crate) fn rate(text: &str) -> Result<(u32, Per), String> {
    let parsed = text.split_once('/').and_then(|(packets, time)| {
        Some((number(packets)?, TIMES.iter().find(|(name, _)| *name == time).map(|(_, per)| *per)?))
    });
    parsed.ok_or_else(|| format!("{text:?} is no rate; write packets and a time: 10/second, /minute, /hour or /day"))
}

/// A limit's rate as it is read.
pub(crate) fn show_rate(limit: &Limit) -> String {
    let time = TIMES.iter().find(|(_, per)| *per == limit.per).map_or("", |(name, _)| name);
    format!("{}/{time}", limit.packets)
}

/// A severity by its name or number.
pub(crate) fn level(text: &str) -> Result<u8, String> {
    let named = (0u8..).zip(LEVELS).find(|(_, name)| *name == text).map(|(level, _)| level);
    named
        .or_else(|| number(text).filter(|level| *level < 8))
        .ok_or_else(|| format!("{text:?} is no level; write one of {}, or 0 to 7", LEVELS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_short_as_they_can_be() {
        for text in [
            "10.0.0.1",
            "0.0.0.0/0",
            "10.0.0.0/31",
            "255.255.255.255",
            "::/0",
            "2001:db8::/32",
            "::1",
            "10.0.0.1-10.0.0.2",
        ] {
            assert_eq!(show_addresses(&addresses(text).unwrap()), text);
        }
        for (text, shown) in [("10.0.0.0-10.0.0.255", "10.0.0.0/24"), ("10.0.0.1/32", "10.0.0.1"), ("::-::1", "::/127")]
        {
            assert_eq!(show_addresses(&addresses(text).unwrap()), shown);
        }
        for text in [
            "",
            "10",
            "10.0.0.1-",
            "-",
            "/8",
            "10.0.0.0/",
            "10.0.0.1-10.0.0.2-10.0.0.3",
            "fe80::1%eth0",
            "::ffff:0:0/96",
        ] {
            assert!(addresses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn elements_are_read_as_they_are_shown() {
        let dimensions = [Dimension::Address, Dimension::Port, Dimension::Address];
        for text in [
            "10.0.0.1,tcp:80,10.0.0.0/8",
            "::1,80-90,::/0",
            "10.0.0.1,icmp:3/0-3/255,10.0.0.2",
            "10.0.0.1,200:1,10.0.0.2",
        ] {
            assert_eq!(show_element(&element(text, &dimensions).unwrap()), text);
        }
        let loose = element(" 10.0.0.1 , 6:80 , 10.0.0.2 ", &dimensions).unwrap();
        assert_eq!(show_element(&loose), "10.0.0.1,tcp:80,10.0.0.2");
        for text in [
            "10.0.0.1,tcp:80",
            "10.0.0.1,tcp:,10.0.0.2",
            "10.0.0.1,icmp:9/0-8/0,10.0.0.2",
            "10.0.0.1,+80,10.0.0.2",
            ",,",
        ] {
            assert!(element(text, &dimensions).is_err(), "{text}");
        }
    }

    #[test]
    fn protocols_by_name_and_number() {
        for (text, number, shown) in
            [("tcp", 6, "tcp"), ("UDP", 17, "udp"), ("ipv6-icmp", 58, "icmpv6"), ("200", 200, "200")]
        {
            assert_eq!(protocol(text).unwrap(), number);
            assert_eq!(show_protocol(number), shown);
        }
        assert!((0..=255).all(|number| protocol(&show_protocol(number)) == Ok(number)));
        assert!(protocol("256").is_err() && protocol("-1").is_err() && protocol("").is_err());
    }
}
