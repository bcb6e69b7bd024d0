//! The wirer: the one process with privileges. It opens what the others need, keeps it while they come and go, and reads no packet.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use tracing::{error, info, warn};

use self::child::{Child, Role};
use self::plugin::Plugin;
use self::wires::Wires;
use super::Settings;
use super::message::{Answer, Ask, FromDataplane, Request, ToControl, ToDataplane};
use crate::command::{CommandResult, Failure, Outcome};
use crate::node::wirer::Notice;
use crate::sockets;

mod child;
mod flows;
mod leave;
mod links;
mod lookups;
mod plugin;
mod wires;

pub use leave::{UNINSTALL, is_leaving, leave};

/// How often the dataplane is asked whether it lives.
const PING: Duration = Duration::from_secs(1);

/// How long the dataplane may take to start: files of flows for millions of them are looked through.
const START: Duration = Duration::from_secs(60);

/// What is said when control cannot even begin; it has said why itself.
const CANNOT_BEGIN: &str = "control cannot begin, for the reason that it told above";

/// How long control may take to end.
const END: Duration = Duration::from_secs(5);

/// What the wirer waits for.
enum Input {
    /// A signal for it.
    Signal(Signal),
    /// A child spoke; of which start it is.
    Dataplane(u64, FromDataplane),
    Control(u64, Request),
    /// A child has ended, how, and with which exit code.
    Ended(Role, u64, String, Option<i32>),
    /// The answer to control's request of this number, found by a thread.
    Answered(u64, u64, Result<Answer, String>),
    /// The host's interfaces have changed, or it is time to look.
    Links,
    /// Splices have been looked after.
    Tended(Result<(), String>),
}

/// Runs a node's daemon until a signal ends it: starts control and dataplane, and starts them again when they die.
///
/// # Errors
/// When the system refuses what is needed at the start.
pub fn run(settings: Settings) -> CommandResult {
    let _lock = prepare(&settings)?;
    // Where pods are behind wires the kernel has it all, and each moment is one in which nothing passes.
    if !Wires::at(settings.run.join("netns")).spliced().is_ok_and(|pods| !pods.is_empty()) {
        super::features::require().map_err(Failure::System)?;
    }
    let cni = listen(&settings.run.join("cni.sock"))?;
    let api = listen(&settings.run.join("api.sock"))?;
    let (inputs, receiver) = channel();
    signals(inputs.clone()).map_err(Failure::system)?;
    links::watch(inputs.clone())
        .map_err(|error| Failure::System(format!("watching the host's interfaces: {error}")))?;
    let mid_stream = settings.mid_stream.map(|window| now() + u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
    let mut wirer = Running {
        wires: Wires::at(settings.run.join("netns")),
        plugin: Plugin::of(&settings),
        dataplane: Child::new(Role::Dataplane),
        control: Child::new(Role::Control),
        is_ready: false,
        ping: Ping { next: Instant::now(), asked: 0, answered: 0, since: Instant::now() },
        is_tending: false,
        tend_again: true,
        told_plugin: None,
        settings,
        inputs,
        listeners: [cni, api],
        mid_stream,
    };
    wirer.run(&receiver)
}

fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Makes the directories, and keeps a second wirer from them: it waits until the first one ends. A new version is started beside the old
/// one so that between the two nothing passes for no longer than it takes to open sockets.
fn prepare(settings: &Settings) -> Result<File, Failure> {
    let fail = |path: &Path, error: io::Error| Failure::System(format!("{}: {error}", path.display()));
    for directory in
        [settings.run.clone(), settings.run.join("flows"), settings.state.clone(), settings.run.join("control")]
    {
        std::fs::create_dir_all(&directory).map_err(|error| fail(&directory, error))?;
    }
    for directory in [settings.state.clone(), settings.run.join("control")] {
        std::os::unix::fs::chown(&directory, Some(settings.user), Some(settings.user))
            .map_err(|error| fail(&directory, error))?;
    }
    let path = settings.run.join("wirer.lock");
    let lock = File::create(&path).map_err(|error| fail(&path, error))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            info!(lock = %path.display(), "another penstock runs on this node: this one stands by, and takes over when that one ends");
            flock(&lock, FlockOperation::LockExclusive).map_err(|error| fail(&path, error.into()))?;
            info!("the other one has ended: this one takes over");
        }
        locked => locked.map_err(|error| fail(&path, error.into()))?,
    }
    Ok(lock)
}

/// A listening socket for root alone.
fn listen(path: &Path) -> Result<UnixListener, Failure> {
    sockets::bind(path).map_err(|error| Failure::System(format!("listening on {}: {error}", path.display())))
}

/// Passes signals on as inputs.
fn signals(inputs: Sender<Input>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt, mut hang_up) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                let signal = tokio::select! {
                    _ = terminate.recv() => Signal::TERM,
                    _ = interrupt.recv() => Signal::TERM,
                    _ = hang_up.recv() => Signal::HUP,
                };
                if inputs.send(Input::Signal(signal)).is_err() {
                    break;
                }
            }
        });
    })?;
    Ok(())
}

