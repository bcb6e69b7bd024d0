//! The CNI plugin: ADD, DEL, CHECK, GC, STATUS and VERSION, as the CNI specification has them (SPEC.md, versions 0.3.1,
//! 0.4.0, 1.0.0 and 1.1.0).
//!
//! It is chained only: a primary has made the pod's interfaces, and its result is passed on as it came, byte for byte.
//! What is printed is one JSON document or nothing; everything else goes to the log.
//!
//! ADD asks the daemon first (so that a node on which it does not run yet is left as it was, and the runtime tries again),
//! makes the splice, and tells the daemon, which answers when the wires carry frames under a policy that knows the pod.
//!
//! The entry at the end of a conflist, with what may be said and what holds otherwise:
//! ```json
//! {
//!   "type": "penstock-cni",
//!   "socket": "/run/penstock/cni.sock",
//!   "directory": "/run/penstock/netns",
//!   "timeoutSeconds": 20,
//!   "logFile": "/var/log/penstock/cni.log"
//! }
//! ```
//! Without `logFile` the log goes to standard error. Codes of errors: 1, 4, 5, 6, 7, 11 and 50 as the specification has
//! them; 100 a step was refused by the system, 101 the pod's interfaces cannot be put behind wires, 102 the daemon refused,
//! 103 CHECK found something that is not as ADD made it.

mod config;
mod error;
mod log;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::netns::Namespace;
use crate::protocol::{self, Call, Pod};
use crate::splice::{self, Target};
use crate::state::{PodIdentity, Splice, Store};

pub use config::Environment;
pub use error::PluginError;

use config::{Config, DAEMON_LETS_GO};
use error::code;
use log::Log;

/// Versions of the specification that are spoken.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Runs what the runtime asked for. Answers what is to be printed.
///
/// # Errors
/// What is to be printed as an error, with the specification's code.
pub fn run(environment: &Environment, input: impl Read) -> Result<String, PluginError> {
    let command = environment.command()?;
    if command == "VERSION" {
        return Ok(version(input));
    }
    let config = Config::read(input)?;
    let invocation = Invocation {
        environment,
        log: Log::new(config.log_file.clone(), command, environment.container.as_deref()),
        store: Store::at(&config.directory),
        timeout: Duration::from_secs(config.timeout_seconds),
        config,
    };
    let answer = match command {
        "ADD" => invocation.add(),
        "DEL" => invocation.delete(),
        "CHECK" => invocation.since("0.4.0", command).and_then(|()| invocation.check()),
        "GC" => invocation.since("1.1.0", command).and_then(|()| invocation.collect_garbage()),
        "STATUS" => invocation.since("1.1.0", command).and_then(|()| invocation.status()),
        other => Err(PluginError::new(
            code::ENVIRONMENT,
            format!("CNI_COMMAND is {other:?}: ADD, DEL, CHECK, GC, STATUS and VERSION are known"),
        )),
    };
    answer.map_err(|error| {
        invocation.log.line(&error.to_string());
        error.of_version(&invocation.config.version)
    })
}

/// What VERSION answers, whatever it was asked with.
fn version(input: impl Read) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        cni_version: String,
        supported_versions: [&'static str; 4],
    }
    let asked = Config::version_of(input).unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].to_owned());
    let versions = Versions { cni_version: asked, supported_versions: VERSIONS };
    serde_json::to_string(&versions).unwrap_or_default()
}

struct Invocation<'a> {
    environment: &'a Environment,
    config: Config,
    log: Log,
    store: Store,
    timeout: Duration,
}

