//! [`Generator`].

use std::collections::VecDeque;

use super::{FrameBuilder, PAIRS, forbidden, malformed};
use crate::address::{Address, MacAddress};
use crate::frame::VlanTag;
use crate::packet::{Direction, TcpFlags};
use crate::parse::Medium;
use crate::port::SentFrame;
use crate::verdict::DropReason;

const OWN: MacAddress = FrameBuilder::SOURCE_MAC;
const PEER: MacAddress = FrameBuilder::DESTINATION_MAC;
const ETHERNET_HEADER: usize = 14;

/// Makes frames of every kind, the same ones for the same seed, to and from [`super::endpoint`].
///
/// Of a hundred frames on Ethernet about
/// * 45 open a flow with an address and ports of their own (TCP, UDP, SCTP, echo, other protocols, some multicast),
/// * 15 belong to conversations: handshakes, data, and segments, resets and ICMP errors that do not fit,
/// * 10 are fragments: in order, shuffled, doubled, overlapping, without their first one,
/// * 10 are [`malformed`], 10 are [`forbidden`], 5 are ARP, neighbour discovery and group membership as they should be,
/// * 5 are of the above with bytes changed, cut off, added, or with a tag outside the bytes, or mere noise.
///
/// ```
/// use dataplane::parse::Medium;
/// use dataplane::testing::Generator;
///
/// let (mut one, mut two) = (Generator::new(7), Generator::new(7));
/// assert_eq!(one.next_frame(Medium::Ethernet), two.next_frame(Medium::Ethernet));
/// ```
#[derive(Clone, Debug)]
pub struct Generator {
    state: u64,
    malformed: Vec<(DropReason, Vec<u8>)>,
    forbidden: Vec<(Direction, DropReason, Vec<u8>)>,
    control: Vec<(Direction, Vec<u8>)>,
    pending: VecDeque<(Direction, Vec<u8>)>,
}

/// Both ends of a conversation, each with its address and port.
struct Ends {
    direction: Direction,
    client: (Address, u16),
    server: (Address, u16),
}

impl Generator {
    /// A generator with its seed.
    pub fn new(seed: u64) -> Self {
        Generator {
            state: seed,
            malformed: malformed(),
            forbidden: forbidden(),
            control: control(),
            pending: VecDeque::new(),
        }
    }

    /// The next frame, and which way it goes. With [`Medium::Ip`] it is what follows the Ethernet header, so that what
    /// was tagged, or not IP, is noise.
    pub fn next_frame(&mut self, medium: Medium) -> (Direction, SentFrame) {
        let (direction, mut bytes, vlan) = match self.below(100) {
            0..45 => self.opening().plain(),
            45..60 => self.queued(Self::conversation).plain(),
            60..70 => self.queued(Self::datagram).plain(),
            70..80 => {
                let index = self.below(self.malformed.len());
                (self.direction(), self.malformed[index].1.clone(), None)
            }
            80..90 => {
                let index = self.below(self.forbidden.len());
                let (direction, _, bytes) = self.forbidden[index].clone();
                (direction, bytes, None)
            }
            90..95 => {
                let index = self.below(self.control.len());
                self.control[index].clone().plain()
            }
            _ => self.damaged(),
        };
        if medium == Medium::Ip {
            bytes.drain(..bytes.len().min(ETHERNET_HEADER));
        }
        (direction, SentFrame { bytes, vlan, ..SentFrame::default() })
    }

