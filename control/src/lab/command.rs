//! `penstock lab`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dataplane::port::PortKind;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::expect::Expectation;
use super::watch::Watch;
use super::world::{INTERNET, World};
use super::{Lab, LabError, LabOptions, Look, Matrix, NodePort, Result, Service};
use crate::command::{CommandResult, ManifestArgs, Outcome, Output, load, load_again, write_stdout};

/// Build the pods of manifests as network namespaces on this machine, and see who reaches whom.
#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    #[command(flatten)]
    /// The objects.
    pub manifests: ManifestArgs,
    /// The kind of the wires' ports
    #[arg(long, value_enum, default_value_t = PortChoice::AfPacket)]
    pub port: PortChoice,
    /// Probe this port of every pod, instead of each pod's container ports (TCP/80, UDP/53); may be given several times
    #[arg(long = "probe", value_name = "PROTOCOL/PORT")]
    pub probes: Vec<Service>,
    /// One more address of the outside host, beside 203.0.113.10, 2001:db8::10 (or those of --expect) and those that
    /// ipBlocks suggest; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub external: Vec<IpAddr>,
    /// Open a shell inside a pod (NAMESPACE/NAME, or 'outside'), and end with it: exit code 0 when the shell ends with
    /// 0, else 1
    #[arg(long, value_name = "POD")]
    pub shell: Option<String>,
    /// Show the matrix once and end
    #[arg(long, conflicts_with = "shell")]
    pub once: bool,
    /// Compare with what this file expects, and end: exit code 1 when anything is otherwise
    #[arg(long, value_name = "FILE", conflicts_with = "shell")]
    pub expect: Option<PathBuf>,
    /// Straight cables instead of wires: nothing is enforced
    #[arg(long)]
    pub no_enforce: bool,
    /// By whom a connection is judged that comes from a pod's own node, where the manifests hold Services
    #[arg(long, value_enum, default_value_t)]
    pub node_port: NodePort,
    /// How the matrix is written
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub output: Output,
}

/// Kinds of port that the lab can build wires of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum PortChoice {
    /// AF_PACKET sockets on veth pairs
    AfPacket,
    /// AF_XDP sockets on veth pairs
    AfXdp,
    /// TAP devices
    Tap,
}

impl PortChoice {
    /// The engine's name for it.
    pub fn kind(self) -> PortKind {
        match self {
            PortChoice::AfPacket => PortKind::AfPacket,
            PortChoice::AfXdp => PortKind::AfXdp,
            PortChoice::Tap => PortKind::Tap,
        }
    }
}

/// Runs the command to its end, which may be a signal.
///
/// # Errors
/// Bad input, or a refusal of the system; nothing of the lab is left behind.
pub fn run(args: &LabArgs) -> CommandResult {
    Ok(runtime()?.block_on(lab(args))?)
}

/// What the lab's servers and probes run on.
pub(super) fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| LabError::system("start the threads of the probes", error))
}

async fn lab(args: &LabArgs) -> Result<Outcome> {
    let expectation = args.expect.as_deref().map(Expectation::read).transpose()?;
    // Before the files are read, so that no edit falls between.
    let follows = !args.once && expectation.is_none();
    let watch = follows.then(|| Watch::start(&args.manifests.paths)).transpose()?;
    let cluster = args.manifests.load()?;
    let options = options(args, expectation.as_ref());
    if World::of(&cluster, &options.external, options.internet)?.pods.is_empty() {
        let reason = "the objects hold no pod that is alive: name files with Pod objects too (-f)";
        return Err(LabError::Input(reason.to_owned()));
    }
    // From here on a signal ends the lab in order.
    let mut stop = Stop::listen()?;
    let mut lab = Lab::start(&cluster, options)?;
    warn_of_left_out(&lab);
    if let Some(pod) = &args.shell {
        // A name that nobody has is told before the matrix, not after it.
        lab.namespace(pod)?;
    }
    let Some(matrix) = stop.or(lab.matrix()).await.transpose()? else { return Ok(Outcome::Done) };
    if let Some(expectation) = expectation {
        return compare(args, &matrix, &expectation);
    }
    show(args, &matrix, None)?;
    let Some(watch) = watch else { return Ok(Outcome::Done) };
    match &args.shell {
        Some(pod) => shell(&mut lab, args, pod, watch, &mut stop).await,
        None => follow(&mut lab, args, matrix, watch, &mut stop).await.map(|()| Outcome::Done),
    }
}

