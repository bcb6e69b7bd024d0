//! `explain` and `diff` as people type them: answers, exit codes, and what bad input is told.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, namespace: x}\nstatus: {podIPs: [{ip: IP}]}\n---\n";
const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: x}\n";

fn world(directory: &Path, name: &str, policy: &str) -> String {
    let pod = |name: &str, ip: &str| POD.replace("NAME", name).replace("IP}", &format!("{ip}}}"));
    let path = directory.join(name);
    std::fs::write(&path, pod("a", "10.0.0.1") + &pod("b", "10.0.0.2") + policy).unwrap();
    path.to_str().unwrap().to_owned()
}

fn penstock(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_penstock")).args(args).output().expect("penstock runs");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn explain_answers_and_meets_expectations() {
    let directory = tempfile::tempdir().unwrap();
    let file = world(directory.path(), "w.yaml", DENY);
    let explain = |rest: &[&str]| penstock(&[&["explain", "-f", &file, "x/a", "x/b", "80"], rest].concat());
    let (code, answer, _) = explain(&[]);
    assert_eq!(code, 0);
    assert!(answer.starts_with("x/a (10.0.0.1) → x/b (10.0.0.2) TCP/80: denied\n"), "{answer}");
    assert!(
        answer.contains("x/shut, podSelector {} (all pods): has no ingress rule, which allows nothing"),
        "{answer}"
    );
    assert_eq!(explain(&["--expect", "deny"]).0, 0);
    assert_eq!(explain(&["--expect", "allow"]).0, 1);
    let (_, json, _) = explain(&["-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verdict"], "deny");
    assert_eq!(json["ingress"]["reason"]["suggestion"]["policy"], "x/shut");
}

#[test]
fn diff_tells_what_changes() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (world(directory.path(), "old.yaml", ""), world(directory.path(), "new.yaml", DENY));
    let (code, answer, _) = penstock(&["diff", "-f", &old, "-f", &new, "--port", "80"]);
    assert_eq!(code, 0);
    assert_eq!(
        answer,
        "newly denied:\n  x/a → x/b  TCP/80\n  x/b → x/a  TCP/80\n  203.0.113.7 → x/a  TCP/80\n  203.0.113.7 → x/b  TCP/80\n"
    );
    assert_eq!(penstock(&["diff", "-f", &old, "-f", &new, "--expect", "none"]).0, 1);
    let same = world(directory.path(), "same.yaml", "");
    let (code, answer, _) = penstock(&["diff", "-f", &old, "-f", &same, "--expect", "none"]);
    assert_eq!((code, answer.as_str()), (0, "no answer changes\n"));
}

#[test]
fn bad_input_ends_with_2_and_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let file = world(directory.path(), "w.yaml", "");
    let lower = world(directory.path(), "lower.yaml", &format!("{DENY}spec: {{policyTypes: [egress]}}\n"));
    for (args, expected) in [
        (
            vec!["explain", "-f", &file, "x/c", "x/b", "80"],
            "there is no pod x/c in the manifests; known pods are x/a, x/b",
        ),
        (vec!["explain", "-f", &file, "x/a", "x/b", "http"], "\"http\" is no port"),
        (vec!["explain", "-f", &file, "a", "x/b", "80"], "\"a\" is neither namespace/pod nor an IP address"),
        (vec!["explain", "-f", "/nonexistent", "x/a", "x/b", "80"], "/nonexistent: cannot be read"),
        (
            vec!["explain", "-f", &lower, "x/a", "x/b", "80"],
            "NetworkPolicy x/shut: spec.policyTypes[0]: Unsupported value: \"egress\": supported values: \"Egress\", \
             \"Ingress\"; did you mean \"Egress\"?",
        ),
        (
            vec!["explain", "-f", &file, "203.0.113.5", "x/b", "80", "--via", "nodePort"],
            "via nodePort: x/b is no pod of a node that the manifests have with an address; ",
        ),
        (vec!["diff", "-f", &file], "write -f OLD -f NEW"),
    ] {
        let (code, answer, error) = penstock(&args);
        assert_eq!((code, answer.as_str()), (2, ""), "{args:?}: {error}");
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn a_question_about_no_pods_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pods = world(directory.path(), "pods.yaml", "");
    let policy = directory.path().join("policy.yaml");
    std::fs::write(&policy, DENY).unwrap();
    let policy = policy.to_str().unwrap();
    for (args, expected) in [
        (vec!["matrix", "-f", policy], "there are no pods in the manifests"),
        (vec!["diff", "-f", &pods, "-f", policy], "the new state (the second -f): give the pods"),
        (vec!["diff", "-f", policy, "-f", &pods], "the old state (the first -f): give the pods"),
    ] {
        let (code, answer, error) = penstock(&args);
        assert_eq!((code, answer.as_str()), (2, ""), "{args:?}: {error}");
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let empty = directory.path().join("empty.yaml");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    assert_eq!(penstock(&["diff", "-f", empty, "-f", policy, "--common", &pods]).0, 0);
}

#[test]
fn eval_refuses_a_key_that_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("w.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let command = command.args(["eval", "-f"]).arg(&file).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let question = "{\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\",\"port\":80,\"prot\":\"UDP\"}\n";
    child.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("line 1: unknown key \"prot\"; a question is"), "{stderr}");
}
