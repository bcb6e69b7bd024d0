//! `penstock lab` as people and scripts use it. Needs root.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use control::lab::netns;
use serde_json::Value;
use tempfile::TempDir;

const WORLD: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: client, labels: {role: client}}
spec: {containers: [{name: main, ports: [{containerPort: 80}]}]}
status: {podIPs: [{ip: 10.42.0.1}, {ip: \"fd00:10:42::1\"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: server, labels: {role: server}}
spec: {containers: [{name: main, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
status: {podIPs: [{ip: 10.42.0.2}, {ip: \"fd00:10:42::2\"}]}
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: a, name: deny}
spec: {podSelector: {matchLabels: {role: server}}}
";

fn penstock(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.arg("lab").args(arguments);
    command
}

fn world() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("world.yaml"), WORLD).unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = penstock(arguments).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// A lab in the background, and the matrices that it writes.
struct Background {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Background {
    fn start(directory: &Path) -> Background {
        let mut command = penstock(&["-f", directory.to_str().unwrap(), "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Background { child, lines }
    }

    /// The next matrix.
    fn matrix(&mut self) -> Vec<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        value["probes"].as_array().unwrap().clone()
    }

    /// The namespaces of this lab: those whose lock file the process holds open.
    fn namespaces(&self) -> Vec<netns::Namespace> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let lock = targets
            .filter(|target| target.starts_with("/run/penstock/lab"))
            .find_map(|target| target.file_name()?.to_str()?.strip_suffix(".lock").map(str::to_owned))
            .expect("a living lab holds its lock");
        netns::with_prefix(&format!("penstock-lab-{lock}-"))
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outcome<'a>(probes: &'a [Value], from: &str, to: &str, protocol: &str) -> Vec<(&'a str, bool)> {
    let asked =
        probes.iter().filter(|probe| probe["from"] == from && probe["to"] == to && probe["protocol"] == protocol);
    asked.map(|probe| (probe["outcome"].as_str().unwrap(), probe["changed"].as_bool().unwrap())).collect()
}

#[test]
fn bad_input_ends_with_2_and_says_where() {
    let (_keep, directory) = world();
    let path = directory.to_str().unwrap();
    std::fs::write(directory.join("policy.yaml"), DENY.replace("podSelector", "policyTypes: [egress], podSelector"))
        .unwrap();
    let (code, text) = run(&["-f", path, "--once"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("policy.yaml") && text.contains("a/deny") && text.contains("\"Egress\""), "{text}");
    std::fs::write(directory.join("policy.yaml"), "a: [").unwrap();
    assert_eq!(run(&["-f", path, "--once"]).0, Some(2));
    std::fs::write(directory.join("policy.yaml"), WORLD.replace("10.42.0.1}", "224.0.0.9}")).unwrap();
    assert_eq!(run(&["-f", path, "--once"]).0, Some(2));
    assert_eq!(run(&["-f", "/nonexistent", "--once"]).0, Some(2));
    std::fs::remove_file(directory.join("policy.yaml")).unwrap();
    let (code, text) = run(&["-f", path, "--shell", "a/nobody"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("a/nobody") && text.contains("a/server"), "{text}");
}

#[test]
fn without_the_capability_it_ends_with_3_and_names_it() {
    let (_keep, directory) = world();
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-net_admin", env!("CARGO_BIN_EXE_penstock"), "lab", "--once", "-f"])
        .arg(&directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
}

#[test]
fn an_expectation_that_fails_ends_with_1() {
    let (_keep, directory) = world();
    let file = directory.join("expected.txt");
    std::fs::write(&file, "denied: []").unwrap();
    let (code, text) = run(&["-f", directory.to_str().unwrap(), "--expect", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    std::fs::write(&file, "denied: [{from: a/client, to: a/server, port: UDP/53}]").unwrap();
    let (code, text) = run(&["-f", directory.to_str().unwrap(), "--expect", file.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("a/client to a/server UDP/53 (IPv6) should be denied: reached"), "{text}");
}

#[test]
fn edits_are_applied_live_and_a_broken_file_changes_nothing() {
    let (_keep, directory) = world();
    let mut lab = Background::start(&directory);
    assert_eq!(outcome(&lab.matrix(), "a/client", "a/server", "TCP"), [("reached", false); 2]);
    std::fs::write(directory.join("policy.yaml"), DENY).unwrap();
    let denied = lab.matrix();
    assert_eq!(outcome(&denied, "a/client", "a/server", "TCP"), [("denied", true); 2]);
    assert_eq!(outcome(&denied, "a/client", "a/server", "UDP"), [("denied", true); 2]);
    assert_eq!(outcome(&denied, "a/server", "a/client", "TCP"), [("reached", false); 2]);
    // A file that is refused draws nothing; the next good one does, and only what it says has changed.
    std::fs::write(directory.join("broken.yaml"), "a: [").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    std::fs::remove_file(directory.join("broken.yaml")).unwrap();
    assert_eq!(outcome(&lab.matrix(), "a/client", "a/server", "TCP"), [("denied", false); 2]);
    // A pod comes.
    let third = WORLD.split("---").next().unwrap().replace("client", "third").replace("10.42.0.1", "10.42.0.3");
    std::fs::write(directory.join("third.yaml"), third.replace("fd00:10:42::1", "fd00:10:42::3")).unwrap();
    let grown = lab.matrix();
    assert_eq!(outcome(&grown, "a/third", "a/server", "TCP"), [("denied", false); 2]);
    assert_eq!(outcome(&grown, "a/server", "a/third", "TCP"), [("reached", false); 2]);
    assert_eq!(lab.namespaces().len(), 6);
    // And goes.
    std::fs::remove_file(directory.join("third.yaml")).unwrap();
    assert!(outcome(&lab.matrix(), "a/server", "a/third", "TCP").is_empty());
    assert_eq!(lab.namespaces().len(), 5);
}

#[test]
fn a_signal_and_the_next_start_leave_nothing() {
    let (_keep, directory) = world();
    for signal in ["-INT", "-TERM", "-HUP"] {
        let mut lab = Background::start(&directory);
        lab.matrix();
        let namespaces = lab.namespaces();
        assert_eq!(namespaces.len(), 5, "{namespaces:?}");
        lab.signal(signal);
        assert_eq!(lab.child.wait().unwrap().code(), Some(0), "{signal}");
        assert!(namespaces.iter().all(|namespace| !namespace.path().exists()), "{signal} leaves nothing");
    }
    let mut lab = Background::start(&directory);
    lab.matrix();
    let namespaces = lab.namespaces();
    lab.signal("-KILL");
    lab.child.wait().unwrap();
    assert_eq!(run(&["-f", directory.to_str().unwrap(), "--once"]).0, Some(0));
    assert!(namespaces.iter().all(|namespace| !namespace.path().exists()), "the next start clears it");
}

#[test]
fn a_shell_is_inside_the_pod() {
    let (_keep, directory) = world();
    let mut command = penstock(&["-f", directory.to_str().unwrap(), "--shell", "a/client"]);
    let mut child = command.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"ip -brief address show eth0; echo in $PENSTOCK_POD\n").unwrap();
    drop(input);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(text.contains("10.42.0.1/32") && text.contains("in a/client"), "{text}");
}

/// What a shell in `a/client` that is fed these lines ends with, and says.
fn shell(directory: &Path, lines: &str) -> (Option<i32>, String) {
    let mut command = penstock(&["-f", directory.to_str().unwrap(), "--shell", "a/client"]);
    let mut child = command.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

#[test]
fn a_shell_says_where_it_is_and_its_exit_code_counts() {
    let (_keep, directory) = world();
    let (code, text) = shell(&directory, "exit 7\n");
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "inside a/client (10.42.0.1, fd00:10:42::1)",
        "a/server (10.42.0.2, fd00:10:42::2): TCP/80 UDP/53",
        "'exit' ends the lab",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(shell(&directory, "exit 0\n").0, Some(0));
}

#[test]
fn web_clients_and_plain_ones_are_answered() {
    let (_keep, directory) = world();
    let curl = "curl --silent --max-time 20 --write-out 'code %{http_code}\\n' http://";
    let plain = "exec 3<>/dev/tcp/10.42.0.2/80; echo plain $(cat <&3)";
    let lines = format!("{curl}10.42.0.2; {curl}'[fd00:10:42::2]'; bash -c '{plain}'\n");
    let (code, text) = shell(&directory, &lines);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches("a/server TCP/80\ncode 200\n").count(), 2, "{text}");
    assert!(text.contains("plain a/server TCP/80\n"), "{text}");
}

#[test]
fn external_addresses_add_to_the_usual_ones() {
    let (_keep, directory) = world();
    let path = directory.to_str().unwrap();
    let (code, text) = run(&["-f", path, "--once", "--external", "198.51.100.7"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(["198.51.100.7", "203.0.113.10", "2001:db8::10"].iter().all(|address| text.contains(address)), "{text}");
    for (address, why) in [("10.42.0.2", "pod a/server has it"), ("127.0.0.1", "cannot be")] {
        let (code, text) = run(&["-f", path, "--once", "--external", address]);
        assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
        assert!(text.contains(&format!("external address {address}")) && text.contains(why), "{text}");
    }
    // A usual address that a pod has is the pod's.
    std::fs::write(directory.join("world.yaml"), WORLD.replace("10.42.0.2", "203.0.113.10")).unwrap();
    let (code, text) = run(&["-f", path, "--once"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("goes without 203.0.113.10: pod a/server has it"), "{text}");
}

#[test]
fn objects_without_a_pod_are_refused() {
    let (_keep, directory) = world();
    std::fs::write(directory.join("world.yaml"), DENY).unwrap();
    let (code, text) = run(&["-f", directory.to_str().unwrap(), "--once"]);
    assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("no pod"), "{text}");
}
