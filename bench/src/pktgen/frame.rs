//! The bytes of generated frames: headers, checksums, and the stamp by which a sink knows them again.

use dataplane::address::MacAddress;

use super::plan::{PairEntry, Plan};

/// Bytes of the headers.
pub(super) const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const TCP: usize = 20;

/// The largest header: Ethernet, IPv6, TCP, rounded up to words.
pub(super) const HEADER: usize = 80;

/// What the first 16 bytes of a payload say, in network order: `"PS"`, group, sequence, time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The group of flows that has the sequence.
    pub group: u16,
    /// The number of the frame in its group, from 0, modulo 2³².
    pub sequence: u32,
    /// When the frame was due, or sent if there is no fixed rate: nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
}

impl Stamp {
    /// Bytes of a stamp.
    pub const LENGTH: usize = 16;
    const MAGIC: [u8; 2] = *b"PS";

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..2].copy_from_slice(&Self::MAGIC);
        bytes[2..4].copy_from_slice(&self.group.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..].copy_from_slice(&self.time.to_be_bytes());
        bytes
    }

    /// The stamp at the start of a payload, if there is one.
    pub fn from_bytes(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<{ Self::LENGTH }>()?;
        let [m0, m1, g0, g1, s0, s1, s2, s3, time @ ..] = *bytes;
        ([m0, m1] == Self::MAGIC).then_some(Stamp {
            group: u16::from_be_bytes([g0, g1]),
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            time: u64::from_be_bytes(time),
        })
    }
}

/// Where the payload of a UDP or TCP frame starts, when it is one without IP options, extension headers or TCP options.
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (protocol, transport) = match (frame.get(12..14)?, frame.get(ETHERNET)?) {
        ([0x08, 0x00], first) => (*frame.get(ETHERNET + 9)?, ETHERNET + usize::from(first & 15) * 4),
        ([0x86, 0xdd], _) => (*frame.get(ETHERNET + 6)?, ETHERNET + IPV6),
        _ => return None,
    };
    match protocol {
        17 => frame.get(transport + UDP..),
        6 => frame.get(transport + TCP..),
        _ => None,
    }
}

/// Which headers frames have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// IPv6 rather than IPv4.
    pub is_v6: bool,
    /// TCP rather than UDP.
    pub is_tcp: bool,
    /// Whether the payload starts with a [`Stamp`].
    pub has_stamp: bool,
}

impl Layout {
    /// Where the transport header starts.
    pub fn transport(self) -> usize {
        ETHERNET + if self.is_v6 { IPV6 } else { IPV4 }
    }

    /// Where the payload starts.
    pub fn payload(self) -> usize {
        self.transport() + if self.is_tcp { TCP } else { UDP }
    }

    /// The smallest frame that holds the headers and the stamp, and no less than Ethernet's 60 bytes.
    pub fn least(self) -> u16 {
        let stamp = if self.has_stamp { Stamp::LENGTH } else { 0 };
        (self.payload() + stamp).max(60) as u16
    }

    /// The headers with everything that is the same in all frames; addresses, ports, lengths and checksums are zero.
    pub(super) fn header(self, tcp_flags: u8, destination: MacAddress, source: MacAddress) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..6].copy_from_slice(&destination.0);
        header[6..12].copy_from_slice(&source.0);
        let (kind, protocol) = (if self.is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] }, if self.is_tcp { 6 } else { 17 });
        header[12..14].copy_from_slice(&kind);
        let network = &mut header[ETHERNET..];
        if self.is_v6 {
            network[0] = 0x60;
            network[6] = protocol;
            network[7] = 64;
        } else {
            network[0] = 0x45;
            network[6] = 0x40; // don't fragment
            network[8] = 64;
            network[9] = protocol;
        }
        if self.is_tcp {
            let tcp = &mut header[self.transport()..];
            tcp[7] = 1; // sequence number
            tcp[12] = 5 << 4;
            tcp[13] = tcp_flags;
            tcp[14..16].copy_from_slice(&[0xff, 0xff]);
        }
        header
    }

    /// What a header without addresses and lengths adds to the checksums: of the IPv4 header, and of the transport's header and
    /// pseudo header (RFC 768, RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub(super) fn sums(self, header: &[u8; HEADER]) -> (u32, u32) {
        let network = if self.is_v6 { 0 } else { sum(&header[ETHERNET..ETHERNET + IPV4]) };
        let protocol = if self.is_tcp { 6 } else { 17 };
        (network as u32, (sum(&header[self.transport()..self.payload()]) + sum(&[0, protocol])) as u32)
    }
}

/// The sum of 16-bit words as they lie in memory: the Internet checksum does not depend on the byte order (RFC 1071).
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |&byte| u64::from(u16::from_ne_bytes([byte, 0])));
    words.iter().map(|&word| u64::from(u16::from_ne_bytes(word))).sum::<u64>() + last
}

/// The checksum, from a sum of words.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Writes the frame of a flow into `bytes`, whose length is the frame's: the same bytes as the XDP program writes. What lies behind
/// the stamp has to be zero.
pub(super) fn write(plan: &Plan, header: &[u8; HEADER], flow: u64, stamp: Option<Stamp>, bytes: &mut [u8]) {
    let layout = plan.layout;
    let (transport, payload) = (layout.transport(), layout.payload());
    let pairs = plan.pairs.len() as u64;
    let pair: &PairEntry = &plan.pairs[(flow % pairs) as usize];
    bytes[..payload].copy_from_slice(&header[..payload]);
    let port = (plan.first_port + (flow / pairs) as u16).to_be_bytes();
    let (source, destination) = if plan.is_reversed { (pair.port, port) } else { (port, pair.port) };
    let length = ((bytes.len() - transport) as u16).to_be_bytes();
    let word = |bytes: [u8; 2]| u64::from(u16::from_ne_bytes(bytes));
    let mut total = u64::from(plan.transport_sum) + u64::from(pair.sum) + word(port) + word(pair.port) + word(length);
    if layout.is_v6 {
        bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length);
        bytes[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&pair.source);
        bytes[ETHERNET + 24..ETHERNET + 40].copy_from_slice(&pair.destination);
    } else {
        let whole = ((bytes.len() - ETHERNET) as u16).to_be_bytes();
        let checksum = fold(u64::from(plan.ip_sum) + u64::from(pair.sum) + word(whole));
        bytes[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&whole);
        bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_ne_bytes());
        bytes[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&pair.source[..4]);
        bytes[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&pair.destination[..4]);
    }
    bytes[transport..transport + 2].copy_from_slice(&source);
    bytes[transport + 2..transport + 4].copy_from_slice(&destination);
    if let Some(stamp) = stamp {
        let stamp = stamp.to_bytes();
        bytes[payload..payload + Stamp::LENGTH].copy_from_slice(&stamp);
        total += sum(&stamp);
    }
    if layout.is_tcp {
        bytes[transport + 16..transport + 18].copy_from_slice(&fold(total).to_ne_bytes());
    } else {
        bytes[transport + 4..transport + 6].copy_from_slice(&length);
        let checksum = match fold(total + word(length)) {
            0 => 0xffff, // zero says that there is none (RFC 768)
            checksum => checksum,
        };
        bytes[transport + 6..transport + 8].copy_from_slice(&checksum.to_ne_bytes());
    }
}
