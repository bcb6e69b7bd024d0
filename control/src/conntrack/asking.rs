//! Answers what workers ask ([`dataplane::worker::Question`]): a thread that sleeps until there is a question, looks connections up, and says
//! what each of them means. Bounded by the workers' queues; who looks up may fail or be late, and then the answer is that nobody knows.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::address::Address;
use dataplane::packet::{Direction, Tuple};
use dataplane::publish::Publisher;
use dataplane::rules::asked;
use dataplane::worker::{Answer, AskQueues, Doorbell, Finding, Question};
use serde::{Deserialize, Serialize};

use super::Connection;

/// Questions that are looked up together at most.
pub const MOST: usize = 64;

/// How long the thread sleeps at most.
const SLEEP: Duration = Duration::from_secs(1);

/// What was found of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// This one.
    Connection(Connection),
    /// The kernel knows none.
    Nobody,
    /// It could not be asked.
    Failed,
}

/// Who looks connections up.
pub trait LookUp: Send + 'static {
    /// What is known of each, in this order. Fewer answers than questions mean that the others failed.
    fn look_up(&mut self, tuples: &[Tuple]) -> Vec<Found>;
}

/// The queues of a worker, and what wakes it after an answer.
pub type Asking = (AskQueues, Box<dyn Fn() + Send + Sync>);

/// Upper bounds of [`Counts::times`] in microseconds; the last one has none.
pub const TIMES: [u64; 7] = [50, 100, 250, 1_000, 10_000, 100_000, u64::MAX];

/// What questions came to, by kind ([`Counts::KINDS`]) and outcome ([`Counts::OUTCOMES`]), and how long the answers took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answers by kind and outcome.
    pub answers: [[u64; 3]; 3],
    /// Answers by the time that they took, from when the question was taken ([`TIMES`]).
    pub times: [u64; 7],
    /// All of that time, in microseconds.
    pub micros: u64,
    /// Connections that were seen to be rewritten.
    pub rewritten: u64,
}

impl Counts {
    /// What was asked for, as labels.
    pub const KINDS: [&'static str; 3] = ["client", "host", "backend"];
    /// How it ended, as labels.
    pub const OUTCOMES: [&'static str; 3] = ["found", "unknown", "failed"];
}

#[derive(Debug, Default)]
struct Tally {
    answers: [[AtomicU64; 3]; 3],
    times: [AtomicU64; 7],
    micros: AtomicU64,
    rewritten: AtomicU64,
}

/// The thread that answers. Dropping it stops it.
#[derive(Debug)]
pub struct Answering {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// Begins to answer what these workers ask by this doorbell.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        asking: Vec<Asking>,
        bell: Arc<Doorbell>,
        publisher: Arc<Publisher>,
        mut look_up: impl LookUp,
    ) -> io::Result<Answering> {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let (counting, stopping, ringing) = (tally.clone(), stop.clone(), bell.clone());
        let thread = std::thread::Builder::new().name("answers".to_owned()).spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                if !answer(&asking, &publisher, &mut look_up, &counting) {
                    ringing.wait(SLEEP, || {
                        stopping.load(Ordering::Relaxed) || asking.iter().any(|(queues, _)| queues.has_question())
                    });
                }
            }
        })?;
        Ok(Answering { tally, stop, bell, thread: Some(thread) })
    }

    /// What was answered so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answers: std::array::from_fn(|kind| {
                std::array::from_fn(|outcome| read(&self.tally.answers[kind][outcome]))
            }),
            times: std::array::from_fn(|at| read(&self.tally.times[at])),
            micros: read(&self.tally.micros),
            rewritten: read(&self.tally.rewritten),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _panicked = thread.join();
        }
    }
}

/// Answers some questions of every worker; whether there were any.
fn answer(asking: &[Asking], publisher: &Publisher, look_up: &mut impl LookUp, tally: &Tally) -> bool {
    let mut any = false;
    for (queues, wake) in asking {
        let questions: Vec<Question> = std::iter::from_fn(|| queues.question()).take(MOST).collect();
        if questions.is_empty() {
            continue;
        }
        any = true;
        let began = Instant::now();
        let tuples: Vec<Tuple> = questions.iter().map(outward).collect();
        let found = look_up.look_up(&tuples);
        let snapshot = publisher.snapshot();
        for (at, question) in questions.iter().enumerate() {
            let found = found.get(at).copied().unwrap_or(Found::Failed);
            let finding = finding(question, found, |address| snapshot.frontends().is_own(address));
            queues.answer(Answer { ticket: question.ticket, finding });
            let outcome = match found {
                Found::Connection(_) if finding != Finding::Unknown => 0,
                Found::Connection(_) | Found::Nobody => 1,
                Found::Failed => 2,
            };
            let kind = usize::from(question.kind.clamp(asked::CLIENT, asked::BACKEND) - asked::CLIENT);
            tally.answers[kind][outcome].fetch_add(1, Ordering::Relaxed);
            let is_rewritten = |found: Connection| found.reply != found.original.reverse();
            if matches!(found, Found::Connection(connection) if is_rewritten(connection)) {
                tally.rewritten.fetch_add(1, Ordering::Relaxed);
            }
        }
        let micros = began.elapsed().as_micros() as u64;
        let slot = TIMES.iter().position(|&most| micros <= most).unwrap_or(TIMES.len() - 1);
        let count = questions.len() as u64;
        tally.times[slot].fetch_add(count, Ordering::Relaxed);
        tally.micros.fetch_add(micros * count, Ordering::Relaxed);
        wake();
    }
    any
}

