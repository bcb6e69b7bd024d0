//! Ten million generated frames, and every way to be dropped: nothing panics, nothing grows, nothing is allocated for a
//! frame, and whoever is judged is judged as the rules say when they are read one after the other.

#[path = "../support/mod.rs"]
mod support;

#[path = "../lanes/wire.rs"]
mod lanes;

mod allocation;
mod judged;
mod policies;
mod port;
mod scenarios;

use std::time::{SystemTime, UNIX_EPOCH};

use dataplane::stats::WireStats;
use dataplane::verdict::DropReason;

use judged::{FRAMES_A_WIRE, Seen};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Each wire has a generator, a policy and flows of its own.
const WIRES: u64 = 10;
/// As many as run at once.
const THREADS: u64 = 2;
/// How often every reason has to be met.
const LEAST: u64 = 100;

/// How many frames were dropped, by reason.
struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    fn none() -> Drops {
        Drops([0; DropReason::ALL.len()])
    }

    fn add(&mut self, stats: &WireStats) {
        for direction in dataplane::packet::Direction::BOTH {
            for &reason in DropReason::ALL {
                self.0[reason as usize] += stats.direction(direction).dropped(reason).get();
            }
        }
    }

    fn merge(&mut self, other: &Drops) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

#[test]
fn ten_million_frames_and_every_reason() {
    let seed = match std::env::var("PENSTOCK_SEED") {
        Ok(seed) => seed.parse().expect("PENSTOCK_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64,
    };
    println!("PENSTOCK_SEED={seed}");
    let share = |thread: u64| {
        let mut seen = Seen::default();
        for wire in (thread..WIRES).step_by(THREADS as usize) {
            // One of ten is a wire without Ethernet headers.
            seen.merge(&judged::run(seed.wrapping_add(wire), wire % 10 != 9));
        }
        seen
    };
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || share(thread))).collect();
        let mut all = Seen::default();
        for thread in threads {
            all.merge(&thread.join().expect("no thread panics"));
        }
        all
    });
    assert_eq!(seen.frames, WIRES * FRAMES_A_WIRE);
    println!(
        "{} frames: {} judged by the classifier, {} forwarded, {} allowed and {} denied as the rules say",
        seen.frames, seen.classified, seen.forwarded, seen.allowed, seen.denied
    );
    assert!(seen.classified * 10 >= seen.frames * 3, "at least 30 % reach the classifier");
    assert!(
        seen.allowed * 10 >= seen.classified && seen.denied * 10 >= seen.classified,
        "the policies are not lopsided"
    );

    let mut drops = scenarios::all();
    drops.merge(&seen.drops);
    let rare: Vec<_> = DropReason::ALL.iter().map(|&reason| (reason, drops.0[reason as usize])).collect();
    for (reason, count) in &rare {
        println!("{count:>9}  {}", reason.label());
    }
    let rare: Vec<_> = rare.into_iter().filter(|&(_, count)| count < LEAST).collect();
    assert!(rare.is_empty(), "met less than {LEAST} times: {rare:?}");
}
