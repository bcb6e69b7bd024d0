//! A policy that forbids an established connection cuts it before its next frame, and leaves the others alone.

use control::enforcer::EnforcerConfig;
use control::lab::Family;
use dataplane::event::Trace;
use dataplane::packet::Protocol;
use dataplane::port::PortKind;
use dataplane::publish::Generation;
use dataplane::verdict::Verdict;
use penstock_tests::each_port;
use penstock_tests::payload::{random, sha256_of};
use penstock_tests::policy::only;
use penstock_tests::process::Background;
use penstock_tests::site::{Cable, DuplicateDetection, Host, Site, eventually};
use rustix::time::{ClockId, clock_gettime};

use tempfile::TempDir;

use crate::nginx::Nginx;

each_port!(downloads);

const STAYS: u16 = 80;
const FORBIDDEN: u16 = 8080;

const LENGTH: usize = 12 << 20;

/// curl's exit code when a transfer stands still.
const TIMED_OUT: Option<i32> = Some(28);

/// One pod downloads from outside and is cut by its egress, another one serves and is cut by its ingress.
fn downloads(kind: PortKind) {
    let config = EnforcerConfig { trace: true, ..EnforcerConfig::default() };
    let mut site = Site::with(&config, DuplicateDetection::Off);
    let [client, server] = ["client", "server"].map(|name| site.add(name, Cable::Pod(kind.into())));
    let peer = site.add("peer", Cable::Straight);
    let [outside, inside] = [Nginx::start(&peer), Nginx::start(&server)];
    let mut downloads: Vec<Pair> = Vec::new();
    for family in Family::ALL {
        downloads.push(Pair::start(&client, &outside, family));
        downloads.push(Pair::start(&peer, &inside, family));
    }
    for pair in &mut downloads {
        pair.wait_until_under_way();
    }
    let mut cuts = Vec::new();
    for pod in [&client, &server] {
        let rules = only(&[(Protocol::TCP, STAYS)]);
        let generation = site.judge(pod, rules.clone(), rules);
        let published = clock_gettime(ClockId::Monotonic);
        cuts.push((pod, generation, published.tv_sec as u64 * 1_000_000_000 + published.tv_nsec as u64));
    }
    for pair in downloads {
        pair.finish();
    }
    let outbox = &site.enforcer().traces()[0];
    let traces: Vec<Trace> = std::iter::from_fn(|| outbox.take()).collect();
    assert_eq!(outbox.lost(), 0);
    for (pod, generation, published) in cuts {
        let of_wire: Vec<Trace> = traces.iter().filter(|trace| Some(trace.wire) == pod.wire).copied().collect();
        check(&of_wire, generation, published);
    }
}

/// Two downloads of a file: one that goes on, one that is cut.
struct Pair {
    sum: String,
    directory: TempDir,
    stays: Background,
    forbidden: Background,
}

impl Pair {
    fn start(client: &Host, nginx: &Nginx, family: Family) -> Pair {
        let directory = tempfile::tempdir().unwrap();
        // Or the rest of a file that is read slowly would wait in the receiver's memory already.
        client.namespace.sysctl(&[("ipv4/tcp_rmem", "4096 131072 1048576")]).unwrap();
        let name = format!("file-{}", family.name());
        nginx.put(&name, &random(LENGTH));
        let [stays, forbidden] = [STAYS, FORBIDDEN].map(|port| {
            let (url, target) = (nginx.url(family, port, &name), directory.path().join(port.to_string()));
            let target = target.display().to_string();
            let words = ["curl", "-sS", "--fail", "--limit-rate", "2M", "-y", "1", "-Y", "1", "-o", &target, &url];
            Background::start(&client.namespace, &words)
        });
        Pair { sum: sha256_of(&nginx.file(&name)), directory, stays, forbidden }
    }

    fn length(&self, port: u16) -> usize {
        std::fs::metadata(self.directory.path().join(port.to_string())).map_or(0, |file| file.len() as usize)
    }

    fn wait_until_under_way(&mut self) {
        eventually("both downloads are on their way", || {
            [STAYS, FORBIDDEN].iter().all(|&port| self.length(port) > 1 << 20)
        });
        assert!(self.stays.is_running() && self.forbidden.is_running());
    }

    fn finish(self) {
        assert_eq!(self.stays.exit_code(), Some(0));
        assert_eq!(sha256_of(&self.directory.path().join(STAYS.to_string())), self.sum);
        assert_eq!(self.forbidden.exit_code(), TIMED_OUT);
        let got = std::fs::metadata(self.directory.path().join(FORBIDDEN.to_string())).unwrap().len();
        assert!((got as usize) < LENGTH, "{got}");
    }
}

/// Generations never go back, none is older than what was published before, and no frame of the forbidden connection
/// passed in the new one.
fn check(traces: &[Trace], generation: Generation, published: u64) {
    assert!(traces.is_sorted_by_key(|trace| trace.generation));
    let late = traces.iter().filter(|trace| trace.at.0 > published);
    assert!(late.clone().count() > 0 && late.clone().all(|trace| trace.generation >= generation.0));
    let passed = |port: u16| {
        let of = |trace: &&&Trace| {
            trace.tuple.is_some_and(|tuple| tuple.source_port == port || tuple.destination_port == port)
        };
        let new: Vec<&Trace> = traces.iter().filter(|trace| trace.generation >= generation.0).collect();
        let (passed, dropped): (Vec<&Trace>, Vec<&Trace>) =
            new.iter().filter(of).copied().partition(|trace| trace.verdict == Verdict::Forward);
        (passed.len(), dropped.len())
    };
    let (passed_stays, dropped_stays) = passed(STAYS);
    let (passed_forbidden, dropped_forbidden) = passed(FORBIDDEN);
    assert!(passed_stays > 10 && dropped_stays == 0, "{passed_stays} {dropped_stays}");
    assert!(passed_forbidden == 0 && dropped_forbidden > 0, "{passed_forbidden} {dropped_forbidden}");
}
