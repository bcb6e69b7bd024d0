//! What needs the host's mount namespace is done by `penstock-cni`, in a process of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use crate::node::wirer::Sandbox;
use crate::process::Settings;
use crate::process::message::{Answer, Ask};

/// How `penstock-cni` is run.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    program: PathBuf,
    directory: PathBuf,
    conflists: PathBuf,
    host_mounts: Option<PathBuf>,
}

impl Plugin {
    pub(super) fn of(settings: &Settings) -> Plugin {
        Plugin {
            program: settings.plugin.clone(),
            directory: settings.run.join("netns"),
            conflists: settings.conflists.clone(),
            host_mounts: settings.host_mounts.clone(),
        }
    }

    /// Runs it with these words, and this text to read. Answers what it printed.
    fn run(&self, words: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        let what = format!("{} {}", self.program.display(), words.join(" "));
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("{what}: it is not there; install penstock-cni on the node"),
            _ => format!("{what}: {error}"),
        };
        let mut command = match &self.host_mounts {
            None => Command::new(&self.program),
            Some(mounts) => {
                let mut command = Command::new("/proc/self/exe");
                command.arg(crate::process::IN_MOUNTS).arg(mounts).arg(&self.program);
                command
            }
        };
        command.args(words).env("PENSTOCK_CNI_DIRECTORY", &self.directory).env_remove("CNI_COMMAND");
        command.env("PENSTOCK_CNI_CONFLISTS", &self.conflists);
        command.envs(self.program.parent().map(|directory| ("PENSTOCK_CNI_BINARIES", directory)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(fail)?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that does not read has its reason, and tells it.
            let _told_by_its_end = pipe.write_all(input);
        }
        let output = child.wait_with_output().map_err(fail)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    fn ask<T: DeserializeOwned>(&self, words: &[&str], input: &[u8]) -> Result<T, String> {
        let told = self.run(words, input)?;
        serde_json::from_slice(&told)
            .map_err(|error| format!("{} {}: {error}", self.program.display(), words.join(" ")))
    }

    /// Repairs splices and keeps them in step with what they stand between.
    pub(super) fn tend(&self) -> Result<(), String> {
        self.run(&["repair"], b"")?;
        self.run(&["follow"], b"").map(drop)
    }

    /// Takes everything off the node, these directories too if nothing is in them.
    pub(super) fn uninstall(&self, directories: [&Path; 2]) -> Result<(), String> {
        let mut words = vec!["uninstall"];
        for directory in directories {
            words.push(directory.to_str().ok_or_else(|| format!("{}: it is no text", directory.display()))?);
        }
        self.run(&words, b"").map(drop)
    }

    /// What control asked.
    pub(super) fn answer(&self, ask: Ask) -> Result<Answer, String> {
        match ask {
            Ask::Unspliced => self.ask::<Vec<Sandbox>>(&["scan", "--json"], b"").map(Answer::Sandboxes),
            Ask::Chained => self.ask(&["chained", "--json"], b"").map(Answer::Chained),
            Ask::Splice(sandbox) => {
                let text = serde_json::to_vec(&sandbox).map_err(|error| error.to_string())?;
                self.ask(&["splice", "--json"], &text).map(Answer::Pod)
            }
            Ask::Open { .. } | Ask::Close(_) | Ask::Spliced => Err("this is no matter of penstock-cni's".to_owned()),
        }
    }
}
