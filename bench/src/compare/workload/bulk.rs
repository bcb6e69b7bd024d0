//! TCP throughput by iperf3.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use control::lab::netns::Namespace;

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

/// How long a transfer may take to start, and how long its end may take to reach the server.
const PATIENCE: Duration = Duration::from_secs(2);
/// See [`PATIENCE`].
const END: Duration = Duration::from_millis(100);
/// Longer than any turn, in seconds: the client is ended when the turn is.
const LONG: &str = "60";

/// What the receiver's sockets were given while the turn counted. iperf3 itself counts whole seconds only.
///
/// # Errors
/// When the transfer does not start, or ends early.
pub fn transfer(running: &Running, streams: u8, reverse: bool, turn: Turn) -> Result<Sample> {
    let topology = &running.topology;
    let mut words = vec!["iperf3", "-c", running.setting.family.sink(), "-p", PORT, "-t", LONG];
    let streams = streams.to_string();
    words.extend(["-P", &streams]);
    if reverse {
        words.push("-R");
    }
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let receiver = if reverse { &topology.generator } else { &topology.sink };
    let mut client = Background::start(Some(&topology.generator), Some("0"), &words)?;
    let patience = Instant::now() + PATIENCE;
    while received(receiver)? < 1 << 20 {
        ensure!(client.is_running() && Instant::now() < patience, "iperf3 does not transfer anything");
        process::rest(Duration::from_millis(10))?;
    }
    process::rest(turn.settle)?;
    let (begin, before, idle) = (Instant::now(), received(receiver)?, process::busy());
    process::rest(turn.measure)?;
    let (elapsed, after, busy) = (begin.elapsed().as_secs_f64(), received(receiver)?, process::busy());
    ensure!(client.is_running(), "iperf3 ended early");
    drop(client);
    // A contender that is stopped now would keep the end of the connections from the server.
    process::rest(END)?;
    let rate = 8.0 * (after - before) as f64 / elapsed;
    ensure!(rate > 0.0, "nothing was received");
    let cores = busy.iter().zip(&idle).map(|(after, before)| after - before).sum::<u64>() as f64 / 1e9 / elapsed;
    Ok(Sample::from([("throughput", rate), ("CPU", cores)]))
}

/// Bytes that were given to those who read iperf3's connections in a namespace.
fn received(namespace: &Namespace) -> Result<u64> {
    let filter = format!("( sport = :{PORT} or dport = :{PORT} )");
    let text = process::run(Some(namespace), &["ss", "-Htin", "state", "established", &filter], "")?;
    Ok(sum_received(&text))
}

fn sum_received(text: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix("bytes_received:")?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_of_all_connections_are_added_up() {
        let text = "0 0 10.2.0.2:5201 10.1.0.2:4000\n\t cubic bytes_acked:4 bytes_received:37 segs_in:5\n\
                    0 0 10.2.0.2:5201 10.1.0.2:4002\n\t cubic bytes_received:5000000000\n";
        assert_eq!(sum_received(text), 5_000_000_037);
        assert_eq!(sum_received(""), 0);
    }
}
