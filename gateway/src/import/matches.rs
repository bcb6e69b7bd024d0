//! What a rule looks at.

use std::ops::RangeInclusive;

use dataplane::address::Address;
use ipnet::{IpNet, Ipv4Net};

use super::Importer;
use super::marks::value_and_mask;
use super::rule::Reading;
use crate::model::{End, Family, Per, States, Test};
use crate::values;

/// A rate as iptables prints it: `5/sec`, `3/min`.
pub(super) fn rate(text: &str) -> Result<(u32, Per), String> {
    let unknown = || format!("--limit {text} is no rate: a number and second, minute, hour or day are expected");
    let (packets, time) = text.split_once('/').ok_or_else(unknown)?;
    let per = match time.bytes().next() {
        Some(b's') => Per::Second,
        Some(b'm') => Per::Minute,
        Some(b'h') => Per::Hour,
        Some(b'd') => Per::Day,
        _ => return Err(unknown()),
    };
    Ok((packets.parse().map_err(|_| unknown())?, per))
}

/// An address with its mask.
fn network(text: &str) -> Result<RangeInclusive<Address>, String> {
    let net = match text.split_once('/') {
        Some((address, mask)) if mask.contains(['.', ':']) => {
            let net =
                address.parse().and_then(|address| Ok(IpNet::with_netmask(address, mask.parse()?).ok())).ok().flatten();
            net.ok_or_else(|| format!("{text} has a mask that is no prefix, which can't be expressed: write prefixes"))?
        }
        Some(_) => text.parse().map_err(|_| format!("{text:?} is no address"))?,
        None => IpNet::from(text.parse::<std::net::IpAddr>().map_err(|_| format!("{text:?} is no address"))?),
    };
    Ok(net.network().into()..=net.broadcast().into())
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let first = if first.is_empty() { "0" } else { first };
    let last = if last.is_empty() { "65535" } else { last };
    values::ports(&format!("{first}-{last}"))
}

fn list<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(read).collect()
}

/// TCP flags by iptables' names.
fn flags(text: &str) -> Result<u8, String> {
    text.split(',').try_fold(0, |all, name| match name {
        "NONE" => Ok(all),
        "ALL" => Ok(all | 0x3f),
        _ => match values::FLAGS.iter().position(|flag| flag.eq_ignore_ascii_case(name)) {
            Some(bit) => Ok(all | 1 << bit),
            None => Err(format!("{name:?} is no TCP flag")),
        },
    })
}

fn states(text: &str) -> Result<States, String> {
    text.split(',').try_fold(States::default(), |all, name| {
        let found = States::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, state)| all.and(*state)).ok_or_else(|| format!("{name:?} is no state of a connection"))
    })
}

