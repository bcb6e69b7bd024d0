//! The daemon as people run it: the built program, a wire between namespaces, real connections, and policies that
//! change.

mod daemon_support;

use std::fs;
use std::time::Duration;

use daemon_support::{ALLOW_CLIENT, CLIENT, DENY, Daemon, Lane, POD, Setting, WORLD, ip, until};

/// A lane with a server in the pod that has something to fetch.
fn lane_with_server(setting: &Setting, lane: &Lane) -> (daemon_support::Background, Vec<u8>) {
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    fs::create_dir(setting.path("www")).unwrap();
    fs::write(setting.path("www/file"), &content).unwrap();
    (lane.serve(&setting.path("www")), content)
}

#[test]
fn a_policy_directory_is_followed_over_real_connections() {
    let lane = Lane::new();
    let setting = Setting::new(&lane.wire_yaml(), "");
    let (_server, content) = lane_with_server(&setting, &lane);
    assert!(lane.is_silent(POD.0), "something passes without a wire");

    let mut daemon = Daemon::start(&setting);
    assert_eq!(daemon.get("/livez"), (200, "text/plain; charset=utf-8".to_owned(), "alive\n".to_owned()));
    assert_eq!(daemon.get("/readyz").0, 200);
    for address in [POD.0, POD.1] {
        // The client may still be giving up on its neighbour from before.
        until("the pod answers", || !lane.is_silent(address));
        assert!(lane.fetch(address, "file").as_ref() == Some(&content), "{address} without any policy");
    }

    setting.write("policy.yaml", DENY);
    until("the deny is in force", || daemon.metrics().value("penstock_policy_generation", &[]) >= 2.0);
    for address in [POD.0, POD.1] {
        assert!(lane.is_silent(address), "{address} is denied");
    }
    check_drop_line(&daemon);
    check_metrics(&daemon, content.len());

    setting
        .write("policy.yaml", "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: x}\nspec: 5\n");
    until("the broken file is refused", || daemon.log().contains("policy refused"));
    let log = daemon.log();
    let reason = log.lines().find(|line| line.contains("policy refused")).unwrap();
    assert!(reason.contains("policy.yaml") && reason.contains("default/x") && reason.contains("spec"), "{reason}");
    assert!(lane.is_silent(POD.0), "the running policy stays in force");
    let metrics = daemon.metrics();
    assert_eq!(metrics.value("penstock_policy_reload_failures_total", &[]), 1.0);
    assert_eq!(metrics.value("penstock_policy_refused", &[]), 1.0);
    let (code, _, text) = daemon.get("/readyz");
    assert!(code == 200 && text.contains("refused") && text.contains("policy.yaml"), "{code} {text}");

    setting.write("policy.yaml", ALLOW_CLIENT);
    until("the client is allowed", || !lane.is_silent(POD.0));
    assert!(lane.fetch(POD.1, "file").as_ref() == Some(&content));
    assert!(!daemon.get("/readyz").2.contains("refused"));

    let before = (ip(&format!("-n {} -o link", lane.wire)), ip(&format!("-n {} -o address", lane.pod)));
    assert_eq!(daemon.stop("TERM").code(), Some(0));
    assert!(daemon.log().contains("nothing passes through them"), "{}", daemon.log());
    let names = |text: &str| text.lines().map(|line| line.split(':').nth(1).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&ip(&format!("-n {} -o link", lane.wire))), names(&before.0), "interfaces that are not ours");
    assert_eq!(ip(&format!("-n {} -o address", lane.pod)), before.1);
    assert!(lane.is_silent(POD.0), "a wire without a daemon is closed");
}