    /// The next random number (SplitMix64).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound as u64) as usize
    }

    fn port(&mut self) -> u16 {
        self.below(65535) as u16 + 1
    }

    fn direction(&mut self) -> Direction {
        Direction::BOTH[self.below(2)]
    }

    /// The endpoint and somebody outside, either of them as the client.
    fn ends(&mut self) -> Ends {
        let family = self.below(2);
        let own: Address = match PAIRS[family].0.parse::<std::net::IpAddr>() {
            Ok(own) => own.into(),
            Err(error) => panic!("{error}"),
        };
        // Anything in the endpoint's /8 or /16 but the endpoint.
        let [a, b, c] = [self.random() as u8, self.random() as u8, self.random() as u8 | 2];
        let mut peer = own;
        peer.0[13..].copy_from_slice(&[a, b, c]);
        let (own, peer) = ((own, self.port()), (peer, self.port()));
        match self.direction() {
            Direction::Egress => Ends { direction: Direction::Egress, client: own, server: peer },
            Direction::Ingress => Ends { direction: Direction::Ingress, client: peer, server: own },
        }
    }

    /// A frame that opens a flow.
    fn opening(&mut self) -> (Direction, Vec<u8>) {
        let mut ends = self.ends();
        let length = self.below(64);
        let kind = self.below(16);
        let multicast = kind == 6 && ends.direction == Direction::Egress;
        if multicast {
            let v4 = ends.server.0.is_v4();
            ends.server.0 = if v4 { Address::v4([239, 1, 2, 3]) } else { Address::v6([0xff; 16]) };
        }
        let (from, to) = (ends.client.1, ends.server.1);
        let ip = ends.to_server();
        let frame = match kind {
            0..6 => ip.tcp(from, to, TcpFlags::SYN).tcp_options(&[2, 4, 5, 180, 3, 3, 7]),
            6..11 => ip.udp(from, to).payload(&vec![0x5a; length]),
            11..13 => ip.sctp(from, to, 0, 1),
            13..15 => ip.echo_request(from, 1).payload(&vec![0x5a; length]),
            _ => ip.protocol([47, 50, 132 - 17, 253][length % 4]).payload(&vec![0x5a; length]),
        };
        (ends.direction, frame.build())
    }

    /// The next of the frames that belong together.
    fn queued(&mut self, more: fn(&mut Self)) -> (Direction, Vec<u8>) {
        if self.pending.is_empty() {
            more(self);
        }
        self.pending.pop_front().unwrap_or_else(|| (Direction::Egress, Vec::new()))
    }

    fn push(&mut self, direction: Direction, frame: &FrameBuilder) {
        self.pending.push_back((direction, frame.build()));
    }

    /// A conversation with something that does not fit in its middle, or something that fits to none.
    fn conversation(&mut self) {
        match self.below(4) {
            0 => self.strange(),
            1 => self.question(),
            _ => self.connection(),
        }
    }

    /// A question and its answer, over UDP or as an echo, and an error about the question.
    fn question(&mut self) {
        let ends = self.ends();
        let (there, back) = (ends.direction, ends.direction.reverse());
        let (from, to) = (ends.client.1, ends.server.1);
        if self.below(2) == 0 {
            self.push(there, &ends.to_server().udp(from, to).payload(b"question"));
            self.push(back, &ends.to_client().udp(to, from).payload(b"answer"));
        } else {
            self.push(there, &ends.to_server().echo_request(from, 1));
            self.push(back, &ends.to_client().echo_reply(from, 1));
        }
        let quoted = FrameBuilder::packet().addresses(ends.client.0, ends.server.0).udp(from, to).build();
        self.push(back, &ends.to_client().port_unreachable(&quoted));
    }

    /// A TCP connection.
    fn connection(&mut self) {
        let ends = self.ends();
        let (there, back) = (ends.direction, ends.direction.reverse());
        let (from, to) = (ends.client.1, ends.server.1);
        let (mine, yours) = (self.random() as u32, self.random() as u32);
        let client = |flags, sequence: u32| ends.to_server().tcp(from, to, flags).sequence(mine.wrapping_add(sequence));
        let server =
            |flags, sequence: u32| ends.to_client().tcp(to, from, flags).sequence(yours.wrapping_add(sequence));
        let (seen, heard) = (|count: u32| mine.wrapping_add(count), |count: u32| yours.wrapping_add(count));
        self.push(there, &client(TcpFlags::SYN, 0));
        self.push(back, &server(TcpFlags::SYN, 0).acknowledgement(seen(1)));
        self.push(there, &client(0, 1).acknowledgement(heard(1)));
        let data = client(TcpFlags::PSH, 1).acknowledgement(heard(1)).payload(&[0x42; 100]);
        self.push(there, &data);
        self.push(back, &server(0, 1).acknowledgement(seen(101)));
        let quoted = data.build()[ETHERNET_HEADER..].to_vec();
        let odd = match self.below(8) {
            0 => server(0, 0x4000_0000).acknowledgement(seen(101)).payload(&[1; 10]),
            1 => server(TcpFlags::RST, 1000),
            2 => server(TcpFlags::SYN, 5000),
            3 => server(TcpFlags::SYN, 0).acknowledgement(seen(7777)),
            4 => ends.to_client().packet_too_big(1400, &quoted),
            5 => ends.to_client().packet_too_big(60, &quoted),
            6 => ends.to_client().port_unreachable(&quoted),
            _ => server(TcpFlags::RST, 1),
        };
        self.push(back, &odd);
        self.push(there, &client(TcpFlags::FIN, 101).acknowledgement(heard(1)));
        self.push(back, &server(TcpFlags::FIN, 1).acknowledgement(seen(102)));
        self.push(there, &client(0, 102).acknowledgement(heard(2)));
    }

    /// A frame that belongs to nothing, though it says that it does.
    fn strange(&mut self) {
        let ends = self.ends();
        let (from, to) = (ends.client.1, ends.server.1);
        let ip = ends.to_server();
        let tag = self.random() as u32 | 1;
        let quoted =
            FrameBuilder::packet().addresses(ends.server.0, ends.client.0).tcp(to, from, TcpFlags::ACK).build();
        let frame = match self.below(6) {
            0 => ip.tcp(from, to, TcpFlags::ACK).sequence(tag).payload(b"out of nowhere"),
            1 => ip.tcp(from, to, TcpFlags::RST).sequence(tag),
            2 => ip.echo_reply(from, 1),
            3 => ip.port_unreachable(&quoted),
            4 => ip.sctp(from, to, tag, 10),
            _ => ip.packet_too_big(1280, &quoted),
        };
        self.push(ends.direction, &frame);
    }

    /// A datagram in pieces.
    fn datagram(&mut self) {
        let ends = self.ends();
        let (from, to) = (ends.client.1, ends.server.1);
        let id = self.random() as u32;
        let bytes = 1500 + self.below(3000);
        let datagram = match self.below(4) {
            0 => ends.to_server().tcp(from, to, TcpFlags::ACK),
            1 => ends.to_server().echo_request(from, 1),
            _ => ends.to_server().udp(from, to),
        };
        let mut pieces = datagram.clone().payload(&vec![0x33; bytes]).id(id).fragments(1400);
        match self.below(6) {
            0 => pieces.reverse(),
            1 => pieces.push(pieces[1].clone()),
            2 => {
                let overlap = datagram.payload(&[0x44; 160]).fragment(id, 1320, true);
                pieces.insert(1, overlap.build());
            }
            3 => drop(pieces.remove(0)),
            _ => {}
        }
        self.pending.extend(pieces.into_iter().map(|piece| (ends.direction, piece)));
    }

    /// A frame to which something has happened.
    fn damaged(&mut self) -> (Direction, Vec<u8>, Option<VlanTag>) {
        let (direction, mut bytes) = self.opening();
        let mut vlan = None;
        match self.below(6) {
            0 => bytes.truncate(self.below(bytes.len())),
            1 => {
                let length = self.below(120);
                bytes = (0..length).map(|_| self.random() as u8).collect();
            }
            2 => bytes.resize(bytes.len() + self.below(64), 0),
            3 => vlan = Some(VlanTag { protocol: 0x8100, control: self.random() as u16 }),
            _ => {
                for _ in 0..=self.below(4) {
                    let at = self.below(bytes.len());
                    bytes[at] = self.random() as u8;
                }
            }
        }
        (direction, bytes, vlan)
    }
}

