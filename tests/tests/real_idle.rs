//! What an idle engine costs, and whether it wakes up: its thread's CPU time is measured, not how long anything takes.
//! Needs root.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::lab::Family;
use dataplane::packet::Direction;
use dataplane::port::PortKind;
use penstock_tests::process::Background;
use penstock_tests::site::{Cable, Site, eventually};
use penstock_tests::traffic::Stream;

const CHATTER: &str = include_str!("../src/scripts/chatter.py");

/// One at a time: the threads of another test's engine would be measured too.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CPU time of all workers of this process so far.
fn worker_time() -> Duration {
    let mut time = Duration::ZERO;
    let mut workers = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // A thread may end between one line and the next.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        if name.starts_with("worker-") {
            let statistics = std::fs::read_to_string(task.join("schedstat")).unwrap();
            time += Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap());
            workers += 1;
        }
    }
    assert_eq!(workers, 1, "one engine with one worker");
    time
}

/// What an idle worker may use: one hundredth of a core.
fn assert_idle(what: &str, used: Duration, of: Duration) {
    let share = used.as_secs_f64() / of.as_secs_f64() * 100.0;
    println!("{what}: {used:?} of CPU time in {of:?}, {share:.2} % of a core");
    assert!(share < 1.0, "{what}: {share:.2} % of a core");
}

#[test]
fn a_connection_idles_and_resumes() {
    const IDLE: Duration = Duration::from_secs(6);
    let _alone = alone();
    let mut site = Site::new();
    let kinds = [PortKind::AfPacket, PortKind::AfXdp, PortKind::Tap];
    let pods = kinds.map(|kind| site.add(kind.name(), Cable::Pod(kind.into())));
    let server = site.add("server", Cable::Straight);
    let mut streams = Vec::new();
    for (port, (pod, family)) in (7000..).zip(pods.iter().flat_map(|pod| Family::ALL.map(|family| (pod, family)))) {
        let target = SocketAddr::new(server.ip(family), port);
        let mut stream = Stream::connect(&pod.namespace, &server.namespace, target);
        stream.exchange(1 << 20);
        streams.push(stream);
    }
    let before = worker_time();
    std::thread::sleep(IDLE);
    assert_idle("three wires with idle connections", worker_time() - before, IDLE);
    assert_eq!(site.enforcer().flows().unwrap().len(), streams.len(), "they are not forgotten");
    for stream in &mut streams {
        stream.exchange(1 << 20);
    }
    for pod in &pods {
        let drops = site.drops(pod);
        assert!(drops.is_empty(), "{drops:?}");
    }
}

#[test]
fn twenty_wires_with_chatter_cost_next_to_nothing() {
    const WIRES: u8 = 20;
    const SECONDS: u64 = 12;
    let _alone = alone();
    let mut site = Site::new();
    let pods = site.crowd(WIRES);
    let ends = [("inside", "c", &pods[0].namespace), ("outside", "p", &site.router)];
    let [inside, outside] = ends.map(|(side, prefix, namespace)| {
        Background::python(namespace, CHATTER, &[side, prefix, &WIRES.to_string(), &SECONDS.to_string()])
    });
    let before = worker_time();
    let sent: Vec<u64> = [inside, outside].map(|script| script.finish().trim().parse().unwrap()).into();
    let used = worker_time() - before;
    assert_eq!(sent, [u64::from(WIRES) * SECONDS * 2; 2]);
    for pod in &pods {
        for direction in Direction::BOTH {
            let stats = site.stats(pod);
            let forwarded = || stats.direction(direction).forwarded.get() >= 2 * SECONDS;
            eventually("all of it crosses the wires", forwarded);
        }
        let drops = site.drops(pod);
        assert!(drops.is_empty(), "{drops:?}");
    }
    assert_idle("twenty wires with 80 ARP and ND messages a second", used, Duration::from_secs(SECONDS));
}
