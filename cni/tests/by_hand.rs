//! `penstock-cni` as people call it: a mistake does nothing.

use std::process::{Command, Output};

fn run(words: &[&str], directory: &std::path::Path) -> Output {
    let place = |name: &str| directory.join(name);
    Command::new(env!("CARGO_BIN_EXE_penstock-cni"))
        .args(words)
        .env("PENSTOCK_CNI_DIRECTORY", place("netns"))
        .env("PENSTOCK_CNI_BINARIES", place("bin"))
        .env("PENSTOCK_CNI_CONFLISTS", place("net.d"))
        .output()
        .expect("penstock-cni runs")
}

#[test]
fn who_asks_for_help_or_mistypes_keeps_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let installed = [directory.path().join("bin/penstock-cni"), directory.path().join("net.d/00-penstock.conflist")];
    for file in &installed {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "there").unwrap();
    }
    for (words, code) in [
        (&["uninstall", "--help"][..], 0),
        (&["uninstall", "-h"], 0),
        (&["install", "--help"], 0),
        (&["uninstall", "-x"], 2),
        (&["uninstall", "relative"], 2),
        (&["uninstall", "", "/nonexistent"], 2),
        (&["unknown"], 2),
        (&["splice"], 2),
    ] {
        let done = run(words, directory.path());
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{words:?}: {error}");
        assert_eq!(error.lines().count(), usize::from(code == 2), "{words:?}: one sentence: {error}");
        assert!(installed.iter().all(|file| file.exists()), "{words:?}");
    }
}
