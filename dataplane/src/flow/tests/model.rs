//! The table against a plain map that does the same without bounds, and against its own invariants under any traffic.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What happens to the table.
#[derive(Clone, Debug)]
enum Event {
    Datagram { outward: bool, wire: u32, near: u16, far: u16 },
    Wait(u64),
    Expire(usize),
    Cut { wire: u32, near: u16, far: u16 },
    Flush(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let ports = || (0..3u32, 1..6u16, 1..4u16);
    prop_oneof![
        12 => (any::<bool>(), ports()).prop_map(|(outward, (wire, near, far))| Event::Datagram { outward, wire, near, far }),
        3 => (0..70u64).prop_map(Event::Wait),
        2 => (0..20usize).prop_map(Event::Expire),
        1 => ports().prop_map(|(wire, near, far)| Event::Cut { wire, near, far }),
        1 => (0..3u32).prop_map(Event::Flush),
    ]
}

/// A flow as the map keeps it: who opened it, how far the talk has come, when it is gone.
#[derive(Clone, Copy, Debug)]
struct Plain {
    outward: bool,
    stage: FlowState,
    ends: u64,
}

proptest! {
    #[test]
    fn the_table_does_what_a_map_does(events in prop::collection::vec(event(), 1..200)) {
        let mut wire = Wire::new(256);
        let mut map: HashMap<(u32, u16, u16), Plain> = HashMap::new();
        let mut now = 0;
        for event in events {
            match event {
                Event::Datagram { outward, wire: number, near, far } => {
                    wire.wire = WireId(number);
                    let (there, back) = (("10.0.0.1", near), ("10.0.0.2", far));
                    let passed = if outward { wire.out(udp(there, back)) } else { wire.back(udp(back, there)) };
                    let plain = map.get_mut(&(number, near, far)).filter(|plain| plain.ends > now);
                    prop_assert_eq!(passed, Ok(if plain.is_some() { Passed::Known } else { Passed::New }));
                    let next = match plain {
                        None => Plain { outward, stage: FlowState::Unreplied, ends: now + 30 },
                        Some(plain) => {
                            let stage = match (plain.stage, plain.outward == outward) {
                                (FlowState::Unreplied, false) => FlowState::Replied,
                                (FlowState::Replied, true) => FlowState::Stream,
                                (stage, _) => stage,
                            };
                            let seconds = if stage == FlowState::Stream { 120 } else { 30 };
                            Plain { stage, ends: now + seconds, ..*plain }
                        }
                    };
                    map.insert((number, near, far), next);
                }
                Event::Wait(seconds) => {
                    wire.wait(seconds);
                    now += seconds;
                }
                Event::Expire(budget) => {
                    wire.table.expire(budget, wire.now);
                }
                Event::Cut { wire: number, near, far } => {
                    wire.wire = WireId(number);
                    if let Some((flow, _)) = wire.find(Direction::Egress, &udp(("10.0.0.1", near), ("10.0.0.2", far))) {
                        wire.table.cut(flow, wire.now);
                    }
                    map.remove(&(number, near, far));
                }
                Event::Flush(number) => {
                    wire.table.flush(&mut Flush::wire(WireId(number)), usize::MAX);
                    map.retain(|(wire, ..), _| *wire != number);
                }
            }
            wire.table.check();
            map.retain(|_, plain| plain.ends > now);
            let listed: HashMap<_, _> = wire.table.list(0, wire.now).map(|(_, info)| {
                let egress = info.direction == Direction::Egress;
                let tuple = if egress { info.tuple } else { info.tuple.reverse() };
                ((info.wire.0, tuple.source_port, tuple.destination_port), (egress, info.state, u64::from(info.expires_in)))
            }).collect();
            let expected: HashMap<_, _> =
                map.iter().map(|(key, plain)| (*key, (plain.outward, plain.stage, plain.ends - now))).collect();
            prop_assert_eq!(listed, expected);
        }
    }

    #[test]
    fn any_segments_keep_the_table_sound(
        segments in prop::collection::vec(
            (any::<bool>(), 0..4u16, 0..64u8, 0..40u32, 0..40u32, 0..3u32, 0..15u8, 0..4u64), 1..300),
    ) {
        // Few numbers, so that segments fit each other now and then; few entries, so that flows are evicted.
        let mut wire = Wire::with(6, FlowConfig { hash_key: KEY, wire_quota: 4, ..FlowConfig::default() });
        let mut established = Vec::new();
        for (outward, port, flags, sequence, acknowledgement, number, scale, wait) in segments {
            wire.wire = WireId(number);
            wire.wait(wait);
            let ends = ((ip("10.0.0.1"), port + 1), (ip("10.0.0.2"), 80));
            let (from, to, direction) =
                if outward { (ends.0, ends.1, Direction::Egress) } else { (ends.1, ends.0, Direction::Ingress) };
            let frame = with(segment(from, to, "", (sequence, acknowledgement), u32::from(flags >> 5) * 7), |tcp| {
                (tcp.flags, tcp.window_scale) = (TcpFlags(flags & 0x17), (scale < 14).then_some(scale));
            });
            // Established flows leave by their own packets only.
            established.clear();
            established.extend(wire.table.list(0, wire.now).filter(|(_, info)| info.state == FlowState::Established));
            let touched = wire.find(direction, &frame).map(|(flow, _)| flow.0);
            let _ = wire.pass(direction, &frame);
            wire.table.check();
            for (number, info) in &established {
                let still = wire.table.list(*number, wire.now).next();
                prop_assert!(
                    touched == Some(*number) || still.map(|(_, still)| still.tuple) == Some(info.tuple),
                    "{:?} is gone", info
                );
            }
        }
    }

    #[test]
    fn the_index_does_what_a_map_does(steps in prop::collection::vec((any::<bool>(), 0..64u32), 1..400)) {
        // Few buckets and tags, so that buckets run over and several entries have the same tag.
        let hash = |entry: u32| {
            let entry = u64::from(entry);
            (entry % 2) << 63 | (entry / 2 % 3) << 30 | (entry % 5)
        };
        let mut index = Index::new(64);
        let mut map = std::collections::HashSet::new();
        for (add, entry) in steps {
            if add && map.insert(entry) {
                prop_assert!(index.insert(hash(entry), entry));
            } else if !add {
                map.remove(&entry);
                index.remove(hash(entry), entry);
            }
            for entry in 0..64 {
                let found = index.find(hash(entry), |candidate| candidate == entry);
                prop_assert_eq!(found.is_some(), map.contains(&entry));
            }
        }
    }
}
