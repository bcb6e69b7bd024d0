//! TCP: states, windows, timeouts.

use super::*;

#[test]
fn a_connection_from_syn_to_time_wait() {
    let mut wire = Wire::new(16);
    wire.out(client("S", 100, 0, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::SynSent), 120));
    wire.back(server("SA", 500, 101, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::SynReceived), 60));
    wire.out(client("A", 101, 501, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::Established), 432_000));
    wire.out(client("PA", 101, 501, 50)).unwrap();
    assert_eq!(wire.expires_in(), 300, "data that is not acknowledged");
    wire.back(server("A", 501, 151, 0)).unwrap();
    assert_eq!(wire.expires_in(), 432_000);
    wire.out(client("FA", 151, 501, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::FinWait), 120));
    wire.back(server("A", 501, 152, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::CloseWait), 60));
    // Half closed: the server goes on.
    wire.back(server("PA", 501, 152, 10)).unwrap();
    wire.out(client("A", 152, 511, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::CloseWait));
    wire.back(server("FA", 511, 152, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::LastAck), 30));
    wire.out(client("A", 152, 512, 0)).unwrap();
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::TimeWait), 120));
    wire.wait(120);
    assert_eq!(wire.tcp_state(), None);
    assert_eq!(wire.back(server("A", 512, 152, 0)), Err(DropReason::TcpNotSyn));
}

#[test]
fn both_ends_close_at_once() {
    let mut wire = Wire::connected();
    wire.out(client("FA", 101, 501, 0)).unwrap();
    wire.back(server("FA", 501, 101, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::LastAck));
    wire.out(client("A", 102, 502, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::LastAck), "one FIN is not acknowledged");
    // A repeated FIN changes nothing.
    wire.out(client("FA", 101, 502, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::LastAck));
    wire.back(server("A", 502, 102, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::TimeWait));
}

