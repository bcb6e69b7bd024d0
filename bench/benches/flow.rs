//! Finding a flow, and adding one.

use dataplane::address::Address;
use dataplane::flow::{Crossing, FlowConfig, FlowRegion, FlowTable};
use dataplane::packet::{Direction, Packet, Payload, Tuple};
use dataplane::parse::{Medium, parse_bytes};
use dataplane::rules::{Epoch, WireId};
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use penstock_bench::random::Random;

const CROSSING: Crossing = Crossing { wire: WireId(1), direction: Direction::Egress, length: 100, now: Time(1) };

/// What each benchmark asks the heap for stands beside its times.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// UDP packets of as many flows, in no order.
fn packets(flows: u32) -> Vec<(Packet, Tuple)> {
    let bytes = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").udp(40_000, 53).build();
    let parsed = parse_bytes(&bytes, None, bytes.len(), Medium::Ethernet).expect("a well-formed frame");
    let Payload::Ip(template) = parsed.payload else { unreachable!("the frame is IP") };
    let mut packets: Vec<_> = (0..flows)
        .map(|flow| {
            let mut packet = template;
            packet.destination = Address::v4((0x0b00_0000 + flow).to_be_bytes());
            (packet, packet.tuple())
        })
        .collect();
    let mut random = Random::new(1);
    for index in (1..packets.len()).rev() {
        packets.swap(index, random.below(index as u32 + 1) as usize);
    }
    packets
}

fn table(capacity: usize, packets: &[(Packet, Tuple)]) -> FlowTable {
    let mut table = FlowTable::new(FlowRegion::heap(capacity), FlowConfig::default());
    for (packet, tuple) in packets {
        table.insert(&CROSSING, packet, tuple, Epoch(1)).expect("room");
    }
    table
}

/// Flows that are there, each frame of another flow than the one before.
#[divan::bench(args = [1_000, 100_000])]
fn find(bencher: Bencher<'_, '_>, flows: u32) {
    let packets = packets(flows);
    let table = table(2 * flows as usize, &packets);
    let some = &packets[..1_000];
    let mut from = 0;
    bencher.counter(ItemsCount::new(some.len())).bench_local(|| {
        let burst = &packets[from..from + some.len()];
        from = (from + some.len()) % packets.len();
        for (_, tuple) in burst {
            black_box(table.find(&CROSSING, black_box(tuple)));
        }
    });
}

/// New flows into a table that is half full.
#[divan::bench(args = [1_000, 100_000], sample_count = 20, sample_size = 1)]
fn insert(bencher: Bencher<'_, '_>, flows: u32) {
    let all = packets(flows + 1_000);
    let (new, old) = all.split_at(1_000);
    bencher
        .counter(ItemsCount::new(new.len()))
        .with_inputs(|| table(2 * flows as usize + 1_000, old))
        .bench_local_refs(|table| {
            for (packet, tuple) in new {
                let _ = black_box(table.insert(&CROSSING, packet, tuple, Epoch(1)));
            }
        });
}

/// A frame whose flow is not there: the look-up that finds nothing, then adding the flow, as on the way of a first frame.
#[divan::bench(args = [1_000, 100_000], sample_count = 20, sample_size = 1)]
fn miss_and_insert(bencher: Bencher<'_, '_>, flows: u32) {
    let all = packets(flows + 1_000);
    let (new, old) = all.split_at(1_000);
    bencher
        .counter(ItemsCount::new(new.len()))
        .with_inputs(|| table(2 * flows as usize + 1_000, old))
        .bench_local_refs(|table| {
            for (packet, tuple) in new {
                let key = FlowTable::key(&CROSSING, tuple);
                let hash = table.hash(&key);
                if table.find_hashed(&key, hash, &CROSSING).is_none() {
                    let _ = black_box(table.insert_hashed(&key, hash, &CROSSING, packet, Epoch(1)));
                }
            }
        });
}
