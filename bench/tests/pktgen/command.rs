//! The command line: exit codes, sentences, records.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use penstock_bench::pktgen::{Sink, SinkSpec};

use crate::cable::{Bench, Cable, RIGHT};

fn pktgen(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock-pktgen")).args(arguments.split_whitespace()).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_trial_is_recorded_with_its_machine() {
    let cable = Cable::new();
    let (left, right) = (cable.left.name(), cable.right.name());
    let output = pktgen(&format!(
        "trial -i eth0 --netns {left} --destination 10.70.0.2 --rate 20k --frames 5000 --flows 100 --to-interface eth0 \
         --to-netns {right} -o json"
    ));
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["result"]["received"]["stamped"], 5_000);
    assert_eq!(record["result"]["lost"], 0);
    assert!(record["environment"]["kernel"].as_str().unwrap().starts_with("Linux"));
    assert_eq!(record["environment"]["interfaces"].as_object().unwrap().len(), 2);
    // The spec can be fed back.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.json");
    std::fs::write(&file, record["spec"]["send"].to_string()).unwrap();
    let again = pktgen(&format!("send --spec {} -o json", file.display()));
    assert_eq!(again.status.code(), Some(0), "{}", told(&again));
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&again["spec"], &again["result"]["offered"]), (&record["spec"]["send"], &5_000.into()));
}

#[test]
fn loss_is_the_answer_no() {
    // Nobody forwards in the middle.
    let bench = Bench::new();
    let run = |more: &str| {
        pktgen(&format!(
            "trial -i eth0 --netns {} --source 10.70.0.1 --destination 10.70.0.2 --destination-mac {RIGHT} --rate 20k \
             --frames 100 --to-interface eth0 --to-netns {} --settle 50ms {more}",
            bench.left.name(),
            bench.right.name()
        ))
    };
    let output = run("");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("lost       100 frames (100.000000 %)"), "{output:?}");
    assert_eq!(run("--tolerance 1").status.code(), Some(0));
}

/// Tells a process of ours something.
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// A generator that is held up sends later, and must not say that the frames were quick: the time of a frame counts from when it
/// was due (no coordinated omission).
#[test]
fn what_the_generator_was_held_up_counts() {
    let cable = Cable::new();
    for port in ["af-packet", "live-frames"] {
        let spec = SinkSpec {
            interface: "eth0".into(),
            namespace: Some(cable.right.name().into()),
            latency: true,
            ..SinkSpec::default()
        };
        let sink = Sink::open(spec).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_penstock-pktgen"))
            .args(["send", "-i", "eth0", "--netns", cable.left.name(), "--destination", "10.70.0.2", "--port", port])
            .args(["--rate", "5k", "--duration", "2s"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while sink.counters().unwrap().frames < 500 {
            assert!(start.elapsed() < Duration::from_secs(20), "nothing is sent");
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&child, "-STOP");
        std::thread::sleep(Duration::from_millis(400));
        signal(&child, "-CONT");
        assert!(child.wait().unwrap().success());
        let bins = sink.latencies().unwrap();
        let total: u64 = bins.iter().map(|(_, count)| count).sum();
        let late: u64 = bins.iter().filter(|(time, _)| *time >= 190_000_000).map(|(_, count)| count).sum();
        // Those that were due in the first 200 ms of 400: 1,000 of 10,000.
        assert!(total >= 9_000 && late >= 900, "{port}: {late} of {total} frames were late");
    }
}

#[test]
fn mistakes_are_one_sentence_with_a_remedy() {
    let cable = Cable::new();
    let left = cable.left.name();
    for (arguments, code, words) in [
        (format!("send -i nowhere --netns {left} --source 10.0.0.1 --destination 10.0.0.2"), 2, "ip link"),
        ("send -i eth0 --netns penstock-no-such --destination 10.0.0.2".into(), 2, "ip netns list"),
        (format!("send -i eth0 --netns {left} --destination 10.70.0.2 --flows 100k"), 2, "--source"),
        (format!("send -i eth0 --netns {left} --source 10.0.0.1 --destination fd00::1"), 2, "IP version"),
        (format!("latency -i eth0 --netns {left} --destination 10.70.0.2 --to-interface x"), 2, "--rate"),
        (format!("send -i eth0 --netns {left} --destination 10.70.0.2 --rate fast"), 2, "flat-out"),
        (format!("send -i eth0 --netns {left} --destination 10.70.0.98 --frames 1"), 3, "--destination-mac"),
    ] {
        let output = pktgen(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", told(&output));
        assert!(told(&output).contains(words), "{arguments}: {}", told(&output));
    }
}

#[test]
fn every_port_passes_its_own_test() {
    let output = pktgen("selftest");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", told(&output));
    assert_eq!(text.matches(" ok: 1000 sent, 1000 received").count(), 8, "{text}");
}

#[test]
fn help_teaches() {
    let text = String::from_utf8(pktgen("--help").stdout).unwrap();
    for word in ["selftest", "search", "Examples", "Exit codes"] {
        assert!(text.contains(word), "{text}");
    }
    let text = String::from_utf8(pktgen("latency --help").stdout).unwrap();
    for word in ["--to-interface", "--gateway", "imix", "zipf"] {
        assert!(text.contains(word), "{text}");
    }
}
