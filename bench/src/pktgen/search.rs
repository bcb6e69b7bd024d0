//! The highest rate without loss: RFC 2544 section 26.1, by halving the interval.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::report::Progress;
use super::spec::{Limit, Rate};
use super::trial::{Outcome, TrialSpec, trial};

/// A search for throughput.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSpec {
    /// The trial; its rate and limit are the search's to set.
    pub trial: TrialSpec,
    /// How long each trial sends (RFC 2544 section 24: 60 s at least for a result to be called by its name).
    pub duration: Duration,
    /// The share of frames that may be lost; RFC 2544 has 0.
    pub tolerance: f64,
    /// The search ends when the interval is this share of the rate.
    pub resolution: f64,
    /// Frames a second to begin with at most. `None` measures what the generator reaches.
    pub highest: Option<f64>,
}

/// A trial of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What was asked for, in frames a second; `None` is flat out.
    pub rate: Option<f64>,
    /// Whether no more was lost than may be, and the generator kept the rate.
    pub passed: bool,
    /// Whether the generator kept the rate: 99.5 % of it at least.
    pub kept: bool,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// The highest rate that passed, in frames a second; 0 when none did.
    pub rate: f64,
    /// The same in bits a second of frames without their check sequence.
    pub bits_per_second: f64,
    /// Whether no rate that was tried was too high, so that the generator (or the highest rate asked for) was the limit.
    pub nothing_too_high: bool,
    /// Every trial, in order.
    pub steps: Vec<Step>,
}

/// Rates this low are taken as none.
const LEAST: f64 = 10.0;

/// Searches. `told` hears of each trial as it ends. Set `stop` to end early with what was found so far.
///
/// # Errors
/// As [`trial`].
pub fn search(
    spec: &SearchSpec,
    stop: &AtomicBool,
    progress: &Progress,
    mut told: impl FnMut(&Step),
) -> Result<Throughput, Error> {
    if !(0.0..1.0).contains(&spec.tolerance) || !(1e-4..1.0).contains(&spec.resolution) {
        return Err(Error::input(
            "the tolerance is a share from 0 to below 1, the resolution one from 0.0001 to below 1",
        ));
    }
    let run = |rate: Option<f64>| {
        let mut one = spec.trial.clone();
        one.send.rate = rate.map_or(Rate::FlatOut, Rate::FramesPerSecond);
        one.send.limit = Limit::duration(spec.duration);
        trial(&one, stop, progress)
    };
    bisect(spec, stop, run, &mut told)
}

/// The search itself, over any trial.
fn bisect(
    spec: &SearchSpec,
    stop: &AtomicBool,
    mut run: impl FnMut(Option<f64>) -> Result<Outcome, Error>,
    told: &mut impl FnMut(&Step),
) -> Result<Throughput, Error> {
    let mut take = |rate: Option<f64>| {
        let outcome = run(rate)?;
        let kept = rate.is_none_or(|rate| outcome.sent.offered_per_second() >= 0.995 * rate);
        let step = Step { rate, passed: kept && outcome.loss() <= spec.tolerance, kept, outcome };
        told(&step);
        Ok::<Step, Error>(step)
    };
    let first = take(spec.highest)?;
    let reached = first.outcome.sent.offered_per_second();
    // What comes at too high a rate is often near the answer: a little less is tried first, then a little more.
    let came = first.outcome.received_per_second();
    let (mut next, mut above) = (came * 0.98, Some(came * 1.02));
    let (mut low, mut high) = (0.0, spec.highest.unwrap_or(reached).min(reached));
    let nothing_too_high = first.passed;
    let mut steps = vec![first];
    while !nothing_too_high && high > LEAST && high - low > spec.resolution * high {
        next = next.clamp(LEAST, high);
        let step = take(Some(next))?;
        // A trial that was cut short says nothing.
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if step.passed {
            low = next;
        } else {
            high = next;
        }
        steps.push(step);
        let middle = (low + high) / 2.0;
        next = above.take().filter(|above| (low..high).contains(above)).unwrap_or(middle);
    }
    let best = steps.iter().filter(|step| step.passed).max_by(|a, b| rate(a).total_cmp(&rate(b)));
    Ok(Throughput {
        rate: best.map_or(0.0, rate),
        bits_per_second: best.map_or(0.0, |step| step.outcome.sent.bits_per_second()),
        nothing_too_high,
        steps,
    })
}

fn rate(step: &Step) -> f64 {
    step.rate.unwrap_or_else(|| step.outcome.sent.offered_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::{Flows, FrameShape, PortChoice, ReceiveSpec, Report, SinkCounters, Spec};

    fn spec(tolerance: f64, highest: Option<f64>) -> SearchSpec {
        let ip = |text: &str| text.parse().unwrap();
        let send = Spec {
            port: PortChoice::AfPacket,
            interface: "eth0".into(),
            namespace: None,
            cpu: None,
            destination_mac: None,
            gateway: None,
            source_mac: None,
            frames: FrameShape::udp(60),
            flows: Flows::between(ip("10.0.0.1"), ip("10.0.0.2"), 9, 1),
            rate: Rate::FlatOut,
            limit: Limit::default(),
        };
        let trial =
            TrialSpec { send, receive: ReceiveSpec::default(), answer: false, settle: Duration::from_millis(1) };
        SearchSpec { trial, duration: Duration::from_secs(1), tolerance, resolution: 0.01, highest }
    }

    /// What a device that forwards so many frames a second would make of a second of a generator that reaches so many.
    fn device(capacity: f64, reach: f64) -> impl FnMut(Option<f64>) -> Result<Outcome, Error> {
        move |rate| {
            let offered = rate.unwrap_or(reach).min(reach) as u64;
            let came = offered.min(capacity as u64);
            Ok(Outcome {
                sent: Report { offered, bytes: offered * 60, elapsed: Duration::from_secs(1), ..Report::default() },
                received: SinkCounters { frames: came, ..SinkCounters::default() },
                lost: offered - came,
                ..Outcome::default()
            })
        }
    }

    #[test]
    fn the_capacity_is_found() {
        let stop = AtomicBool::new(false);
        for (capacity, tolerance, expected) in
            [(123_456.0, 0.0, 123_456.0), (5_000.0, 0.0, 5_000.0), (900_000.0, 0.1, 1e6), (123_456.0, 0.05, 129_953.0)]
        {
            let mut count = 0;
            let spec = spec(tolerance, None);
            let found = bisect(&spec, &stop, device(capacity, 1e6), &mut |_: &Step| count += 1).unwrap();
            assert!((0.985 * expected..=1.001 * expected).contains(&found.rate), "{capacity}: {}", found.rate);
            assert_eq!(count, found.steps.len());
            assert!(count < 16, "{count} steps");
            assert_eq!(found.nothing_too_high, expected >= 1e6);
        }
    }

    #[test]
    fn a_generator_that_cannot_keep_the_rate_does_not_pass_it() {
        let stop = AtomicBool::new(false);
        let found = bisect(&spec(0.0, Some(5e6)), &stop, device(1e9, 1e6), &mut |_: &Step| ()).unwrap();
        assert!(!found.steps[0].kept && !found.steps[0].passed);
        assert!((0.98e6..=1.01e6).contains(&found.rate), "{}", found.rate);
        let nothing = bisect(&spec(0.0, None), &stop, device(0.0, 1e6), &mut |_: &Step| ()).unwrap();
        assert_eq!(nothing.rate, 0.0);
    }
}
