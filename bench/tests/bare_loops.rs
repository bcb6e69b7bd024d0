//! The bare loops forward real traffic, both ways, and count it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use penstock_bench::bare::{self, Counters, End, Kind};

/// Runs a command and shows what it said when it fails.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {stdout}{stderr}");
    stdout.into_owned()
}

/// A client, a loop and a server, each in a namespace of its own, which goes with the test.
struct World([String; 3]);

impl World {
    fn new(kind: Kind) -> Self {
        let names = ["client", "loop", "server"].map(|part| format!("pb-{kind}-{}-{part}", std::process::id()));
        for name in &names {
            run(&format!("ip netns add {name}"));
        }
        World(names)
    }

    fn inside(&self, i: usize, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.0[i]))
    }

    /// Veth pairs from the loop's namespace to the client's and the server's `eth0`.
    fn veths(&self) -> [End; 2] {
        self.inside(1, "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
        [(0, "inside"), (2, "outside")].map(|(end, device)| {
            self.inside(1, &format!("ip link add {device} type veth peer name eth0 netns {}", self.0[end]));
            self.inside(1, &format!("ip link set {device} up"));
            // AF_XDP does not tell of checksums that the sender has not finished, and a bare loop does not look for them.
            self.inside(end, "ethtool -K eth0 tx off");
            End::new(self.0[1].clone(), device)
        })
    }

    fn addresses(&self) {
        for (end, number) in [(0, 1), (2, 2)] {
            self.inside(end, &format!("ip addr add 10.9.0.{number}/24 dev eth0"));
            self.inside(end, "ip link set eth0 up");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn forwards(kind: Kind) -> Counters {
    let world = World::new(kind);
    let [inside, outside] = match kind {
        Kind::Tap => [0, 2].map(|end| End::new(world.0[end].clone(), "eth0")),
        _ => world.veths(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    let running = thread::spawn({
        let stop = Arc::clone(&stop);
        move || bare::run(kind, &inside, &outside, Some(0), &stop, || ready.send(()).unwrap())
    });
    is_ready.recv().unwrap_or_else(|_| panic!("the loop did not start"));
    world.addresses();
    let answer = world.inside(0, "ping -n -c 20 -i 0.01 -W 5 -s 1000 10.9.0.2");
    stop.store(true, Ordering::Relaxed);
    let counters = running.join().unwrap().unwrap();
    assert!(answer.contains(" 20 received"), "{answer}");
    assert!(counters.frames.iter().all(|&frames| frames >= 21), "echoes and address resolution: {counters:?}");
    assert!(counters.bytes.iter().all(|&bytes| bytes >= 20 * 1042), "{counters:?}");
    assert_eq!(counters.dropped, [0, 0]);
    counters
}

#[test]
fn af_xdp_forwards() {
    let counters = forwards(Kind::AfXdp);
    assert!(counters.cpu.as_millis() > 0);
}

#[test]
fn af_packet_forwards() {
    forwards(Kind::AfPacket);
}

#[test]
fn tap_forwards() {
    forwards(Kind::Tap);
}

#[test]
fn what_is_missing_is_named() {
    let nobody = End { namespace: None, device: "no-such-dev".to_owned() };
    let error = bare::run(Kind::AfPacket, &nobody, &nobody, None, &AtomicBool::new(true), || {}).unwrap_err();
    assert!(error.to_string().contains("no-such-dev"), "{error}");
    let error = bare::run(Kind::Tap, &nobody, &nobody, Some(100_000), &AtomicBool::new(true), || {}).unwrap_err();
    assert!(error.to_string().contains("CPU 100000"), "{error}");
}
