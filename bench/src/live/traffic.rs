//! What goes through the wire meanwhile: iperf3, and a probe that sees the shortest interruption.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rules::{IPERF_PORT, PROBE_PORT};
use crate::compare::process::{self, Background};
use crate::compare::topology::{Family, Topology};

/// Time between two frames of the probe.
const PERIOD: Duration = Duration::from_millis(1);
/// Bytes of a datagram: what leaves room for the headers in 1,500.
const DATAGRAM: &str = "1400";
/// CPU of both ends.
const CPU: &str = "0";

/// Starts iperf3's server.
///
/// # Errors
/// When it does not listen.
pub(super) fn serve(topology: &Topology) -> Result<Background> {
    let port = IPERF_PORT.to_string();
    let words = ["iperf3", "-s", "-p", &port].map(str::to_owned);
    let server = Background::start(Some(&topology.sink), Some(CPU), &words)?;
    for _attempt in 0..50 {
        if !process::run(Some(&topology.sink), &["ss", "-Htln", "sport", "=", &port], "")?.is_empty() {
            return Ok(server);
        }
        process::rest(Duration::from_millis(20))?;
    }
    anyhow::bail!("iperf3 does not listen")
}

/// What iperf3 is to send.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Load {
    /// One TCP connection with so many bits a second; 0: as fast as it goes.
    Tcp(f64),
    /// UDP with so many bits a second; 0: as fast as it goes.
    Udp(f64),
}

impl Load {
    /// As the report calls it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Load::Tcp(_) => "TCP at half load",
            Load::Udp(_) => "UDP at half load",
        }
    }

    /// Bits a second that are offered.
    pub(super) fn offered(self) -> f64 {
        let (Load::Tcp(rate) | Load::Udp(rate)) = self;
        rate
    }

    /// Starts the client for at most so many seconds.
    pub(super) fn start(self, topology: &Topology, seconds: u32) -> Result<Background> {
        let (port, seconds) = (IPERF_PORT.to_string(), seconds.to_string());
        let mut words = vec!["iperf3", "-c", Family::V4.sink(), "-p", &port, "-t", &seconds, "--json"];
        let rate = format!("{:.0}", self.offered());
        if let Load::Udp(_) = self {
            words.extend(["-u", "-l", DATAGRAM, "-w", "4M"]);
        }
        words.extend(["-b", &rate]);
        Background::start(
            Some(&topology.generator),
            Some(CPU),
            &words.into_iter().map(str::to_owned).collect::<Vec<_>>(),
        )
    }
}

/// What iperf3 says at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Bits a second that arrived.
    pub rate: f64,
    /// Datagrams sent.
    pub frames: u64,
    /// Of those, not arrived.
    pub lost: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// Waits for the client's end.
///
/// # Errors
/// When the transfer did not reach its end: iperf3 says why.
pub(super) fn finish(client: Background) -> Result<Transfer> {
    let text = client.finish()?;
    let value: Value = serde_json::from_str(&text).context("what iperf3 says")?;
    ensure!(value.get("error").is_none(), "iperf3: {}", value["error"]);
    let end = &value["end"];
    let number = |part: &str, field: &str| end[part][field].as_f64();
    let rate = number("sum_received", "bits_per_second").or_else(|| number("sum", "bits_per_second")).unwrap_or(0.0);
    let count = |part: &str, field: &str| number(part, field).unwrap_or(0.0) as u64;
    let frames = count("sum", "packets");
    Ok(Transfer { rate, frames, lost: count("sum", "lost_packets"), retransmits: count("sum_sent", "retransmits") })
}

/// What the probe saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Frames sent.
    pub sent: u64,
    /// Frames that did not arrive.
    pub lost: u64,
    /// The longest time between two that did, in milliseconds.
    pub gap_ms: f64,
}

/// Sends a frame each millisecond while `work` runs.
///
/// # Errors
/// When a socket fails, or `work` does.
pub(super) fn probed<T>(topology: &Topology, work: impl FnOnce() -> Result<T>) -> Result<(T, Probe)> {
    let (stop, all_sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let receiver = topology.sink.run(|| UdpSocket::bind((Family::V4.sink(), PROBE_PORT)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    let sender = topology.generator.run(|| {
        let socket = UdpSocket::bind((Family::V4.generator(), 0))?;
        socket.connect((Family::V4.sink(), PROBE_PORT))?;
        Ok::<_, std::io::Error>(socket)
    })??;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, &all_sent));
        let sending = scope.spawn(|| send(&sender, &stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the probe's sender died"))?;
        all_sent.store(true, Ordering::Relaxed);
        let (arrived, gap) = receiving.join().map_err(|_| anyhow::anyhow!("the probe's receiver died"))??;
        let probe = Probe { sent: sent?, lost: 0, gap_ms: gap.as_secs_f64() * 1e3 };
        Ok((done?, Probe { lost: probe.sent.saturating_sub(arrived), ..probe }))
    })
}

fn send(socket: &UdpSocket, stop: &AtomicBool) -> Result<u64> {
    let (mut sent, mut due) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        socket.send(&[0; 16])?;
        sent += 1;
        // A sender that was held up goes on from now: its own delay is no burst.
        due = (due + PERIOD).max(Instant::now() - PERIOD);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, all_sent: &AtomicBool) -> Result<(u64, Duration)> {
    let (mut arrived, mut longest, mut last) = (0, Duration::ZERO, None::<Instant>);
    let mut buffer = [0; 64];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let now = Instant::now();
                if let Some(last) = last.replace(now) {
                    longest = longest.max(now - last);
                }
                arrived += 1;
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if all_sent.load(Ordering::Relaxed) {
                    return Ok((arrived, longest));
                }
            }
            Err(error) => return Err(error).context("the probe's receiver"),
        }
    }
}
