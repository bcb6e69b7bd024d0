//! UDP, ICMP echo, ICMP errors, SCTP, everything else.

use super::*;
use crate::packet::Quoted;

const PAIRS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

#[test]
fn udp_is_a_question_an_answer_a_stream() {
    for (near, far) in PAIRS {
        let mut wire = Wire::new(16);
        let (there, back) = (udp((near, 4000), (far, 53)), udp((far, 53), (near, 4000)));
        assert_eq!(wire.out(there), Ok(Passed::New));
        assert_eq!((wire.state(&there), wire.expires_in()), (Some(FlowState::Unreplied), 30));
        wire.wait(29);
        assert_eq!(wire.back(back), Ok(Passed::Known));
        assert_eq!((wire.state(&there), wire.expires_in()), (Some(FlowState::Replied), 30));
        wire.out(there).unwrap();
        assert_eq!((wire.state(&there), wire.expires_in()), (Some(FlowState::Stream), 120));
        wire.wait(119);
        wire.back(back).unwrap();
        wire.wait(120);
        assert_eq!(wire.back(back), Ok(Passed::New), "too late: a flow of its own, to be judged as such");
    }
}

#[test]
fn a_cut_datagram_flow_is_gone() {
    let mut wire = Wire::new(16);
    let there = udp(("10.0.0.1", 4000), ("10.0.0.2", 53));
    wire.out(there).unwrap();
    let (flow, _) = wire.find(Direction::Egress, &there).unwrap();
    wire.table.cut(flow, wire.now);
    assert!(wire.table.is_empty());
}

#[test]
fn echo_replies_need_their_request() {
    for (near, far) in PAIRS {
        let mut wire = Wire::new(16);
        let reply = |id| echo(far, near, IcmpMessage::EchoReply(id));
        assert_eq!(wire.back(reply(7)), Err(DropReason::IcmpReplyUnasked));
        wire.out(echo(near, far, IcmpMessage::EchoRequest(7))).unwrap();
        assert_eq!(wire.expires_in(), 30);
        assert_eq!(wire.back(reply(8)), Err(DropReason::IcmpReplyUnasked));
        assert_eq!(wire.back(reply(7)), Ok(Passed::Known));
        // The other end's request with the same identifier is a flow of its own.
        assert_eq!(wire.back(echo(far, near, IcmpMessage::EchoRequest(7))), Ok(Passed::New));
        assert_eq!(wire.out(echo(near, far, IcmpMessage::EchoReply(7))), Ok(Passed::Known));
        assert_eq!(wire.back(reply(7)), Ok(Passed::Known));
        // With the identifier 0 the tuples are alike: then it takes the flow's place, and is judged.
        wire.out(echo(near, far, IcmpMessage::EchoRequest(0))).unwrap();
        assert_eq!(wire.back(echo(far, near, IcmpMessage::EchoRequest(0))), Ok(Passed::Reopened));
        assert_eq!(wire.back(reply(0)), Err(DropReason::IcmpReplyUnasked));
    }
}

#[test]
fn other_icmp_messages_make_no_flow() {
    let mut wire = Wire::new(16);
    let icmp = Icmp { kind: 13, code: 0, message: IcmpMessage::Other };
    let timestamp = packet(ip("10.0.0.1"), ip("10.0.0.2"), Protocol::ICMP, Transport::Icmp(icmp));
    assert!(!is_tracked(&timestamp));
    assert_eq!(wire.table.can_open(&timestamp, wire.now), Ok(()), "policy judges each");
    assert_eq!(wire.out(timestamp), Err(DropReason::IcmpUnrelated));
    assert!(wire.table.is_empty());
    for tracked in [client("S", 0, 0, 0), echo("10.0.0.1", "10.0.0.2", IcmpMessage::EchoRequest(1))] {
        assert!(is_tracked(&tracked));
    }
}