#[test]
fn a_reload_publishes_what_changed_and_nothing_else() {
    let lane = Lane::new();
    let setting = Setting::new(&lane.wire_yaml(), "");
    setting.write("policy.yaml", ALLOW_CLIENT);
    let (_server, content) = lane_with_server(&setting, &lane);
    let daemon = Daemon::start(&setting);
    assert!(lane.fetch(POD.0, "file").as_ref() == Some(&content));
    let published = |generation: u32, expected: &str| {
        until(expected, || daemon.log().contains(&format!("policy in force generation={generation} ")));
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(&format!("generation={generation} "))).unwrap();
        assert!(line.ends_with(expected), "{line}");
    };
    // The client is remote to the wire: its two addresses move, and no rule is written.
    setting.write("world.yaml", &WORLD.replace("app: client", "app: stranger"));
    published(2, "wires=0 addresses=2");
    assert!(lane.is_silent(POD.0), "the client is nobody that the policy means");
    setting.write("world.yaml", WORLD);
    published(3, "wires=0 addresses=2");
    assert!(lane.fetch(POD.1, "file").as_ref() == Some(&content));
    setting.write("notes.yaml", "# nothing of interest\n");
    published(4, "wires=0 addresses=0");
    // A policy of the pod writes its rules; the members of the group that it names are known.
    setting.write("policy.yaml", &ALLOW_CLIENT.replace("8080", "9090"));
    published(5, "wires=1 addresses=0");
    assert!(lane.is_silent(POD.0), "the port is another one");
    setting.write("policy.yaml", DENY);
    published(6, "wires=1 addresses=0");
    // The group was let go of: who is in it is told once more.
    setting.write("policy.yaml", ALLOW_CLIENT);
    published(7, "wires=1 addresses=2");
    assert!(lane.fetch(POD.0, "file").as_ref() == Some(&content));
}

#[test]
fn a_lost_port_closes_its_wire_until_the_interface_is_back() {
    let lane = Lane::new();
    let setting = Setting::new(&lane.wire_yaml(), "");
    let (_server, content) = lane_with_server(&setting, &lane);
    let daemon = Daemon::start(&setting);
    assert!(lane.fetch(POD.0, "file").as_ref() == Some(&content));
    ip(&format!("-n {} link del out", lane.wire));
    until("the loss is told", || daemon.get("/readyz").2.contains("wire web is lost"));
    assert_eq!(daemon.get("/readyz").0, 200, "the other wires are still to be used");
    assert_eq!(daemon.metrics().value("penstock_wire_up", &[("wire", "web")]), 0.0);
    assert!(daemon.log().contains("wire web: port af_packet out"), "{}", daemon.log());
    lane.connect("out", &lane.client, CLIENT);
    until("the wire is open again", || daemon.metrics().value("penstock_wire_up", &[("wire", "web")]) == 1.0);
    assert!(!daemon.get("/readyz").2.contains("lost"));
    assert!(lane.fetch(POD.0, "file").as_ref() == Some(&content), "and follows its policy");
}

#[test]
fn a_pod_that_moves_is_held_to_its_new_address() {
    let lane = Lane::new();
    let setting = Setting::new(&lane.wire_yaml(), "");
    let (_server, content) = lane_with_server(&setting, &lane);
    let daemon = Daemon::start(&setting);
    assert!(lane.fetch(POD.0, "file").as_ref() == Some(&content));
    setting.write("world.yaml", &WORLD.replace("10.77.0.2", "10.77.0.9"));
    until("the move is in force", || daemon.metrics().value("penstock_policy_generation", &[]) >= 2.0);
    assert!(lane.is_silent(POD.0), "the old address is not the pod's any more");
    ip(&format!("-n {} address add 10.77.0.9/24 dev eth0", lane.pod));
    assert!(lane.fetch("10.77.0.9", "file").as_ref() == Some(&content));
    let spoofed = |line: &serde_json::Value| line["reason"].as_str().is_some_and(|reason| reason != "policy_denied");
    until("what spoke for the old address is logged", || daemon.drops().iter().any(spoofed));
}

