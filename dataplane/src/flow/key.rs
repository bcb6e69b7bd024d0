//! [`FlowKey`].

use bytemuck::{Pod, Zeroable};

use super::hash::WORDS;
use crate::address::Address;
use crate::packet::{Direction, Protocol, Tuple};
use crate::rules::WireId;

/// What a flow is found by, the same for the frames of both directions. Packed plain old data without gaps: fit
/// for hashing byte by byte and for the key of a BPF map.
#[derive(Clone, Copy, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// The lower end: address, then port.
    low: Address,
    /// The higher end.
    high: Address,
    /// The wire's number, in the machine's byte order.
    wire: [u8; 4],
    low_port: u16,
    high_port: u16,
    protocol: u8,
    /// The [`Direction`] of frames that the lower end sends.
    low_sends: u8,
}

const _: () = assert!(size_of::<FlowKey>() == 42);

impl PartialEq for FlowKey {
    /// All words at once: one branch rather than one for each field.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.words(), other.words());
        let low = (own[0] ^ other[0]) | (own[1] ^ other[1]);
        let high = (own[2] ^ other[2]) | (own[3] ^ other[3]);
        low | high | (own[4] ^ other[4]) | (own[5] ^ other[5]) == 0
    }
}

impl FlowKey {
    /// The key of a frame's flow.
    #[inline]
    pub fn new(wire: WireId, direction: Direction, tuple: &Tuple) -> Self {
        let source = (tuple.source, tuple.source_port);
        let destination = (tuple.destination, tuple.destination_port);
        let order = |(address, port): (Address, u16)| (address.to_bits(), port);
        let (low, high, low_sends) = match order(source).cmp(&order(destination)) {
            std::cmp::Ordering::Less => (source, destination, direction),
            std::cmp::Ordering::Greater => (destination, source, direction.reverse()),
            // Who talks to itself sends both ways: one key, and the direction alone tells the ways apart.
            std::cmp::Ordering::Equal => (source, destination, Direction::Egress),
        };
        FlowKey {
            low: low.0,
            high: high.0,
            wire: wire.0.to_ne_bytes(),
            low_port: low.1,
            high_port: high.1,
            protocol: tuple.protocol.0,
            low_sends: low_sends as u8,
        }
    }

    /// The key as words, for [`super::KeyedHash`]: different keys, different words.
    #[inline(always)]
    pub(super) fn words(&self) -> [u64; WORDS] {
        let [low, high]: [[u64; 2]; 2] = [bytemuck::cast(self.low.0), bytemuck::cast(self.high.0)];
        let ports = u64::from(self.low_port) << 16 | u64::from(self.high_port);
        let wire = u64::from(u32::from_ne_bytes(self.wire));
        [
            low[0],
            low[1],
            high[0],
            high[1],
            wire << 32 | ports,
            u64::from(self.protocol) << 8 | u64::from(self.low_sends),
        ]
    }

    /// The wire.
    #[inline]
    pub fn wire(&self) -> WireId {
        WireId(u32::from_ne_bytes(self.wire))
    }

    /// The protocol.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.protocol)
    }

    /// The tuple of the frames that go this way.
    #[inline]
    pub fn tuple(&self, direction: Direction) -> Tuple {
        let tuple = Tuple {
            source: self.low,
            destination: self.high,
            protocol: self.protocol(),
            source_port: self.low_port,
            destination_port: self.high_port,
        };
        if self.low_sends == direction as u8 { tuple } else { tuple.reverse() }
    }

    /// Whether one of the ends has this address.
    pub fn has_address(&self, address: Address) -> bool {
        self.low == address || self.high == address
    }

    /// Whether the ends are in order: false for bytes that [`FlowKey::new`] did not make.
    pub(super) fn is_canonical(&self) -> bool {
        self.low_sends <= 1
            && match (self.low, self.low_port).cmp(&(self.high, self.high_port)) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => self.low_sends == Direction::Egress as u8,
                std::cmp::Ordering::Greater => false,
            }
    }
}