struct Ping {
    next: Instant,
    asked: u64,
    answered: u64,
    /// Since when an answer is owed, if one is.
    since: Instant,
}

struct Running {
    settings: Settings,
    inputs: Sender<Input>,
    listeners: [UnixListener; 2],
    wires: Wires,
    plugin: Plugin,
    dataplane: Child,
    control: Child,
    /// The dataplane has workers.
    is_ready: bool,
    ping: Ping,
    is_tending: bool,
    tend_again: bool,
    /// What was last told about splices that could not be looked after.
    told_plugin: Option<String>,
    mid_stream: Option<u64>,
}

impl Running {
    fn run(&mut self, inputs: &Receiver<Input>) -> CommandResult {
        loop {
            self.tick();
            let input = match inputs.recv_timeout(self.rest()) {
                Ok(input) => input,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Done),
            };
            match input {
                Input::Signal(Signal::HUP) => self.control.signal(Signal::HUP),
                Input::Signal(_) => {
                    self.end(inputs);
                    return Ok(Outcome::Done);
                }
                Input::Dataplane(start, message) if self.dataplane.is(start) => self.dataplane_says(message),
                Input::Control(start, request) if self.control.is(start) => self.control_asks(start, request),
                Input::Answered(start, number, answer) if self.control.is(start) => self.answer(number, answer),
                Input::Dataplane(..) | Input::Control(..) | Input::Answered(..) => {}
                Input::Ended(role, start, how, code) => {
                    if self.cannot_begin(role, start, code) {
                        return Err(match code {
                            Some(2) => Failure::BadInput(CANNOT_BEGIN.to_owned()),
                            _ => Failure::System(CANNOT_BEGIN.to_owned()),
                        });
                    }
                    self.ended(role, start, &how);
                }
                Input::Links => self.tend_again = true,
                Input::Tended(result) => self.tended(result),
            }
        }
    }

    /// Until when nothing has to be done unasked.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        let starts = [self.dataplane.due(), self.control.due()].into_iter().flatten();
        let next = starts.chain([self.ping.next]).min().unwrap_or(self.ping.next);
        next.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    /// What is due: children that are to be started, pings, splices.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.dataplane.due().is_some_and(|due| due <= now) {
            self.start_dataplane();
        }
        if self.control.due().is_some_and(|due| due <= now) {
            self.start_control();
        }
        if self.ping.next <= now {
            self.ping.next = now + PING;
            self.ping_dataplane();
        }
        if self.tend_again && !self.is_tending {
            (self.tend_again, self.is_tending) = (false, true);
            let (plugin, inputs) = (self.plugin.clone(), self.inputs.clone());
            self.beside("splices", move || drop(inputs.send(Input::Tended(plugin.tend()))));
        }
    }

    /// Does what takes its time on a thread of its own.
    fn beside(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
            error!("starting a thread: {error}");
        }
    }

    fn start_dataplane(&mut self) {
        self.is_ready = false;
        self.ping.since = Instant::now();
        let started = self.dataplane.start(&self.settings, &self.inputs).and_then(|()| {
            let files =
                flows::open(&self.settings.run.join("flows"), self.settings.workers.len(), self.settings.flows)?;
            let start = ToDataplane::Start {
                workers: self.settings.workers.clone(),
                flows: self.settings.flows,
                mid_stream: self.mid_stream,
            };
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            self.dataplane.tell(&start, &files)?;
            let socket = lookups::start()?;
            self.dataplane.tell(&ToDataplane::LookUp, &[socket.as_fd()])
        });
        if let Err(error) = started {
            error!("starting the dataplane: {error}");
            self.dataplane.kill();
        }
    }

    fn start_control(&mut self) {
        let started = self.control.start(&self.settings, &self.inputs).and_then(|()| {
            let (file, text) = self.settings.config.clone();
            let start = ToControl::Start { file, text, workers: self.settings.workers.len() };
            self.control.tell(&start, &[self.listeners[0].as_fd(), self.listeners[1].as_fd()])
        });
        match started {
            Ok(()) => self.link(),
            Err(error) => {
                error!("starting control: {error}");
                self.control.kill();
            }
        }
    }

    /// Gives dataplane and control a socket to each other, once both are there.
    fn link(&mut self) {
        if !self.is_ready || !self.control.is_running() {
            return;
        }
        let linked = UnixStream::pair().and_then(|(one, other)| {
            self.dataplane.tell(&ToDataplane::Link, &[one.as_fd()])?;
            self.control.tell(&ToControl::Link, &[other.as_fd()])?;
            self.control.tell(&ToControl::Notice(Notice::EngineStarted), &[])
        });
        if let Err(error) = linked {
            // One of them is ending; when it is started again there is another try.
            warn!("joining control and dataplane: {error}");
        }
    }

    fn dataplane_says(&mut self, message: FromDataplane) {
        match message {
            FromDataplane::Ready => {
                info!("the dataplane runs, process {}", self.dataplane.process());
                self.is_ready = true;
                self.ping = Ping { next: Instant::now() + PING, asked: 0, answered: 0, since: Instant::now() };
                for (message, sockets) in self.wires.all() {
                    if let Err(error) = self.dataplane.tell(&message, &sockets) {
                        warn!("giving a wire's sockets to the dataplane: {error}");
                    }
                }
                self.link();
            }
            FromDataplane::Pong(number) => self.ping.answered = number,
            FromDataplane::Failed(reason) => error!("the dataplane can't start: {reason}"),
        }
    }

    /// Asks the dataplane whether it lives, and ends one that does not.
    fn ping_dataplane(&mut self) {
        if !self.dataplane.is_running() {
            return;
        }
        if self.ping.answered == self.ping.asked && self.is_ready {
            self.ping.asked += 1;
            self.ping.since = Instant::now();
            // One that is gone is told by its end.
            let _gone = self.dataplane.tell(&ToDataplane::Ping(self.ping.asked), &[]);
        } else if self.ping.since.elapsed() > if self.is_ready { self.settings.patience } else { START } {
            error!("the dataplane has not answered for {:?}; it is replaced", self.ping.since.elapsed());
            self.dataplane.kill();
        }
    }

    /// Whether control ended at its very first start by what it was given, or was refused, and no pod depends on this process: then
    /// whoever started it is to know.
    fn cannot_begin(&self, role: Role, start: u64, code: Option<i32>) -> bool {
        let is_told = role == Role::Control && start == 1 && matches!(code, Some(2 | 3));
        is_told && self.control.is(start) && self.wires.spliced().is_ok_and(|pods| pods.is_empty())
    }

    fn ended(&mut self, role: Role, start: u64, how: &str) {
        let child = if role == Role::Dataplane { &mut self.dataplane } else { &mut self.control };
        if !child.is(start) {
            return;
        }
        let delay = child.ended();
        error!("{role} has ended ({how}); it is started again in {delay:?}");
        if role == Role::Dataplane {
            self.is_ready = false;
            self.notify(Notice::EngineLost(how.to_owned()));
        }
    }

    fn notify(&mut self, notice: Notice) {
        if self.control.is_running() {
            let _gone = self.control.tell(&ToControl::Notice(notice), &[]);
        }
    }

    fn answer(&mut self, number: u64, answer: Result<Answer, String>) {
        let _gone = self.control.tell(&ToControl::Answer(number, answer), &[]);
    }

    fn control_asks(&mut self, start: u64, Request { number, ask }: Request) {
        let answer = match ask {
            Ask::Open { wire, ends } => self.open(wire, &ends),
            Ask::Close(wire) => {
                self.close(wire);
                Ok(Answer::Done)
            }
            Ask::Spliced => self.wires.spliced().map(Answer::Pods),
            other => {
                let (plugin, inputs) = (self.plugin.clone(), self.inputs.clone());
                return self.beside("plugin", move || {
                    drop(inputs.send(Input::Answered(start, number, plugin.answer(other))));
                });
            }
        };
        self.answer(number, answer);
    }

    fn open(&mut self, wire: dataplane::rules::WireId, ends: &[super::message::End; 2]) -> Result<Answer, String> {
        let (serial, is_new) = self.wires.open(wire, ends)?;
        if is_new
            && self.is_ready
            && let Some((message, sockets)) = self.wires.get(wire)
        {
            self.dataplane.tell(&message, &sockets).map_err(|error| format!("the dataplane is gone: {error}"))?;
        }
        Ok(Answer::Opened(serial))
    }

    fn close(&mut self, wire: dataplane::rules::WireId) {
        if self.wires.close(wire) && self.is_ready {
            let _gone = self.dataplane.tell(&ToDataplane::Drop(wire), &[]);
        }
    }

    fn tended(&mut self, result: Result<(), String>) {
        self.is_tending = false;
        match result {
            Ok(()) => self.told_plugin = None,
            Err(reason) if self.told_plugin.as_ref() == Some(&reason) => {}
            Err(reason) => {
                warn!("{reason}");
                self.notify(Notice::Warning(reason.clone()));
                self.told_plugin = Some(reason);
            }
        }
        for wire in self.wires.gone() {
            self.close(wire);
            self.notify(Notice::WireGone(wire));
        }
    }

    /// Ends both: control first, so that no pod is added any more; what is passed on is passed on until then.
    fn end(&mut self, inputs: &Receiver<Input>) {
        self.control.signal(Signal::TERM);
        let until = Instant::now() + END;
        while self.control.is_running() {
            match inputs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Input::Ended(Role::Control, start, _, _)) if self.control.is(start) => break,
                Ok(Input::Control(start, request)) if self.control.is(start) => self.control_asks(start, request),
                Ok(_) => {}
                Err(_) => {
                    self.control.kill();
                    break;
                }
            }
        }
        self.dataplane.kill();
    }
}