impl Ends {
    fn to_server(&self) -> FrameBuilder {
        self.between(self.direction).addresses(self.client.0, self.server.0)
    }

    fn to_client(&self) -> FrameBuilder {
        self.between(self.direction.reverse()).addresses(self.server.0, self.client.0)
    }

    fn between(&self, direction: Direction) -> FrameBuilder {
        match direction {
            Direction::Egress => FrameBuilder::new().ethernet(OWN, PEER),
            Direction::Ingress => FrameBuilder::new().ethernet(PEER, OWN),
        }
    }
}

/// A frame without a tag outside its bytes.
trait Plain {
    fn plain(self) -> (Direction, Vec<u8>, Option<VlanTag>);
}

impl Plain for (Direction, Vec<u8>) {
    fn plain(self) -> (Direction, Vec<u8>, Option<VlanTag>) {
        (self.0, self.1, None)
    }
}

/// Control traffic of the link as it should be.
fn control() -> Vec<(Direction, Vec<u8>)> {
    let v4 = [Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2])];
    let v6 = |last| Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let on = |source, destination| FrameBuilder::new().ip(source, destination);
    let egress = [
        FrameBuilder::new().ethernet(OWN, MacAddress::BROADCAST).arp(1, (OWN, v4[0]), (MacAddress::default(), v4[1])),
        FrameBuilder::new().arp(2, (OWN, v4[0]), (PEER, v4[1])),
        on("fd00::1", "ff02::1:ff00:2").neighbour_solicitation(v6(2), Some(OWN)),
        on("::", "ff02::1:ff00:1").neighbour_solicitation(v6(1), None),
        on("fd00::1", "fd00::2").neighbour_advertisement(v6(1), Some(OWN)),
        on("fe80::ff:fe00:1", "ff02::2").router_solicitation(Some(OWN)),
        on("::", "ff02::16").group_report(Address::v6([0xff; 16])),
        on("10.0.0.1", "224.0.0.251").group_report(Address::v4([224, 0, 0, 251])),
    ];
    let ingress = [
        FrameBuilder::new().arp(1, (PEER, v4[1]), (MacAddress::default(), v4[0])),
        FrameBuilder::new().arp(2, (PEER, v4[1]), (OWN, v4[0])),
        on("fd00::2", "ff02::1:ff00:1").neighbour_solicitation(v6(1), Some(PEER)),
        on("fd00::2", "fd00::1").neighbour_advertisement(v6(2), Some(PEER)),
        on("fe80::ff:fe00:2", "ff02::1").router_advertisement(Some(PEER)),
    ];
    let egress = egress.iter().map(|frame| (Direction::Egress, frame.build()));
    let ingress = ingress.into_iter().map(|frame| (Direction::Ingress, frame.ethernet(PEER, OWN).build()));
    egress.chain(ingress).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::guard::{Guard, Passage, Permissions};
    use crate::parse::parse_bytes;
    use crate::testing::endpoint;
    use crate::time::Time;

    const FRAMES: usize = 1_000_000;

    /// A million frames through parse and guard: no panic, enough that flows and policy get to see, and every reason of
    /// both often enough to be counted.
    #[test]
    fn a_million_frames_reach_every_reason() {
        const SEED: u64 = 20_000;
        let mut generator = Generator::new(SEED);
        let mut guard = Guard::new(Some(endpoint()), Permissions::POD);
        let mut dropped = vec![0; DropReason::ALL.len()];
        let (mut judged, mut passed) = (0, 0);
        for number in 0..FRAMES {
            let medium = if number % 16 == 0 { Medium::Ip } else { Medium::Ethernet };
            let (direction, frame) = generator.next_frame(medium);
            let now = Time::ZERO + Duration::from_micros(number as u64);
            let outcome = parse_bytes(&frame.bytes, frame.vlan, frame.bytes.len(), medium)
                .and_then(|parsed| guard.check(direction, &parsed, now));
            match outcome {
                Ok(Passage::Judge) => judged += 1,
                Ok(Passage::Pass) => passed += 1,
                Err(reason) => dropped[reason as usize] += 1,
            }
        }
        let share = judged as f64 / FRAMES as f64;
        assert!(share > 0.5, "seed {SEED}: {share} of the frames reach the flows");
        assert!(passed > FRAMES / 100, "seed {SEED}: {passed} frames pass unjudged");
        let ours = |reason: &DropReason| {
            *reason <= DropReason::FragmentTiny
                || *reason == DropReason::FragmentLength
                || (DropReason::NotEthernetII..=DropReason::GroupRateLimit).contains(reason)
        };
        let rare: Vec<_> =
            DropReason::ALL.iter().filter(|reason| ours(reason) && dropped[**reason as usize] < 100).collect();
        assert!(rare.is_empty(), "seed {SEED}: fewer than a hundred of {rare:?}");
    }
}
