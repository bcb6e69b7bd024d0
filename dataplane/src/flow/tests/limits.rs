//! What bounds the table: floods, quotas, expiry, flushing, adoption.

use super::*;

fn syn_from(number: u32) -> Packet {
    let source = Address::v4([10, 1, (number >> 16) as u8, (number >> 8) as u8]);
    segment((source, 1024 + (number & 0xff) as u16), (ip("10.0.0.2"), 80), "S", (100, 0), 0)
}

fn config(wire_quota: u32) -> FlowConfig {
    FlowConfig { hash_key: KEY, wire_quota, ..FlowConfig::default() }
}

#[test]
fn a_syn_flood_neither_grows_the_table_nor_evicts_the_established() {
    let mut wire = Wire::new(64);
    wire.connect();
    let stream = (udp(("10.0.0.1", 1), ("10.0.0.2", 53)), udp(("10.0.0.2", 53), ("10.0.0.1", 1)));
    wire.out(stream.0).unwrap();
    wire.back(stream.1).unwrap();
    for number in 0..10_000 {
        assert_eq!(wire.back(syn_from(number)), Ok(Passed::New));
        // The server answers some; a flooder does not see the answer.
        if number % 3 == 0 {
            let Transport::Tcp(syn) = syn_from(number).transport else { panic!() };
            let answer = segment((ip("10.0.0.2"), 80), (syn_from(number).source, syn.source_port), "SA", (9, 101), 0);
            wire.out(answer).unwrap();
        }
    }
    assert_eq!((wire.table.len(), wire.table.capacity()), (64, 64));
    wire.table.check();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    assert_eq!(wire.state(&stream.0), Some(FlowState::Replied));
    // The newest half-open ones are there, the oldest gave way.
    assert!(wire.find(Direction::Ingress, &syn_from(9_999)).is_some());
    assert!(wire.find(Direction::Ingress, &syn_from(0)).is_none());
}

#[test]
fn a_full_table_refuses_new_flows_only() {
    let mut wire = Wire::new(8);
    let establish = |wire: &mut Wire, port: u16| {
        let ends = ((ip("10.0.0.1"), port), (ip("10.0.0.2"), 80));
        wire.out(segment(ends.0, ends.1, "S", (100, 0), 0))?;
        wire.back(segment(ends.1, ends.0, "SA", (500, 101), 0))?;
        wire.out(segment(ends.0, ends.1, "A", (101, 501), 0))
    };
    for port in 1..=8 {
        establish(&mut wire, port).unwrap();
    }
    assert_eq!(wire.out(client("S", 100, 0, 0)), Err(DropReason::FlowTableFull));
    for port in 1..=8 {
        let data = segment((ip("10.0.0.1"), port), (ip("10.0.0.2"), 80), "PA", (101, 501), 5);
        assert_eq!(wire.out(data), Ok(Passed::Known));
    }
    // Flows that are over make room at once.
    wire.back(segment((ip("10.0.0.2"), 80), (ip("10.0.0.1"), 3), "R", (501, 0), 0)).unwrap();
    assert_eq!(wire.out(client("S", 100, 0, 0)), Ok(Passed::New));
    wire.table.check();
}

#[test]
fn a_full_table_finds_what_has_run_out() {
    let mut wire = Wire::new(4);
    for port in 1..=4 {
        wire.out(udp(("10.0.0.1", port), ("10.0.0.2", 53))).unwrap();
        wire.back(udp(("10.0.0.2", 53), ("10.0.0.1", port))).unwrap();
    }
    assert_eq!(wire.out(client("S", 100, 0, 0)), Err(DropReason::FlowTableFull));
    wire.wait(30);
    assert_eq!(wire.out(client("S", 100, 0, 0)), Ok(Passed::New));
    assert_eq!(wire.table.len(), 1);
}

#[test]
fn a_wire_makes_room_at_its_own_cost() {
    let mut wire = Wire::with(64, config(8));
    wire.wire = WireId(1);
    for number in 0..100 {
        wire.back(syn_from(number)).unwrap();
    }
    assert_eq!((wire.table.wire_flows(WireId(1)), wire.table.len()), (8, 8));
    assert!(
        wire.find(Direction::Ingress, &syn_from(91)).is_none()
            && wire.find(Direction::Ingress, &syn_from(92)).is_some()
    );
    wire.wire = WireId(2);
    for number in 0..4 {
        wire.back(syn_from(number)).unwrap();
    }
    wire.wire = WireId(1);
    for number in 200..300 {
        wire.back(syn_from(number)).unwrap();
    }
    assert_eq!((wire.table.wire_flows(WireId(1)), wire.table.wire_flows(WireId(2))), (8, 4));
    wire.table.check();
}

