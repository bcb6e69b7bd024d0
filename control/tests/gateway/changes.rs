//! Rules that change while a gateway runs: by version, back again, and element by element.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::site::{Background, CLIENT, SERVER, Site, until};

/// Everything from inside but for what is blocked; nothing else.
const RULES: &str = "\
groups: {lan: [lan], wan: [wan]}
sets: {blocked: [192.0.2.1]}
forward:
  policy: drop
  rules:
  - {name: known, state: [established, related], action: allow}
  - {name: blocked, from: {set: blocked}, action: drop}
  - {name: web, in: lan, protocol: tcp, toPort: [80, 2222, 5201], action: allow}
  - {name: ping, icmp: echo-request, action: allow}
";

/// The same without the web.
fn closed() -> String {
    RULES.lines().filter(|line| !line.contains("web")).map(|line| format!("{line}\n")).collect()
}

fn site() -> Site {
    let site = Site::new();
    site.cut();
    site.write("rules.yaml", RULES);
    site.write("closed.yaml", &closed());
    site
}

fn is_open(site: &Site) -> bool {
    let mut curl = site.inside(&site.client, "curl");
    curl.args(["-s", "-f", "-m", "1", "-o", "/dev/null", &format!("http://{}/file", SERVER[0])]);
    curl.status().unwrap().success()
}

fn rule_packets(site: &Site, name: &str) -> Option<u64> {
    let lines: serde_json::Value =
        serde_json::from_str(&site.tell(&["rules", "-o", "json", "--socket", "gateway.sock"])).unwrap();
    lines.as_array().unwrap().iter().find(|line| line["name"] == name)?["packets"].as_u64()
}

/// What a command for the daemon prints, and its exit code.
fn told(site: &Site, arguments: &[&str]) -> (String, i32) {
    let output = site.ask(arguments);
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code().unwrap())
}

/// A download that takes its time.
fn slow_download(site: &Site) -> Child {
    let mut curl = site.inside(&site.client, "curl");
    curl.args([
        "-s",
        "-f",
        "--speed-limit",
        "1",
        "--speed-time",
        "3",
        "--limit-rate",
        "30k",
        "-o",
        "/dev/null",
        &format!("http://{}/file", SERVER[0]),
    ]);
    let child = curl.spawn().unwrap();
    until("the download has begun", || rule_packets(site, "known").is_some_and(|packets| packets > 10));
    child
}

#[test]
fn a_change_is_told_first_cuts_what_it_denies_and_goes_back() {
    let site = site();
    let daemon = site.daemon(None, &site.transparent("af_packet"));
    until("the server answers", || is_open(&site));
    let mut download = Background(slow_download(&site));

    let (plan, code) = told(&site, &["apply", "closed.yaml", "--dry-run"]);
    assert_eq!(code, 0, "{plan}");
    assert!(plan.contains("newly denied") && plan.contains("web") && !plan.contains("newly allowed"), "{plan}");
    let flow = format!("TCP from {}:", CLIENT[0]);
    assert!(plan.contains("live flows that will be cut") && plan.contains(&flow), "{plan}");
    assert!(is_open(&site), "a plan changes nothing");

    let (refusal, code) = told(&site, &["apply", "closed.yaml"]);
    assert_eq!(code, 2, "nobody is there to be asked: {refusal}");
    assert!(refusal.contains("add --yes"), "{refusal}");
    assert!(is_open(&site));

    let (done, code) = told(&site, &["apply", "closed.yaml", "--yes"]);
    assert!(code == 0 && done.contains("version 2 is in force on every worker"), "{done}");
    assert!(!is_open(&site));
    let status = download.0.wait().unwrap();
    assert!(!status.success(), "the download was cut");

    let (versions, _) = told(&site, &["versions"]);
    assert!(versions.lines().any(|line| line.starts_with("* 2 ")), "{versions}");
    let (back, code) = told(&site, &["rollback"]);
    assert!(code == 0 && back.contains("newly allowed") && back.contains("version 1 is in force"), "{back}");
    assert!(is_open(&site));
    let (none, code) = told(&site, &["rollback"]);
    assert!(code == 2 && none.contains("no version before 1 is kept"), "{none}");

    // What is in force is what a restart begins with, whatever has become of the file.
    let (_, code) = told(&site, &["rollback", "--to", "2", "--yes"]);
    assert_eq!(code, 0);
    daemon.stop();
    let daemon = site.daemon(None, &site.transparent("af_packet"));
    assert!(!is_open(&site), "version 2 after a restart");
    drop(daemon);
}

