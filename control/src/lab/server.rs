//! The small servers: one on each container port of each pod, and on the outside host's addresses.
//!
//! A TCP server accepts and answers one line, a UDP server answers each datagram; the answer names who answers. A TCP
//! client that begins with an HTTP/1 request gets the line as the body of a response, so that curl and wget can be used.
//! Sockets are made inside the pod's namespace and served by the lab's runtime, so a lab is one process.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::packet::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::error::{LabError, Result};
use super::netns::Namespace;
use crate::policy::probe::Service;

/// How long a TCP server keeps a connection for its client to close.
const LINGER: Duration = Duration::from_secs(2);

/// How long a TCP server waits for a client to speak first. Only a client that neither speaks nor closes waits so long;
/// shorter, and a web client on a busy machine would be taken for a silent one.
const SPEAK_FIRST: Duration = Duration::from_millis(250);

/// Longest first line of an HTTP request, in bytes.
const LONGEST_LINE: usize = 8192;

/// Servers of one host; dropping it closes them.
#[derive(Debug)]
pub(super) struct Servers {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What a server answers.
pub(super) fn answer(name: &str, service: Service) -> String {
    format!("{name} {service}\n")
}

/// Starts servers for each address and service. `name` says who answers on an address. SCTP is left out: the lab does
/// not speak it. A port that is taken (two hostNetwork pods of a node) is left to whoever had it first.
///
/// # Errors
/// When a socket cannot be made. Must be called within a runtime.
pub(super) fn serve(
    namespace: &Namespace,
    addresses: &[IpAddr],
    services: &[Service],
    name: impl Fn(IpAddr) -> String,
) -> Result<Servers> {
    let wanted: Vec<(IpAddr, Service)> =
        addresses.iter().flat_map(|&address| services.iter().map(move |&service| (address, service))).collect();
    let open = || wanted.iter().map(|&(address, service)| listen(address, service)).collect::<Vec<_>>();
    let sockets =
        namespace.run(open).map_err(|error| LabError::system(format!("enter {}", namespace.name()), error))?;
    let mut servers = Servers { tasks: Vec::new() };
    for (&(address, service), socket) in wanted.iter().zip(sockets) {
        let refused = |error| LabError::system(format!("listen on {service} of {address}"), error);
        let answer = answer(&name(address), service);
        match socket {
            Ok(Some(Listener::Tcp(listener))) => {
                let listener = TcpListener::from_std(listener).map_err(refused)?;
                servers.tasks.push(tokio::spawn(serve_tcp(listener, answer)));
            }
            Ok(Some(Listener::Udp(socket))) => {
                let socket = UdpSocket::from_std(socket).map_err(refused)?;
                servers.tasks.push(tokio::spawn(serve_udp(socket, answer)));
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(%address, %service, "port is taken already; the pod does not answer there");
            }
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(servers)
}

enum Listener {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

fn listen(address: IpAddr, service: Service) -> io::Result<Option<Listener>> {
    let (kind, tcp) = match service.protocol {
        Protocol::TCP => (Type::STREAM, true),
        Protocol::UDP => (Type::DGRAM, false),
        _ => return Ok(None),
    };
    let address = SocketAddr::new(address, service.port);
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if tcp {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if tcp {
        socket.listen(256)?;
        return Ok(Some(Listener::Tcp(socket.into())));
    }
    Ok(Some(Listener::Udp(socket.into())))
}

async fn serve_tcp(listener: TcpListener, answer: String) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(LINGER, say(stream, &answer)).await;
                });
            }
            // Out of descriptors, most likely: the next one may find some.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Says the line and waits for the client to close: a reset would lose what it has not read yet.
async fn say(mut stream: TcpStream, answer: &str) -> io::Result<()> {
    let mut heard = Vec::new();
    // Silence is an answer too: a client that only listens.
    let _ = tokio::time::timeout(SPEAK_FIRST, hear_line(&mut stream, &mut heard)).await;
    stream.write_all(response(&heard, answer).as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}

/// Reads until the end of the first line, or until the client has nothing more to say.
async fn hear_line(stream: &mut TcpStream, heard: &mut Vec<u8>) -> io::Result<()> {
    while !heard.contains(&b'\n') && heard.len() < LONGEST_LINE {
        if stream.read_buf(heard).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// The answer in the form that the client's first line asks for: an HTTP response (RFC 9112) or the plain line.
fn response(heard: &[u8], answer: &str) -> String {
    let line = heard.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let words: Vec<&str> = str::from_utf8(line).unwrap_or_default().split_ascii_whitespace().collect();
    let [method, _, version] = words[..] else { return answer.to_owned() };
    if !version.starts_with("HTTP/1.") || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return answer.to_owned();
    }
    let body = if method == "HEAD" { "" } else { answer };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        answer.len()
    )
}

async fn serve_udp(socket: UdpSocket, answer: String) {
    let mut datagram = [0; 2048];
    loop {
        // An error is about an earlier answer (its client is gone) and concerns nobody else.
        if let Ok((_, client)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(answer.as_bytes(), client).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_a_response_and_everything_else_the_line() {
        let full = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\nConnection: close\r\n\r\n";
        let body = "a/b TCP/80\n";
        assert_eq!(response(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", body), format!("{full}{body}"));
        assert_eq!(response(b"HEAD / HTTP/1.0\r\n", body), full);
        let others =
            ["", "\n", "GET /\n", "get / HTTP/1.1\n", "GET / HTTP/2\n", "GET / x HTTP/1.1\n", "\u{e9} / HTTP/1.1"];
        for other in others {
            assert_eq!(response(other.as_bytes(), body), body, "{other:?}");
        }
        assert_eq!(response(b"\xff / HTTP/1.1\r\n", body), body);
    }
}
