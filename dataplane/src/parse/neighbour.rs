//! Neighbour discovery (RFC 4861), validated as its sections 6.1, 7.1 and 8.1 have it.

use super::View;
use super::ip::IpHeader;
use crate::address::{Address, MacAddress};
use crate::packet::{NeighbourKind, NeighbourMessage};
use crate::verdict::DropReason;

pub(super) const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const MALFORMED: DropReason = DropReason::NeighbourMalformed;

/// Reads a message of one of the five types, from its ICMPv6 header on.
pub(super) fn parse(ip: &IpHeader, kind: u8, code: u8, view: View<'_>) -> Result<NeighbourMessage, DropReason> {
    // The options decide what is learnt: all of them have to be here.
    if ip.hop_limit != 255 || code != 0 || view.bytes.len() != view.length {
        return Err(MALFORMED);
    }
    let (kind, fixed, option) = match kind {
        ROUTER_SOLICITATION => (NeighbourKind::RouterSolicitation, 8, SOURCE_LINK_LAYER),
        ROUTER_ADVERTISEMENT => (NeighbourKind::RouterAdvertisement, 16, SOURCE_LINK_LAYER),
        NEIGHBOUR_SOLICITATION => (NeighbourKind::NeighbourSolicitation, 24, SOURCE_LINK_LAYER),
        NEIGHBOUR_ADVERTISEMENT => (NeighbourKind::NeighbourAdvertisement, 24, TARGET_LINK_LAYER),
        _ => (NeighbourKind::Redirect, 40, TARGET_LINK_LAYER),
    };
    let body = view.bytes.get(..fixed).ok_or(MALFORMED)?;
    let message = NeighbourMessage {
        kind,
        target: if fixed >= 24 { address(body, 8)? } else { Address::default() },
        link_layer: link_layer(view.skip(fixed).bytes, option)?,
    };
    if is_consistent(ip, &message, body)? { Ok(message) } else { Err(MALFORMED) }
}

fn is_consistent(ip: &IpHeader, message: &NeighbourMessage, body: &[u8]) -> Result<bool, DropReason> {
    let from_nobody = ip.source.is_unspecified();
    Ok(match message.kind {
        NeighbourKind::RouterSolicitation => !(from_nobody && message.link_layer.is_some()),
        NeighbourKind::RouterAdvertisement => ip.source.is_link_local(),
        NeighbourKind::NeighbourSolicitation => {
            is_unicast(message.target)
                && !(from_nobody && (message.link_layer.is_some() || !is_solicited_node(ip.destination)))
        }
        NeighbourKind::NeighbourAdvertisement => {
            const SOLICITED: u8 = 0x40;
            is_unicast(message.target) && !from_nobody && !(ip.destination.is_group() && body[4] & SOLICITED != 0)
        }
        NeighbourKind::Redirect => {
            let destination = address(body, 24)?;
            let better = message.target.is_link_local() || message.target == destination;
            ip.source.is_link_local() && !destination.is_group() && better
        }
    })
}

/// Whether a target can be somebody's address. An IPv4-mapped one would be taken for the IPv4 address itself.
fn is_unicast(target: Address) -> bool {
    !target.is_group() && !target.is_unspecified() && !target.is_v4()
}

/// ff02::1:ff00:0/104 (RFC 4291 section 2.7.1).
fn is_solicited_node(address: Address) -> bool {
    address.0[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

fn address(body: &[u8], at: usize) -> Result<Address, DropReason> {
    body.get(at..).and_then(<[u8]>::first_chunk).copied().map(Address::v6).ok_or(MALFORMED)
}

/// Walks the options, and reads the link-layer address of the wanted kind. Two of that kind are refused: receivers
/// differ in which one they believe.
fn link_layer(mut options: &[u8], wanted: u8) -> Result<Option<MacAddress>, DropReason> {
    let mut found = None;
    while !options.is_empty() {
        let &[kind, units] = options.first_chunk().ok_or(MALFORMED)?;
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            return Err(MALFORMED);
        }
        if matches!(kind, SOURCE_LINK_LAYER | TARGET_LINK_LAYER) && length != 8 {
            return Err(MALFORMED);
        }
        if kind == wanted {
            let mac = options[2..8].first_chunk().copied().map(MacAddress).ok_or(MALFORMED)?;
            if found.replace(mac).is_some() {
                return Err(MALFORMED);
            }
        }
        options = &options[length..];
    }
    Ok(found)
}
