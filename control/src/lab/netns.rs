//! Network namespaces by name, as `ip netns` keeps them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{LabError, Result};

/// Where `ip netns` pins namespaces.
const PINNED: &str = "/run/netns";

/// A pinned network namespace. The name alone is held; who made it removes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of that name, which need not exist yet.
    pub fn named(name: impl Into<String>) -> Self {
        Namespace { name: name.into() }
    }

    /// The name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is pinned.
    pub fn path(&self) -> PathBuf {
        Path::new(PINNED).join(&self.name)
    }

    /// Runs `work` on a thread of its own that has moved into the namespace, and waits for it. Sockets made there
    /// stay there, and `/proc/sys/net` shows the namespace's settings.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                let pinned = File::open(self.path())?;
                move_into_link_name_space(pinned.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs in the namespace.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--");
        command
    }

    /// Sets `/proc/sys/net` values.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or a value that matters cannot be written.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        let write = || {
            for (key, value) in values {
                let path = format!("/proc/sys/net/{key}");
                std::fs::write(&path, value)
                    .map_err(|error| LabError::system(format!("set {path} to {value}"), error))?;
            }
            Ok(())
        };
        self.run(write).map_err(|error| LabError::system(format!("enter network namespace {}", self.name), error))?
    }

    /// Runs lines of `ip -batch` in the namespace.
    ///
    /// # Errors
    /// The first line that was refused, and why.
    pub fn batch(&self, lines: &[String]) -> Result<()> {
        batch(Some(self), lines)
    }
}

/// Makes all of these.
///
/// # Errors
/// When the system refuses one; those already made are left to the caller.
pub fn create(namespaces: &[Namespace]) -> Result<()> {
    batch(None, &namespaces.iter().map(|namespace| format!("netns add {}", namespace.name)).collect::<Vec<_>>())
}

/// Removes all of these that exist; what is gone already is no error.
pub fn remove(namespaces: &[Namespace]) -> Result<()> {
    let there = namespaces.iter().filter(|namespace| namespace.path().exists());
    batch(None, &there.map(|namespace| format!("netns del {}", namespace.name)).collect::<Vec<_>>())
}

/// All pinned namespaces whose name starts like this.
pub fn with_prefix(prefix: &str) -> Vec<Namespace> {
    let entries = std::fs::read_dir(PINNED).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).map(Namespace::named).collect()
}

/// Removes what processes that are no longer there have left: namespaces named `{prefix}{pid}-…`. Another process may be at it at
/// the same time.
pub fn remove_orphans(prefix: &str) {
    let owner = |namespace: &Namespace| -> Option<u32> {
        namespace.name().strip_prefix(prefix)?.split('-').next()?.parse().ok()
    };
    let is_dead =
        |namespace: &Namespace| owner(namespace).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    let dead: Vec<Namespace> = with_prefix(prefix).into_iter().filter(is_dead).collect();
    let _gone = remove(&dead);
}

/// One process for any number of changes: `ip -batch`.
fn batch(namespace: Option<&Namespace>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", &namespace.name]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = |error: io::Error| {
        LabError::System(format!("cannot run ip: {error}; install iproute2 (apt-get install iproute2)"))
    };
    let mut child = command.spawn().map_err(start)?;
    let input = lines.join("\n") + "\n";
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A process that gave up early is told by its exit status, not by the broken pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::System(refusal(&said, lines, namespace)))
}

/// What `ip` said, with the line that it is about.
fn refusal(said: &str, lines: &[String], namespace: Option<&Namespace>) -> String {
    let reason = said.lines().find(|line| !line.starts_with("Command failed")).unwrap_or("no reason given").trim();
    let number = said.lines().find_map(|line| line.strip_prefix("Command failed -:")?.parse::<usize>().ok());
    let line = number.and_then(|number| lines.get(number.checked_sub(1)?)).map_or("", String::as_str);
    let place = namespace.map_or(String::new(), |namespace| format!(" -n {}", namespace.name));
    format!("the system refused 'ip{place} {line}': {}", reason.trim_start_matches("Error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_line() {
        let lines = ["link add a type veth".to_owned(), "link add b type veth".to_owned()];
        let said = "RTNETLINK answers: File exists\nCommand failed -:2\n";
        let text = refusal(said, &lines, Some(&Namespace::named("x")));
        assert_eq!(text, "the system refused 'ip -n x link add b type veth': RTNETLINK answers: File exists");
    }
}
