//! Addresses that stand for others: a packet to a frontend is judged by its backends, one from a host by who is behind it.

mod support;

use std::sync::Arc;

use dataplane::frontend::{Backend, Frontend, FrontendChange, Place};
use dataplane::packet::Direction::{self, Egress, Ingress};
use dataplane::packet::{Protocol, TcpFlags, Tuple};
use dataplane::port::SentFrame;
use dataplane::publish::Change;
use dataplane::rules::{Action, GroupId, Peers, Policy, Rule, WireRules, asked};
use dataplane::verdict::DropReason;
use dataplane::worker::{Answer, Finding, Question};
use support::{Harness, POD, WIRE, address, allow, chain, rule};

const SERVICE: &str = "10.96.0.10";
const HOST: &str = "10.254.0.1";
const OTHER_HOST: &str = "10.254.0.2";

fn at(place: Place, port: u16) -> Frontend {
    Frontend { place, protocol: Protocol::TCP, port }
}

fn backends(list: &[&str]) -> Arc<[Backend]> {
    list.iter().map(|text| Backend { address: address(text), port: 8080 }).collect()
}

/// Publishes what the pod may send and receive, and who is behind the Service, and behind port 30080 of every host.
fn publish(wire: &Harness, egress: Policy, ingress: Policy, behind: &[&str], mixed: bool) {
    let service = at(Place::Address(address(SERVICE)), 80);
    let set = [service, at(Place::Hosts { v6: false }, 30080)].map(|frontend| (frontend, backends(behind)));
    let frontends = FrontendChange {
        set: set.to_vec(),
        hosts: Some([HOST, OTHER_HOST].map(address).into()),
        own: Some([HOST].map(address).into()),
        mixed: Some(mixed),
        ..FrontendChange::default()
    };
    let wires = vec![WireRules { wire: WIRE, egress, ingress }];
    wire.publisher.change(&Change { whole: true, wires, frontends, ..Change::default() }).expect("it compiles");
}

/// Allows TCP to port 8080 of one address.
fn to_backend(peer: &str) -> Policy {
    allow(&[peer], Some((Protocol::TCP, 8080)))
}

fn syn(wire: &Harness, to: &str, source_port: u16, port: u16) -> SentFrame {
    wire.from_pod(to).tcp(source_port, port, TcpFlags::SYN).build().into()
}

fn question(wire: &Harness) -> Question {
    wire.ask.question().expect("it is asked")
}

fn answer(wire: &mut Harness, question: &Question, finding: Finding) {
    wire.ask.answer(Answer { ticket: question.ticket, finding });
    wire.worker.housekeeping(wire.now);
}

fn dropped(wire: &Harness, direction: Direction, reason: DropReason) -> u64 {
    wire.stats.direction(direction).dropped(reason).get()
}

#[test]
fn a_service_is_judged_by_its_endpoints_and_never_by_its_address() {
    let mut wire = Harness::pod();
    let ends = ["10.244.1.1", "10.244.1.2"];
    for (port, to) in [(80, SERVICE), (30080, HOST), (30080, OTHER_HOST)] {
        publish(&wire, to_backend("10.244.1.0/24"), Policy::Open, &ends, false);
        let frame = syn(&wire, to, 1000 + port, port);
        assert_eq!(wire.crosses(Egress, frame), Ok(()), "{to}: both endpoints are allowed");
        // The virtual address is allowed, its endpoints are not.
        publish(&wire, allow(&["10.96.0.0/16", "10.254.0.0/16"], None), Policy::Open, &ends, false);
        let frame = syn(&wire, to, 2000 + port, port);
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::ServiceDenied), "{to}");
        // Their address is allowed, not their port.
        publish(&wire, allow(&["10.244.1.0/24"], Some((Protocol::TCP, 80))), Policy::Open, &ends, false);
        let frame = syn(&wire, to, 3000 + port, port);
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::ServiceDenied), "{to}");
    }
    publish(&wire, to_backend("10.244.1.0/24"), Policy::Open, &[], false);
    let frame = syn(&wire, SERVICE, 4000, 80);
    assert_eq!(wire.crosses(Egress, frame), Ok(()), "without endpoints it is left to whoever rewrites to refuse it");
    for (to, port) in [(SERVICE, 81), ("10.96.0.11", 80), ("10.254.0.3", 30080), (HOST, 80)] {
        let frame = syn(&wire, to, 5000, port);
        assert_eq!(wire.crosses(Egress, frame), Err(DropReason::PolicyDenied), "{to}:{port} is no frontend");
    }
    publish(&wire, Policy::Open, Policy::Open, &ends, false);
    let frame = syn(&wire, SERVICE, 6000, 80);
    assert_eq!(wire.crosses(Egress, frame), Ok(()), "who is not isolated goes anywhere");
    assert!(wire.ask.question().is_none(), "nothing had to be asked");
}