#[test]
fn other_protocols_last_ten_minutes() {
    let mut wire = Wire::new(16);
    let gre = packet(ip("10.0.0.1"), ip("10.0.0.2"), Protocol(47), Transport::Other);
    wire.out(gre).unwrap();
    assert_eq!(wire.expires_in(), 600);
    wire.back(packet(ip("10.0.0.2"), ip("10.0.0.1"), Protocol(47), Transport::Other)).unwrap();
    assert_eq!(wire.state(&gre), Some(FlowState::Replied));
    let esp = packet(ip("10.0.0.2"), ip("10.0.0.1"), Protocol(50), Transport::Other);
    assert_eq!(wire.back(esp), Ok(Passed::New), "another protocol, another flow");
}

#[test]
fn later_fragments_open_what_their_protocol_may() {
    let table = Wire::new(4).table;
    let later = |protocol| packet(ip("10.0.0.1"), ip("10.0.0.2"), protocol, Transport::Fragment);
    assert_eq!(table.can_open(&later(Protocol::UDP), Time::ZERO), Ok(()));
    assert_eq!(table.can_open(&later(Protocol::TCP), Time::ZERO), Err(DropReason::TcpNotSyn));
    assert_eq!(table.can_open(&later(Protocol::SCTP), Time::ZERO), Err(DropReason::SctpState));
}

/// An ICMP error from `router` to the quoted packet's source.
fn error(router: &str, quoted: Quoted, mtu: Option<u32>) -> Packet {
    let v4 = quoted.source.is_v4();
    let (protocol, kind) = if v4 { (Protocol::ICMP, 3) } else { (Protocol::ICMPV6, 2) };
    let message = IcmpMessage::Error { mtu, quoted };
    packet(ip(router), quoted.source, protocol, Transport::Icmp(Icmp { kind, code: 4, message }))
}

fn quote(packet: &Packet) -> Quoted {
    let (source_port, destination_port) = match packet.transport {
        Transport::Icmp(Icmp { message: IcmpMessage::EchoRequest(id) | IcmpMessage::EchoReply(id), .. }) => (id, id),
        _ => packet.ports(),
    };
    let sequence = match packet.transport {
        Transport::Tcp(segment) => Some(segment.sequence),
        _ => None,
    };
    Quoted {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        source_port,
        destination_port,
        sequence,
    }
}

fn related(wire: &Wire, direction: Direction, error: &Packet) -> Result<FlowRef, DropReason> {
    wire.table.find_related(&wire.crossing(direction), error)
}

#[test]
fn errors_about_probes_are_related() {
    // What traceroute sends: UDP, echo requests, SYNs; a router answers.
    for (near, far, router) in [("10.0.0.1", "10.0.0.2", "10.0.0.254"), ("fd00::1", "fd00::2", "fd00::ff")] {
        let syn = segment((ip(near), 40000), (ip(far), 80), "S", (100, 0), 0);
        for probe in [udp((near, 4000), (far, 33434)), echo(near, far, IcmpMessage::EchoRequest(9)), syn] {
            let mut wire = Wire::new(16);
            let exceeded = error(router, quote(&probe), None);
            assert_eq!(related(&wire, Direction::Ingress, &exceeded), Err(DropReason::IcmpUnrelated));
            wire.out(probe).unwrap();
            assert!(related(&wire, Direction::Ingress, &exceeded).is_ok(), "{probe:?}");
            assert_eq!(related(&wire, Direction::Egress, &exceeded), Err(DropReason::IcmpUnrelated), "the wrong way");
            wire.wait(1000);
            assert_eq!(related(&wire, Direction::Ingress, &exceeded), Err(DropReason::IcmpUnrelated), "too late");
        }
    }
}

