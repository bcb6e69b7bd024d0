//! DPDK's libraries as peers: C programs (`dpdk/*.c`) that are built at run time where libdpdk is installed, and answer
//! commands, so that their rounds can take turns with ours on the same CPU.
//!
//! * [`acl::Acl`]: `librte_acl`, the classifier that [`crate::classbench`] sets are given to.
//! * [`hash::Hash`]: `rte_hash`, as a flow table.
//!
//! Both run without reserved huge pages and ask for transparent ones, as our own tables do, and are pinned to one CPU.

pub mod acl;
pub mod hash;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Why a peer cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// It is not installed: to be named as missing, not to be failed on.
    #[error("{0}")]
    Missing(String),
    /// It is there and does not do what it should.
    #[error("{0}")]
    Failed(String),
}

impl Unavailable {
    fn failed(what: &str, why: impl std::fmt::Display) -> Self {
        Unavailable::Failed(format!("{what}: {why}"))
    }
}

/// The installed version of libdpdk.
///
/// # Errors
/// [`Unavailable::Missing`] where pkg-config does not find it.
pub fn version() -> Result<String, Unavailable> {
    Ok(pkg_config("--modversion")?.join(" "))
}

fn pkg_config(argument: &str) -> Result<Vec<String>, Unavailable> {
    let missing =
        || Unavailable::Missing("libdpdk is not installed (Debian: libdpdk-dev, pkg-config and a C compiler)".into());
    let output = Command::new("pkg-config").args([argument, "libdpdk"]).output().map_err(|_| missing())?;
    if !output.status.success() {
        return Err(missing());
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

/// Builds one of the programs (`acl_bench`, `hash_bench`) for this machine's processor, into `target/dpdk`; nothing is done
/// when it is there and newer than its source.
///
/// # Errors
/// [`Unavailable::Missing`] where libdpdk or a C compiler is not installed; [`Unavailable::Failed`] when the source
/// does not compile.
pub fn build(program: &str) -> Result<PathBuf, Unavailable> {
    let flags = [pkg_config("--cflags")?, pkg_config("--libs")?].concat();
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (sources, directory) = (bench.join("dpdk"), bench.join("../target/dpdk"));
    let changed = |path: PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let source = changed(sources.join(program).with_extension("c")).max(changed(sources.join("common.h")));
    let finished = directory.join(program);
    if changed(finished.clone()).is_some_and(|built| Some(built) > source) {
        return Ok(finished);
    }
    std::fs::create_dir_all(&directory).map_err(|error| Unavailable::failed("target/dpdk", error))?;
    // Under a name of its own until it is whole: others may be building, too.
    let built = directory.join(format!("{program}.{}", std::process::id()));
    let output = Command::new("cc")
        .args(["-O3", "-o"])
        .arg(&built)
        .arg(sources.join(program).with_extension("c"))
        .args(flags)
        // Behind pkg-config's own -march, which is the oldest processor that DPDK runs on.
        .arg("-march=native")
        .output()
        .map_err(|error| Unavailable::Missing(format!("no C compiler: cc: {error}")))?;
    if !output.status.success() {
        return Err(Unavailable::failed(program, String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::rename(&built, &finished).map_err(|error| Unavailable::failed(program, error))?;
    Ok(finished)
}

/// A running program. It ends when this is dropped.
#[derive(Debug)]
struct Peer {
    name: &'static str,
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Of its files.
    directory: TempDir,
}

impl Peer {
    /// Builds and starts a program on a CPU, with a heap of some megabytes and a file for input.
    fn start(
        name: &'static str,
        cpu: usize,
        megabytes: usize,
        input: &[u8],
        more: &[&str],
    ) -> Result<Self, Unavailable> {
        let directory = TempDir::new().map_err(|error| Unavailable::failed("a directory for files", error))?;
        let program = build(name)?;
        let file = directory.path().join("input");
        std::fs::write(&file, input).map_err(|error| Unavailable::failed("the peer's input", error))?;
        let mut child = Command::new(program)
            .args([cpu.to_string(), megabytes.to_string()])
            .arg(file)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Unavailable::failed(name, error))?;
        let (commands, answers) = (child.stdin.take(), child.stdout.take());
        let answers = BufReader::new(answers.ok_or_else(|| Unavailable::failed(name, "no output"))?);
        Ok(Peer { name, child, commands, answers, directory })
    }

    /// Gives a command and waits for its answer.
    fn ask(&mut self, command: &str) -> Result<Value, Unavailable> {
        let failed = |why: &dyn std::fmt::Display| Unavailable::failed(self.name, format!("{command}: {why}"));
        let commands = self.commands.as_mut().ok_or_else(|| failed(&"it has ended"))?;
        writeln!(commands, "{command}").map_err(|error| failed(&error))?;
        let mut line = String::new();
        // EAL says a word or two of its own.
        while !line.starts_with('{') {
            line.clear();
            if self.answers.read_line(&mut line).map_err(|error| failed(&error))? == 0 {
                return Err(failed(&"it ended (what it said is on standard error)"));
            }
        }
        serde_json::from_str(&line).map_err(|error| failed(&error))
    }

    /// A number of an answer.
    fn number(&self, answer: &Value, name: &str) -> Result<u64, Unavailable> {
        answer[name].as_u64().ok_or_else(|| Unavailable::failed(self.name, format!("{name} is not in {answer}")))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // At the end of its input the program ends.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
