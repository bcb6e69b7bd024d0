//! Penstock as a service: with the capabilities of its unit and no others, telling the service manager when it is ready.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use crate::site::{Background, Site, until};

const UNIT: &str = include_str!("../../../deploy/gateway/penstock.service");
const RULES: &str =
    "forward: {policy: drop, rules: [{action: allow}]}\ninput: {policy: allow}\noutput: {policy: allow}\n";

/// The capabilities that the unit gives, as setpriv names them.
fn capabilities() -> String {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).unwrap();
    let bounds = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    assert_eq!(line, bounds, "nothing can be gained that is not there already");
    let names: Vec<String> =
        line.split(' ').map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_lowercase())).collect();
    names.join(",")
}

fn serves_without_being_root(kind: &str) {
    let site = Site::new();
    // As little as in `traffic`: one wire with the host inside.
    site.sh(
        &site.gateway,
        "ip link set lan down; ip address flush dev lan; ip link set lan name lan0; ip link set lan0 up",
    );
    site.write("rules.yaml", RULES);
    let config = format!(
        "rules: rules.yaml\nstate: state\nsocket: run/gateway.sock\nmetrics: {{address: 'off'}}\nwires:\n- name: lan\n  \
         placement: hostInside\n  host: [10.91.1.1/24, 'fd91:1::1/64']\n  inside: {{kind: tap, interface: lan}}\n  \
         outside: {{kind: {kind}, interface: lan0, as: lan}}\n"
    );
    let config = site.write("penstock.yaml", &config);
    let notify = site.path("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o777)).unwrap();
    // The program may stand where only root can read.
    let program = site.path("penstock");
    std::fs::copy(env!("CARGO_BIN_EXE_penstock"), &program).unwrap();
    std::fs::set_permissions(site.directory.path(), PermissionsExt::from_mode(0o777)).unwrap();

    let capabilities = capabilities();
    let mut command = site.inside(&site.gateway, "setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
    command.arg(format!("--inh-caps=-all,{capabilities}")).arg(format!("--ambient-caps=-all,{capabilities}"));
    command.arg(format!("--bounding-set=-all,{capabilities}"));
    command.arg(&program).args(["run", "--config"]).arg(&config).env("NOTIFY_SOCKET", &notify);
    let log = std::fs::File::create(site.path("log")).unwrap();
    let mut daemon = Background(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let heard = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap_or_else(|error| {
            panic!("{error}: {}", std::fs::read_to_string(site.path("log")).unwrap());
        });
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(heard().trim(), "READY=1");
    until("the client reaches the gateway", || {
        site.inside(&site.client, "ping").args(["-c", "1", "-W", "1", "10.91.1.1"]).output().unwrap().status.success()
    });
    // Not by its own number: it is a child of `ip`, which became it.
    crate::site::run(std::process::Command::new("kill").arg(daemon.0.id().to_string()));
    assert_eq!(heard().trim(), "STOPPING=1");
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn its_capabilities_are_enough_for_af_packet() {
    serves_without_being_root("af_packet");
}

#[test]
fn its_capabilities_are_enough_for_af_xdp() {
    serves_without_being_root("af_xdp");
}

/// The way of an admin who moves a gateway's interfaces behind Penstock with the script that comes with it.
#[test]
fn interfaces_are_moved_in_and_out() {
    let site = Site::new();
    site.write("rules.yaml", RULES);
    let wire = |name: &str, address: &str| {
        format!(
            "- name: {name}\n  placement: hostInside\n  host: [{address}/24]\n  forward: {}\n  inside: {{kind: tap, interface: {name}}}\n  \
             outside: {{kind: af_packet, interface: {name}0, as: {name}}}\n",
            name == "lan"
        )
    };
    let wires = wire("lan", "10.91.1.1") + &wire("wan", "10.91.2.1");
    let config =
        format!("rules: rules.yaml\nstate: state\nsocket: gateway.sock\nmetrics: {{address: 'off'}}\nwires:\n{wires}");
    site.write("penstock.yaml", &config);
    let start = "#!/bin/sh\ncd $(dirname $0) && $PROGRAM run --config penstock.yaml >/dev/null 2>log & echo $! >$(dirname $0)/pid\n\
                 for i in $(seq 100); do sleep 0.1; grep -q ' ready ' $(dirname $0)/log && exit 0; done; exit 1\n";
    for (name, text) in [("start", start), ("stop", "#!/bin/sh\nkill $(cat $(dirname $0)/pid)\n")] {
        let path = site.write(name, text);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/gateway/host-inside");
    let host_inside = |arguments: &[&str]| {
        let mut command = site.inside(&site.gateway, script);
        command
            .args(arguments)
            .env("PROGRAM", env!("CARGO_BIN_EXE_penstock"))
            .env("PENSTOCK_MEMORY", site.path("memory"));
        command.env("PENSTOCK_START", site.path("start")).env("PENSTOCK_STOP", site.path("stop"));
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let reaches = || {
        site.inside(&site.client, "ping").args(["-c", "1", "-W", "1", "10.91.2.2"]).output().unwrap().status.success()
    };
    let network = || {
        let routes = site.sh(
            &site.gateway,
            "ip -4 route; ip -6 route | grep -v -e fe80 -e multicast; ip -o address show scope global",
        );
        let mut lines: Vec<String> = routes
            .lines()
            .map(|line| line.split_whitespace().filter(|word| !word.ends_with(':')).collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        lines
    };
    site.sh(&site.gateway, "ip route add default via 10.91.2.2; ip route add 192.0.2.0/24 via 10.91.1.2 dev lan");
    let before = network();

    let (code, told) = host_inside(&["in", "lan", "wan"]);
    assert_eq!((code, told.as_str()), (0, ""));
    until("the client gets through", reaches);
    let behind = site
        .sh(&site.gateway, "ip -o link show lan; ip route show default; ip route show 192.0.2.0/24; ls /sys/class/net");
    assert!(behind.contains("dev wan") && behind.contains("dev lan") && behind.contains("lan0"), "{behind}");
    let (code, told) = host_inside(&["in", "lan"]);
    assert!(code == 2 && told.contains("already"), "{told}");
    assert_eq!(host_inside(&["out"]), (0, String::new()));
    assert_eq!(network(), before);
    until("the client gets through without penstock", reaches);

    let (code, told) = host_inside(&["in", "--confirm", "1", "lan", "wan"]);
    assert!(code == 1 && told.contains("nobody pressed Enter"), "{code}: {told}");
    assert_eq!(network(), before, "it goes back by itself");

    site.write("penstock.yaml", "rules: gone.yaml\n");
    let (code, told) = host_inside(&["in", "lan", "wan"]);
    assert!(code == 2 && told.contains("penstock does not start"), "{told}");
    assert_eq!(network(), before, "what fails leaves nothing behind");
}
