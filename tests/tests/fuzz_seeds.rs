//! The fuzz targets' seeds and past crashes, replayed.

use std::path::Path;

use penstock_tests::fuzz::TARGETS;

#[test]
fn seeds_and_past_crashes_pass() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in TARGETS {
        let mut seeds = 0;
        for kind in ["seeds", "crashes"] {
            let directory = fuzz.join(kind).join(name);
            for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}")) {
                let path = entry.expect("a directory can be read").path();
                let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                println!("{}", path.display());
                target(&bytes);
                seeds += usize::from(kind == "seeds");
            }
        }
        assert!(seeds >= 10, "{name} has {seeds} seeds");
    }
}
