//! Frames of many flows that a generated rule set allows.

use std::fmt;
use std::sync::Arc;

use dataplane::address::Address;
use dataplane::packet::{Protocol, TcpFlags};
use dataplane::rules::{Action, Chain, Peers, Policy, PortRange, Rule, RuleId, RuleSet, Services, Tier, WireId};
use dataplane::testing::FrameBuilder;
use penstock_bench::rulesets::{network_policies, pod};

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
        let mut rules = network_policies(rules, 7);
        let (wire, peers) = allow(shape, &mut rules);
        let flow = |number: usize| {
            let own_port = 1_024 + (number / peers.len()) as u16;
            Flow { peer: peers[number % peers.len()], port: PORT, own_port }
        };
        assert!(count / peers.len() < 64_000, "{count} flows need more far ends");
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

/// Far ends that the first wire may talk to, whatever else its rules say: the same ones for any number of rules.
const PEERS: u32 = 512;
/// The port there.
const PORT: u16 = 53;

/// Adds a rule for such traffic as the first wire's last. Answers the far ends.
fn allow(shape: Shape, rules: &mut RuleSet) -> (WireId, Vec<Address>) {
    let peers: Vec<Address> = (0..PEERS).map(|number| pod(number * 21)[usize::from(!shape.is_v4())]).collect();
    let service = PortRange { protocol: shape.protocol(), first: PORT, last: PORT };
    let rule = Rule {
        action: Action::Allow,
        log: false,
        peers: Peers::Set(Arc::new(peers.iter().copied().collect())),
        services: Services::Ports(vec![service]),
        id: RuleId(u32::MAX),
    };
    let wire = &mut rules.wires[0];
    let mut tiers = match &wire.egress {
        Policy::Chain(chain) => chain.tiers.clone(),
        _ => vec![Tier { rules: Vec::new(), default: Action::Deny }],
    };
    tiers.iter_mut().for_each(|tier| tier.rules.push(rule.clone()));
    wire.egress = Policy::Chain(Arc::new(Chain { tiers }));
    (wire.wire, peers)
}
