//! `penstock eval` as its users run it: a process, questions on its standard input.

use std::io::Write;
use std::process::{Command, Stdio};

use control::policy::probe::{Answer, EndVerdict, Probe};
use serde_json::Value;

/// A line of `eval`'s answers.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) verdict: bool,
    pub(crate) answer: Answer,
    pub(crate) frames: usize,
}

fn end(value: &Value) -> EndVerdict {
    match value.as_str() {
        Some("allow") => EndVerdict::Allow,
        Some("deny") => EndVerdict::Deny,
        Some("none") => EndVerdict::None,
        other => panic!("a verdict: {other:?}"),
    }
}

fn parse(line: &str) -> Line {
    let value: Value = serde_json::from_str(line).expect("eval answers in JSON");
    let rules = value["rules"].as_array().expect("rules").iter().map(|rule| rule.as_str().unwrap().to_owned());
    Line {
        verdict: end(&value["verdict"]) == EndVerdict::Allow,
        answer: Answer { egress: end(&value["egress"]), ingress: end(&value["ingress"]), rules: rules.collect() },
        frames: value["frames"].as_u64().expect("frames") as usize,
    }
}

/// Asks all questions about a manifest.
pub(crate) fn run<'a>(manifest: &str, probes: impl Iterator<Item = &'a Probe>) -> Vec<Line> {
    let questions: String = probes.map(|probe| serde_json::to_string(probe).unwrap() + "\n").collect();
    let (code, answers, errors) = start(manifest, &questions);
    assert_eq!(code, 0, "{errors}");
    answers.lines().map(parse).collect()
}

/// Runs `eval` on a manifest and gives its exit code, standard output and standard error.
pub(crate) fn start(manifest: &str, questions: &str) -> (i32, String, String) {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
    file.write_all(manifest.as_bytes()).expect("it takes the manifest");
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(["eval", "-f"])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("penstock starts");
    let mut stdin = child.stdin.take().expect("its standard input");
    let questions = questions.to_owned();
    let writer = std::thread::spawn(move || {
        // Bad input ends the command before it has read its questions.
        let _closed = stdin.write_all(questions.as_bytes());
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the questions are written");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}
