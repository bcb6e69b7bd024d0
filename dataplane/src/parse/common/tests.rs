//! The short way against the thorough one.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::{Medium, parse_bytes, parse_thoroughly, read_common};
use super::{ethernet, ip};
use crate::frame::VlanTag;
use crate::packet::{Parsed, TcpFlags};
use crate::testing::{FrameBuilder, Generator, PAIRS};

const TAG: VlanTag = VlanTag { protocol: 0x8100, control: 5 };

/// Both ways say the same, the reason for a drop included.
fn agree(bytes: &[u8], vlan: Option<VlanTag>, length: usize, medium: Medium) {
    let thorough = parse_thoroughly(bytes, vlan, length, medium);
    assert_eq!(parse_bytes(bytes, vlan, length, medium), thorough, "{medium:?} {vlan:?} {length} {bytes:02x?}");
    // Nothing is left of what was in the place before.
    let mut place = used();
    if read_common(bytes, vlan, length, medium, &mut place).is_some() {
        assert_eq!(Ok(place), thorough, "{medium:?} {vlan:?} {length} {bytes:02x?}");
    }
}

/// A place that a tagged TCP segment with all options was read into.
fn used() -> Parsed {
    static USED: LazyLock<Parsed> = LazyLock::new(|| {
        let bytes = shape(true, false, true, &[1, 3, 3, 7, 4, 2, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8], 18);
        parse_thoroughly(&bytes, Some(TAG), bytes.len(), Medium::Ethernet).expect("well-formed")
    });
    *USED
}

/// A frame of a common shape: family, protocol and tag by number, with the options and payload.
fn shape(v6: bool, udp: bool, tagged: bool, options: &[u8], payload: usize) -> Vec<u8> {
    let (source, destination) = PAIRS[usize::from(v6)];
    let mut frame = FrameBuilder::new().ip(source, destination);
    if tagged {
        frame = frame.vlan(TAG);
    }
    let frame = match udp {
        true => frame.udp(40_000, 53),
        false => frame.tcp(40_000, 80, TcpFlags::ACK).tcp_options(options),
    };
    frame.payload(&vec![7; payload]).build()
}

const OPTIONS: [&[u8]; 4] = [
    &[],
    &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
    &[2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7],
    &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2],
];

/// Otherwise the property tests below would hold a way against itself.
#[test]
fn the_common_shapes_take_the_short_way() {
    for (v6, udp, tagged) in (0..8).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0)) {
        for options in OPTIONS {
            let bytes = shape(v6, udp, tagged, options, 18);
            for outer in [None, Some(TAG)] {
                assert!(ethernet(&bytes, outer, bytes.len(), &mut used()).is_some(), "{v6} {udp} {tagged} {options:?}");
                agree(&bytes, outer, bytes.len(), Medium::Ethernet);
            }
            if !tagged {
                assert!(ip(&bytes[14..], None, bytes.len() - 14, &mut used()).is_some(), "{v6} {udp} {options:?}");
                agree(&bytes[14..], None, bytes.len() - 14, Medium::Ip);
            }
        }
    }
}

/// Each value of each byte of the headers, and each length.
#[test]
fn every_change_of_one_byte_is_read_alike() {
    for (v6, udp, tagged) in (0..8).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0)) {
        let bytes = shape(v6, udp, tagged, OPTIONS[1], 6);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            for value in 0..=255 {
                changed[at] = value;
                // A header checksum that is right again, so that what is behind it is reached.
                if !v6 && !matches!(at, 24 | 25 | 28 | 29) {
                    let ip = if tagged { 18 } else { 14 };
                    changed[ip + 10..ip + 12].fill(0);
                    let sum = crate::testing::internet_checksum(&[&changed[ip..ip + 20]]);
                    changed[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
                }
                agree(&changed, None, changed.len(), Medium::Ethernet);
                agree(&changed[14..], None, changed.len() - 14, Medium::Ip);
            }
        }
        for end in 0..bytes.len() {
            agree(&bytes[..end], None, end, Medium::Ethernet);
            agree(&bytes[..end], None, bytes.len(), Medium::Ethernet);
            agree(&bytes[..end], Some(TAG), bytes.len() + 70_000, Medium::Ethernet);
        }
    }
}

#[test]
fn generated_frames_are_read_alike() {
    for (seed, medium) in [(41, Medium::Ethernet), (42, Medium::Ip)] {
        let mut generator = Generator::new(seed);
        let mut short = 0;
        for _ in 0..200_000 {
            let frame = generator.next_frame(medium).1;
            agree(&frame.bytes, frame.vlan, frame.bytes.len(), medium);
            let common = read_common(&frame.bytes, frame.vlan, frame.bytes.len(), medium, &mut used());
            short += usize::from(common.is_some());
        }
        assert!(short > 40_000, "{short} of 200,000 frames with seed {seed} are of a common shape");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn changed_frames_are_read_alike(
        v6: bool,
        udp: bool,
        tagged: bool,
        options in 0..OPTIONS.len(),
        payload in 0usize..40,
        changes in proptest::collection::vec((0usize..110, any::<u8>()), 0..4),
        cut in 0usize..60,
        more in prop_oneof![Just(0), 0usize..2000],
        outer: bool,
        medium in prop_oneof![4 => Just(Medium::Ethernet), 1 => Just(Medium::Ip)],
    ) {
        let mut bytes = shape(v6, udp, tagged, OPTIONS[options], payload);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(30)));
        let length = bytes.len() + more;
        agree(&bytes, outer.then_some(TAG), length, medium);
    }
}
