//! What a node costs that has many wires and nothing to do: real pods in namespaces of their own, a bridge, and the chatter of
//! address resolution that never stops on one.
//!
//! ```text
//!  pod i: eth0 ── in‹i› ═ wire ═ out‹i› ── port‹i› on the bridge ── the node, which asks for one pod after another
//! ```
//!
//! Every question is a broadcast or a multicast that the bridge gives to all wires, so one question is as many frames as there
//! are wires, and an answer. The wires are those of the daemon: one worker, `af_packet` ports, endpoints that are guarded.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control::enforcer::{Enforcer, EnforcerConfig, WireSpec};
use dataplane::address::{Address, MacAddress};
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::Direction;
use dataplane::port::netns::{NetworkNamespace, enter};
use dataplane::port::{PortKind, PortSpec};
use dataplane::rules::{Policy, RuleSet, WireRules};
use dataplane::testing::FrameBuilder;
use dataplane::wire::Tracking;
use dataplane::worker::Pinning;
use serde::Serialize;

/// The node's own MAC address, on its bridge.
const NODE: MacAddress = MacAddress([2, 0, 0, 0, 0xff, 0xff]);

/// What is built and for how long it is watched.
#[derive(Clone, Copy, Debug)]
pub struct IdleNode {
    /// Number of pods, each behind a wire; at most 60,000.
    pub wires: u16,
    /// Questions a second of each kind: ARP requests, and neighbour solicitations.
    pub questions: u32,
    /// How long the worker is watched.
    pub duration: Duration,
    /// The CPU of the worker; `None` for any.
    pub cpu: Option<usize>,
}

impl Default for IdleNode {
    /// A full node of Kubernetes (110 pods) where two pods a second are asked for in each family.
    fn default() -> Self {
        IdleNode { wires: 110, questions: 2, duration: Duration::from_secs(10), cpu: None }
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// Share of one core that the worker's thread took, softirqs that ran on its back included.
    pub core_share: f64,
    /// Frames that the node's questions brought to the wires.
    pub questions: u64,
    /// Frames that the pods sent.
    pub answers: u64,
    /// How often the worker went to sleep.
    pub sleeps: u64,
}

/// Builds the node, watches its worker, and removes everything again.
///
/// # Errors
/// When a namespace, a device or a port cannot be made (root is needed), or no question crossed the wires.
pub fn measure(node: &IdleNode) -> Result<Idle> {
    let world = World::build(node.wires)?;
    let pinning = node.cpu.map_or(Pinning::None, Pinning::Cpu);
    let config = EnforcerConfig { workers: vec![pinning], ..EnforcerConfig::default() };
    let enforcer = Enforcer::start(&config)?;
    let mut wires = Vec::new();
    for number in 0..node.wires {
        let wire = enforcer.attach(&world.wire(number))?;
        wires.push(WireRules { wire, egress: Policy::Open, ingress: Policy::Open });
    }
    enforcer.publish(RuleSet { wires })?;
    let worker = Task::find("worker-0")?;
    let stop = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let asking = scope.spawn(|| world.ask(node, &stop));
        // Pods that were just switched on say which groups they are in.
        thread::sleep(Duration::from_secs(4));
        let frames = || {
            let wires = enforcer.wires();
            [Direction::Ingress, Direction::Egress]
                .map(|way| wires.values().map(|wire| wire.stats.direction(way).received.get()).sum::<u64>())
        };
        let (before, begin, [questions, answers]) = (worker.used()?, Instant::now(), frames());
        thread::sleep(node.duration);
        let (after, time, [more_questions, more_answers]) = (worker.used()?, begin.elapsed(), frames());
        stop.store(true, Ordering::Relaxed);
        asking.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
        Ok::<_, anyhow::Error>(Idle {
            core_share: (after.time - before.time).as_secs_f64() / time.as_secs_f64(),
            questions: more_questions - questions,
            answers: more_answers - answers,
            sleeps: after.sleeps - before.sleeps,
        })
    })?;
    ensure!(node.questions == 0 || seen.questions > 0, "no question crossed a wire");
    Ok(seen)
}

