//! Sets and traces in ClassBench's format, compressed by xz or not.
//!
//! ```text
//! set:    @SRC/len DST/len  splo : sphi  dplo : dphi  proto/mask  flags/mask     (tabs between, priority by line)
//! trace:  src dst sport dport proto flags filter                                 (decimal)
//! ```
//! A trace's flags are 32 bits with the header's 16 in the upper half.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use dataplane::address::Address;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Filter, Header, Kind, Ports, Size};
use crate::random::Random;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error(
        "{} cannot be read: {source} (the ClassBench sets are expected in ../shared/rulesets beside the checkout, or where \
         PENSTOCK_RULESETS says)",
        path.display()
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is not in the format.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Where the sets are: the directory that `PENSTOCK_RULESETS` names, else `../shared/rulesets` beside the checkout.
pub fn directory() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rulesets");
    std::env::var_os("PENSTOCK_RULESETS").map_or_else(beside, PathBuf::from)
}

/// Reads a set of the [`directory`].
///
/// # Errors
/// The file cannot be read, or is not in the format.
pub fn read_set(kind: Kind, size: Size) -> Result<Vec<Filter>, ReadError> {
    parse_set(&text(&format!("{kind}_{size}.rules.xz"))?)
}

/// Reads a trace of the [`directory`]: headers, each with the place of the filter that it was made from, which matches but
/// need not be the first.
///
/// # Errors
/// The file cannot be read, or is not in the format.
pub fn read_trace(kind: Kind, size: Size) -> Result<Vec<(Header, usize)>, ReadError> {
    parse_trace(&text(&format!("{kind}_{size}.trace.xz"))?)
}

fn text(name: &str) -> Result<String, ReadError> {
    let path = directory().join(name);
    let failed = |source| ReadError::File { path: path.clone(), source };
    let mut text = String::new();
    let file = fs::File::open(&path).map_err(failed)?;
    liblzma::read::XzDecoder::new(file).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Reads a set.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse_set(text: &str) -> Result<Vec<Filter>, ReadError> {
    parse_lines(text, parse_filter)
}

/// Reads a trace.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse_trace(text: &str) -> Result<Vec<(Header, usize)>, ReadError> {
    parse_lines(text, |line| parse_header(line).ok_or("expected src dst sport dport proto flags filter, in decimal"))
}

fn parse_lines<T>(text: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, ReadError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| parse(line).map_err(|reason| ReadError::Line { line: number + 1, reason })).collect()
}

fn parse_filter(line: &str) -> Result<Filter, &'static str> {
    let fields: Vec<&str> = line.trim().strip_prefix('@').ok_or("expected @ first")?.split('\t').collect();
    let [source, destination, source_ports, destination_ports, protocol, flags, ..] = fields[..] else {
        return Err("expected source, destination, two port ranges, protocol and flags, separated by tabs");
    };
    let net = |text: &str| text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| "expected ADDRESS/LENGTH");
    let (source, destination) = (net(source)?, net(destination)?);
    if source.addr().is_ipv4() != destination.addr().is_ipv4() {
        return Err("source and destination are of different families");
    }
    let protocol = match parse_masked(protocol).ok_or("expected protocol/mask in hexadecimal")? {
        (_, 0) => None,
        (protocol, 0xff) if protocol <= 0xff => Some(protocol as u8),
        _ => return Err("expected a protocol mask of 0x00 or 0xFF"),
    };
    let (flags, flags_mask) = parse_masked(flags).ok_or("expected flags/mask in hexadecimal")?;
    if flags_mask & 0xff != 0 || flags & !flags_mask != 0 {
        return Err("expected flags below a mask that has its bits in the upper byte");
    }
    Ok(Filter {
        source,
        destination,
        source_ports: parse_ports(source_ports)?,
        destination_ports: parse_ports(destination_ports)?,
        protocol,
        flags: (flags >> 8) as u8,
        flags_mask: (flags_mask >> 8) as u8,
    })
}

fn parse_ports(text: &str) -> Result<Ports, &'static str> {
    let reason = "expected FIRST : LAST";
    let (first, last) = text.split_once(':').ok_or(reason)?;
    let port = |text: &str| text.trim().parse().map_err(|_| reason);
    let ports = Ports { first: port(first)?, last: port(last)? };
    if ports.first <= ports.last { Ok(ports) } else { Err("a port range ends before it starts") }
}

/// `0xVALUE/0xMASK`
fn parse_masked(text: &str) -> Option<(u16, u16)> {
    let (value, mask) = text.split_once('/')?;
    let number = |text: &str| u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok();
    Some((number(value)?, number(mask)?))
}

fn parse_header(line: &str) -> Option<(Header, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let mut next = || fields.next()?.parse::<u128>().ok();
    let address = |bits: u128| match u32::try_from(bits) {
        Ok(bits) => Address::v4(bits.to_be_bytes()),
        Err(_) => Address::from_bits(bits),
    };
    let (source, destination) = (address(next()?), address(next()?));
    let (source_port, destination_port) = (u16::try_from(next()?).ok()?, u16::try_from(next()?).ok()?);
    let protocol = u8::try_from(next()?).ok()?;
    let flags = (u32::try_from(next()?).ok()? >> 24) as u8;
    let filter = usize::try_from(next()?).ok()?;
    Some((Header { source, destination, source_port, destination_port, protocol, flags }, filter))
}

/// An IPv4 prefix as an IPv6 one: see [`Filter::to_v6`]. An IPv6 prefix stays.
pub(super) fn widen(net: IpNet, seed: u64) -> IpNet {
    let IpNet::V4(net) = net else { return net };
    let (bits, length) = (u32::from(net.network()), net.prefix_len());
    let drawn = |prefix: u32, length: u32| Random::new(seed ^ u64::from(prefix) << 8 ^ u64::from(length)).next_u64();
    let mut wide = 0u128;
    for depth in 0..u32::from(length).min(31) {
        let bit = bits >> (31 - depth) & 1;
        let before = if depth == 0 { 0 } else { bits >> (32 - depth) };
        // The first pair closes 001x, which is 2000::/3; in the others the second bit is drawn.
        let pair = if depth == 0 { 2 | bit } else { bit << 1 | (drawn(before, depth) & 1) as u32 };
        wide |= u128::from(pair) << (124 - 2 * depth);
    }
    let length = match length {
        0 => 0,
        32 => {
            wide |= u128::from(drawn(bits >> 1, 32)) & !1 | u128::from(bits & 1);
            128
        }
        length => 2 * length + 2,
    };
    IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(wide), length).expect("a length of at most 128"))
}

/// The prefix of this length with these bits.
pub(super) fn prefix(bits: u32, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits), length).expect("a length of at most 32").trunc())
}
