//! One end sends, the other counts: what a trial is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::generate_with;
use super::latency::{Latency, LatencySummary};
use super::receive::{ReceiveSpec, Receiver};
use super::report::{Progress, Report, SinkCounters};
use super::spec::Spec;

/// Both ends, and how long the last frames may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialSpec {
    /// What is sent.
    pub send: Spec,
    /// Where it is counted.
    pub receive: ReceiveSpec,
    /// Whether the generator answers for its flows' source addresses.
    #[serde(default)]
    pub answer: bool,
    /// After the last frame was sent, the trial ends once nothing has come for this long (RFC 2544 section 23 has 2 s).
    pub settle: Duration,
}

/// What came of a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was sent.
    pub sent: Report,
    /// What came.
    pub received: SinkCounters,
    /// Frames that were sent and did not come, those that the device did not take from the generator (`sent.refused`) among
    /// them. Exact when nothing else sends UDP or TCP to the sink.
    pub lost: u64,
    /// How long they took.
    pub latency: Option<LatencySummary>,
    /// The whole distribution.
    #[serde(skip)]
    pub distribution: Option<Latency>,
}

impl Outcome {
    /// The share of frames that were lost.
    pub fn loss(&self) -> f64 {
        if self.sent.offered == 0 { 0.0 } else { self.lost as f64 / self.sent.offered as f64 }
    }

    /// Frames that came a second of sending.
    pub fn received_per_second(&self) -> f64 {
        super::report::per_second(self.received.distinct(), self.sent.elapsed)
    }
}

/// Runs a trial: opens the sink, sends, waits for what is under way.
///
/// # Errors
/// As [`super::generate`] and [`Receiver::open`].
pub fn trial(spec: &TrialSpec, stop: &AtomicBool, progress: &Progress) -> Result<Outcome, Error> {
    let receiver = Receiver::open(spec.receive.clone())?;
    let (received_so_far, done) = (Progress::default(), AtomicBool::new(false));
    let (sent, received) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| receiver.run(&done, &received_so_far));
        let sent = generate_with(&spec.send, spec.answer, stop, progress);
        if let Ok(sent) = &sent {
            settle(spec.settle, sent, &received_so_far, || counting.is_finished());
        }
        done.store(true, Ordering::Relaxed);
        let received = counting.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        (sent, received)
    });
    let (sent, received) = (sent?, received?);
    let latency = received.latency.as_ref().map(Latency::summary);
    let lost = sent.offered.saturating_sub(received.counters.distinct());
    Ok(Outcome { sent, received: received.counters, lost, latency, distribution: received.latency })
}

/// Waits until all has come, or nothing more does.
fn settle(limit: Duration, sent: &Report, received: &Progress, is_over: impl Fn() -> bool) {
    let (mut last, mut changed) = (received.frames(), Instant::now());
    while changed.elapsed() < limit && !is_over() {
        std::thread::sleep(Duration::from_millis(20));
        let now = received.frames();
        if now != last {
            (last, changed) = (now, Instant::now());
        }
        // All is there; a duplicate would have come by now.
        if now >= sent.offered && changed.elapsed() > limit / 4 {
            break;
        }
    }
}
