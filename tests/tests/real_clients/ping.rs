//! Ping and traceroute: echoes, and errors that routers send on the way.

use control::lab::Family;
use dataplane::port::PortKind;
use dataplane::rules::Policy;
use penstock_tests::each_port;
use penstock_tests::policy::closed;
use penstock_tests::site::{Cable, Site};

each_port!(echoes, routes);

/// Echoes of several sizes pass, fragmented ones included, while nobody may open anything towards the pod.
fn echoes(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add("server", Cable::Straight);
    site.judge(&pod, Policy::Open, closed());
    for family in Family::ALL {
        for size in [0, 56, 1472, 8000] {
            let text = pod.run(&format!("ping -n -c 3 -i 0.05 -W 5 -s {size} {}", server.ip(family)));
            assert!(text.contains("3 received") && text.contains(" 0% packet loss"), "{text}");
        }
        assert!(!server.succeeds(&format!("ping -n -c 1 -W 0.3 {}", pod.ip(family))), "the pod is closed: {family:?}");
    }
    let drops = site.drops(&pod);
    assert_eq!(drops.get("ingress policy_denied"), Some(&2), "{drops:?}");
    site.judge(&pod, closed(), Policy::Open);
    for family in Family::ALL {
        server.run(&format!("ping -n -c 1 -W 5 {}", pod.ip(family)));
        assert!(!pod.succeeds(&format!("ping -n -c 1 -W 0.3 {}", server.ip(family))), "{family:?}");
    }
}

/// Traceroute over UDP, ICMP and TCP finds both hops: what the router says of packets that it gave up is related.
fn routes(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add("server", Cable::Straight);
    site.judge(&pod, Policy::Open, closed());
    for family in Family::ALL {
        let [router, target] = [pod.gateway(family).to_string(), server.ip(family).to_string()];
        for method in ["", "-I ", "-T -p 80 "] {
            let text = pod.run(&format!("traceroute -n -q 2 -w 3 -m 4 {method}{target}"));
            let hops: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
            assert_eq!(hops.len(), 2, "{family:?} {method}: {text} {:?}", site.drops(&pod));
            assert!(hops[0][1] == router && hops[1][1] == target && !text.contains('*'), "{text}");
        }
        let lost = pod.run_anyhow(&format!("ping -n -c 1 -W 3 -t 1 {target}"));
        assert!(lost.contains("exceeded") && lost.contains(&router), "{lost}");
    }
    let drops = site.drops(&pod);
    assert!(drops.is_empty(), "{drops:?}");
}
