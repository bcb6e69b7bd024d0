//! A frame's whole journey, receive to send, over ports in memory, on one core: `cargo bench -p penstock-bench --bench
//! journey [-- WORD…]`. A case is run when its name holds one of the words.
//!
//! The same ports moved by a bare loop are measured in turn with each case, so that what Penstock adds is the difference.
//! The best and the median of the rounds are printed, in nanoseconds a frame, with the calls of the allocator.

mod allocation;
mod bench;
mod port;
mod traffic;

use std::time::Instant;

use bench::Bench;
use traffic::{Shape, Traffic};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Each round is as many bursts as this many frames take.
const FRAMES: usize = 256 * 1024;
const ROUNDS: usize = 11;

/// What is measured.
struct Case {
    shape: Shape,
    rules: u32,
    flows: usize,
    burst: usize,
    /// Every frame opens a flow.
    new: bool,
    tracking: bool,
}

impl Case {
    fn name(&self) -> String {
        let Case { shape, rules, flows, burst, new, tracking } = self;
        let kind = match (tracking, new) {
            (false, _) => "untracked",
            (true, true) => "new",
            (true, false) => "established",
        };
        format!("{kind} {shape} rules={rules} flows={flows} burst={burst}")
    }
}

fn cases() -> Vec<Case> {
    let usual = |shape| Case { shape, rules: 10_000, flows: 65_536, burst: 64, new: false, tracking: true };
    let udp = || usual(Shape::UdpV4);
    let mut cases: Vec<Case> = Shape::ALL.into_iter().map(usual).collect();
    cases.extend([1_024, 1_048_576].map(|flows| Case { flows, ..udp() }));
    cases.extend([1, 8, 32].map(|burst| Case { burst, ..udp() }));
    for rules in [10, 10_000, 100_000] {
        cases.extend([Shape::UdpV4, Shape::UdpV6].map(|shape| Case { rules, new: true, ..usual(shape) }));
        cases.push(Case { rules, tracking: false, ..udp() });
    }
    cases
}

/// Nanoseconds a frame, and calls of the allocator in a round.
fn round(bench: &mut Bench, bare: bool) -> (f64, u64) {
    let calls = allocation::calls();
    let began = Instant::now();
    if bare {
        bench.move_bare(FRAMES)
    } else {
        bench.poll(FRAMES)
    }
    (began.elapsed().as_nanos() as f64 / FRAMES as f64, allocation::calls() - calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn measure(case: &Case) {
    let traffic = Traffic::new(case.shape, case.rules, case.flows);
    let mut bench = Bench::new(&traffic, case.burst, case.new, case.tracking);
    bench.open_flows();
    let (mut whole, mut bare, mut calls) = (Vec::new(), Vec::new(), 0);
    round(&mut bench, false);
    for _ in 0..ROUNDS {
        let (time, asked) = round(&mut bench, false);
        whole.push(time);
        calls += asked;
        bare.push(round(&mut bench, true).0);
    }
    bench.check();
    let added = median(whole.iter().zip(&bare).map(|(whole, bare)| whole - bare).collect());
    let (best_whole, best_bare) = (best(&whole), best(&bare));
    println!(
        "{:<52} {best_whole:>7.1} {:>7.1} {best_bare:>7.1} {:>7.1} {:>7.1} {added:>7.1} {calls:>6}",
        case.name(),
        median(whole),
        median(bare),
        best_whole - best_bare,
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    println!("{:<52} {:>15} {:>15} {:>15} {:>6}", "ns a frame: best, median", "whole", "ports alone", "added", "alloc");
    for case in cases() {
        let name = case.name();
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            measure(&case);
        }
    }
}
