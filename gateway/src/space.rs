//! Sets of packets of one family, as far as rules tell packets apart.
//!
//! A [`Cube`] is a product: a set of sources × a set of destinations × protocols × source ports × destination ports × TCP
//! flags. Sets in one dimension are cheap to hold and to copy ([`Ranges`]), so a rule about a hundred thousand addresses is
//! one cube. What a rule of a rule set means is a union of few cubes ([`meaning`]).
//!
//! Interfaces and connection states are no dimensions: they are given when rules are looked at ([`crate::flat::View`]).

mod cube;
pub mod meaning;
mod ranges;
#[cfg(test)]
mod tests;

pub use cube::{Addresses, Cube, Flags, PortSet, Protocols};
pub(crate) use cube::{addresses_of, ends_of, every_address, icmp, ports_of};
pub use ranges::{Number, Ranges, Span};
