//! Bursts against single look-ups; the hash; what a flow costs in memory.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::flow::hash::{KeyedHash, mix};

/// The packet of this number, few enough that they meet.
fn packet(number: u16) -> Packet {
    udp(("10.0.0.1", number % 40 + 1), ("10.0.0.2", number / 40 % 4 + 1))
}

proptest! {
    #[test]
    fn a_burst_finds_what_single_look_ups_find(
        inserted in prop::collection::vec((0..160u16, 0..3u32, any::<bool>(), 0..25u64), 0..200),
        asked in prop::collection::vec((0..160u16, 0..3u32, any::<bool>()), 0..150),
        room in 0..200usize,
    ) {
        let mut wire = Wire::new(128);
        for (number, id, outward, wait) in inserted {
            (wire.wire, wire.now) = (WireId(id), wire.now + Duration::from_secs(wait / 20));
            let _ = wire.pass(if outward { Direction::Egress } else { Direction::Ingress }, &packet(number));
        }
        let crossing = |id, outward| Crossing {
            wire: WireId(id),
            ..wire.crossing(if outward { Direction::Egress } else { Direction::Ingress })
        };
        let keys: Vec<_> =
            asked.iter().map(|(number, id, outward)| FlowTable::key(&crossing(*id, *outward), &packet(*number).tuple())).collect();
        let mut found = vec![Some(FlowRef(77)); room];
        wire.table.find_burst(&keys, wire.now, &mut found);
        for (at, (number, id, outward)) in asked.iter().enumerate().take(room) {
            let crossing = crossing(*id, *outward);
            let tuple = packet(*number).tuple();
            let alone = wire.table.find(&crossing, &tuple);
            prop_assert_eq!(found[at], alone.map(|(flow, _)| flow));
            let key = FlowTable::key(&crossing, &tuple);
            let hash = wire.table.hash(&key);
            wire.table.prefetch_index(hash);
            wire.table.prefetch_entry(hash);
            prop_assert_eq!(wire.table.find_hashed(&key, hash, &crossing), alone);
        }
        prop_assert!(found.iter().skip(asked.len()).all(|found| *found == Some(FlowRef(77))));
    }

    #[test]
    fn keys_are_equal_when_their_bytes_are(a: [u8; 42], at in 0..42usize, other: u8) {
        let mut b = a;
        b[at] = other;
        let [a, b]: [FlowKey; 2] = [a, b].map(|bytes| bytemuck::pod_read_unaligned(&bytes));
        prop_assert_eq!(a == b, bytemuck::bytes_of(&a) == bytemuck::bytes_of(&b));
        prop_assert_eq!(a == b, a.words() == b.words());
    }

    #[test]
    fn the_hash_is_that_of_its_definition(secret: [u8; 16], words: [u64; 6]) {
        // The same with numbers that are wide enough to need no carries.
        let source = siphasher::sip::SipHasher13::new_with_key(&secret);
        let number: Vec<u64> = (0..12u64).map(|at| source.hash(&at.to_le_bytes())).collect();
        let mut sum = 0u128;
        for at in [0, 2, 4] {
            let left = (u128::from(words[at]) + u128::from(number[at])) % (1 << 64);
            let right = (u128::from(words[at + 1]) + u128::from(number[at + 1])) % (1 << 64);
            sum = sum.wrapping_add(left * right);
        }
        let wide = |at: usize| u128::from(number[at]) << 64 | u128::from(number[at + 1]);
        let total = wide(6).wrapping_mul(sum >> 64).wrapping_add(wide(8).wrapping_mul(sum % (1 << 64))).wrapping_add(wide(10));
        prop_assert_eq!(KeyedHash::new(&secret).hash(&words), mix((total >> 64) as u64));
    }
}

