//! Where a wire stands in a gateway, which says at which hooks its packets meet the rules.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::model::{Dimension, Part};
use crate::values;

/// A wire's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Between two interfaces, in front of whatever routes: what crosses it is forwarded.
    Transparent {
        /// The inside interface, as rules know it.
        inside: String,
        /// The outside interface, as rules know it.
        outside: String,
    },
    /// Between an interface and a TAP that carries the host's own addresses: what is for the host comes to it, what comes from it goes out,
    /// and the rest is forwarded by the host.
    HostInside {
        /// The interface, as rules know it.
        interface: String,
        /// The host's own addresses there, with the lengths of their networks' prefixes.
        addresses: Vec<IpNet>,
        /// Whether what is forwarded meets the rules here. It need not where it meets them on its other wire, and must not where the
        /// kernel has rewritten its addresses.
        forward: bool,
        /// Where the kernel rewrites addresses (`forward` is false): protocols and ports at the host's addresses that it sends on to others
        /// (DNAT). They pass here, and meet the rules as forwarded on the other wire.
        dnat: Vec<(u8, RangeInclusive<u16>)>,
    },
}

/// A protocol with ports, such as `tcp:8443` or `udp:8000-8010`.
///
/// # Errors
/// In a sentence, with an example.
pub fn ports(text: &str) -> Result<(u8, RangeInclusive<u16>), String> {
    let wrong = || format!("{text:?} is no protocol with ports; write one such as tcp:8443 or udp:8000-8010");
    match values::element(text, &[Dimension::Port]).map_err(|_| wrong())?.pop() {
        Some(Part::Ports(Some(protocol), ports)) => Ok((protocol, ports)),
        _ => Err(wrong()),
    }
}
