//! What the tests of the daemon share: a pod and a client in network namespaces of their own, joined by a wire, and the
//! built program as a child process.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long something may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

pub const POD: (&str, &str) = ("10.77.0.2", "fd77::2");
pub const CLIENT: (&str, &str) = ("10.77.0.3", "fd77::3");

/// The objects of all tests: who the pod and the client are.
pub const WORLD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.77.0.2}, {ip: 'fd77::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, labels: {app: client}}
status: {podIPs: [{ip: 10.77.0.3}, {ip: 'fd77::3'}]}
";

pub const DENY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: default}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
";

pub const ALLOW_CLIENT: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-client, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080}]
";

/// Runs a program that must succeed, and gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `ip` with these arguments.
pub fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Waits until something is so.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !condition() {
        assert!(waited < PATIENCE, "this has not come about: {what}");
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

/// Three namespaces: the pod's, the client's, and the wire's between them. Removed at the end.
pub struct Lane {
    pub pod: String,
    pub wire: String,
    pub client: String,
}

impl Lane {
    /// Makes them. The pod's eth0 is the other end of `in`, the client's of `out`.
    pub fn new() -> Lane {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = |role| format!("psd-{}-{}-{role}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lane = Lane { pod: name("pod"), wire: name("wire"), client: name("client") };
        for namespace in [&lane.pod, &lane.wire, &lane.client] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        // The wire's own interfaces are nobody's: they have no addresses and say nothing.
        let quiet = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";
        run(lane.in_namespace(&lane.wire, "sh").args(["-c", quiet]));
        lane.connect("in", &lane.pod, POD);
        lane.connect("out", &lane.client, CLIENT);
        lane
    }

    /// A cable from the wire's namespace to a host's eth0.
    pub fn connect(&self, interface: &str, host: &str, (v4, v6): (&str, &str)) {
        ip(&format!("-n {} link add {interface} type veth peer name eth0 netns {host}", self.wire));
        ip(&format!("-n {} link set {interface} up", self.wire));
        ip(&format!("-n {host} address add {v4}/24 dev eth0"));
        ip(&format!("-n {host} address add {v6}/64 dev eth0 nodad"));
        ip(&format!("-n {host} link set eth0 up"));
    }

    /// A program inside a namespace.
    pub fn in_namespace(&self, namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }

    /// Serves a directory in the pod.
    pub fn serve(&self, directory: &Path) -> Background {
        let mut command = self.in_namespace(&self.pod, "python3");
        command.args(["-m", "http.server", "8080", "--bind", "::", "--directory"]).arg(directory);
        let server = Background(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("the pod's server listens", || {
            let listening = run(self.in_namespace(&self.pod, "ss").args(["-ltnH", "sport = :8080"]));
            !listening.trim().is_empty()
        });
        server
    }

    /// Fetches something from the pod, as the client.
    pub fn fetch(&self, address: &str, path: &str) -> Option<Vec<u8>> {
        self.fetch_within(60, address, path)
    }

    /// Whether the pod does not answer the client. Short: nothing but silence is waited for.
    pub fn is_silent(&self, address: &str) -> bool {
        self.fetch_within(2, address, "file").is_none()
    }

    fn fetch_within(&self, seconds: u32, address: &str, path: &str) -> Option<Vec<u8>> {
        let mut command = self.in_namespace(&self.client, "curl");
        let url = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        command.args(["-s", "-f", "-m", &seconds.to_string(), &format!("http://{url}:8080/{path}")]);
        let output = command.output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// The part of a configuration that describes the wire.
    pub fn wire_yaml(&self) -> String {
        let namespace = &self.wire;
        format!(
            "- name: web\n  pod: default/web\n  inside: {{kind: af_packet, interface: in, namespace: {namespace}}}\n  \
             outside: {{kind: af_packet, interface: out, namespace: {namespace}}}\n"
        )
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.wire, &self.client] {
            let _gone = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A child process that ends with the test.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A directory with a configuration and manifests.
pub struct Setting {
    pub directory: tempfile::TempDir,
}

impl Setting {
    /// With the objects of [`WORLD`], these wires, and more lines of configuration.
    pub fn new(wires: &str, more: &str) -> Setting {
        let setting = Setting { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(setting.policies()).unwrap();
        setting.write("world.yaml", WORLD);
        let text = format!("policy: policies\nmetrics: {{address: '127.0.0.1:0'}}\n{more}\nwires:\n{wires}");
        fs::write(setting.config(), text).unwrap();
        setting
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("penstock.yaml")
    }

    pub fn policies(&self) -> PathBuf {
        self.path("policies")
    }

    /// Puts a manifest into the directory at once, as editors and deployments do.
    pub fn write(&self, name: &str, text: &str) {
        let temporary = self.path("manifest.new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.policies().join(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.policies().join(name)).unwrap();
    }

    /// `penstock run` with this configuration, to be started.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.args(["run", "--config"]).arg(self.config());
        command
    }
}

/// A running daemon.
pub struct Daemon {
    pub child: Child,
    log: PathBuf,
    drops: PathBuf,
    address: String,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub fn start(setting: &Setting) -> Daemon {
        let (log, drops) = (setting.path("log"), setting.path("drops"));
        let child = setting
            .command()
            .stdin(Stdio::null())
            .stdout(File::create(&drops).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, log, drops, address: String::new() };
        until("the daemon is ready", || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended ({status}): {}", daemon.log());
            }
            let log = daemon.log();
            let Some((_, after)) = log.split_once("http://") else { return false };
            let Some((address, _)) = after.split_once('/') else { return false };
            address.clone_into(&mut daemon.address);
            daemon.get("/readyz").0 == 200
        });
        daemon
    }

    /// The messages so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The drop lines so far. A line that is being written is left out.
    pub fn drops(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.drops).unwrap();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// Status, content type and body of a path.
    pub fn get(&self, path: &str) -> (u16, String, String) {
        let body = tempfile::NamedTempFile::new().unwrap();
        let url = format!("http://{}{path}", self.address);
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "30", "-w", "%{http_code} %{content_type}", "-o"]).arg(body.path()).arg(url);
        let told = run(&mut curl);
        let (code, kind) = told.split_once(' ').unwrap();
        (code.parse().unwrap(), kind.to_owned(), fs::read_to_string(body.path()).unwrap())
    }

    pub fn metrics(&self) -> metrics::Metrics {
        let (code, kind, text) = self.get("/metrics");
        assert_eq!(code, 200);
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        metrics::Metrics::parse(&text)
    }

    pub fn signal(&self, name: &str) {
        run(Command::new("kill").args(["-s", name, &self.child.id().to_string()]));
    }

    /// Ends it by a signal.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}\n--- drops\n{:#?}", self.log(), fs::read_to_string(&self.drops));
        }
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

pub mod metrics;
