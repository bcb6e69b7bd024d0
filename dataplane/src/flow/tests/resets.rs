//! Resets, SYNs and data that an attacker sends blindly (RFC 5961), spoofed addresses, and connections that policy cut.

use super::*;

#[test]
fn an_exact_reset_is_believed() {
    for (end, reset) in [("server", server("R", 501, 0, 0)), ("client", client("RA", 101, 501, 0))] {
        let mut wire = Wire::connected();
        let passed = if end == "server" { wire.back(reset) } else { wire.out(reset) };
        assert_eq!(passed, Ok(Passed::Known), "{end}");
        assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::Close), 10));
        assert_eq!(wire.out(client("S", 5000, 0, 0)), Ok(Passed::Reopened));
    }
}

#[test]
fn a_reset_right_behind_data_that_is_under_way_is_exact() {
    let mut wire = Wire::connected();
    wire.back(server("PA", 501, 101, 200)).unwrap();
    wire.back(server("R", 701, 0, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Close));
}

#[test]
fn a_reset_within_the_window_is_left_to_the_endpoint() {
    let mut wire = Wire::connected();
    wire.back(server("R", 700, 0, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    // The endpoint's challenge, and the answer to it.
    wire.out(client("A", 101, 501, 0)).unwrap();
    wire.back(server("R", 501, 0, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Close));
}

#[test]
fn blind_resets_are_dropped() {
    let mut wire = Wire::connected();
    let mut passed = 0;
    // Numbers spread over the whole space, as a blind attacker tries them, one a window.
    for guess in (0..u32::MAX).step_by(16_411) {
        if guess == 501 {
            continue;
        }
        match wire.back(server("R", guess, 0, 0)) {
            Err(reason) => assert_eq!(reason, DropReason::TcpResetInvalid),
            Ok(_) => passed += 1,
        }
    }
    assert!(passed <= 1, "a window of 1,000 bytes was hit {passed} times");
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    wire.out(client("PA", 101, 501, 10)).unwrap();
}

#[test]
fn a_refused_connection_is_refused_by_who_saw_the_syn() {
    let mut wire = Wire::new(16);
    wire.out(client("S", 100, 0, 0)).unwrap();
    for guess in [100, 102, 0] {
        assert_eq!(wire.back(server("RA", 0, guess, 0)), Err(DropReason::TcpResetInvalid));
    }
    assert_eq!(wire.back(server("R", 0, 0, 0)), Err(DropReason::TcpResetInvalid), "without ACK it answers nothing");
    assert_eq!(wire.tcp_state(), Some(FlowState::SynSent));
    wire.back(server("RA", 0, 101, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Close));
    assert_eq!(wire.out(client("S", 100, 0, 0)), Ok(Passed::Reopened), "the next attempt");
}

#[test]
fn a_spoofed_syn_disturbs_nothing() {
    let mut wire = Wire::connected();
    wire.wait(100);
    let before = wire.expires_in();
    assert_eq!(wire.out(client("S", 123_456, 0, 0)), Ok(Passed::Known), "the endpoint challenges it");
    assert_eq!(wire.back(server("S", 123_456, 0, 0)), Err(DropReason::TcpState));
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::Established), before));
    wire.out(client("PA", 101, 501, 10)).unwrap();
    wire.back(server("PA", 501, 111, 10)).unwrap();
}

#[test]
fn blind_data_is_dropped_and_moves_no_window() {
    let mut wire = Wire::connected();
    let mut passed = 0;
    for guess in (0..u32::MAX).step_by(16_411) {
        // Also guesses what the client has acknowledged: one number, far from the truth.
        passed += u32::from(wire.back(server("PA", guess, guess ^ 0x5555_5555, 10)).is_ok());
    }
    assert_eq!(passed, 0);
    wire.out(client("PA", 101, 501, 1000)).unwrap();
    wire.back(server("PA", 501, 1101, 1000)).unwrap();
}

#[test]
fn an_inside_address_from_outside_is_no_part_of_its_flow() {
    let mut wire = Wire::connected();
    assert_eq!(wire.back(client("PA", 101, 501, 10)), Err(DropReason::TcpNotSyn));
    assert_eq!(wire.back(client("R", 101, 0, 0)), Err(DropReason::TcpNotSyn));
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
}

#[test]
fn what_policy_cut_stays_cut() {
    let mut wire = Wire::connected();
    let (flow, _) = wire.find(Direction::Egress, &client("A", 0, 0, 0)).unwrap();
    wire.table.cut(flow, wire.now);
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::Cut), 120));
    wire.wait(60);
    assert_eq!(wire.out(client("PA", 101, 501, 10)), Err(DropReason::FlowCut));
    assert_eq!(wire.back(server("PA", 501, 101, 10)), Err(DropReason::FlowCut));
    assert_eq!(wire.back(server("S", 900, 0, 0)), Err(DropReason::FlowCut), "not the originator");
    assert_eq!(wire.out(client("R", 101, 0, 0)), Err(DropReason::FlowCut));
    // Cut again by another epoch, and frames that are dropped, do not prolong it.
    wire.table.cut(flow, wire.now);
    assert_eq!(wire.expires_in(), 60);
    assert_eq!(wire.out(client("S", 3000, 0, 0)), Ok(Passed::Reopened));
    assert_eq!(wire.tcp_state(), Some(FlowState::SynSent));

    let (flow, _) = wire.find(Direction::Egress, &client("A", 0, 0, 0)).unwrap();
    wire.table.cut(flow, wire.now);
    wire.wait(120);
    assert_eq!(wire.out(client("A", 3001, 1, 0)), Err(DropReason::TcpNotSyn), "forgotten, and still refused");
}

#[test]
fn a_flow_remembers_what_it_was_judged_as() {
    let mut wire = Wire::connected();
    let (flow, origin) = wire.find(Direction::Ingress, &server("A", 0, 0, 0)).unwrap();
    assert_eq!(origin, Origin::Reply);
    let own = client("A", 0, 0, 0).tuple();
    assert_eq!(
        wire.table.judged(flow),
        Judged { direction: Direction::Egress, tuple: own, stands_for: false, epoch: Epoch(1) }
    );
    wire.table.set_epoch(flow, Epoch(5));
    wire.table.judge_as(flow, ip("10.9.9.9"), 8080).unwrap();
    let judged = wire.table.judged(flow);
    assert_eq!((judged.tuple.source, judged.tuple.source_port), (own.source, own.source_port));
    assert_eq!((judged.tuple.destination, judged.tuple.destination_port), (ip("10.9.9.9"), 8080));
    assert_eq!(judged.epoch, Epoch(5));
    // It is still found by what the frames show.
    wire.out(client("PA", 101, 501, 10)).unwrap();
    let info = wire.table.list(0, wire.now).next().unwrap().1;
    assert_eq!((info.tuple, info.judged_as), (own, Some(judged.tuple)));

    // Of a client that NAT hides, only the address is another.
    let mut wire = Wire::new(4);
    wire.back(client("S", 100, 0, 0)).unwrap();
    let (flow, _) = wire.find(Direction::Ingress, &client("S", 0, 0, 0)).unwrap();
    wire.table.judge_as(flow, ip("192.0.2.1"), 0).unwrap();
    let judged = wire.table.judged(flow);
    assert_eq!(judged.direction, Direction::Ingress);
    assert_eq!(judged.tuple, Tuple { source: ip("192.0.2.1"), ..own });
}
