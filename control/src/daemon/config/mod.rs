//! The configuration file of `penstock run`: what may stand in it, and every way in which it can be wrong.
//!
//! A file is read in two steps. [`file`] mirrors the YAML, field by field; an unknown field is an error. Here the result
//! is checked as a whole and turned into what the daemon works with: relative paths start at the file's own directory,
//! names are unique, defaults are filled in. Nothing here asks the system whether an interface exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::gateway::placement::Placement;
use dataplane::address::MacAddress;
use dataplane::port::PortKind;
use dataplane::wire::Tracking;

mod file;
mod gateway;
mod node;
#[cfg(test)]
mod tests;

pub use file::{KubeProxy, LogFormat, LogLevel, NodePort, NonIp, RunningPods, ServiceMixed};
pub use gateway::GatewayConfig;
pub use node::{NodeConfig, Paths};

/// Where metrics are served when the file does not say.
pub const METRICS_ADDRESS: &str = "127.0.0.1:9967";
/// Flows that each worker can hold when the file does not say.
pub const FLOWS: usize = 65_536;
/// What a flow table may hold: below it nothing useful fits, above it is a slip of the hand.
const FLOWS_RANGE: std::ops::RangeInclusive<usize> = 1_024..=16_777_216;
/// The kernel numbers a device's queues with 16 bits.
const MAX_QUEUE: u32 = 65_535;
/// The most workers: one a CPU, on the largest machines.
const MAX_WORKERS: usize = 1_024;
/// The longest window for adopting connections that began before the daemon: an hour, in seconds.
const MAX_ADOPT: u64 = 3_600;
/// On a node that adopts running pods, how long after the start of its engine their connections are picked up, unless the file says.
const ADOPTED_FOR: Duration = Duration::from_secs(120);
/// Lines a second in the log of drops when the file does not say, and how many may come at once.
const DROP_LINES: (u32, u32) = (20, 100);

/// Why a configuration is refused: file, field, reason and remedy in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The field's path (`wires[0].inside.kind`); empty when the file as a whole is meant.
    pub field: String,
    /// The line, from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// A configuration that makes sense in itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file that it was read from.
    pub file: PathBuf,
    /// A node of a cluster, whose policies and pods come from its API server; then `policy` and `wires` are empty.
    pub node: Option<NodeConfig>,
    /// Where the manifests are: a directory, or one file. `None` without a wire that they could be for.
    pub policy: Option<PathBuf>,
    /// The rules of wires that are a gateway's.
    pub gateway: Option<GatewayConfig>,
    /// The wires, in the order of the file.
    pub wires: Vec<WireConfig>,
    /// The workers, each with the CPU that it is pinned to, if it is.
    pub workers: Vec<Option<usize>>,
    /// Flows that each worker can hold.
    pub flows: usize,
    /// What to do with TCP connections that began before the daemon did.
    pub mid_stream: MidStream,
    /// Where metrics and health are served; nowhere, if `None`.
    pub metrics: Option<SocketAddr>,
    /// What is logged.
    pub log: LogConfig,
}

/// What to do with a TCP segment in the middle of an unknown connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MidStream {
    /// Drop it (`tcp_not_syn`).
    #[default]
    Refuse,
    /// For this long after the start, take it for a live connection if policy allows that connection.
    Adopt(Duration),
    /// Always take it for one, unless it ends a connection, as Linux does; what a gateway does unless the file says otherwise.
    Always,
}

/// A wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireConfig {
    /// Its name, unique in the file.
    pub name: String,
    /// Who is inside.
    pub occupant: Occupant,
    /// Whether frames are judged by their connection, or each by itself. A pod's always by their connection.
    pub tracking: Tracking,
    /// The port towards the inside.
    pub inside: PortConfig,
    /// The port towards everything else.
    pub outside: PortConfig,
}

/// Who is inside of a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// A pod: its addresses and labels come from its manifest.
    Pod {
        /// `namespace/name`.
        name: String,
        /// Its MAC address; read from the interface's peer if not given.
        mac: Option<MacAddress>,
    },
    /// Something with known addresses that is no pod: no NetworkPolicy selects it.
    Endpoint {
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Its MAC address; read from the interface's peer if not given.
        mac: Option<MacAddress>,
        /// What happens to its traffic.
        traffic: Traffic,
    },
    /// Many hosts, or the gateway itself, and the gateway's rules decide.
    Gateway(Placement, NonIp),
    /// Many hosts, such as a subnet behind a gateway's interface; they may speak for any address.
    Subnet {
        /// What happens to their traffic.
        traffic: Traffic,
    },
}