impl Importer<'_> {
    pub(super) fn test(&mut self, reading: &mut Reading<'_>, word: &str) -> Result<(), String> {
        if self.target_option(reading, word)? {
            return Ok(());
        }
        let with = |reason: String| format!("{word}: {reason}");
        match word {
            "-s" | "--source" | "--src" => {
                let ranges = list(&reading.value(word)?, network).map_err(with)?;
                reading.add(Test::Source(ranges));
            }
            "-d" | "--destination" | "--dst" => {
                let ranges = list(&reading.value(word)?, network).map_err(with)?;
                reading.add(Test::Destination(ranges));
            }
            "-i" | "--in-interface" => {
                let interface = reading.value(word)?;
                let group = self.group(&interface, reading.origin);
                reading.add(Test::In(vec![group]));
            }
            "-o" | "--out-interface" => {
                let interface = reading.value(word)?;
                let group = self.group(&interface, reading.origin);
                reading.add(Test::Out(vec![group]));
            }
            "-p" | "--protocol" => {
                let name = reading.value(word)?;
                if !matches!(name.as_str(), "all" | "0") {
                    reading.add(Test::Protocol(vec![values::protocol(&name).map_err(with)?]));
                }
            }
            "-f" | "--fragment" => {
                reading.known(false, "fragments are put together before they meet the rules");
                self.report.notes.push(format!(
                    "{}: -f means no packet: fragments are put together before they meet the rules",
                    reading.origin
                ));
            }
            "--sport" | "--source-port" => {
                let range = ports(&reading.value(word)?).map_err(with)?;
                reading.add(Test::SourcePort(vec![range]));
            }
            "--dport" | "--destination-port" => {
                let range = ports(&reading.value(word)?).map_err(with)?;
                reading.add(Test::DestinationPort(vec![range]));
            }
            "--sports" | "--source-ports" => {
                let ranges = list(&reading.value(word)?, ports).map_err(with)?;
                reading.add(Test::SourcePort(ranges));
            }
            "--dports" | "--destination-ports" => {
                let ranges = list(&reading.value(word)?, ports).map_err(with)?;
                reading.add(Test::DestinationPort(ranges));
            }
            "--ports" => {
                let ranges = list(&reading.value(word)?, ports).map_err(with)?;
                reading.add(Test::EitherPort(ranges));
            }
            "--tcp-flags" => {
                let (mask, set) =
                    (flags(&reading.value(word)?).map_err(with)?, flags(&reading.value(word)?).map_err(with)?);
                reading.add(Test::TcpFlags { mask, set });
            }
            "--syn" => reading.add(Test::TcpFlags { mask: 0x17, set: 0x02 }),
            "--src-range" | "--dst-range" => {
                let range = values::addresses(&reading.value(word)?).map_err(with)?;
                reading.add(if word == "--src-range" {
                    Test::Source(vec![range])
                } else {
                    Test::Destination(vec![range])
                });
            }
            "--icmp-type" | "--icmpv6-type" => self.icmp(reading, word)?,
            "--ctstate" | "--state" => {
                let states = states(&reading.value(word)?).map_err(with)?;
                if states.meets(States::DNAT.and(States::SNAT)) {
                    self.report
                        .depends
                        .push(format!("{}: it asks whether the nat table rewrites the connection", reading.origin));
                }
                reading.add(Test::State(states));
            }
            "--limit" => {
                let text = reading.value(word)?;
                if reading.rate.replace(text).is_some() {
                    return Err("it has two limits: write two rules, one of which jumps to the other".to_owned());
                }
            }
            "--limit-burst" => {
                let burst = reading.value(word)?.parse().map_err(|_| with("a number is expected".to_owned()))?;
                reading.burst = Some(burst);
            }
            "--comment" => reading.comment = Some(reading.value(word)?),
            "--match-set" => {
                let (name, ends) = (reading.value(word)?, reading.value(word)?);
                let end = |text: &str| match text {
                    "src" => Ok(End::Source),
                    "dst" => Ok(End::Destination),
                    _ => Err(format!(
                        "--match-set {name} {ends}: src or dst is expected for each part of the set's elements"
                    )),
                };
                let ends = list(&ends, end)?;
                self.sets.entry(name.clone()).or_insert_with(|| reading.origin.clone());
                reading.add(Test::Set { name, ends });
            }
            "--update-counters" | "--update-subcounters" => {
                self.report
                    .notes
                    .push(format!("{}: {word} is left away: elements of sets have no counters", reading.origin));
            }
            "--mark" => {
                let text = reading.value(word)?;
                let (value, mask) = value_and_mask(&text).ok_or_else(|| with(format!("{text:?} is no mark")))?;
                let holds = self.marks.resolve(value, mask)?;
                reading.known(holds, &format!("nobody sets the mark {text}"));
                self.report.notes.push(format!(
                    "{}: no rule of the dump sets the mark {text}: it is taken for zero, so that the match {} holds",
                    reading.origin,
                    if holds { "always" } else { "never" }
                ));
            }
            "--src-type" | "--dst-type" => self.address_type(reading, word)?,
            _ => return Err(format!("option {word} is not known here: take the rule out, or give --lenient")),
        }
        Ok(())
    }

    fn icmp(&mut self, reading: &mut Reading<'_>, word: &str) -> Result<(), String> {
        let text = reading.value(word)?;
        if matches!(text.as_str(), "any" | "255") {
            return Ok(());
        }
        let context = values::Context::of(Some(self.options.family), &[]);
        let types = values::messages(&text, context).map_err(|reason| format!("{word}: {reason}"))?;
        reading.add(Test::Icmp(types));
        Ok(())
    }

    /// `addrtype`: what the kernel's routes say of an address, as far as that is known without them.
    fn address_type(&mut self, reading: &mut Reading<'_>, word: &str) -> Result<(), String> {
        let text = reading.value(word)?;
        if reading.next_if(|next| next.starts_with("--limit-iface")).is_some() {
            return Err(format!("{word} {text}: addresses are not looked up for one interface alone"));
        }
        let mut ranges = Vec::new();
        for kind in text.split(',') {
            ranges.extend(self.of_type(kind).map_err(|reason| format!("{word} {kind}: {reason}"))?);
        }
        let test = if word == "--src-type" { Test::Source(ranges) } else { Test::Destination(ranges) };
        let own = text.split(',').collect::<Vec<_>>() == ["UNICAST"];
        if own {
            // All but what is none.
            reading.negated = !reading.negated;
        }
        reading.add(test);
        Ok(())
    }

    fn of_type(&self, kind: &str) -> Result<Vec<RangeInclusive<Address>>, String> {
        let is_v4 = self.options.family == Family::V4;
        let nets = |texts: &[&str]| texts.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>();
        let own = || {
            let own: Vec<IpNet> =
                self.options.local.iter().copied().filter(|net| matches!(net, IpNet::V4(_)) == is_v4).collect();
            match own.is_empty() {
                true => {
                    Err("which addresses those are is the kernel's to say: give the gateway's own with --local"
                        .to_owned())
                }
                false => Ok(own),
            }
        };
        let multicast = if is_v4 { ["224.0.0.0/4"] } else { ["ff00::/8"] };
        let broadcasts = |own: &[IpNet]| -> Result<Vec<RangeInclusive<Address>>, String> {
            let mut ranges = if is_v4 { nets(&["255.255.255.255", "0.0.0.0", "127.255.255.255"])? } else { Vec::new() };
            for net in own {
                if let IpNet::V4(net) = net
                    && net.prefix_len() < 31
                {
                    let net: &Ipv4Net = net;
                    let address = Address::from(std::net::IpAddr::from(net.broadcast()));
                    ranges.push(address..=address);
                }
            }
            Ok(ranges)
        };
        let local = |own: &[IpNet]| -> Result<Vec<RangeInclusive<Address>>, String> {
            // The last one of the loopback's network is its broadcast address.
            let loopback = Address::v4([127, 0, 0, 0])..=Address::v4([127, 255, 255, 254]);
            let mut ranges = if is_v4 { vec![loopback] } else { nets(&["::1"])? };
            ranges.extend(own.iter().map(|net| Address::from(net.addr())).map(|address| address..=address));
            Ok(ranges)
        };
        match kind {
            "MULTICAST" => nets(&multicast),
            "LOCAL" => local(&own()?),
            "BROADCAST" => broadcasts(&own()?),
            // Told by what it is not.
            "UNICAST" => {
                let own = own()?;
                Ok([local(&own)?, broadcasts(&own)?, nets(&multicast)?].concat())
            }
            _ => Err("which addresses those are is the kernel's to say".to_owned()),
        }
    }
}
