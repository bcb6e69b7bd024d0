//! Remote pods come and go: only flows whose answer can change are judged again.

mod support;

use std::sync::Arc;

use dataplane::address::Address;
use dataplane::guard::Permissions;
use dataplane::packet::Direction::{self, Egress, Ingress};
use dataplane::port::{MemoryLink, MemoryPort};
use dataplane::rules::{Action, AddressSet, Peers, Policy, Rule, RuleId, RuleSet, Services, WireId, WireRules};
use dataplane::stats::WireStats;
use dataplane::testing::FrameBuilder;
use dataplane::wire::{Tracking, WireSetup};
use support::{Harness, OUTSIDE, WIRE, chain};

const OTHER: WireId = WireId(8);
const FLOWS: u8 = 50;
const CHANGES: u8 = 100;
const OTHERS_POD: &str = "10.0.0.9";
const OTHERS_MAC: dataplane::address::MacAddress = dataplane::address::MacAddress([2, 0, 0, 0, 0, 9]);

/// Allows these addresses.
fn allow(addresses: impl IntoIterator<Item = [u8; 4]>) -> Policy {
    let set: AddressSet = addresses.into_iter().map(Address::v4).collect();
    let (peers, services) = (Peers::Set(Arc::new(set)), Services::Any);
    chain(vec![Rule { action: Action::Allow, log: false, peers, services, id: RuleId(1) }], Action::Deny)
}

/// The clients of the pods, which stay.
fn clients() -> impl Iterator<Item = [u8; 4]> {
    (1..=FLOWS).map(|n| [10, 5, 0, n])
}

fn second_wire(harness: &mut Harness) -> ([MemoryLink; 2], Arc<WireStats>) {
    let (inside, near) = MemoryPort::new("inside");
    let (outside, far) = MemoryPort::new("outside");
    let stats = Arc::new(WireStats::default());
    let setup = WireSetup {
        id: OTHER,
        inside: Box::new(inside),
        outside: Box::new(outside),
        endpoint: Some(dataplane::guard::Endpoint {
            mac: Some(OTHERS_MAC),
            addresses: vec![support::address(OTHERS_POD)],
        }),
        permissions: Permissions::POD,
        tracking: Tracking::Stateful,
        pool: None,
        stats: stats.clone(),
    };
    harness.worker.attach(setup).expect("memory ports fit together");
    ([near, far], stats)
}

/// A frame of every flow, in and out, over both wires; all pass.
fn round(harness: &mut Harness, other: &[MemoryLink; 2]) {
    for client in clients() {
        let client = std::net::Ipv4Addr::from(client).to_string();
        let foreign = |direction: Direction, ours: (u16, u16)| {
            let frame = FrameBuilder::new();
            match direction {
                Ingress => frame.ethernet(OUTSIDE, OTHERS_MAC).ip(&client, OTHERS_POD).udp(ours.0, ours.1).build(),
                Egress => frame.ethernet(OTHERS_MAC, OUTSIDE).ip(OTHERS_POD, &client).udp(ours.0, ours.1).build(),
            }
        };
        harness.outside.inject(harness.to_pod(&client).udp(1000, 53).build());
        harness.inside.inject(harness.from_pod(&client).udp(2000, 53).build());
        other[1].inject(foreign(Ingress, (1000, 53)));
        other[0].inject(foreign(Egress, (2000, 53)));
    }
    harness.worker.poll(harness.now);
    for link in [&harness.inside, &harness.outside, &other[0], &other[1]] {
        assert_eq!(link.drain().len(), usize::from(FLOWS), "no frame that is allowed is lost");
    }
}

#[test]
fn only_flows_whose_answer_can_change_are_judged_again() {
    let mut harness = Harness::pod();
    let (other, others) = second_wire(&mut harness);
    let publish = |harness: &Harness, strangers: u8| {
        // The other wire's ingress rule means more and more pods; everything else stays as it is, written anew each time.
        let pods = clients().chain((0..strangers).map(|n| [10, 6, 0, n]));
        let wires = vec![
            WireRules { wire: OTHER, egress: allow(clients()), ingress: allow(pods) },
            WireRules { wire: WIRE, egress: allow(clients()), ingress: allow(clients()) },
        ];
        harness.publisher.publish(RuleSet { wires }).expect("it compiles")
    };
    publish(&harness, 0);
    round(&mut harness, &other);
    for strangers in 1..=CHANGES {
        publish(&harness, strangers);
        round(&mut harness, &other);
        round(&mut harness, &other);
    }
    for direction in Direction::BOTH {
        assert_eq!(harness.stats.direction(direction).rejudged.get(), 0, "nothing changed for this wire");
        assert_eq!(harness.stats.direction(direction).classified.get(), u64::from(FLOWS), "each flow was judged once");
    }
    assert_eq!(others.direction(Egress).rejudged.get(), 0, "nothing changed for this direction");
    let again = u64::from(FLOWS) * u64::from(CHANGES);
    assert_eq!(others.direction(Ingress).rejudged.get(), again, "each flow once a change");
    harness.worker.detach(OTHER);
}
