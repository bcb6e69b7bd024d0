//! A spec, checked and worked out: what both generators need in a form that the XDP program reads as it is.

use std::net::IpAddr;

use bytemuck::{Pod, Zeroable};
use dataplane::address::{Address, MacAddress};
use dataplane::rules::AddressSet;

use super::error::Error;
use super::frame::{HEADER, Layout, sum};
use super::spec::{Flows, Order, Pair, Pairs, Rate, Spec, Transport};

/// The most pairs: 160 MB of them.
const MAX_PAIRS: u64 = 4 << 20;

/// The largest frame that the kernel's live frames hold beside their bookkeeping, of a page.
pub(super) const MAX_SIZE: u16 = 3500;

/// A pair as the XDP program reads it (`struct pair` in `generator.bpf.c`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct PairEntry {
    /// An IPv4 address lies in the first four bytes.
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    /// What both addresses add to a checksum.
    pub(super) sum: u32,
    /// The port that does not vary, in network order.
    pub(super) port: [u8; 2],
    reserved: [u8; 2],
}

impl PairEntry {
    fn new(pair: Pair, is_reversed: bool) -> Self {
        let (from, to) = if is_reversed { (pair.destination, pair.source) } else { (pair.source, pair.destination) };
        let (source, destination) = (words(from), words(to));
        let sum = (sum(&source) + sum(&destination)) as u32;
        PairEntry { source, destination, sum, port: pair.destination_port.to_be_bytes(), reserved: [0; 2] }
    }
}

fn words(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
    }
}

/// A checked spec.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: Layout,
    pub(super) tcp_flags: u8,
    pub(super) sizes: Vec<u16>,
    pub(super) pairs: Vec<PairEntry>,
    pub(super) first_port: u16,
    /// How many flows there can be.
    pub(super) space: u64,
    /// The flow that the window starts at.
    pub(super) first: u64,
    /// A power of two.
    pub(super) groups: u32,
    pub(super) is_reversed: bool,
    /// Nanoseconds between frames, or `None` for as fast as it goes.
    pub(super) interval: Option<f64>,
    pub(super) ip_sum: u32,
    pub(super) transport_sum: u32,
    /// The first flow's destination: whom to ask for a MAC address.
    pub(super) destination: IpAddr,
    /// The first flow's source.
    pub(super) source: IpAddr,
}

impl Plan {
    pub(super) fn new(spec: &Spec) -> Result<Self, Error> {
        let pairs = list(&spec.flows.pairs)?;
        let is_v6 = pairs[0].source.is_ipv6();
        if let Some(odd) =
            pairs.iter().find(|pair| pair.source.is_ipv6() != is_v6 || pair.destination.is_ipv6() != is_v6)
        {
            return Err(Error::input(format!(
                "the flow from {} to {} is not of the IP version of the first; send IPv4 and IPv6 with two generators",
                odd.source, odd.destination
            )));
        }
        let is_tcp = spec.frames.transport != Transport::Udp;
        let layout = Layout { is_v6, is_tcp, has_stamp: spec.frames.stamp };
        let tcp_flags = if spec.frames.transport == Transport::TcpSyn { 0x02 } else { 0x10 };
        let sizes = sizes(&spec.frames.sizes, layout)?;
        let space = space(&spec.flows, pairs.len() as u64)?;
        let zero = MacAddress::default();
        let (ip_sum, transport_sum) = layout.sums(&layout.header(tcp_flags, zero, zero));
        let reversed = |pair: Pair| {
            if spec.flows.reversed { (pair.destination, pair.source) } else { (pair.source, pair.destination) }
        };
        let (source, destination) = reversed(pairs[0]);
        Ok(Plan {
            layout,
            tcp_flags,
            interval: interval(spec.rate, &sizes)?,
            sizes,
            first_port: spec.flows.source_ports.0,
            space,
            first: spec.flows.first % space,
            groups: groups(&spec.flows)?,
            is_reversed: spec.flows.reversed,
            pairs: pairs.into_iter().map(|pair| PairEntry::new(pair, spec.flows.reversed)).collect(),
            ip_sum,
            transport_sum,
            destination,
            source,
        })
    }

    /// The addresses that frames come from.
    pub(super) fn sources(&self) -> AddressSet {
        let address = |pair: &PairEntry| match (self.layout.is_v6, pair.source.first_chunk()) {
            (false, Some(bytes)) => Address::v4(*bytes),
            _ => Address::v6(pair.source),
        };
        self.pairs.iter().map(address).collect()
    }