#[test]
fn nobody_is_kept_from_itself() {
    let mut wire = Harness::pod();
    publish(&wire, allow(&[], None), Policy::Open, &[POD], false);
    let frame = syn(&wire, SERVICE, 1000, 80);
    assert_eq!(wire.crosses(Egress, frame), Ok(()));
}

#[test]
fn of_some_allowed_endpoints_the_one_that_is_reached_counts_or_else_what_was_set() {
    let mut wire = Harness::pod();
    for (mixed, port) in [(false, 1000), (true, 2000)] {
        publish(&wire, to_backend("10.244.1.1/32"), Policy::Open, &["10.244.1.1", "10.244.1.2"], mixed);
        for (number, reached) in ["10.244.1.1", "10.244.1.2"].into_iter().enumerate() {
            let frame = syn(&wire, SERVICE, port + number as u16, 80);
            assert!(wire.sends(frame).is_empty(), "it waits");
            let asked = question(&wire);
            assert_eq!(asked.kind, asked::BACKEND);
            let reached = Tuple { destination: address(reached), destination_port: 8080, ..asked.tuple };
            answer(&mut wire, &asked, Finding::JudgeAs(reached));
            assert_eq!(wire.outside.drain().len(), 1 - number);
        }
        let frame = syn(&wire, SERVICE, port + 9, 80);
        wire.sends(frame);
        let asked = question(&wire);
        answer(&mut wire, &asked, Finding::Unknown);
        assert_eq!(wire.outside.drain().len(), usize::from(mixed));
    }
    assert_eq!(dropped(&wire, Egress, DropReason::ServiceDenied), 2);
    assert_eq!(dropped(&wire, Egress, DropReason::ServiceMixed), 1);
}

#[test]
fn endpoints_that_come_and_go_cut_nothing_and_a_policy_cuts_by_the_one_that_was_reached() {
    let mut wire = Harness::pod();
    publish(&wire, to_backend("10.244.1.0/24"), Policy::Open, &["10.244.1.1", "10.244.1.2"], false);
    let frame = wire.from_pod(SERVICE).udp(1000, 80).build();
    let frontends = |behind: &[&str]| FrontendChange {
        set: vec![(Frontend { protocol: Protocol::UDP, ..at(Place::Address(address(SERVICE)), 80) }, backends(behind))],
        ..FrontendChange::default()
    };
    let tell = |wire: &Harness, behind: &[&str]| {
        wire.publisher.change(&Change { frontends: frontends(behind), ..Change::default() }).unwrap();
    };
    let udp = |peer: &str| {
        let egress = allow(&[peer], Some((Protocol::UDP, 8080)));
        Change { wires: vec![WireRules { wire: WIRE, egress, ingress: Policy::Open }], ..Change::default() }
    };
    wire.publisher.change(&udp("10.244.1.0/24")).unwrap();
    tell(&wire, &["10.244.1.1", "10.244.1.2"]);
    assert_eq!(wire.crosses(Egress, frame.clone()), Ok(()));
    for behind in [&["10.244.1.2"][..], &[], &["10.9.9.9"]] {
        tell(&wire, behind);
        assert_eq!(wire.crosses(Egress, frame.clone()), Ok(()), "endpoints {behind:?}");
    }
    assert!(wire.ask.question().is_none());
    // Another policy: the flow is asked about once, by a reply this time, and judged as its endpoint from then on.
    wire.publisher.change(&udp("10.244.1.1/32")).unwrap();
    let reply = wire.to_pod(SERVICE).udp(80, 1000).build();
    assert!(wire.receives(reply.clone()).is_empty());
    let asked = question(&wire);
    assert_eq!((asked.kind, asked.direction), (asked::BACKEND, Ingress));
    answer(&mut wire, &asked, Finding::Unknown);
    assert!(
        wire.inside.drain().is_empty(),
        "nobody knows whom it reaches, and no endpoint that there is may be reached"
    );
    assert_eq!(dropped(&wire, Ingress, DropReason::ServiceDenied), 1);
    assert_eq!(wire.crosses(Egress, frame), Err(DropReason::ServiceDenied));
}

