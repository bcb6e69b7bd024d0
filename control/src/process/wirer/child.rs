//! A child process: started, told, watched, started again.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Input;
use crate::process::{Settings, channel};

/// The first pause before a child is started again; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(50);

/// The longest.
const LONGEST: Duration = Duration::from_secs(5);

/// A child that ran for so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(10);

/// Which child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Dataplane,
    Control,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Role::Dataplane { "the dataplane" } else { "control" })
    }
}

struct Process {
    pid: u32,
    handle: OwnedFd,
    stream: UnixStream,
    since: Instant,
}

enum State {
    Running(Process),
    /// To be started then.
    Due(Instant),
}

/// A child, running or to be started.
pub(super) struct Child {
    role: Role,
    state: State,
    /// Which start this is, so that late words of a child that has ended are known as such.
    start: u64,
    pause: Duration,
}

impl Child {
    pub(super) fn new(role: Role) -> Child {
        Child { role, state: State::Due(Instant::now()), start: 0, pause: FIRST }
    }

    /// When it is to be started; None while it runs.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) => Some(at),
            State::Running(_) => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Whether this is the start that runs now.
    pub(super) fn is(&self, start: u64) -> bool {
        self.start == start && self.is_running()
    }

    pub(super) fn process(&self) -> u32 {
        match &self.state {
            State::Running(process) => process.pid,
            State::Due(_) => 0,
        }
    }

    /// Starts it: unprivileged, in `/`, its channel as standard input. The dataplane sees no environment.
    pub(super) fn start(&mut self, settings: &Settings, inputs: &Sender<Input>) -> io::Result<()> {
        self.start += 1;
        // If it does not come so far, there is another try after the pause.
        self.state = State::Due(Instant::now() + self.pause);
        let (own, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("penstock").args(&settings.arguments[self.role as usize]);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).current_dir("/").uid(settings.user).gid(settings.user);
        if self.role == Role::Dataplane {
            command.env_clear();
        }
        // Of this thread, which lives as long as the process: a child is told of its parent's end by the end of the thread.
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty());
        let reader = own.try_clone();
        let (role, start, ends) = (self.role, self.start, inputs.clone());
        std::thread::Builder::new().name(format!("{role}'s end")).spawn(move || {
            let status = child.wait();
            let code = status.as_ref().ok().and_then(std::process::ExitStatus::code);
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            drop(ends.send(Input::Ended(role, start, how, code)));
        })?;
        self.state = State::Running(Process {
            pid: pid.as_raw_nonzero().get() as u32,
            handle: handle?,
            stream: own,
            since: Instant::now(),
        });
        let (reader, inputs) = (reader?, inputs.clone());
        std::thread::Builder::new().name(format!("{role}'s words")).spawn(move || match role {
            Role::Dataplane => pass_on(&reader, &inputs, |message| Input::Dataplane(start, message)),
            Role::Control => pass_on(&reader, &inputs, |message| Input::Control(start, message)),
        })?;
        Ok(())
    }

    /// Tells it something.
    pub(super) fn tell<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match &self.state {
            State::Running(process) => channel::send(&process.stream, message, descriptors),
            State::Due(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let State::Running(process) = &self.state {
            // One that has ended meanwhile needs none.
            let _ended = pidfd_send_signal(&process.handle, signal);
        }
    }

    /// Ends it at once. That it has ended is told as an input.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// It has ended. Answers when it is started again.
    pub(super) fn ended(&mut self) -> Duration {
        if let State::Running(process) = &self.state
            && process.since.elapsed() > STEADY
        {
            self.pause = FIRST;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        self.state = State::Due(Instant::now() + pause);
        pause
    }
}

fn pass_on<T: DeserializeOwned>(stream: &UnixStream, inputs: &Sender<Input>, as_input: impl Fn(T) -> Input) {
    while let Ok((message, _)) = channel::receive::<T>(stream) {
        if inputs.send(as_input(message)).is_err() {
            break;
        }
    }
}