impl Invocation<'_> {
    fn since(&self, version: &str, command: &str) -> Result<(), PluginError> {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if place(&self.config.version) >= place(version) {
            return Ok(());
        }
        let asked = &self.config.version;
        Err(PluginError::new(
            code::VERSION,
            format!("{command} is there since {version}; the configuration has {asked}"),
        ))
    }

    fn host(&self) -> Result<Namespace, PluginError> {
        Ok(Namespace::current()?)
    }

    fn ask(&self, call: Call, timeout: Duration) -> Result<(), PluginError> {
        Ok(protocol::ask(&self.config.socket, call, timeout)?)
    }

    fn add(&self) -> Result<String, PluginError> {
        let container = self.environment.container()?;
        let netns = self.environment.netns()?;
        let attachment = self.environment.interface()?;
        let result = self.config.previous_result()?;
        self.ask(Call::Status, self.timeout)?;
        let host = self.host()?;
        let pod = self.environment.pod();
        let target = Target { container, netns, attachment, network: Some(&self.config.name), pod };
        let outcome = splice::splice(&self.store, &host, &target)?;
        for warning in &outcome.warnings {
            self.log.line(warning);
        }
        if outcome.splice.wires.is_empty() {
            return Err(PluginError::new(
                code::UNSUITABLE,
                "no interface of the pod is one end of a veth pair to the host: \
                 penstock needs a primary plugin that makes one (ptp, bridge, the AWS VPC CNI, …)",
            ));
        }
        if let Err(error) = self.ask(Call::Add(Pod::from(&outcome.splice)), self.timeout) {
            self.roll_back(&host, &outcome.splice, attachment);
            return Err(error);
        }
        self.log.line(&format!(
            "{} wires, {} made now, cut off for {:?}",
            outcome.splice.wires.len(),
            outcome.made,
            outcome.cut
        ));
        Ok(result.get().to_owned())
    }

    /// Leaves the pod as the primary made it, so that DEL finds what it knows.
    fn roll_back(&self, host: &Namespace, splice: &Splice, attachment: &str) {
        self.let_go(splice, attachment);
        if let Err(error) = splice::unsplice(&self.store, host, &splice.container, Some(attachment)) {
            self.log.line(&format!("undoing the splice: {error}"));
        }
    }

    /// Has the daemon close its ports, if there is one.
    fn let_go(&self, splice: &Splice, attachment: &str) {
        let ours = splice.wires.iter().filter(|wire| wire.attachment == attachment);
        let interfaces: Vec<String> = ours.map(|wire| wire.interface.clone()).collect();
        if interfaces.is_empty() {
            return;
        }
        let call = Call::Remove { container: splice.container.clone(), interfaces };
        if let Err(error) = self.ask(call, self.timeout.min(DAEMON_LETS_GO)) {
            self.log.line(&error.to_string());
        }
    }

    fn delete(&self) -> Result<String, PluginError> {
        let container = self.environment.container()?;
        let attachment = self.environment.interface()?;
        let netns = self.environment.netns.as_deref();
        self.end(container, attachment, netns)?;
        Ok(String::new())
    }

    fn end(&self, container: &str, attachment: &str, netns: Option<&Path>) -> Result<(), PluginError> {
        // A file that cannot be read is told by what follows.
        if let Ok(Some(splice)) = self.store.find(container) {
            self.let_go(&splice, attachment);
        }
        let removed = splice::remove(&self.store, &self.host()?, container, Some(attachment), netns)?;
        self.log.line(&format!("{removed} wires removed"));
        Ok(())
    }

    fn check(&self) -> Result<String, PluginError> {
        let container = self.environment.container()?;
        self.environment.netns()?;
        self.environment.interface()?;
        self.config.previous_result()?;
        let faults = splice::verify(&self.store, &self.host()?, container)?;
        if !faults.is_empty() {
            return Err(PluginError::new(code::NOT_AS_MADE, faults.join("; ")));
        }
        if let Some(splice) = self.store.find(container)? {
            self.ask(Call::Check(Pod::from(&splice)), self.timeout)?;
        }
        Ok(String::new())
    }

    /// Ends what this network made for attachments that the runtime does not know any more. One failure does not keep it
    /// from the others.
    fn collect_garbage(&self) -> Result<String, PluginError> {
        let valid = self.config.valid_attachments()?;
        let (splices, broken) = self.store.list()?;
        let mut failures: Vec<String> = broken.iter().map(ToString::to_string).collect();
        for splice in &splices {
            let ours = splice.wires.iter().filter(|wire| wire.network.as_deref() == Some(&self.config.name));
            let mut attachments: Vec<&str> = ours.map(|wire| wire.attachment.as_str()).collect();
            attachments.sort_unstable();
            attachments.dedup();
            attachments.retain(|name| !valid.iter().any(|known| known.is(&splice.container, name)));
            for attachment in attachments {
                let ended = self.end(&splice.container, attachment, None);
                failures.extend(ended.err().map(|error| format!("{}: {error}", splice.container)));
            }
        }
        if failures.is_empty() { Ok(String::new()) } else { Err(PluginError::new(code::SPLICE, failures.join("; "))) }
    }

    fn status(&self) -> Result<String, PluginError> {
        let answer = self.ask(Call::Status, self.timeout);
        answer.map(|()| String::new()).map_err(|error| error.with_code(code::NOT_AVAILABLE))
    }
}

impl Environment {
    fn pod(&self) -> PodIdentity {
        PodIdentity {
            namespace: self.argument("K8S_POD_NAMESPACE"),
            name: self.argument("K8S_POD_NAME"),
            uid: self.argument("K8S_POD_UID"),
        }
    }
}
