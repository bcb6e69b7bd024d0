//! The frame's journey, over memory ports: what passes, what does not, and what is counted.

mod support;

use std::time::Duration;

use dataplane::event::Event;
use dataplane::frame::{Checksum, Gso, GsoKind};
use dataplane::packet::Direction::{Egress, Ingress};
use dataplane::packet::{Protocol, TcpFlags, Tuple};
use dataplane::port::SentFrame;
use dataplane::rules::{Action, Policy};
use dataplane::verdict::DropReason;
use dataplane::worker::{Answer, Finding};
use support::{Harness, allow, chain, rule};

const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;

#[test]
fn a_wire_that_no_policy_names_is_closed() {
    let mut wire = Harness::new(None, Default::default(), 64);
    let syn = wire.from_pod("10.9.9.9").tcp(40_000, 80, TcpFlags::SYN).build();
    assert_eq!(wire.crosses(Egress, syn), Err(DropReason::WireClosed));
}

#[test]
fn replies_pass_where_only_the_request_is_allowed() {
    for peer in ["10.9.9.9", "fd09::9"] {
        let mut wire = Harness::pod();
        wire.policy(Policy::Open, chain(vec![], Action::Deny));
        let request = wire.from_pod(peer).udp(40_000, 53).payload(b"question").build();
        let reply = wire.to_pod(peer).udp(53, 40_000).payload(b"answer").build();
        let unasked = wire.to_pod(peer).udp(53, 40_001).payload(b"answer").build();
        assert_eq!(wire.crosses(Ingress, reply.clone()), Err(DropReason::PolicyDenied));
        assert_eq!(wire.crosses(Egress, request), Ok(()));
        assert_eq!(wire.crosses(Ingress, reply), Ok(()));
        assert_eq!(wire.crosses(Ingress, unasked), Err(DropReason::PolicyDenied));
        assert_eq!(wire.stats.direction(Ingress).forwarded.get(), 1);
        assert_eq!(wire.stats.flows.get(), 1);
        wire.pass(Duration::from_secs(3600));
        assert_eq!(wire.stats.flows.get(), 0);
        assert_eq!(wire.stats.direction(Ingress).dropped(DropReason::PolicyDenied).get(), 2);
    }
}

#[test]
fn frames_and_their_metadata_cross_unchanged() {
    let mut wire = Harness::pod();
    let syn = wire.from_pod("10.9.9.9").tcp(40_000, 80, TcpFlags::SYN).build();
    let sent = SentFrame { checksum: Checksum::Partial { start: 34, offset: 16 }, ..SentFrame::from(syn) };
    assert_eq!(wire.sends(sent.clone()), vec![sent]);
    let reply = wire.to_pod("10.9.9.9").tcp(80, 40_000, SYN_ACK).sequence(5).acknowledgement(1).window(65_535).build();
    assert_eq!(wire.receives(reply.clone()), vec![SentFrame::from(reply)]);
    let big = wire.from_pod("10.9.9.9").tcp(40_000, 80, TcpFlags::ACK).sequence(1).acknowledgement(6);
    let big = SentFrame {
        gso: Some(Gso { kind: GsoKind::TcpV4, size: 1448, header_length: 54, ecn: false }),
        ..SentFrame::from(big.payload(&[1; 14_480]).build())
    };
    assert_eq!(wire.sends(big.clone()), vec![big]);
    assert_eq!(wire.stats.direction(Egress).forwarded.get(), 2);
    assert_eq!(wire.stats.direction(Egress).forwarded_segments.get(), 1 + 10, "a super-frame counts as its segments");
}

#[test]
fn a_new_deny_cuts_and_a_new_allow_does_not_resurrect() {
    let mut wire = Harness::pod();
    let peer = "10.9.9.9";
    let syn = wire.from_pod(peer).tcp(40_000, 80, TcpFlags::SYN).build();
    let syn_ack = wire.to_pod(peer).tcp(80, 40_000, SYN_ACK).sequence(9).acknowledgement(1).window(65_535).build();
    let ack = wire.from_pod(peer).tcp(40_000, 80, TcpFlags::ACK).sequence(1).acknowledgement(10).window(512).build();
    let other = wire.from_pod(peer).udp(40_000, 53).build();
    assert_eq!(wire.crosses(Egress, syn.clone()), Ok(()));
    assert_eq!(wire.crosses(Ingress, syn_ack.clone()), Ok(()));
    assert_eq!(wire.crosses(Egress, ack.clone()), Ok(()));
    assert_eq!(wire.crosses(Egress, other.clone()), Ok(()));

    wire.policy(allow(&[], Some((Protocol::UDP, 53))), Policy::Open);
    assert_eq!(wire.crosses(Egress, ack.clone()), Err(DropReason::PolicyDenied), "cut before its next frame");
    assert_eq!(wire.crosses(Egress, other), Ok(()), "the other flow stays");
    assert_eq!(wire.stats.direction(Egress).rejudged.get(), 2);

    wire.policy(Policy::Open, Policy::Open);
    assert_eq!(wire.crosses(Egress, ack), Err(DropReason::FlowCut), "what was cut stays cut");
    assert_eq!(wire.crosses(Ingress, syn_ack), Err(DropReason::FlowCut));
    assert_eq!(wire.crosses(Egress, syn), Ok(()), "a new connection is a new flow");
}

