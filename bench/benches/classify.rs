//! Judging a new flow, and compiling the rules.

use dataplane::classify::{Classifier, WireSlot};
use dataplane::packet::Direction;
use dataplane::rules::{Policy, Query};
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use penstock_bench::rulesets::{network_policies, queries};

const RULES: [u32; 3] = [10, 1_000, 10_000];
const QUERIES: usize = 4_096;
const SEED: u64 = 1;

/// What each benchmark asks the heap for stands beside its times.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    for rules in RULES {
        let size = Classifier::compile(&network_policies(rules, SEED)).expect("generated rules compile").size();
        println!("{rules} rules: {size:?}");
    }
    divan::main();
}

fn compiled(rules: u32, family: usize) -> (Classifier, Vec<(WireSlot, Direction, Query)>) {
    let set = network_policies(rules, SEED);
    let classifier = Classifier::compile(&set).expect("generated rules compile");
    let queries = queries(&set, QUERIES, Some(family), SEED)
        .into_iter()
        .map(|(wire, direction, query)| (classifier.slot(wire).expect("a wire of the set"), direction, query))
        .collect();
    (classifier, queries)
}

fn judge(bencher: Bencher<'_, '_>, rules: u32, family: usize) {
    let (classifier, queries) = compiled(rules, family);
    bencher.counter(ItemsCount::new(queries.len())).bench_local(|| {
        for &(slot, direction, query) in &queries {
            black_box(classifier.judge(slot, direction, black_box(query)));
        }
    });
}

#[divan::bench(args = RULES)]
fn judge_v4(bencher: Bencher<'_, '_>, rules: u32) {
    judge(bencher, rules, 0);
}

#[divan::bench(args = RULES)]
fn judge_v6(bencher: Bencher<'_, '_>, rules: u32) {
    judge(bencher, rules, 1);
}

/// The same questions, the rules read one after the other.
#[divan::bench(args = RULES)]
fn read_rules_v4(bencher: Bencher<'_, '_>, rules: u32) {
    let set = network_policies(rules, SEED);
    let queries: Vec<(&Policy, Direction, Query)> = queries(&set, QUERIES, Some(0), SEED)
        .into_iter()
        .filter_map(|(wire, direction, query)| {
            let rules = set.wires.iter().find(|rules| rules.wire == wire)?;
            Some((rules.policy(direction), direction, query))
        })
        .collect();
    bencher.counter(ItemsCount::new(queries.len())).bench_local(|| {
        for &(policy, direction, query) in &queries {
            black_box(policy.judge(direction, black_box(query)));
        }
    });
}

#[divan::bench(args = RULES, sample_count = 20)]
fn compile(bencher: Bencher<'_, '_>, rules: u32) {
    let set = network_policies(rules, SEED);
    bencher.bench_local(|| Classifier::compile(black_box(&set)));
}
