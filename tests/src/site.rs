//! Namespaces for one test: a router, hosts around it, and wires to those that are pods.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use control::enforcer::{Enforcer, EnforcerConfig, WireSpec};
use control::lab::Family;
use control::lab::netns::{self, Namespace};
use dataplane::address::{Address, MacAddress};
use dataplane::event::Event;
use dataplane::guard::{Endpoint, Permissions};
use dataplane::packet::Direction;
use dataplane::port::{PortKind, PortSpec};
use dataplane::publish::Generation;
use dataplane::rules::{Policy, RuleSet, WireId, WireRules};
use dataplane::stats::{DirectionStats, WireStats};
use dataplane::verdict::DropReason;
use dataplane::wire::Tracking;

use crate::process;

/// What the names of all namespaces start with; the process number follows.
const PREFIX: &str = "penstock-test-";

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between one look and the next.
const PAUSE: Duration = Duration::from_millis(10);

/// How a host is joined to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// By a veth pair: nothing is enforced.
    Straight,
    /// By a wire with an endpoint inside, as pods are.
    Pod(Ports),
    /// By a wire without an endpoint, as a gateway's networks are.
    Gateway(Ports),
}

/// The kinds of a wire's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Towards the host.
    pub inside: PortKind,
    /// Towards the router.
    pub outside: PortKind,
}

impl From<PortKind> for Ports {
    fn from(kind: PortKind) -> Self {
        Ports { inside: kind, outside: kind }
    }
}

/// Whether addresses are probed for duplicates before they can be used (RFC 4862 section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateDetection {
    /// They are.
    On,
    /// They can be used at once.
    Off,
}

/// A host: a namespace with one interface, `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its number, from which its names and addresses come.
    pub number: u8,
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its MAC address.
    pub mac: MacAddress,
    /// The MAC address of the router's end of its link.
    pub gateway_mac: MacAddress,
    /// Its wire, if it has one.
    pub wire: Option<WireId>,
}

impl Host {
    fn new(number: u8, namespace: Namespace) -> Host {
        Host {
            number,
            namespace,
            mac: MacAddress([2, 0x77, 0, 0, 0, number]),
            gateway_mac: MacAddress([2, 0x77, 1, 0, 0, number]),
            wire: None,
        }
    }

    fn endpoint(&self) -> Endpoint {
        let addresses = Family::ALL.map(|family| Address::from(self.ip(family))).to_vec();
        Endpoint { mac: Some(self.mac), addresses }
    }

    /// Its address.
    pub fn ip(&self, family: Family) -> IpAddr {
        address(self.number, family, 2)
    }

    /// The router's address on its link.
    pub fn gateway(&self, family: Family) -> IpAddr {
        address(self.number, family, 1)
    }

    /// The router's interface towards it.
    pub fn gateway_device(&self) -> String {
        format!("p{}", self.number)
    }

    /// Runs a program there that has to succeed, and answers what it printed. The words are parted at spaces.
    pub fn run(&self, words: &str) -> String {
        process::run(&self.namespace, &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a program there, however it ends, and answers what it printed.
    pub fn run_anyhow(&self, words: &str) -> String {
        let output = process::output(&self.namespace, &words.split_whitespace().collect::<Vec<_>>());
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Whether a program there ends well.
    pub fn succeeds(&self, words: &str) -> bool {
        process::output(&self.namespace, &words.split_whitespace().collect::<Vec<_>>()).status.success()
    }
}

fn address(number: u8, family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 77, number, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, number.into(), 0, 0, 0, host.into()).into(),
    }
}

/// Namespaces that are removed when this is dropped.
#[derive(Default)]
struct Namespaces(Vec<Namespace>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = netns::remove(&self.0) {
            eprintln!("removing namespaces: {error}");
        }
    }
}

/// The namespaces of one test, and the engine between them. Dropping it removes everything.
pub struct Site {
    // Dropped in this order: first what holds sockets in the namespaces.
    enforcer: Enforcer,
    rules: RefCell<BTreeMap<WireId, WireRules>>,
    prefix: String,
    /// Routes between all hosts.
    pub router: Namespace,
    wires: Namespace,
    far: Option<Namespace>,
    hosts: u8,
    detection: DuplicateDetection,
    created: Namespaces,
}

impl Site {
    /// A router without hosts, and an engine without wires.
    pub fn new() -> Site {
        Site::with(&EnforcerConfig::default(), DuplicateDetection::Off)
    }

