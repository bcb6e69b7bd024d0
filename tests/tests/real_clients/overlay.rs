//! VXLAN between two pods (RFC 7348): the overlay's packets are the pods' own business, what carries them is judged.

use std::net::SocketAddr;

use control::lab::Family;
use dataplane::packet::{Direction, Protocol};
use dataplane::port::PortKind;
use penstock_tests::each_port;
use penstock_tests::policy::only;
use penstock_tests::site::{Cable, Host, Ports, Site};
use penstock_tests::traffic::Stream;

each_port!(vxlan);

const VXLAN: (Protocol, u16) = (Protocol::UDP, 4789);

fn vxlan(kind: PortKind) {
    between([Cable::Pod(kind.into()), Cable::Pod(kind.into())]);
}

/// A host without a wire sends super-frames in the tunnel, and the pod's port cannot carry them.
#[test]
fn from_a_host_to_a_tap() {
    between([Cable::Pod(Ports { inside: PortKind::Tap, outside: PortKind::AfPacket }), Cable::Straight]);
}

#[test]
fn over_a_mixed_wire() {
    between([Cable::Pod(Ports { inside: PortKind::AfPacket, outside: PortKind::AfXdp }), Cable::Straight]);
}

fn between(cables: [Cable; 2]) {
    let mut site = Site::new();
    let hosts = [site.add("one", cables[0]), site.add("two", cables[1])];
    let pods: Vec<&Host> = hosts.iter().filter(|host| host.wire.is_some()).collect();
    for outer in Family::ALL {
        for pod in &pods {
            // Nothing but the outer packets: TCP and ICMP are none of them.
            site.judge(pod, only(&[VXLAN]), only(&[VXLAN]));
        }
        join(&hosts, outer);
        for inner in ["10.99.0.2", "fd99::2"] {
            hosts[0].run(&format!("ping -n -c 3 -i 0.05 -W 5 {inner}"));
            let target = SocketAddr::new(inner.parse().unwrap(), 7000);
            Stream::connect(&hosts[0].namespace, &hosts[1].namespace, target).exchange(8 << 20);
        }
        for pod in &pods {
            let drops = site.drops(pod);
            assert!(outer == Family::V6 || drops.is_empty(), "{outer:?} {drops:?}");
        }
        // The outer port is what is judged: established or not, nothing of the overlay passes when it may not.
        let others = only(&[(Protocol::UDP, 4790), (Protocol::TCP, 7000)]);
        site.judge(&hosts[0], others.clone(), others);
        for inner in ["10.99.0.2", "fd99::2"] {
            assert!(!hosts[0].succeeds(&format!("ping -n -c 1 -W 0.5 {inner}")), "{outer:?} {inner}");
        }
        let drops = site.drops(&hosts[0]);
        assert!(drops.contains_key("egress policy_denied"), "{drops:?}");
        for host in &hosts {
            host.run("ip link del overlay");
        }
    }
    if cables == [Cable::Pod(PortKind::AfPacket.into()); 2] {
        let stats = site.stats(&hosts[0]);
        let egress = stats.direction(Direction::Egress);
        assert!(egress.forwarded_segments.get() > 2 * egress.forwarded.get(), "super-frames came in the tunnel");
    }
}

fn join(hosts: &[Host; 2], outer: Family) {
    for (pod, peer) in [(&hosts[0], &hosts[1]), (&hosts[1], &hosts[0])] {
        let (local, remote) = (pod.ip(outer), peer.ip(outer));
        pod.run(&format!("ip link add overlay type vxlan id 42 local {local} remote {remote} dstport 4789 dev eth0"));
        pod.run(&format!("ip address add 10.99.0.{}/24 dev overlay", pod.number));
        pod.run(&format!("ip address add fd99::{}/64 dev overlay nodad", pod.number));
        pod.run("ip link set overlay up");
    }
}
