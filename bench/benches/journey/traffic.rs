//! Frames of many flows that a generated rule set allows.

use std::fmt;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::classify::Classifier;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::rules::{Action, RuleSet, WireId};
use dataplane::testing::FrameBuilder;
use penstock_bench::rulesets::{network_policies, queries};

/// What the frames look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    UdpV4,
    UdpV6,
    TcpV4,
    TcpV6,
}

impl Shape {
    pub(crate) const ALL: [Shape; 4] = [Shape::UdpV4, Shape::UdpV6, Shape::TcpV4, Shape::TcpV6];

    fn is_v4(self) -> bool {
        matches!(self, Shape::UdpV4 | Shape::TcpV4)
    }

    pub(crate) fn protocol(self) -> Protocol {
        if matches!(self, Shape::UdpV4 | Shape::UdpV6) { Protocol::UDP } else { Protocol::TCP }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::UdpV4 => "udp4",
            Shape::UdpV6 => "udp6",
            Shape::TcpV4 => "tcp4",
            Shape::TcpV6 => "tcp6",
        })
    }
}

/// The far end of a flow, and the ports of both.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) peer: Address,
    pub(crate) port: u16,
    pub(crate) own_port: u16,
}

/// A rule set, a wire of it, and flows that the wire's egress policy allows, in no order.
#[derive(Clone)]
pub(crate) struct Traffic {
    pub(crate) shape: Shape,
    pub(crate) rules: RuleSet,
    pub(crate) wire: WireId,
    pub(crate) own: Address,
    pub(crate) flows: Arc<[Flow]>,
}

impl Traffic {
    pub(crate) fn new(shape: Shape, rules: u32, count: usize) -> Traffic {
        let rules = network_policies(rules, 7);
        let (wire, mut allowed) = allowed(shape, &rules);
        allowed.sort_unstable();
        allowed.dedup();
        let flow = |number: usize| {
            let (peer, port) = allowed[number % allowed.len()];
            Flow { peer, port, own_port: 1_024 + (number / allowed.len()) as u16 }
        };
        assert!(count / allowed.len() < 64_000, "{} far ends are too few", allowed.len());
        let own = if shape.is_v4() { Address::v4([10, 10, 0, 1]) } else { Address::from_bits(0xfd10 << 112 | 1) };
        // An odd multiplier goes through all numbers below a power of two, scattered.
        assert!(count.is_power_of_two());
        let flows = (0..count).map(|number| flow(number.wrapping_mul(0x9e37_79b1) & (count - 1))).collect();
        Traffic { shape, rules, wire, own, flows }
    }

    /// A frame with the first flow's addresses, from inside.
    pub(crate) fn template(&self, flags: u8) -> Vec<u8> {
        let text = |address: Address| std::net::IpAddr::from(address).to_string();
        let frame = FrameBuilder::new().ip(&text(self.own), &text(self.flows[0].peer));
        let frame = match self.shape.protocol() {
            Protocol::UDP => frame.udp(1, 1),
            _ => frame.tcp(1, 1, flags),
        };
        let mut bytes = frame.build();
        // As on Ethernet.
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    /// The flags of an established connection's segments.
    pub(crate) const DATA: u8 = TcpFlags::ACK;
}

/// Of some wires the one that lets such traffic go to the most far ends, and those.
fn allowed(shape: Shape, rules: &RuleSet) -> (WireId, Vec<(Address, u16)>) {
    let classifier = Classifier::compile(rules).expect("generated rules compile");
    let mut best = (WireId(0), Vec::new());
    for wire in rules.wires.iter().take(50) {
        let slot = classifier.slot(wire.wire).expect("it has the wire");
        let own = RuleSet { wires: vec![wire.clone()] };
        let asked = queries(&own, 20_000, Some(usize::from(!shape.is_v4())), 5);
        let mut found = Vec::new();
        for (_, _, mut query) in asked {
            query.protocol = shape.protocol();
            if query.protocol == Protocol::UDP && query.port != 53 {
                query.port = 53;
            }
            let decision = classifier.judge(slot, Direction::Egress, query);
            // Parse drops what no host has as its address.
            let host = if shape.is_v4() { (1..224).contains(&query.peer.0[12]) } else { query.peer.0[0] >> 5 != 0 };
            let loopback = query.peer.is_v4() && query.peer.0[12] == 127;
            let host = host && !loopback && !query.peer.is_group();
            if host && matches!(decision.action, Action::Allow | Action::Pass) {
                found.push((query.peer, query.port));
            }
        }
        found.sort_unstable();
        found.dedup();
        if found.len() > best.1.len() {
            best = (wire.wire, found);
        }
    }
    assert!(!best.1.is_empty(), "some traffic is allowed");
    best
}
