//! From where a wire's packets look at the rules: which hook, and which interfaces.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use dataplane::address::Address;
use dataplane::rules::AddressSet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::flat::{FlatBox, FlatList, FlatRule, Outcome, View};
use crate::judge::{Header, RuleAt, Verdict};
use crate::model::{Family, Hook, Ruleset, States, Test};
use crate::placement::Placement;
use crate::space::{Addresses, Cube, Protocols, addresses_of, ports_of};

/// Packets of a family that meet the rules at one hook, by the same interfaces. Parts stand in order: what an earlier one means, a later one
/// does not.
pub(super) struct Part<'a> {
    pub(super) family: Family,
    /// The hook's own chain.
    pub(super) chain: Option<usize>,
    /// Where, by which interfaces; `None`: the rules are not asked, and all pass.
    hook: Option<(Hook, Option<&'a str>, Option<&'a str>)>,
    within: Cube,
}

impl Part<'_> {
    /// The part of packets in this state; `None` if the rules are not asked.
    pub(super) fn view(&self, state: States) -> Option<View<'_>> {
        let (hook, input, output) = self.hook?;
        Some(View { family: self.family, hook, input, output, state, within: Some(self.within.clone()) })
    }

    /// Whether a rule may mean some of its packets, as far as interfaces and states go.
    pub(super) fn may_meet(&self, ruleset: &Ruleset, state: States, at: RuleAt) -> bool {
        let Some((_, input, output)) = self.hook else { return false };
        let packet = Header::blank(input, output, state);
        let rule = ruleset.chains.get(at.chain).and_then(|chain| chain.rules.get(at.rule));
        rule.is_some_and(|rule| {
            let mut of_view =
                rule.matches.iter().filter(|of| matches!(of.test, Test::In(_) | Test::Out(_) | Test::State(_)));
            of_view.all(|test| ruleset.matches(test, &packet))
        })
    }

    /// All of its packets as boxes.
    pub(super) fn boxes(&self) -> impl Iterator<Item = FlatBox> {
        let outcome = Outcome { steps: Vec::new(), verdict: Verdict::Allow, rule: None, path: Vec::new() };
        let rule = FlatRule { cube: self.within.clone(), outcome: 0 };
        let list = FlatList { rules: vec![rule], outcomes: vec![outcome] };
        list.boxes().collect::<Vec<_>>().into_iter()
    }
}

/// An end of packets.
#[derive(Clone, Copy)]
enum By {
    Source,
    Destination,
}

/// What a wire's packets are, for what leaves its inside and what comes to it.
pub(super) fn parts<'a>(
    ruleset: &Ruleset,
    placement: &'a Placement,
    all: &'a BTreeMap<String, Placement>,
) -> [Vec<Part<'a>>; 2] {
    let mut parts = [Vec::new(), Vec::new()];
    for family in Family::BOTH {
        let mut add =
            |direction: usize, hook: Option<(Hook, Option<&'a str>, Option<&'a str>)>, within: Option<Cube>| {
                let Some(within) = within else { return };
                let chain = hook.and_then(|(hook, ..)| ruleset.base(hook, family)).map(|(chain, _)| chain);
                parts[direction].push(Part { family, chain, hook, within });
            };
        let everything = || Some(Cube::everything(family));
        match placement {
            Placement::Transparent { inside, outside } => {
                add(0, Some((Hook::Forward, Some(inside), Some(outside))), everything());
                add(1, Some((Hook::Forward, Some(outside), Some(inside))), everything());
            }
            Placement::HostInside { interface, forward, dnat, .. } => {
                let own = local(all);
                for (protocol, ports) in dnat {
                    let rewritten = narrowed(family, By::Destination, &own.receives)
                        .and_then(|cube| cube.and_protocols(Protocols::of(&[*protocol])))
                        .and_then(|cube| cube.and_destination_ports(ports_of(std::slice::from_ref(ports))));
                    add(1, None, rewritten);
                }
                add(0, Some((Hook::Output, None, Some(interface))), narrowed(family, By::Source, &own.sends));
                add(1, Some((Hook::Input, Some(interface), None)), narrowed(family, By::Destination, &own.receives));
                if !forward {
                    add(0, None, everything());
                    add(1, None, everything());
                    continue;
                }
                let others = others(ruleset, interface, all);
                for (other, networks) in &others {
                    add(0, Some((Hook::Forward, Some(other), Some(interface))), narrowed(family, By::Source, networks));
                    add(
                        1,
                        Some((Hook::Forward, Some(interface), Some(other))),
                        narrowed(family, By::Destination, networks),
                    );
                }
                // What nobody's networks have is behind the interface that says nothing of its networks, if there is one.
                let rest = rest(ruleset, interface, all);
                add(0, Some((Hook::Forward, rest, Some(interface))), everything());
                add(1, Some((Hook::Forward, Some(interface), rest)), everything());
            }
        }
    }
    parts
}

