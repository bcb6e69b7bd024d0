//! A node's daemon as three processes of one program: who has privileges parses nothing, who parses has none.
//!
//! ```text
//!              wirer (root): sockets of wires, files of flows, listening sockets, penstock-cni
//!      starts, watches, ends │                                          │
//!                            ▼                                          ▼
//!              dataplane: workers, rules' compiler  ◀── Engine ──  control: API server, pods, people
//!              (no privileges, no files, no network)               (no privileges)
//! ```
//! | process | has | does not |
//! |---|---|---|
//! | [`wirer`] | all privileges that there are; every descriptor | read a packet, talk to a network |
//! | [`dataplane`] | descriptors that it was given; seccomp's short list of calls | open a file or a socket |
//! | [`control`] | an unprivileged user; the network, `/var/lib/penstock` | touch a namespace or a device |
//!
//! Whichever of the two children dies is started again. A dataplane that died is told the rules first and is given the wires then; its
//! flows are in files, and each is judged again before its next frame passes. A control that died cuts nothing: the dataplane goes
//! on by the rules that it has. When the wirer ends, by whatever signal, the kernel kills both, and nothing passes.

use std::path::PathBuf;
use std::time::Duration;

use crate::command::Failure;
use crate::daemon::config::{Config, MidStream, NodeConfig};

pub mod channel;
pub mod control;
pub mod dataplane;
pub mod features;
mod message;
mod remote;
mod seal;
pub mod wirer;

pub use remote::{RemoteEngine, RemoteWirer};

/// The user that the unprivileged processes run as, unless something else is said: by convention nobody's in particular.
pub const UNPRIVILEGED: u32 = 65_532;

/// The hidden subcommands by which the program becomes one of the others.
const DATAPLANE: &str = "dataplane";
const CONTROL: &str = "control";

/// How long a dataplane may owe an answer: longer than a loaded machine takes, shorter than people wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the three processes are set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file, and what is in it: control may not be able to read it.
    pub config: (PathBuf, String),
    /// For each worker of the dataplane the CPU that it is pinned to, if it is.
    pub workers: Vec<Option<usize>>,
    /// Flows that each worker can hold.
    pub flows: usize,
    /// For how long after the start connections are picked up midway.
    pub mid_stream: Option<Duration>,
    /// Sockets, pinned namespaces, flows: `/run/penstock`.
    pub run: PathBuf,
    /// What control keeps: `/var/lib/penstock`.
    pub state: PathBuf,
    /// `penstock-cni`, as the host's mount namespace has it.
    pub plugin: PathBuf,
    /// The runtime's CNI configuration, as the host's mount namespace has it.
    pub conflists: PathBuf,
    /// The mount namespace in which `penstock-cni` is run, if that is not the wirer's own: `/proc/1/ns/mnt`.
    pub host_mounts: Option<PathBuf>,
    /// The user, and group, of the unprivileged processes.
    pub user: u32,
    /// By which arguments this program becomes the dataplane, and control.
    pub arguments: [Vec<String>; 2],
    /// How long the dataplane may owe an answer before it is taken for hung, killed and replaced.
    pub patience: Duration,
}

impl Settings {
    /// What the configuration of a node comes to.
    ///
    /// # Errors
    /// When the file can't be read any more.
    pub fn of(config: &Config, node: &NodeConfig) -> Result<Settings, Failure> {
        let text = std::fs::read_to_string(&config.file)
            .map_err(|error| Failure::BadInput(format!("{}: {error}", config.file.display())))?;
        Ok(Settings {
            config: (config.file.clone(), text),
            workers: config.workers.clone(),
            flows: config.flows,
            mid_stream: match config.mid_stream {
                MidStream::Refuse => None,
                MidStream::Adopt(window) => Some(window),
                // A gateway's choice, and there are only pods here.
                MidStream::Always => Some(Duration::from_secs(1 << 30)),
            },
            run: node.paths.run.clone(),
            state: node.paths.state.clone(),
            plugin: node.paths.plugin.clone(),
            conflists: node.paths.conflists.clone(),
            host_mounts: host_mounts(),
            user: UNPRIVILEGED,
            arguments: [vec![DATAPLANE.to_owned()], vec![CONTROL.to_owned()]],
            patience: PATIENCE,
        })
    }
}

/// The host's mount namespace, if it is not this process's own: that of the first process, where it can be seen (`hostPID`), unless
/// `PENSTOCK_HOST_MOUNTS` names another one; empty, it is this process's own.
fn host_mounts() -> Option<PathBuf> {
    match std::env::var_os("PENSTOCK_HOST_MOUNTS") {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None => {
            let first = PathBuf::from("/proc/1/ns/mnt");
            let (own, host) = (std::fs::read_link("/proc/self/ns/mnt").ok(), std::fs::read_link(&first).ok());
            (host.is_some() && own != host).then_some(first)
        }
    }
}

/// Makes the calling process end with the process that started it, and unable to gain privileges: for the start of a child.
///
/// # Errors
/// When the kernel refuses.
fn bind_to_parent() -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// The channel to the process that started this one, which is its standard input.
fn parent() -> std::io::Result<std::os::unix::net::UnixStream> {
    use std::os::fd::AsFd;
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// The hidden subcommand by which a process enters a mount namespace and becomes another program.
const IN_MOUNTS: &str = "in-mounts";

/// Enters the mount namespace at a path, and becomes the program. Answers only when that fails.
///
/// # Errors
/// When the namespace may not be entered (CAP_SYS_ADMIN and, for another process's, CAP_SYS_PTRACE are needed), or there is no
/// such program in it (exit code 3).
pub fn in_mounts(
    mounts: &std::path::Path,
    program: &std::path::Path,
    words: &[String],
) -> crate::command::CommandResult {
    use std::os::unix::process::CommandExt;
    let fail = |what: &std::path::Path, error: std::io::Error| {
        crate::command::Failure::System(format!("{}: {error}", what.display()))
    };
    let namespace = std::fs::File::open(mounts).map_err(|error| fail(mounts, error))?;
    let kind = rustix::thread::LinkNameSpaceType::Mount;
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
        .map_err(|error| fail(mounts, error.into()))?;
    Err(fail(program, std::process::Command::new(program).args(words).exec()))
}