#[test]
fn errors_about_replies_are_related() {
    let mut wire = Wire::new(16);
    wire.out(echo("10.0.0.1", "10.0.0.2", IcmpMessage::EchoRequest(9))).unwrap();
    let reply = echo("10.0.0.2", "10.0.0.1", IcmpMessage::EchoReply(9));
    wire.back(reply).unwrap();
    assert!(related(&wire, Direction::Egress, &error("10.0.0.1", quote(&reply), None)).is_ok());
}

#[test]
fn spoofed_errors_are_unrelated() {
    let mut wire = Wire::connected();
    wire.out(client("PA", 101, 501, 900)).unwrap();
    let about = |sequence| Quoted { sequence: Some(sequence), ..quote(&client("A", 0, 0, 0)) };
    let attempt = |quoted| related(&wire, Direction::Ingress, &error("192.0.2.66", quoted, None));
    assert!(attempt(about(101)).is_ok());
    assert!(attempt(about(1001)).is_ok());
    for guess in [1002, 101u32.wrapping_sub(2000), 0x8000_0000] {
        assert_eq!(attempt(about(guess)), Err(DropReason::IcmpUnrelated), "{guess}");
    }
    let hits = (0..u32::MAX).step_by(16_411).filter(|guess| attempt(about(*guess)).is_ok()).count();
    assert!(hits <= 1, "two windows of 1,000 bytes were hit {hits} times");
    assert_eq!(attempt(Quoted { destination_port: 81, ..about(101) }), Err(DropReason::IcmpUnrelated));
    assert_eq!(attempt(Quoted { protocol: Protocol::UDP, ..about(101) }), Err(DropReason::IcmpUnrelated));
    // To another than who sent the quoted packet.
    let mut astray = error("192.0.2.66", about(101), None);
    astray.destination = ip("10.0.0.3");
    assert_eq!(related(&wire, Direction::Ingress, &astray), Err(DropReason::IcmpUnrelated));
    assert_eq!(related(&wire, Direction::Ingress, &client("A", 0, 0, 0)), Err(DropReason::IcmpUnrelated), "no error");
}

#[test]
fn path_mtus_have_a_floor() {
    for (near, far, floor) in [("10.0.0.1", "10.0.0.2", 552), ("fd00::1", "fd00::2", 1280)] {
        let mut wire = Wire::new(16);
        let probe = udp((near, 4000), (far, 53));
        wire.out(probe).unwrap();
        for (mtu, small) in [(0, true), (floor - 1, true), (floor, false), (1400, false)] {
            let answer = related(&wire, Direction::Ingress, &error(far, quote(&probe), Some(mtu)));
            assert_eq!(answer.err(), small.then_some(DropReason::IcmpMtuTooSmall), "{mtu}");
        }
    }
}

