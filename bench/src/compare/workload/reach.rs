//! Whether clients reach what they may and nothing else: the check before their workloads.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::compare::contender::Running;
use crate::compare::policy::{DENIED_PORT, TCP_PORTS};

/// How long an allowed connection may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a denied one is waited for: longer than the first retransmission of its SYN takes, so that two were dropped.
const SILENCE: Duration = Duration::from_millis(1_200);

/// Connects from the generator's end to an allowed port of the pod, and to one that is not; somebody listens on both.
///
/// # Errors
/// When the first is not answered, or the second is.
pub fn check(running: &Running) -> Result<()> {
    let target: IpAddr = running.setting.family.sink().parse().context("an address")?;
    let listen = |port| running.topology.sink.run(|| TcpListener::bind(SocketAddr::new(target, port)));
    let (open, _closed) = (listen(TCP_PORTS.1)??, listen(DENIED_PORT)??);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> std::io::Result<()> { open.accept()?.0.write_all(b"!") });
        let reached = running.topology.generator.run(|| -> Result<()> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(target, TCP_PORTS.1), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream.read_exact(&mut [0])?)
        })?;
        if reached.is_err() {
            // So that the server's wait ends too.
            let own = running.topology.sink.run(|| TcpStream::connect(SocketAddr::new(target, TCP_PORTS.1)))?;
            drop(own);
        }
        reached.context("an allowed connection was not answered")?;
        server.join().map_err(|_| anyhow::anyhow!("the server died"))?.context("answering")
    })?;
    if running.setting.kind.has_rules() {
        let denied = SocketAddr::new(target, DENIED_PORT);
        let answered = running.topology.generator.run(|| TcpStream::connect_timeout(&denied, SILENCE))?;
        ensure!(answered.is_err(), "a connection to a port that is not allowed was answered");
    }
    Ok(())
}
