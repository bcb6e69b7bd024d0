//! A node for one test: a namespace that plays the host, pods, a container runtime, and the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cni::netns::Namespace as Opened;
use cni::state::Store;
use control::lab::netns::{self, Namespace};
use serde_json::{Value, json};

use crate::daemon::Daemon;

/// What the names of all namespaces start with; the process number follows.
const PREFIX: &str = "penstock-cni-";

/// Where Debian has the reference plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The plugin under test.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_penstock-cni");

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pod's sandbox.
pub(crate) struct Pod {
    pub(crate) container: String,
    pub(crate) namespace: Namespace,
    /// The last ADD's result, as DEL and CHECK get it.
    result: Option<String>,
}

/// One plugin's answer.
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) code: Option<u64>,
    pub(crate) message: String,
}

/// The node. Dropping it removes everything that it made.
pub(crate) struct Node {
    pub(crate) daemon: Daemon,
    pub(crate) host: Namespace,
    pub(crate) directory: tempfile::TempDir,
    prefix: String,
    created: Vec<Namespace>,
    containers: u32,
}

impl Node {
    /// An empty node that routes.
    pub(crate) fn new() -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        netns::remove_orphans(PREFIX);
        let prefix = format!("{PREFIX}{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a directory");
        let host = Namespace::named(format!("{prefix}host"));
        let daemon = Daemon::start(&directory.path().join("cni.sock"));
        let mut node = Node { daemon, host: host.clone(), directory, prefix, created: Vec::new(), containers: 0 };
        node.create(&host);
        host.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/forwarding", "1"),
        ])
        .expect("making the host a router");
        host.batch(&["address add 10.99.0.1/32 dev lo".to_owned()]).expect("giving the host an address");
        let script = node.directory.path().join("vpc");
        fs::write(&script, include_str!("vpc.py")).expect("writing the primary");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("making the primary a program");
        node
    }

    fn create(&mut self, namespace: &Namespace) {
        self.created.push(namespace.clone());
        netns::create(std::slice::from_ref(namespace)).expect("making a namespace; run the tests as root");
        let quick = [("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")];
        namespace.sysctl(&quick).expect("setting a namespace up");
        namespace.batch(&["link set lo up".to_owned()]).expect("setting a namespace up");
    }

    /// A sandbox without interfaces.
    pub(crate) fn pod(&mut self) -> Pod {
        self.containers += 1;
        let container = format!("c{}", self.containers);
        let namespace = Namespace::named(format!("{}{container}", self.prefix));
        self.create(&namespace);
        Pod { container, namespace, result: None }
    }

    /// Where splices are written down.
    pub(crate) fn store(&self) -> Store {
        Store::at(self.directory.path().join("netns"))
    }

    /// The host's namespace, as the library takes it.
    pub(crate) fn opened_host(&self) -> Opened {
        Opened::open(&self.host.path()).expect("the host")
    }

    /// Our entry in a list of plugins.
    pub(crate) fn ours(&self) -> Value {
        json!({
            "type": "penstock-cni",
            "socket": self.directory.path().join("cni.sock"),
            "directory": self.directory.path().join("netns"),
            "logFile": self.directory.path().join("log"),
        })
    }

    /// What the plugin has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// An address of each family by host-local.
    pub(crate) fn ipam(&self, number: u8) -> Value {
        json!({
            "type": "host-local",
            "dataDir": self.directory.path().join("ipam"),
            "ranges": [[{"subnet": format!("10.88.{number}.0/24")}], [{"subnet": format!("fd88:0:0:{number}::/64")}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        })
    }

    /// Runs one plugin of a list.
    pub(crate) fn call(&self, version: &str, plugin: &Value, command: &str, pod: &Pod, previous: Option<&str>) -> Said {
        let mut config = plugin.clone();
        config["cniVersion"] = version.into();
        config["name"] = "net".into();
        if let Some(runtime) = plugin.get("runtimeConfig") {
            config["runtimeConfig"] = runtime.clone();
        }
        let mut text = config.to_string();
        if let Some(previous) = previous {
            // As it came: the runtime hands results on without reading more of them than it has to.
            text.truncate(text.len() - 1);
            text.push_str(&format!(r#","prevResult":{previous}}}"#));
        }
        let netns = pod.namespace.path();
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &pod.container),
            ("CNI_NETNS", netns.to_str().unwrap()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1"),
        ];
        self.execute(&self.binary(plugin["type"].as_str().unwrap()), &variables, &text)
    }

    fn binary(&self, name: &str) -> PathBuf {
        match name {
            "penstock-cni" => PathBuf::from(OURS),
            "vpc" => self.directory.path().join("vpc"),
            other => Path::new(PLUGINS).join(other),
        }
    }

    /// Runs a plugin on the host with this environment and input, and reads its answer as the specification has it.
    pub(crate) fn execute(&self, binary: &Path, variables: &[(&str, &str)], input: &str) -> Said {
        let mut command = self.host.command();
        command.arg(binary).env("CNI_PATH", format!("{PLUGINS}:{}", self.directory.path().display()));
        command.envs(variables.iter().copied());
        let output = feed(command, input);
        let stdout = String::from_utf8(output.stdout).expect("text");
        if output.status.success() {
            return Said { stdout, code: None, message: String::new() };
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let error: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|_| json!({"code": 0, "msg": stdout + &stderr}));
        let message = error["msg"].as_str().unwrap_or_default().to_owned();
        Said { stdout: error.to_string(), code: error["code"].as_u64(), message }
    }

    /// ADD, plugin by plugin.
    pub(crate) fn try_add(&self, pod: &mut Pod, version: &str, plugins: &[Value]) -> Result<(), Said> {
        let mut result: Option<String> = None;
        for plugin in plugins {
            let said = self.call(version, plugin, "ADD", pod, result.as_deref());
            if said.code.is_some() {
                // As a runtime keeps it for DEL: what there was so far.
                pod.result = result;
                return Err(said);
            }
            if plugin["type"] == "penstock-cni" {
                assert_eq!(
                    Some(said.stdout.as_str()),
                    result.as_deref().map(str::trim),
                    "the result is passed on byte for byte"
                );
            }
            result = Some(said.stdout);
        }
        pod.result = result;
        Ok(())
    }

    /// ADD, which has to succeed.
    pub(crate) fn add(&self, pod: &mut Pod, version: &str, plugins: &[Value]) {
        if let Err(said) = self.try_add(pod, version, plugins) {
            panic!("ADD of {}: {}\n{}", pod.container, said.message, self.log());
        }
    }

    /// CHECK of each plugin, which has to find nothing.
    pub(crate) fn check(&self, pod: &Pod, version: &str, plugins: &[Value]) {
        for plugin in plugins {
            let said = self.call(version, plugin, "CHECK", pod, pod.result.as_deref());
            assert_eq!(said.code, None, "CHECK of {}: {}", plugin["type"], said.message);
        }
    }

    /// DEL, in reverse order, each with the final result.
    pub(crate) fn delete(&self, pod: &Pod, version: &str, plugins: &[Value]) {
        for plugin in plugins.iter().rev() {
            let said = self.call(version, plugin, "DEL", pod, pod.result.as_deref());
            assert_eq!(said.code, None, "DEL of {}: {}", plugin["type"], said.message);
            assert!(plugin["type"] != "penstock-cni" || said.stdout.is_empty(), "DEL prints nothing");
        }
    }

    /// `penstock-cni` called by hand, on the host, perhaps to die at a place.
    pub(crate) fn by_hand(&self, words: &[&str], dies_at: Option<&str>) -> Output {
        let mut command = self.host.command();
        command.arg(OURS).args(words).env("PENSTOCK_CNI_DIRECTORY", self.directory.path().join("netns"));
        if let Some(place) = dies_at {
            command.env("PENSTOCK_CNI_FAULT", place);
        }
        command.output().expect("running penstock-cni")
    }

    /// Carries the wires of a pod that was spliced without the plugin.
    pub(crate) fn carry(&self, pod: &Pod) {
        let splice = self.store().find(&pod.container).unwrap().expect("the pod is spliced");
        self.daemon.adopt(&(&splice).into());
    }

    /// What the host has: interfaces, routes, rules, and rules of iptables.
    pub(crate) fn traces(&self) -> BTreeMap<&'static str, String> {
        let commands = [
            ("links", "ip -o link show"),
            ("routes", "ip route show table all"),
            ("routes6", "ip -6 route show table all"),
            ("rules", "ip rule show"),
            ("nat", "iptables -t nat -S"),
        ];
        // The kernel says it some time after a bridge has lost its last port.
        let said = |words: &str| run(&self.host, words).replace(" linkdown", "");
        commands.into_iter().map(|(name, words)| (name, said(words))).collect()
    }

    /// Whether nothing of ours is left on the node: no pin, no file, no mount.
    pub(crate) fn assert_nothing_left(&self) {
        let (splices, broken) = self.store().list().unwrap();
        assert!(splices.is_empty() && broken.is_empty(), "{splices:?} {broken:?}");
        let left: Vec<_> = fs::read_dir(self.directory.path().join("netns")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let pins = format!("{}/netns/", self.directory.path().display());
        assert!(!mounts.contains(&pins), "{mounts}");
        assert_eq!(self.daemon.carried(), 0, "the daemon was told to let go");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever a failed test left: the wires end with their pods.
        self.daemon.forget();
        let store = self.store();
        for splice in store.list().map(|(splices, _)| splices).unwrap_or_default() {
            if let Ok(host) = Opened::open(&self.host.path()) {
                let _removed = cni::splice::remove(&store, &host, &splice.container, None, None);
            }
        }
        let _torn = store.tear_down();
        if let Err(error) = netns::remove(&self.created) {
            eprintln!("removing namespaces: {error}");
        }
    }
}

fn feed(mut command: Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running a plugin");
    // A plugin may fail before it reads.
    let _unread = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("waiting for a plugin")
}

/// Runs a program in a namespace, with a time limit. The words are parted at spaces.
pub(crate) fn output(namespace: &Namespace, words: &str) -> Output {
    let mut command = namespace.command();
    command.args(["timeout", "--kill-after=1", "20"]).args(words.split_whitespace());
    command.output().unwrap_or_else(|error| panic!("{words}: {error}"))
}

/// The same for one that has to succeed; answers what it printed.
pub(crate) fn run(namespace: &Namespace, words: &str) -> String {
    let output = output(namespace, words);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Everything that a pod can see of its network, without what an observer changes.
pub(crate) fn view(pod: &Pod) -> BTreeMap<&'static str, String> {
    // The kernel takes up to a second to say of an interface that has the index of its peer that it is up.
    eventually("eth0 is up", || run(&pod.namespace, "ip -o link show eth0").contains("state UP"));
    let commands = [
        ("links", "ip -o -d link show"),
        ("addresses", "ip -o address show"),
        ("routes", "ip route show table all"),
        ("routes6", "ip -6 route show table all"),
        ("rules", "ip rule show"),
        ("neighbours", "ip neigh show nud permanent"),
        ("settings", "sysctl -a -r ^net\\.ipv[46]\\.(conf|neigh)\\.eth"),
    ];
    let plain = |text: String| -> String {
        let words = |line: &str| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            // How addresses are told is ours: routes of their prefixes are compared as routes.
            words.retain(|word| !matches!(*word, "noprefixroute" | "nodad"));
            // Namespaces are numbered as they are met, and named if somebody can name them.
            if let Some(at) = words.iter().position(|word| word.starts_with("link-netns")) {
                words.drain(at..at + 2);
            }
            words.join(" ")
        };
        let mut lines: Vec<String> = text.lines().filter(|line| !line.contains("stable_secret")).map(words).collect();
        lines.sort();
        lines.join("\n")
    };
    commands.into_iter().map(|(name, words)| (name, plain(run(&pod.namespace, words)))).collect()
}

/// The first global address of a family.
pub(crate) fn address(pod: &Pod, family: u8) -> String {
    let text = run(&pod.namespace, &format!("ip -{family} -o address show dev eth0 scope global"));
    let address = text.split_whitespace().nth(3).unwrap_or_else(|| panic!("no address: {text}"));
    address.split('/').next().unwrap().to_owned()
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let pause = Duration::from_millis(10);
    let mut rest = PATIENCE;
    while !holds() {
        rest = rest.checked_sub(pause).unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"));
        std::thread::sleep(pause);
    }
}
