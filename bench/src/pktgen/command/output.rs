//! What is shown while a run goes on, and what is told of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::environment::Environment;
use crate::pktgen::{Error, Outcome, Progress, Scaled};

/// What `-o json` prints.
#[derive(Serialize)]
pub(super) struct Record<'a, S, R> {
    pub(super) environment: Environment,
    /// What was asked for.
    pub(super) spec: &'a S,
    /// What came of it.
    pub(super) result: R,
}

/// Prints a record.
pub(super) fn json<S: Serialize, R: Serialize>(
    spec: &S,
    result: R,
    interfaces: &[(Option<&str>, &str)],
) -> Result<(), Error> {
    let mut environment = Environment::record();
    interfaces.iter().for_each(|(namespace, name)| environment.add_interface(*namespace, name));
    let text = serde_json::to_string_pretty(&Record { environment, spec, result });
    println!("{}", text.map_err(|error| Error::input(format!("the record cannot be written: {error}")))?);
    Ok(())
}

/// What a trial counted, for people.
pub(super) fn outcome(outcome: &Outcome) -> String {
    let received = &outcome.received;
    let mut text = format!(
        "{}\nreceived   {} frames: {} frames/s\nlost       {} frames ({:.6} %), of these {} never taken by the device\n\
         order      {} reordered, {} duplicates, {} too late to tell",
        outcome.sent,
        received.frames,
        Scaled(outcome.received_per_second()),
        outcome.lost,
        100.0 * outcome.loss(),
        outcome.sent.refused.min(outcome.lost),
        received.reordered,
        received.duplicates,
        received.stale,
    );
    if let Some(latency) = &outcome.latency {
        text += &format!("\n{latency}");
    }
    text
}

/// Runs `f` while a line on the terminal tells how far it is. Nothing is shown where stderr is no terminal.
pub(super) fn with_progress<T>(
    what: &str,
    duration: Option<Duration>,
    progress: &Progress,
    f: impl FnOnce() -> T,
) -> T {
    let bar = match duration {
        Some(duration) => ProgressBar::new(duration.as_millis() as u64),
        None => ProgressBar::new_spinner(),
    };
    let style = if duration.is_some() { "{prefix} {bar:30} {msg}" } else { "{prefix} {spinner} {msg}" };
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what.to_owned());
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            let (mut frames, mut at) = (0, start);
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(200));
                let (now, time) = (progress.frames(), Instant::now());
                let speed = now.saturating_sub(frames) as f64 / (time - at).as_secs_f64().max(1e-3);
                (frames, at) = (now, time);
                bar.set_position(start.elapsed().as_millis() as u64);
                bar.set_message(format!("{}frames, {}frames/s", Scaled(now as f64), Scaled(speed)));
            }
        });
        let result = f();
        done.store(true, Ordering::Relaxed);
        result
    });
    bar.finish_and_clear();
    result
}