#[test]
fn tuples_in_a_row_spread_as_chance_has_it() {
    // 2^16 hashes into 2^16 places fill 1 - 1/e of them, in the upper bits (buckets) and in the lower ones (tags, steps).
    for secret in 0..8u8 {
        let hash = KeyedHash::new(&[secret; 16]);
        let mut filled = [HashSet::new(), HashSet::new()];
        for number in 0..1u32 << 16 {
            let tuple = Tuple {
                source: Address::v4((0x0a00_0000 + (number >> 8)).to_be_bytes()),
                destination: ip("10.0.0.2"),
                protocol: Protocol::UDP,
                source_port: 1024 + (number & 0xff) as u16,
                destination_port: 53,
            };
            let hash = hash.hash(&FlowKey::new(WireId(1), Direction::Egress, &tuple).words().0);
            filled[0].insert(hash >> 48);
            filled[1].insert(hash & 0xffff);
        }
        for filled in filled {
            assert!((40_900..42_000).contains(&filled.len()), "secret {secret}: {} places", filled.len());
        }
    }
}

#[test]
fn a_flow_takes_at_most_128_bytes() {
    for capacity in [1 << 16, 1_000_000, 4_000_000] {
        let table = FlowTable::new(FlowRegion::heap(capacity), FlowConfig::default());
        assert!(table.bytes_per_flow() <= 128.0, "{capacity} flows: {} bytes each", table.bytes_per_flow());
    }
}

#[test]
fn a_full_table_has_room_for_every_entry_in_its_index() {
    for capacity in [1, 2, 15, 16, 100, 1000, 5000] {
        let mut wire = Wire::new(capacity);
        for number in 0..capacity as u32 {
            let source = Address::v4((0x0a00_0000 + number).to_be_bytes());
            let ends = ((source, 1), (ip("10.0.0.2"), 53));
            let frame = |from: (Address, u16), to: (Address, u16)| Packet {
                source: from.0,
                destination: to.0,
                transport: Transport::Udp { source_port: from.1, destination_port: to.1 },
                ..udp(("10.0.0.1", 1), ("10.0.0.2", 1))
            };
            assert_eq!(wire.out(frame(ends.0, ends.1)), Ok(Passed::New));
            assert_eq!(wire.back(frame(ends.1, ends.0)), Ok(Passed::Known), "so that none is evicted");
        }
        assert_eq!(wire.table.len(), capacity);
        wire.table.check();
    }
}

#[test]
fn ends_that_flows_are_judged_as_are_kept_once_and_bounded() {
    let mut wire = Wire::new(512);
    let mut refused = 0;
    for number in 0..200u16 {
        let packet = udp(("10.0.0.1", number + 1), ("10.0.0.2", 53));
        wire.out(packet).unwrap();
        let (flow, _) = wire.find(Direction::Egress, &packet).unwrap();
        // Many flows of one end take one place; each end of its own takes another, until there are no more.
        let end = if number < 100 { ip("10.9.9.9") } else { Address::v4([10, 8, 0, number as u8]) };
        match wire.table.judge_as(flow, end, 8080) {
            Ok(()) => {
                let judged = wire.table.judged(flow).tuple;
                assert_eq!((judged.destination, judged.destination_port), (end, 8080));
                wire.table.judge_as(flow, end, 8080).unwrap();
            }
            Err(reason) => {
                assert_eq!(reason, DropReason::FlowTableFull);
                assert!(number >= 100 && wire.find(Direction::Egress, &packet).is_none(), "its flow is gone");
                refused += 1;
            }
        }
    }
    assert_eq!(wire.table.len(), 200 - refused);
    assert!((100 - 31..100).contains(&refused), "{refused} of 100 ends found no room among 32");
    wire.table.check();
    // What flows leave behind is free again.
    wire.wait(40);
    wire.table.expire(512, wire.now);
    let packet = udp(("10.0.0.1", 1), ("10.0.0.2", 53));
    for number in 0..=255 {
        wire.out(packet).unwrap();
        let (flow, _) = wire.find(Direction::Egress, &packet).unwrap();
        wire.table.judge_as(flow, Address::v4([10, 7, 0, number]), 1).unwrap();
        wire.table.cut(flow, wire.now);
    }
    assert!(wire.table.is_empty());
}
