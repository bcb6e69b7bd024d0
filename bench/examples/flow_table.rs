//! The flow table by itself: nanoseconds for each look-up in bursts of 32 and for each insert, and bytes for each flow.
//!
//! `cargo run --release -p penstock-bench --example flow_table [FLOWS…]`; medians of nine rounds of thread CPU time. Keys are
//! made beforehand and asked for in another order than they were inserted in, as rte_hash's test does.

use dataplane::address::Address;
use dataplane::flow::{Crossing, FlowConfig, FlowKey, FlowRegion, FlowTable};
use dataplane::packet::{Direction, Packet, Payload};
use dataplane::parse::{Medium, parse_bytes};
use dataplane::rules::{Epoch, WireId};
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use penstock_bench::random::Random;
use rustix::time::{ClockId, clock_gettime};

const CROSSING: Crossing = Crossing { wire: WireId(1), direction: Direction::Egress, length: 60, now: Time(1) };

/// Look-ups that are measured at once.
const LOOKUPS: usize = 1 << 20;

fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1_000, 65_536, 1_000_000, 4_000_000];
    }
    println!(
        "{:>9} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "flows", "burst ns", "single ns", "insert ns", "replace ns", "bytes"
    );
    for flows in sizes {
        measure(flows);
    }
}

fn measure(flows: usize) {
    let packets = packets(flows);
    let mut table = FlowTable::new(FlowRegion::heap(flows), FlowConfig { hash_key: [7; 16], ..FlowConfig::default() });
    let insert = time(|| {
        for burst in packets.chunks(32) {
            insert_burst(&mut table, burst);
        }
    }) / packets.len() as f64;
    assert_eq!(table.len(), flows);
    let mut keys: Vec<FlowKey> = packets.iter().map(|packet| FlowTable::key(&CROSSING, &packet.tuple())).collect();
    shuffle(&mut keys, 2);
    let mut found = vec![None; keys.len()];
    let repeat = LOOKUPS.div_ceil(keys.len());
    let burst = median(|| {
        (0..repeat).for_each(|_| {
            for (keys, found) in keys.chunks(32).zip(found.chunks_mut(32)) {
                table.find_burst(keys, CROSSING.now, found);
            }
        });
    }) / (repeat * keys.len()) as f64;
    assert!(found.iter().all(Option::is_some));
    let mut hits = 0;
    let single = median(|| {
        for key in keys.iter().cycle().take(LOOKUPS) {
            hits += usize::from(table.find_hashed(key, table.hash(key), &CROSSING).is_some());
        }
    }) / LOOKUPS as f64;
    assert_eq!(hits, 9 * LOOKUPS);
    // The table is full and every flow unanswered: each insert evicts the oldest.
    let others: Vec<Packet> =
        packets.iter().map(|packet| Packet { source: Address::v4([10, 9, 9, 9]), ..*packet }).collect();
    let replace = time(|| {
        for burst in others.chunks(32) {
            insert_burst(&mut table, burst);
        }
    }) / others.len() as f64;
    println!("{flows:>9} {burst:>12.1} {single:>12.1} {insert:>12.1} {replace:>12.1} {:>10.1}", table.bytes_per_flow());
}

fn insert_burst(table: &mut FlowTable, burst: &[Packet]) {
    let mut keys = [None; 32];
    for (packet, place) in burst.iter().zip(&mut keys) {
        let key = FlowTable::key(&CROSSING, &packet.tuple());
        let hash = table.hash(&key);
        table.prefetch_index(hash);
        *place = Some((key, hash));
    }
    for (packet, place) in burst.iter().zip(&keys) {
        if let Some((key, hash)) = place {
            table.insert_hashed(key, *hash, &CROSSING, packet, Epoch(1)).expect("room");
        }
    }
}

/// UDP packets of as many flows, in no order.
fn packets(flows: usize) -> Vec<Packet> {
    let bytes = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").udp(40_000, 53).build();
    let parsed = parse_bytes(&bytes, None, bytes.len(), Medium::Ethernet).expect("a well-formed frame");
    let Payload::Ip(template) = parsed.payload else { unreachable!("the frame is IP") };
    let destination = |flow: usize| Address::v4((0x0b00_0000 + flow as u32).to_be_bytes());
    let mut packets: Vec<_> = (0..flows).map(|flow| Packet { destination: destination(flow), ..template }).collect();
    shuffle(&mut packets, 1);
    packets
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = Random::new(seed);
    for index in (1..items.len()).rev() {
        items.swap(index, random.below(index as u32 + 1) as usize);
    }
}

/// Nanoseconds of this thread's CPU.
fn time(mut work: impl FnMut()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let start = now();
    work();
    now() - start
}

fn median(mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..9).map(|_| time(&mut work)).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[4]
}
