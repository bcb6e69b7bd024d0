//! CIDRs and addresses as the API server reads them in fields that are older than its strict parsers.
//!
//! `ipBlock.cidr` and `except` accept spellings that most parsers refuse or, worse, read otherwise: host bits beyond
//! the prefix are ignored, leading zeros are decimal (not octal), and an IPv4-mapped IPv6 prefix of 96 bits or more
//! means IPv4. All of these are accepted with a warning; none may ever fail open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A CIDR as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address before the slash, in the family in which it was written.
    pub address: IpAddr,
    /// The number after it, of that family.
    pub prefix: u8,
}

impl Cidr {
    /// Reads a CIDR, legacy spellings included. `None` for anything that is not one.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = text.split_once('/')?;
        let address = parse_v4(address).map(IpAddr::V4).or_else(|| parse_v6(address).map(IpAddr::V6))?;
        let prefix = decimal(prefix)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Cidr { address, prefix: prefix as u8 })
    }

    /// The network that is meant: host bits cleared, IPv4-mapped prefixes turned into IPv4.
    pub fn network(&self) -> IpNet {
        match self.address {
            IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, self.prefix).trunc()),
            IpAddr::V6(address) => {
                let net = Ipv6Net::new_assert(address, self.prefix).trunc();
                match net.network().to_ipv4_mapped() {
                    Some(v4) if self.prefix >= 96 => IpNet::V4(Ipv4Net::new_assert(v4, self.prefix - 96)),
                    _ => IpNet::V6(net),
                }
            }
        }
    }

    /// Whether address bits are set beyond the prefix.
    pub fn has_host_bits(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => Ipv4Net::new_assert(address, self.prefix).network() != address,
            IpAddr::V6(address) => Ipv6Net::new_assert(address, self.prefix).network() != address,
        }
    }

    /// Whether a text that was read as this CIDR is also one to a strict parser: no leading zeros, no mapped address.
    pub fn is_standard(&self, text: &str) -> bool {
        let Some((address, prefix)) = text.split_once('/') else { return false };
        let strict = address.parse::<IpAddr>().is_ok() && !has_leading_zero(prefix);
        strict && !matches!(self.address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
    }

    /// Whether `except` is a strict subset of this, as the API server compares them: its address lies inside, and its
    /// prefix, in the family in which it was written, is longer.
    pub fn strictly_contains(&self, except: &Cidr) -> bool {
        self.network().contains(&except.network().network()) && self.prefix < except.prefix
    }
}

fn has_leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0')
}

/// A decimal number with any count of leading zeros, below 2^24.
fn decimal(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() { Some(0) } else { digits.parse().ok().filter(|&number: &u32| number < 1 << 24) }
}

/// Four decimal numbers, leading zeros allowed.
fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = u8::try_from(decimal(parts.next()?)?).ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// IPv6 text (RFC 4291 section 2.2) with any count of leading zeros in a group or in the IPv4 tail; no zone.
fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    let (head, tail) = match text.split_once("::") {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    };
    let groups = |part: &str, may_end_in_v4: bool| -> Option<Vec<u16>> {
        let mut groups = Vec::new();
        if part.is_empty() {
            return Some(groups);
        }
        let mut parts = part.split(':').peekable();
        while let Some(part) = parts.next() {
            if part.contains('.') && may_end_in_v4 && parts.peek().is_none() {
                let bits = parse_v4(part)?.to_bits();
                groups.extend([(bits >> 16) as u16, bits as u16]);
            } else {
                groups.push(hexadecimal(part)?);
            }
        }
        Some(groups)
    };
    let head_groups = groups(head, tail.is_none())?;
    let tail_groups = groups(tail.unwrap_or(""), true)?;
    let count = head_groups.len() + tail_groups.len();
    if (tail.is_none() && (count != 8 || head.is_empty())) || count > 8 || (tail.is_some() && count > 7) {
        return None;
    }
    let mut all = [0; 8];
    all[..head_groups.len()].copy_from_slice(&head_groups);
    all[8 - tail_groups.len()..].copy_from_slice(&tail_groups);
    Some(all.into())
}

/// A hexadecimal number with any count of leading zeros, below 2^16.
fn hexadecimal(digits: &str) -> Option<u16> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() { Some(0) } else { u16::from_str_radix(digits, 16).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Option<String> {
        Cidr::parse(text).map(|cidr| cidr.network().to_string())
    }

    #[test]
    fn legacy_spellings_mean_what_the_api_server_reads() {
        for (text, expected) in [
            ("10.244.1.77/24", "10.244.1.0/24"),
            ("010.244.001.0/024", "10.244.1.0/24"),
            ("::ffff:10.244.1.0/120", "10.244.1.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
            ("FD00:0010:0244:0001::/64", "fd00:10:244:1::/64"),
            ("0000fd00::1/128", "fd00::1/128"),
            ("1:2:3:4:5:6:7.8.9.10/112", "1:2:3:4:5:6:708:0/112"),
            ("1:2:3:4:5:6:7::/128", "1:2:3:4:5:6:7:0/128"),
        ] {
            assert_eq!(network(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_cidr() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/8 ",
            " 10.0.0.0/8",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "256.0.0.0/8",
            "fe80::1%eth0/64",
            "fd00::/129",
            "fd00::/-1",
            "1::2::3/64",
            "1:2:3:4:5:6:7:8::/64",
            ":1/64",
            "1:/64",
            ":::/0",
            "1.2.3.4::/64",
            "fd00::g/64",
            "10.0.0.0/+8",
            "::1.2.3/64",
        ] {
            assert_eq!(network(text), None, "{text}");
        }
    }

    #[test]
    fn odd_spellings_are_told_apart() {
        let cidr = |text| Cidr::parse(text).unwrap();
        assert!(cidr("10.0.0.1/8").has_host_bits() && !cidr("10.0.0.0/8").has_host_bits());
        for (text, standard) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1/8", true),
            ("010.0.0.0/8", false),
            ("10.0.0.0/08", false),
            ("FD00::/8", true),
            ("::ffff:10.0.0.0/104", false),
        ] {
            assert_eq!(cidr(text).is_standard(text), standard, "{text}");
        }
    }

    #[test]
    fn strict_subsets() {
        let subset = |outer, inner| Cidr::parse(outer).unwrap().strictly_contains(&Cidr::parse(inner).unwrap());
        assert!(subset("10.0.0.0/8", "10.1.0.0/16"));
        assert!(!subset("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!subset("10.0.0.0/8", "11.0.0.0/16"));
        assert!(!subset("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!subset("0.0.0.0/0", "fd00::/8"));
        assert!(!subset("::/0", "10.0.0.0/8"));
    }
}
