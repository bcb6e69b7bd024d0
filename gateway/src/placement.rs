//! Where a wire stands in a gateway, which says at which hooks its packets meet the rules.

use ipnet::IpNet;

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
    },
}
