//! Rules that look at connections, as gateways have them: states, flags, limits, rejections, counters.

mod support;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::event::Event;
use dataplane::flow::{FlowConfig, MidStream};
use dataplane::frame::VlanTag;
use dataplane::packet::Direction::{self, Egress, Ingress};
use dataplane::packet::{Protocol, TcpFlags};
use dataplane::rules::list::{AddressRange, FlagMatch, ListRule, Ports, RuleList};
use dataplane::rules::stateful::{Course, CourseError, Limiter, RuleCounters, StatefulRules, Step};
use dataplane::rules::{Action, Policy, RejectWith, RuleId};
use dataplane::verdict::DropReason;
use dataplane::wire::Tracking;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use support::{Harness, POD, POD6};

const PEER: &str = "10.9.9.9";
const PEER6: &str = "fd09::9";
const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;

fn all(id: u32, action: Action) -> ListRule {
    ListRule::of_everything(action, RuleId(id))
}

/// A rule about a destination port.
fn to_port(id: u32, action: Action, protocol: Protocol, port: u16) -> ListRule {
    let protocol = Some(protocol);
    ListRule { protocol, destination_ports: Ports { first: port, last: port }, ..all(id, action) }
}

fn list(rules: &[ListRule], default: Action) -> Arc<RuleList> {
    Arc::new(RuleList::new(rules, default).expect("few rules"))
}

/// Rules of one direction, to be written down by state.
struct Rules {
    lists: [Arc<RuleList>; 4],
    courses: Vec<Course>,
    limiters: Vec<Arc<Limiter>>,
    counters: Option<Arc<RuleCounters>>,
}

impl Rules {
    /// As most gateways have them: these for new connections; what belongs to known ones passes (rule 90), what fits none does not.
    fn usual(new: &[ListRule]) -> Rules {
        let (open, closed) = (list(&[all(90, Action::Allow)], Action::Deny), list(&[], Action::Deny));
        let new = list(new, Action::Deny);
        let lists = [new, open.clone(), open, closed];
        Rules { lists, courses: Vec::new(), limiters: Vec::new(), counters: None }
    }

    /// The same list for all states: rules that do not look at them.
    fn stateless(rules: &[ListRule]) -> Rules {
        let list = list(rules, Action::Deny);
        Rules { lists: [(); 4].map(|()| list.clone()), ..Rules::usual(&[]) }
    }

    fn policy(&self) -> Policy {
        let (courses, limiters) = (self.courses.clone().into(), self.limiters.clone().into());
        let rules = StatefulRules::new(self.lists.clone(), courses, limiters, self.counters.clone());
        Policy::Stateful(Arc::new(rules.expect("courses that lead somewhere")))
    }
}

/// A gateway's wire, with a trace, which makes every frame go the long way, or without.
fn gateway(traces: bool) -> Harness {
    let config = FlowConfig { mid_stream: MidStream::Always, ..FlowConfig::default() };
    Harness::traced(None, config, 1024, Tracking::Stateful, traces)
}

fn both(wire: &Harness, rules: &Rules) {
    wire.policy(rules.policy(), rules.policy());
}

fn connect(wire: &mut Harness, port: u16) {
    let syn = wire.from_pod(PEER).tcp(port, 80, TcpFlags::SYN).window(65_000).build();
    let syn_ack = wire.to_pod(PEER).tcp(80, port, SYN_ACK).sequence(9).acknowledgement(1).window(65_000).build();
    assert_eq!(wire.crosses(Egress, syn), Ok(()));
    assert_eq!(wire.crosses(Ingress, syn_ack), Ok(()));
    let ack = segment(wire, port, TcpFlags::ACK);
    assert_eq!(wire.crosses(Egress, ack), Ok(()));
}

fn segment(wire: &Harness, port: u16, flags: u8) -> Vec<u8> {
    wire.from_pod(PEER).tcp(port, 80, flags).sequence(1).acknowledgement(10).window(65_000).build()
}