impl Occupant {
    /// The pod's name, if a pod is inside.
    pub fn pod(&self) -> Option<&str> {
        match self {
            Occupant::Pod { name, .. } => Some(name),
            Occupant::Endpoint { .. } | Occupant::Gateway(..) | Occupant::Subnet { .. } => None,
        }
    }
}

pub use file::Traffic;

/// One end of a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The kind: `af_packet`, `af_xdp`, `tap` or `tun`.
    pub kind: PortKind,
    /// The interface: an existing one, or for `tap` and `tun` the one to make.
    pub interface: String,
    /// The network namespace that the interface is in: a name, a path, or a process number; the daemon's own if `None`.
    pub namespace: Option<String>,
    /// The receive queue of an `af_xdp` port; all that the interface has if `None`, shared out to the workers.
    pub queue: Option<u32>,
}

impl fmt::Display for PortConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.interface)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// The least important messages that are still written.
    pub level: LogLevel,
    /// The form of the messages on standard error.
    pub format: LogFormat,
    /// The log of dropped frames.
    pub drops: DropLogConfig,
}

/// The log of dropped frames: JSON lines.
#[derive(Clone, Debug, PartialEq)]
pub struct DropLogConfig {
    /// The file that lines are appended to; standard output if `None`.
    pub file: Option<PathBuf>,
    /// Lines a second; 0 switches the log off.
    pub per_second: u32,
    /// Lines that may come at once after a quiet time.
    pub burst: u32,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read, is no YAML, or says something impossible.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: path.to_owned(),
            field: String::new(),
            line: None,
            reason: format!("the configuration cannot be read ({error}); name an existing file with --config"),
        })?;
        Config::parse(path, &text)
    }

    /// Checks the text of a configuration file. `path` names it in errors, and its directory is where relative paths
    /// start.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let checker = Checker { path };
        let mut file = file::read(path, text)?;
        let node = checker.node(&mut file)?;
        let wires = match &node {
            Some(_) => Vec::new(),
            None => checker.wires(file.wires.take().unwrap_or_default())?,
        };
        let gateway = checker.gateway(&mut file, &wires)?;
        let workers = checker.workers(file.workers)?;
        let flows = file.flows.unwrap_or(FLOWS);
        if !FLOWS_RANGE.contains(&flows) {
            let (least, most) = (FLOWS_RANGE.start(), FLOWS_RANGE.end());
            return Err(checker.error("flows", format!("{flows} is not a sensible size; write {least} to {most}")));
        }
        Ok(Config {
            file: path.to_owned(),
            policy: file.policy.map(|policy| checker.relative(&policy)),
            wires,
            workers,
            flows,
            mid_stream: match (file.mid_stream, &node) {
                // Flows of pods that are adopted began before their wires did.
                (None, Some(NodeConfig { pods: RunningPods::Adopt, .. })) => MidStream::Adopt(ADOPTED_FOR),
                (None, None) if gateway.is_some() => MidStream::Always,
                (choice, _) => checker.mid_stream(choice)?,
            },
            metrics: checker.metrics(file.metrics)?,
            log: checker.log(file.log),
            gateway,
            node,
        })
    }
}

/// The checks of a whole file.
struct Checker<'a> {
    path: &'a Path,
}

