//! What a new policy costs the control thread, and what asking for one costs a worker.

use dataplane::publish::Publisher;
use divan::{Bencher, black_box};
use penstock_bench::rulesets::network_policies;

const SEED: u64 = 1;

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
