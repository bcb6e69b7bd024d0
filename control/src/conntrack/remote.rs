//! Looking connections up in a process of its own: whoever judges packets has not the privilege to ask the kernel. Questions and answers are
//! datagrams in order, each whole or not at all, with a number by which late answers are told from those that are waited for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use dataplane::packet::Tuple;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::asking::{Found, LookUp, MOST};

/// How long an answer may take: less than a worker's frames wait ([`dataplane::worker::ASK_TIMEOUT`]).
const PATIENCE: Duration = Duration::from_millis(300);

/// Room for [`MOST`] answers.
const LARGEST: usize = MOST * 256;

/// The two ends: of who asks, and of who answers.
///
/// # Errors
/// When the system gives no sockets.
pub fn pair() -> io::Result<[OwnedFd; 2]> {
    let (asking, answering) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Set here: who asks may not set anything once it has shut itself in.
    set_socket_timeout(&asking, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(&asking, Timeout::Send, Some(PATIENCE))?;
    Ok([asking, answering])
}

/// Answers until the other end is gone.
///
/// # Errors
/// When the socket fails.
pub fn serve(socket: &OwnedFd, look_up: &mut impl LookUp) -> io::Result<()> {
    let mut bytes = vec![0; LARGEST];
    loop {
        let (length, _) = rustix::io::retry_on_intr(|| recv(socket, &mut bytes[..], RecvFlags::empty()))?;
        if length == 0 {
            return Ok(());
        }
        let (number, tuples): (u64, Vec<Tuple>) =
            postcard::from_bytes(&bytes[..length.min(LARGEST)]).map_err(io::Error::other)?;
        let answer = (number, look_up.look_up(&tuples));
        let answer = postcard::to_stdvec(&answer).map_err(io::Error::other)?;
        rustix::io::retry_on_intr(|| send(socket, &answer, SendFlags::NOSIGNAL))?;
    }
}

/// Asks the other process. Sockets to it come by a channel, the last one counts; before the first every look-up fails.
#[derive(Debug)]
pub struct Remote {
    sockets: Receiver<OwnedFd>,
    socket: Option<OwnedFd>,
    number: u64,
    bytes: Vec<u8>,
}

impl Remote {
    /// Asks by what comes by a channel.
    pub fn new(sockets: Receiver<OwnedFd>) -> Remote {
        Remote { sockets, socket: None, number: 0, bytes: vec![0; LARGEST] }
    }

    fn ask(&mut self, tuples: &[Tuple]) -> io::Result<Vec<Found>> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        self.number += 1;
        let question = postcard::to_stdvec(&(self.number, tuples)).map_err(io::Error::other)?;
        send(socket, &question, SendFlags::NOSIGNAL)?;
        loop {
            let (length, _) = recv(socket, &mut self.bytes[..], RecvFlags::empty())?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = &self.bytes[..length.min(LARGEST)];
            let (number, found): (u64, Vec<Found>) = postcard::from_bytes(bytes).map_err(io::Error::other)?;
            // Others are answers to questions that were given up.
            if number == self.number {
                return Ok(found);
            }
        }
    }
}

impl LookUp for Remote {
    fn look_up(&mut self, tuples: &[Tuple]) -> Vec<Found> {
        while let Ok(socket) = self.sockets.try_recv() {
            self.socket = Some(socket);
        }
        self.ask(tuples).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use dataplane::address::Address;
    use dataplane::packet::Protocol;

    use super::super::Connection;
    use super::*;

    /// Finds what was asked for, or nobody on port 1, and takes its time on port 2.
    struct Echo;

    impl LookUp for Echo {
        fn look_up(&mut self, tuples: &[Tuple]) -> Vec<Found> {
            let found = |tuple: &Tuple| match tuple.source_port {
                1 => Found::Nobody,
                2 => {
                    std::thread::sleep(PATIENCE + Duration::from_millis(100));
                    Found::Failed
                }
                _ => Found::Connection(Connection { original: *tuple, reply: tuple.reverse() }),
            };
            tuples.iter().map(found).collect()
        }
    }

    fn tuple(source_port: u16) -> Tuple {
        let (source, destination) = (Address::from(std::net::IpAddr::from([0xff; 16])), Address::v4([10, 0, 0, 2]));
        Tuple { source, destination, protocol: Protocol::UDP, source_port, destination_port: 9 }
    }

    #[test]
    fn answers_come_in_order_and_late_ones_are_not_taken_for_others() {
        let [asking, answering] = pair().unwrap();
        let server = std::thread::spawn(move || serve(&answering, &mut Echo));
        let (sender, sockets) = channel();
        let mut remote = Remote::new(sockets);
        assert_eq!(remote.look_up(&[tuple(7)]), [], "there is nobody to ask");
        sender.send(asking).unwrap();
        let many: Vec<Tuple> = (10..10 + MOST as u16).map(tuple).collect();
        let found = |tuple: &Tuple| Found::Connection(Connection { original: *tuple, reply: tuple.reverse() });
        assert_eq!(remote.look_up(&many), many.iter().map(found).collect::<Vec<_>>());
        assert_eq!(remote.look_up(&[tuple(2)]), [], "too late");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(remote.look_up(&[tuple(1)]), [Found::Nobody], "and its answer is not that of the next question");
        drop((remote, sender));
        server.join().unwrap().unwrap();
    }
}