/// The tuple of what goes out of the endpoint. So the kernel knows the connection that the question is about: as the reply to one that
/// came in, or as the original of one that went out. The frame that waits may go either way.
fn outward(question: &Question) -> Tuple {
    match question.direction {
        Direction::Egress => question.tuple,
        Direction::Ingress => question.tuple.reverse(),
    }
}

/// What it means that this was found. `is_own` tells the addresses of the host itself.
pub fn finding(question: &Question, found: Found, is_own: impl Fn(Address) -> bool) -> Finding {
    let outward = outward(question);
    let Found::Connection(Connection { original, reply }) = found else { return Finding::Unknown };
    if question.kind == asked::BACKEND {
        // Nobody has rewritten it: not here, or not yet.
        if reply.source == original.destination && reply.source_port == original.destination_port {
            return Finding::Unknown;
        }
        let (destination, destination_port) = (reply.source, reply.source_port);
        return Finding::JudgeAs(Tuple { destination, destination_port, ..outward });
    }
    let client = original.source;
    let is_host = client == outward.destination || std::net::IpAddr::from(client).is_loopback() || is_own(client);
    if is_host {
        return Finding::Allow;
    }
    if question.kind == asked::HOST {
        // Nobody is kept from itself, whatever its address was made into.
        return if client == outward.source { Finding::Allow } else { Finding::Deny };
    }
    Finding::JudgeAs(Tuple { source: client, source_port: original.source_port, ..outward.reverse() })
}

#[cfg(test)]
mod tests {
    use dataplane::packet::Protocol;
    use dataplane::rules::WireId;

    use super::*;

    fn address(last: u8) -> Address {
        Address::v4([10, 0, 0, last])
    }

    const NODE: u8 = 1;
    const POD: u8 = 2;
    const CLIENT: u8 = 3;

    fn tuple(source: (u8, u16), destination: (u8, u16)) -> Tuple {
        let (source_port, destination_port) = (source.1, destination.1);
        let (source, destination) = (address(source.0), address(destination.0));
        Tuple { source, destination, protocol: Protocol::TCP, source_port, destination_port }
    }

    /// What is found when the pod sees a connection from the node that `client` opened.
    fn seen(kind: u16, client: (u8, u16)) -> Finding {
        let at_pod = tuple((NODE, 4000), (POD, 80));
        let found = Found::Connection(Connection { original: tuple(client, (NODE, 30080)), reply: at_pod.reverse() });
        let both = [(Direction::Ingress, at_pod), (Direction::Egress, at_pod.reverse())].map(|(direction, tuple)| {
            let question = Question { ticket: 1, wire: WireId(1), direction, tuple, kind, rule: None };
            finding(&question, found, |address| address == self::address(NODE) || address == self::address(9))
        });
        assert_eq!(both[0], both[1], "the same whichever way the frame goes that waits");
        both[0]
    }

    #[test]
    fn the_node_itself_passes_and_who_hides_behind_it_is_judged() {
        let client = Finding::JudgeAs(tuple((CLIENT, 5000), (POD, 80)));
        assert_eq!(seen(asked::CLIENT, (CLIENT, 5000)), client);
        assert_eq!(seen(asked::HOST, (CLIENT, 5000)), Finding::Deny);
        for kind in [asked::CLIENT, asked::HOST] {
            assert_eq!(seen(kind, (NODE, 4000)), Finding::Allow, "not rewritten at all");
            assert_eq!(seen(kind, (9, 4000)), Finding::Allow, "from another address of the node");
        }
        // Through a Service to itself: the engine knows that nobody is kept from itself.
        assert_eq!(seen(asked::CLIENT, (POD, 4000)), Finding::JudgeAs(tuple((POD, 4000), (POD, 80))));
        assert_eq!(seen(asked::HOST, (POD, 4000)), Finding::Allow);
    }

    #[test]
    fn a_client_on_loopback_is_the_node() {
        let original = Tuple { source: Address::v4([127, 0, 0, 1]), ..tuple((0, 4000), (NODE, 30080)) };
        let at_pod = tuple((NODE, 4000), (POD, 80));
        let (direction, wire) = (Direction::Ingress, WireId(1));
        let question = Question { ticket: 1, wire, direction, tuple: at_pod, kind: asked::CLIENT, rule: None };
        let found = Found::Connection(Connection { original, reply: at_pod.reverse() });
        assert_eq!(finding(&question, found, |_| false), Finding::Allow);
    }

    #[test]
    fn a_service_stands_for_the_endpoint_that_was_chosen() {
        let to_service = tuple((POD, 4000), (200, 80));
        let chosen = tuple((CLIENT, 8080), (POD, 4000));
        for (direction, at_wire) in [(Direction::Egress, to_service), (Direction::Ingress, to_service.reverse())] {
            let question =
                Question { ticket: 1, wire: WireId(1), direction, tuple: at_wire, kind: asked::BACKEND, rule: None };
            let with = |reply| Found::Connection(Connection { original: to_service, reply });
            let expected = Finding::JudgeAs(tuple((POD, 4000), (CLIENT, 8080)));
            assert_eq!(finding(&question, with(chosen), |_| false), expected);
            assert_eq!(finding(&question, with(to_service.reverse()), |_| false), Finding::Unknown, "as it was");
            for nothing in [Found::Nobody, Found::Failed] {
                assert_eq!(finding(&question, nothing, |_| false), Finding::Unknown);
            }
        }
    }
}
