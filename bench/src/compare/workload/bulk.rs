//! TCP throughput by iperf3.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Sample, Turn, server_cpu};
use crate::compare::contender::Running;
use crate::compare::process::{self, Background};

/// iperf3's port, which the rules allow.
const PORT: &str = "5201";

/// Starts the server at the pod's end.
///
/// # Errors
/// When iperf3 is not installed.
pub fn serve(running: &Running) -> Result<Background> {
    let words = ["iperf3", "-s", "-p", PORT].map(str::to_owned);
    let cpu = server_cpu(running).to_string();
    let server = Background::start(Some(&running.topology.sink), Some(&cpu), &words)?;
    // It says that it listens only once its output is flushed: look for the socket instead.
    for _attempt in 0..50 {
        let listening = process::run(Some(&running.topology.sink), &["ss", "-Htln", "sport", "=", PORT], "")?;
        if !listening.is_empty() {
            return Ok(server);
        }
        process::rest(Duration::from_millis(20))?;
    }
    anyhow::bail!("iperf3 does not listen")
}

/// One transfer.
///
/// # Errors
/// When the connection fails.
pub fn transfer(running: &Running, streams: u8, reverse: bool, turn: Turn) -> Result<Sample> {
    let (target, streams) = (running.setting.family.sink(), streams.to_string());
    // iperf3 takes whole seconds.
    let seconds = turn.measure.as_secs().max(1).to_string();
    let mut words =
        vec!["timeout", "20", "taskset", "-c", "0", "iperf3", "-c", target, "-p", PORT, "-J", "-t", &seconds];
    words.extend(["-O", "1", "-P", &streams]);
    if reverse {
        words.push("-R");
    }
    let (begin, before) = (Instant::now(), process::busy());
    let text = process::run(Some(&running.topology.generator), &words, "")?;
    let busy: u64 = process::busy().iter().zip(&before).map(|(after, before)| after - before).sum();
    let cores = busy as f64 / begin.elapsed().as_nanos() as f64;
    let report: Value = serde_json::from_str(&text).context("reading iperf3's report")?;
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    let rate = rate.context("iperf3 measured nothing")?;
    Ok(Sample::from([("throughput", rate), ("CPU", cores)]))
}
