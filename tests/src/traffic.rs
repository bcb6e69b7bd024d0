//! Streams between two namespaces, compared by checksum.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use control::lab::netns::Namespace;

use crate::payload::{random, sha256};

/// How long a stream may stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// A TCP connection between two namespaces.
pub struct Stream {
    client: TcpStream,
    server: TcpStream,
}

impl Stream {
    /// Connects a namespace to a server that it starts at an address of another one.
    pub fn connect(client: &Namespace, server: &Namespace, target: SocketAddr) -> Stream {
        let listener = server.run(|| TcpListener::bind(target)).expect("entering a namespace").expect("listening");
        let connect = || TcpStream::connect_timeout(&target, PATIENCE);
        let client = client.run(connect).expect("entering a namespace").expect("connecting");
        let (server, _) = listener.accept().expect("accepting");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).expect("setting a time limit");
            stream.set_write_timeout(Some(PATIENCE)).expect("setting a time limit");
        }
        Stream { client, server }
    }

    /// Sends so many random bytes from the client to the server and then others back, and compares them.
    pub fn exchange(&mut self, length: usize) {
        pass(&mut self.client, &mut self.server, length);
        pass(&mut self.server, &mut self.client, length);
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, length: usize) {
    let sent = random(length);
    let mut received = vec![0; length];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).expect("sending"));
        to.read_exact(&mut received).expect("receiving");
    });
    assert_eq!(sha256(&received), sha256(&sent), "what arrived is what was sent");
}
