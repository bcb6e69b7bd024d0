//! The place: a client, a gateway that routes and translates addresses, a server outside, and a cable between the client and the gateway
//! that a wire can be put into.
//!
//! ```text
//!   client eth0 ── lan [cable] wan ── lan (lan0) gateway wan (wan0) ── eth0 server
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long something may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

pub(crate) const CLIENT: [&str; 2] = ["10.91.1.2", "fd91:1::2"];
pub(crate) const INSIDE: [&str; 2] = ["10.91.1.1", "fd91:1::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["10.91.2.1", "fd91:2::1"];
pub(crate) const SERVER: [&str; 2] = ["10.91.2.2", "fd91:2::2"];

/// A child process that ends with the test.
pub(crate) struct Background(pub(crate) Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Runs a program that must succeed, and gives what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !condition() {
        assert!(waited < PATIENCE, "this has not come about: {what}");
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

pub(crate) struct Site {
    pub(crate) client: String,
    pub(crate) cable: String,
    pub(crate) gateway: String,
    pub(crate) server: String,
    pub(crate) directory: tempfile::TempDir,
    /// nginx and the others.
    servers: Vec<Background>,
}

impl Site {
    /// With servers, the kernel's routes and nat rules, and no filter rules.
    pub(crate) fn new() -> Site {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = |role| format!("psg-{}-{}-{role}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut site = Site {
            client: name("client"),
            cable: name("cable"),
            gateway: name("gateway"),
            server: name("server"),
            directory: tempfile::tempdir().unwrap(),
            servers: Vec::new(),
        };
        let Site { client, cable, gateway, server, .. } = &site;
        let mut script = "set -e\n".to_owned();
        for namespace in [client, cable, gateway, server] {
            script += &format!("ip netns add {namespace}\nip -n {namespace} link set lo up\n");
        }
        script += &format!(
            "ip netns exec {cable} sysctl -qw net.ipv6.conf.default.disable_ipv6=1\n\
             ip -n {client} link add eth0 type veth peer name lan netns {cable}\n\
             ip -n {cable} link add wan type veth peer name lan netns {gateway}\n\
             ip -n {gateway} link add wan type veth peer name eth0 netns {server}\n\
             ip -n {cable} link add bridge type bridge\n\
             ip -n {cable} link set lan master bridge\nip -n {cable} link set wan master bridge\n\
             for name in lan wan bridge; do ip -n {cable} link set $name up; done\n\
             ip netns exec {gateway} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n"
        );
        script += &addresses(client, "eth0", CLIENT);
        script += &addresses(gateway, "lan", INSIDE);
        script += &addresses(gateway, "wan", OUTSIDE);
        script += &addresses(server, "eth0", SERVER);
        script += &format!(
            "ip -n {client} route add default via {}\nip -n {client} -6 route add default via {}\n\
             ip -n {server} -6 route add default via {}\n",
            INSIDE[0], INSIDE[1], OUTSIDE[1]
        );
        // The server has no route to the client: without the kernel's NAT no IPv4 packet gets an answer.
        script += &format!(
            "ip netns exec {gateway} iptables -t nat -A POSTROUTING -s 10.91.1.0/24 -o wan -j MASQUERADE\n\
             ip netns exec {gateway} iptables -t nat -A PREROUTING -i wan -p tcp --dport 8443 -j DNAT --to {}\n",
            CLIENT[0]
        );
        run(Command::new("sh").args(["-c", &script]));
        site.serve();
        site
    }

    fn serve(&mut self) {
        for (namespace, ports) in [
            (self.server.clone(), &[80, 81, 82, 83, 443][..]),
            (self.gateway.clone(), &[23, 113, 2222]),
            (self.client.clone(), &[8443, 9000]),
        ] {
            let directory = self.directory.path().join(&namespace);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("file"), vec![b'x'; 300_000]).unwrap();
            let listen: String = ports.iter().map(|port| format!("listen {port}; listen [::]:{port};\n")).collect();
            let root = directory.display();
            let conf = format!(
                "daemon off; pid {root}/pid; error_log {root}/error; worker_processes 1; user root;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; client_body_temp_path {root}/t; proxy_temp_path {root}/t; fastcgi_temp_path {root}/t;\n\
                 uwsgi_temp_path {root}/t; scgi_temp_path {root}/t; server {{ {listen} root {root}; }} }}\n"
            );
            fs::write(directory.join("conf"), conf).unwrap();
            let mut nginx = self.inside(&namespace, "nginx");
            nginx.arg("-p").arg(&directory).arg("-c").arg(directory.join("conf"));
            self.start(nginx);
            until("nginx listens", || !self.listening(&namespace, ports[0]).is_empty());
        }
        let mut iperf = self.inside(&self.server, "iperf3");
        iperf.args(["-s", "-p", "5201"]);
        self.start(iperf);
        let mut dns = self.inside(&self.server, "dnsmasq");
        dns.args(["-k", "-C", "/dev/null", "-u", "root", "-R", "-h", "-A", "/web.test/192.0.2.80", "--pid-file="]);
        self.start(dns);
        until("iperf3 listens", || !self.listening(&self.server, 5201).is_empty());
        until("dnsmasq listens", || !self.listening(&self.server, 53).is_empty());
    }

    fn listening(&self, namespace: &str, port: u16) -> String {
        run(self.inside(namespace, "ss").args(["-ltnH", &format!("sport = :{port}")]))
    }

    fn start(&mut self, mut command: Command) {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.servers.push(Background(child.unwrap_or_else(|error| panic!("{command:?}: {error}"))));
    }

    /// A program inside a namespace.
    pub(crate) fn inside(&self, namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }

    /// A shell script in a namespace.
    pub(crate) fn sh(&self, namespace: &str, script: &str) -> String {
        run(self.inside(namespace, "sh").args(["-ec", script]))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `penstock` with these arguments.
    pub(crate) fn penstock(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// The same, which must succeed; what it prints.
    pub(crate) fn tell(&self, arguments: &[&str]) -> String {
        let output = self.penstock(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "penstock {arguments:?}: {}: {complaint}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same of a command for the running daemon.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        self.penstock(&[arguments, &["--socket", "gateway.sock"]].concat())
    }

    /// The configuration for a wire in the cable.
    pub(crate) fn transparent(&self, kind: &str) -> String {
        let cable = &self.cable;
        // A veth pair has a queue for each CPU: over two workers each flow is owned by one of them.
        let workers = if kind == "af_xdp" { 2 } else { 1 };
        format!(
            "workers: {workers}\nrules: rules.yaml\nstate: state\nsocket: gateway.sock\nmetrics: {{address: 'off'}}\nmidStream: always\nwires:\n\
             - name: cable\n  placement: transparent\n  inside: {{kind: {kind}, interface: lan, namespace: {cable}}}\n  \
             outside: {{kind: {kind}, interface: wan, namespace: {cable}}}\n"
        )
    }

    /// Takes the bridge out of the cable.
    pub(crate) fn cut(&self) {
        self.sh(&self.cable, "ip link del bridge; ip link set lan nomaster; ip link set wan nomaster");
    }

    /// Starts the daemon in a namespace, or here, and waits until it is ready.
    pub(crate) fn daemon(&self, namespace: Option<&str>, config: &str) -> Daemon {
        let config = self.write("penstock.yaml", config);
        let program = env!("CARGO_BIN_EXE_penstock");
        let mut command = match namespace {
            Some(namespace) => self.inside(namespace, program),
            None => Command::new(program),
        };
        let (log, lines) = (self.path("log"), self.path("lines"));
        let (to_log, to_lines) = (File::create(&log).unwrap(), File::create(&lines).unwrap());
        command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(to_lines).stderr(to_log);
        let mut daemon = Daemon { child: Background(command.spawn().unwrap()), log, lines };
        until("the daemon is ready", || {
            let ended = daemon.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {}", daemon.log());
            daemon.log().contains(" ready ")
        });
        daemon
    }
}

fn addresses(namespace: &str, interface: &str, [v4, v6]: [&str; 2]) -> String {
    format!(
        "ip -n {namespace} address add {v4}/24 dev {interface}\nip -n {namespace} address add {v6}/64 dev {interface} nodad\n\
         ip -n {namespace} link set {interface} up\n"
    )
}

impl Drop for Site {
    fn drop(&mut self) {
        self.servers.clear();
        for namespace in [&self.client, &self.cable, &self.gateway, &self.server] {
            let _gone = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) child: Background,
    log: PathBuf,
    lines: PathBuf,
}

impl Daemon {
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }

    /// What it told of packets so far, whole lines only.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        let text = read(&self.lines);
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(mut self) {
        run(Command::new("kill").arg(self.child.0.id().to_string()));
        let status = self.child.0.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}", self.log());
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
