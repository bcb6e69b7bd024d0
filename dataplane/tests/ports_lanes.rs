//! A wire over veths with two queues and two workers, moving real traffic: replies are known by their flow whichever queue they
//! come by, everything is counted, and no chunk is lost.

#![expect(clippy::disallowed_methods, reason = "real traffic keeps real time")]

mod ports_support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::event::Outbox;
use dataplane::flow::{FlowConfig, FlowRegion, FlowTable};
use dataplane::fragment::{FragmentConfig, FragmentTable};
use dataplane::guard::Permissions;
use dataplane::packet::Direction::{self, Egress, Ingress};
use dataplane::port::{Pool, PortError, PortKind, PortSpec, open_lanes};
use dataplane::publish::Publisher;
use dataplane::rules::{Action, Chain, Policy, RuleSet, Tier, WireId, WireRules};
use dataplane::stats::WireStats;
use dataplane::verdict::DropReason;
use dataplane::wire::{Tracking, WireSetup};
use dataplane::worker::{AskQueues, Command, HandOff, Pinning, WorkerConfig, WorkerHandle, settle, spawn};
use ports_support::{World, datagram, inside, transfer};

const WIRE: WireId = WireId(3);

/// A client and a server with a wire's namespace between them, all devices with two queues each way.
fn two_queues(test: &str) -> (World, [String; 3]) {
    let mut world = World::new(test);
    let names = ["client", "wire", "server"].map(|name| world.namespace(name));
    let [client, wire, server] = &names;
    world.inside(wire, "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
    for (end, device, n) in [(client, "inside", 1), (server, "outside", 2)] {
        let queues = "numrxqueues 2 numtxqueues 2";
        world.inside(wire, &format!("ip link add {device} {queues} type veth peer name eth0 {queues} netns {end}"));
        world.inside(wire, &format!("ip link set {device} up"));
        world.address(end, "eth0", n);
    }
    (world, names)
}

struct Wire {
    workers: Vec<WorkerHandle>,
    publisher: Publisher,
    stats: Vec<Arc<WireStats>>,
}

fn deny() -> Policy {
    Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules: Vec::new(), default: Action::Deny }] }))
}

impl Wire {
    /// A wire over the devices of this namespace, with so many workers.
    fn new(namespace: &str, workers: usize) -> Wire {
        let publisher = Publisher::new();
        let workers: Vec<WorkerHandle> = (0..workers)
            .map(|id| {
                let config = WorkerConfig {
                    id,
                    flows: FlowTable::new(FlowRegion::heap(4096), FlowConfig::default()),
                    fragments: FragmentTable::new(FragmentConfig::default()),
                    policy: publisher.reader(),
                    pool: Pool::new(1, 2048),
                    events: Outbox::new(64),
                    trace: None,
                    ask: AskQueues::default(),
                };
                spawn(config, Pinning::None).unwrap()
            })
            .collect();
        let port = |device: &str| PortSpec::new(PortKind::AfXdp, device).in_namespace(namespace);
        let lanes = open_lanes(&port("inside"), &port("outside"), 1024, workers.len()).unwrap();
        assert_eq!(lanes.len(), workers.len().min(2), "as many lanes as there are workers and queues");
        assert!(lanes.iter().all(|lane| lane.warnings.is_empty()));
        let joined: Vec<_> = lanes.iter().zip(&workers).map(|(lane, it)| (lane.pool.id(), it.doorbell())).collect();
        let mut stats = Vec::new();
        for ((lane, hand_off), worker) in lanes.into_iter().zip(HandOff::between(&joined)).zip(&workers) {
            let counted = Arc::new(WireStats::default());
            let setup = Box::new(WireSetup {
                id: WIRE,
                inside: lane.inside,
                outside: lane.outside,
                endpoint: None,
                permissions: Permissions::GATEWAY,
                tracking: Tracking::Stateful,
                pool: Some(lane.pool),
                stats: counted.clone(),
            });
            worker.ask(|answer| Command::AttachLane(setup, Box::new(hand_off), answer)).unwrap().unwrap();
            stats.push(counted);
        }
        let wire = Wire { workers, publisher, stats };
        wire.policy(Policy::Open, deny());
        wire
    }

    fn policy(&self, egress: Policy, ingress: Policy) {
        let wires = vec![WireRules { wire: WIRE, egress, ingress }];
        let generation = self.publisher.publish(RuleSet { wires }).unwrap();
        self.workers.iter().for_each(WorkerHandle::wake);
        assert!(self.publisher.wait_acknowledged(generation, Duration::from_secs(5)), "by all workers");
    }

    fn sum(&self) -> WireStats {
        self.workers.iter().for_each(|worker| worker.ask(Command::CountPorts).unwrap());
        let sum = WireStats::default();
        sum.set_sum(self.stats.iter().map(|stats| &**stats));
        sum
    }