#[test]
fn a_reply_of_an_old_flow_is_judged_as_its_originator() {
    let mut wire = Harness::pod();
    let request = wire.from_pod("10.9.9.9").udp(40_000, 53).build();
    let reply = wire.to_pod("10.9.9.9").udp(53, 40_000).build();
    assert_eq!(wire.crosses(Egress, request), Ok(()));
    wire.policy(allow(&["10.9.9.9/32"], Some((Protocol::UDP, 53))), chain(vec![], Action::Deny));
    assert_eq!(wire.crosses(Ingress, reply.clone()), Ok(()), "egress still allows what the flow is");
    wire.policy(chain(vec![], Action::Deny), Policy::Open);
    assert_eq!(wire.crosses(Ingress, reply), Err(DropReason::PolicyDenied), "ingress is open, the flow is egress");
    let Some(Event::Dropped(dropped)) = wire.events.take() else { panic!("an event") };
    assert_eq!((dropped.direction, dropped.judged), (Ingress, Egress), "the log can name egress policies");
}

#[test]
fn an_icmp_error_needs_its_flow() {
    let mut wire = Harness::pod();
    wire.policy(Policy::Open, chain(vec![], Action::Deny));
    let request = wire.from_pod("10.9.9.9").udp(40_000, 53).build();
    let error = wire.to_pod("10.1.1.1").port_unreachable(&request[14..]).build();
    assert_eq!(wire.crosses(Ingress, error.clone()), Err(DropReason::IcmpUnrelated));
    assert_eq!(wire.crosses(Egress, request.clone()), Ok(()));
    assert_eq!(wire.crosses(Ingress, error), Ok(()));
    let too_big = |mtu| wire.to_pod("10.1.1.1").packet_too_big(mtu, &request[14..]).build();
    let (fair, tiny) = (too_big(1400), too_big(200));
    assert_eq!(wire.crosses(Ingress, fair), Ok(()));
    assert_eq!(wire.crosses(Ingress, tiny), Err(DropReason::IcmpMtuTooSmall));
}

#[test]
fn fragments_follow_their_first_in_any_order() {
    for reverse in [false, true] {
        for (peer, port, allowed) in [("10.9.9.9", 53, true), ("fd09::9", 53, true), ("10.9.9.9", 54, false)] {
            let mut wire = Harness::pod();
            wire.policy(Policy::Open, allow(&[], Some((Protocol::UDP, 53))));
            let mut pieces = wire.to_pod(peer).udp(40_000, port).payload(&[3; 8000]).fragments(1400);
            if reverse {
                pieces.reverse();
            }
            let count = pieces.len();
            for piece in pieces {
                wire.outside.inject(piece);
            }
            wire.worker.poll(wire.now);
            assert_eq!(wire.inside.drain().len(), if allowed { count } else { 0 }, "{peer} {port} {reverse}");
            wire.pass(Duration::from_secs(61));
        }
    }
}

#[test]
fn held_fragments_time_out() {
    let mut wire = Harness::pod();
    let pieces = wire.to_pod("10.9.9.9").udp(40_000, 53).payload(&[3; 4000]).fragments(1400);
    assert!(wire.receives(pieces[1].clone()).is_empty());
    wire.pass(Duration::from_secs(61));
    assert_eq!(wire.stats.direction(Ingress).dropped(DropReason::FragmentTimeout).get(), 1);
}