#[test]
fn connections_that_rules_open_go_on_both_ways() {
    for traces in [true, false] {
        let mut wire = gateway(traces);
        let rules =
            Rules::usual(&[to_port(1, Action::Allow, Protocol::TCP, 80), to_port(2, Action::Allow, Protocol::UDP, 53)]);
        both(&wire, &rules);
        connect(&mut wire, 1000);
        let question = wire.from_pod(PEER).udp(1000, 53).build();
        let answer = wire.to_pod(PEER).udp(53, 1000).build();
        assert_eq!(wire.crosses(Ingress, answer.clone()), Err(DropReason::PolicyDenied), "nobody asked");
        assert_eq!(wire.crosses(Egress, question.clone()), Ok(()));
        assert_eq!(wire.crosses(Ingress, answer), Ok(()));
        assert_eq!(wire.crosses(Egress, question), Ok(()));
        let other = wire.from_pod(PEER).tcp(1000, 81, TcpFlags::SYN).build();
        assert_eq!(wire.crosses(Egress, other), Err(DropReason::PolicyDenied));
    }
}

#[test]
fn rules_may_judge_every_packet_of_a_connection() {
    for traces in [true, false] {
        let mut wire = gateway(traces);
        // No rule looks at states: what goes back has to be allowed, too.
        let back = ListRule { source_ports: Ports { first: 80, last: 80 }, ..all(2, Action::Allow) };
        let pushed = ListRule {
            protocol: Some(Protocol::TCP),
            flags: FlagMatch { value: TcpFlags::PSH, mask: TcpFlags::PSH },
            ..all(3, Action::Deny)
        };
        let rules = Rules::stateless(&[pushed, to_port(1, Action::Allow, Protocol::TCP, 80), back]);
        both(&wire, &rules);
        connect(&mut wire, 1000);
        for _ in 0..2 {
            let ack = segment(&wire, 1000, TcpFlags::ACK);
            assert_eq!(wire.crosses(Egress, ack), Ok(()));
            let pushed = segment(&wire, 1000, TcpFlags::ACK | TcpFlags::PSH);
            assert_eq!(wire.crosses(Egress, pushed), Err(DropReason::PolicyDenied));
        }
        let one_way = Rules::stateless(&[to_port(1, Action::Allow, Protocol::TCP, 80)]);
        wire.policy(one_way.policy(), one_way.policy());
        let ack = segment(&wire, 1000, TcpFlags::ACK);
        assert_eq!(wire.crosses(Egress, ack), Ok(()));
        let back =
            wire.to_pod(PEER).tcp(80, 1000, TcpFlags::ACK).sequence(10).acknowledgement(1).window(65_000).build();
        assert_eq!(wire.crosses(Ingress, back), Err(DropReason::PolicyDenied), "what answers is no exception");
    }
}

#[test]
fn what_fits_no_connection_passes_only_if_rules_say_so() {
    let mut wire = gateway(true);
    let rules = Rules::usual(&[all(1, Action::Allow)]);
    both(&wire, &rules);
    let reset = wire.from_pod(PEER).tcp(1000, 80, TcpFlags::RST).build();
    let reply = wire.from_pod(PEER).echo_reply(1, 1).build();
    let quoted = wire.to_pod(PEER).udp(5, 6).build()[14..].to_vec();
    let error = wire.from_pod(PEER).port_unreachable(&quoted).build();
    assert_eq!(wire.crosses(Egress, reset.clone()), Err(DropReason::TcpNotSyn));
    assert_eq!(wire.crosses(Egress, reply.clone()), Err(DropReason::IcmpReplyUnasked));
    assert_eq!(wire.crosses(Egress, error.clone()), Err(DropReason::IcmpUnrelated));
    let open = Rules::stateless(&[all(1, Action::Allow)]);
    both(&wire, &open);
    for frame in [reset, reply, error] {
        assert_eq!(wire.crosses(Egress, frame), Ok(()));
    }
    assert!(wire.worker.flows().is_empty(), "nothing is kept of it");
    // In the middle of a connection, by contrast: it is new to the rules, as it is to the kernel.
    both(&wire, &rules);
    let ack = segment(&wire, 1000, TcpFlags::ACK);
    assert_eq!(wire.crosses(Egress, ack), Ok(()));
    let end = segment(&wire, 1001, TcpFlags::ACK | TcpFlags::FIN);
    assert_eq!(wire.crosses(Egress, end), Err(DropReason::TcpNotSyn));
}

