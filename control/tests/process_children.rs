//! The three processes of a node: real frames through the unprivileged dataplane, and each process killed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cni::netns::Namespace as Opened;
use cni::splice::{self, Target};
use cni::state::{PodIdentity, Store};
use control::lab::netns::{self, Namespace};
use rustix::process::{Pid, Signal, kill_process};

const PREFIX: &str = "penstock-proc-";
const POD: &str = "10.88.0.2";
const PATIENCE: Duration = Duration::from_secs(60);
/// Silence: many times as long as a frame takes.
const SILENCE: Duration = Duration::from_millis(700);

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come to be");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program that plays all processes; `scripts/test.sh` builds it.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/node_processes");
    assert!(path.exists(), "{} is missing: run cargo build -p penstock --example node_processes first", path.display());
    path
}

/// A host, and a pod behind a wire.
struct Node {
    directory: tempfile::TempDir,
    host: Namespace,
    pod: Namespace,
    wirer: Option<Child>,
}

impl Node {
    fn new(patience: u32) -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        netns::remove_orphans(PREFIX);
        let prefix = format!("{PREFIX}{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (host, pod) = (Namespace::named(format!("{prefix}h")), Namespace::named(format!("{prefix}p")));
        netns::create(&[host.clone(), pod.clone()]).unwrap();
        let ip = |words: String| {
            let status = Command::new("ip").args(words.split_whitespace()).status().unwrap();
            assert!(status.success(), "ip {words}");
        };
        let (h, p) = (host.name(), pod.name());
        ip(format!("-n {h} link add veth0 type veth peer name eth0 netns {p}"));
        for (namespace, device, address) in [(h, "veth0", "10.88.0.1/24"), (p, "eth0", "10.88.0.2/24")] {
            ip(format!("-n {namespace} address add {address} dev {device}"));
            ip(format!("-n {namespace} link set {device} up"));
            ip(format!("-n {namespace} link set lo up"));
        }
        let directory = tempfile::tempdir().unwrap();
        // The unprivileged processes run the program; the directory is for the wirer alone.
        let script = directory.path().join("penstock-cni");
        fs::write(&script, format!("#!/bin/sh\nexec {} cni \"$@\"\n", program().display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut node = Node { directory, host, pod, wirer: None };
        let target = Target {
            container: "c1",
            netns: &node.pod.path(),
            attachment: "eth0",
            network: None,
            pod: PodIdentity::default(),
        };
        splice::splice(&node.store(), &Opened::open(&node.host.path()).unwrap(), &target).unwrap();
        node.start(patience);
        node
    }

    fn store(&self) -> Store {
        Store::at(self.directory.path().join("run/netns"))
    }

    fn spawn(&self, patience: u32) -> Child {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.host.path().display())).arg(program());
        command.arg("wirer").arg(self.directory.path()).arg(patience.to_string());
        command.spawn().unwrap()
    }

    fn start(&mut self, patience: u32) {
        self.wirer = Some(self.spawn(patience));
        self.has_engine();
    }

    fn has_engine(&self) {
        eventually("an engine", || self.ask("notices").ok().filter(|notices| notices.contains("started")));
    }

    /// What control answers.
    fn ask(&self, words: &str) -> Result<String, String> {
        let path = self.directory.path().join("run/api.sock");
        let mut stream = UnixStream::connect(path).map_err(|error| error.to_string())?;
        let mut line = String::new();
        stream.write_all(format!("{words}\n").as_bytes()).map_err(|error| error.to_string())?;
        BufReader::new(&stream).read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim_end().split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            _ if line.trim_end() == "ok" => Ok(String::new()),
            _ => Err(line),
        }
    }

    /// Rules first, then the wire.
    fn carry(&self, rules: &str) {
        self.ask(&format!("rules {rules}")).unwrap();
        assert_eq!(self.ask("attach").unwrap(), "1");
    }

    /// Processes of the wirer, by their argument.
    fn child(&self, role: &str) -> Option<u32> {
        let wirer = self.wirer.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{wirer}/task/{wirer}/children")).ok()?;
        children.split_whitespace().filter_map(|text| text.parse().ok()).find(|pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(format!("{role}\0").as_bytes()))
        })
    }

    fn running(&self, role: &str) -> u32 {
        eventually(role, || self.child(role))
    }

    fn listen(&self, port: u16) -> TcpListener {
        self.pod.run(|| TcpListener::bind((POD, port)).unwrap()).unwrap()
    }

    fn connect(&self, port: u16, timeout: Duration) -> std::io::Result<TcpStream> {
        let address: SocketAddr = format!("{POD}:{port}").parse().unwrap();
        self.host.run(|| TcpStream::connect_timeout(&address, timeout)).unwrap()
    }

    /// A connection from the host to the pod: the client's end and the server's.
    fn conversation(&self, listener: &TcpListener, port: u16) -> (TcpStream, TcpStream) {
        let client = self.connect(port, PATIENCE).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// Kills a child and waits for its successor.
    fn replace(&self, role: &str, signal: Signal) {
        let before = self.running(role);
        kill(before, signal);
        eventually("another one", || self.child(role).filter(|&now| now != before));
    }

    /// Waits until control has been told of so many engines.
    fn engines(&self, count: usize) {
        eventually("notices", || {
            let notices = self.ask("notices").ok()?;
            (notices.split(' ').filter(|notice| *notice == "started").count() >= count).then_some(())
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut wirer) = self.wirer.take() {
            let _ended = wirer.kill();
            let _reaped = wirer.wait();
        }
        if let Ok(host) = Opened::open(&self.host.path()) {
            let _removed = splice::remove(&self.store(), &host, "c1", None, None);
        }
        let _gone = self.store().tear_down();
        let _removed = netns::remove(&[self.host.clone(), self.pod.clone()]);
    }
}

fn kill(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process as i32).unwrap(), signal).unwrap();
}

