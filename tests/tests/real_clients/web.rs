//! curl and nginx: files of all sizes, and many connections.

use std::fmt::Write as _;
use std::path::Path;

use control::lab::Family;
use dataplane::packet::Direction;
use dataplane::port::PortKind;
use penstock_tests::each_port;
use penstock_tests::payload::{random, sha256_of};
use penstock_tests::site::{Cable, Site};

use crate::nginx::Nginx;

each_port!(downloads);

const SIZES: [usize; 7] = [1, 2, 1447, 1449, 65_537, 1 << 20, 50 << 20];

/// Small files for connections that live at the same time.
const SMALL: usize = 100;

fn downloads(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add("server", Cable::Straight);
    let nginx = Nginx::start(&server);
    for size in SIZES {
        nginx.put(&format!("big-{size}"), &random(size));
    }
    for number in 0..SMALL {
        nginx.put(&format!("small-{number}"), &random(100 + number * 331));
    }
    for family in Family::ALL {
        let got = tempfile::tempdir().unwrap();
        for size in SIZES {
            fetch(&pod, &nginx.url(family, 80, &format!("big-{size}")), &got.path().join(format!("big-{size}")));
        }
        let mut list = String::new();
        for number in 0..SMALL {
            let name = format!("small-{number}");
            let target = got.path().join(&name);
            writeln!(list, "url = {}\noutput = {}", nginx.url(family, 80, &name), target.display()).unwrap();
        }
        let config = got.path().join("list");
        std::fs::write(&config, list).unwrap();
        // HTTP/1.0 without keep-alive: a connection for each file.
        pod.run(&format!("curl -sS --fail -0 -Z --parallel-max 25 -m 30 -K {}", config.display()));
        for name in nginx.names() {
            let (sent, received) = (sha256_of(&nginx.file(&name)), sha256_of(&got.path().join(&name)));
            assert_eq!(sent, received, "{family:?} {name} {:?}", site.drops(&pod));
        }
    }
    let stats = site.stats(&pod);
    let drops = site.drops(&pod);
    assert!(drops.is_empty(), "{drops:?}");
    let connections = stats.direction(Direction::Egress).classified.get();
    assert!(connections >= 2 * (SIZES.len() + SMALL) as u64, "every connection was judged: {connections}");
    assert_eq!(stats.direction(Direction::Ingress).classified.get(), 0, "replies are not judged again");
}

fn fetch(pod: &penstock_tests::site::Host, url: &str, target: &Path) {
    pod.run(&format!("curl -sS --fail -m 30 -o {} {url}", target.display()));
}
