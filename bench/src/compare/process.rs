//! Processes that do not outlive the comparison, and the wish to stop.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::lab::netns::Namespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a process may take to answer: loading the largest rule sets takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP ask for an orderly end: [`rest`] and [`check`] fail, and what was built is
/// taken down on the way out.
pub fn stop_in_order() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        unsafe {
            libc::signal(signal, stop as *const () as libc::sighandler_t);
        }
    }
}

/// The niceness of everything that takes part.
pub const NICENESS: &str = "-20";

/// Precedence over the other work of the machine for this process and all that it starts from now on. Where sessions are
/// scheduled as groups (`sched_autogroup`), niceness counts inside a session only, so the session gets it too; dropping
/// this takes that back.
pub struct Precedence(Option<String>);

/// The niceness of the session's group.
const AUTOGROUP: &str = "/proc/self/autogroup";

impl Precedence {
    /// Takes it. Where that is refused, other work shows in the spread.
    pub fn take() -> Precedence {
        // SAFETY: setpriority takes numbers only.
        let _refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
        let before = std::fs::read_to_string(AUTOGROUP).ok();
        let before = before.and_then(|text| text.split_whitespace().last().map(str::to_owned));
        let taken = std::fs::write(AUTOGROUP, NICENESS).is_ok();
        Precedence(before.filter(|_| taken))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It ends with the session at the latest.
            let _refused = std::fs::write(AUTOGROUP, before);
        }
    }
}

/// The wish to stop, for those who wait on it.
pub fn stop_flag() -> &'static AtomicBool {
    &STOP
}

/// # Errors
/// When somebody asked to stop.
pub fn check() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps.
///
/// # Errors
/// When somebody asked to stop.
pub fn rest(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A process in the background; it is killed when this is dropped, and when the comparison dies.
pub struct Background {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Background {
    /// Starts `words` in a namespace, on these CPUs (`taskset`'s list); the process is asked and answers in lines.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(namespace: Option<&Namespace>, cpus: Option<&str>, words: &[String]) -> Result<Background> {
        let name = words.first().cloned().unwrap_or_default();
        let mut all: Vec<String> = Vec::new();
        if let Some(cpus) = cpus {
            all.extend(["taskset", "-c", cpus].map(str::to_owned));
        }
        all.extend_from_slice(words);
        let mut command = match namespace {
            Some(namespace) => {
                let mut command = namespace.command();
                command.args(&all);
                command
            }
            None => {
                let mut command = Command::new(&all[0]);
                command.args(&all[1..]);
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: prctl is one system call on numbers, which a child may make before exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // Ctrl-C is for the comparison, which ends its children itself.
                libc::setpgid(0, 0);
                Ok(())
            });
        }
        let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Background { name, child, stdin, stdout })
    }

    /// Waits until it has said something.
    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.stdout.buffer().is_empty() {
            check()?;
            let mut polled = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
            let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            // Interrupted by a signal: the next round sees whether it was for us.
            if poll(&mut polled, Some(&pause)).is_ok_and(|ready| ready > 0) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{} has said nothing for {PATIENCE:?}", self.name);
            }
        }
        Ok(())
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// When it has ended instead, which the error says with its last words; when it says nothing for a minute; when
    /// somebody asked to stop.
    pub fn line(&mut self) -> Result<String> {
        self.wait()?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).with_context(|| format!("reading from {}", self.name))?;
        if line.is_empty() {
            check()?;
            let words = self.last_words();
            bail!("{} ended early: {words}", self.name);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads lines until one holds `text`, and answers that one.
    ///
    /// # Errors
    /// As [`Background::line`].
    pub fn line_with(&mut self, text: &str) -> Result<String> {
        loop {
            let line = self.line()?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Says a line to it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        stdin
            .write_all(line.as_bytes())
            .and_then(|()| stdin.write_all(b"\n"))
            .and_then(|()| stdin.flush())
            .with_context(|| format!("{} does not listen", self.name))
    }

    /// Says a line and answers the next that comes back.
    ///
    /// # Errors
    /// When it has ended.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.line()
    }

    /// Its number. `nsenter` and `taskset` become the program that they start.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it stands: it uses no CPU until [`Background::go_on`].
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time that it has used, all threads together, in nanoseconds.
    pub fn cpu_time(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).into_iter().flatten().flatten();
        let of = |task: std::fs::DirEntry| -> Option<u64> {
            std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        tasks.filter_map(of).sum()
    }

    /// Resident memory in bytes; 0 once it has ended.
    pub fn resident(&self) -> u64 {
        resident(&self.id().to_string())
    }

    /// What it says from here to its end.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn finish(mut self) -> Result<String> {
        drop(self.stdin.take());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut text)?;
        let status = self.child.wait()?;
        if !status.success() {
            check()?;
            let words = self.last_words();
            bail!("{} failed ({status}): {}{words}", self.name, text.trim());
        }
        Ok(text)
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill takes numbers; the process is our child and not yet waited for, so that the number is its own.
        unsafe {
            libc::kill(self.child.id() as i32, signal);
        }
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            // Whatever was said is better than nothing.
            let _partly = std::io::Read::read_to_string(stderr, &mut text);
        }
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Resident memory of a process (`self` or a number) in bytes; 0 where there is none.
pub fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Runs a program to its end with `input` on its stdin.
///
/// # Errors
/// When it cannot be run or fails; the error has the start of what it said.
pub fn run(namespace: Option<&Namespace>, words: &[&str], input: &str) -> Result<String> {
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = namespace.command();
            command.args(words);
            command
        }
        None => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", words[0]))?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A process that gave up early is told by its exit status, not by the broken pipe.
            let _gave_up = stdin.write_all(input.as_bytes());
        });
        child.wait_with_output()
    })?;
    if !output.status.success() {
        check()?;
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}", words.join(" "), said.lines().take(3).collect::<Vec<_>>().join(" / "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program can be found.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|directory| std::path::Path::new(directory).join(program).is_file())
}

/// Busy time of each CPU so far, in nanoseconds (`/proc/stat`: in ticks of 10 ms).
pub fn busy() -> Vec<u64> {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let cpus = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let of = |line: &str| {
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        // user, nice, system, then idle and iowait, then irq, softirq, steal.
        let total: u64 = ticks.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, t)| t).sum();
        total * 10_000_000
    };
    cpus.map(of).collect()
}
