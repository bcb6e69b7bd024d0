//! What the kernel does with packets, as it tells: rules of our own before and behind the filter table send each packet that
//! comes by to a netlink socket (NFLOG), with the hook, the state of its connection and the two interfaces.

use dataplane::port::netns;
use gateway::model::{Hook, States};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{ConfigCmd, ConfigMode, PacketNla, ULogMessage, config_request};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

/// The group that the rules send to.
const GROUP: u16 = 1;

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The gateway sends it: before anything else.
    Sent,
    /// Before the filter table, with its state.
    Before(States),
    /// Behind the filter table: it has passed.
    After,
}

/// A packet that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) hook: Hook,
    pub(crate) input: Option<u32>,
    pub(crate) output: Option<u32>,
    pub(crate) bytes: Vec<u8>,
}

/// The hooks with the letters and the nft hooks that stand for them.
const HOOKS: [(Hook, char, &str); 3] =
    [(Hook::Input, 'i', "input"), (Hook::Forward, 'f', "forward"), (Hook::Output, 'o', "output")];

/// The nft table. `steering` are rules for what comes in, before conntrack sees it.
pub(crate) fn table(steering: &str, sent: &str) -> String {
    let states: [(&str, States); 5] = [
        ("new", States::NEW),
        ("established", States::ESTABLISHED),
        ("related", States::RELATED),
        ("invalid", States::INVALID),
        ("untracked", States::UNTRACKED),
    ];
    let log = |prefix: String| format!("log prefix \"{prefix}\" group {GROUP} snaplen 256 queue-threshold 1");
    let mut text = format!(
        "table inet observer {{\nchain steer {{ type filter hook prerouting priority -350;\n{steering}\n}}\n\
         chain sent {{ type filter hook output priority -350;\n{}\n{sent}\n}}\n",
        log("so0".to_owned())
    );
    for (_, letter, hook) in HOOKS {
        text += &format!("chain before_{hook} {{ type filter hook {hook} priority -1; meta mark set 0\n");
        for (name, state) in states {
            text += &format!("ct state {name} {}\n", log(format!("b{letter}{}", state.0)));
        }
        let after = log(format!("a{letter}0"));
        text += &format!("}}\nchain after_{hook} {{ type filter hook {hook} priority 1; {after}\n}}\n");
    }
    text + "}\n"
}

/// The netlink socket.
pub(crate) struct Observer {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Observer {
    /// Listens in the namespace of the calling thread.
    pub(crate) fn open() -> Observer {
        let mut socket = Socket::new(NETLINK_NETFILTER).expect("a netlink socket");
        socket.bind_auto().expect("binding a netlink socket");
        socket.set_rx_buf_sz(8 << 20).expect("a larger buffer");
        let mut observer = Observer { socket, buffer: vec![0; 1 << 16] };
        let wanted = vec![ConfigCmd::Bind.into(), ConfigMode::new_packet(256).into()];
        let request = config_request(NetfilterProtoFamily::Unspec, GROUP, wanted);
        let mut bytes = vec![0; request.header.length as usize];
        request.serialize(&mut bytes);
        observer.socket.send(&bytes, 0).expect("asking for the group");
        let size = observer.socket.recv(&mut &mut observer.buffer[..], 0).expect("an answer");
        let answer = <NetlinkMessage<NetfilterMessage>>::deserialize(&observer.buffer[..size]).expect("a message");
        assert!(matches!(&answer.payload, NetlinkPayload::Error(error) if error.code.is_none()), "{answer:?}");
        observer.socket.set_non_blocking(true).expect("a socket that does not wait");
        observer
    }

    /// What was seen since the last call, in order.
    pub(crate) fn drain(&mut self, seen: &mut Vec<Seen>) {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(size) => self.parse(size, seen),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("reading what the kernel saw: {error}"),
            }
        }
    }

    fn parse(&self, size: usize, seen: &mut Vec<Seen>) {
        let mut at = 0;
        while at < size {
            let message = <NetlinkMessage<NetfilterMessage>>::deserialize(&self.buffer[at..size]).expect("a message");
            if let NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)),
                ..
            }) = &message.payload
            {
                seen.extend(one(attributes));
            }
            at += (message.header.length as usize).next_multiple_of(4).max(16);
        }
    }
}

fn one(attributes: &[PacketNla]) -> Option<Seen> {
    let (mut prefix, mut bytes, mut input, mut output) = (None, Vec::new(), None, None);
    for attribute in attributes {
        match attribute {
            PacketNla::Prefix(text) => prefix = text.to_str().ok(),
            PacketNla::Payload(payload) => bytes.clone_from(payload),
            PacketNla::IfIndexInDev(index) => input = Some(*index),
            PacketNla::IfIndexOutDev(index) => output = Some(*index),
            _ => {}
        }
    }
    let prefix = prefix?;
    let letter = prefix.chars().nth(1)?;
    let (hook, ..) = HOOKS.into_iter().find(|(_, of, _)| *of == letter)?;
    let phase = match prefix.as_bytes()[0] {
        b's' => Phase::Sent,
        b'b' => Phase::Before(States(prefix[2..].parse().ok()?)),
        _ => Phase::After,
    };
    // An interface that a hook does not have is not looked at by rules there.
    let input = input.filter(|_| hook != Hook::Output);
    let output = output.filter(|_| hook != Hook::Input);
    Some(Seen { phase, hook, input, output, bytes })
}

/// Runs `work` in a network namespace of its own.
pub(crate) fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let namespace = netns::NetworkNamespace::unnamed().expect("a network namespace (the tests need root)");
    netns::enter(&namespace, work).expect("entering the namespace")
}
