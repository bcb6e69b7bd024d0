//! [`Timeouts`].

use super::{FlowEntry, FlowState};
use crate::packet::Protocol;

/// How long a flow lives without a frame, in seconds. The defaults are nf_conntrack's (its sysctl in the third column).
///
/// | field | default | `net.netfilter.nf_conntrack_` |
/// |---|---|---|
/// | `tcp_syn_sent` | 120 | `tcp_timeout_syn_sent` |
/// | `tcp_syn_received` | 60 | `tcp_timeout_syn_recv` |
/// | `tcp_established` | 432,000 | `tcp_timeout_established` |
/// | `tcp_fin_wait` | 120 | `tcp_timeout_fin_wait` |
/// | `tcp_close_wait` | 60 | `tcp_timeout_close_wait` |
/// | `tcp_last_ack` | 30 | `tcp_timeout_last_ack` |
/// | `tcp_time_wait` | 120 | `tcp_timeout_time_wait` |
/// | `tcp_close` | 10 | `tcp_timeout_close` |
/// | `tcp_retransmitting` | 300 | `tcp_timeout_max_retrans`, after 3 retransmissions without an answer |
/// | `tcp_unacknowledged` | 300 | `tcp_timeout_unacknowledged` |
/// | `udp` | 30 | `udp_timeout` |
/// | `udp_stream` | 120 | `udp_timeout_stream` |
/// | `icmp` | 30 | `icmp_timeout`, `icmpv6_timeout` |
/// | `generic` | 600 | `generic_timeout` |
/// | `sctp_cookie_wait` | 3 | `sctp_timeout_cookie_wait` |
/// | `sctp_cookie_echoed` | 3 | `sctp_timeout_cookie_echoed` |
/// | `sctp_established` | 210 | `sctp_timeout_established` |
/// | `sctp_shutdown` | 3 | `sctp_timeout_shutdown_{sent,recd,ack_sent}` |
/// | `sctp_closed` | 10 | `sctp_timeout_closed` |
/// | `cut` | 120 | none: how long a connection that policy cut is remembered as such |
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is a row of the table above")]
pub struct Timeouts {
    pub tcp_syn_sent: u32,
    pub tcp_syn_received: u32,
    pub tcp_established: u32,
    pub tcp_fin_wait: u32,
    pub tcp_close_wait: u32,
    pub tcp_last_ack: u32,
    pub tcp_time_wait: u32,
    pub tcp_close: u32,
    pub tcp_retransmitting: u32,
    pub tcp_unacknowledged: u32,
    pub udp: u32,
    pub udp_stream: u32,
    pub icmp: u32,
    pub generic: u32,
    pub sctp_cookie_wait: u32,
    pub sctp_cookie_echoed: u32,
    pub sctp_established: u32,
    pub sctp_shutdown: u32,
    pub sctp_closed: u32,
    pub cut: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_syn_sent: 120,
            tcp_syn_received: 60,
            tcp_established: 432_000,
            tcp_fin_wait: 120,
            tcp_close_wait: 60,
            tcp_last_ack: 30,
            tcp_time_wait: 120,
            tcp_close: 10,
            tcp_retransmitting: 300,
            tcp_unacknowledged: 300,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            generic: 600,
            sctp_cookie_wait: 3,
            sctp_cookie_echoed: 3,
            sctp_established: 210,
            sctp_shutdown: 3,
            sctp_closed: 10,
            cut: 120,
        }
    }
}

impl Timeouts {
    /// Seconds that a flow in this state may stay silent.
    #[inline]
    pub(super) fn of(&self, entry: &FlowEntry) -> u32 {
        match entry.state() {
            FlowState::Free => 0,
            FlowState::SynSent | FlowState::SynSent2 => self.tcp_syn_sent,
            FlowState::SynReceived => self.tcp_syn_received,
            FlowState::Established => self.tcp_open(entry, self.tcp_established),
            FlowState::FinWait => self.tcp_open(entry, self.tcp_fin_wait),
            FlowState::CloseWait => self.tcp_open(entry, self.tcp_close_wait),
            FlowState::LastAck => self.tcp_last_ack,
            FlowState::TimeWait => self.tcp_time_wait,
            FlowState::Close => self.tcp_close,
            FlowState::CookieWait => self.sctp_cookie_wait,
            FlowState::CookieEchoed => self.sctp_cookie_echoed,
            FlowState::Associated => self.sctp_established,
            FlowState::ShutdownSent | FlowState::ShutdownReceived | FlowState::ShutdownAckSent => self.sctp_shutdown,
            FlowState::Aborted => self.sctp_closed,
            FlowState::Unreplied | FlowState::Replied => self.datagram(entry.key().protocol(), self.udp),
            FlowState::Stream => self.datagram(entry.key().protocol(), self.udp_stream),
            FlowState::Cut => self.cut,
        }
    }

    /// Data that nobody acknowledges shortens the wait.
    #[inline]
    fn tcp_open(&self, entry: &FlowEntry, seconds: u32) -> u32 {
        if entry.is_retransmitting() {
            seconds.min(self.tcp_retransmitting)
        } else if entry.is_unacknowledged() {
            seconds.min(self.tcp_unacknowledged)
        } else {
            seconds
        }
    }

    #[inline]
    fn datagram(&self, protocol: Protocol, udp: u32) -> u32 {
        match protocol {
            Protocol::UDP => udp,
            Protocol::ICMP | Protocol::ICMPV6 => self.icmp,
            _ => self.generic,
        }
    }
}