fn options(args: &LabArgs, expectation: Option<&Expectation>) -> LabOptions {
    let expected = expectation.iter().flat_map(|expectation| &expectation.external);
    let external = args.external.iter().chain(expected).copied().collect();
    // An expectation that names external addresses names all that take part.
    let internet = expectation.is_none_or(|expectation| expectation.external.is_empty());
    let port = (!args.no_enforce).then(|| args.port.kind());
    LabOptions { port, probes: args.probes.clone(), external, internet, node_port: args.node_port }
}

fn warn_of_left_out(lab: &Lab) {
    for address in INTERNET.into_iter().filter(|_| lab.options.internet) {
        if let Some(owner) = lab.world().owner(address) {
            eprintln!("penstock: warning: the outside host goes without {address}: {owner} has it");
        }
    }
}

fn show(args: &LabArgs, matrix: &Matrix, before: Option<&Matrix>) -> Result<()> {
    let text = match args.output {
        Output::Text => matrix.to_table(before, Look::of_stdout()),
        Output::Json => matrix.to_json(before),
    };
    print(&text)
}

/// Prints a text and the end of its last line.
pub(super) fn print(text: &str) -> Result<()> {
    write_stdout(&format!("{text}\n")).map_err(|failure| LabError::System(failure.to_string()))
}

fn compare(args: &LabArgs, matrix: &Matrix, expectation: &Expectation) -> Result<Outcome> {
    show(args, matrix, None)?;
    let differences = expectation.differences(matrix);
    for difference in &differences {
        eprintln!("{difference}");
    }
    let all = matrix.results.len();
    eprintln!("{} of {all} probes as expected", all - differences.len());
    Ok(if differences.is_empty() { Outcome::Done } else { Outcome::No })
}

/// Draws the matrix anew after each edit, until a signal comes.
async fn follow(lab: &mut Lab, args: &LabArgs, first: Matrix, mut watch: Watch, stop: &mut Stop) -> Result<()> {
    let mut before = first;
    if args.output == Output::Text {
        print("Edit the files and the matrix is drawn again. Ctrl-C ends the lab.\n")?;
    }
    loop {
        if stop.or(watch.edited()).await.is_none() {
            return Ok(());
        }
        if !apply_edit(lab, &args.manifests.paths) {
            continue;
        }
        let Some(matrix) = stop.or(lab.matrix()).await.transpose()? else { return Ok(()) };
        show(args, &matrix, Some(&before))?;
        before = matrix;
    }
}

/// Takes an edit over. What cannot be read or built is told, and what was stays in force.
fn apply_edit(lab: &mut Lab, files: &[PathBuf]) -> bool {
    let read = lab.cluster().map_or_else(|| load(files), |before| load_again(files, before));
    let applied = read.and_then(|cluster| Ok(lab.apply(&cluster)?));
    if let Err(error) = &applied {
        eprintln!("penstock: {error}\nThe edit is refused; what was in force before it stays.");
    }
    applied.is_ok()
}

/// A shell inside a pod. Edits are applied while it runs, without drawing over it. The outcome is the shell's.
async fn shell(lab: &mut Lab, args: &LabArgs, pod: &str, mut watch: Watch, stop: &mut Stop) -> Result<Outcome> {
    let program =
        std::env::var_os("SHELL").filter(|shell| Path::new(shell).exists()).unwrap_or_else(|| "/bin/sh".into());
    let mut command = lab.command(pod)?;
    // Should the lab be killed, the shell's namespace is gone, and so shall the shell be.
    command.args(["setpriv", "--pdeathsig", "HUP", "--"]).arg(program);
    if args.output == Output::Text {
        print(&lab.banner(pod)?)?;
    }
    command.env("PS1", format!("[{pod}] \\$ ")).env("PENSTOCK_POD", pod);
    let mut child = tokio::process::Command::from(command)
        .spawn()
        .map_err(|error| LabError::system("start a shell with nsenter and setpriv (util-linux)", error))?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|error| LabError::system("wait for the shell", error))?;
                return Ok(if status.success() { Outcome::Done } else { Outcome::No });
            }
            () = stop.wait() => {
                let _ = child.kill().await;
                return Ok(Outcome::Done);
            }
            () = watch.edited() => {
                apply_edit(lab, &args.manifests.paths);
            }
        }
    }
}

/// The signals that end a lab in order.
pub(super) struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    pub(super) fn listen() -> Result<Stop> {
        let listen = |kind| signal(kind).map_err(|error| LabError::system("listen for signals", error));
        Ok(Stop {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for one of them.
    pub(super) async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// What the work gives, or `None` when a signal comes first.
    pub(super) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.wait() => None,
            result = work => Some(result),
        }
    }
}
