//! The gateway: a namespace with TAP devices under the names that a rule set speaks of, and the real iptables.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use dataplane::address::{Address, MacAddress};
use dataplane::frame::{Burst, Frame};
use dataplane::port::tap::{Tap, TapOptions};
use dataplane::port::{Pool, Port};
use dataplane::time::Time;
use gateway::model::{Family, Hook, States};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::observer::{self, Observer, Seen};
use crate::packet::{Packet, Read};

/// The mark of what the gateway takes in itself.
const LOCAL: usize = 200;
/// Added to marks of what is not to be tracked.
const UNTRACKED: usize = 256;
/// Groups that the gateway belongs to.
const GROUPS4: [[u8; 4]; 3] = [[224, 0, 0, 251], [239, 255, 255, 250], [224, 0, 0, 18]];
const GROUPS6: [u8; 3] = [0xfb, 0xf, 0x12];

/// Groups that the gateway belongs to.
pub(crate) fn groups(family: Family) -> [Address; 3] {
    match family {
        Family::V4 => GROUPS4.map(Address::v4),
        Family::V6 => GROUPS6.map(|group| Address([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, group])),
    }
}

/// The gateway. It lives in the namespace of the thread that made it.
pub(crate) struct Kernel {
    pub(crate) family: Family,
    /// `lo` stands behind the others.
    pub(crate) interfaces: Vec<String>,
    indices: HashMap<u32, usize>,
    taps: Vec<Tap>,
    pool: Pool,
    raw: Socket,
    observer: Observer,
    /// Groups are left when the socket is closed.
    _member: Socket,
    /// Frames that came out of the TAP devices.
    pub(crate) came_out: u64,
}

