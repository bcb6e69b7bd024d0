//! The same connections are allowed and refused, and refused alike, with iptables and with its rules in Penstock.

use std::fmt::Write as _;
use std::process::Command;
use std::thread;

use crate::site::{CLIENT, INSIDE, OUTSIDE, SERVER, Site, run, until};

/// Both families' rules, as iptables-restore reads them; what differs stands in braces.
fn dump(is_v6: bool) -> String {
    let (icmp, echo, refusal) = match is_v6 {
        false => ("icmp -m icmp --icmp-type", "8", "icmp-port-unreachable"),
        true => ("ipv6-icmp -m icmp6 --icmpv6-type", "128", "icmp6-port-unreachable"),
    };
    let server = SERVER[usize::from(is_v6)];
    let neighbours: String = match is_v6 {
        false => String::new(),
        true => [133, 134, 135, 136].map(|kind| format!("-A INPUT -p {icmp} {kind} -j ACCEPT\n")).concat(),
    };
    format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:services - [0:0]\n{neighbours}\
         -A INPUT -i lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A INPUT -i lan -p tcp -m tcp --dport 2222 -m comment --comment \"ssh from inside\" -j ACCEPT\n\
         -A INPUT -i lan -p {icmp} {echo} -j ACCEPT\n\
         -A INPUT -i wan -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A FORWARD -i lan -o wan -j services\n\
         -A FORWARD -i wan -o lan -p tcp -m tcp --dport 8443 -j ACCEPT\n\
         -A FORWARD -i lan -j REJECT --reject-with {refusal}\n\
         -A services -d {server} -p tcp -m tcp --dport 82 -j DROP\n\
         -A services -p tcp -m tcp --dport 81 -j REJECT --reject-with tcp-reset\n\
         -A services -p tcp -m multiport --dports 80,443,5201 -j ACCEPT\n\
         -A services -p udp -m udp --dport 53 -j ACCEPT\n\
         -A services -p {icmp} {echo} -j ACCEPT\n\
         COMMIT\n"
    )
}

/// What a client sees of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Open,
    Refused,
    Silence,
}

/// An attempt: from whom, how, to where; and whether it goes through the gateway, or ends there.
struct Attempt {
    from: String,
    how: &'static str,
    to: String,
    port: u16,
    is_forwarded: bool,
    expected: Seen,
}

fn attempts(site: &Site) -> Vec<Attempt> {
    use Seen::{Open, Refused, Silence};
    let mut all = Vec::new();
    for family in 0..2 {
        let (client, gateway, server) = (&site.client, &site.gateway, &site.server);
        let mut add = |from: &String, how, to: &str, port, is_forwarded, expected| {
            all.push(Attempt { from: from.clone(), how, to: to.to_owned(), port, is_forwarded, expected });
        };
        add(client, "http", SERVER[family], 80, true, Open);
        add(client, "http", SERVER[family], 443, true, Open);
        add(client, "http", SERVER[family], 81, true, Refused);
        add(client, "http", SERVER[family], 82, true, Silence);
        add(client, "http", SERVER[family], 83, true, Refused);
        add(client, "ping", SERVER[family], 0, true, Open);
        add(client, "dns", SERVER[family], 53, true, Open);
        add(client, "dns", SERVER[family], 5353, true, Refused);
        add(client, "iperf3", SERVER[family], 5201, true, Open);
        add(client, "http", INSIDE[family], 2222, false, Open);
        add(client, "http", INSIDE[family], 23, false, Silence);
        add(client, "ping", INSIDE[family], 0, false, Open);
        add(server, "ping", OUTSIDE[family], 0, false, Silence);
        add(server, "http", OUTSIDE[family], 113, false, Refused);
        add(server, "http", OUTSIDE[family], 2222, false, Silence);
        add(gateway, "http", SERVER[family], 80, false, Open);
        add(gateway, "http", CLIENT[family], 9000, false, Open);
        // By the kernel's DNAT, and without.
        add(server, "http", if family == 0 { OUTSIDE[0] } else { CLIENT[1] }, 8443, true, Open);
        if family == 1 {
            add(server, "http", CLIENT[1], 9000, true, Silence);
        }
    }
    all
}

