//! `kubectl penstock …` with a kubectl that only writes down what it is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Two nodes with a pod of Penstock each; the one on node1 is not ready. Who is run in them says so.
const KUBECTL: &str = r#"#!/usr/bin/env bash
echo "$*" >>"$LOG"
case "$*" in
*"get pods --all-namespaces"*) printf '%s\n' "node1 own p1 False" "node2 own p2 True" ;;
*"get pod nginx"*) echo node1 ;;
*"get pod gone"*) echo 'Error from server (NotFound): pods "gone" not found' >&2; exit 1 ;;
*exec*) echo "ran: $*" ;;
esac
"#;

struct Asked {
    output: Output,
    log: String,
}

impl Asked {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// The exit code and the last line on standard error.
    fn refusal(&self) -> (Option<i32>, String) {
        let text = String::from_utf8_lossy(&self.output.stderr).into_owned();
        (self.output.status.code(), text.lines().last().unwrap_or_default().to_owned())
    }
}

fn ask(words: &[&str]) -> Asked {
    let directory = tempfile::tempdir().unwrap();
    let (kubectl, log) = (directory.path().join("kubectl"), directory.path().join("log"));
    fs::write(&kubectl, KUBECTL).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&log, "").unwrap();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubectl-penstock");
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new(plugin).args(words).env("PATH", path).env("LOG", &log).output().unwrap();
    Asked { output, log: fs::read_to_string(&log).unwrap() }
}

#[test]
fn every_node_is_asked_or_one_or_any_that_is_ready() {
    let all = ask(&["status", "--context", "far away"]);
    assert!(all.output.status.success());
    let stdout = all.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    let ran = |pod: &str| format!("ran: --context far away -n own exec {pod} -c penstock -- penstock status");
    assert_eq!(lines, ["node1:", &ran("p1"), "node2:", &ran("p2")]);
    let one = ask(&["pods", "--node", "node2", "-o", "json"]).stdout();
    assert_eq!(one, "ran: -n own exec p2 -c penstock -- penstock pods -o json\n");
    let any = ask(&["explain", "web/a", "web/b", "TCP/80"]).stdout();
    assert_eq!(any, "ran: -n own exec p2 -c penstock -- penstock explain web/a web/b TCP/80\n", "p1 is not ready");
    let of_pod = ask(&["drops", "--pod", "web/nginx"]);
    assert_eq!(of_pod.stdout(), "ran: -n own exec p1 -c penstock -- penstock drops --pod web/nginx\n");
    assert!(of_pod.log.starts_with("-n web get pod nginx "), "{}", of_pod.log);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_asked() {
    for (words, code, sentence) in [
        (&["frobnicate"][..], 2, "there is no command frobnicate for nodes"),
        (&["status", "--pod", "web/nginx"], 2, "--pod goes with flows and drops"),
        (&["flows", "--pod", "nginx"], 2, "--pod nginx: write NAMESPACE/POD"),
        (&["flows", "--pod", "web/nginx", "--node", "node2"], 2, "pod web/nginx runs on node1, not on node2"),
        (&["flows", "--pod", "web/gone"], 3, "pods \"gone\" not found"),
        (&["status", "--node", "node9"], 3, "no pod of Penstock runs on node9"),
    ] {
        let asked = ask(words);
        let (found, text) = asked.refusal();
        assert_eq!(found, Some(code), "{words:?}: {text}");
        assert!(text.contains(sentence), "{words:?}: {text}");
        assert!(!asked.log.contains("exec"), "{words:?}");
    }
    let (code, text) = ask(&["status", "--node"]).refusal();
    assert!(code != Some(0) && text.contains("--node needs a value"), "{code:?} {text}");
    assert_eq!(ask(&[]).output.status.code(), Some(0), "what there is");
}
