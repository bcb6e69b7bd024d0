//! Tests of fragments.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::packet::{Protocol, Transport};
use crate::port::Pool;

const PORTS: (u16, u16) = (4000, 53);

fn ip(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().unwrap())
}

/// A table, the pool of its frames, and the clock.
struct Wire {
    table: FragmentTable,
    pool: Pool,
    now: Time,
    wire: WireId,
}

impl Wire {
    fn new(config: FragmentConfig) -> Self {
        Wire { table: FragmentTable::new(config), pool: Pool::new(300, 128), now: Time::ZERO, wire: WireId(1) }
    }

    fn crossing(&self) -> Crossing {
        Crossing { wire: self.wire, direction: Direction::Ingress, length: 100, now: self.now }
    }

    fn admit(&mut self, packet: &Packet) -> Result<Admission, DropReason> {
        self.table.admit(&self.crossing(), packet)
    }

    /// Does what a worker does, and returns the offsets that leave, in order.
    fn pass(&mut self, packet: &Packet) -> Result<Vec<u32>, DropReason> {
        let own = packet.fragment.expect("a fragment").offset;
        match self.admit(packet)? {
            Admission::Whole => Ok(vec![own]),
            Admission::Later(tuple) => {
                assert_eq!((tuple.source_port, tuple.destination_port), PORTS);
                Ok(vec![own])
            }
            Admission::Hold(datagram) => {
                let frame = self.pool.frame(&[own as u8; 20]).expect("a frame");
                let held = self.table.hold(datagram, &self.crossing(), frame, packet);
                held.map(|()| Vec::new()).map_err(|(frame, reason)| {
                    self.pool.release(frame);
                    reason
                })
            }
            Admission::First(datagram) => {
                let mut offsets = vec![own];
                while let Some((held, tuple)) = self.table.next_held(datagram) {
                    assert_eq!((tuple.source_port, tuple.destination_port), PORTS);
                    offsets.push(held.packet.fragment.expect("a fragment").offset);
                    self.pool.release(held.frame);
                }
                Ok(offsets)
            }
        }
    }

    fn discarded(&mut self) -> Vec<(u32, DropReason)> {
        let mut all = Vec::new();
        while let Some((held, reason)) = self.table.next_discarded(self.now) {
            assert_eq!(held.direction, Direction::Ingress);
            all.push((held.packet.fragment.expect("a fragment").offset, reason));
            self.pool.release(held.frame);
        }
        all
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.table.clear();
            self.discarded();
            assert_eq!((self.pool.outstanding(), self.table.len(), self.table.held()), (0, 0, 0), "frames are lost");
        }
    }
}

fn fragment_of(far: &str, near: &str, id: u32, offset: u32, length: u32, more: bool) -> Packet {
    let transport = match offset {
        0 => Transport::Udp { source_port: PORTS.0, destination_port: PORTS.1 },
        _ => Transport::Fragment,
    };
    Packet {
        source: ip(far),
        destination: ip(near),
        protocol: Protocol::UDP,
        hop_limit: 64,
        transport_offset: 34,
        transport_length: length,
        fragment: Some(Fragment { id, offset, more, length }),
        transport,
    }
}

fn piece(offset: u32, length: u32, more: bool) -> Packet {
    fragment_of("10.0.0.2", "10.0.0.1", 7, offset, length, more)
}

/// A datagram in pieces of this size.
fn pieces(id: u32, length: u32, size: u32) -> Vec<Packet> {
    let piece = |offset: u32| {
        let rest = length - offset;
        fragment_of("10.0.0.2", "10.0.0.1", id, offset, rest.min(size), rest > size)
    };
    (0..length).step_by(size as usize).map(piece).collect()
}

#[test]
fn what_is_whole_is_no_fragment() {
    let mut wire = Wire::new(FragmentConfig::default());
    let mut whole = piece(0, 100, false);
    assert_eq!(wire.admit(&whole), Ok(Admission::Whole), "an atomic fragment (RFC 6946)");
    whole.fragment = None;
    assert_eq!(wire.admit(&whole), Ok(Admission::Whole));
    assert!(wire.table.is_empty());
}