/// Runs a program that has to succeed, and answers what it printed.
pub(crate) fn run(words: &[&str], input: &str) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let output = std::thread::scope(|scope| {
        // What ends early is told by its exit status.
        scope.spawn(move || stdin.write_all(input.as_bytes()).ok());
        child.wait_with_output().expect("waiting for a program")
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {}: {complaint}", output.status);
    String::from_utf8(output.stdout).expect("programs print text")
}

/// The MAC address of the kernel's end of a TAP device.
fn mac(index: usize) -> MacAddress {
    MacAddress([2, 0xaa, 0, 0, 0, index as u8])
}

/// The address that the gateway has on each link.
pub(crate) const LINK: Address = Address([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);

/// The gateway's own addresses, which importing has to know.
pub(crate) fn own(family: Family, index: usize) -> Address {
    match family {
        Family::V4 => Address::v4([198, 19, 7, index as u8 + 1]),
        Family::V6 => Address::from(std::net::IpAddr::from(Ipv6Addr::new(0xfd19, 0, 0, 7, 0, 0, 0, index as u16 + 1))),
    }
}

impl Kernel {
    /// Sets the gateway up, without rules.
    pub(crate) fn new(family: Family, names: &[&str]) -> Kernel {
        let taps: Vec<Tap> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let options = TapOptions { mac: Some(mac(index)), up: false, ..TapOptions::default() };
                Tap::open_tap(name, options).expect("a TAP device")
            })
            .collect();
        settings(names);
        links(family, names);
        let mut elements: Vec<String> = (0..names.len()).chain([LOCAL]).map(|mark| element(mark, mark)).collect();
        elements.extend((0..names.len()).chain([LOCAL]).map(|mark| element(mark + UNTRACKED, mark)));
        let steering = format!(
            "iifname != \"lo\" meta mark set ether saddr map {{ {} }}\niifname != \"lo\" ether saddr & ff:ff:ff:ff:01:00 == \
             02:00:00:00:01:00 notrack",
            elements.join(", ")
        );
        let sent = format!("meta mark & {UNTRACKED} == {UNTRACKED} notrack");
        run(&["nft", "-f", "-"], &observer::table(&steering, &sent));
        let raw = Socket::new(domain(family), Type::RAW, Some(Protocol::from(255))).expect("a raw socket");
        raw.set_nonblocking(true).expect("a socket that does not wait");
        let mut interfaces: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        interfaces.push("lo".to_owned());
        let index = |name: &String| rustix::net::netdevice::name_to_index(&raw, name).expect("an interface");
        let indices: HashMap<u32, usize> = interfaces.iter().enumerate().map(|(at, name)| (index(name), at)).collect();
        let member = join(family, &indices, names.len());
        Kernel {
            family,
            interfaces,
            indices,
            taps,
            pool: Pool::new(2048, 4096),
            raw,
            observer: Observer::open(),
            _member: member,
            came_out: 0,
        }
    }

    /// Waits until the kernel is silent: groups are joined aloud, and what is told of that before there are rules nobody counts.
    pub(crate) fn calm_down(&mut self) {
        let (mut silent, mut seen) = (0, Vec::new());
        while silent < 15 {
            std::thread::sleep(Duration::from_millis(10));
            self.observer.drain(&mut seen);
            silent = if seen.is_empty() { silent + 1 } else { 0 };
            seen.clear();
        }
    }

    /// Loads sets and rules.
    pub(crate) fn load(&self, rules: &str, ipset: Option<&str>) {
        if let Some(ipset) = ipset {
            run(&["ipset", "restore"], ipset);
        }
        run(&[self.tool("restore").as_str()], rules);
    }

    fn tool(&self, what: &str) -> String {
        // iptables-legacy's programs have the kind in their names.
        let kind = std::env::var("PENSTOCK_IPTABLES").map(|kind| format!("-{kind}")).unwrap_or_default();
        match self.family {
            Family::V4 => format!("iptables{kind}-{what}"),
            Family::V6 => format!("ip6tables{kind}-{what}"),
        }
    }

    /// How many packets each rule has met, by its chain and its place in it.
    pub(crate) fn counters(&self) -> HashMap<(String, usize), u64> {
        let text = run(&[self.tool("save").as_str(), "-c", "-t", "filter"], "");
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut counters = HashMap::new();
        for line in text.lines().filter(|line| line.starts_with('[')) {
            let (count, rest) = line[1..].split_once(':').expect("[packets:bytes]");
            let chain = rest.split_whitespace().nth(2).expect("-A CHAIN");
            let place = places.entry(chain.to_owned()).or_default();
            counters.insert((chain.to_owned(), *place), count.parse().expect("a number"));
            *place += 1;
        }
        counters
    }

    /// The name of an interface by the kernel's index.
    pub(crate) fn interface(&self, index: Option<u32>) -> Option<&str> {
        self.indices.get(&index?).map(|at| self.interfaces[*at].as_str())
    }

    /// Sends a packet to where it comes from, and answers what was seen of it. `Err`: the kernel would not send it.
    pub(crate) fn send(&mut self, packet: &Packet) -> std::io::Result<Vec<Seen>> {
        let bytes = packet.bytes();
        // What goes out by `lo` comes in by it, too.
        let mut mark = packet.output.filter(|output| *output < self.taps.len()).unwrap_or(LOCAL);
        if packet.wish == States::UNTRACKED {
            mark += UNTRACKED;
        }
        match packet.input {
            Some(input) if packet.hook != Hook::Output && input < self.taps.len() => {
                let mut frame = mac(input).0.to_vec();
                frame.extend([2, 0, 0, 0, (mark >> 8) as u8, mark as u8]);
                frame.extend(if self.family == Family::V4 { [8, 0] } else { [0x86, 0xdd] });
                frame.extend(&bytes);
                let mut chunk = self.pool.take().expect("a chunk");
                let offset = chunk.offset();
                chunk.whole_mut()[offset..offset + frame.len()].copy_from_slice(&frame);
                chunk.set_range(offset, frame.len());
                let mut burst = Burst::new();
                burst.push(Frame::new(chunk));
                self.taps[input].send(&mut self.pool, &mut burst, Time(0))?;
                assert!(burst.is_empty(), "the TAP device takes a frame");
            }
            _ => {
                self.raw.set_mark(mark as u32 + 1)?;
                let mut to = SocketAddr::new(packet.destination.into(), 0);
                if let (SocketAddr::V6(to), Some(output)) = (&mut to, packet.output)
                    && (packet.destination.is_group() || is_of_link(packet.destination))
                {
                    // Marks have no say in which link these go to.
                    let index = self.indices.iter().find(|(_, at)| **at == output).map(|(index, _)| *index);
                    to.set_scope_id(index.expect("an interface"));
                }
                // What the filter table drops on its way out was not permitted, and was seen there.
                match self.raw.send_to(&bytes, &to.into()) {
                    Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => return Err(error),
                    _ => {}
                }
            }
        }
        let mut seen = Vec::new();
        self.observer.drain(&mut seen);
        self.empty_taps();
        Ok(seen)
    }

    fn empty_taps(&mut self) {
        for tap in &mut self.taps {
            loop {
                let mut burst = Burst::new();
                tap.receive(&mut self.pool, &mut burst, Time(0)).expect("reading from a TAP device");
                if burst.is_empty() {
                    break;
                }
                self.came_out += burst.len() as u64;
                burst.drain(..).for_each(|frame| self.pool.release(frame));
            }
        }
    }

    /// Makes a connection known that this packet is of: answered, assured. It may be known already.
    pub(crate) fn establish(&self, packet: &Read) {
        let ends = [packet.source.to_string(), packet.destination.to_string()];
        let ports = [packet.source_port.to_string(), packet.destination_port.to_string()];
        let mut words =
            vec!["conntrack", "-I", "-s", &ends[0], "-d", &ends[1], "-u", "SEEN_REPLY,ASSURED", "-t", "600"];
        match packet.protocol {
            6 => words.extend(["-p", "tcp", "--sport", &ports[0], "--dport", &ports[1], "--state", "ESTABLISHED"]),
            17 => words.extend(["-p", "udp", "--sport", &ports[0], "--dport", &ports[1]]),
            _ => return,
        }
        Command::new(words[0]).args(&words[1..]).output().expect("conntrack");
    }

    /// What iptables-save prints of the filter table.
    pub(crate) fn saved(&self) -> String {
        run(&[self.tool("save").as_str(), "-t", "filter"], "")
    }

    /// Forgets all connections.
    pub(crate) fn forget(&self) {
        run(&["conntrack", "-F"], "");
    }

    /// What the IP layer counts of packets that it does not take.
    pub(crate) fn refusals(&self) -> Vec<(String, u64)> {
        let (path, wanted) = match self.family {
            Family::V4 => ("/proc/thread-self/net/snmp", "Ip"),
            Family::V6 => ("/proc/thread-self/net/snmp6", "Ip6"),
        };
        let text = std::fs::read_to_string(path).expect("the kernel's counters");
        let telling = |name: &str| {
            ["InHdrErrors", "InAddrErrors", "InDiscards", "InNoRoutes", "OutNoRoutes", "InTruncatedPkts", "ReasmFails"]
                .iter()
                .any(|one| name.ends_with(one))
        };
        let pairs: Vec<(String, u64)> = match self.family {
            Family::V6 => text
                .lines()
                .filter_map(|line| line.split_once(char::is_whitespace))
                .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
                .collect(),
            Family::V4 => {
                let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
                let (names, counts) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
                let counts = counts.split_whitespace().skip(1);
                names
                    .split_whitespace()
                    .skip(1)
                    .zip(counts)
                    .map(|(name, count)| (format!("{wanted}{name}"), count.parse().unwrap_or(0)))
                    .collect()
            }
        };
        pairs.into_iter().filter(|(name, count)| name.starts_with(wanted) && telling(name) && *count > 0).collect()
    }
}

