//! Tests of the flow table. [`Wire`] does with it what a worker does.

mod burst;
mod check;
mod limits;
mod model;
mod protocols;
mod resets;
mod tcp;

use std::net::IpAddr;
use std::time::Duration;

use bytemuck::Zeroable;

use super::*;
use crate::address::Address;
use crate::packet::{Fragment, Icmp, IcmpMessage, Packet, Protocol, TcpFlags, TcpSegment, Transport};
use crate::verdict::DropReason;

/// What became of a frame that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    /// It opened a flow.
    New,
    /// It belongs to one.
    Known,
    /// It took the place of one that was over.
    Reopened,
}

const KEY: [u8; 16] = *b"a key for tests.";

fn ip(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().unwrap())
}

/// A table with the packets of one wire, and its clock.
struct Wire {
    table: FlowTable,
    now: Time,
    wire: WireId,
}

impl Wire {
    fn new(capacity: usize) -> Self {
        Wire::with(capacity, FlowConfig { hash_key: KEY, ..FlowConfig::default() })
    }

    fn with(capacity: usize, config: FlowConfig) -> Self {
        Wire { table: FlowTable::new(FlowRegion::heap(capacity), config), now: Time::ZERO, wire: WireId(7) }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    fn crossing(&self, direction: Direction) -> Crossing {
        Crossing { wire: self.wire, direction, length: 100, now: self.now }
    }

    fn find(&self, direction: Direction, packet: &Packet) -> Option<(FlowRef, Origin)> {
        self.table.find(&self.crossing(direction), &packet.tuple())
    }

    /// Takes a packet under a policy that allows everything.
    fn pass(&mut self, direction: Direction, packet: &Packet) -> Result<Passed, DropReason> {
        let crossing = self.crossing(direction);
        let tuple = packet.tuple();
        let passed = match self.table.find(&crossing, &tuple) {
            Some((flow, origin)) => match self.table.track(flow, origin, packet, &crossing)? {
                Tracked::Continue => return Ok(Passed::Known),
                Tracked::Reopen => Passed::Reopened,
            },
            None => Passed::New,
        };
        self.table.can_open(packet, self.now)?;
        self.table.insert(&crossing, packet, &tuple, Epoch(1))?;
        Ok(passed)
    }

    fn out(&mut self, packet: Packet) -> Result<Passed, DropReason> {
        self.pass(Direction::Egress, &packet)
    }

    fn back(&mut self, packet: Packet) -> Result<Passed, DropReason> {
        self.pass(Direction::Ingress, &packet)
    }

    /// The state of the flow that an outgoing packet belongs to.
    fn state(&self, packet: &Packet) -> Option<FlowState> {
        self.find(Direction::Egress, packet).map(|(flow, _)| self.table.state(flow))
    }
}

fn packet(source: Address, destination: Address, protocol: Protocol, transport: Transport) -> Packet {
    Packet {
        source,
        destination,
        protocol,
        hop_limit: 64,
        transport_offset: 34,
        transport_length: 20,
        fragment: None,
        transport,
    }
}

fn udp(source: (&str, u16), destination: (&str, u16)) -> Packet {
    let transport = Transport::Udp { source_port: source.1, destination_port: destination.1 };
    packet(ip(source.0), ip(destination.0), Protocol::UDP, transport)
}

fn echo(source: &str, destination: &str, message: IcmpMessage) -> Packet {
    let request = matches!(message, IcmpMessage::EchoRequest(_));
    let (protocol, kind) = match (ip(source).is_v4(), request) {
        (true, true) => (Protocol::ICMP, 8),
        (true, false) => (Protocol::ICMP, 0),
        (false, true) => (Protocol::ICMPV6, 128),
        (false, false) => (Protocol::ICMPV6, 129),
    };
    packet(ip(source), ip(destination), protocol, Transport::Icmp(Icmp { kind, code: 0, message }))
}

fn sctp_packet(source: (&str, u16), destination: (&str, u16), tag: u32, chunk: u8) -> Packet {
    let transport = Transport::Sctp { source_port: source.1, destination_port: destination.1, tag, chunk };
    packet(ip(source.0), ip(destination.0), Protocol::SCTP, transport)
}

/// A TCP segment; `flags` is a string of the letters S, A, F, R, P.
fn segment(
    source: (Address, u16),
    destination: (Address, u16),
    flags: &str,
    numbers: (u32, u32),
    length: u32,
) -> Packet {
    let bit = |letter| match letter {
        'S' => TcpFlags::SYN,
        'A' => TcpFlags::ACK,
        'F' => TcpFlags::FIN,
        'R' => TcpFlags::RST,
        'P' => TcpFlags::PSH,
        _ => panic!("no flag {letter}"),
    };
    let tcp = TcpSegment {
        source_port: source.1,
        destination_port: destination.1,
        flags: TcpFlags(flags.chars().map(bit).fold(0, |all, one| all | one)),
        sequence: numbers.0,
        acknowledgement: numbers.1,
        window: 1000,
        payload_length: length,
        window_scale: None,
        sack_permitted: false,
        sack: None,
    };
    packet(source.0, destination.0, Protocol::TCP, Transport::Tcp(tcp))
}

/// Changes a segment's header.
fn with(mut packet: Packet, change: impl FnOnce(&mut TcpSegment)) -> Packet {
    match &mut packet.transport {
        Transport::Tcp(segment) => change(segment),
        other => panic!("{other:?} is no TCP segment"),
    }
    packet
}

/// From the client, 10.0.0.1 inside, to the server, 10.0.0.2 outside. Client numbers start at 100, the server's at 500.
fn client(flags: &str, sequence: u32, acknowledgement: u32, length: u32) -> Packet {
    segment((ip("10.0.0.1"), 40000), (ip("10.0.0.2"), 80), flags, (sequence, acknowledgement), length)
}

/// From the server to the client.
fn server(flags: &str, sequence: u32, acknowledgement: u32, length: u32) -> Packet {
    segment((ip("10.0.0.2"), 80), (ip("10.0.0.1"), 40000), flags, (sequence, acknowledgement), length)
}

impl Wire {
    /// A connection after its handshake, with windows of 1,000 bytes.
    fn connected() -> Self {
        let mut wire = Wire::new(16);
        wire.connect();
        wire
    }