#[test]
fn a_datagram_of_64_kib_passes_in_order_and_reversed() {
    let mut wire = Wire::new(FragmentConfig::default());
    let all = pieces(7, 65_515, 1_224);
    assert_eq!(all.len(), 54);
    for piece in &all {
        assert_eq!(wire.pass(piece), Ok(vec![piece.fragment.unwrap().offset]));
    }
    assert!(wire.table.is_empty(), "a datagram that is complete needs no memory");

    let mut left = Vec::new();
    for piece in all.iter().rev() {
        left.extend(wire.pass(piece).unwrap());
    }
    left.sort_unstable();
    assert_eq!(left, all.iter().map(|piece| piece.fragment.unwrap().offset).collect::<Vec<_>>());
    assert!(wire.table.is_empty());
    assert_eq!(wire.discarded(), []);
}

#[test]
fn held_frames_leave_in_the_order_in_which_they_came() {
    let mut wire = Wire::new(FragmentConfig::default());
    for (offset, more) in [(24, true), (8, true), (32, false)] {
        assert_eq!(wire.pass(&piece(offset, 8, more)), Ok(vec![]));
    }
    assert_eq!(wire.table.held(), 3);
    assert_eq!(wire.pass(&piece(0, 8, true)), Ok(vec![0, 24, 8, 32]));
    assert_eq!(wire.pass(&piece(16, 8, true)), Ok(vec![16]));
    assert!(wire.table.is_empty());
}

#[test]
fn datagrams_are_told_apart() {
    let mut wire = Wire::new(FragmentConfig::default());
    wire.pass(&piece(0, 8, true)).unwrap();
    // Another identification, sender, protocol, wire, direction: none of them has a first fragment.
    let mut others = vec![
        fragment_of("10.0.0.2", "10.0.0.1", 8, 8, 8, false),
        fragment_of("10.0.0.3", "10.0.0.1", 7, 8, 8, false),
        Packet { protocol: Protocol::TCP, ..piece(8, 8, false) },
    ];
    for other in &others {
        assert!(matches!(wire.admit(other), Ok(Admission::Hold(_))), "{other:?}");
    }
    others.push(piece(8, 8, false));
    wire.wire = WireId(2);
    assert!(matches!(wire.admit(&piece(8, 8, false)), Ok(Admission::Hold(_))));
    wire.wire = WireId(1);
    let outward = Crossing { direction: Direction::Egress, ..wire.crossing() };
    assert!(matches!(wire.table.admit(&outward, &piece(8, 8, false)), Ok(Admission::Hold(_))));
    assert!(matches!(wire.admit(&piece(8, 8, false)), Ok(Admission::Later(_))));
    // An IPv6 datagram's later fragments may name another protocol than the first one.
    wire.pass(&fragment_of("fd00::2", "fd00::1", 7, 0, 16, true)).unwrap();
    let later = Packet { protocol: Protocol(60), ..fragment_of("fd00::2", "fd00::1", 7, 16, 8, false) };
    assert!(matches!(wire.admit(&later), Ok(Admission::Later(_))));
}

#[test]
fn an_overlap_poisons_the_datagram() {
    // Each pair overlaps: from the left, from the right, within, around, the same start.
    for (first, second) in
        [((8, 16), (0, 16)), ((8, 16), (16, 16)), ((8, 24), (16, 8)), ((16, 8), (8, 24)), ((8, 16), (8, 8))]
    {
        let mut wire = Wire::new(FragmentConfig::default());
        wire.pass(&piece(first.0, first.1, true)).unwrap();
        let held = wire.table.held();
        assert_eq!(
            wire.pass(&piece(second.0, second.1, true)),
            Err(DropReason::FragmentOverlap),
            "{first:?} {second:?}"
        );
        assert_eq!(wire.pass(&piece(800, 8, true)), Err(DropReason::FragmentOverlap), "and everything later");
        assert_eq!(wire.pass(&piece(0, 8, true)), Err(DropReason::FragmentOverlap));
        assert_eq!(wire.discarded().len(), held, "what waited goes too");
    }
    // RFC 1858: a second fragment that rewrites the ports or flags of the first.
    let mut wire = Wire::new(FragmentConfig::default());
    assert_eq!(wire.pass(&piece(0, 24, true)), Ok(vec![0]));
    assert_eq!(wire.pass(&piece(8, 16, false)), Err(DropReason::FragmentOverlap));
}