impl Attempt {
    fn make(&self, site: &Site) -> Seen {
        let Attempt { from, how, to, port, .. } = self;
        let host = if to.contains(':') { format!("[{to}]") } else { to.clone() };
        let (mut command, open, refused): (Command, i32, &[i32]) = match *how {
            "http" => {
                let mut curl = site.inside(from, "curl");
                curl.args(["-s", "-f", "-m", "3", "-o", "/dev/null", &format!("http://{host}:{port}/file")]);
                (curl, 0, &[7])
            }
            "ping" => {
                let mut ping = site.inside(from, "ping");
                ping.args(["-c", "1", "-W", "2", to]);
                (ping, 0, &[])
            }
            "dns" => {
                let mut python = site.inside(from, "python3");
                python.args(["-c", DNS, to, &port.to_string()]);
                (python, 0, &[7])
            }
            _ => {
                let mut iperf = site.inside(from, "iperf3");
                iperf.args(["-c", to, "-p", &port.to_string(), "-n", "20M", "--connect-timeout", "3000"]);
                (iperf, 0, &[])
            }
        };
        let output = command.output().unwrap();
        match output.status.code() {
            Some(code) if code == open => Seen::Open,
            Some(code) if refused.contains(&code) => Seen::Refused,
            _ => Seen::Silence,
        }
    }
}

/// A question for web.test over UDP: 0 answered, 7 refused, 28 silence.
const DNS: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
s.connect((sys.argv[1], int(sys.argv[2])))
try:
    s.send(bytes.fromhex('0001010000010000000000000377656204746573740000010001'))
    sys.exit(0 if b'\\xc0\\x00\\x02\\x50' in s.recv(512) else 1)
except ConnectionRefusedError:
    sys.exit(7)
except TimeoutError:
    sys.exit(28)
";

/// Makes all attempts at once; what is seen otherwise than it should be.
fn differences(site: &Site, only_forwarded: bool) -> String {
    let attempts = attempts(site);
    let chosen: Vec<&Attempt> = attempts.iter().filter(|of| of.is_forwarded || !only_forwarded).collect();
    // One client of iperf3 at a time is all that its server takes.
    let (one_by_one, together): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|attempt| attempt.how == "iperf3");
    let mut seen: Vec<(&Attempt, Seen)> = thread::scope(|scope| {
        let running: Vec<_> =
            together.into_iter().map(|attempt| (attempt, scope.spawn(|| attempt.make(site)))).collect();
        running.into_iter().map(|(attempt, seen)| (attempt, seen.join().unwrap())).collect()
    });
    seen.extend(one_by_one.into_iter().map(|attempt| (attempt, attempt.make(site))));
    let mut text = String::new();
    for (attempt, seen) in seen {
        if seen != attempt.expected {
            let Attempt { from, how, to, port, expected, .. } = attempt;
            writeln!(text, "{from}: {how} to {to} port {port}: {seen:?}, not {expected:?}").unwrap();
        }
    }
    text
}

/// Puts the rules into the kernel, sees that they work, takes their dump away as an admin does, and imports it.
fn take_over(site: &Site, only_forwarded: bool) {
    let tools = [("iptables", false), ("ip6tables", true)];
    for (tool, is_v6) in tools {
        let file = site.write(tool, &dump(is_v6));
        site.sh(&site.gateway, &format!("{tool}-restore < {}", file.display()));
    }
    assert_eq!(differences(site, only_forwarded), "", "with iptables");
    for (tool, _) in tools {
        let saved = site.sh(&site.gateway, &format!("{tool}-save -t filter"));
        let save = format!("{tool}-save");
        site.write(&save, &saved);
        let imported = site.tell(&["import", &save, &save]);
        let rules = format!("{tool}.yaml");
        site.write(&rules, &imported);
        assert_eq!(site.tell(&["equivalent", &save, &rules]), "equal\n");
        let flush =
            format!("for chain in INPUT FORWARD OUTPUT; do {tool} -P $chain ACCEPT; done; {tool} -F; {tool} -X");
        site.sh(&site.gateway, &flush);
    }
    site.write("rules.yaml", "include: [iptables.yaml, ip6tables.yaml]\n");
    assert_ne!(differences(site, only_forwarded), "", "without any rules");
}