#[test]
fn a_quota_of_established_flows_refuses() {
    let mut wire = Wire::with(64, config(1));
    wire.connect();
    assert_eq!(wire.back(syn_from(0)), Err(DropReason::FlowQuota));
    wire.wire = WireId(8);
    assert_eq!(wire.back(syn_from(0)), Ok(Passed::New), "another wire has a quota of its own");
}

#[test]
fn a_full_table_takes_from_the_own_wire_first_and_then_from_the_oldest() {
    let mut wire = Wire::new(8);
    wire.wire = WireId(1);
    (0..6).for_each(|number| assert_eq!(wire.back(syn_from(number)), Ok(Passed::New)));
    wire.wire = WireId(2);
    (10..12).for_each(|number| assert_eq!(wire.back(syn_from(number)), Ok(Passed::New)));
    wire.back(syn_from(12)).unwrap();
    assert_eq!((wire.table.wire_flows(WireId(1)), wire.table.wire_flows(WireId(2))), (6, 2));
    assert!(wire.find(Direction::Ingress, &syn_from(10)).is_none());
    wire.wire = WireId(3);
    wire.back(syn_from(20)).unwrap();
    assert_eq!((wire.table.wire_flows(WireId(1)), wire.table.wire_flows(WireId(2))), (5, 2));
    wire.table.check();
}

#[test]
fn wires_come_and_go_within_their_number() {
    let mut wire = Wire::with(64, FlowConfig { max_wires: 4, ..config(0) });
    for round in 0..50u32 {
        for number in 0..4 {
            wire.wire = WireId(round * 4 + number);
            wire.out(client("S", 100, 0, 0)).unwrap();
        }
        wire.wire = WireId(u32::MAX);
        assert_eq!(wire.out(client("S", 100, 0, 0)), Err(DropReason::FlowTableFull), "a fifth wire");
        wire.table.check();
        for number in 0..4 {
            let mut flush = Flush::wire(WireId(round * 4 + number));
            assert_eq!(wire.table.flush(&mut flush, 64), 1);
            assert!(flush.is_done());
        }
        assert!(wire.table.is_empty());
    }
}

#[test]
fn probes_stay_short_whatever_the_tuples() {
    let mut wire = Wire::new(1 << 14);
    for number in 0..1 << 14 {
        wire.back(syn_from(number)).unwrap();
    }
    assert!(wire.table.longest_probe() < 8, "{}", wire.table.longest_probe());
    wire.table.check();
}

#[test]
fn even_equal_hashes_are_bounded() {
    let mut index = Index::new(1024);
    let fitting = (0..1024).take_while(|entry| index.insert(77, *entry)).count();
    assert_eq!(fitting, Index::PROBE_LIMIT * 15);
    let mut looked = 0;
    assert_eq!(
        index.find(77, |_| {
            looked += 1;
            false
        }),
        None
    );
    assert_eq!(looked, Index::PROBE_LIMIT * 15);
    index.remove(77, 0);
    assert!(index.insert(77, 5000));
    assert_eq!(index.find(77, |entry| entry == 5000), Some(5000));
}

#[test]
fn expiry_is_bounded_and_sleeps_while_nothing_can_run_out() {
    let mut wire = Wire::new(256);
    assert_eq!(wire.table.next_deadline(), None);
    for number in 0..100 {
        wire.back(syn_from(number)).unwrap();
    }
    wire.connect();
    assert_eq!(wire.table.next_deadline(), Some(Time(60_000_000_000)), "a handshake's, until a sweep has looked");
    wire.wait(60);
    assert_eq!(wire.table.expire(1000, wire.now), 0);
    assert_eq!(wire.table.next_deadline(), Some(Time(120_000_000_000)));
    wire.wait(59);
    assert_eq!(wire.table.expire(1000, wire.now), 0);
    wire.wait(1);
    let removed: Vec<_> = (0..12).map(|_| wire.table.expire(10, wire.now)).collect();
    assert_eq!(removed, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0, 0]);
    assert_eq!(wire.table.len(), 1);
    assert_eq!(wire.table.next_deadline(), Some(Time(432_000_000_000_000)), "asleep for five days");
    wire.table.check();
}

