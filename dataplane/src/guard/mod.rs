//! What an endpoint behind a wire may say: it speaks for itself, and nobody else speaks for it.
//!
//! A guard stands between [`crate::parse`] and the flows. It drops what no policy may allow (a spoofed address, a
//! pod that plays the router), lets control traffic of the link pass that no policy judges (ARP, neighbour discovery,
//! group membership), and hands on all else to be judged, broadcast and multicast data included. IPv6 has the rules of
//! IPv4.
//!
//! | | egress, of an endpoint | ingress, to an endpoint |
//! |---|---|---|
//! | source MAC | the endpoint's | any |
//! | destination MAC | any | the endpoint's or a group: what a bridge floods is not overheard |
//! | source address | one of the endpoint's; its EUI-64 link-local one towards link-local or group addresses | none of the endpoint's: a packet to oneself does not cross a wire, unless a Service hides its source |
//! | ARP | sender is the endpoint in all that it says, or probes from 0.0.0.0 | may ask for, and must not claim, an address of the endpoint |
//! | solicitations, advertisements | source, target and link-layer option are the endpoint's; duplicate address detection for its own addresses | as ARP |
//! | router advertisements, redirects | dropped, ICMPv4's as well | pass; ICMPv4 redirects are judged as errors of their flow |
//! | DHCP | servers and clients are dropped | judged |
//! | MLD, IGMP | pass with hop limit 1, to a group | the same |
//! | VLAN tags, LLC, other EtherTypes | dropped | dropped |
//! | broadcast, multicast | limited a second | not limited |
//!
//! [`Permissions`] lift the rows that a virtual machine or a router needs lifted. Without an [`Endpoint`] (a gateway
//! with networks inside) only permissions hold: there is nobody to pretend to be.
//!
//! On a wire of `tun` ports frames have no MAC addresses: leave [`Endpoint::mac`] empty.
//!
//! A link-local address that is not derived from the MAC (RFC 7217) has to be listed in [`Endpoint::addresses`].

mod plain;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

use crate::address::{Address, MacAddress};
use crate::packet::{
    Arp, Direction, Icmp, IcmpMessage, Link, NeighbourKind, NeighbourMessage, Packet, Parsed, Payload, Protocol,
    Transport,
};
use crate::time::Time;
use crate::verdict::DropReason;

pub(crate) use plain::Plain;

/// Who is inside of a wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its MAC address; `None` on a wire without Ethernet headers.
    pub mac: Option<MacAddress>,
    /// Its addresses, of both families.
    pub addresses: Vec<Address>,
}

/// Whether something special is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    /// It is dropped, with the reason of its own.
    #[default]
    Refused,
    /// It passes.
    Granted,
}

/// What is allowed on a wire beside untagged IP, ARP and neighbour discovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// VLAN-tagged frames, both ways; priority tags (VLAN 0) included.
    pub vlan: Permission,
    /// Frames that are neither IP nor ARP, LLC included, both ways.
    pub non_ip: Permission,
    /// The endpoint may get its addresses by DHCP or DHCPv6: requests and answers pass unjudged.
    pub dhcp_client: Permission,
    /// The endpoint may answer as a DHCP or DHCPv6 server: requests and answers pass unjudged.
    pub dhcp_server: Permission,
    /// The endpoint may advertise itself as an IPv6 router and redirect others.
    pub router: Permission,
    /// The most broadcast and multicast frames that the endpoint may send a second, on average and at once.
    pub group_rate: Option<NonZeroU32>,
}

impl Permissions {
    /// A pod: its network is set up for it, so nothing special is allowed. A thousand group frames a second are
    /// plenty for ARP, neighbour discovery and service discovery, and no storm.
    pub const POD: Permissions = Permissions {
        vlan: Permission::Refused,
        non_ip: Permission::Refused,
        dhcp_client: Permission::Refused,
        dhcp_server: Permission::Refused,
        router: Permission::Refused,
        group_rate: NonZeroU32::new(1000),
    };

    /// A gateway: everything is allowed, what is IP is judged.
    pub const GATEWAY: Permissions = Permissions {
        vlan: Permission::Granted,
        non_ip: Permission::Granted,
        dhcp_client: Permission::Granted,
        dhcp_server: Permission::Granted,
        router: Permission::Granted,
        group_rate: None,
    };
}

/// What happens next with a frame that is not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Flows and policy judge it. It is an IP packet.
    Judge,
    /// It is forwarded: control traffic of the link, which no policy judges.
    Pass,
}

/// The guard of one wire.
#[derive(Clone, Debug)]
pub struct Guard {
    endpoint: Option<Endpoint>,
    permissions: Permissions,
    group_limit: Option<RateLimit>,
}

impl Guard {
    /// A guard for an endpoint, or without one for a wire with networks inside: there nothing counts as spoofed, and
    /// DHCP is judged as all IP is.
    pub fn new(endpoint: Option<Endpoint>, permissions: Permissions) -> Self {
        let endpoint = endpoint.map(|mut endpoint| {
            endpoint.addresses.sort_unstable();
            endpoint.addresses.dedup();
            endpoint
        });
        Guard { endpoint, permissions, group_limit: permissions.group_rate.map(RateLimit::new) }
    }

