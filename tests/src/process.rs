//! Programs that run in a namespace. None outlives its test: each has a time limit, and those in the background are
//! killed when their handle is dropped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use control::lab::netns::Namespace;

/// Seconds that a program may take.
const LIMIT: &str = "60";

/// Debian's own interpreter, whatever else is installed.
const PYTHON: &str = "/usr/bin/python3";

fn command(namespace: &Namespace, words: &[&str]) -> Command {
    let mut command = namespace.command();
    command.args(["timeout", "--kill-after=1", LIMIT]).args(words);
    command
}

/// Runs a program to its end.
pub fn output(namespace: &Namespace, words: &[&str]) -> Output {
    command(namespace, words).output().unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Runs a program that has to succeed, and answers what it printed.
pub fn run(namespace: &Namespace, words: &[&str]) -> String {
    let output = output(namespace, words);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Runs a Python script that has to succeed, and answers what it printed.
pub fn python(namespace: &Namespace, script: &str, arguments: &[&str]) -> String {
    run(namespace, &[&[PYTHON, "-c", script], arguments].concat())
}

/// A program in the background.
pub struct Background {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Background {
    /// Starts a program.
    pub fn start(namespace: &Namespace, words: &[&str]) -> Background {
        let mut child = namespace
            .command()
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Background { child, stdout }
    }

    /// Starts a Python script and waits for the line `ready` that it prints once it can be counted on.
    pub fn python(namespace: &Namespace, script: &str, arguments: &[&str]) -> Background {
        let mut background = Background::start(namespace, &[&[PYTHON, "-c", script], arguments].concat());
        let mut line = String::new();
        background.stdout.read_line(&mut line).expect("reading from the script");
        assert_eq!(line, "ready\n", "what the script said first");
        background
    }

    /// Waits for the end of a program that has to succeed, and answers what it printed.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("reading from the program");
        let status = self.child.wait().expect("waiting for the program");
        assert!(status.success(), "{status}: {text}");
        text
    }

    /// Waits for the end of the program, and answers its exit code.
    pub fn exit_code(mut self) -> Option<i32> {
        self.child.wait().expect("waiting for the program").code()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("asking for the program").is_none()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
