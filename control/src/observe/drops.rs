//! The log of dropped frames: a JSON object a line, no more than a few a second, each saying how many were left out
//! before it.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::event::{Dropped, Logged};
use dataplane::packet::{Direction, Tuple};
use dataplane::time::Time;
use dataplane::verdict::DropReason;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

/// A token bucket: `per_second` lines a second in the long run, `burst` at once after a quiet time.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// Nanoseconds' worth of tokens: a line costs a second divided by `per_second`.
    credit: u64,
    at: Option<Time>,
}

impl TokenBucket {
    /// A full bucket. Without any line a second it never gives one out.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        TokenBucket { per_second, burst, credit: 0, at: None }
    }

    /// Takes a token, if there is one at this time.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        if self.per_second == 0 {
            return false;
        }
        let price = 1_000_000_000 / u64::from(self.per_second).min(1_000_000_000);
        let most = price.saturating_mul(u64::from(self.burst.max(1)));
        self.credit = match self.at {
            None => most,
            Some(at) => {
                let passed = u64::try_from(now.since(at).as_nanos()).unwrap_or(u64::MAX);
                self.credit.saturating_add(passed).min(most)
            }
        };
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let there = self.credit >= price;
        if there {
            self.credit -= price;
        }
        there
    }
}

/// What a line says beside the event itself: names that the engine does not know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// The wire's name.
    pub(crate) wire: String,
    /// The pod inside, as `namespace/name`.
    pub(crate) pod: Option<String>,
    /// The pod, or the node, that owns the far end's address.
    pub(crate) peer: Owner,
    /// The policies that isolate the pod in the direction that was judged.
    pub(crate) policies: Vec<String>,
    /// Who is behind the far end, if its address was, or will be, rewritten.
    pub(crate) behind: Option<Behind>,
    /// The gateway's rule that decided, or that wants the line.
    pub(crate) rule: Option<RuleName>,
}

/// A gateway's rule, as its lines name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleName {
    /// Its chain, its number there and its name; or the chain's policy.
    pub(crate) rule: String,
    /// What the rule wants its lines to begin with.
    pub(crate) prefix: Option<String>,
    /// The severity that it wants of them, as syslog counts: 0 to 7.
    pub(crate) level: Option<u8>,
}

/// Who is behind an address that is rewritten on the other side of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The client that the far end's address hides.
    pub(crate) rewritten_from: Option<IpAddr>,
    /// Who that is.
    pub(crate) owner: Owner,
    /// The Services whose address the far end's is.
    pub(crate) services: Vec<String>,
    /// The endpoints that it may reach, or the one that it does.
    pub(crate) endpoints: Vec<String>,
}

impl Behind {
    /// In words, to be put behind the name of the far end's owner.
    pub(crate) fn text(&self) -> String {
        match self.rewritten_from {
            Some(client) => rewritten(&client.to_string(), &self.owner.text()),
            None => format!("service {}, endpoints {}", self.services.join(", "), self.endpoints.join(", ")),
        }
    }
}

/// That somebody's address was rewritten. Of pods only those that come by a node's address; others because a Service has it so.
pub(crate) fn rewritten(client: &str, owner: &str) -> String {
    match owner {
        "" => format!("rewritten by kube-proxy from {client}, ETP=Cluster"),
        owner => format!("rewritten by kube-proxy from {client}, {owner}"),
    }
}

/// Who owns an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody that the manifests know.
    #[default]
    Unknown,
    /// A pod, as `namespace/name`.
    Pod(String),
    /// A node, or a hostNetwork pod on it.
    Node(String),
}

impl Owner {
    /// In words; nothing for who is unknown.
    pub(crate) fn text(&self) -> String {
        match self {
            Owner::Unknown => String::new(),
            Owner::Pod(pod) => pod.clone(),
            Owner::Node(node) => format!("node {node}"),
        }
    }
}

/// A line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    event: &'static str,
    wire: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    direction: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    who: Option<Who>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewritten_from: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewritten_from_pod: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    services: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    endpoints: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'static str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    policies: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
}

/// Who talked to whom, seen from the inside of the wire.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Who {
    /// The address inside.
    address: IpAddr,
    /// The address of the far end.
    peer: IpAddr,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Who {
    fn of(direction: Direction, tuple: &Tuple) -> Who {
        let peer = peer_of(direction, tuple);
        let address = match direction {
            Direction::Egress => tuple.source,
            Direction::Ingress => tuple.destination,
        };
        let port = |port| tuple.protocol.has_ports().then_some(port);
        Who {
            address: address.into(),
            peer,
            protocol: tuple.protocol.to_string(),
            source_port: port(tuple.source_port),
            destination_port: port(tuple.destination_port),
        }
    }
}

