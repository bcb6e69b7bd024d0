//! Who owns a frame: the same lane for all that belongs to a flow.

use super::*;
use crate::address::MacAddress;
use crate::flow::{FlowConfig, FlowRegion, FlowTable};
use crate::frame::Frame;
use crate::packet::Payload;
use crate::parse::{Medium, parse};
use crate::port::Pool;
use crate::testing::FrameBuilder;
use proptest::prelude::*;

const LANES: [usize; 4] = [2, 3, 8, 64];

/// The owners of what a frame shows, by the number of lanes; `stands_for` for a later fragment.
fn owners(flows: &FlowTable, bytes: &[u8], direction: Direction, stands_for: Option<Tuple>) -> Vec<usize> {
    let mut pool = Pool::new(1, 4096);
    let frame: Frame = pool.frame(bytes).expect("it fits");
    let Payload::Ip(packet) = parse(&frame, Medium::Ethernet).expect("it is well-formed").payload else {
        panic!("an IP packet")
    };
    pool.release(frame);
    let tuple = stands_for.unwrap_or_else(|| packet.tuple());
    let asked = match owned_as(&packet, &tuple).expect("it has an owner") {
        Owned::ByFlow => tuple,
        Owned::As(tuple) => tuple,
    };
    LANES.map(|lanes| Lookup::new(&asked, WireId(3), direction, flows).hash.part(lanes)).to_vec()
}

fn frame() -> FrameBuilder {
    FrameBuilder::new().ethernet(MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2]))
}

fn ends() -> impl Strategy<Value = (String, String)> {
    let v4 = (any::<u16>(), any::<u16>())
        .prop_map(|(a, b)| (format!("10.1.{}.{}", a >> 8, a & 255), format!("10.2.{}.{}", b >> 8, b & 255)));
    let v6 = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (format!("fd00::{a:x}"), format!("fd01::{b:x}")));
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn all_of_a_flow_has_one_owner(
        (here, there) in ends(), ports in (1..u16::MAX, 1..u16::MAX), tcp in any::<bool>(), key in any::<[u8; 16]>(),
    ) {
        let flows = FlowTable::new(FlowRegion::heap(16), FlowConfig { hash_key: key, ..FlowConfig::default() });
        let build = |from: &str, to: &str, (source, destination): (u16, u16)| match tcp {
            true => frame().ip(from, to).tcp(source, destination, 2),
            false => frame().ip(from, to).udp(source, destination).payload(&[7; 1200]),
        };
        let (asks, answers) = (build(&here, &there, ports), build(&there, &here, (ports.1, ports.0)));
        let owner = owners(&flows, &asks.build(), Direction::Egress, None);
        prop_assert_eq!(&owner, &owners(&flows, &answers.build(), Direction::Ingress, None), "the reply");
        let error = frame().ip(&there, &here).port_unreachable(&asks.build()[14..]);
        prop_assert_eq!(&owner, &owners(&flows, &error.build(), Direction::Ingress, None), "an error about it");
        if !tcp {
            let protocol = Protocol::UDP;
            let source: std::net::IpAddr = here.parse().expect("an address");
            let destination: std::net::IpAddr = there.parse().expect("an address");
            let tuple = Tuple {
                source: source.into(), destination: destination.into(), protocol,
                source_port: ports.0, destination_port: ports.1,
            };
            for piece in asks.fragments(600) {
                prop_assert_eq!(&owner, &owners(&flows, &piece, Direction::Egress, Some(tuple)), "a piece of it");
            }
        }
    }

    #[test]
    fn echoes_and_errors_about_them_have_one_owner((here, there) in ends(), id in 1..u16::MAX, key in any::<[u8; 16]>()) {
        let flows = FlowTable::new(FlowRegion::heap(16), FlowConfig { hash_key: key, ..FlowConfig::default() });
        let (request, reply) = (frame().ip(&here, &there).echo_request(id, 1), frame().ip(&there, &here).echo_reply(id, 1));
        let owner = owners(&flows, &request.build(), Direction::Egress, None);
        prop_assert_eq!(&owner, &owners(&flows, &reply.build(), Direction::Ingress, None));
        let about_request = frame().ip(&there, &here).port_unreachable(&request.build()[14..]);
        prop_assert_eq!(&owner, &owners(&flows, &about_request.build(), Direction::Ingress, None));
        let about_reply = frame().ip(&here, &there).port_unreachable(&reply.build()[14..]);
        prop_assert_eq!(&owner, &owners(&flows, &about_reply.build(), Direction::Egress, None));
        let theirs = frame().ip(&there, &here).echo_request(id, 1);
        prop_assert_eq!(&owner, &owners(&flows, &theirs.build(), Direction::Ingress, None), "a ping the other way");
    }
}

#[test]
fn owners_have_equal_shares() {
    let flows = FlowTable::new(FlowRegion::heap(16), FlowConfig::default());
    for lanes in LANES {
        let mut shares = vec![0usize; lanes];
        for port in 1..=64_000u16 {
            let source: std::net::IpAddr = [10, 0, 0, 1].into();
            let destination: std::net::IpAddr = [10, 0, 0, 2].into();
            let (source, destination) = (source.into(), destination.into());
            let tuple = Tuple { source, destination, protocol: Protocol::UDP, source_port: port, destination_port: 53 };
            shares[Lookup::new(&tuple, WireId(1), Direction::Egress, &flows).hash.part(lanes)] += 1;
        }
        let even = 64_000 / lanes;
        assert!(shares.iter().all(|share| (even * 8 / 10..even * 12 / 10).contains(share)), "{shares:?}");
    }
}
