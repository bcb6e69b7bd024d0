//! [`FlowState`].

/// Declares [`FlowState`] with its names in one place.
macro_rules! flow_states {
    ($($(#[$doc:meta])* $state:ident = $number:literal, $name:literal;)*) => {
        /// Where a flow is in its life. One number space for all protocols: it is kept in a region that outlives
        /// the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum FlowState { $($(#[$doc])* $state = $number,)* }

        impl FlowState {
            /// All of them.
            pub const ALL: &'static [FlowState] = &[$(FlowState::$state,)*];

            /// The name in listings.
            pub fn name(self) -> &'static str {
                match self { $(FlowState::$state => $name,)* }
            }

            /// The state of this number; `None` for a number that no state has.
            #[inline]
            pub fn from_number(number: u8) -> Option<FlowState> {
                match number { $($number => Some(FlowState::$state),)* _ => None }
            }
        }
    };
}

flow_states! {
    /// No flow.
    Free = 0, "free";
    /// TCP: the originator's SYN was seen.
    SynSent = 1, "syn_sent";
    /// TCP: both ends sent a SYN (simultaneous open).
    SynSent2 = 2, "syn_sent2";
    /// TCP: a SYN was acknowledged with a SYN.
    SynReceived = 3, "syn_received";
    /// TCP: the handshake is over.
    Established = 4, "established";
    /// TCP: one end sent FIN.
    FinWait = 5, "fin_wait";
    /// TCP: one end's FIN is acknowledged; the other may still send.
    CloseWait = 6, "close_wait";
    /// TCP: both ends sent FIN.
    LastAck = 7, "last_ack";
    /// TCP: both FINs are acknowledged.
    TimeWait = 8, "time_wait";
    /// TCP: a reset was believed.
    Close = 9, "close";
    /// SCTP: INIT was seen.
    CookieWait = 10, "cookie_wait";
    /// SCTP: COOKIE ECHO was seen.
    CookieEchoed = 11, "cookie_echoed";
    /// SCTP: the handshake is over.
    Associated = 12, "associated";
    /// SCTP: the originator sent SHUTDOWN.
    ShutdownSent = 13, "shutdown_sent";
    /// SCTP: the other end sent SHUTDOWN.
    ShutdownReceived = 14, "shutdown_received";
    /// SCTP: SHUTDOWN ACK was seen.
    ShutdownAckSent = 15, "shutdown_ack_sent";
    /// SCTP: ABORT or SHUTDOWN COMPLETE was seen.
    Aborted = 16, "aborted";
    /// UDP, ICMP echo, others: no answer yet.
    Unreplied = 17, "unreplied";
    /// UDP, ICMP echo, others: answered.
    Replied = 18, "replied";
    /// UDP, ICMP echo, others: the originator went on after an answer.
    Stream = 19, "stream";
    /// Policy took its permission back; kept so that it stays cut.
    Cut = 20, "cut";
}