    /// The same with an engine of this kind.
    pub fn with(config: &EnforcerConfig, detection: DuplicateDetection) -> Site {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        netns::remove_orphans(PREFIX);
        let prefix = format!("{PREFIX}{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let [router, wires] = ["router", "wires"].map(|name| Namespace::named(format!("{prefix}{name}")));
        let mut site = Site {
            enforcer: Enforcer::start(config).expect("starting the engine"),
            rules: RefCell::default(),
            prefix,
            router: router.clone(),
            wires: wires.clone(),
            far: None,
            hosts: 0,
            detection,
            created: Namespaces::default(),
        };
        site.create(&router);
        site.create(&wires);
        site.make_router(&router);
        for scope in ["all", "default"] {
            wires.sysctl(&[(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")]).expect("silencing the wires");
        }
        site
    }

    fn create(&mut self, namespace: &Namespace) {
        self.created.0.push(namespace.clone());
        netns::create(std::slice::from_ref(namespace)).expect("making a namespace; run the tests as root");
        let detection = if self.detection == DuplicateDetection::On { "1" } else { "0" };
        namespace
            .sysctl(&[
                ("ipv6/conf/all/accept_dad", detection),
                ("ipv6/conf/default/accept_dad", detection),
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv6/icmp/ratelimit", "0"),
            ])
            .expect("setting a namespace up");
        batch(namespace, &["link set lo up"]);
    }

    fn make_router(&self, namespace: &Namespace) {
        namespace
            .sysctl(&[
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/forwarding", "1"),
            ])
            .expect("making a router");
    }

    /// A host on a link of its own to the router. A wire starts open both ways.
    pub fn add(&mut self, name: &str, cable: Cable) -> Host {
        let router = self.router.clone();
        self.add_to(&router, name, cable)
    }

    /// A host beyond a second router. The link between the routers takes packets of `mtu` bytes; that of the host, 1500.
    pub fn add_beyond(&mut self, mtu: u32, name: &str) -> Host {
        let far = Namespace::named(format!("{}far", self.prefix));
        assert!(self.far.replace(far.clone()).is_none(), "one narrow link is enough");
        self.create(&far);
        self.make_router(&far);
        let pair = format!("link add narrow mtu {mtu} type veth peer name narrow mtu {mtu} netns {}", far.name());
        batch(&self.router, &[&pair]);
        for (end, namespace) in [(1, &self.router.clone()), (2, &far)] {
            batch(
                namespace,
                &[
                    "link set narrow up",
                    &format!("address add {}/24 dev narrow", address(0, Family::V4, end)),
                    &format!("address add {}/64 dev narrow nodad", address(0, Family::V6, end)),
                ],
            );
        }
        let host = self.add_to(&far, name, Cable::Straight);
        for family in Family::ALL {
            batch(&far, &[&format!("route add default via {}", address(0, family, 1))]);
            let [next, target] = [address(0, family, 2), host.ip(family)];
            batch(&self.router, &[&format!("route add {target} via {next}")]);
        }
        host
    }

    fn add_to(&mut self, router: &Namespace, name: &str, cable: Cable) -> Host {
        self.hosts += 1;
        let number = self.hosts;
        let namespace = Namespace::named(format!("{}{name}", self.prefix));
        self.create(&namespace);
        let mut host = Host::new(number, namespace);
        match cable {
            Cable::Straight => {
                batch(router, &[&veth(&host.gateway_device(), host.gateway_mac, "eth0", host.mac, &host.namespace)]);
            }
            Cable::Pod(ports) => {
                let endpoint = host.endpoint();
                self.attach(&mut host, router, ports, Some(endpoint), Permissions::POD);
            }
            Cable::Gateway(ports) => self.attach(&mut host, router, ports, None, Permissions::GATEWAY),
        }
        let device = host.gateway_device();
        batch(router, &[&format!("link set {device} up")]);
        batch(&host.namespace, &["link set eth0 up"]);
        let nodad = if self.detection == DuplicateDetection::On { "" } else { " nodad" };
        for (family, length, flag) in [(Family::V4, 24, ""), (Family::V6, 64, nodad)] {
            let (own, gateway) = (host.ip(family), host.gateway(family));
            batch(router, &[&format!("address add {gateway}/{length} dev {device}{flag}")]);
            batch(
                &host.namespace,
                &[
                    &format!("address add {own}/{length} dev eth0{flag}"),
                    &format!("route add default via {gateway} dev eth0"),
                ],
            );
        }
        host
    }

    /// Puts a host behind a wire.
    fn attach(
        &self,
        host: &mut Host,
        router: &Namespace,
        ports: Ports,
        endpoint: Option<Endpoint>,
        permissions: Permissions,
    ) {
        let inside = self.port(ports.inside, "i", host.number, ("eth0", host.mac, &host.namespace));
        let outside = self.port(ports.outside, "o", host.number, (&host.gateway_device(), host.gateway_mac, router));
        let name = host.namespace.name().to_owned();
        let spec = WireSpec { name, inside, outside, endpoint, permissions, tracking: Tracking::Stateful };
        let wire = self.enforcer.attach(&spec).expect("attaching a wire");
        assert_eq!(self.enforcer.wires()[&wire].warnings, Vec::<String>::new(), "fall-backs would test something else");
        host.wire = Some(wire);
        self.judge(host, Policy::Open, Policy::Open);
    }

    /// A port that reaches a device in another namespace: the device itself, or by a veth.
    fn port(
        &self,
        kind: PortKind,
        end: &str,
        number: u8,
        (device, mac, namespace): (&str, MacAddress, &Namespace),
    ) -> PortSpec {
        if kind == PortKind::Tap {
            return PortSpec::new(kind, device).in_namespace(namespace.name()).with_mac(mac);
        }
        let name = format!("{end}{number}");
        let silent = MacAddress([2, 0x77, 2, 0, end.as_bytes()[0], number]);
        batch(&self.wires, &[&veth(&name, silent, device, mac, namespace), &format!("link set {name} arp off up")]);
        PortSpec::new(kind, name).in_namespace(self.wires.name())
    }

    /// So many pods behind AF_PACKET wires whose interfaces, `c1`, `c2`, …, are all in one namespace, and whose gateways'
    /// (`p1`, …) are in the router's. None has an address: who uses them makes frames.
    pub fn crowd(&mut self, size: u8) -> Vec<Host> {
        let namespace = Namespace::named(format!("{}crowd", self.prefix));
        self.create(&namespace);
        let router = self.router.clone();
        for silent in [&namespace, &router] {
            silent.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")]).expect("silencing a namespace");
        }
        (1..=size).map(|number| self.member(number, &namespace, &router)).collect()
    }

    fn member(&mut self, number: u8, namespace: &Namespace, router: &Namespace) -> Host {
        let mut host = Host::new(number, namespace.clone());
        let (device, gateway) = (format!("c{number}"), host.gateway_device());
        let spec = WireSpec {
            name: device.clone(),
            inside: self.port(PortKind::AfPacket, "i", number, (&device, host.mac, namespace)),
            outside: self.port(PortKind::AfPacket, "o", number, (&gateway, host.gateway_mac, router)),
            endpoint: Some(host.endpoint()),
            permissions: Permissions::POD,
            tracking: Tracking::Stateful,
        };
        batch(namespace, &[&format!("link set {device} up")]);
        batch(router, &[&format!("link set {gateway} up")]);
        host.wire = Some(self.enforcer.attach(&spec).expect("attaching a wire"));
        self.judge(&host, Policy::Open, Policy::Open);
        host
    }

    /// Puts a policy of a host's wire in force, beside those of the others.
    pub fn judge(&self, host: &Host, egress: Policy, ingress: Policy) -> Generation {
        let wire = host.wire.expect("the host has a wire");
        let mut rules = self.rules.borrow_mut();
        rules.insert(wire, WireRules { wire, egress, ingress });
        self.enforcer.publish(RuleSet { wires: rules.values().cloned().collect() }).expect("publishing a policy")
    }

    /// The engine.
    pub fn enforcer(&self) -> &Enforcer {
        &self.enforcer
    }

    /// What a host's wire has counted.
    pub fn stats(&self, host: &Host) -> Arc<WireStats> {
        self.enforcer.wires()[&host.wire.expect("the host has a wire")].stats.clone()
    }

    /// What a host's wire has dropped, as text, by direction and reason.
    pub fn drops(&self, host: &Host) -> BTreeMap<String, u64> {
        let stats = self.stats(host);
        let of = |direction: Direction| {
            let counts = dropped(stats.direction(direction));
            counts.map(move |(label, count)| (format!("{} {label}", direction.name()), count))
        };
        Direction::BOTH.into_iter().flat_map(of).collect()
    }

    /// Events that nobody has taken yet.
    pub fn events(&self) -> Vec<Event> {
        self.enforcer.take_events().collect()
    }
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

fn dropped(stats: &DirectionStats) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let counts = DropReason::ALL.iter().map(|&reason| (reason.label(), stats.dropped(reason).get()));
    counts.filter(|&(_, count)| count > 0)
}

fn batch(namespace: &Namespace, lines: &[&str]) {
    let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
    namespace.batch(&lines).expect("setting links and addresses up");
}

/// One queue a side: an AF_XDP port takes one, and the peer may not send on more.
fn veth(name: &str, mac: MacAddress, peer: &str, peer_mac: MacAddress, peer_namespace: &Namespace) -> String {
    let queues = "numtxqueues 1 numrxqueues 1";
    let netns = peer_namespace.name();
    format!(
        "link add {name} address {mac} {queues} type veth peer name {peer} address {peer_mac} {queues} netns {netns}"
    )
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let mut rest = PATIENCE;
    while !holds() {
        rest = rest.checked_sub(PAUSE).unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"));
        std::thread::sleep(PAUSE);
    }
}