#[test]
fn what_is_no_pod_passes_or_not_as_the_configuration_says() {
    let lane = Lane::new();
    let occupants = [
        ("pod: default/web", "endpoint: {addresses: [10.77.0.2, 'fd77::2']}\n  traffic: allow", true),
        ("pod: default/web", "endpoint: {addresses: [10.77.0.2]}\n  traffic: deny", false),
        ("pod: default/web", "traffic: allow", true),
        ("pod: default/web", "traffic: deny", false),
    ];
    let files = Setting::new(&lane.wire_yaml(), "");
    let (_server, content) = lane_with_server(&files, &lane);
    for (pod, occupant, passes) in occupants {
        let setting = Setting::new(&lane.wire_yaml().replace(pod, occupant), "");
        setting.write("deny.yaml", DENY);
        let mut daemon = Daemon::start(&setting);
        if passes {
            assert!(lane.fetch(POD.0, "file").as_ref() == Some(&content), "{occupant}");
        } else {
            assert!(lane.is_silent(POD.0), "{occupant}");
            let denied = [("wire", "web"), ("pod", ""), ("direction", "ingress"), ("reason", "policy_denied")];
            assert!(daemon.metrics().value("penstock_drops_total", &denied) >= 1.0, "{occupant}");
        }
        assert_eq!(daemon.stop("INT").code(), Some(0));
    }
}

#[test]
fn the_log_of_drops_keeps_its_rate_and_counts_what_it_leaves_out() {
    let lane = Lane::new();
    let setting = Setting::new(&lane.wire_yaml(), "log: {drops: {perSecond: 1, burst: 2}}");
    setting.write("deny.yaml", DENY);
    let daemon = Daemon::start(&setting);
    let knock = |times: &str| {
        let mut ping = lane.in_namespace(&lane.client, "ping");
        let status = ping.args(["-q", "-c", times, "-i", "0.01", "-W", "1", POD.0]).output().unwrap().status;
        assert!(!status.success(), "the ping came through");
    };
    knock("30");
    // A knock takes a second, which is a line's worth.
    let told = (0..30).any(|_| {
        knock("1");
        daemon.drops().iter().any(|line| line["suppressed"].as_u64().is_some_and(|count| count > 20))
    });
    assert!(told, "no line says what was left out before it");
    until("every drop is a line or counted as left out", || {
        let metrics = daemon.metrics();
        let told = daemon.drops().len() as f64 + metrics.value("penstock_log_lines_suppressed_total", &[]);
        told == metrics.sum("penstock_drops_total", &[]) && daemon.drops().len() < 30
    });
}

#[test]
fn a_hang_up_reads_the_manifests_and_opens_the_log_anew() {
    let lane = Lane::new();
    let setting = Setting::new(&lane.wire_yaml(), "log: {format: json, level: debug, drops: {file: drops.json}}");
    setting.write("deny.yaml", DENY);
    let mut daemon = Daemon::start(&setting);
    let file = setting.path("drops.json");
    let logged = || fs::read_to_string(&file).unwrap_or_default();
    assert!(lane.is_silent(POD.0));
    until("the drop is in the file", || logged().contains("policy_denied"));
    fs::rename(&file, setting.path("drops.old")).unwrap();
    daemon.signal("HUP");
    until("the manifests are read again", || daemon.metrics().value("penstock_policy_reloads_total", &[]) == 2.0);
    until("the file is made anew", || file.exists());
    assert!(lane.is_silent(POD.0));
    until("a drop is in the new file", || logged().contains("policy_denied"));
    assert_eq!(daemon.stop("TERM").code(), Some(0));
    for line in daemon.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string() && line["message"].is_string(), "{line}");
    }
}

/// Processor time of a process, in nanoseconds, all threads.
fn processor_time(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let time = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(|task| time(task.unwrap())).sum()
}

#[test]
fn an_idle_daemon_with_twenty_wires_costs_less_than_a_hundredth_of_a_core() {
    let lane = Lane::new();
    let namespace = &lane.wire;
    let mut wires = String::new();
    for number in 0..20 {
        for side in ["in", "out"] {
            ip(&format!("-n {namespace} link add {side}{number} type veth peer name {side}p{number}"));
            ip(&format!("-n {namespace} link set {side}{number} up"));
            ip(&format!("-n {namespace} link set {side}p{number} up"));
        }
        let port = |side| format!("{{kind: af_packet, interface: {side}{number}, namespace: {namespace}}}");
        let (inside, outside) = (port("in"), port("out"));
        wires += &format!("- {{name: w{number}, traffic: allow, inside: {inside}, outside: {outside}}}\n");
    }
    let setting = Setting::new(&wires, "");
    let daemon = Daemon::start(&setting);
    const PERIOD: Duration = Duration::from_secs(6);
    // Processor time, which does not depend on how busy the machine is otherwise; the first look settles things.
    std::thread::sleep(PERIOD / 6);
    let before = processor_time(daemon.child.id());
    std::thread::sleep(PERIOD);
    let spent = Duration::from_nanos(processor_time(daemon.child.id()) - before);
    assert!(spent < PERIOD / 100, "{spent:?} in {PERIOD:?}");
    println!("{spent:?} of processor time in {PERIOD:?}");
}

