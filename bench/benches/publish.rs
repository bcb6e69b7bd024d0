//! What a new policy costs the control thread, and what asking for one costs a worker: at once, and flow by flow.

use dataplane::address::Address;
use dataplane::classify::Classifier;
use dataplane::flow::{Crossing, FlowConfig, FlowRef, FlowRegion, FlowTable};
use dataplane::packet::{Direction, Payload};
use dataplane::parse::{Medium, parse_bytes};
use dataplane::publish::Publisher;
use dataplane::rules::{Epoch, WireId};
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use penstock_bench::rulesets::{network_policies, queries};

const SEED: u64 = 1;

/// What each benchmark asks the heap for stands beside its times.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A rule set that says the same as the one before: compiled, compared, swapped, and the old one freed.
#[divan::bench(args = [10, 1_000, 10_000], sample_count = 20)]
fn publish(bencher: Bencher<'_, '_>, rules: u32) {
    let publisher = Publisher::new();
    let set = network_policies(rules, SEED);
    bencher.with_inputs(|| set.clone()).bench_local_values(|set| publisher.publish(set));
}

/// Once a burst, with nothing new.
#[divan::bench(sample_size = 1_000)]
fn load_unchanged(bencher: Bencher<'_, '_>) {
    let mut reader = Publisher::new().reader();
    bencher.bench_local(|| {
        black_box(reader.load());
    });
}

/// Before a worker sleeps, and when it wakes.
#[divan::bench(sample_size = 1_000)]
fn park_and_load(bencher: Bencher<'_, '_>) {
    let publisher = Publisher::new();
    let mut reader = publisher.reader();
    bencher.bench_local(|| {
        reader.park();
        black_box(reader.load());
    });
}

/// Flows that a new policy makes stale: what they were judged as is read, judged again, and noted.
#[divan::bench(args = [10, 10_000])]
fn judge_again(bencher: Bencher<'_, '_>, rules: u32) {
    let set = network_policies(rules, SEED);
    let classifier = Classifier::compile(&set).expect("generated rules compile");
    let (mut table, flows) = flows(1_000);
    let questions: Vec<_> = queries(&set, flows.len(), Some(0), SEED)
        .into_iter()
        .map(|(wire, direction, query)| (classifier.slot(wire).expect("a wire of the set"), direction, query))
        .collect();
    let mut epoch = Epoch(1);
    bencher.counter(ItemsCount::new(flows.len())).bench_local(|| {
        epoch = epoch.next();
        for (&flow, &(slot, direction, query)) in flows.iter().zip(&questions) {
            black_box(table.judged(flow));
            black_box(classifier.judge(slot, direction, query));
            table.set_epoch(flow, epoch);
        }
    });
}

/// A table with as many flows.
fn flows(count: u32) -> (FlowTable, Vec<FlowRef>) {
    let crossing = Crossing { wire: WireId(1), direction: Direction::Egress, length: 100, now: Time(1) };
    let mut table = FlowTable::new(FlowRegion::heap(2 * count as usize), FlowConfig::default());
    let bytes = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").udp(40_000, 53).build();
    let parsed = parse_bytes(&bytes, None, bytes.len(), Medium::Ethernet).expect("a well-formed frame");
    let Payload::Ip(mut packet) = parsed.payload else { unreachable!("the frame is IP") };
    let flows = (0..count).map(|flow| {
        packet.destination = Address::v4((0x0b00_0000 + flow).to_be_bytes());
        table.insert(&crossing, &packet, &packet.tuple(), Epoch(1)).expect("room")
    });
    let flows = flows.collect();
    (table, flows)
}