    /// The constant part of the headers, for these stations.
    pub(super) fn header(&self, destination: MacAddress, source: MacAddress) -> [u8; HEADER] {
        self.layout.header(self.tcp_flags, destination, source)
    }
}

fn list(pairs: &Pairs) -> Result<Vec<Pair>, Error> {
    let list = match pairs {
        Pairs::List(list) => list.clone(),
        &Pairs::Ranges { source, sources, destination, destinations, destination_port, destination_ports } => {
            let count = u64::from(sources) * u64::from(destinations) * u64::from(destination_ports);
            if count > MAX_PAIRS {
                return Err(Error::input(format!(
                    "{count} pairs of addresses and ports are more than the {MAX_PAIRS} that fit; name fewer addresses, and \
                     let source ports make the flows"
                )));
            }
            let mut list = Vec::with_capacity(count as usize);
            for destination_port in (0..destination_ports).map(|i| destination_port.wrapping_add(i)) {
                for to in 0..destinations {
                    for from in 0..sources {
                        let (source, destination) = (offset(source, from)?, offset(destination, to)?);
                        list.push(Pair { source, destination, destination_port });
                    }
                }
            }
            list
        }
    };
    match list.len() as u64 {
        0 => Err(Error::input("there is no source and destination to send between; name at least one address of each")),
        1..=MAX_PAIRS => Ok(list),
        count => Err(Error::input(format!("{count} pairs are more than the {MAX_PAIRS} that fit"))),
    }
}

/// The address that many further on.
fn offset(address: IpAddr, by: u32) -> Result<IpAddr, Error> {
    let moved = match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(by).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => v6.to_bits().checked_add(by.into()).map(|bits| IpAddr::V6(bits.into())),
    };
    moved.ok_or_else(|| Error::input(format!("there are no {by} addresses after {address}")))
}

fn sizes(sizes: &[u16], layout: Layout) -> Result<Vec<u16>, Error> {
    if sizes.is_empty() || sizes.len() > 16 {
        return Err(Error::input(format!("{} frame sizes were named; name 1 to 16", sizes.len())));
    }
    if let Some(size) = sizes.iter().find(|size| **size > MAX_SIZE) {
        return Err(Error::input(format!("a frame of {size} bytes is too large; the largest is {MAX_SIZE}")));
    }
    Ok(sizes.iter().map(|size| (*size).max(layout.least())).collect())
}

/// How many flows there can be, when what is asked for fits.
fn space(flows: &Flows, pairs: u64) -> Result<u64, Error> {
    let (first, last) = flows.source_ports;
    if first > last {
        return Err(Error::input(format!("source ports {first}-{last} are none; write the lower one first")));
    }
    let ports = u64::from(last - first) + 1;
    let space = (pairs * ports).min(u64::from(u32::MAX));
    if flows.active == 0 {
        return Err(Error::input("0 flows cannot be sent; ask for at least 1"));
    }
    if u64::from(flows.active) > space {
        return Err(Error::input(format!(
            "{} flows do not fit into {pairs} pairs of addresses with {ports} source ports ({space} flows); name more \
             addresses, for example --source 10.0.0.0/16",
            flows.active
        )));
    }
    if let Order::Zipf { exponent } = flows.order
        && !(exponent.is_finite() && exponent > 0.0)
    {
        return Err(Error::input(format!(
            "a Zipf exponent of {exponent} makes no sense; it is above 0, usually near 1"
        )));
    }
    Ok(space)
}

fn groups(flows: &Flows) -> Result<u32, Error> {
    match flows.groups {
        None => Ok(flows.active.min(1 << 16).next_power_of_two()),
        Some(groups) if groups.is_power_of_two() && groups <= 1 << 16 => Ok(groups),
        Some(groups) => Err(Error::input(format!("{groups} groups: use a power of two of at most 65536"))),
    }
}

fn interval(rate: Rate, sizes: &[u16]) -> Result<Option<f64>, Error> {
    let mean = sizes.iter().map(|size| f64::from(*size)).sum::<f64>() / sizes.len() as f64;
    let frames = match rate {
        Rate::FlatOut => return Ok(None),
        Rate::FramesPerSecond(frames) => frames,
        Rate::BitsPerSecond(bits) => bits / (8.0 * mean),
    };
    if frames.is_finite() && (0.001..=1e9).contains(&frames) {
        Ok(Some(1e9 / frames))
    } else {
        Err(Error::input(format!(
            "a rate of {frames} frames a second cannot be sent; ask for 0.001 to 10⁹, or for none to send flat out"
        )))
    }
}
