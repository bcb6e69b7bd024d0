//! What the runtime says: environment and standard input.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::VERSIONS;
use super::error::{PluginError, code};
use crate::{protocol, state};

/// How long DEL waits for a daemon to close its ports: it goes on without.
pub(super) const DAEMON_LETS_GO: Duration = Duration::from_secs(3);

/// Environment variables of a call. Which are needed depends on the command.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub interface: Option<String>,
    /// `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.
    pub arguments: String,
}

impl Environment {
    /// Those of the process. An empty variable is none.
    pub fn of_process() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |value: OsString| value.to_string_lossy().into_owned();
        Environment {
            command: variable("CNI_COMMAND").map(text),
            container: variable("CNI_CONTAINERID").map(text),
            netns: variable("CNI_NETNS").map(PathBuf::from),
            interface: variable("CNI_IFNAME").map(text),
            arguments: variable("CNI_ARGS").map(text).unwrap_or_default(),
        }
    }

    pub(super) fn command(&self) -> Result<&str, PluginError> {
        needed(self.command.as_deref(), "CNI_COMMAND")
    }

    pub(super) fn container(&self) -> Result<&str, PluginError> {
        let container = needed(self.container.as_deref(), "CNI_CONTAINERID")?;
        let rule = "letters, digits, '.', '_' and '-', the first a letter or digit";
        well_formed(container, "CNI_CONTAINERID", state::is_container(container), rule)
    }

    pub(super) fn netns(&self) -> Result<&Path, PluginError> {
        needed(self.netns.as_deref(), "CNI_NETNS")
    }

    pub(super) fn interface(&self) -> Result<&str, PluginError> {
        let interface = needed(self.interface.as_deref(), "CNI_IFNAME")?;
        let is_name = interface.len() < 16 && !interface.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        let rule = "at most 15 characters without '/', ':' and spaces";
        well_formed(interface, "CNI_IFNAME", is_name && interface != "." && interface != "..", rule)
    }

    /// One of `CNI_ARGS`; an empty text if it is not there.
    pub(super) fn argument(&self, name: &str) -> String {
        let pairs = self.arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next_back().unwrap_or_default()
    }
}

fn needed<'a, T: ?Sized>(value: Option<&'a T>, name: &str) -> Result<&'a T, PluginError> {
    value.ok_or_else(|| PluginError::new(code::ENVIRONMENT, format!("the environment variable {name} is missing")))
}

fn well_formed<'a>(value: &'a str, name: &str, is_so: bool, rule: &str) -> Result<&'a str, PluginError> {
    let wrong = || PluginError::new(code::ENVIRONMENT, format!("the environment variable {name} is {value:?}: {rule}"));
    is_so.then_some(value).ok_or_else(wrong)
}

/// The plugin's entry in the network's list, as the runtime completes it. What others put there is not looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    #[serde(rename = "cniVersion", default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) name: String,
    prev_result: Option<Box<RawValue>>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// Where the daemon listens.
    #[serde(default = "default_socket")]
    pub(super) socket: PathBuf,
    /// Where splices are written down.
    #[serde(default = "default_directory")]
    pub(super) directory: PathBuf,
    /// How long the daemon may take for an answer.
    #[serde(default = "default_timeout")]
    pub(super) timeout_seconds: u64,
    /// Where to write what happens; standard error unless set.
    pub(super) log_file: Option<PathBuf>,
}

fn default_socket() -> PathBuf {
    protocol::DEFAULT_SOCKET.into()
}

fn default_directory() -> PathBuf {
    state::DEFAULT_DIRECTORY.into()
}

fn default_timeout() -> u64 {
    20
}

/// An attachment that the runtime knows.
#[derive(Debug, Deserialize)]
pub(super) struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

impl Attachment {
    pub(super) fn is(&self, container: &str, interface: &str) -> bool {
        self.container == container && self.interface == interface
    }
}

impl Config {
    /// Reads the entry, and looks whether its version is spoken here.
    pub(super) fn read(mut input: impl Read) -> Result<Config, PluginError> {
        let mut text = Vec::new();
        input.read_to_end(&mut text).map_err(|error| {
            PluginError::new(code::INPUT, format!("the configuration on standard input can't be read: {error}"))
        })?;
        let config: Config = serde_json::from_slice(&text).map_err(|error| {
            PluginError::new(code::DECODE, format!("the configuration on standard input is not one: {error}"))
        })?;
        if !VERSIONS.contains(&config.version.as_str()) {
            return Err(PluginError::new(
                code::VERSION,
                format!(
                    "cniVersion {:?} is not supported; penstock-cni speaks {}",
                    config.version,
                    VERSIONS.join(", ")
                ),
            ));
        }
        if config.timeout_seconds == 0 {
            return Err(PluginError::new(code::CONFIG, "timeoutSeconds: 0 is no time to answer in"));
        }
        Ok(config)
    }

    /// The version alone, as far as there is one.
    pub(super) fn version_of(input: impl Read) -> Option<String> {
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(rename = "cniVersion")]
            version: String,
        }
        serde_json::from_reader(input).ok().map(|Versioned { version }| version)
    }

    /// The result of the plugins before, as it came.
    pub(super) fn previous_result(&self) -> Result<&RawValue, PluginError> {
        self.prev_result.as_deref().ok_or_else(|| {
            PluginError::new(
                code::CONFIG,
                "prevResult is missing: penstock-cni makes no interface itself; put it last into the list of plugins of a \
                 conflist, behind the primary",
            )
        })
    }

    /// What the runtime says is in use. That it says nothing is not to be taken for "nothing".
    pub(super) fn valid_attachments(&self) -> Result<&[Attachment], PluginError> {
        self.valid_attachments
            .as_deref()
            .ok_or_else(|| PluginError::new(code::CONFIG, "cni.dev/valid-attachments is missing: nothing was removed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_kept_as_it_came() {
        let odd = r#"{ "ips":[ ],  "mac":"0", "interfaces":[{"name":"dummy","sandbox":"0","mtu":1e3}],"x":1.50 }"#;
        let text =
            format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"penstock-cni","prevResult":{odd},"more":[1]}}"#);
        let config = Config::read(text.as_bytes()).unwrap();
        assert_eq!(config.previous_result().unwrap().get(), odd);
    }

    #[test]
    fn configurations_are_refused_with_the_specifications_code() {
        let code_of = |text: &str| Config::read(text.as_bytes()).unwrap_err().code();
        assert_eq!(code_of("{"), code::DECODE);
        assert_eq!(code_of(r#"{"cniVersion":"0.2.0"}"#), code::VERSION);
        assert_eq!(code_of(r#"{"name":"n"}"#), code::VERSION);
        assert_eq!(code_of(r#"{"cniVersion":"1.0.0","timeoutSeconds":0}"#), code::CONFIG);
        for none in ["", r#","prevResult":null"#] {
            let config = Config::read(format!(r#"{{"cniVersion":"1.1.0"{none}}}"#).as_bytes()).unwrap();
            assert_eq!(config.previous_result().unwrap_err().code(), code::CONFIG);
            assert_eq!(config.valid_attachments().unwrap_err().code(), code::CONFIG);
        }
    }

    #[test]
    fn arguments_are_found_by_name() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=".to_owned();
        let environment = Environment { arguments, ..Environment::default() };
        assert_eq!(environment.argument("K8S_POD_NAME"), "web-0");
        assert_eq!(environment.argument("K8S_POD_UID"), "");
        assert_eq!(environment.argument("NAME"), "");
    }
}
