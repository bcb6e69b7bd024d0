//! Writes the seeds of the fuzz targets `parse` and `flows` below `tests/fuzz/seeds`; those of `manifests` are written by
//! hand. `cargo run -p penstock-tests --example fuzz_seeds`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use dataplane::parse::Medium;
use dataplane::testing::{Generator, malformed};
use penstock_tests::fuzz::encode;

const FRAMES: usize = 40;

fn main() -> anyhow::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let path = seeds.join(target).join(name);
        std::fs::write(&path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
    };
    // One frame for each reason to be dropped.
    let frames: BTreeMap<_, _> = malformed().into_iter().collect();
    for (reason, frame) in frames {
        write("parse", reason.label(), &frame)?;
    }
    for seed in 0..10 {
        let mut generator = Generator::new(seed);
        let mut sequence = Vec::new();
        for _ in 0..FRAMES {
            let (direction, frame) = generator.next_frame(Medium::Ethernet);
            // Short ones: fuzzers change a few bytes at a time.
            if frame.bytes.len() < 200 {
                sequence.extend(encode(direction, &frame.bytes));
            }
        }
        let (_, frame) = generator.next_frame(Medium::Ethernet);
        write("parse", &format!("generated_{seed}"), &frame.bytes)?;
        write("flows", &format!("generated_{seed}"), &sequence)?;
    }
    Ok(())
}
