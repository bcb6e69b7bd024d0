//! The configuration file as it is written: its fields and no others.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dataplane::port::PortKind as EnginePortKind;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use super::ConfigError;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    pub(super) policy: Option<PathBuf>,
    pub(super) rules: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) wires: Option<Vec<Wire>>,
    pub(super) kubernetes: Option<Kubernetes>,
    pub(super) node: Option<String>,
    pub(super) pods: Option<RunningPods>,
    pub(super) paths: Option<Paths>,
    pub(super) startup_taint: Option<String>,
    pub(super) events: Option<Events>,
    pub(super) node_port: Option<NodePort>,
    pub(super) service_mixed: Option<ServiceMixed>,
    pub(super) kube_proxy: Option<KubeProxy>,
    pub(super) workers: Option<Workers>,
    pub(super) flows: Option<usize>,
    pub(super) mid_stream: Option<MidStream>,
    pub(super) metrics: Option<Metrics>,
    pub(super) log: Option<Log>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kubernetes {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<String>,
    pub(super) server: Option<String>,
}

/// What happens to pods that run already when Penstock comes to their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunningPods {
    /// They are put behind wires.
    #[default]
    Adopt,
    /// They stay as they are, unguarded, and are reported.
    Leave,
}

/// By whom a connection is judged that comes to a pod from its own node's address. What the node itself began always passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum NodePort {
    /// By the client that kube-proxy hid behind the node's address.
    #[default]
    OriginalClient,
    /// By the node's address, as any other: who is hidden behind it passes where a policy allows that address.
    PostSnat,
    /// By nobody: whatever has the node's address passes.
    Allow,
}

/// What becomes of a connection to a Service of whose endpoints policy allows only some, where it is not known which one it reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceMixed {
    /// It is dropped.
    #[default]
    Deny,
    /// It passes.
    Allow,
}

/// Whether kube-proxy rewrites addresses on the node, where the kernel's connection tracking sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// It is found out.
    #[default]
    Auto,
    /// It does, whatever is found out.
    Present,
    /// It does not: what comes from the node's address is taken for the node.
    Absent,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    pub(super) denied: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paths {
    pub(super) run: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) plugin: Option<PathBuf>,
    pub(super) conflists: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Wire {
    pub(super) name: String,
    pub(super) pod: Option<String>,
    pub(super) mac: Option<String>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) traffic: Option<Traffic>,
    pub(super) tracking: Option<bool>,
    pub(super) placement: Option<Placement>,
    pub(super) host: Option<Vec<String>>,
    pub(super) forward: Option<bool>,
    pub(super) dnat: Option<Vec<String>>,
    pub(super) non_ip: Option<NonIp>,
    pub(super) inside: Port,
    pub(super) outside: Port,
}

/// What becomes of frames on a gateway's wire that are neither IP nor ARP: STP, LLDP, PPPoE and others. No rule can mean them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonIp {
    /// They pass, as they do by iptables.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

/// Where a wire of a gateway stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Placement {
    Transparent,
    HostInside,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Endpoint {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<String>,
}

/// What happens to the traffic of a wire that no policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// It passes, if it is well-formed.
    Allow,
    /// It does not.
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) kind: PortKind,
    pub(super) interface: String,
    pub(super) namespace: Option<String>,
    pub(super) queue: Option<u32>,
    #[serde(rename = "as")]
    pub(super) known_as: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PortKind {
    AfPacket,
    AfXdp,
    Tap,
    Tun,
}

impl From<PortKind> for EnginePortKind {
    fn from(kind: PortKind) -> Self {
        match kind {
            PortKind::AfPacket => EnginePortKind::AfPacket,
            PortKind::AfXdp => EnginePortKind::AfXdp,
            PortKind::Tap => EnginePortKind::Tap,
            PortKind::Tun => EnginePortKind::Tun,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "write a number of workers, or a list such as [{cpu: 0}, {cpu: 1}]")]
pub(super) enum Workers {
    Count(u32),
    Pinned(Vec<Worker>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Worker {
    pub(super) cpu: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum MidStream {
    Refuse,
    Always,
    Adopt { seconds: u64 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Option<LogLevel>,
    pub(super) format: Option<LogFormat>,
    pub(super) drops: Option<Drops>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Drops {
    pub(super) file: Option<PathBuf>,
    pub(super) per_second: Option<u32>,
    pub(super) burst: Option<u32>,
}

/// How important a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Something may not work as meant.
    Warn,
    /// What a person who looks after the daemon wants to know.
    #[default]
    Info,
    /// What a person who searches for a fault wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// The form of log messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line of text each.
    #[default]
    Text,
    /// A JSON object each.
    Json,
}

/// Reads the YAML.
pub(super) fn read(path: &Path, text: &str) -> Result<File, ConfigError> {
    let mut field = None;
    let result = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            field = Some(error.path().to_string()).filter(|path| path != "." && path != "?");
            error.into_inner()
        })
    });
    result.map_err(|error| {
        let line = error.location().map(|location| location.line()).filter(|&line| line > 0);
        ConfigError { file: path.to_owned(), field: field.unwrap_or_default(), line, reason: reason(&error) }
    })
}

/// The parser's message without its excerpt of the file and without the place, which stands before it.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.rfind(" at line ").map_or(text, |at| &text[..at]);
    let text = text.find(", set DuplicateKeyPolicy").map_or(text, |at| &text[..at]);
    match text.trim_end_matches([':', ' ']) {
        "" | "unexpected end of input" => {
            "the file ends too early; it needs at least kubernetes, or policy and wires".to_owned()
        }
        "invalid u32" | "invalid u64" | "invalid usize" => "it must be a whole number".to_owned(),
        text if text.starts_with("missing field") => format!("{text}; add it"),
        text => text.to_owned(),
    }
}