#[test]
fn a_flow_that_ends_early_is_swept_early() {
    let mut wire = Wire::connected();
    wire.back(server("R", 501, 0, 0)).unwrap();
    assert_eq!(wire.table.next_deadline(), Some(Time(10_000_000_000)));
    wire.wait(10);
    assert_eq!(wire.table.expire(100, wire.now), 1);
    assert_eq!(wire.table.next_deadline(), None);
}

#[test]
fn an_address_that_changes_hands_loses_its_flows() {
    let mut wire = Wire::new(64);
    wire.connect();
    wire.out(udp(("10.0.0.1", 5), ("10.0.0.9", 53))).unwrap();
    wire.out(udp(("10.0.0.3", 5), ("10.0.0.9", 53))).unwrap();
    wire.wire = WireId(8);
    wire.out(udp(("10.0.0.1", 5), ("10.0.0.9", 53))).unwrap();
    let mut flush = Flush::address_on(WireId(7), ip("10.0.0.1"));
    let mut removed = 0;
    while !flush.is_done() {
        removed += wire.table.flush(&mut flush, 1);
    }
    assert_eq!((removed, wire.table.len()), (2, 2));
    let mut flush = Flush::address(ip("10.0.0.9"));
    assert_eq!(wire.table.flush(&mut flush, 64), 2);
    assert!(wire.table.is_empty());
    wire.table.check();
}

#[test]
fn a_region_is_adopted() {
    let mut wire = Wire::with(64, config(0));
    wire.connect();
    wire.out(client("PA", 101, 501, 10)).unwrap();
    let (flow, _) = wire.find(Direction::Egress, &client("A", 0, 0, 0)).unwrap();
    wire.table.set_epoch(flow, Epoch(9));
    wire.out(udp(("10.0.0.1", 5), ("10.0.0.9", 53))).unwrap();
    wire.wait(10);
    (0..10).for_each(|number| assert_eq!(wire.back(syn_from(number)), Ok(Passed::New)));
    wire.wait(20); // UDP has run out, and was not swept.
    let before: Vec<_> = wire.table.list(0, wire.now).map(|(_, info)| info).collect();
    assert_eq!(before.len(), 11);

    // Another key, as after a restart. Meanwhile some bytes went bad.
    let mut region = wire.table.into_region();
    let entries = region.entries_mut();
    entries[40] = entries[0]; // Stands twice.
    bytemuck::bytes_of_mut(&mut entries[41]).fill(0xff);
    bytemuck::bytes_of_mut(&mut entries[42])[..60].fill(3);
    let details = region.details_mut();
    details[40] = details[0];
    bytemuck::bytes_of_mut(&mut details[43]).fill(0xff);
    wire.table = FlowTable::adopt(region, FlowConfig { hash_key: [3; 16], ..config(0) }, wire.now);
    wire.table.check();
    let after: Vec<_> = wire.table.list(0, wire.now).map(|(_, info)| info).collect();
    let sorted = |mut infos: Vec<FlowInfo>| {
        infos.sort_by_key(|info| (info.tuple.source, info.tuple.source_port));
        infos
    };
    assert_eq!(sorted(after), sorted(before));
    let (flow, _) = wire.find(Direction::Egress, &client("A", 0, 0, 0)).unwrap();
    assert_eq!(wire.table.judged(flow).epoch, Epoch(9));
    assert_eq!(wire.back(server("A", 501, 111, 0)), Ok(Passed::Known));
    // Eviction goes on with the oldest.
    for number in 100..154 {
        wire.back(syn_from(number)).unwrap();
    }
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    assert!(wire.find(Direction::Ingress, &syn_from(100)).is_some());
    assert_eq!(wire.table.len(), 64);
}

#[test]
fn a_new_table_forgets_what_was_in_the_region() {
    let wire = Wire::connected();
    let table = FlowTable::new(wire.table.into_region(), config(0));
    assert!(table.is_empty() && table.list(0, Time::ZERO).next().is_none());
    table.check();
}
