//! The kernel's connection tracking, asked for one connection at a time: whom an address that was rewritten stands for.
//!
//! Questions and answers are those of ctnetlink (`IPCTNL_MSG_CT_GET`, nfnetlink_conntrack.h). The kernel looks a connection up by either of
//! its tuples: the *original*, as its first packet came in, and the *reply*, as answers to what that packet was made into come back. The
//! socket belongs to the network namespace of the thread that opened it, and whoever asks needs CAP_NET_ADMIN there.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use asking::Found;
use dataplane::address::Address;
use dataplane::packet::{Protocol, Tuple};
use netlink_packet_core::{DefaultNla, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple as Part};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send, socket_with,
};
use serde::{Deserialize, Serialize};

pub mod asking;
pub mod remote;
#[cfg(test)]
mod tests;

/// How long the kernel may take to answer: it does so within the system call that asks.
const PATIENCE: Duration = Duration::from_millis(250);

/// Room for an answer: some two hundred bytes, and more with timestamps, labels and helpers.
const ANSWER: usize = 4096;

/// Of an ICMP tuple the identifier, the type and the code (`CTA_PROTO_ICMP_ID` and so on, nfnetlink_conntrack.h).
const ICMP: [u16; 3] = [4, 5, 6];
/// The same of ICMPv6.
const ICMPV6: [u16; 3] = [7, 8, 9];

/// A connection as the kernel knows it. Ports of an ICMP echo are its identifier, at the end that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Who opened it towards whom, before anything was rewritten.
    pub original: Tuple,
    /// What answers look like when they come in: from whom it really went to, to whom that one takes the opener for.
    pub reply: Tuple,
}

/// A socket to ask by.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

impl Conntrack {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no netfilter sockets.
    pub fn open() -> io::Result<Conntrack> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Conntrack { socket, sequence: 0, answer: vec![0; ANSWER] })
    }

    /// The connection whose packets look like this somewhere on their way: by the tuple that its opener sent, or that answers come in
    /// with. `None` when the kernel knows none.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses: without CAP_NET_ADMIN with [`io::ErrorKind::PermissionDenied`].
    pub fn find(&mut self, tuple: &Tuple) -> io::Result<Option<Connection>> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = question(tuple, self.sequence);
        send(&self.socket, &question, SendFlags::empty())?;
        loop {
            let (length, _) = recv(&self.socket, &mut self.answer[..], RecvFlags::empty())?;
            let bytes = self.answer.get(..length).unwrap_or_default();
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(bytes).map_err(io::Error::other)?;
            if message.header.sequence_number != self.sequence {
                // The answer to a question that was given up.
                continue;
            }
            return match message.payload {
                NetlinkPayload::InnerMessage(message) => Ok(connection(&message)),
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
                }
                _ => Err(io::Error::other("the kernel's answer is none about connections")),
            };
        }
    }
}

/// The message that asks.
fn question(tuple: &Tuple, sequence: u32) -> Vec<u8> {
    let (source, destination) = (IpAddr::from(tuple.source), IpAddr::from(tuple.destination));
    let family = if source.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    let addresses = vec![IPTuple::SourceAddress(source), IPTuple::DestinationAddress(destination)];
    let mut protocol = vec![ProtoTuple::Protocol(tuple.protocol.0.into())];
    let other = |kind, value: &[u8]| ProtoTuple::Other(DefaultNla::new(kind, value.to_vec()));
    match tuple.protocol {
        Protocol::ICMP | Protocol::ICMPV6 => {
            let v4 = tuple.protocol == Protocol::ICMP;
            // The identifier stands at the end that asks ([`dataplane::packet::Packet::ports`]).
            let is_request = tuple.source_port != 0 || tuple.destination_port == 0;
            let (identifier, kinds) = (tuple.source_port | tuple.destination_port, if v4 { ICMP } else { ICMPV6 });
            let kind: u8 = match (v4, is_request) {
                (true, true) => 8,
                (true, false) => 0,
                (false, true) => 128,
                (false, false) => 129,
            };
            protocol.push(other(kinds[0], &identifier.to_be_bytes()));
            protocol.push(other(kinds[1], &[kind]));
            protocol.push(other(kinds[2], &[0]));
        }
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            protocol.push(ProtoTuple::SourcePort(tuple.source_port));
            protocol.push(ProtoTuple::DestinationPort(tuple.destination_port));
        }
        _ => {}
    }
    let asked = ConntrackAttribute::CtaTupleOrig(vec![Part::Ip(addresses), Part::Proto(protocol)]);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), ConntrackMessage::Get(vec![asked]));
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn connection(message: &NetfilterMessage) -> Option<Connection> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else { return None };
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            _ => {}
        }
    }
    Some(Connection { original: original?, reply: reply? })
}

fn tuple(parts: &[Part]) -> Option<Tuple> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut ports, mut identifier, mut kind) = ([0; 2], 0, 0);
    for part in parts {
        match part {
            Part::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(Address::from(*address)),
                        IPTuple::DestinationAddress(address) => destination = Some(Address::from(*address)),
                        _ => {}
                    }
                }
            }
            Part::Proto(values) => {
                for value in values {
                    match value {
                        ProtoTuple::Protocol(number) => protocol = Some(Protocol((*number).into())),
                        ProtoTuple::SourcePort(port) => ports[0] = *port,
                        ProtoTuple::DestinationPort(port) => ports[1] = *port,
                        ProtoTuple::Other(other) => {
                            let mut bytes = [0; 2];
                            let bytes = match other.value_len() {
                                1 => {
                                    other.emit_value(&mut bytes[1..]);
                                    bytes
                                }
                                2 => {
                                    other.emit_value(&mut bytes);
                                    bytes
                                }
                                _ => continue,
                            };
                            let number = u16::from_be_bytes(bytes);
                            match other.kind() {
                                at if at == ICMP[0] || at == ICMPV6[0] => identifier = number,
                                at if at == ICMP[1] || at == ICMPV6[1] => kind = number,
                                _ => {}
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let protocol = protocol?;
    let [source_port, destination_port] = match protocol {
        Protocol::ICMP | Protocol::ICMPV6 if matches!(kind, 8 | 128) => [identifier, 0],
        Protocol::ICMP | Protocol::ICMPV6 => [0, identifier],
        _ => ports,
    };
    Some(Tuple { source: source?, destination: destination?, protocol, source_port, destination_port })
}

impl asking::LookUp for Conntrack {
    fn look_up(&mut self, tuples: &[Tuple]) -> Vec<Found> {
        let found = |tuple| match self.find(tuple) {
            Ok(Some(connection)) => Found::Connection(connection),
            Ok(None) => Found::Nobody,
            Err(_) => Found::Failed,
        };
        tuples.iter().map(found).collect()
    }
}