#[test]
fn errors_about_a_cut_connection_are_dropped() {
    let mut wire = Wire::connected();
    let (flow, _) = wire.find(Direction::Egress, &client("A", 0, 0, 0)).unwrap();
    wire.table.cut(flow, wire.now);
    let about = error("10.0.0.254", quote(&client("A", 101, 501, 0)), None);
    assert_eq!(related(&wire, Direction::Ingress, &about), Err(DropReason::FlowCut));
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const DATA: u8 = 0;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The tag in what the client sends, and in what the server sends.
const TO_SERVER: u32 = 0xaaaa;
const TO_CLIENT: u32 = 0xbbbb;

fn to_server(tag: u32, chunk: u8) -> Packet {
    sctp_packet(("10.0.0.1", 4000), ("10.0.0.2", 3868), tag, chunk)
}

fn to_client(tag: u32, chunk: u8) -> Packet {
    sctp_packet(("10.0.0.2", 3868), ("10.0.0.1", 4000), tag, chunk)
}

fn associated() -> Wire {
    let mut wire = Wire::new(16);
    assert_eq!(wire.out(to_server(0, INIT)), Ok(Passed::New));
    wire.back(to_client(TO_CLIENT, INIT_ACK)).unwrap();
    assert_eq!((wire.state(&to_server(0, INIT)), wire.expires_in()), (Some(FlowState::CookieWait), 3));
    wire.out(to_server(TO_SERVER, COOKIE_ECHO)).unwrap();
    assert_eq!(wire.state(&to_server(0, INIT)), Some(FlowState::CookieEchoed));
    wire.back(to_client(TO_CLIENT, COOKIE_ACK)).unwrap();
    assert_eq!((wire.state(&to_server(0, INIT)), wire.expires_in()), (Some(FlowState::Associated), 210));
    wire
}

#[test]
fn an_association_from_init_to_shutdown() {
    let mut wire = associated();
    wire.out(to_server(TO_SERVER, DATA)).unwrap();
    wire.back(to_client(TO_CLIENT, DATA)).unwrap();
    wire.out(to_server(TO_SERVER, SHUTDOWN)).unwrap();
    assert_eq!(wire.state(&to_server(0, INIT)), Some(FlowState::ShutdownSent));
    wire.back(to_client(TO_CLIENT, SHUTDOWN_ACK)).unwrap();
    assert_eq!(wire.state(&to_server(0, INIT)), Some(FlowState::ShutdownAckSent));
    wire.out(to_server(TO_SERVER, SHUTDOWN_COMPLETE)).unwrap();
    assert_eq!((wire.state(&to_server(0, INIT)), wire.expires_in()), (Some(FlowState::Aborted), 10));
    assert_eq!(wire.back(to_client(TO_CLIENT, DATA)), Err(DropReason::SctpState));
    assert_eq!(wire.out(to_server(0, INIT)), Ok(Passed::Reopened));

    let mut wire = associated();
    wire.back(to_client(TO_CLIENT, SHUTDOWN)).unwrap();
    assert_eq!(wire.state(&to_server(0, INIT)), Some(FlowState::ShutdownReceived));
}

#[test]
fn only_an_init_opens_an_association() {
    let mut wire = Wire::new(16);
    for (tag, chunk) in [(1, INIT), (1, DATA), (1, INIT_ACK), (1, COOKIE_ECHO), (1, ABORT)] {
        assert_eq!(wire.out(to_server(tag, chunk)), Err(DropReason::SctpState), "{chunk}");
    }
    wire.out(to_server(0, INIT)).unwrap();
    for chunk in [DATA, SHUTDOWN, COOKIE_ACK] {
        assert_eq!(wire.back(to_client(1, chunk)), Err(DropReason::SctpState), "{chunk}");
    }
}

#[test]
fn verification_tags_are_verified() {
    let mut wire = associated();
    for tag in [0, 1, TO_CLIENT] {
        assert_eq!(wire.out(to_server(tag, DATA)), Err(DropReason::SctpState));
    }
    assert_eq!(wire.back(to_client(TO_SERVER, DATA)), Err(DropReason::SctpState));
    assert_eq!(wire.back(to_client(1, ABORT)), Err(DropReason::SctpState));
    // A spoofed INIT changes nothing.
    assert_eq!(wire.out(to_server(0, INIT)), Ok(Passed::Known));
    assert_eq!(wire.state(&to_server(0, INIT)), Some(FlowState::Associated));
    // An end that knows no association reflects the tag that it got.
    wire.back(to_client(TO_SERVER, ABORT)).unwrap();
    assert_eq!(wire.state(&to_server(0, INIT)), Some(FlowState::Aborted));
}

#[test]
fn a_cut_association_stays_cut() {
    let mut wire = associated();
    let (flow, _) = wire.find(Direction::Egress, &to_server(0, INIT)).unwrap();
    wire.table.cut(flow, wire.now);
    assert_eq!(wire.out(to_server(TO_SERVER, DATA)), Err(DropReason::FlowCut));
    assert_eq!(wire.back(to_client(0, INIT)), Err(DropReason::FlowCut));
    assert_eq!(wire.out(to_server(0, INIT)), Ok(Passed::Reopened));
}
