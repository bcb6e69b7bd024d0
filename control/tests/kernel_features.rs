//! What the kernel must give: tried, and named when it does not. Needs root.

use std::process::{Command, Output};

const PENSTOCK: &str = env!("CARGO_BIN_EXE_penstock");

/// The program without the right to make namespaces, as in a container that was not given it.
fn confined(words: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", PENSTOCK]).args(words);
    command.output().unwrap()
}

#[test]
fn a_machine_that_has_it_all_is_fit() {
    let output = Command::new(PENSTOCK).args(["probe", "-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["fit"], true);
    let required = told["features"].as_array().unwrap().iter().filter(|feature| feature["required"] == true);
    assert_eq!(required.filter(|feature| feature.get("missing").is_none()).count(), 4);
}

#[test]
fn what_is_missing_is_named_with_the_kernel_that_has_it() {
    let output = confined(&["probe"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.trim_start().starts_with("network namespaces")).unwrap();
    assert!(line.contains("3.8") && line.contains("NO: "), "{line}");
}

#[test]
fn a_node_refuses_to_start_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let config = directory.path().join("config.yaml");
    let text = format!(
        "kubernetes: {{server: 'http://127.0.0.1:9'}}\nnode: n\npaths: {{run: {path}/run, state: {path}/state}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let output = confined(&["run", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    let sentence = said.lines().last().unwrap_or_default();
    assert!(sentence.contains("the kernel does not give Penstock network namespaces"), "{said}");
    assert!(sentence.contains("Linux 3.8 and newer") && sentence.contains("penstock probe"), "{said}");
}
