//! What is wrong is told in a sentence with its file and line, with exit code 2, and the running rules stay.

use std::process::Command;

use crate::site::Site;

const RULES: &str = "forward:\n  policy: drop\n  rules:\n  - {name: all, action: allow}\n";

fn refused(site: &Site, arguments: &[&str]) -> String {
    let output = site.penstock(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty(), "half of an answer: {}", String::from_utf8_lossy(&output.stdout));
    text
}

#[test]
fn files_that_are_wrong_change_nothing() {
    let site = Site::new();
    site.cut();
    site.write("rules.yaml", RULES);
    let _daemon = site.daemon(None, &site.transparent("af_packet"));
    let running = site.tell(&["versions", "--socket", "gateway.sock"]);
    for (file, text, expected) in [
        ("circle.yaml", "include: circle2.yaml\n", ".yaml:1: include: "),
        ("set.yaml", "forward:\n  policy: drop\n  rules:\n  - {from: {set: gone}, action: drop}\n", "set.yaml:4: "),
        (
            "twins.yaml",
            "forward:\n  policy: drop\n  rules:\n  - {name: a, action: drop}\n  - {name: a, action: allow}\n",
            "twins.yaml:5: ",
        ),
        ("garbage.yaml", "forward: [\u{1}{{", "garbage.yaml:1"),
        ("key.yaml", "forward:\n  policy: drop\n  rules:\n  - {acton: drop}\n", "key.yaml:4: "),
    ] {
        site.write("circle2.yaml", "include: circle.yaml\n");
        site.write(file, text);
        for command in [&["check", file][..], &["apply", file, "--yes", "--socket", "gateway.sock"]] {
            let sentence = refused(&site, command);
            assert!(sentence.contains(expected), "{command:?}: {sentence}");
        }
    }
    assert_eq!(site.tell(&["versions", "--socket", "gateway.sock"]), running);
    let absent = refused(&site, &["apply", "absent.yaml", "--socket", "gateway.sock"]);
    assert!(absent.contains("absent.yaml"), "{absent}");
}

#[test]
fn dumps_that_are_wrong_are_refused() {
    let site = Site::new();
    for (text, expected) in [
        ("", "dump: "),
        ("hello\n", "dump:1: "),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -j ACCEPT\n", "dump:3: "),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport\nCOMMIT\n", "dump:3: "),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -m string --string x -j DROP\nCOMMIT\n", "dump:3: match string"),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -m frobnicate -j DROP\nCOMMIT\n", "dump:3: match frobnicate"),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -j GONE\nCOMMIT\n", "dump:3: "),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -m set --match-set s src -j DROP\nCOMMIT\n", "dump:3: "),
        ("*filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.0.0.0/99 -j DROP\nCOMMIT\n", "dump:3: "),
        ("*filter\n:INPUT DROP [0:0]\n:A - [0:0]\n-A INPUT -j A\n-A A -j INPUT\nCOMMIT\n", "dump:5: "),
    ] {
        site.write("dump", text);
        let sentence = refused(&site, &["import", "iptables-save", "dump"]);
        assert!(sentence.contains(expected), "{text:?}: {sentence}");
    }
    let lenient = "*filter\n:INPUT DROP [0:0]\n-A INPUT -m string --string x -j DROP\nCOMMIT\n";
    site.write("dump", lenient);
    let imported = site.penstock(&["import", "iptables-save", "--lenient", "dump"]);
    let (rules, report) = (String::from_utf8(imported.stdout).unwrap(), String::from_utf8(imported.stderr).unwrap());
    assert!(imported.status.success() && report.contains("dump:3"), "{report}");
    assert!(rules.contains("string"), "what was left away is marked: {rules}");
    std::fs::write(site.path("binary"), [0xff, 0xfe, b'\n']).unwrap();
    assert!(refused(&site, &["import", "iptables-save", "binary"]).contains("binary:1: "));
}

#[test]
fn a_wire_over_the_hosts_own_interface_is_refused() {
    let site = Site::new();
    site.write("rules.yaml", RULES);
    let text = "rules: rules.yaml\nstate: state\nsocket: gateway.sock\nwires:\n- name: a\n  placement: transparent\n  \
                inside: {kind: af_packet, interface: lan}\n  outside: {kind: af_packet, interface: wan}\n";
    let config = site.write("penstock.yaml", text);
    let mut command: Command = site.inside(&site.gateway, env!("CARGO_BIN_EXE_penstock"));
    let session = "203.0.113.9 5555 10.91.1.1 22";
    let output = command.args(["run", "--config"]).arg(&config).env("SSH_CONNECTION", session).output().unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{sentence}");
    let place = format!("{}:7: wires[0].inside.interface: lan has the host's own 10.91.1.1", config.display());
    assert!(sentence.contains(&place) && sentence.contains("your own session from 203.0.113.9"), "{sentence}");
    assert!(!site.path("state").exists(), "nothing is left behind");
}