/// The far end of a frame that goes in this direction.
pub(crate) fn peer_of(direction: Direction, tuple: &Tuple) -> IpAddr {
    match direction {
        Direction::Egress => tuple.destination.into(),
        Direction::Ingress => tuple.source.into(),
    }
}

/// Whether policy is the reason, so that a reader wants to know which.
pub(crate) fn is_policy(reason: DropReason) -> bool {
    use DropReason::{AskDenied, FlowCut, OtherNode, PolicyDenied, PolicyRejected, ServiceDenied, ServiceMixed};
    matches!(reason, PolicyDenied | PolicyRejected | FlowCut | AskDenied | OtherNode | ServiceDenied | ServiceMixed)
}

/// What goes into a line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    /// A dropped frame.
    Dropped(&'a Dropped),
    /// A verdict that a rule wants logged.
    Verdict(&'a Logged),
}

impl Record<'_> {
    fn at(&self) -> Time {
        match self {
            Record::Dropped(dropped) => dropped.at,
            Record::Verdict(logged) => logged.at,
        }
    }

    fn line<'a>(&self, time: String, names: &'a Names, suppressed: u64) -> Line<'a> {
        let (direction, tuple, generation) = match self {
            Record::Dropped(dropped) => (dropped.direction, dropped.tuple, dropped.generation),
            Record::Verdict(logged) => (logged.direction, Some(logged.tuple), logged.generation),
        };
        let reason = match self {
            Record::Dropped(dropped) => Some(dropped.reason),
            Record::Verdict(_) => None,
        };
        let event = match self {
            Record::Dropped(_) => "drop",
            Record::Verdict(logged) if logged.allowed => "allow",
            Record::Verdict(_) => "deny",
        };
        let length = match self {
            Record::Dropped(dropped) => Some(dropped.length),
            Record::Verdict(_) => None,
        };
        let (peer_pod, peer_node) = match &names.peer {
            Owner::Unknown => (None, None),
            Owner::Pod(pod) => (Some(pod.as_str()), None),
            Owner::Node(node) => (None, Some(node.as_str())),
        };
        let behind = names.behind.as_ref();
        let wanted = names.rule.as_ref().filter(|_| matches!(self, Record::Verdict(_)));
        let rewritten_from_pod = behind.and_then(|behind| match &behind.owner {
            Owner::Pod(pod) => Some(pod.as_str()),
            _ => None,
        });
        Line {
            rewritten_from: behind.and_then(|behind| behind.rewritten_from),
            rewritten_from_pod,
            services: behind.map_or(&[], |behind| &behind.services),
            endpoints: behind.map_or(&[], |behind| &behind.endpoints),
            time,
            event,
            wire: &names.wire,
            pod: names.pod.as_deref(),
            direction: direction.name(),
            who: tuple.map(|tuple| Who::of(direction, &tuple)),
            peer_pod,
            peer_node,
            reason: reason.map(DropReason::label),
            explanation: reason.map(DropReason::explanation),
            policies: &names.policies,
            rule: names.rule.as_ref().map(|rule| rule.rule.as_str()),
            // A drop is told whatever the rule wants of its own lines.
            prefix: wanted.and_then(|rule| rule.prefix.as_deref()),
            level: wanted.and_then(|rule| rule.level),
            generation,
            length,
            suppressed,
        }
    }
}

/// Where both clocks stood at one moment, so that the engine's times can be told as times of day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The engine's time.
    pub(crate) engine: Time,
    /// The time of day.
    pub(crate) wall: Timestamp,
}

impl Clocks {
    /// Reads both.
    pub(crate) fn read() -> Clocks {
        use rustix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::Monotonic);
        let engine = Time(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs());
        let day = clock_gettime(ClockId::Realtime);
        let wall = i32::try_from(day.tv_nsec).ok().and_then(|nanos| Timestamp::new(day.tv_sec, nanos).ok());
        Clocks { engine, wall: wall.unwrap_or_default() }
    }

    /// The time of day of an earlier moment, as RFC 3339 has it.
    fn tell(&self, at: Time) -> String {
        let then = self.wall.checked_sub(self.engine.since(at)).unwrap_or(self.wall);
        format!("{then:.6}")
    }
}

/// The log.
pub(crate) struct DropLog<W> {
    out: W,
    bucket: TokenBucket,
    /// Left out since the last line.
    suppressed: u64,
}

impl<W: Write> DropLog<W> {
    /// A log of at most so many lines a second.
    pub(crate) fn new(out: W, bucket: TokenBucket) -> Self {
        DropLog { out, bucket, suppressed: 0 }
    }