impl Checker<'_> {
    fn error(&self, field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
        ConfigError { file: self.path.to_owned(), field: field.into(), line: None, reason: reason.into() }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn wires(&self, wires: Vec<file::Wire>) -> Result<Vec<WireConfig>, ConfigError> {
        if wires.is_empty() {
            return Err(self.error("wires", "there is no wire; describe at least one, with a name, inside and outside"));
        }
        let mut names = BTreeSet::new();
        let mut pods: BTreeMap<String, String> = BTreeMap::new();
        let mut ports: BTreeMap<(Option<String>, String), String> = BTreeMap::new();
        let mut checked = Vec::new();
        for (index, wire) in wires.into_iter().enumerate() {
            let field = format!("wires[{index}]");
            let wire = self.wire(&field, wire)?;
            if !names.insert(wire.name.clone()) {
                let reason = format!("another wire is named {:?} already; names must differ", wire.name);
                return Err(self.error(format!("{field}.name"), reason));
            }
            if let Some(pod) = wire.occupant.pod()
                && let Some(other) = pods.insert(pod.to_owned(), wire.name.clone())
            {
                let reason = format!("pod {pod} is behind wire {other} already; a pod has one wire");
                return Err(self.error(format!("{field}.pod"), reason));
            }
            for (side, port) in [("inside", &wire.inside), ("outside", &wire.outside)] {
                let place = (port.namespace.clone(), port.interface.clone());
                if let Some(other) = ports.insert(place, format!("{field}.{side}")) {
                    let reason = format!("{} is used by {other} already; each port needs its own", port.interface);
                    return Err(self.error(format!("{field}.{side}.interface"), reason));
                }
            }
            checked.push(wire);
        }
        Ok(checked)
    }

    fn wire(&self, field: &str, wire: file::Wire) -> Result<WireConfig, ConfigError> {
        let printable = wire.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if wire.name.is_empty() || wire.name.len() > 63 || !printable {
            let reason = format!("{:?} is not a wire's name; use 1 to 63 letters, digits, -, _, . or /", wire.name);
            return Err(self.error(format!("{field}.name"), reason));
        }
        let placement = self.placement(field, &wire)?;
        let non_ip = wire.non_ip.unwrap_or_default();
        let inside = self.port(&format!("{field}.inside"), wire.inside)?;
        let outside = self.port(&format!("{field}.outside"), wire.outside)?;
        if (inside.kind == PortKind::Tun) != (outside.kind == PortKind::Tun) {
            let reason = "a tun port carries no Ethernet header and the other one does; make both tun, or use tap";
            return Err(self.error(field, reason));
        }
        let occupant = match placement {
            Some(placement) => Occupant::Gateway(placement, non_ip),
            None => self.occupant(field, wire.pod, wire.mac, wire.endpoint, wire.traffic)?,
        };
        let tracking = match (wire.tracking, occupant.pod()) {
            (Some(false), Some(_)) => {
                let reason = "NetworkPolicy lets replies pass, which needs tracking; leave tracking away";
                return Err(self.error(format!("{field}.tracking"), reason));
            }
            (Some(false), None) => Tracking::Off,
            _ => Tracking::Stateful,
        };
        Ok(WireConfig { name: wire.name, occupant, tracking, inside, outside })
    }

    fn occupant(
        &self,
        field: &str,
        pod: Option<String>,
        mac: Option<String>,
        endpoint: Option<file::Endpoint>,
        traffic: Option<Traffic>,
    ) -> Result<Occupant, ConfigError> {
        let fail = |field: String, reason: &str| Err(self.error(field, reason));
        let no_traffic = "what passes is not said; write `traffic: allow` to let everything pass that is well-formed, \
                          or `traffic: deny`: no NetworkPolicy selects what is no pod";
        match (pod, endpoint) {
            (Some(_), Some(_)) => {
                fail(format!("{field}.endpoint"), "a wire has a pod or an endpoint; leave one of them away")
            }
            (Some(_), None) if traffic.is_some() => {
                fail(format!("{field}.traffic"), "policies decide for a pod; leave traffic away")
            }
            (Some(pod), None) => Ok(Occupant::Pod {
                name: self.pod(&format!("{field}.pod"), pod)?,
                mac: self.mac(&format!("{field}.mac"), mac)?,
            }),
            (None, _) if mac.is_some() => {
                fail(format!("{field}.mac"), "mac goes with pod; for anything else write it into endpoint")
            }
            (None, Some(endpoint)) => {
                if endpoint.addresses.is_empty() {
                    return fail(
                        format!("{field}.endpoint.addresses"),
                        "an endpoint without an address can send nothing; list its addresses, or leave endpoint away",
                    );
                }
                let mut seen = BTreeSet::new();
                if let Some(again) = endpoint.addresses.iter().position(|address| !seen.insert(*address)) {
                    let field = format!("{field}.endpoint.addresses[{again}]");
                    return fail(field, "the address is in the list already; leave it away here");
                }
                let Some(traffic) = traffic else { return fail(format!("{field}.traffic"), no_traffic) };
                let mac = self.mac(&format!("{field}.endpoint.mac"), endpoint.mac)?;
                Ok(Occupant::Endpoint { addresses: endpoint.addresses, mac, traffic })
            }
            (None, None) => match traffic {
                Some(traffic) => Ok(Occupant::Subnet { traffic }),
                None => fail(format!("{field}.traffic"), no_traffic),
            },
        }
    }

    fn pod(&self, field: &str, pod: String) -> Result<String, ConfigError> {
        match pod.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => Ok(pod),
            _ => Err(self.error(field, format!("{pod:?} is not a pod; write NAMESPACE/NAME, such as default/web"))),
        }
    }

    fn mac(&self, field: &str, mac: Option<String>) -> Result<Option<MacAddress>, ConfigError> {
        let Some(text) = mac else { return Ok(None) };
        let mac: MacAddress = text.parse().map_err(|reason: String| self.error(field, reason))?;
        if mac.is_group() || mac == MacAddress::default() {
            return Err(self.error(field, format!("{mac} cannot be an interface's own address; write the endpoint's")));
        }
        Ok(Some(mac))
    }

    fn port(&self, field: &str, port: file::Port) -> Result<PortConfig, ConfigError> {
        let kind = port.kind.into();
        let good = (1..=15).contains(&port.interface.len())
            && !port.interface.contains(['/', ':'])
            && !port.interface.contains(char::is_whitespace)
            && port.interface != "."
            && port.interface != "..";
        if !good {
            let reason =
                format!("{:?} is not an interface name; use 1 to 15 characters, no slash, no space", port.interface);
            return Err(self.error(format!("{field}.interface"), reason));
        }
        if port.queue.is_some() && kind != PortKind::AfXdp {
            let reason = "only an af_xdp port has a queue; leave it away or change the kind";
            return Err(self.error(format!("{field}.queue"), reason));
        }
        if port.queue.is_some_and(|queue| queue > MAX_QUEUE) {
            let reason = format!("no interface has a queue of that number; the greatest possible is {MAX_QUEUE}");
            return Err(self.error(format!("{field}.queue"), reason));
        }
        if port.namespace.as_deref().is_some_and(|name| name.is_empty() || name.contains(char::is_whitespace)) {
            let reason = "a namespace's name has letters and no spaces; leave it away for the daemon's own";
            return Err(self.error(format!("{field}.namespace"), reason));
        }
        Ok(PortConfig { kind, interface: port.interface, namespace: port.namespace, queue: port.queue })
    }

    fn workers(&self, workers: Option<file::Workers>) -> Result<Vec<Option<usize>>, ConfigError> {
        let workers = match workers {
            None => vec![None],
            Some(file::Workers::Count(count)) => vec![None; (count as usize).min(MAX_WORKERS + 1)],
            Some(file::Workers::Pinned(list)) => {
                let mut cpus = BTreeSet::new();
                for (index, worker) in list.iter().enumerate() {
                    if worker.cpu.is_some_and(|cpu| !cpus.insert(cpu)) {
                        let reason = "another worker is pinned to that CPU already; give each its own";
                        return Err(self.error(format!("workers[{index}].cpu"), reason));
                    }
                }
                list.into_iter().map(|worker| worker.cpu).collect()
            }
        };
        if workers.is_empty() || workers.len() > MAX_WORKERS {
            return Err(self.error(
                "workers",
                format!("there must be 1 to {MAX_WORKERS} workers; one a CPU is the most that helps"),
            ));
        }
        Ok(workers)
    }

    fn mid_stream(&self, choice: Option<file::MidStream>) -> Result<MidStream, ConfigError> {
        match choice {
            None | Some(file::MidStream::Refuse) => Ok(MidStream::Refuse),
            Some(file::MidStream::Always) => Ok(MidStream::Always),
            Some(file::MidStream::Adopt { seconds }) if (1..=MAX_ADOPT).contains(&seconds) => {
                Ok(MidStream::Adopt(Duration::from_secs(seconds)))
            }
            Some(file::MidStream::Adopt { seconds }) => {
                let reason = format!("{seconds} seconds is not a bounded window; write 1 to {MAX_ADOPT}");
                Err(self.error("midStream.adopt.seconds", reason))
            }
        }
    }

    fn metrics(&self, metrics: Option<file::Metrics>) -> Result<Option<SocketAddr>, ConfigError> {
        let text = match metrics {
            Some(file::Metrics { address: Some(address) }) => address,
            Some(file::Metrics { address: None }) | None => METRICS_ADDRESS.to_owned(),
        };
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            let reason = format!("{text:?} is not ADDRESS:PORT; write {METRICS_ADDRESS}, [::]:9967, or off");
            self.error("metrics.address", reason)
        })
    }

    fn log(&self, log: Option<file::Log>) -> LogConfig {
        let log = log.unwrap_or_default();
        let drops = log.drops.unwrap_or_default();
        let per_second = drops.per_second.unwrap_or(DROP_LINES.0);
        LogConfig {
            level: log.level.unwrap_or_default(),
            format: log.format.unwrap_or_default(),
            drops: DropLogConfig {
                file: drops.file.filter(|file| file != Path::new("-")).map(|file| self.relative(&file)),
                per_second,
                burst: drops.burst.unwrap_or(DROP_LINES.1.max(per_second)).max(1),
            },
        }
    }
}
