//! [`Plain`]: the guard's questions to the frames that come most, in a few comparisons.

use arrayvec::ArrayVec;

use super::Guard;
use crate::address::Address;
use crate::packet::{Direction, Protocol};
use crate::parse::{Dissected, MAC, mac_word};

/// Addresses that are compared one by one; endpoints with more are left to [`Guard::check`].
const FEW: usize = 8;

/// What [`Guard::check`] would let go on to be judged without a second look, by direction.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    /// The endpoint's MAC address, and which bits of it count: none where nobody has to have it.
    mac: u64,
    mac_bits: u64,
    /// Whose packets go out, and never come in. `None` for more than [`FEW`].
    own: Option<ArrayVec<[u64; 2], FEW>>,
    /// Nobody is inside whose addresses could be pretended to.
    is_network: bool,
}

impl Plain {
    /// Of a guard. It never changes.
    pub(super) fn new(guard: &Guard) -> Self {
        let endpoint = guard.endpoint.as_ref();
        let mac = endpoint.and_then(|endpoint| endpoint.mac);
        // A link-local address that is only the MAC's goes out to other link-local ones, and is not plain.
        let words = |address: &Address| bytemuck::cast(address.0);
        let addresses = endpoint.map_or(&[][..], |endpoint| &endpoint.addresses);
        let own = (addresses.len() <= FEW).then(|| addresses.iter().map(words).collect());
        let (mac, mac_bits) = mac.map_or((0, 0), |mac| (mac_word(mac.0), MAC));
        Plain { mac, mac_bits, own, is_network: endpoint.is_none() }
    }

    /// Whether the guard says [`super::Passage::Judge`] of this frame, as can be told at once.
    #[inline(always)]
    pub(crate) fn admits(&self, direction: Direction, frame: &Dissected) -> bool {
        let mac = match direction {
            Direction::Egress => frame.source_mac,
            Direction::Ingress => frame.destination_mac,
        };
        let Some(own) = &self.own else { return false };
        let mut is_own = false;
        for address in own {
            is_own |= *address == frame.source;
        }
        let is_honest = match direction {
            Direction::Egress => is_own,
            Direction::Ingress => !is_own && !is_link_local(frame.source),
        };
        (mac ^ self.mac) & self.mac_bits == 0 && (is_honest || self.is_network) && !may_be_dhcp(frame)
    }
}

/// Whether an address begins with fe80::/16, as those that are derived from MAC addresses do.
#[inline(always)]
fn is_link_local([high, _]: [u64; 2]) -> bool {
    u64::from_be(high) >> 48 == 0xfe80
}

/// Whether a port is one of DHCP's, in any family.
#[inline(always)]
fn may_be_dhcp(frame: &Dissected) -> bool {
    let is_one =
        matches!(frame.source_port, 67 | 68 | 546 | 547) | matches!(frame.destination_port, 67 | 68 | 546 | 547);
    frame.protocol == Protocol::UDP && is_one
}
