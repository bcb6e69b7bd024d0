//! The glance against the thorough way.

use proptest::prelude::*;

use super::{Dissected, dissect, mac_word};
use crate::flow::{FlowKey, KeyWords};
use crate::guard::{Endpoint, Guard, Passage, Permissions};
use crate::packet::{Direction, Payload, TcpFlags, Transport};
use crate::parse::{Medium, parse_thoroughly, segment};
use crate::rules::WireId;
use crate::testing::{FrameBuilder, Generator, PAIRS, endpoint};
use crate::time::Time;

/// Whatever is dissected is what is parsed, has the same flow, and passes the guard if the guard's short way says so. Answers
/// whether it was dissected, and let on.
fn agree(bytes: &[u8], guards: &mut [Guard; 2]) -> [bool; 2] {
    let Some(dissected) = dissect(bytes, bytes.len()) else { return [false; 2] };
    let parsed = parse_thoroughly(bytes, None, bytes.len(), Medium::Ethernet);
    let read = segment(&bytes[usize::from(dissected.transport_offset)..], dissected.transport_length.into());
    let parsed = match parsed {
        Ok(parsed) => parsed,
        // A glance looks at a TCP header's ports only: the rest shows when it is read.
        Err(_) => {
            assert_eq!(dissected.protocol, crate::packet::Protocol::TCP, "{bytes:02x?}");
            assert_eq!(read, None, "{bytes:02x?}");
            return [true, false];
        }
    };
    let Payload::Ip(packet) = &parsed.payload else { panic!("no packet: {bytes:02x?}") };
    assert!(!parsed.link.is_tagged() && packet.fragment.is_none(), "{bytes:02x?}");
    let tuple = packet.tuple();
    let again = Dissected {
        destination_mac: mac_word(parsed.link.destination.0),
        source_mac: mac_word(parsed.link.source.0),
        source: bytemuck::cast(tuple.source.0),
        destination: bytemuck::cast(tuple.destination.0),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        transport_offset: packet.transport_offset as u8,
        transport_length: packet.transport_length as u16,
    };
    assert_eq!(dissected, again, "{bytes:02x?}");
    match packet.transport {
        Transport::Udp { .. } => {}
        Transport::Tcp(of_packet) => assert!(read.is_none_or(|read| read == of_packet), "{bytes:02x?}"),
        other => panic!("{other:?}: {bytes:02x?}"),
    }
    let mut let_on = false;
    for direction in Direction::BOTH {
        let key = FlowKey::new(WireId(0xdead_beef), direction, &tuple);
        let words = KeyWords::of(WireId(0xdead_beef), direction, &dissected);
        assert_eq!(words, key.words(), "{bytes:02x?}");
        assert_eq!(bytemuck::bytes_of(&words.key()), bytemuck::bytes_of(&key), "{bytes:02x?}");
        for guard in &mut *guards {
            if guard.plain().admits(direction, &dissected) {
                let_on = true;
                assert_eq!(guard.check(direction, &parsed, Time::ZERO), Ok(Passage::Judge), "{bytes:02x?}");
            }
        }
    }
    [true, let_on]
}

/// Of a pod that may next to nothing, and of a network that may everything.
fn guards() -> [Guard; 2] {
    [Guard::new(Some(endpoint()), Permissions::POD), Guard::new(None, Permissions::GATEWAY)]
}

/// A frame between the ends of a family, by number.
fn shape(v6: bool, udp: bool, ports: (u16, u16), payload: usize) -> Vec<u8> {
    let (source, destination) = PAIRS[usize::from(v6)];
    let frame = FrameBuilder::new().ip(source, destination);
    let frame = match udp {
        true => frame.udp(ports.0, ports.1),
        false => frame.tcp(ports.0, ports.1, TcpFlags::ACK),
    };
    frame.payload(&vec![7; payload]).build()
}

#[test]
fn the_common_shapes_are_dissected() {
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let bytes = shape(v6, udp, (40_000, 53), 18);
        assert_eq!(agree(&bytes, &mut guards()), [true, true], "{v6} {udp}");
    }
}

/// Who is inside does not come from outside, by any of its addresses; an endpoint with many is left to the long way.
#[test]
fn the_short_way_of_the_guard_knows_all_addresses() {
    let bytes = shape(false, true, (40_000, 53), 18);
    let dissected = dissect(&bytes, bytes.len()).expect("a common shape");
    for more in [0, 3, 7, 8, 30] {
        let mut endpoint = Endpoint { mac: None, ..endpoint() };
        endpoint.addresses.truncate(1);
        endpoint.addresses.extend((0..more).map(|number| crate::address::Address::v4([10, 77, 0, number])));
        let of_source = endpoint.addresses[0] == crate::address::Address(bytemuck::cast(dissected.source));
        assert!(of_source, "the builder's frames come from the endpoint");
        let plain = Guard::new(Some(endpoint), Permissions::POD).plain();
        assert_eq!(plain.admits(Direction::Egress, &dissected), more < 8, "{more}");
        assert!(!plain.admits(Direction::Ingress, &dissected), "{more}");
    }
}

/// Each value of each byte of the headers, and each length.
#[test]
fn every_change_of_one_byte_is_read_alike() {
    let mut guards = guards();
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let bytes = shape(v6, udp, (40_000, 53), 6);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            for value in 0..=255 {
                changed[at] = value;
                // A header checksum that is right again, so that what is behind it is reached.
                if !v6 && !matches!(at, 24 | 25) {
                    changed[24..26].fill(0);
                    let sum = crate::testing::internet_checksum(&[&changed[14..34]]);
                    changed[24..26].copy_from_slice(&sum.to_be_bytes());
                }
                agree(&changed, &mut guards);
            }
        }
        for end in 0..bytes.len() {
            agree(&bytes[..end], &mut guards);
        }
    }
}

#[test]
fn generated_frames_are_read_alike() {
    let (mut generator, mut guards, mut count) = (Generator::new(43), guards(), [0; 2]);
    for _ in 0..200_000 {
        let frame = generator.next_frame(Medium::Ethernet).1;
        for (count, is) in count.iter_mut().zip(agree(&frame.bytes, &mut guards)) {
            *count += u32::from(is);
        }
    }
    assert!(count.iter().all(|&count| count > 30_000), "{count:?} of 200,000 frames with seed 43");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn changed_frames_are_read_alike(
        v6: bool,
        udp: bool,
        ports in (prop_oneof![0u16..600, any::<u16>()], prop_oneof![0u16..600, any::<u16>()]),
        payload in 0usize..40,
        changes in proptest::collection::vec((0usize..110, any::<u8>()), 0..4),
        same: bool,
    ) {
        let mut bytes = shape(v6, udp, ports, payload);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if same {
            // Who talks to itself.
            let (at, length) = if v6 { (22, 16) } else { (26, 4) };
            bytes.copy_within(at..at + length, at + length);
        }
        agree(&bytes, &mut guards());
    }
}