#[test]
fn what_can_not_be_kept_is_not_put_in_force() {
    let site = site();
    let _daemon = site.daemon(None, &site.transparent("af_packet"));
    until("the server answers", || is_open(&site));
    let kept = site.path("state/rules");
    std::fs::rename(&kept, site.path("state/away")).unwrap();
    let (refusal, code) = told(&site, &["apply", "closed.yaml", "--yes"]);
    assert!(code == 3 && refusal.contains("versions of the rules can't be kept in"), "{code}: {refusal}");
    assert!(is_open(&site), "nothing has been changed");

    std::fs::rename(site.path("state/away"), &kept).unwrap();
    let (_, code) = told(&site, &["apply", "closed.yaml", "--yes", "--confirm", "4s"]);
    assert_eq!(code, 0);
    std::fs::rename(&kept, site.path("state/away")).unwrap();
    let (refusal, code) = told(&site, &["confirm"]);
    assert!(code == 3 && refusal.contains("can't be kept"), "{code}: {refusal}");
    until("what could not be confirmed goes back", || is_open(&site));
}

#[test]
fn rules_that_nobody_confirms_go_back() {
    let site = site();
    let daemon = site.daemon(None, &site.transparent("af_packet"));
    until("the server answers", || is_open(&site));
    let (done, code) = told(&site, &["apply", "closed.yaml", "--yes", "--confirm", "2s"]);
    assert!(code == 0 && done.contains("unless `penstock confirm` is called"), "{done}");
    assert!(!is_open(&site));
    until("the rules before are in force again", || is_open(&site));
    assert!(daemon.log().contains("nobody confirmed version 2 in time"), "{}", daemon.log());
    let (late, code) = told(&site, &["confirm"]);
    assert!(code == 2 && late.contains("nothing waits"), "{late}");

    let (_, code) = told(&site, &["apply", "closed.yaml", "--yes", "--confirm", "5s"]);
    assert_eq!(code, 0);
    let (kept, code) = told(&site, &["confirm"]);
    assert!(code == 0 && kept.contains("stays"), "{kept}");
    std::thread::sleep(Duration::from_secs(6));
    assert!(!is_open(&site), "what is confirmed stays");
}

