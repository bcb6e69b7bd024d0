//! Route netlink, synchronously: requests, dumps, and attributes as the kernel writes them.
//!
//! Addresses, routes, rules and neighbours are replayed by the bytes that the kernel dumped: what this crate has never
//! heard of (a metric, an encapsulation, an attribute of a newer kernel) is kept. That is why messages are not parsed
//! into types here.

use std::io;

use libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Length of a netlink header.
const HEADER: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the attribute of an acknowledgement that says in words what was wrong.
const ERROR_MESSAGE: u16 = 1;

/// How often a dump is asked for again when the kernel says that it changed meanwhile.
const DUMP_ATTEMPTS: usize = 16;

/// What the kernel refused, and the words it gave.
#[derive(Debug, thiserror::Error)]
pub struct NetlinkError {
    source: io::Error,
    words: Option<String>,
}

impl std::fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.source)?;
        self.words.iter().try_for_each(|words| write!(f, " ({words})"))
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        NetlinkError { source, words: None }
    }
}

impl NetlinkError {
    /// Whether the kernel answered this `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.source.raw_os_error() == Some(errno)
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// A socket of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// A socket of the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Everything of a kind: the messages without their netlink headers.
    pub(crate) fn dump(&mut self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let (messages, whole) = self.dump_once(kind, body)?;
            if whole {
                return Ok(messages);
            }
        }
        Err(io::Error::other("the kernel's answer kept changing while it was read").into())
    }

    fn dump_once(&mut self, kind: u16, body: &[u8]) -> Result<(Vec<Vec<u8>>, bool)> {
        self.send(kind, NLM_F_DUMP as u16, body)?;
        let mut messages = Vec::new();
        let mut whole = true;
        loop {
            let ended = self.receive(|message| {
                whole &= message.flags & NLM_F_DUMP_INTR as u16 == 0;
                match i32::from(message.kind) {
                    NLMSG_DONE => Ok(true),
                    NLMSG_ERROR => refusal(message.payload).map(|()| true),
                    _ => {
                        messages.push(message.payload.to_vec());
                        Ok(false)
                    }
                }
            })?;
            if ended {
                return Ok((messages, whole));
            }
        }
    }

    /// One message, asked for by name or number.
    pub(crate) fn get(&mut self, kind: u16, body: &[u8]) -> Result<Vec<u8>> {
        self.send(kind, 0, body)?;
        let mut answer = None;
        while !self.receive(|message| {
            if i32::from(message.kind) == NLMSG_ERROR {
                return refusal(message.payload).map(|()| true);
            }
            answer = Some(message.payload.to_vec());
            Ok(true)
        })? {}
        answer.ok_or_else(|| io::Error::other("the kernel gave no answer").into())
    }

    /// A change, which the kernel acknowledges. `flags` are those beside request and acknowledgement.
    pub(crate) fn change(&mut self, kind: u16, flags: i32, body: &[u8]) -> Result<()> {
        self.send(kind, (flags | NLM_F_ACK) as u16, body)?;
        while !self.receive(|message| match i32::from(message.kind) {
            NLMSG_ERROR => refusal(message.payload).map(|()| true),
            _ => Ok(false),
        })? {}
        Ok(())
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = vec![0; HEADER + body.len()];
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut message = NetlinkBuffer::new(&mut bytes[..]);
        message.set_length(length);
        message.set_message_type(kind);
        message.set_flags(flags | NLM_F_REQUEST as u16);
        message.set_sequence_number(self.sequence);
        message.set_port_number(0);
        bytes[HEADER..].copy_from_slice(body);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// One datagram: gives each message that answers the last request to `take`, until that says that it was the last.
    fn receive(&mut self, mut take: impl FnMut(Message<'_>) -> Result<bool>) -> Result<bool> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while rest.len() >= HEADER {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let length = message.length() as usize;
            if message.sequence_number() == self.sequence {
                let (kind, flags) = (message.message_type(), message.flags());
                if take(Message { kind, flags, payload: &rest[HEADER..length] })? {
                    return Ok(true);
                }
            }
            rest = rest.get(aligned(length)..).unwrap_or_default();
        }
        Ok(false)
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

/// An acknowledgement: 0 is yes, anything else a negative `errno`, perhaps with words.
fn refusal(payload: &[u8]) -> Result<()> {
    let code = payload.first_chunk().map_or(-libc::EPROTO, |&bytes| i32::from_ne_bytes(bytes));
    if code == 0 {
        return Ok(());
    }
    let words = attribute(payload.get(4 + HEADER..).unwrap_or_default(), ERROR_MESSAGE).map(text);
    Err(NetlinkError { source: io::Error::from_raw_os_error(-code), words })
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// The attributes of a message, without flags in their kinds. Ends where the bytes make no sense.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        // `value` borrows from the buffer that goes out of scope: take the bytes from the message itself.
        let (kind, length) = (attribute.kind(), attribute.value_length());
        let whole = attribute.into_inner();
        Some((kind, whole.get(4..4 + length)?))
    })
}

/// The first attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A number of 32 bits.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes))
}

/// A text that may end with zeros.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A message being written: a fixed header, then attributes.
#[derive(Clone, Debug)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    /// Starts with the fixed header of the message's family.
    pub(crate) fn new(header: &[u8]) -> Self {
        Body(header.to_vec())
    }

    /// Appends an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // No attribute of ours comes near the limit, and those of the kernel are below it.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// Appends a number of 32 bits.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Appends a text, which ends with a zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// Appends attributes within an attribute.
    pub(crate) fn nested(self, kind: u16, inner: &Body) -> Self {
        self.with(kind | libc::NLA_F_NESTED as u16, &inner.0)
    }

    /// Appends what `value` gives, if it gives something.
    pub(crate) fn maybe(self, kind: u16, value: Option<u32>) -> Self {
        match value {
            Some(value) => self.number(kind, value),
            None => self,
        }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written() {
        let inner = Body::new(&[]).text(1, "veth");
        let body = Body::new(&[0; 16]).number(4, 9001).text(3, "eth0").nested(18, &inner);
        let found: Vec<_> = attributes(&body.bytes()[16..]).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(attribute(&body.bytes()[16..], 4).and_then(number), Some(9001));
        assert_eq!(attribute(&body.bytes()[16..], 3).map(text).as_deref(), Some("eth0"));
        let nested = attribute(&body.bytes()[16..], 18).unwrap();
        assert_eq!(attribute(nested, 1).map(text).as_deref(), Some("veth"));
    }

    #[test]
    fn bytes_that_make_no_sense_end_the_attributes() {
        let mut bytes = Body::new(&[]).number(4, 1).bytes().to_vec();
        bytes.extend_from_slice(&[200, 0, 3, 0, 1]);
        assert_eq!(attributes(&bytes).count(), 1);
    }

    #[test]
    fn a_refusal_says_what_the_kernel_says() {
        let mut payload = (-libc::EEXIST).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER]);
        let payload = Body::new(&payload).text(ERROR_MESSAGE, "Name taken");
        let error = refusal(payload.bytes()).unwrap_err();
        assert!(error.is(libc::EEXIST));
        assert_eq!(error.to_string(), "File exists (os error 17) (Name taken)");
        assert!(refusal(&[0; 20]).is_ok());
    }
}
