//! Two namespaces joined by a veth pair.

use std::sync::atomic::{AtomicU32, Ordering};

use control::lab::netns::{self, Namespace};
use dataplane::address::MacAddress;

/// Two namespaces, `left` and `right`, each with an interface `eth0` on the same cable. Removed when dropped.
pub(crate) struct Cable {
    pub(crate) left: Namespace,
    pub(crate) right: Namespace,
}

/// The stations of every cable.
pub(crate) const LEFT: MacAddress = MacAddress([2, 0x70, 0, 0, 0, 1]);
pub(crate) const RIGHT: MacAddress = MacAddress([2, 0x70, 0, 0, 0, 2]);

impl Cable {
    /// A cable between 10.70.0.1 and fd70::1 on the left, 10.70.0.2 and fd70::2 on the right.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| Namespace::named(format!("penstock-pktgen-{}-{number}{side}", std::process::id()));
        let cable = Cable { left: name("l"), right: name("r") };
        netns::create(&[cable.left.clone(), cable.right.clone()]).expect("namespaces can be made (run as root)");
        for side in [&cable.left, &cable.right] {
            side.sysctl(&[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/default/router_solicitations", "0")])
                .unwrap();
        }
        cable
            .left
            .batch(&[
                format!(
                    "link add eth0 address {LEFT} numrxqueues 1 numtxqueues 1 type veth peer name eth0 address {RIGHT} \
                     numrxqueues 1 numtxqueues 1 netns {}",
                    cable.right.name()
                ),
                "addr add 10.70.0.1/24 dev eth0".into(),
                "addr add fd70::1/64 dev eth0 nodad".into(),
                "link set eth0 up".into(),
            ])
            .unwrap();
        cable
            .right
            .batch(&[
                "addr add 10.70.0.2/24 dev eth0".into(),
                "addr add fd70::2/64 dev eth0 nodad".into(),
                "link set eth0 up".into(),
            ])
            .unwrap();
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = netns::remove(&[self.left.clone(), self.right.clone()]);
    }
}

/// A left and a right namespace with `eth0` each, and a device under test between: `l0` and `r0`.
pub(crate) struct Bench {
    pub(crate) left: Namespace,
    pub(crate) middle: Namespace,
    pub(crate) right: Namespace,
}

impl Bench {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| Namespace::named(format!("penstock-pktgen-{}-{number}{side}", std::process::id()));
        let bench = Bench { left: name("a"), middle: name("m"), right: name("b") };
        netns::create(&[bench.left.clone(), bench.middle.clone(), bench.right.clone()]).unwrap();
        for side in [&bench.left, &bench.middle, &bench.right] {
            side.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")]).unwrap();
        }
        for (side, mac, other) in [(&bench.left, LEFT, "l0"), (&bench.right, RIGHT, "r0")] {
            let add = format!(
                "link add eth0 address {mac} numrxqueues 1 numtxqueues 1 type veth peer name {other} numrxqueues 1 \
                 numtxqueues 1 netns {}",
                bench.middle.name()
            );
            side.batch(&[add, "link set eth0 up".into()]).unwrap();
            bench.middle.batch(&[format!("link set {other} up")]).unwrap();
        }
        bench
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = netns::remove(&[self.left.clone(), self.middle.clone(), self.right.clone()]);
    }
}