#[test]
fn a_live_connection_to_a_service_is_judged_by_its_own_endpoint_once_that_is_known() {
    let mut wire = Harness::pod();
    publish(&wire, to_backend("10.244.1.0/24"), Policy::Open, &["10.244.1.1", "10.244.1.2"], false);
    let frame = syn(&wire, SERVICE, 1000, 80);
    assert_eq!(wire.crosses(Egress, frame.clone()), Ok(()));
    publish(&wire, to_backend("10.244.1.1/32"), Policy::Open, &["10.244.1.2"], false);
    assert!(wire.sends(frame.clone()).is_empty(), "it is asked, though no endpoint of now is allowed");
    let asked = question(&wire);
    let reached = Tuple { destination: address("10.244.1.1"), destination_port: 8080, ..asked.tuple };
    answer(&mut wire, &asked, Finding::JudgeAs(reached));
    assert_eq!(wire.outside.drain().len(), 1, "its own endpoint is allowed still");
    publish(&wire, to_backend("10.244.1.0/30"), Policy::Open, &[], false);
    assert_eq!(wire.crosses(Egress, frame.clone()), Ok(()));
    assert!(wire.ask.question().is_none(), "it is not asked twice");
    publish(&wire, to_backend("10.244.1.2/32"), Policy::Open, &["10.244.1.2"], false);
    assert_eq!(wire.crosses(Egress, frame), Err(DropReason::PolicyDenied));
}

/// The pod's own node is asked about; else only one client is allowed.
fn from_node(client: &str) -> Policy {
    let ask = rule(4, Action::Ask(asked::CLIENT), &["10.254.0.1/32"], None);
    chain(vec![ask, rule(5, Action::Allow, &[client], None)], Action::Deny)
}

#[test]
fn the_node_passes_and_whom_it_hides_is_judged() {
    let mut wire = Harness::pod();
    let frame = |wire: &Harness, port| wire.to_pod(HOST).udp(port, 80).build();
    publish(&wire, Policy::Open, from_node("203.0.113.7/32"), &[], false);
    let as_source = |asked: &Question, text| Finding::JudgeAs(Tuple { source: address(text), ..asked.tuple });
    for (port, source, passes) in [(1, "203.0.113.7", 1), (2, "203.0.113.8", 0), (3, HOST, 1), (4, POD, 1)] {
        let frame = frame(&wire, port);
        wire.receives(frame);
        let asked = question(&wire);
        let finding = as_source(&asked, source);
        answer(&mut wire, &asked, finding);
        assert_eq!(wire.inside.drain().len(), passes, "{source}");
    }
    let frame_5 = frame(&wire, 5);
    wire.receives(frame_5);
    let asked = question(&wire);
    answer(&mut wire, &asked, Finding::Allow);
    assert_eq!(wire.inside.drain().len(), 1, "the node, told at once");
    let told = std::iter::from_fn(|| wire.events.take()).find_map(|event| match event {
        dataplane::event::Event::Dropped(dropped) => Some(dropped),
        _ => None,
    });
    let told = told.expect("the drop is told");
    assert_eq!((told.reason, told.judged_as), (DropReason::AskDenied, Some((address("203.0.113.8"), 80))));
    // Another policy: nobody is asked about again.
    publish(&wire, Policy::Open, from_node("198.51.100.0/24"), &[], false);
    for (port, passes) in [(1, false), (3, true), (4, true), (5, true)] {
        let frame = frame(&wire, port);
        assert_eq!(wire.crosses(Ingress, frame).is_ok(), passes, "port {port}");
    }
    assert!(wire.ask.question().is_none());
}

