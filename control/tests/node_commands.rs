//! `penstock status` and the others, asked of a daemon that says what the test wants.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;

/// A daemon that answers one question with these lines.
struct Daemon {
    _directory: TempDir,
    socket: PathBuf,
    asked: JoinHandle<String>,
}

fn daemon(lines: &'static [&'static str]) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question).unwrap();
        for line in lines {
            stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        question
    });
    Daemon { _directory: directory, socket, asked }
}

impl Daemon {
    /// Runs a command against it; what it was asked, and what came out.
    fn ask(self, words: &str) -> (Value, Output) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        let output = command.args(words.split(' ')).arg("--socket").arg(&self.socket).output().unwrap();
        (serde_json::from_str(&self.asked.join().unwrap()).unwrap(), output)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const STATUS: &str = r#"{"node":"node1","version":"0.1.0","ready":true,"problems":[],"generation":7,"synced":true,
    "disconnected_since":null,"objects":{"pods":12},"pods":3,"unspliced":["web/old"],"flows":[5,65536],"workers":[2,2],"uptime":{"control":9},
    "engine_restarts":1}"#;

#[test]
fn a_status_is_told_and_its_exit_code_says_whether_the_node_is_ready() {
    let line: &'static str = Box::leak(STATUS.replace('\n', "").into_boxed_str());
    let (asked, output) = daemon(Box::leak(Box::new([line]))).ask("status");
    assert_eq!(asked["ask"], "status");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["node1", "ready       yes", "connected", "3 behind wires, 1 not", "web/old", "engine restarts: 1"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let line: &'static str =
        Box::leak(STATUS.replace('\n', "").replace("\"ready\":true", "\"ready\":false").into_boxed_str());
    let (_, output) = daemon(Box::leak(Box::new([line]))).ask("status -o json");
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["node"], "node1");
}

#[test]
fn pods_and_policies_are_tables() {
    let pods = r#"{"pod":"web/nginx","uid":"u","container":"c","addresses":["10.0.0.1"],"wires":[["eth0","veth1"]],"carried":true,"ingress":["web/deny","web/allow"],"egress":null,"flows":2,"drops":{"policy_denied":4}}"#;
    let (asked, output) = daemon(Box::leak(Box::new([pods]))).ask("pods");
    assert_eq!(asked["ask"], "pods");
    let said = text(&output.stdout);
    for part in ["web/nginx", "10.0.0.1", "carried", "web/deny web/allow", "open", "policy_denied 4"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let policy = r#"{"policy":"web/deny","types":["Ingress"],"pods":["web/nginx"],"problems":["endPort is not kept by this server"]}"#;
    let (_, output) = daemon(Box::leak(Box::new([policy]))).ask("policies");
    assert!(text(&output.stdout).contains("endPort is not kept by this server"));
}

#[test]
fn flows_and_drops_are_lines_until_the_daemon_closes() {
    let flow = r#"{"event":"new","pod":"web/nginx","direction":"ingress","protocol":"TCP","source":["fd00::2","web/client"],"source_port":40000,"destination":["fd00::1","web/nginx"],"destination_port":80,"state":"established","packets":[3,2],"bytes":[300,200],"expires_in":60}"#;
    let (asked, output) = daemon(Box::leak(Box::new([flow, flow]))).ask("flows --follow --pod web/nginx");
    assert_eq!((asked["follow"].as_bool(), asked["pod"].as_str()), (Some(true), Some("web/nginx")));
    let said = text(&output.stdout);
    assert_eq!(said.lines().count(), 2);
    assert!(said.contains("[fd00::2]:40000 (web/client) → [fd00::1]:80 (web/nginx) established"), "{said}");
    let drop = r#"{"time":"2026-01-02T03:04:05.000000Z","event":"drop","wire":"web/nginx:eth0","pod":"web/nginx","direction":"ingress","address":"10.0.0.1","peer":"10.0.0.2","peerPod":"web/client","protocol":"TCP","sourcePort":4000,"destinationPort":80,"reason":"policy_denied","policies":["web/deny"],"generation":7}"#;
    let (_, output) = daemon(Box::leak(Box::new([drop]))).ask("drops");
    let said = text(&output.stdout);
    assert!(said.contains("10.0.0.2:4000 (web/client) → 10.0.0.1:80 policy_denied isolated by web/deny"), "{said}");
}

#[test]
fn explain_asks_the_daemon_for_the_objects_when_there_are_no_files() {
    let lines: &'static [&'static str] = &[
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"web"}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"web"},"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.1"}]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","namespace":"web"},"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.2"}]}}"#,
        r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"web"},"spec":{"podSelector":{},"policyTypes":["Ingress"]}}"#,
    ];
    let (asked, output) = daemon(lines).ask("explain web/a web/b TCP/80 --expect deny");
    assert_eq!(asked["ask"], "objects");
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("web/deny"));
}

#[test]
fn no_daemon_garbage_and_a_refusal_are_one_sentence_and_exit_code_3() {
    let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(["status", "--socket", "/nowhere/api.sock"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("/nowhere/api.sock") && said.contains("--socket"), "{said}");
    for (line, part) in [("nonsense", "not understood"), (r#"{"error":"control is busy"}"#, "control is busy")] {
        let (_, output) = daemon(Box::leak(Box::new([line]))).ask("pods");
        assert_eq!(output.status.code(), Some(3));
        let said = text(&output.stderr);
        assert!(said.contains(part) && said.trim().lines().count() == 1, "{said}");
    }
}