fn says(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> bool {
    from.write_all(text).unwrap();
    hears(to, text, PATIENCE)
}

fn hears(stream: &mut TcpStream, text: &[u8], patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).is_ok() && got == text
}

fn status(process: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn who_reads_frames_has_no_privileges_and_carries_what_policy_allows() {
    let node = Node::new(5000);
    for role in ["dataplane", "control"] {
        let process = node.running(role);
        for (field, expected) in [
            ("Uid:", "65532"),
            ("Gid:", "65532"),
            ("CapEff:", "0000000000000000"),
            ("CapPrm:", "0000000000000000"),
            ("CapInh:", "0000000000000000"),
            ("CapAmb:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
            ("Seccomp:", if role == "dataplane" { "2" } else { "0" }),
        ] {
            assert_eq!(status(process, field), expected, "{role}, {field}");
        }
        assert_eq!(fs::read_link(format!("/proc/{process}/cwd")).unwrap(), Path::new("/"));
    }
    let environment = fs::read(format!("/proc/{}/environ", node.running("dataplane"))).unwrap();
    assert!(environment.is_empty(), "the dataplane sees no environment");

    let (allowed, _denied) = (node.listen(8080), node.listen(8081));
    assert!(node.connect(8080, SILENCE).is_err(), "nothing passes before there is a reader");
    node.carry("8080");
    let (mut client, mut server) = node.conversation(&allowed, 8080);
    assert!(says(&mut client, &mut server, b"question") && says(&mut server, &mut client, b"answer"));
    assert!(node.connect(8081, SILENCE).is_err());
    let refused = node.ask("attach-other").unwrap_err();
    assert!(refused.contains("are no wire by what is written in"), "{refused}");
    assert_eq!(node.ask("flows").unwrap(), "1");

    // A pod that ends takes its wire along.
    drop((client, server));
    let host = Opened::open(&node.host.path()).unwrap();
    splice::remove(&node.store(), &host, "c1", None, None).unwrap();
    eventually("the end of the wire", || node.ask("notices").ok().filter(|notices| notices.contains("gone:0")));
    eventually("no wire", || node.ask("wires").ok().filter(String::is_empty));
}

#[test]
fn a_dataplane_that_is_killed_or_hangs_cuts_nothing_allowed_and_opens_nothing() {
    let node = Node::new(1500);
    let (listener, denied) = (node.listen(8080), node.listen(8081));
    node.carry("8080");
    let (mut client, mut server) = node.conversation(&listener, 8080);
    for (round, signal) in [(2, Signal::KILL), (3, Signal::STOP)] {
        node.replace("dataplane", signal);
        node.engines(round);
        // It speaks first whose frames are answers: without its flow they would be nobody's.
        server.write_all(b"before the wire is carried").unwrap();
        assert!(!hears(&mut client, b"before the wire is carried", SILENCE), "nothing passes while nobody judges");
        node.carry("8080");
        assert!(hears(&mut client, b"before the wire is carried", PATIENCE), "the flow was found in the file");
        assert!(says(&mut client, &mut server, b"and on"));
    }
    // By rules that allow it no more, an adopted flow passes nothing, whoever speaks first.
    node.replace("dataplane", Signal::KILL);
    node.engines(4);
    node.carry("deny");
    server.write_all(b"denied").unwrap();
    client.write_all(b"denied").unwrap();
    assert!(!hears(&mut client, b"denied", SILENCE) && !hears(&mut server, b"denied", SILENCE));
    assert!(node.connect(8081, SILENCE).is_err());
    let wires = node.ask("wires").unwrap();
    let counts: Vec<u64> = wires.split(':').map(|text| text.parse().unwrap()).collect();
    assert!(counts[3] > 0, "{wires}: what was not passed is counted");
    drop(denied);
}

#[test]
fn a_control_that_is_killed_cuts_nothing() {
    let node = Node::new(5000);
    let listener = node.listen(8080);
    node.carry("8080");
    let (mut client, mut server) = node.conversation(&listener, 8080);
    let dataplane = node.running("dataplane");
    kill(node.running("control"), Signal::KILL);
    assert!(says(&mut client, &mut server, b"nobody decides") && says(&mut server, &mut client, b"as before"));
    eventually("another control", || node.ask("notices").ok().filter(|notices| notices.contains("started")));
    assert_eq!(node.running("dataplane"), dataplane);
    let before = node.ask("flows").unwrap();
    node.carry("8080");
    assert!(says(&mut client, &mut server, b"and on"));
    assert_eq!(node.ask("flows").unwrap(), before, "what is carried already stays as it is");
    node.ask("rules deny").unwrap();
    server.write_all(b"denied").unwrap();
    assert!(!hears(&mut client, b"denied", SILENCE));
}

#[test]
fn with_the_wirer_everything_ends_and_the_next_one_finds_the_flows() {
    let mut node = Node::new(5000);
    let listener = node.listen(8080);
    node.carry("8080");
    let (mut client, mut server) = node.conversation(&listener, 8080);
    assert!(says(&mut client, &mut server, b"one"));
    for signal in [Signal::KILL, Signal::TERM] {
        let children = [node.running("dataplane"), node.running("control")];
        let mut wirer = node.wirer.take().unwrap();
        kill(wirer.id(), signal);
        let ended = wirer.wait().unwrap();
        assert_eq!(ended.success(), signal == Signal::TERM, "{ended}");
        for child in children {
            eventually("the end of a child", || (!is_alive(child)).then_some(()));
        }
        server.write_all(b"two").unwrap();
        assert!(!hears(&mut client, b"two", SILENCE), "nobody is there");
        node.start(5000);
        assert!(!hears(&mut client, b"two", SILENCE), "nobody judges");
        node.carry("8080");
        assert!(hears(&mut client, b"two", PATIENCE), "the flow was found in the file");
    }
}

#[test]
fn a_raised_mtu_is_followed_by_the_whole_wire() {
    let node = Node::new(5000);
    node.carry("8080");
    let socket = |namespace: &Namespace, address: &str| namespace.run(|| UdpSocket::bind(address).unwrap()).unwrap();
    let (pod, host) = (socket(&node.pod, "10.88.0.2:0"), socket(&node.host, "10.88.0.1:8080"));
    host.set_read_timeout(Some(SILENCE)).unwrap();
    for (namespace, device) in [(&node.host, "veth0"), (&node.pod, "eth0")] {
        let words = ["-n", namespace.name(), "link", "set", device, "mtu", "9000"];
        assert!(Command::new("ip").args(words).status().unwrap().success());
    }
    // One frame: it fits the MTU.
    let datagram = [7; 8_000];
    eventually("a datagram of 8,000 bytes", || {
        pod.send_to(&datagram, "10.88.0.1:8080").unwrap();
        let mut taken = [0; 9_000];
        host.recv(&mut taken).ok().filter(|&length| taken[..length] == datagram)
    });
}

#[test]
fn a_second_wirer_stands_by_until_the_first_one_ends() {
    let mut node = Node::new(5000);
    let listener = node.listen(8080);
    node.carry("8080");
    let (mut client, mut server) = node.conversation(&listener, 8080);
    let next = node.spawn(5000);
    std::thread::sleep(SILENCE);
    assert!(says(&mut client, &mut server, b"the first one's"));
    let mut first = node.wirer.replace(next).unwrap();
    assert_eq!((node.child("dataplane"), node.child("control")), (None, None), "it only waits");
    kill(first.id(), Signal::TERM);
    assert!(first.wait().unwrap().success());
    node.has_engine();
    node.carry("8080");
    assert!(says(&mut client, &mut server, b"the second one's, and the flow was found in the file"));
}

/// Whether a process is there and no zombie.
fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