#[test]
fn errors_about_connections_are_a_state_of_their_own() {
    let mut wire = gateway(true);
    let mut rules = Rules::usual(&[to_port(1, Action::Allow, Protocol::UDP, 53)]);
    both(&wire, &rules);
    let question = wire.from_pod(PEER).udp(1000, 53).build();
    assert_eq!(wire.crosses(Egress, question.clone()), Ok(()));
    let error = wire.to_pod(PEER).port_unreachable(&question[14..]).build();
    assert_eq!(wire.crosses(Ingress, error.clone()), Ok(()));
    rules.lists[2] = list(&[], Action::Deny);
    both(&wire, &rules);
    assert_eq!(wire.crosses(Ingress, error), Err(DropReason::PolicyDenied));
}

#[test]
fn new_rules_cut_and_renew() {
    let mut wire = gateway(false);
    both(&wire, &Rules::usual(&[to_port(1, Action::Allow, Protocol::TCP, 80)]));
    connect(&mut wire, 1000);
    connect(&mut wire, 1001);
    both(&wire, &Rules::usual(&[all(1, Action::Allow)]));
    let ack = segment(&wire, 1000, TcpFlags::ACK);
    assert_eq!(wire.crosses(Egress, ack), Ok(()));
    both(&wire, &Rules::usual(&[to_port(1, Action::Reject(RejectWith::TcpReset), Protocol::TCP, 80)]));
    let ack = segment(&wire, 1001, TcpFlags::ACK);
    assert_eq!(wire.crosses(Egress, ack.clone()), Err(DropReason::PolicyRejected));
    assert_eq!(wire.inside.drain().len(), 1, "the sender of what is cut is told");
    both(&wire, &Rules::usual(&[all(1, Action::Allow)]));
    assert_eq!(wire.crosses(Egress, ack), Err(DropReason::FlowCut));
}

