//! ARP and neighbour discovery from scratch, duplicate address detection included, past the guard of a pod's wire.

use control::enforcer::EnforcerConfig;
use control::lab::Family;
use dataplane::packet::Protocol;
use dataplane::port::PortKind;
use penstock_tests::each_port;
use penstock_tests::policy::{closed, only};
use penstock_tests::process::run;
use penstock_tests::site::{Cable, DuplicateDetection, Host, Site, eventually};

each_port!(from_scratch);

fn from_scratch(kind: PortKind) {
    let mut site = Site::with(&EnforcerConfig::default(), DuplicateDetection::On);
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add("server", Cable::Straight);
    for host in [&pod, &server] {
        eventually("addresses are ready", || !host.run("ip -6 address show tentative").contains("inet6"));
        assert!(!host.run("ip -6 address show dadfailed").contains("inet6"));
    }
    let ready = || !run(&site.router, &["ip", "-6", "address", "show", "tentative"]).contains("inet6");
    eventually("the router's addresses are ready", ready);
    // Policy has no say in what keeps a link alive.
    site.judge(&pod, only(&[(Protocol::TCP, 1)]), only(&[(Protocol::ICMP, 0x800), (Protocol::ICMPV6, 0x8000)]));
    for family in Family::ALL {
        forget(&site, &pod);
        server.run(&format!("ping -n -c 2 -i 0.05 -W 5 {}", pod.ip(family)));
        forget(&site, &pod);
        server.run(&format!("ping -n -c 2 -i 0.05 -W 5 {}", pod.ip(family)));
        let known = pod.run(&format!("ip neighbour show {}", pod.gateway(family)));
        assert!(known.contains(&pod.gateway_mac.to_string()), "{family:?}: {known}");
    }
    eventually("group memberships are reported", || pod.run("ip -6 maddress show dev eth0").contains("ff02::1:ff00:2"));
    let drops = site.drops(&pod);
    assert!(drops.is_empty(), "{drops:?}");
    defends_its_address(&site, &pod);
    takes_no_other(&site, &pod);
}

/// Both ends of the pod's link learn anew who is there.
fn forget(site: &Site, pod: &Host) {
    pod.run("ip neighbour flush all");
    run(&site.router, &["ip", "neighbour", "flush", "all"]);
    assert_eq!(pod.run("ip neighbour show nud reachable"), "");
}

/// Somebody else who tries the pod's address is told that it is taken.
fn defends_its_address(site: &Site, pod: &Host) {
    site.judge(pod, closed(), closed());
    let device = pod.gateway_device();
    let show = ["ip", "-6", "address", "show", "dev", &device, "dadfailed"];
    assert!(!run(&site.router, &show).contains("inet6"));
    let address = format!("{}/128", pod.ip(Family::V6));
    run(&site.router, &["ip", "address", "add", &address, "dev", &device]);
    eventually("the router learns that the address is taken", || run(&site.router, &show).contains(&address));
    run(&site.router, &["ip", "address", "del", &address, "dev", &device]);
}

/// What the pod says of addresses that are not its own is not believed: nobody hears it.
fn takes_no_other(site: &Site, pod: &Host) {
    let gateway = pod.gateway(Family::V6);
    pod.run(&format!("ip address add {gateway}/128 dev eth0"));
    eventually("its solicitations are dropped", || site.drops(pod).contains_key("egress spoofed_neighbour"));
    pod.run(&format!("ip address del {gateway}/128 dev eth0"));
}
