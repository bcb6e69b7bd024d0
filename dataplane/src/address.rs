//! Addresses as the engine keeps them: plain old data, both IP versions in one ordered type.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An IPv4 or IPv6 address. IPv4 is kept in its IPv4-mapped form (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2);
/// a packet that carries such an address as IPv6 never gets this far, [`crate::parse`] drops it as a martian, so
/// the two never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Ord for Address {
    /// The order of the bytes; compared as one number, which is quicker than byte by byte.
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for Address {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Address {
    /// An IPv4 address from its four bytes.
    #[inline]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        // As one number, so that it is stored in large pieces: what reads it soon after would wait for small ones.
        Address((0xffff << 32 | u32::from_be_bytes(bytes) as u128).to_be_bytes())
    }

    /// An IPv6 address from its sixteen bytes.
    #[inline]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Address(bytes)
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }

    /// The IPv4 address as a number in host order, if it is one.
    #[inline]
    pub fn to_v4_bits(&self) -> Option<u32> {
        self.is_v4().then(|| u32::from_be_bytes([self.0[12], self.0[13], self.0[14], self.0[15]]))
    }

    /// The sixteen bytes as a number in host order; orders as the addresses do.
    #[inline]
    pub fn to_bits(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// The address of this number ([`Address::to_bits`]).
    pub fn from_bits(bits: u128) -> Self {
        Address(bits.to_be_bytes())
    }

    /// Whether the address names a group: IPv4 multicast or limited broadcast, IPv6 multicast.
    #[inline]
    pub fn is_group(&self) -> bool {
        if self.is_v4() { self.0[12] >= 224 && self.0[12] < 240 || self.0[12..] == [255; 4] } else { self.0[0] == 0xff }
    }

    /// Whether the address is link-local: 169.254.0.0/16 or fe80::/10.
    #[inline]
    pub fn is_link_local(&self) -> bool {
        if self.is_v4() { self.0[12..14] == [169, 254] } else { self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80 }
    }

    /// Whether the address is all zeros in its family.
    #[inline]
    pub fn is_unspecified(&self) -> bool {
        self.0 == [0; 16] || *self == Address::v4([0; 4])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Address::v4(v4.octets()),
            IpAddr::V6(v6) => Address::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.to_v4_bits() {
            Some(bits) => IpAddr::V4(Ipv4Addr::from(bits)),
            None => IpAddr::V6(Ipv6Addr::from(address.0)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

    /// Whether the group bit is set: multicast or broadcast.
    #[inline]
    pub fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The IPv6 link-local address that stateless configuration derives from this MAC address by modified EUI-64
    /// (RFC 4291 appendix A).
    pub fn link_local(&self) -> Address {
        let m = self.0;
        Address([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts.next().and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(|| {
                format!("{text:?} is not a MAC address (six bytes in hexadecimal, 02:00:00:00:00:01)")
            })?;
        }
        match parts.next() {
            None => Ok(MacAddress(bytes)),
            Some(_) => Err(format!("{text:?} is not a MAC address: it has more than six bytes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_keep_their_text_and_order() {
        for text in ["10.0.0.1", "255.255.255.255", "fd00::1", "::", "fe80::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).to_string(), text);
        }
        let a = Address::from("10.0.0.1".parse::<IpAddr>().unwrap());
        let b = Address::from("10.0.0.2".parse::<IpAddr>().unwrap());
        assert!(a < b && a.to_bits() + 1 == b.to_bits());
    }

    #[test]
    fn link_local_follows_modified_eui64() {
        let mac: MacAddress = "02:11:22:33:44:55".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::11:22ff:fe33:4455");
        assert!("02:11".parse::<MacAddress>().is_err());
    }
}