#[test]
fn what_cannot_be_found_out_is_dropped_and_cuts_nothing() {
    let mut wire = Harness::pod();
    let frame = wire.to_pod(HOST).udp(1, 80).build();
    publish(&wire, Policy::Open, allow(&["10.254.0.1/32"], None), &[], false);
    assert_eq!(wire.crosses(Ingress, frame.clone()), Ok(()));
    publish(&wire, Policy::Open, from_node("203.0.113.7/32"), &[], false);
    for _ in 0..2 {
        assert!(wire.receives(frame.clone()).is_empty());
        let asked = question(&wire);
        answer(&mut wire, &asked, Finding::Unknown);
        assert!(wire.inside.drain().is_empty());
    }
    assert_eq!(dropped(&wire, Ingress, DropReason::AskUnknown), 2);
    assert!(wire.receives(frame).is_empty());
    let asked = question(&wire);
    answer(&mut wire, &asked, Finding::Allow);
    assert_eq!(wire.inside.drain().len(), 1, "once it can be found out, the connection goes on");
}

#[test]
fn another_node_is_a_reason_of_its_own() {
    let mut wire = Harness::pod();
    publish(&wire, Policy::Open, from_node("203.0.113.7/32"), &[], false);
    let frame = wire.to_pod(OTHER_HOST).udp(1, 80).build();
    assert_eq!(wire.crosses(Ingress, frame), Err(DropReason::OtherNode));
    let frame = wire.to_pod("203.0.113.9").udp(1, 80).build();
    assert_eq!(wire.crosses(Ingress, frame), Err(DropReason::PolicyDenied));
    publish(&wire, Policy::Open, from_node("10.254.0.0/16"), &[], false);
    let frame = wire.to_pod(OTHER_HOST).udp(2, 80).build();
    assert_eq!(wire.crosses(Ingress, frame), Ok(()), "unless policy allows it");
}

#[test]
fn an_endpoint_that_leaves_a_group_is_no_longer_reached_through_its_service() {
    let mut wire = Harness::pod();
    let group = GroupId(7);
    let rule = Rule { peers: Peers::Group(group), ..rule(5, Action::Allow, &[], None) };
    publish(&wire, chain(vec![rule], Action::Deny), Policy::Open, &["10.244.1.1"], false);
    let member = |wire: &Harness, groups: &[GroupId]| {
        let members = vec![(address("10.244.1.1"), Arc::from(groups))];
        wire.publisher.change(&Change { members, ..Change::default() }).unwrap();
    };
    member(&wire, &[group]);
    let frame = syn(&wire, SERVICE, 1000, 80);
    assert_eq!(wire.crosses(Egress, frame), Ok(()));
    member(&wire, &[]);
    let reply = wire.to_pod(SERVICE).tcp(80, 1000, TcpFlags::SYN | TcpFlags::ACK).build();
    assert!(wire.receives(reply.clone()).is_empty());
    let asked = question(&wire);
    let reached = Tuple { destination: address("10.244.1.1"), destination_port: 8080, ..asked.tuple.reverse() };
    answer(&mut wire, &asked, Finding::JudgeAs(reached));
    assert_eq!(dropped(&wire, Ingress, DropReason::ServiceDenied), 1);
}
