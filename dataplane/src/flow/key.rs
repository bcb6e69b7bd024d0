//! [`FlowKey`].

use bytemuck::{Pod, Zeroable};

use super::hash::WORDS;
use crate::address::Address;
use crate::packet::{Direction, Protocol, Tuple};
use crate::parse::Dissected;
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
        self.words() == other.words()
    }
}

/// A key in six words, the form that it is hashed and compared in: different keys, different words.
#[derive(Clone, Copy, Eq, Debug)]
pub struct KeyWords(pub(super) [u64; WORDS]);

impl PartialEq for KeyWords {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.0, other.0);
        let low = (own[0] ^ other[0]) | (own[1] ^ other[1]);
        let high = (own[2] ^ other[2]) | (own[3] ^ other[3]);
        low | high | (own[4] ^ other[4]) | (own[5] ^ other[5]) == 0
    }
}

impl KeyWords {
    /// Of no flow.
    pub(crate) const ZERO: KeyWords = KeyWords([0; WORDS]);

    /// The key of a frame's flow: as [`FlowKey::new`] makes it, but never in memory before it is whole.
    #[inline(always)]
    pub(crate) fn of(wire: WireId, direction: Direction, frame: &Dissected) -> Self {
        let source = order(frame.source, frame.source_port);
        let destination = order(frame.destination, frame.destination_port);
        let is_low = source <= destination;
        let (low, low_port, high, high_port) = if is_low {
            (frame.source, frame.source_port, frame.destination, frame.destination_port)
        } else {
            (frame.destination, frame.destination_port, frame.source, frame.source_port)
        };
        // Who talks to whom tells which end sends this way, but for an end that talks to itself.
        let low_sends = if source == destination { 0 } else { direction as u8 ^ u8::from(!is_low) };
        let ports = u64::from(low_port) << 32 | u64::from(high_port) << 48;
        let rest = u64::from(low_sends) << 8 | u64::from(frame.protocol.0);
        KeyWords([low[0], low[1], high[0], high[1], u64::from(wire.0) | ports, rest])
    }

    /// Whether the ends are of IPv4.
    #[inline]
    pub(crate) fn is_v4(&self) -> bool {
        Address(bytemuck::cast([self.0[0], self.0[1]])).is_v4()
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> FlowKey {
        let [low, rest_of_low, high, rest_of_high, wire_and_ports, rest] = self.0;
        FlowKey {
            low: Address(bytemuck::cast([low, rest_of_low])),
            high: Address(bytemuck::cast([high, rest_of_high])),
            wire: (wire_and_ports as u32).to_ne_bytes(),
            low_port: (wire_and_ports >> 32) as u16,
            high_port: (wire_and_ports >> 48) as u16,
            protocol: rest as u8,
            low_sends: (rest >> 8) as u8,
        }
    }
}

/// What ends are ordered by, as their addresses and ports are.
#[inline(always)]
fn order([high, low]: [u64; 2], port: u16) -> (u64, u64, u16) {
    (u64::from_be(high), u64::from_be(low), port)
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

    /// The key as words.
    #[inline(always)]
    pub fn words(&self) -> KeyWords {
        let [low, high]: [[u64; 2]; 2] = [bytemuck::cast(self.low.0), bytemuck::cast(self.high.0)];
        let wire = u64::from(u32::from_ne_bytes(self.wire));
        let ports = u64::from(self.low_port) << 32 | u64::from(self.high_port) << 48;
        let rest = u64::from(self.low_sends) << 8 | u64::from(self.protocol);
        KeyWords([low[0], low[1], high[0], high[1], wire | ports, rest])
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