/// Whether it is an address of one link.
pub(crate) fn is_of_link(address: Address) -> bool {
    address.0[0] == 0xfe && address.0[1] & 0xc0 == 0x80
}

/// An element of the map from MAC addresses to marks. Marks count from 1: 0 is what the tables are left alone with.
fn element(from: usize, mark: usize) -> String {
    format!("02:00:00:00:{:02x}:{:02x} : {}", from >> 8, from & 0xff, mark + 1)
}

fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

/// Forwarding on, and nothing thrown away before the filter table for where it comes from; errors are not held back.
fn settings(names: &[&str]) {
    let set = |key: &str, value: &str| {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    };
    for of in names.iter().copied().chain(["all", "default"]) {
        for (key, value) in [
            ("rp_filter", "0"),
            ("accept_local", "1"),
            ("route_localnet", "1"),
            ("forwarding", "1"),
            ("send_redirects", "0"),
        ] {
            set(&format!("ipv4/conf/{of}/{key}"), value);
        }
        for (key, value) in [
            ("forwarding", "1"),
            ("accept_dad", "0"),
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
            ("mldv2_unsolicited_report_interval", "1"),
        ] {
            set(&format!("ipv6/conf/{of}/{key}"), value);
        }
    }
    set("ipv4/ip_forward", "1");
    set("ipv4/igmp_qrv", "1");
    set("ipv4/igmp_max_memberships", "1000");
    set("ipv4/icmp_ratelimit", "0");
    set("ipv4/icmp_ratemask", "0");
    set("ipv4/icmp_echo_ignore_broadcasts", "0");
    set("ipv6/icmp/ratelimit", "0");
    // Empty it can't be made; this is no error's type.
    set("ipv6/icmp/ratemask", "255");
}

fn links(family: Family, names: &[&str]) {
    let mut lines = vec!["link set lo up".to_owned()];
    for (index, name) in names.iter().enumerate() {
        lines.push(format!("link set {name} arp off addrgenmode none"));
        lines.push(format!("link set {name} up"));
        let (address, rest) = (own(family, index), if family == Family::V4 { "" } else { " nodad" });
        let length = if family == Family::V4 { 32 } else { 128 };
        lines.push(format!("address add {address}/{length} dev {name}{rest}"));
        if family == Family::V6 {
            lines.push(format!("address add {LINK}/64 dev {name} nodad"));
            lines.push(format!("route append fe80::/10 dev {name}"));
        }
        lines.push(format!("rule add fwmark {} lookup {}", index + 1, 1000 + index));
        lines.push(format!("route add default dev {name} table {}", 1000 + index));
        lines.push(format!("rule add fwmark {} lookup {}", UNTRACKED + index + 1, 1000 + index));
    }
    lines.push(format!("rule add fwmark {} lookup 2000", LOCAL + 1));
    lines.push("route add local default dev lo table 2000".to_owned());
    lines.extend(names.first().map(|name| format!("route add default dev {name}")));
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    run(&["ip", flag, "-batch", "-"], &(lines.join("\n") + "\n"));
}

fn join(family: Family, indices: &HashMap<u32, usize>, lo: usize) -> Socket {
    let socket = Socket::new(domain(family), Type::DGRAM, None).expect("a socket");
    for index in indices.iter().filter(|(_, at)| **at != lo).map(|(index, _)| *index) {
        for group in groups(family) {
            let joined = match group.into() {
                IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index)),
                IpAddr::V6(group) => socket.join_multicast_v6(&group, index),
            };
            joined.expect("joining a group");
        }
    }
    socket
}
