//! The time that a request and its reply take over one TCP connection, one at a time: what an application waits.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Sample, Turn, on, pin, server_cpu};
use crate::compare::contender::Running;
use crate::compare::statistics::percentile;

/// A port that the rules allow.
const PORT: u16 = 5_400;

/// Percentiles of the times of one turn.
///
/// # Errors
/// When the connection fails.
pub fn measure(running: &Running, turn: Turn) -> Result<Sample> {
    let target = SocketAddr::new(running.setting.family.sink().parse::<IpAddr>().context("an address")?, PORT);
    let listener = running.topology.sink.run(|| TcpListener::bind(target))??;
    let cpu = server_cpu(running);
    let mut times = std::thread::scope(|scope| {
        let server = scope.spawn(move || echo(&listener, cpu));
        let times = on(&running.topology.generator, 0, || ask(target, turn));
        if times.is_ok() {
            // It ends when the client is gone.
            server.join().map_err(|_| anyhow::anyhow!("the server died"))??;
        }
        times
    })?;
    times.sort_unstable();
    let at = |share| percentile(&times, share).map(|nanoseconds| nanoseconds as f64 / 1e3).context("no reply came");
    Ok(Sample::from([("p50", at(0.5)?), ("p99", at(0.99)?), ("p99.9", at(0.999)?)]))
}

fn echo(listener: &TcpListener, cpu: usize) -> Result<()> {
    pin(cpu)?;
    rustix::net::sockopt::set_socket_timeout(
        listener,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(3)),
    )?;
    let (mut stream, _) = listener.accept().context("no connection came")?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn ask(target: SocketAddr, turn: Turn) -> Result<Vec<u64>> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2)).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut times = Vec::with_capacity(1 << 17);
    let begin = Instant::now();
    let mut byte = [1];
    while begin.elapsed() < turn.settle + turn.measure {
        let sent = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte).context("waiting for the reply")?;
        if begin.elapsed() > turn.settle {
            times.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Ok(times)
}
