//! Connections a second: connect, one byte there, one byte back, close. Threads that block: as many clients as
//! servers, so that connections are always in flight.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Sample, Turn, pin, server_cpu};
use crate::compare::contender::Running;
use crate::compare::process;

/// Connections in flight; each client has a server port of its own, so that source ports do not run out.
const CLIENTS: u16 = 16;
/// The first server port, which the rules allow.
const FIRST_PORT: u16 = 5_300;
/// How long a read or a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections a second.
///
/// # Errors
/// When no connection comes about.
pub fn rate(running: &Running, turn: Turn) -> Result<Sample> {
    let topology = &running.topology;
    let target: IpAddr = running.setting.family.sink().parse().context("an address")?;
    let server_cpu = server_cpu(running);
    topology.generator.sysctl(&[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1")])?;
    let listeners = topology.sink.run(|| {
        let listen = |client| TcpListener::bind(SocketAddr::new(target, FIRST_PORT + client));
        (0..CLIENTS).map(listen).collect::<std::io::Result<Vec<_>>>()
    })??;
    // Clients first: a server that ends before them leaves the last connection without its answer.
    let (stop, is_over, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let result = topology.generator.run(|| {
        std::thread::scope(|scope| {
            let servers: Vec<_> =
                listeners.iter().map(|listener| scope.spawn(|| serve(listener, server_cpu, &is_over))).collect();
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (stop, done) = (&stop, &done);
                    scope.spawn(move || ask(SocketAddr::new(target, FIRST_PORT + client), stop, done))
                })
                .collect();
            let measured = (|| {
                process::rest(turn.settle)?;
                let (begin, before) = (Instant::now(), done.load(Ordering::Relaxed));
                process::rest(turn.measure)?;
                let count = done.load(Ordering::Relaxed) - before;
                Ok::<f64, anyhow::Error>(count as f64 / begin.elapsed().as_secs_f64())
            })();
            stop.store(true, Ordering::Relaxed);
            let failed = clients.into_iter().find_map(|client| client.join().ok()?.err());
            is_over.store(true, Ordering::Relaxed);
            drop(servers);
            match (measured, failed) {
                (Ok(rate), None) => Ok(rate),
                (Err(error), _) | (_, Some(error)) => Err(error),
            }
        })
    })?;
    Ok(Sample::from([("rate", result?)]))
}

/// Answers until it is over.
fn serve(listener: &TcpListener, cpu: usize, is_over: &AtomicBool) -> Result<()> {
    pin(cpu)?;
    // Accepting must end some time after the last client.
    rustix::net::sockopt::set_socket_timeout(
        listener,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_millis(100)),
    )?;
    while !is_over.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let mut byte = [0];
        // A client that gives up at the end is no failure of the server.
        if stream.read_exact(&mut byte).is_ok() {
            let _gone = stream.write_all(&byte);
            let _closed_first = stream.read(&mut byte);
        }
    }
    Ok(())
}

/// Asks until told to stop.
fn ask(target: SocketAddr, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    pin(0)?;
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut byte = [1];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte).context("waiting for the reply")?;
        drop(stream);
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