/// Namespaces that go with this.
struct World {
    prefix: String,
    pods: u16,
}

impl World {
    fn build(pods: u16) -> Result<Self> {
        ensure!(pods > 0 && pods <= 60_000, "1 to 60000 wires, please");
        let world = World { prefix: format!("pi{}", std::process::id()), pods };
        let (wires, node) = (world.wires(), world.node());
        ip(&[], &format!("netns add {wires}\nnetns add {node}\n"))?;
        let mut names = String::new();
        for number in 0..pods {
            names += &format!("netns add {}\n", world.pod(number));
        }
        ip(&[], &names)?;
        for namespace in [&wires, &node] {
            world.sysctl(namespace, "net.ipv6.conf.default.disable_ipv6=1")?;
        }
        world.sysctl(&node, "net.ipv6.conf.default.disable_ipv6=0")?;
        ip(
            &["-n", &node],
            &format!(
                "link add br0 address {NODE} type bridge mcast_snooping 0\nlink set br0 up\naddr add 10.201.0.1/16 dev br0\n\
                 addr add fd07::1/64 dev br0 nodad\n"
            ),
        )?;
        world.sysctl(&node, "net.ipv6.conf.default.disable_ipv6=1")?;
        let (mut links, mut bridged) = (String::new(), String::new());
        for number in 0..pods {
            let pod = world.pod(number);
            links += &format!("link add in{number} type veth peer name eth0 netns {pod}\nlink set in{number} up\n");
            links += &format!("link add out{number} type veth peer name port{number} netns {node}\n");
            links += &format!("link set out{number} up\n");
            bridged += &format!("link set port{number} master br0\nlink set port{number} up\n");
        }
        ip(&["-n", &wires], &links)?;
        ip(&["-n", &node], &bridged)?;
        for number in 0..pods {
            // A pod asks for routers in its first seconds, and all others hear it: that is not a node at rest.
            world.sysctl(&world.pod(number), "net.ipv6.conf.eth0.router_solicitations=0")?;
            let (mac, [ipv4, ipv6]) = (mac(number), addresses(number));
            ip(
                &["-n", &world.pod(number)],
                &format!(
                    "link set eth0 address {mac}\naddr add {ipv4}/16 dev eth0\naddr add {ipv6}/64 dev eth0 nodad\n\
                     link set eth0 up\n"
                ),
            )?;
        }
        Ok(world)
    }

    fn wires(&self) -> String {
        format!("{}-wires", self.prefix)
    }

    fn node(&self) -> String {
        format!("{}-node", self.prefix)
    }

    fn pod(&self, number: u16) -> String {
        format!("{}-pod{number}", self.prefix)
    }

    fn sysctl(&self, namespace: &str, setting: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "exec", namespace, "sysctl", "-q", "-w", setting]), "")
    }

    fn wire(&self, number: u16) -> WireSpec {
        let port = |side: &str| PortSpec::new(PortKind::AfPacket, format!("{side}{number}")).in_namespace(self.wires());
        WireSpec {
            name: format!("pod{number}"),
            inside: port("in"),
            outside: port("out"),
            endpoint: Some(Endpoint { mac: Some(mac(number)), addresses: addresses(number).into() }),
            permissions: Permissions::POD,
            tracking: Tracking::Stateful,
        }
    }

    /// Asks for one pod after another until it is stopped.
    fn ask(&self, node: &IdleNode, stop: &AtomicBool) -> Result<()> {
        if node.questions == 0 {
            return Ok(());
        }
        let namespace = NetworkNamespace::open(&self.node())?;
        let socket = enter(&namespace, || packet_socket("br0")).context("entering the node's namespace")??;
        let between = Duration::from_secs(1) / node.questions;
        let mut next = Instant::now();
        for number in (0..self.pods).cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for question in questions(number) {
                // SAFETY: the pointer and length describe `question`, which the kernel only reads.
                let sent = unsafe { libc::send(socket.as_raw_fd(), question.as_ptr().cast(), question.len(), 0) };
                ensure!(sent >= 0, "asking for a pod: {}", io::Error::last_os_error());
            }
            next += between;
            thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)));
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let names = (0..self.pods).map(|number| self.pod(number)).chain([self.wires(), self.node()]);
        let all: String = names.map(|name| format!("netns del {name}\n")).collect();
        // What is not there any more need not go.
        let _gone = run(Command::new("ip").args(["-force", "-batch", "-"]), &all);
    }
}

