//! What the tests share: objects, pods, and a node that runs.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::protocol::{self, Call, CallError, Pod, PodWire};
use cni::state::{End, PodIdentity};
use control::command::CommandResult;
use control::daemon::config::Config;
use control::node::wirer::Notice;
use control::node::{Handles, api, serve};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api_server::Server;
use crate::engine::{TestEngine, TestWirer};

/// Longer than anything takes that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let output = runtime.block_on(test);
    runtime.shutdown_background();
    output
}

/// A server with two namespaces and the node.
pub(crate) async fn cluster() -> Server {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.apply("namespaces", json!({"metadata": {"name": name, "labels": {"team": name}}}));
    }
    let addresses = json!([{"type": "InternalIP", "address": "192.168.0.1"}]);
    server.apply("nodes", json!({"metadata": {"name": "n0"}, "status": {"addresses": addresses}}));
    server
}

/// A pod as the API server has it; without an address it is pending.
pub(crate) fn pod(name: &str, labels: Value, address: Option<&str>) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let addresses: Vec<_> = address.iter().map(|address| json!({ "ip": address })).collect();
    let phase = if address.is_some() { "Running" } else { "Pending" };
    json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": labels,
            "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"nodeName": "n0", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIPs": addresses}})
}

/// A policy that lets pods with a label in, to port 80; nobody without.
pub(crate) fn allow_in(name: &str, from: Option<&str>) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let rules: Vec<_> = from
        .iter()
        .map(|from| json!({"from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"port": 80}]}))
        .collect();
    json!({"metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules}})
}

/// What the plugin tells of a pod: one wire, in container `c-NAME`.
pub(crate) fn sandbox(name: &str, address: &str) -> Pod {
    let (namespace, name) = name.split_once('/').unwrap();
    let end = |interface: &str| End { netns: format!("/pins/{name}").into(), interface: interface.into(), index: 2 };
    Pod {
        container: format!("c-{name}"),
        pod: PodIdentity { namespace: namespace.into(), name: name.into(), uid: format!("uid-{name}") },
        sandbox: format!("/netns/{name}").into(),
        wires: vec![PodWire {
            interface: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            addresses: vec![address.parse().unwrap(), "fe80::1".parse().unwrap()],
            mtu: 1500,
            inside: end("inside"),
            outside: end("outside"),
            host_interface: "veth0".into(),
        }],
    }
}

/// The name of a pod's wire.
pub(crate) fn wire(name: &str) -> String {
    format!("c-{}/eth0", name.split_once('/').unwrap().1)
}

/// A directory of a node, which outlives control.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    pub(crate) engine: Arc<TestEngine>,
    pub(crate) wirer: Arc<TestWirer>,
    url: String,
}

impl Place {
    pub(crate) fn new(server: &Server) -> Place {
        let directory = tempfile::tempdir().unwrap();
        Place { directory, engine: Arc::default(), wirer: Arc::default(), url: server.url() }
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with("pods: adopt", "off")
    }

    /// `more`: further lines of the configuration.
    pub(crate) fn start_with(&self, more: &str, metrics: &str) -> Running {
        let path = self.directory.path();
        let text = format!(
            "kubernetes: {{server: '{}'}}\nnode: n0\n{more}\nmetrics: {{address: '{metrics}'}}\npaths: {{run: {path}, state: {path}/state}}\n",
            self.url,
            path = path.display()
        );
        let file = path.join("config.yaml");
        std::fs::write(&file, &text).unwrap();
        let config = Config::parse(&file, &text).unwrap();
        let [cni, api] = ["cni.sock", "api.sock"].map(|name| {
            let socket = path.join(name);
            let _none = std::fs::remove_file(&socket);
            UnixListener::bind(socket).unwrap()
        });
        let (notices, notified) = unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let handles =
            Handles { engine: self.engine.clone(), wirer: self.wirer.clone(), notices: notified, cni, api, config };
        let ended = async {
            let _ended = stopped.await;
        };
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || runtime.block_on(serve(handles, ended)));
        Running { sockets: path.to_owned(), notices, stop, task }
    }
}

/// A node that is ready.
pub(crate) async fn begun(server: &Server) -> (Place, Running) {
    let place = Place::new(server);
    let node = place.start();
    node.ready().await;
    (place, node)
}

/// Control that runs.
pub(crate) struct Running {
    sockets: PathBuf,
    pub(crate) notices: UnboundedSender<Notice>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<CommandResult>,
}

impl Running {
    pub(crate) async fn stop(self) {
        let _running = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }

    /// A call of the plugin that goes on beside the test.
    pub(crate) fn begin(&self, call: Call) -> JoinHandle<Result<(), CallError>> {
        let socket = self.sockets.join("cni.sock");
        tokio::task::spawn_blocking(move || protocol::ask(&socket, call, PATIENCE))
    }

    pub(crate) async fn call(&self, call: Call) -> Result<(), CallError> {
        self.begin(call).await.unwrap()
    }

    pub(crate) async fn add(&self, name: &str, address: &str) {
        self.call(Call::Add(sandbox(name, address))).await.unwrap();
    }

    /// Waits until pods may come.
    pub(crate) async fn ready(&self) {
        let began = Instant::now();
        while let Err(error) = self.call(Call::Status).await {
            assert!(began.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All lines of an answer.
    pub(crate) async fn ask(&self, request: api::Request) -> Vec<Value> {
        let socket = self.sockets.join("api.sock");
        let lines = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            protocol::write(&mut stream, &request).unwrap();
            BufReader::new(stream).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
        });
        lines.await.unwrap()
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