fn check_drop_line(daemon: &Daemon) {
    let mine = |line: &serde_json::Value| line["reason"] == "policy_denied" && line["peer"] == CLIENT.0;
    until("the drop is logged", || daemon.drops().iter().any(mine));
    let line = daemon.drops().into_iter().find(mine).unwrap();
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == "2026-01-02T03:04:05.000000Z".len() && time.ends_with('Z'), "{time}");
    assert!(line["sourcePort"].as_u64().is_some_and(|port| port > 0), "{line}");
    assert!(line["length"].as_u64().is_some_and(|length| length >= 60), "{line}");
    for (key, value) in [
        ("event", "drop"),
        ("wire", "web"),
        ("pod", "default/web"),
        ("direction", "ingress"),
        ("address", POD.0),
        ("peerPod", "default/client"),
        ("protocol", "TCP"),
        ("explanation", "Policy does not allow it."),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!(line["destinationPort"], 8080, "{line}");
    assert_eq!(line["policies"], serde_json::json!(["default/deny-all"]), "{line}");
    assert_eq!(line["generation"], 2, "{line}");
}

fn check_metrics(daemon: &Daemon, bytes: usize) {
    let metrics = daemon.metrics();
    let wire = [("wire", "web"), ("pod", "default/web")];
    let with = |direction| [wire[0], wire[1], ("direction", direction)];
    // Two fetches went out of the pod, and requests came in.
    assert!(metrics.value("penstock_forwarded_bytes_total", &with("egress")) > 2.0 * bytes as f64);
    let segments = metrics.value("penstock_forwarded_segments_total", &with("egress"));
    let frames = metrics.value("penstock_forwarded_frames_total", &with("egress"));
    assert!(segments >= 2.0 * bytes as f64 / 1460.0 && segments >= frames && frames > 10.0, "{segments} {frames}");
    assert!(metrics.value("penstock_received_frames_total", &with("ingress")) > 4.0);
    assert!(metrics.value("penstock_classified_frames_total", &with("ingress")) >= 4.0);
    let denied = [wire[0], wire[1], ("direction", "ingress"), ("reason", "policy_denied")];
    assert!(metrics.value("penstock_drops_total", &denied) >= 2.0);
    assert!(metrics.labels("penstock_drops_total").len() < 10, "reasons that did not occur have no series");
    assert_eq!(metrics.value("penstock_wire_up", &wire), 1.0);
    for port in ["inside", "outside"] {
        assert_eq!(
            metrics.value("penstock_port_receive_overflow_frames_total", &[("wire", "web"), ("port", port)]),
            0.0
        );
    }
    until("the flows are counted", || daemon.metrics().value("penstock_flows", &wire) >= 1.0);
    for (name, value) in [
        ("penstock_policy_generation", 2.0),
        ("penstock_policies", 1.0),
        ("penstock_pods", 2.0),
        ("penstock_wires", 1.0),
        ("penstock_workers", 1.0),
        ("penstock_workers_alive", 1.0),
        ("penstock_policy_reloads_total", 2.0),
        ("penstock_policy_reload_failures_total", 0.0),
        ("penstock_policy_refused", 0.0),
        ("penstock_policy_apply_seconds_count", 2.0),
        ("penstock_events_lost_total", 0.0),
        ("penstock_log_lines_suppressed_total", 0.0),
        ("penstock_questions_denied_total", 0.0),
    ] {
        assert_eq!(metrics.value(name, &[]), value, "{name}");
    }
    assert!(metrics.value("penstock_policy_last_reload_timestamp_seconds", &[]) > 1.7e9);
    assert_eq!(metrics.value("penstock_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
}