    /// The short way for the frames that come most.
    pub(crate) fn plain(&self) -> Plain {
        Plain::new(self)
    }

    /// Decides what happens next with a frame.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn check(&mut self, direction: Direction, parsed: &Parsed, now: Time) -> Result<Passage, DropReason> {
        self.check_link(direction, &parsed.link)?;
        let passage = match &parsed.payload {
            Payload::Ip(packet) => self.check_packet(direction, &parsed.link, packet)?,
            Payload::Arp(arp) => self.check_arp(direction, &parsed.link, arp)?,
            Payload::Llc => granted(self.permissions.non_ip, DropReason::NotEthernetII)?,
            Payload::Other(_) => granted(self.permissions.non_ip, DropReason::EtherTypeNotAllowed)?,
        };
        if direction == Direction::Egress
            && is_group(parsed)
            && self.group_limit.as_mut().is_some_and(|limit| !limit.take(now))
        {
            return Err(DropReason::GroupRateLimit);
        }
        Ok(passage)
    }

    fn check_link(&self, direction: Direction, link: &Link) -> Result<(), DropReason> {
        if let Some(mac) = self.endpoint.as_ref().and_then(|endpoint| endpoint.mac) {
            match direction {
                Direction::Egress if link.source != mac => return Err(DropReason::SpoofedMac),
                Direction::Ingress if link.destination != mac && !link.destination.is_group() => {
                    return Err(DropReason::ForeignMac);
                }
                _ => {}
            }
        }
        if link.is_tagged() {
            granted(self.permissions.vlan, DropReason::VlanNotAllowed)?;
        }
        Ok(())
    }

    fn check_arp(&self, direction: Direction, link: &Link, arp: &Arp) -> Result<Passage, DropReason> {
        let Some(endpoint) = &self.endpoint else { return Ok(Passage::Pass) };
        let truthful = match direction {
            // Receivers learn from the message, switches from the header: both have to be the endpoint's.
            Direction::Egress => {
                const REQUEST: u16 = 1;
                let probe = arp.sender.is_unspecified() && arp.operation == REQUEST;
                arp.sender_mac == link.source && (probe || endpoint.has(arp.sender))
            }
            Direction::Ingress => !endpoint.has(arp.sender),
        };
        if truthful { Ok(Passage::Pass) } else { Err(DropReason::SpoofedArp) }
    }

    fn check_packet(&self, direction: Direction, link: &Link, packet: &Packet) -> Result<Passage, DropReason> {
        if direction == Direction::Egress {
            self.check_role(packet)?;
        }
        if let Some(endpoint) = &self.endpoint {
            match (neighbour(packet), direction) {
                (Some(message), Direction::Egress) => endpoint.check_own_neighbour(link, packet, message)?,
                (Some(message), Direction::Ingress) => endpoint.check_foreign_neighbour(packet, message)?,
                (None, Direction::Egress) => endpoint.check_own_source(packet)?,
                (None, Direction::Ingress) if endpoint.has_on_link(packet.source) => {
                    return Err(DropReason::SpoofedAddress);
                }
                (None, Direction::Ingress) => {}
            }
            if let Some(dhcp) = dhcp(packet)
                && self.may_use_dhcp(dhcp, direction)
            {
                return Ok(Passage::Pass);
            }
        }
        let control = neighbour(packet).is_some() || is_group_membership(packet);
        Ok(if control { Passage::Pass } else { Passage::Judge })
    }

    /// What the endpoint may not be: a router, a DHCP server or client.
    fn check_role(&self, packet: &Packet) -> Result<(), DropReason> {
        match neighbour(packet).map(|message| message.kind) {
            Some(NeighbourKind::RouterAdvertisement) => {
                granted(self.permissions.router, DropReason::RouterAdvertisement)?;
            }
            Some(NeighbourKind::Redirect) => {
                granted(self.permissions.router, DropReason::IcmpRedirect)?;
            }
            _ => {}
        }
        if is_v4_redirect(packet) {
            granted(self.permissions.router, DropReason::IcmpRedirect)?;
        }
        match dhcp(packet) {
            Some(Dhcp::ToClient) => granted(self.permissions.dhcp_server, DropReason::DhcpServer)?,
            Some(Dhcp::ToServer) => granted(self.permissions.dhcp_client, DropReason::DhcpClient)?,
            None => Passage::Judge,
        };
        Ok(())
    }

    /// Whether a DHCP message is one that the endpoint was allowed to send, or the answer to one. Fragments are judged:
    /// their later pieces show no ports.
    fn may_use_dhcp(&self, dhcp: Dhcp, direction: Direction) -> bool {
        let permission = match (dhcp, direction) {
            (Dhcp::ToServer, Direction::Egress) | (Dhcp::ToClient, Direction::Ingress) => self.permissions.dhcp_client,
            (Dhcp::ToClient, Direction::Egress) | (Dhcp::ToServer, Direction::Ingress) => self.permissions.dhcp_server,
        };
        permission == Permission::Granted
    }
}