/// A shell on the far side of the wire, by which rules are applied that cut it off.
#[test]
fn an_admin_who_locks_himself_out_is_let_in_again() {
    let site = site();
    let _daemon = site.daemon(None, &site.transparent("af_packet"));
    let mut far = site.inside(&site.server, "socat");
    let _far = Background(
        far.args(["TCP6-LISTEN:2222,fork,reuseaddr,ipv6only=0", "EXEC:sh,pty,stderr,setsid,echo=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let connect = || {
        let mut near = site.inside(&site.client, "socat");
        near.args(["-", &format!("TCP:{}:2222,connect-timeout=1", SERVER[0])]);
        near.current_dir(site.directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut near = Background(near.spawn().unwrap());
        writeln!(near.0.stdin.as_mut().unwrap(), "echo hello").ok();
        let mut answer = String::new();
        let mut lines = BufReader::new(near.0.stdout.take().unwrap());
        while lines.read_line(&mut answer).is_ok_and(|length| length > 0) && !answer.contains("hello") {}
        answer.contains("hello").then_some((near, lines))
    };
    let mut session = None;
    until("the admin has a shell", || {
        session = connect();
        session.is_some()
    });
    let (mut near, mut lines) = session.unwrap();
    let command = format!(
        "cd {} && {} apply closed.yaml --yes --confirm 4s --socket gateway.sock; echo over",
        site.directory.path().display(),
        env!("CARGO_BIN_EXE_penstock")
    );
    writeln!(near.0.stdin.as_mut().unwrap(), "{command}").unwrap();
    until("the rules are in force", || !is_open(&site));
    assert!(connect().is_none(), "the admin is locked out");
    until("the rules before are in force again", || is_open(&site));
    assert!(connect().is_some(), "the admin has a shell again");
    // What the cut session had to say never arrived, or late: nobody pressed Enter in it.
    drop(near);
    let mut rest = String::new();
    let _cut = lines.read_line(&mut rest);
    let (versions, _) = told(&site, &["versions"]);
    assert!(versions.lines().any(|line| line.starts_with("* 1 ")), "{versions}");
}

#[test]
fn elements_come_and_go_while_connections_live() {
    let site = site();
    let _daemon = site.daemon(None, &site.transparent("af_packet"));
    until("the server answers", || is_open(&site));
    let mut download = Background(slow_download(&site));
    let (changed, code) = told(&site, &["set", "blocked", "--add", "192.0.2.7", "--add", "198.51.100.0/24"]);
    assert!(code == 0 && changed.starts_with("blocked: 3 elements, in force on every worker"), "{changed}");
    let (flows, _) = told(&site, &["flows"]);
    assert!(flows.contains(&format!("{}:80", SERVER[0])), "{flows}");
    assert!(download.0.try_wait().unwrap().is_none(), "what does not concern it leaves it alone");

    let (_, code) = told(&site, &["set", "blocked", "--add", CLIENT[0], "--save"]);
    assert_eq!(code, 0);
    assert!(!is_open(&site));
    assert!(!download.0.wait().unwrap().success(), "who is blocked is cut");
    assert!(rule_packets(&site, "blocked") > Some(0));
    let (_, code) = told(&site, &["set", "blocked", "--remove", CLIENT[0]]);
    assert_eq!(code, 0);
    until("who is not blocked gets through", || is_open(&site));

    for (arguments, reason) in [
        (&["set", "nobody", "--add", "10.0.0.1"][..], "nobody"),
        (&["set", "blocked", "--add", "10.0.0.300"], "10.0.0.300"),
        (&["set", "blocked", "--remove", "10.9.9.9"], "10.9.9.9"),
        (&["set", "blocked"], "nothing is to be changed"),
    ] {
        let (refusal, code) = told(&site, arguments);
        assert!(code == 2 && refusal.contains(reason), "{arguments:?}: {code}: {refusal}");
    }
}

#[test]
fn many_rules_are_applied_under_load() {
    let site = site();
    let many: String = (0..5_000)
        .map(|number: u32| {
            let (high, low) = (number >> 8, number & 255);
            format!("  - {{from: 10.{high}.{low}.0/24, protocol: tcp, toPort: {}, action: drop}}\n", 1_000 + number)
        })
        .collect();
    let (head, rest) = RULES.split_once("  - {name: web").unwrap();
    site.write("many.yaml", &format!("{head}{many}  - {{name: web{rest}"));
    let _daemon = site.daemon(None, &site.transparent("af_packet"));
    until("the server answers", || is_open(&site));
    let mut iperf: Command = site.inside(&site.client, "iperf3");
    iperf.args(["-c", SERVER[0], "-p", "5201", "-t", "6", "-b", "50M"]).stdout(Stdio::null());
    let mut iperf = Background(iperf.spawn().unwrap());
    for file in ["many.yaml", "rules.yaml", "many.yaml"] {
        let (done, code) = told(&site, &["apply", file]);
        assert!(code == 0 && done.contains("none of "), "{done}");
    }
    assert!(iperf.0.wait().unwrap().success(), "the connection lives");
    assert_eq!(rule_packets(&site, "ping"), Some(0), "rules that are the same keep their counters");
    assert!(rule_packets(&site, "web") > Some(0), "rules that are the same keep their counters");
}
