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
    /// Whether the generator was the limit: no rate that it reached was too high.
    pub generator_limited: bool,
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
    let mut steps = Vec::new();
    let mut run = |rate: Option<f64>, steps: &mut Vec<Step>| {
        let mut one = spec.trial.clone();
        one.send.rate = rate.map_or(Rate::FlatOut, Rate::FramesPerSecond);
        one.send.limit = Limit::duration(spec.duration);
        let outcome = trial(&one, stop, progress)?;
        let kept = rate.is_none_or(|rate| outcome.sent.offered_per_second() >= 0.995 * rate);
        let step = Step { rate, passed: kept && outcome.loss() <= spec.tolerance, kept, outcome };
        told(&step);
        steps.push(step);
        Ok::<(), Error>(())
    };
    run(spec.highest, &mut steps)?;
    let first = &steps[0];
    let reached = first.outcome.sent.offered_per_second();
    // What came at too high a rate is often near the answer: it is tried first, a little below.
    let came = first.outcome.received_per_second();
    let (mut low, mut high) = (0.0, spec.highest.unwrap_or(reached).min(reached.max(LEAST)));
    let limited = first.passed;
    if first.passed {
        low = reached;
    }
    let mut next = (came * 0.98).clamp(LEAST, high);
    while !limited && high - low > spec.resolution * high && high > LEAST && !stop.load(Ordering::Relaxed) {
        run(Some(next), &mut steps)?;
        let step = steps.last().expect("a step was just taken");
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if step.passed {
            low = next;
        } else {
            high = next;
        }
        next = (low + high) / 2.0;
    }
    let best = steps.iter().filter(|step| step.passed).max_by(|a, b| rate(a).total_cmp(&rate(b)));
    Ok(Throughput {
        rate: best.map_or(0.0, rate),
        bits_per_second: best.map_or(0.0, |step| step.outcome.sent.bits_per_second()),
        generator_limited: limited,
        steps,
    })
}

fn rate(step: &Step) -> f64 {
    step.rate.unwrap_or_else(|| step.outcome.sent.offered_per_second())
}
