//! Frames that rules do not mean, and long ones.

use std::process::Command;

use crate::site::{Site, run, until};

const RULES: &str =
    "forward:\n  policy: drop\n  rules:\n  - {name: ping, icmp: [echo-request, echo-reply], action: allow}\n";

/// LLDP, PPPoE discovery, and a bridge's hello (STP), which has a length where others have an EtherType.
const SEND: &str = "\
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for head in '0180c200000e0200000000aa88cc', 'ffffffffffff0200000000aa8863', '0180c20000000200000000aa0026424203':
    s.send(bytes.fromhex(head).ljust(60, b'\\x07'))
";

/// Prints the EtherTypes, or lengths, of frames from the sender that arrive within two seconds.
const RECEIVE: &str = "\
import socket, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('lan', 0))
print('listening', flush=True)
end, seen = time.monotonic() + 2, set()
while (left := end - time.monotonic()) > 0:
    s.settimeout(left)
    try:
        frame = s.recv(2048)
    except TimeoutError:
        break
    if frame[6:12] == bytes.fromhex('0200000000aa'):
        seen.add(frame[12:14].hex())
print(*sorted(seen))
";

fn arrive(site: &Site) -> String {
    let mut receiver = site.inside(&site.gateway, "python3");
    let path = site.path("received");
    let out = std::fs::File::create(&path).unwrap();
    let mut receiver = receiver.args(["-c", RECEIVE]).stdout(out).spawn().unwrap();
    let text = || std::fs::read_to_string(&path).unwrap();
    until("somebody listens", || text().contains("listening"));
    run(site.inside(&site.client, "python3").args(["-c", SEND]));
    assert!(receiver.wait().unwrap().success());
    text().lines().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn what_is_no_ip_passes_unless_it_is_to_be_dropped() {
    let site = Site::new();
    site.cut();
    site.write("rules.yaml", RULES);
    let config = site.transparent("af_packet");
    let daemon = site.daemon(None, &config);
    assert_eq!(arrive(&site), "0026 8863 88cc");
    daemon.stop();
    let daemon = site.daemon(None, &config.replace("placement: transparent", "placement: transparent\n  nonIp: drop"));
    assert_eq!(arrive(&site), "");
    until("both reasons are told", || {
        let lines = daemon.lines();
        ["ethertype_not_allowed", "not_ethernet_ii"]
            .iter()
            .all(|reason| lines.iter().any(|line| line["reason"] == *reason))
    });
}

fn ping(site: &Site, to: &str, more: &[&str]) -> bool {
    let mut ping = site.inside(&site.client, "ping");
    ping.args(["-c", "1", "-W", "1", to]).args(more).output().unwrap().status.success()
}

#[test]
fn jumbo_frames_pass_or_are_refused_at_the_start() {
    let site = Site::new();
    site.cut();
    site.write("rules.yaml", RULES);
    for (namespace, device) in
        [(&site.client, "eth0"), (&site.cable, "lan"), (&site.cable, "wan"), (&site.gateway, "lan")]
    {
        run(Command::new("ip").args(["-n", namespace, "link", "set", device, "mtu", "9000"]));
    }
    let long = ["-M", "do", "-s", "8900"];
    let daemon = site.daemon(None, &site.transparent("af_packet"));
    until("a long packet arrives", || ping(&site, "10.91.1.1", &long));
    daemon.stop();
    site.write("xdp.yaml", &site.transparent("af_xdp"));
    let refusal = site.penstock(&["run", "--config", "xdp.yaml"]);
    let sentence = String::from_utf8_lossy(&refusal.stderr);
    assert_eq!(refusal.status.code(), Some(3), "{sentence}");
    assert!(sentence.contains("9000") && sentence.contains("af_packet"), "the MTU and the remedy: {sentence}");
    assert!(!sentence.contains("panicked"), "{sentence}");
}
