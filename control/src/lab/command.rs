//! `penstock lab`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use dataplane::port::PortKind;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::expect::Expectation;
use super::watch::Watch;
use super::world::INTERNET;
use super::{Lab, LabError, LabOptions, Look, Matrix, Result, Service};
use crate::policy::cluster::Cluster;
use crate::policy::manifest;

/// Build the pods of manifests as network namespaces on this machine, and see who reaches whom.
#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    /// Manifests: a file, a directory, or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
    /// The kind of the wires' ports
    #[arg(long, value_enum, default_value_t = PortChoice::AfPacket)]
    pub port: PortChoice,
    /// Probe this port of every pod, instead of each pod's container ports (TCP/80, UDP/53); may be given several times
    #[arg(long = "probe", value_name = "PROTOCOL/PORT")]
    pub probes: Vec<Service>,
    /// One more address of the outside host; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub external: Vec<IpAddr>,
    /// Open a shell inside a pod (NAMESPACE/NAME, or 'outside'), and end with it
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
    /// How the matrix is written
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
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

/// Forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people
    #[default]
    Table,
    /// A line of JSON for each matrix
    Json,
}

/// The exit code of the contract for an error.
pub fn exit_code(error: &LabError) -> ExitCode {
    match error {
        LabError::Input(_) => ExitCode::from(2),
        LabError::System(_) => ExitCode::from(3),
    }
}

/// Runs the command to its end, which may be a signal.
///
/// # Errors
/// None: what goes wrong is told on stderr, and the exit code says it. The type is that of every command.
pub fn run(args: &LabArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(lab(args)).unwrap_or_else(|error| {
        eprintln!("penstock: {error}");
        exit_code(&error)
    });
    Ok(code)
}

async fn lab(args: &LabArgs) -> Result<ExitCode> {
    let expectation = args.expect.as_deref().map(Expectation::read).transpose()?;
    // Before the files are read, so that no edit falls between.
    let follows = !args.once && expectation.is_none();
    let watch = follows.then(|| Watch::start(&args.files)).transpose()?;
    let cluster = load(&args.files)?;
    // From here on a signal ends the lab in order.
    let mut stop = Stop::listen()?;
    let mut lab = Lab::start(&cluster, options(args, expectation.as_ref()))?;
    if let Some(pod) = &args.shell {
        // A name that nobody has is told before the matrix, not after it.
        lab.namespace(pod)?;
    }
    let Some(matrix) = stop.or(lab.matrix()).await.transpose()? else { return Ok(ExitCode::SUCCESS) };
    if let Some(expectation) = expectation {
        return Ok(compare(args, &matrix, &expectation));
    }
    show(args, &matrix, None);
    let Some(watch) = watch else { return Ok(ExitCode::SUCCESS) };
    match &args.shell {
        Some(pod) => shell(&mut lab, args, pod, watch, &mut stop).await?,
        None => follow(&mut lab, args, matrix, watch, &mut stop).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads manifests; warnings go to stderr.
pub(super) fn load(files: &[PathBuf]) -> Result<Cluster> {
    let loaded = manifest::load(files).map_err(|errors| LabError::Input(errors.to_string()))?;
    for warning in &loaded.warnings {
        eprintln!("penstock: warning: {warning}");
    }
    Ok(loaded.cluster)
}

fn options(args: &LabArgs, expectation: Option<&Expectation>) -> LabOptions {
    let expected = expectation.iter().flat_map(|expectation| &expectation.external);
    let mut external: Vec<IpAddr> = args.external.iter().chain(expected).copied().collect();
    if external.is_empty() {
        external.extend(INTERNET);
    }
    let port = (!args.no_enforce).then(|| args.port.kind());
    LabOptions { port, probes: args.probes.clone(), external }
}

fn show(args: &LabArgs, matrix: &Matrix, before: Option<&Matrix>) {
    match args.output {
        Output::Table => println!("{}", matrix.to_table(before, Look::of_stdout())),
        Output::Json => println!("{}", matrix.to_json(before)),
    }
}

fn compare(args: &LabArgs, matrix: &Matrix, expectation: &Expectation) -> ExitCode {
    show(args, matrix, None);
    let differences = expectation.differences(matrix);
    for difference in &differences {
        eprintln!("{difference}");
    }
    let all = matrix.results.len();
    eprintln!("{} of {all} probes as expected", all - differences.len());
    if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Draws the matrix anew after each edit, until a signal comes.
async fn follow(lab: &mut Lab, args: &LabArgs, first: Matrix, mut watch: Watch, stop: &mut Stop) -> Result<()> {
    let mut before = first;
    if args.output == Output::Table {
        println!("Edit the files and the matrix is drawn again. Ctrl-C ends the lab.\n");
    }
    loop {
        if stop.or(watch.edited()).await.is_none() {
            return Ok(());
        }
        if !apply_edit(lab, &args.files) {
            continue;
        }
        let Some(matrix) = stop.or(lab.matrix()).await.transpose()? else { return Ok(()) };
        show(args, &matrix, Some(&before));
        before = matrix;
    }
}

/// Takes an edit over. What cannot be read or built is told, and what was stays in force.
fn apply_edit(lab: &mut Lab, files: &[PathBuf]) -> bool {
    let applied = load(files).and_then(|cluster| lab.apply(&cluster));
    if let Err(error) = &applied {
        eprintln!("penstock: {error}\nThe edit is refused; what was in force before it stays.");
    }
    applied.is_ok()
}

/// A shell inside a pod. Edits are applied while it runs, without drawing over it.
async fn shell(lab: &mut Lab, args: &LabArgs, pod: &str, mut watch: Watch, stop: &mut Stop) -> Result<()> {
    let program =
        std::env::var_os("SHELL").filter(|shell| Path::new(shell).exists()).unwrap_or_else(|| "/bin/sh".into());
    let mut command = lab.command(pod)?;
    // Should the lab be killed, the shell's namespace is gone, and so shall the shell be.
    command.args(["setpriv", "--pdeathsig", "HUP", "--"]).arg(program);
    command.env("PS1", format!("[{pod}] \\$ ")).env("PENSTOCK_POD", pod);
    let mut child = tokio::process::Command::from(command)
        .spawn()
        .map_err(|error| LabError::system("start a shell with nsenter and setpriv (util-linux)", error))?;
    loop {
        tokio::select! {
            _ = child.wait() => return Ok(()),
            () = stop.wait() => {
                let _ = child.kill().await;
                return Ok(());
            }
            () = watch.edited() => {
                apply_edit(lab, &args.files);
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