fn narrowed(family: Family, by: By, nets: &[IpNet]) -> Option<Cube> {
    let bounds = |net: &IpNet| {
        let (first, last) = AddressSet::range_of(net);
        RangeInclusive::new(Address::from_bits(first), Address::from_bits(last))
    };
    let ranges: Vec<RangeInclusive<Address>> = nets.iter().map(bounds).collect();
    let addresses: Option<Addresses> = addresses_of(&ranges, family);
    let cube = Cube::everything(family);
    match by {
        By::Source => cube.and_source(addresses),
        By::Destination => cube.and_destination(addresses),
    }
}

/// What the host itself sends from and takes.
struct Local {
    sends: Vec<IpNet>,
    receives: Vec<IpNet>,
}

/// The host's addresses on all wires; broadcasts and groups, which no router forwards; the addresses of one link.
fn local(all: &BTreeMap<String, Placement>) -> Local {
    let v4 = |a, b, c, d, length| Ipv4Net::new([a, b, c, d].into(), length).map(IpNet::from).ok();
    let v6 = |first, length| Ipv6Net::new([first, 0, 0, 0, 0, 0, 0, 0].into(), length).map(IpNet::from).ok();
    let link = v6(0xfe80, 10);
    let mut own = Local { sends: link.into_iter().collect(), receives: link.into_iter().collect() };
    own.sends.extend(v4(0, 0, 0, 0, 32).into_iter().chain(v6(0, 128)));
    own.receives.extend([v4(255, 255, 255, 255, 32), v4(224, 0, 0, 0, 4), v6(0xff00, 8)].into_iter().flatten());
    for placement in all.values() {
        let Placement::HostInside { addresses, .. } = placement else { continue };
        for net in addresses {
            own.sends.push(net.addr().into());
            own.receives.push(net.addr().into());
            if let IpNet::V4(net) = net
                && net.prefix_len() < 31
            {
                own.receives.push(IpAddr::from(net.broadcast()).into());
            }
        }
    }
    own
}

fn interfaces<'a>(own: &str, all: &'a BTreeMap<String, Placement>) -> impl Iterator<Item = &'a str> {
    all.values().filter_map(move |placement| match placement {
        Placement::HostInside { interface, .. } if interface != own => Some(interface.as_str()),
        _ => None,
    })
}

fn networks(ruleset: &Ruleset, interface: &str) -> Vec<IpNet> {
    let groups = ruleset.groups.values().filter(|group| group.contains(interface));
    groups.flat_map(|group| group.networks.iter().copied()).collect()
}

/// The gateway's other interfaces with what is behind them, the most specific networks first.
fn others<'a>(ruleset: &Ruleset, own: &str, all: &'a BTreeMap<String, Placement>) -> Vec<(&'a str, Vec<IpNet>)> {
    let mut routes: Vec<(&str, IpNet)> = interfaces(own, all)
        .flat_map(|interface| networks(ruleset, interface).into_iter().map(move |net| (interface, net)))
        .collect();
    routes.sort_by_key(|(_, net)| std::cmp::Reverse(net.prefix_len()));
    routes.into_iter().map(|(interface, net)| (interface, vec![net])).collect()
}

/// The interface of the default route: the other one that says nothing of its networks.
fn rest<'a>(ruleset: &Ruleset, own: &str, all: &'a BTreeMap<String, Placement>) -> Option<&'a str> {
    interfaces(own, all).find(|interface| networks(ruleset, interface).is_empty())
}