#[test]
fn duplicates_are_dropped_and_harm_nothing() {
    let mut wire = Wire::new(FragmentConfig::default());
    wire.pass(&piece(0, 16, true)).unwrap();
    assert_eq!(wire.pass(&piece(0, 16, true)), Err(DropReason::FragmentDuplicate));
    wire.pass(&piece(32, 8, false)).unwrap();
    assert_eq!(wire.pass(&piece(32, 8, false)), Err(DropReason::FragmentDuplicate));
    assert_eq!(wire.pass(&piece(16, 16, true)), Ok(vec![16]));
}

#[test]
fn lengths_must_agree() {
    let mut wire = Wire::new(FragmentConfig::default());
    for bad in [piece(8, 0, true), piece(0, 12, true), piece(65_528, 16, false), piece(8_000_000, 8, true)] {
        assert_eq!(wire.pass(&bad), Err(DropReason::FragmentLength), "{:?}", bad.fragment);
    }
    assert!(wire.table.is_empty());
    // Beyond the last; a second last; a last before others.
    for (one, other) in [
        ((32, 8, false), (40, 8, true)),
        ((32, 8, false), (48, 8, false)),
        ((32, 8, false), (16, 8, false)),
        ((32, 8, true), (16, 8, false)),
    ] {
        let mut wire = Wire::new(FragmentConfig::default());
        wire.pass(&piece(one.0, one.1, one.2)).unwrap();
        assert_eq!(wire.pass(&piece(other.0, other.1, other.2)), Err(DropReason::FragmentLength), "{one:?} {other:?}");
        assert_eq!(wire.pass(&piece(0, 8, true)), Err(DropReason::FragmentLength));
        assert_eq!(wire.discarded(), [(32, DropReason::FragmentLength)]);
    }
}

#[test]
fn a_datagram_has_128_fragments_at_most() {
    let mut wire = Wire::new(FragmentConfig::default());
    let all = pieces(7, 8 * 200, 8);
    for piece in &all[..128] {
        wire.pass(piece).unwrap();
    }
    assert_eq!(wire.pass(&all[128]), Err(DropReason::FragmentOverflow));
}

#[test]
fn what_waits_too_long_is_given_back() {
    for (near, far, seconds) in [("10.0.0.1", "10.0.0.2", 30), ("fd00::1", "fd00::2", 60)] {
        let mut wire = Wire::new(FragmentConfig::default());
        assert_eq!(wire.table.next_deadline(), None);
        wire.pass(&fragment_of(far, near, 7, 8, 8, false)).unwrap();
        wire.pass(&fragment_of(far, near, 7, 16, 8, false)).unwrap_err();
        wire.discarded();
        wire.pass(&fragment_of(far, near, 8, 8, 8, false)).unwrap();
        assert_eq!(wire.table.next_deadline(), Some(Time::ZERO + Duration::from_secs(seconds)));
        wire.now = Time::ZERO + Duration::from_secs(seconds - 1);
        assert_eq!(wire.discarded(), []);
        wire.now = Time::ZERO + Duration::from_secs(seconds);
        assert_eq!(wire.discarded(), [(8, DropReason::FragmentTimeout)]);
        assert!(wire.table.is_empty());
        // The identification stands for another datagram now.
        assert_eq!(wire.pass(&fragment_of(far, near, 7, 0, 8, true)), Ok(vec![0]));
    }
}