    /// Writes a line, or counts it as left out; a log that is switched off does neither. `names` is asked only for lines that are written.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub(crate) fn record(
        &mut self,
        record: Record<'_>,
        clocks: &Clocks,
        names: impl FnOnce() -> Names,
        suppressed_total: &AtomicU64,
    ) -> io::Result<()> {
        if self.bucket.per_second == 0 {
            return Ok(());
        }
        if !self.bucket.take(record.at()) {
            self.suppressed += 1;
            suppressed_total.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let names = names();
        let line = record.line(clocks.tell(record.at()), &names, std::mem::take(&mut self.suppressed));
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }

    /// Goes on somewhere else.
    pub(crate) fn write_to(&mut self, out: W) {
        self.out = out;
    }

    /// Brings what was written to where it goes.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dataplane::address::Address;
    use dataplane::packet::Protocol;
    use dataplane::rules::WireId;
    use serde_json::{Value, json};

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn dropped(at: Time) -> Dropped {
        Dropped {
            judged_as: None,
            at,
            wire: WireId(0),
            direction: Direction::Ingress,
            judged: Direction::Ingress,
            reason: DropReason::PolicyDenied,
            tuple: Some(Tuple {
                source: address("10.0.0.2"),
                destination: address("10.0.0.1"),
                protocol: Protocol::TCP,
                source_port: 40000,
                destination_port: 80,
            }),
            rule: None,
            generation: 7,
            length: 74,
        }
    }

    fn names() -> Names {
        Names {
            behind: None,
            rule: None,
            wire: "web".to_owned(),
            pod: Some("default/web".to_owned()),
            peer: Owner::Pod("default/client".to_owned()),
            policies: vec!["default/deny-all".to_owned()],
        }
    }

    fn lines(log: DropLog<Vec<u8>>) -> Vec<Value> {
        let text = String::from_utf8(log.out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = TokenBucket::new(2, 3);
        let start = Time(5_000_000_000);
        let take = |bucket: &mut TokenBucket, at: Time| (0..10).filter(|_| bucket.take(at)).count();
        assert_eq!(take(&mut bucket, start), 3, "the burst");
        assert_eq!(take(&mut bucket, start + SECOND / 4), 0, "half a token");
        assert_eq!(take(&mut bucket, start + SECOND), 2);
        assert_eq!(take(&mut bucket, start), 0, "a worker's clock that lags gives nothing twice");
        assert_eq!(take(&mut bucket, start + SECOND * 2), 2);
        assert_eq!(take(&mut bucket, start + SECOND * 3600), 3, "no more than the burst, however long it was quiet");
        assert_eq!(take(&mut TokenBucket::new(0, 3), start), 0);
    }

    #[test]
    fn a_line_names_everything() {
        let start = Time(1_000_000_000);
        let wall: Timestamp = "2026-01-02T03:04:05.5Z".parse().unwrap();
        let clocks = Clocks { engine: start + SECOND / 2, wall };
        let mut log = DropLog::new(Vec::new(), TokenBucket::new(20, 1));
        log.record(Record::Dropped(&dropped(start)), &clocks, names, &AtomicU64::new(0)).unwrap();
        assert_eq!(
            lines(log),
            [json!({
                "time": "2026-01-02T03:04:05.000000Z", "event": "drop", "wire": "web", "pod": "default/web",
                "direction": "ingress", "address": "10.0.0.1", "peer": "10.0.0.2", "peerPod": "default/client",
                "protocol": "TCP", "sourcePort": 40000, "destinationPort": 80, "reason": "policy_denied",
                "explanation": "Policy does not allow it.", "policies": ["default/deny-all"], "generation": 7,
                "length": 74
            })]
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let clocks = Clocks::read();
        let mut log = DropLog::new(Vec::new(), TokenBucket::new(20, 1));
        let unread = Dropped { tuple: None, reason: DropReason::FrameTooShort, ..dropped(clocks.engine) };
        let names = || Names { wire: "lan".to_owned(), ..Names::default() };
        log.record(Record::Dropped(&unread), &clocks, names, &AtomicU64::new(0)).unwrap();
        let line = lines(log).remove(0);
        let keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["time", "event", "wire", "direction", "reason", "explanation", "generation", "length"]);
    }

    #[test]
    fn a_line_says_how_many_were_left_out_before_it() {
        let clocks = Clocks::read();
        let total = AtomicU64::new(0);
        let mut log = DropLog::new(Vec::new(), TokenBucket::new(1, 1));
        for seconds in [0, 0, 0, 1, 1, 2] {
            let at = clocks.engine + SECOND * seconds;
            log.record(Record::Dropped(&dropped(at)), &clocks, names, &total).unwrap();
        }
        let counts: Vec<_> = lines(log).iter().map(|line| line["suppressed"].as_u64()).collect();
        assert_eq!(counts, [None, Some(2), Some(1)]);
        assert_eq!(total.into_inner(), 3);
    }
}
