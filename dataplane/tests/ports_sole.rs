//! A device that nobody reads but its port.

mod ports_support;

use dataplane::port::{PortKind, PortSpec, open_pair};
use ports_support::{Loop, World};

/// Whether the wire's own namespace, which has an address on the inside device, hears the client.
fn hears(sole: bool) -> bool {
    let (world, [client, wire, _server]) = World::with_veths("sole");
    world.inside(&wire, "ip addr add 10.9.0.77/24 dev inside");
    let mut specs = ["inside", "outside"].map(|device| PortSpec::new(PortKind::AfPacket, device).in_namespace(&wire));
    for spec in &mut specs {
        spec.options.af_packet.sole = sole;
    }
    let running = Loop::start(open_pair(&specs[0], &specs[1], 256).expect("the ports open"));
    let ping = |address: &str| {
        let command = format!("netns exec {client} ping -c 1 -W 1 {address}");
        let output = std::process::Command::new("ip").args(command.split_whitespace()).output().expect("ping runs");
        output.status.success()
    };
    assert!(ping("10.9.0.2"), "the wire carries what it reads");
    let heard = ping("10.9.0.77");
    running.stop();
    assert!(ping("10.9.0.77"), "without the port the kernel has its device back");
    heard
}

#[test]
fn the_kernels_copy_is_dropped() {
    assert!(hears(false), "the test can tell");
    assert!(!hears(true));
}