#[test]
fn a_flood_of_datagrams_costs_its_own_wire() {
    let config = FragmentConfig { datagrams: 8, held: 16, ..FragmentConfig::default() };
    let mut wire = Wire::new(config);
    wire.wire = WireId(2);
    wire.pass(&piece(8, 8, false)).unwrap();
    wire.wire = WireId(1);
    for id in 0..100 {
        let later = fragment_of("10.0.0.2", "10.0.0.1", id, 8, 8, false);
        assert_eq!(wire.pass(&later), Ok(vec![]), "the oldest makes room");
        let lost = wire.discarded();
        assert!(lost.iter().all(|lost| lost.1 == DropReason::FragmentOverflow) && lost.len() == usize::from(id >= 4));
    }
    assert_eq!((wire.table.len(), wire.table.held()), (5, 5));
    wire.wire = WireId(2);
    assert_eq!(wire.pass(&piece(0, 8, true)), Ok(vec![0, 8]), "another wire's datagram is whole");
}

#[test]
fn held_frames_are_bounded_by_datagram_and_by_wire() {
    let mut wire = Wire::new(FragmentConfig { held: 8, held_per_datagram: 3, ..FragmentConfig::default() });
    for offset in [8, 16, 24] {
        wire.pass(&piece(offset, 8, true)).unwrap();
    }
    assert_eq!(wire.pass(&piece(32, 8, true)), Err(DropReason::FragmentOverflow));
    wire.pass(&fragment_of("10.0.0.3", "10.0.0.1", 1, 8, 8, true)).unwrap();
    // The wire has its half: the oldest datagram gives up, for those that come later.
    let next = fragment_of("10.0.0.3", "10.0.0.1", 1, 16, 8, true);
    assert_eq!(wire.pass(&next), Err(DropReason::FragmentOverflow));
    assert_eq!(wire.discarded().len(), 3);
    wire.pass(&fragment_of("10.0.0.3", "10.0.0.1", 1, 24, 8, true)).unwrap();
}

#[test]
fn a_wire_that_goes_gives_its_frames_back() {
    let mut wire = Wire::new(FragmentConfig::default());
    wire.pass(&piece(8, 8, true)).unwrap();
    wire.wire = WireId(2);
    wire.pass(&piece(8, 8, true)).unwrap();
    wire.table.clear_wire(WireId(1));
    assert_eq!(wire.discarded(), [(8, DropReason::FragmentTimeout)]);
    assert_eq!(wire.table.held(), 1);
}

proptest! {
    /// However a datagram is cut and shuffled, all of it leaves, once, and nothing stays behind.
    #[test]
    fn every_order_passes(
        length in 1..65_515u32,
        units in 64..1_000u32,
        keys in prop::collection::vec(any::<u32>(), 128),
    ) {
        let mut wire = Wire::new(FragmentConfig { held: 256, held_per_datagram: 128, ..FragmentConfig::default() });
        let all = pieces(7, length, units * 8);
        let mut order: Vec<_> = (0..all.len()).collect();
        order.sort_by_key(|at| keys[*at]);
        let mut left = Vec::new();
        for at in order {
            left.extend(wire.pass(&all[at]).unwrap());
        }
        left.sort_unstable();
        prop_assert_eq!(left, all.iter().map(|piece| piece.fragment.unwrap().offset).collect::<Vec<_>>());
        prop_assert!(wire.table.is_empty());
    }

    /// Of any fragments of one datagram, those that pass never disagree about a byte.
    #[test]
    fn what_passes_never_overlaps(
        parts in prop::collection::vec((0..20u32, 1..6u32, any::<bool>()), 1..60),
    ) {
        let mut wire = Wire::new(FragmentConfig::default());
        let mut seen = [false; 32];
        for (start, units, more) in parts {
            let admitted = wire.admit(&piece(start * 8, units * 8, more)).is_ok();
            if admitted && (more || start > 0) {
                for byte in &mut seen[start as usize..(start + units) as usize] {
                    prop_assert!(!std::mem::replace(byte, true));
                }
                if wire.table.is_empty() {
                    seen = [false; 32]; // Complete: the next one is another datagram.
                }
            }
        }
    }
}