impl Endpoint {
    /// Whether the address is one of the endpoint's.
    fn has(&self, address: Address) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }

    /// Whether the address is the endpoint's, or the link-local one that its MAC address gives it.
    fn has_on_link(&self, address: Address) -> bool {
        self.has(address) || self.mac.is_some_and(|mac| mac.link_local() == address)
    }

    fn check_own_source(&self, packet: &Packet) -> Result<(), DropReason> {
        let on_link = packet.destination.is_group() || packet.destination.is_link_local();
        let own = self.has(packet.source)
            || (on_link && self.has_on_link(packet.source))
            // Parse has seen to it that this asks for an address, or joins a group.
            || packet.source.is_unspecified();
        if own { Ok(()) } else { Err(DropReason::SpoofedAddress) }
    }

    /// Egress: what the endpoint says of itself.
    fn check_own_neighbour(&self, link: &Link, packet: &Packet, message: NeighbourMessage) -> Result<(), DropReason> {
        let own_source = packet.source.is_unspecified() || self.has_on_link(packet.source);
        let own_mac = message.link_layer.is_none_or(|mac| mac == self.mac.unwrap_or(link.source));
        let truthful = match message.kind {
            NeighbourKind::RouterSolicitation | NeighbourKind::RouterAdvertisement => own_mac,
            // Duplicate address detection for an address makes others give it up.
            NeighbourKind::NeighbourSolicitation => {
                own_mac && (!packet.source.is_unspecified() || self.has_on_link(message.target))
            }
            NeighbourKind::NeighbourAdvertisement => own_mac && self.has_on_link(message.target),
            // The link-layer address is that of the better hop, which is somebody else.
            NeighbourKind::Redirect => true,
        };
        if own_source && truthful { Ok(()) } else { Err(DropReason::SpoofedNeighbour) }
    }

    /// Ingress: others may ask about the endpoint's addresses, duplicate address detection included (the endpoint then
    /// defends its address), but may not claim them.
    fn check_foreign_neighbour(&self, packet: &Packet, message: NeighbourMessage) -> Result<(), DropReason> {
        let claims_target = message.kind == NeighbourKind::NeighbourAdvertisement && self.has_on_link(message.target);
        if claims_target || self.has_on_link(packet.source) { Err(DropReason::SpoofedNeighbour) } else { Ok(()) }
    }
}

/// Who a DHCP (RFC 2131) or DHCPv6 (RFC 8415) message is meant for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dhcp {
    ToServer,
    ToClient,
}

/// The ports tell: a server answers from its port or to a client's; a client asks from its port to a server's.
fn dhcp(packet: &Packet) -> Option<Dhcp> {
    let Transport::Udp { source_port, destination_port } = packet.transport else { return None };
    let (server, client) = if packet.source.is_v4() { (67, 68) } else { (547, 546) };
    match (source_port, destination_port) {
        (from, to) if from == client && to == server => Some(Dhcp::ToServer),
        (from, to) if from == server || to == client => Some(Dhcp::ToClient),
        _ => None,
    }
}

fn neighbour(packet: &Packet) -> Option<NeighbourMessage> {
    match packet.transport {
        Transport::Icmp(Icmp { message: IcmpMessage::Neighbour(message), .. }) => Some(message),
        _ => None,
    }
}

fn is_v4_redirect(packet: &Packet) -> bool {
    matches!(packet.transport, Transport::Icmp(Icmp { kind: 5, .. })) && packet.protocol == Protocol::ICMP
}

/// MLD, as parse has validated it, and IGMP (RFC 3376 section 4): to a group, and no further than the link.
fn is_group_membership(packet: &Packet) -> bool {
    let message = match packet.transport {
        Transport::Icmp(Icmp { message: IcmpMessage::MulticastListener, .. }) => true,
        Transport::Other => packet.source.is_v4() && packet.protocol == Protocol::IGMP && packet.hop_limit == 1,
        _ => false,
    };
    message && packet.fragment.is_none() && packet.destination.is_group()
}

/// Whether a frame goes to many, by its MAC or IP address.
fn is_group(parsed: &Parsed) -> bool {
    let packet = matches!(&parsed.payload, Payload::Ip(packet) if packet.destination.is_group());
    packet || parsed.link.destination.is_group()
}

fn granted(permission: Permission, reason: DropReason) -> Result<Passage, DropReason> {
    match permission {
        Permission::Granted => Ok(Passage::Pass),
        Permission::Refused => Err(reason),
    }
}

/// A token bucket that holds one second's worth, kept as the time at which it will be full again.
#[derive(Clone, Debug)]
struct RateLimit {
    /// Nanoseconds that a token takes to come back.
    interval: u64,
    full: Time,
}

impl RateLimit {
    const SECOND: u64 = 1_000_000_000;

    fn new(rate: NonZeroU32) -> Self {
        RateLimit { interval: Self::SECOND / u64::from(rate.get()), full: Time::ZERO }
    }

    /// Takes a token, if there is one.
    fn take(&mut self, now: Time) -> bool {
        let full = self.full.max(now).0.saturating_add(self.interval);
        let some = full - now.0 <= Self::SECOND;
        if some {
            self.full = Time(full);
        }
        some
    }
}