#[test]
fn both_ends_open_at_once() {
    let mut wire = Wire::new(16);
    wire.out(client("S", 100, 0, 0)).unwrap();
    assert_eq!(wire.back(server("S", 500, 0, 0)), Ok(Passed::Known));
    assert_eq!(wire.tcp_state(), Some(FlowState::SynSent2));
    assert_eq!(wire.out(client("SA", 100, 499, 0)), Err(DropReason::TcpOutOfWindow));
    wire.out(client("SA", 100, 501, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::SynReceived));
    wire.back(server("SA", 500, 101, 0)).unwrap();
    wire.out(client("PA", 101, 501, 5)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    wire.back(server("A", 501, 106, 0)).unwrap();
}

#[test]
fn the_handshake_must_answer_the_syn() {
    let mut wire = Wire::new(16);
    wire.out(client("S", 100, 0, 0)).unwrap();
    assert_eq!(wire.back(server("SA", 500, 100, 0)), Err(DropReason::TcpOutOfWindow));
    assert_eq!(wire.back(server("SA", 500, 102, 0)), Err(DropReason::TcpOutOfWindow));
    assert_eq!(wire.out(client("A", 101, 501, 0)), Err(DropReason::TcpState));
    assert_eq!(wire.back(server("PA", 501, 101, 5)), Err(DropReason::TcpState));
    wire.back(server("SA", 500, 101, 0)).unwrap();
    // Who did not see the SYN+ACK cannot finish.
    for guess in [500, 502, 0x8000_0000] {
        assert_eq!(wire.out(client("A", 101, guess, 0)), Err(DropReason::TcpOutOfWindow));
        assert_eq!(wire.tcp_state(), Some(FlowState::SynReceived));
    }
    // A SYN cookie of another minute, in answer to the SYN once more.
    wire.out(client("S", 100, 0, 0)).unwrap();
    wire.back(server("SA", 9000, 101, 0)).unwrap();
    assert_eq!(wire.out(client("A", 101, 501, 0)), Err(DropReason::TcpOutOfWindow));
    wire.out(client("A", 101, 9001, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
}

#[test]
fn nothing_but_a_syn_opens() {
    let mut wire = Wire::new(16);
    for flags in ["A", "SA", "FA", "R", "RA", "PA"] {
        assert_eq!(wire.out(client(flags, 100, 500, 0)), Err(DropReason::TcpNotSyn), "{flags}");
    }
    assert!(wire.table.is_empty());
}

#[test]
fn the_window_holds_both_ways() {
    let mut wire = Wire::connected();
    // The server offered 1,000 bytes from 101.
    assert_eq!(wire.out(client("PA", 1102, 501, 10)), Err(DropReason::TcpOutOfWindow), "beyond the right edge");
    wire.out(client("PA", 101, 501, 500)).unwrap();
    wire.out(client("PA", 601, 501, 500)).unwrap();
    wire.out(client("PA", 101, 501, 500)).unwrap(); // Sent again.
    assert_eq!(wire.out(client("PA", 4_294_967_000, 501, 10)), Err(DropReason::TcpOutOfWindow), "long gone");
    assert_eq!(wire.back(server("A", 501, 1102, 0)), Err(DropReason::TcpOutOfWindow), "acknowledges what was not sent");
    assert_eq!(wire.out(client("A", 1101, 502, 0)), Err(DropReason::TcpOutOfWindow), "acknowledges what was not sent");
    assert_eq!(wire.out(client("A", 1101, 501u32.wrapping_sub(70_000), 0)), Err(DropReason::TcpOutOfWindow));
    wire.back(server("A", 501, 1101, 0)).unwrap();
    wire.out(client("PA", 1101, 501, 10)).unwrap();
    assert_eq!(wire.out(client("P", 1111, 501, 10)), Err(DropReason::TcpState), "no ACK");
}

#[test]
fn zero_windows_and_idle_connections_are_probed() {
    let mut wire = Wire::connected();
    wire.out(client("PA", 101, 501, 1000)).unwrap();
    wire.back(with(server("A", 501, 1101, 0), |tcp| tcp.window = 0)).unwrap();
    wire.out(client("PA", 1101, 501, 1)).unwrap(); // A byte beyond the edge: the probe.
    assert_eq!(wire.out(client("PA", 1102, 501, 1)), Err(DropReason::TcpOutOfWindow));
    wire.back(with(server("A", 501, 1101, 0), |tcp| tcp.window = 0)).unwrap();
    wire.back(server("A", 501, 1102, 0)).unwrap();
    // Keep-alives: the last byte once more, or nothing before the next.
    wire.wait(7200);
    assert_eq!(wire.out(client("A", 1101, 501, 0)), Ok(Passed::Known));
    assert_eq!(wire.out(client("A", 1101, 501, 1)), Ok(Passed::Known));
    assert_eq!(wire.back(server("A", 501, 1102, 0)), Ok(Passed::Known));
    assert_eq!(wire.expires_in(), 432_000);
}

#[test]
fn retransmissions_without_an_answer_shorten_the_wait() {
    let mut wire = Wire::connected();
    for _ in 0..4 {
        wire.out(client("PA", 101, 501, 10)).unwrap();
    }
    assert_eq!(wire.expires_in(), 300);
    wire.back(server("A", 501, 111, 0)).unwrap();
    assert_eq!(wire.expires_in(), 432_000);
}

#[test]
fn windows_are_scaled_if_both_ends_say_so() {
    let handshake = |client_scale, server_scale| {
        let mut wire = Wire::new(16);
        wire.out(with(client("S", 100, 0, 0), |tcp| tcp.window_scale = client_scale)).unwrap();
        wire.back(with(server("SA", 500, 101, 0), |tcp| tcp.window_scale = server_scale)).unwrap();
        wire.out(client("A", 101, 501, 0)).unwrap();
        wire.back(server("A", 501, 101, 0)).unwrap();
        wire
    };
    let mut wire = handshake(Some(2), Some(7));
    assert_eq!(wire.out(client("PA", 101 + 128_001, 501, 1)), Err(DropReason::TcpOutOfWindow));
    wire.out(client("PA", 101, 501, 65_000)).unwrap(); // A super-frame.
    wire.out(client("PA", 65_101, 501, 63_000)).unwrap();
    wire.back(server("A", 501, 128_101, 0)).unwrap();
    assert_eq!(wire.back(server("PA", 501 + 4_001, 128_101, 1)), Err(DropReason::TcpOutOfWindow));
    wire.back(server("PA", 501, 128_101, 4_000)).unwrap();

    for (client_scale, server_scale) in [(None, Some(7)), (Some(7), None), (None, None)] {
        let mut wire = handshake(client_scale, server_scale);
        assert_eq!(wire.out(client("PA", 1_102, 501, 1)), Err(DropReason::TcpOutOfWindow));
        assert_eq!(wire.back(server("PA", 1_502, 101, 1)), Err(DropReason::TcpOutOfWindow));
        wire.out(client("PA", 1_100, 501, 1)).unwrap();
    }
}

#[test]
fn the_window_of_a_syn_is_in_bytes() {
    let mut wire = Wire::new(16);
    wire.out(with(client("S", 100, 0, 0), |tcp| (tcp.window, tcp.window_scale) = (64_000, Some(8)))).unwrap();
    wire.back(with(server("SA", 500, 101, 0), |tcp| (tcp.window, tcp.window_scale) = (64_000, Some(8)))).unwrap();
    wire.out(with(client("A", 101, 501, 0), |tcp| tcp.window = 250)).unwrap();
    assert_eq!(wire.out(client("PA", 101 + 64_257, 501, 1)), Err(DropReason::TcpOutOfWindow));
    wire.out(client("PA", 101 + 63_999, 501, 1)).unwrap();
}

#[test]
fn selective_acknowledgements_count_as_acknowledgements() {
    let mut wire = Wire::connected();
    wire.out(client("PA", 101, 501, 400)).unwrap();
    wire.back(with(server("A", 501, 101, 0), |tcp| tcp.sack = Some(501))).unwrap();
    let beyond = with(server("A", 501, 101, 0), |tcp| tcp.sack = Some(502));
    assert_eq!(wire.back(beyond), Err(DropReason::TcpOutOfWindow));
    // A duplicate that is reported (RFC 2883) lies below.
    wire.back(with(server("A", 501, 501, 0), |tcp| tcp.sack = Some(200))).unwrap();
}

#[test]
fn sequence_numbers_wrap() {
    let mut wire = Wire::new(16);
    let start = u32::MAX - 5;
    wire.out(client("S", start, 0, 0)).unwrap();
    wire.back(server("SA", u32::MAX, start.wrapping_add(1), 0)).unwrap();
    wire.out(client("A", start.wrapping_add(1), 0, 0)).unwrap();
    wire.out(client("PA", start.wrapping_add(1), 0, 100)).unwrap();
    wire.back(server("PA", 0, start.wrapping_add(101), 100)).unwrap();
    wire.out(client("A", start.wrapping_add(101), 100, 0)).unwrap();
    assert_eq!(wire.back(server("PA", 1101, start.wrapping_add(101), 1)), Err(DropReason::TcpOutOfWindow));
}

#[test]
fn data_may_come_with_the_syn() {
    let mut wire = Wire::new(16);
    wire.out(client("S", 100, 0, 300)).unwrap();
    wire.back(server("SA", 500, 401, 0)).unwrap();
    wire.out(client("A", 401, 501, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    // A server that does not take it acknowledges the SYN alone.
    let mut wire = Wire::new(16);
    wire.out(client("S", 100, 0, 300)).unwrap();
    wire.back(server("SA", 500, 101, 0)).unwrap();
    wire.out(client("PA", 101, 501, 300)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
}

#[test]
fn after_fin_nothing_new_is_sent() {
    let mut wire = Wire::connected();
    wire.out(client("FA", 101, 501, 0)).unwrap();
    assert_eq!(wire.out(client("PA", 102, 501, 5)), Err(DropReason::TcpState));
    wire.out(client("FA", 101, 501, 0)).unwrap();
}

#[test]
fn a_segment_in_fragments_is_longer_than_its_first() {
    let mut wire = Wire::connected();
    let mut first = client("PA", 101, 501, 100);
    first.fragment = Some(Fragment { id: 1, offset: 0, more: true, length: 120 });
    wire.out(first).unwrap();
    let mut later = first;
    later.fragment = Some(Fragment { id: 1, offset: 120, more: false, length: 300 });
    later.transport = Transport::Fragment;
    let crossing = wire.crossing(Direction::Egress);
    let (flow, origin) = wire.table.find(&crossing, &first.tuple()).unwrap();
    assert_eq!(wire.table.track(flow, origin, &later, &crossing), Ok(Tracked::Continue));
    wire.back(server("A", 501, 501, 0)).unwrap();
    wire.out(client("PA", 501, 501, 10)).unwrap();
    assert_eq!(wire.back(server("A", 501, 511 + 65_536, 0)), Err(DropReason::TcpOutOfWindow));
}

#[test]
fn mid_stream_is_refused_unless_allowed_for_a_time() {
    let config =
        FlowConfig { hash_key: KEY, mid_stream: MidStream::Until(Time(5_000_000_000)), ..FlowConfig::default() };
    let mut wire = Wire::with(16, config);
    assert_eq!(wire.out(client("R", 900, 0, 0)), Err(DropReason::TcpNotSyn));
    assert_eq!(wire.back(server("SA", 900, 100, 0)), Err(DropReason::TcpNotSyn));
    assert_eq!(wire.out(client("PA", 1000, 7000, 100)), Ok(Passed::New));
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::Established), 300));
    let (flow, _) = wire.find(Direction::Egress, &client("A", 0, 0, 0)).unwrap();
    assert!(wire.table.entry(flow).is_evictable(), "nobody has answered yet");
    wire.back(server("PA", 7000, 1100, 500)).unwrap();
    assert!(!wire.table.entry(flow).is_evictable());
    wire.out(client("A", 1100, 7500, 0)).unwrap();
    assert_eq!(wire.back(server("A", 7500, 1101, 0)), Err(DropReason::TcpOutOfWindow));
    wire.wait(5);
    let other = segment((ip("10.0.0.1"), 1), (ip("10.0.0.2"), 2), "PA", (1, 1), 1);
    assert_eq!(wire.out(other), Err(DropReason::TcpNotSyn), "the time is over");
}

#[test]
fn over_is_over_and_a_syn_opens_anew() {
    let mut wire = Wire::connected();
    wire.out(client("FA", 101, 501, 0)).unwrap();
    wire.back(server("FA", 501, 102, 0)).unwrap();
    wire.out(client("A", 102, 502, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::TimeWait));
    assert_eq!(wire.out(client("S", 9000, 0, 0)), Ok(Passed::Reopened));
    assert_eq!((wire.tcp_state(), wire.table.len()), (Some(FlowState::SynSent), 1));
    // The server is still in TIME-WAIT and says where it stands; the client resets that, and tries again.
    wire.back(server("A", 502, 102, 0)).unwrap();
    assert_eq!(wire.out(client("R", 103, 0, 0)), Err(DropReason::TcpResetInvalid));
    wire.out(client("R", 102, 0, 0)).unwrap();
    assert_eq!(wire.out(client("S", 9000, 0, 0)), Ok(Passed::Reopened));
    wire.back(server("SA", 700, 9001, 0)).unwrap();
}

#[test]
fn an_end_that_has_forgotten_the_connection_gets_a_new_one() {
    // The server restarted; the client, too, and uses the same port.
    let mut wire = Wire::connected();
    wire.wait(1000);
    assert_eq!(wire.out(client("S", 77_000, 0, 0)), Ok(Passed::Known), "the server has to answer");
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
    let guess = server("SA", 1_000_000, 77_002, 0);
    assert_eq!(wire.back(guess), Err(DropReason::TcpOutOfWindow));
    assert_eq!(wire.tcp_state(), Some(FlowState::Established), "a guess changes nothing");
    assert_eq!(wire.back(server("SA", 1_000_000, 77_001, 0)), Err(DropReason::TcpState));
    assert_eq!((wire.tcp_state(), wire.expires_in()), (Some(FlowState::Close), 10));
    assert_eq!(wire.out(client("S", 77_000, 0, 0)), Ok(Passed::Reopened));
    wire.back(server("SA", 1_000_000, 77_001, 0)).unwrap();
    wire.out(client("A", 77_001, 1_000_001, 0)).unwrap();
    assert_eq!(wire.tcp_state(), Some(FlowState::Established));
}