#[test]
fn courses_count_log_and_limit() {
    for traces in [true, false] {
        let mut wire = gateway(traces);
        let mut rules = Rules::usual(&[ListRule { protocol: Some(Protocol::UDP), ..all(0, Action::Course) }]);
        let end = |action, rule| Step::End { action, rule: RuleId(rule) };
        let steps = vec![
            Step::Note { rule: RuleId(10), log: false },
            Step::Token { limiter: 0, otherwise: 4 },
            Step::Note { rule: RuleId(11), log: true },
            end(Action::Allow, 12),
            end(Action::Deny, 13),
        ];
        rules.courses = vec![Course::new(steps).unwrap()];
        rules.limiters = vec![Arc::new(Limiter::new(Duration::from_secs(10), 2))];
        let counters = Arc::new(RuleCounters::new(1, 100));
        rules.counters = Some(counters.clone());
        both(&wire, &rules);
        let length = wire.from_pod(PEER).udp(1, 53).build().len() as u64;
        let send = |port: u16, wire: &mut Harness| {
            let frame = wire.from_pod(PEER).udp(port, 53).build();
            wire.crosses(Egress, frame)
        };
        // Packets of a flow that has not been answered take tokens, each for itself, as in iptables.
        assert_eq!(send(1, &mut wire), Ok(()));
        assert_eq!(send(1, &mut wire), Ok(()));
        assert_eq!(send(1, &mut wire), Err(DropReason::PolicyDenied));
        assert_eq!(send(2, &mut wire), Err(DropReason::PolicyDenied));
        wire.pass(Duration::from_secs(10));
        assert_eq!(send(2, &mut wire), Ok(()));
        assert_eq!(send(2, &mut wire), Err(DropReason::PolicyDenied));
        let hits = |rule| (counters.hits(RuleId(rule)).packets, counters.hits(RuleId(rule)).bytes);
        assert_eq!([hits(10), hits(11), hits(12), hits(13)].map(|(packets, _)| packets), [6, 3, 3, 3]);
        assert_eq!(hits(12).1, 3 * length);
        assert_eq!(counters.hits(RuleId(12)).last, Some(wire.now));
        assert_eq!(counters.hits(RuleId(14)).last, None);
        let answer = wire.to_pod(PEER).udp(53, 2).build();
        assert_eq!(wire.crosses(Ingress, answer), Ok(()));
        assert_eq!(send(2, &mut wire), Ok(()), "an answered flow takes none");
        assert_eq!(hits(90).0, 2, "the rule by which answered connections pass");
        let logged = std::iter::from_fn(|| wire.events.take()).filter_map(|event| match event {
            Event::Logged(logged) => logged.rule,
            _ => None,
        });
        assert_eq!(logged.collect::<Vec<_>>(), [RuleId(11); 3]);
    }
    assert_eq!(Course::new(vec![]), Err(CourseError::Step(0)));
    let back = Step::Token { limiter: 0, otherwise: 0 };
    let end = Step::End { action: Action::Deny, rule: RuleId(0) };
    assert_eq!(Course::new(vec![back, end]), Err(CourseError::Step(0)));
    let lost = Course::new(vec![Step::Token { limiter: 0, otherwise: 1 }, end]).unwrap();
    let lists = [(); 4].map(|()| list(&[], Action::Deny));
    let refused = StatefulRules::new(lists, [lost].into(), [].into(), None);
    assert_eq!(refused.err(), Some(CourseError::Limiter(0)));
}

/// The packet in a frame that came back: addresses, time to live and what is above, with its checksums right.
fn told(bytes: &[u8]) -> (String, String, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a packet");
    let (from, to, payload) = match packet.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (IpAddr::from(header.source), IpAddr::from(header.destination), ip.payload().payload.to_vec())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), ip.payload().payload.to_vec())
        }
        NetSlice::Arp(_) => panic!("not ARP"),
    };
    match (packet.transport, from, to) {
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V4(from), IpAddr::V4(to)) => {
            assert_eq!(tcp.calc_checksum_ipv4(from.octets(), to.octets()).unwrap(), tcp.checksum());
        }
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            assert_eq!(tcp.calc_checksum_ipv6(from.octets(), to.octets()).unwrap(), tcp.checksum());
        }
        (Some(TransportSlice::Icmpv4(icmp)), ..) => {
            assert!(icmp.header().checksum == icmp.icmp_type().calc_checksum(icmp.payload()))
        }
        (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
        }
        other => panic!("{other:?}"),
    }
    (from.to_string(), to.to_string(), payload)
}

fn rejected(wire: &mut Harness, frame: Vec<u8>) -> Option<Vec<u8>> {
    assert_eq!(wire.crosses(Egress, frame), Err(DropReason::PolicyRejected));
    let mut back = wire.inside.drain();
    assert!(back.len() <= 1);
    back.pop().map(|frame| frame.bytes)
}