fn transparent(kind: &str) {
    let site = Site::new();
    take_over(&site, true);
    site.cut();
    let daemon = site.daemon(None, &site.transparent(kind));
    assert_eq!(differences(&site, true), "", "over the wire");
    let rules = site.tell(&["rules", "--socket", "gateway.sock", "--met"]);
    assert!(rules.contains("reject") && rules.contains("chain services"), "{rules}");
    let lines = daemon.lines();
    let dropped = lines.iter().find(|line| line["reason"] == "policy_denied" && line["destinationPort"] == 82);
    assert_eq!(
        dropped.unwrap_or_else(|| panic!("{lines:#?}"))["rule"],
        "services 1",
        "the rule has its place for a name"
    );
    daemon.stop();
    let silent = |attempt: &&Attempt| attempt.is_forwarded;
    let attempts = attempts(&site);
    let first = attempts.iter().find(silent).unwrap();
    assert_eq!(first.make(&site), Seen::Silence, "a wire without a daemon is closed");
}

#[test]
fn a_transparent_wire_over_af_packet_decides_as_iptables_did() {
    transparent("af_packet");
}

#[test]
fn a_transparent_wire_over_af_xdp_decides_as_iptables_did() {
    transparent("af_xdp");
}

/// The gateway's own interfaces become wires; TAPs take over their names and addresses.
fn host_inside(kind: &str) {
    let site = Site::new();
    take_over(&site, false);
    let [lan, wan] = [INSIDE, OUTSIDE].map(|[v4, v6]| format!("[{v4}/24, '{v6}/64']"));
    let mut move_out = String::new();
    for name in ["lan", "wan"] {
        // The card keeps nothing but its MAC address.
        write!(
            move_out,
            "ip link set {name} down; ip address flush dev {name}; ip link set {name} name {name}0\n\
             sysctl -qw net.ipv6.conf.{name}0.disable_ipv6=1; ip link set {name}0 up\n"
        )
        .unwrap();
    }
    let mac = |name: &str| site.sh(&site.gateway, &format!("cat /sys/class/net/{name}/address"));
    let before = [mac("lan"), mac("wan")];
    site.sh(&site.gateway, &move_out);
    let config = format!(
        "rules: rules.yaml\nstate: state\nsocket: gateway.sock\nmetrics: {{address: 'off'}}\nmidStream: always\nwires:\n\
         - name: wan\n  placement: hostInside\n  host: {wan}\n  forward: false\n  dnat: ['tcp:8443']\n  \
         inside: {{kind: tap, interface: wan}}\n  outside: {{kind: {kind}, interface: wan0, as: wan}}\n\
         - name: lan\n  placement: hostInside\n  host: {lan}\n  \
         inside: {{kind: tap, interface: lan}}\n  outside: {{kind: {kind}, interface: lan0, as: lan}}\n"
    );
    let gateway = Some(site.gateway.as_str());
    let daemon = site.daemon(gateway, &config);
    assert_eq!([mac("lan"), mac("wan")], before, "neighbours see the MAC addresses that they know");
    // Duplicate address detection takes its time on a new device.
    until("the addresses are nobody else's", || site.sh(&site.gateway, "ip -6 address show tentative").is_empty());
    assert_eq!(differences(&site, false), "", "with the host inside");

    // The devices, their addresses and routes are there without a daemon, and nothing passes.
    site.sh(&site.gateway, "ip route add 192.0.2.0/24 via 10.91.2.2");
    daemon.stop();
    let [first, ..] = &attempts(&site)[..] else { unreachable!() };
    assert_eq!(first.make(&site), Seen::Silence);
    let again = site.daemon(gateway, &config);
    assert!(site.sh(&site.gateway, "ip route show 192.0.2.0/24").contains("dev wan"));
    until("it passes again", || first.make(&site) == Seen::Open);
    assert_eq!(differences(&site, false), "", "after a restart");
    again.stop();
    run(Command::new("ip").args(["-n", &site.gateway, "link", "del", "lan"]));
}

#[test]
fn with_the_host_inside_af_packet_decides_as_iptables_did() {
    host_inside("af_packet");
}

#[test]
fn with_the_host_inside_af_xdp_decides_as_iptables_did() {
    host_inside("af_xdp");
}