    fn connect(&mut self) {
        assert_eq!(self.out(client("S", 100, 0, 0)), Ok(Passed::New));
        assert_eq!(self.back(server("SA", 500, 101, 0)), Ok(Passed::Known));
        assert_eq!(self.out(client("A", 101, 501, 0)), Ok(Passed::Known));
        assert_eq!(self.tcp_state(), Some(FlowState::Established));
    }

    fn tcp_state(&self) -> Option<FlowState> {
        self.state(&client("A", 0, 0, 0))
    }

    fn expires_in(&self) -> u32 {
        self.table.list(0, self.now).next().expect("a flow").1.expires_in
    }
}

#[test]
fn entries_are_a_cache_line_and_keys_have_no_gaps() {
    assert_eq!((size_of::<FlowEntry>(), align_of::<FlowEntry>(), size_of::<FlowKey>()), (64, 64, 42));
}

#[test]
fn numbers_of_states_are_stable_and_distinct() {
    for (number, state) in FlowState::ALL.iter().enumerate() {
        assert_eq!(*state as usize, number, "a region outlives the process: numbers must not move");
        assert_eq!(FlowState::from_number(number as u8), Some(*state));
    }
    assert_eq!(FlowState::from_number(200), None);
}

#[test]
fn both_directions_have_one_key_and_each_wire_its_own() {
    let there = client("S", 0, 0, 0).tuple();
    let key = FlowKey::new(WireId(1), Direction::Egress, &there);
    assert_eq!(key, FlowKey::new(WireId(1), Direction::Ingress, &there.reverse()));
    assert_ne!(key, FlowKey::new(WireId(2), Direction::Egress, &there));
    // The same packet the other way: spoofed from outside, or routed back over the wire.
    assert_ne!(key, FlowKey::new(WireId(1), Direction::Ingress, &there));
    assert_eq!(key.tuple(Direction::Egress), there);
    assert_eq!(key.tuple(Direction::Ingress), there.reverse());
    // Who talks to itself.
    let own = Tuple { destination: there.source, destination_port: there.source_port, ..there };
    let both = Direction::BOTH.map(|direction| FlowKey::new(WireId(1), direction, &own));
    assert_eq!(both[0], both[1]);
}

#[test]
fn packets_are_counted_beyond_32_bits() {
    let key = FlowKey::new(WireId(1), Direction::Egress, &client("S", 0, 0, 0).tuple());
    let mut entry = FlowEntry::new(key, Direction::Egress, Epoch(1), FlowState::SynSent);
    let mut detail = FlowDetail::zeroed();
    let mut flow = FlowMut { entry: &mut entry, detail: &mut detail };
    flow.count(Origin::Original, 7);
    flow.preset_packets(Origin::Original, u64::from(u32::MAX));
    flow.count(Origin::Original, 70_000);
    flow.count(Origin::Original, u32::MAX);
    let flow = flow.view();
    assert_eq!((flow.packets(Origin::Original), flow.bytes(Origin::Original)), ((1 << 32) + 1, 70_006 + (1 << 32)));
    assert_eq!((flow.packets(Origin::Reply), flow.bytes(Origin::Reply), flow.entry.replied()), (0, 0, false));
}
