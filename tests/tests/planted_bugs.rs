//! The bugs of `scripts/planted-bugs.sh` still fit the code that they are to be planted in. Whether a test catches each is
//! what the script shows.

use std::path::Path;
use std::process::Command;

#[test]
fn every_patch_applies_and_names_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = root.join("tests/planted");
    let mut patches = 0;
    for entry in std::fs::read_dir(&directory).expect("the directory of planted bugs") {
        let path = entry.expect("a directory can be read").path();
        let text = std::fs::read_to_string(&path).expect("a patch is text");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("Test: -p penstock")), "{path:?}");
        let check = Command::new("git").args(["apply", "--check", "-C1"]).arg(&path).current_dir(&root).output();
        let check = check.expect("git is installed");
        let errors = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{path:?} does not apply any more; make it anew: {errors}");
        patches += 1;
    }
    assert!(patches >= 11, "{patches} bugs are planted");
}