#[test]
fn asked_frames_wait_for_their_answer() {
    let ask = || chain(vec![rule(4, Action::Ask(3), &["10.5.0.0/16"], None)], Action::Deny);
    let mut wire = Harness::pod();
    wire.policy(Policy::Open, ask());
    let frame = |wire: &Harness, port| wire.to_pod("10.5.0.1").udp(port, 53).build();

    let (first, second) = (frame(&wire, 1000), frame(&wire, 1000));
    assert!(wire.receives(first).is_empty());
    assert!(wire.receives(second).is_empty());
    let question = wire.ask.question().expect("control is asked");
    assert_eq!((question.kind, question.direction, question.tuple.source_port), (3, Ingress, 1000));
    assert!(wire.ask.question().is_none(), "once a flow");
    wire.ask.answer(Answer { ticket: question.ticket, finding: Finding::Allow });
    wire.worker.housekeeping(wire.now);
    assert_eq!(wire.inside.drain().len(), 2, "both go on");
    let third = frame(&wire, 1000);
    assert_eq!(wire.crosses(Ingress, third), Ok(()), "the flow is known now");

    let denied = frame(&wire, 1001);
    assert!(wire.receives(denied).is_empty());
    let ticket = wire.ask.question().expect("another flow").ticket;
    wire.ask.answer(Answer { ticket, finding: Finding::Deny });
    wire.worker.housekeeping(wire.now);
    assert_eq!(wire.stats.direction(Ingress).dropped(DropReason::AskDenied).get(), 1);

    let forgotten = frame(&wire, 1002);
    assert!(wire.receives(forgotten).is_empty());
    wire.pass(dataplane::worker::ASK_TIMEOUT);
    assert_eq!(wire.stats.direction(Ingress).dropped(DropReason::AskTimeout).get(), 1);

    for port in 2000..2300 {
        let frame = frame(&wire, port);
        wire.receives(frame);
    }
    assert!(wire.stats.direction(Ingress).dropped(DropReason::AskQueueFull).get() >= 44);
}

#[test]
fn what_the_other_port_has_no_room_for_is_counted() {
    let mut wire = Harness::pod();
    wire.outside.limit_room(Some(1));
    for port in [1, 2, 3] {
        let frame = wire.from_pod("10.9.9.9").udp(port, 53).build();
        wire.inside.inject(frame);
    }
    wire.worker.poll(wire.now);
    let stats = wire.stats.direction(Egress);
    assert_eq!((stats.received.get(), stats.forwarded.get()), (3, 1));
    assert_eq!((stats.forwarded_segments.get(), stats.forwarded_bytes.get()), (1, 14 + 20 + 8));
    assert_eq!(stats.dropped(DropReason::PortOverflow).get(), 2);
}

#[test]
fn a_drop_is_told_with_who_and_why() {
    let mut wire = Harness::pod();
    wire.policy(chain(vec![rule(9, Action::Deny, &["10.9.9.9/32"], None)], Action::Allow), Policy::Open);
    let frame = wire.from_pod("10.9.9.9").tcp(40_000, 443, TcpFlags::SYN).build();
    assert_eq!(wire.crosses(Egress, frame), Err(DropReason::PolicyDenied));
    let Some(Event::Dropped(dropped)) = wire.events.take() else { panic!("an event") };
    assert_eq!(dropped.rule.map(|rule| rule.0), Some(9));
    assert_eq!(dropped.generation, wire.publisher.generation().0);
    let tuple = dropped.tuple.expect("it could be read");
    assert_eq!((tuple.destination.to_string().as_str(), tuple.destination_port), ("10.9.9.9", 443));
}

#[test]
fn a_flow_that_control_explained_is_judged_again_as_what_it_stands_for() {
    let policy = |client: &str| {
        let ask = rule(4, Action::Ask(3), &["10.5.0.1/32"], None);
        chain(vec![ask, rule(5, Action::Allow, &[client], None)], Action::Deny)
    };
    let mut wire = Harness::pod();
    wire.policy(Policy::Open, policy("203.0.113.7/32"));
    let frame = wire.to_pod("10.5.0.1").udp(1000, 53).build();
    assert!(wire.receives(frame.clone()).is_empty());
    let question = wire.ask.question().expect("control is asked");
    let client = Tuple { source: support::address("203.0.113.7"), ..question.tuple };
    wire.ask.answer(Answer { ticket: question.ticket, finding: Finding::JudgeAs(client) });
    wire.worker.housekeeping(wire.now);
    assert_eq!(wire.inside.drain().len(), 1);

    wire.policy(Policy::Open, policy("203.0.113.0/24"));
    assert_eq!(wire.crosses(Ingress, frame.clone()), Ok(()), "judged as the client, without asking");
    assert!(wire.ask.question().is_none());
    wire.policy(Policy::Open, policy("198.51.100.0/24"));
    assert_eq!(wire.crosses(Ingress, frame), Err(DropReason::PolicyDenied));
}
