//! The idle node is built, asked, answered and taken away.

use std::process::Command;
use std::time::Duration;

use penstock_bench::idle_node::{IdleNode, measure};

#[test]
fn questions_cross_and_answers_come_back() {
    let node = IdleNode { wires: 3, questions: 10, duration: Duration::from_secs(2), cpu: None };
    let seen = measure(&node).unwrap();
    // Each question reaches three wires; the machine may be slow, but not that slow.
    assert!(seen.questions >= 3 * 10, "{seen:?}");
    assert!(seen.answers >= 10, "pods answer through their wires: {seen:?}");
    assert!(seen.sleeps > 0 && seen.core_share > 0.0, "{seen:?}");
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let prefix = format!("pi{}-", std::process::id());
    assert!(!String::from_utf8_lossy(&left.stdout).contains(&prefix), "namespaces are gone");
}