/// Runs several commands of ip(8) at once.
fn ip(arguments: &[&str], commands: &str) -> Result<()> {
    run(Command::new("ip").args(arguments).args(["-batch", "-"]), commands)
}

fn run(command: &mut Command, input: &str) -> Result<()> {
    let text = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("running {text}"))?;
    child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn mac(number: u16) -> MacAddress {
    let [high, low] = number.to_be_bytes();
    MacAddress([2, 0, 0, 1, high, low])
}

fn addresses(number: u16) -> [Address; 2] {
    let place = number + 2;
    let [high, low] = place.to_be_bytes();
    [
        Address::from(std::net::IpAddr::V4(Ipv4Addr::new(10, 201, high, low))),
        Address::from(std::net::IpAddr::V6(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, place))),
    ]
}

/// The node asks who has the addresses of a pod: by broadcast, and by multicast to the solicited node (RFC 4861).
fn questions(number: u16) -> [Vec<u8>; 2] {
    let [ipv4, ipv6] = addresses(number);
    let [high, low] = (number + 2).to_be_bytes();
    let broadcast = MacAddress([0xff; 6]);
    let node = Address::from(std::net::IpAddr::V4(Ipv4Addr::new(10, 201, 0, 1)));
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, number + 2);
    let arp = FrameBuilder::new().ethernet(NODE, broadcast).arp(1, (NODE, node), (MacAddress::default(), ipv4));
    let solicitation = FrameBuilder::new()
        .ethernet(NODE, MacAddress([0x33, 0x33, 0xff, 0, high, low]))
        .ip("fd07::1", &group.to_string())
        .neighbour_solicitation(ipv6, Some(NODE));
    [arp.build(), solicitation.build()]
}

/// A socket that sends frames on a device of the calling thread's namespace.
fn packet_socket(device: &str) -> Result<OwnedFd> {
    let control = crate::bare::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let index = rustix::net::netdevice::name_to_index(control, device).context("finding the bridge")?;
    let socket = crate::bare::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    // SAFETY: a sockaddr_ll is plain old data, for which zeros are a value.
    let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, which the kernel only reads.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "binding to the bridge: {}", io::Error::last_os_error());
    Ok(socket)
}

/// A thread of this process.
struct Task(String);

/// What a thread has used so far.
struct Used {
    time: Duration,
    sleeps: u64,
}

impl Task {
    fn find(name: &str) -> Result<Task> {
        for entry in fs::read_dir("/proc/self/task")? {
            let path = entry?.path();
            if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name) {
                return Ok(Task(path.display().to_string()));
            }
        }
        anyhow::bail!("this process has no thread {name}")
    }

    fn used(&self) -> Result<Used> {
        let statistics = fs::read_to_string(format!("{}/schedstat", self.0))?;
        let nanoseconds = statistics.split_whitespace().next().context("schedstat is empty")?.parse()?;
        let status = fs::read_to_string(format!("{}/status", self.0))?;
        let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let sleeps = sleeps.context("status does not tell of switches")?.trim().parse()?;
        Ok(Used { time: Duration::from_nanos(nanoseconds), sleeps })
    }
}