#[test]
fn senders_are_told() {
    let mut wire = gateway(true);
    let icmp = |kind, code| Action::Reject(RejectWith::Icmp { kind, code });
    let v6 = ListRule { source: "::/0".parse::<ipnet::IpNet>().unwrap().into(), ..all(3, icmp(1, 1)) };
    let reset = ListRule { protocol: Some(Protocol::TCP), ..all(1, Action::Reject(RejectWith::TcpReset)) };
    let v4 = ListRule { source: AddressRange::ANY_V4, destination: AddressRange::ANY_V4, ..all(2, icmp(3, 13)) };
    both(&wire, &Rules::stateless(&[reset, v4, v6]));
    for (own, peer) in [(POD, PEER), (POD6, PEER6)] {
        let syn = wire.from_pod(peer).tcp(1000, 80, TcpFlags::SYN).sequence(41).build();
        let back = rejected(&mut wire, syn.clone()).expect("a reset");
        assert_eq!((&back[..6], &back[6..12]), (&syn[6..12], &syn[..6]), "it goes to where it came from");
        let (from, to, payload) = told(&back);
        assert_eq!((from.as_str(), to.as_str()), (peer, own));
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        assert_eq!((&payload[..4], number(4), number(8)), (&[0, 80, 3, 232][..], 0, 42));
        assert_eq!(payload[13], TcpFlags::RST | TcpFlags::ACK);
        let ack = wire.from_pod(peer).tcp(1000, 80, TcpFlags::ACK).sequence(7).acknowledgement(99).build();
        let (_, _, payload) = told(&rejected(&mut wire, ack).expect("a reset"));
        assert_eq!((u32::from_be_bytes(payload[4..8].try_into().unwrap()), payload[13]), (99, TcpFlags::RST));
        let is_reset = wire.from_pod(peer).tcp(1000, 80, TcpFlags::RST).build();
        assert_eq!(rejected(&mut wire, is_reset), None, "resets are not answered");
        let datagram = wire.from_pod(peer).udp(1000, 80).payload(&[7; 1400]).build();
        let (from, to, payload) = told(&rejected(&mut wire, datagram.clone()).expect("an error"));
        assert_eq!((from.as_str(), to.as_str()), (peer, own));
        let (kind, longest) = if own == POD { ([3, 13], 576 - 20) } else { ([1, 1], 1280 - 40) };
        assert_eq!((&payload[..2], payload.len()), (&kind[..], longest));
        assert_eq!(payload[8..], datagram[14..14 + longest - 8], "it quotes what it is about");
        let error = wire.from_pod(peer).port_unreachable(&wire.to_pod(peer).udp(1, 2).build()[14..]).build();
        assert_eq!(rejected(&mut wire, error), None, "errors are not answered");
    }
    let group = wire.from_pod("239.1.2.3").udp(1, 2).build();
    assert_eq!(rejected(&mut wire, group), None, "groups do not answer");
    let tag = VlanTag { protocol: 0x8100, control: 5 };
    let tagged = wire.from_pod(PEER).vlan(tag).tcp(1, 2, TcpFlags::SYN).build();
    let back = rejected(&mut wire, tagged).expect("a reset");
    assert_eq!(back[12..16], [0x81, 0x00, 0, 5], "with the tag that it came with");
    told(&back);
}

#[test]
fn errors_are_told_so_many_times_a_second() {
    let mut wire = gateway(true);
    both(&wire, &Rules::stateless(&[all(1, Action::Reject(RejectWith::Icmp { kind: 3, code: 3 }))]));
    let frame = wire.from_pod(PEER).udp(1, 2).build();
    let count = |wire: &mut Harness| (0..200).filter(|_| rejected(wire, frame.clone()).is_some()).count();
    assert_eq!(count(&mut wire), 50);
    wire.pass(Duration::from_millis(20));
    assert_eq!(count(&mut wire), 20);
}

/// The direction of a frame is that of its rules.
#[test]
fn directions_have_rules_of_their_own() {
    let mut wire = gateway(false);
    let (out, back) = (Rules::usual(&[all(1, Action::Allow)]), Rules::usual(&[]));
    wire.policy(out.policy(), back.policy());
    let send = |wire: &mut Harness, direction: Direction, port: u16| {
        let frame = if direction == Egress { wire.from_pod(PEER) } else { wire.to_pod(PEER) };
        let frame = frame.udp(port, port).build();
        wire.crosses(direction, frame)
    };
    assert_eq!(send(&mut wire, Ingress, 7), Err(DropReason::PolicyDenied));
    assert_eq!(send(&mut wire, Egress, 7), Ok(()));
    assert_eq!(send(&mut wire, Ingress, 7), Ok(()));
}