    /// Waits until all frames that came have met their fate; answers what was counted.
    fn at_rest(&self) -> WireStats {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let sum = self.sum();
            let settled = |direction| {
                let stats = sum.direction(direction);
                stats.received.get() == stats.forwarded.get() + stats.dropped_total()
            };
            if Direction::BOTH.into_iter().all(settled) {
                return sum;
            }
            assert!(Instant::now() < patience, "{sum:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn flows(&self) -> usize {
        self.workers.iter().map(|worker| worker.ask(Command::Flows).unwrap().len()).sum()
    }

    /// Closes it; answers how many chunks are missing then.
    fn close(self) -> usize {
        let answers: Vec<_> =
            self.workers.iter().map(|it| it.begin(|answer| Command::DetachLane(WIRE, answer))).collect();
        settle(answers.iter().filter_map(|answer| answer.recv().unwrap()).collect())
    }
}

/// So many datagrams from a port of their own each, none of which is answered.
fn shout(from: &str, to: &str, count: u16) {
    let target: SocketAddr = to.parse().unwrap();
    let sockets: Vec<_> = (0..count).map(|_| inside(from, || UdpSocket::bind("0.0.0.0:0").unwrap())).collect();
    sockets.iter().for_each(|socket| assert_eq!(socket.send_to(b"anybody?", target).unwrap(), 8));
}

#[test]
fn two_workers_share_a_wire() {
    let (world, [client, namespace, server]) = two_queues("mq");
    let wire = Wire::new(&namespace, 2);
    let again = PortSpec::new(PortKind::AfXdp, "inside").in_namespace(&namespace).with_queue(1).open();
    assert!(matches!(again.map(|_| ()), Err(PortError::Claimed { .. })), "one claim covers all queues");
    for address in ["10.9.0.2", "fd09::2"] {
        world.inside(&client, &format!("ping -n -c 2 -i 0.05 -W 5 {address}"));
        for _ in 0..4 {
            transfer(&client, &server, address, 1 << 20);
        }
        for _ in 0..16 {
            // There by policy, and back by state alone.
            datagram(&client, &server, address, 100);
        }
        for _ in 0..4 {
            datagram(&client, &server, address, 20_000);
        }
    }
    let before = wire.at_rest();
    for direction in Direction::BOTH {
        let stats = before.direction(direction);
        assert!(stats.handed_over.get() > 20, "flows of either worker came by queues of the other: {before:?}");
        assert!(wire.stats.iter().all(|lane| lane.direction(direction).received.get() > 0), "both queues are used");
        let lost = [DropReason::HandOffFull, DropReason::PortOverflow, DropReason::PolicyDenied];
        assert!(lost.iter().all(|&reason| stats.dropped(reason).get() == 0), "{direction:?} {before:?}");
    }
    assert!(wire.flows() >= 2 * (4 + 16 + 4), "each flow is listed");

    shout(&server, "10.9.0.1:7", 50);
    shout(&client, "10.9.0.2:7", 50);
    let patience = Instant::now() + Duration::from_secs(10);
    let grown = |sum: &WireStats| {
        let refused = |sum: &WireStats| sum.direction(Ingress).dropped(DropReason::PolicyDenied).get();
        (
            refused(sum) - refused(&before),
            sum.direction(Egress).classified.get() - before.direction(Egress).classified.get(),
        )
    };
    while grown(&wire.sum()) != (50, 50) {
        assert!(Instant::now() < patience, "{:?}", grown(&wire.sum()));
        std::thread::sleep(Duration::from_millis(5));
    }

    // What was allowed is judged again by whoever owns it.
    let there = inside(&server, || UdpSocket::bind("10.9.0.2:4000").unwrap());
    there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sockets: Vec<_> = (0..30).map(|_| inside(&client, || UdpSocket::bind("0.0.0.0:0").unwrap())).collect();
    let mut buffer = [0; 16];
    for socket in &sockets {
        socket.send_to(b"before", "10.9.0.2:4000").unwrap();
        assert_eq!(there.recv(&mut buffer).unwrap(), 6);
    }
    let denied = wire.at_rest().direction(Egress).dropped(DropReason::PolicyDenied).get();
    wire.policy(deny(), deny());
    sockets.iter().for_each(|socket| assert_eq!(socket.send_to(b"after", "10.9.0.2:4000").unwrap(), 5));
    while wire.sum().direction(Egress).dropped(DropReason::PolicyDenied).get() < denied + 30 {
        assert!(Instant::now() < patience, "{:?}", wire.sum());
        std::thread::sleep(Duration::from_millis(5));
    }
    there.set_nonblocking(true).unwrap();
    assert!(there.recv(&mut buffer).is_err(), "nothing passed after every worker had acknowledged");
    assert_eq!(wire.close(), 0, "every chunk is back in its memory");
    let link = world.inside(&namespace, "ip -d link");
    assert!(!link.contains("xdp"), "the programs are gone: {link}");
}

#[test]
fn one_worker_reads_all_queues() {
    let (world, [client, namespace, server]) = two_queues("m1");
    let wire = Wire::new(&namespace, 1);
    for address in ["10.9.0.2", "fd09::2"] {
        world.inside(&client, &format!("ping -n -c 2 -i 0.05 -W 5 {address}"));
        for _ in 0..8 {
            transfer(&client, &server, address, 1 << 18);
            datagram(&client, &server, address, 20_000);
        }
    }
    let sum = wire.at_rest();
    assert_eq!(sum.direction(Egress).handed_over.get(), 0);
    assert_eq!(sum.direction(Ingress).dropped(DropReason::PolicyDenied).get(), 0);
    assert_eq!(wire.close(), 0);
}
