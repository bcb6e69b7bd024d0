//! Interfaces: what the kernel says of one, and the changes that a splice makes.

use libc::{IFF_ALLMULTI, IFF_LOWER_UP, IFF_NOARP, IFF_PROMISC, IFF_UP, NLM_F_CREATE, NLM_F_EXCL};
use libc::{RTM_DELLINK, RTM_GETLINK, RTM_GETNSID, RTM_NEWLINK, RTM_SETLINK};
use serde::{Deserialize, Serialize};

use crate::error::{Result, SpliceError};
use crate::netlink::{Body, Netlink, NetlinkError, attribute, attributes, number, text};
use crate::netns::Namespace;
use crate::snapshot::Raw;

/// `VETH_INFO_PEER` (linux/veth.h).
const VETH_PEER: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE` (linux/if_link.h).
const ADDRESS_GENERATION: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE`: the kernel makes no link-local address by itself.
pub(crate) const GENERATE_NONE: u8 = 1;
/// `NETNSA_NSID`, `NETNSA_FD` (linux/net_namespace.h).
const NAMESPACE_NUMBER: u16 = 1;
const NAMESPACE_DESCRIPTOR: u16 = 3;
/// `IFLA_NEW_IFINDEX`: the index that an interface has in the namespace that it is moved to.
const NEW_INDEX: u16 = 49;
/// `IFLA_PROP_LIST`, `IFLA_ALT_IFNAME`, `RTM_NEWLINKPROP`: further names.
const PROPERTIES: u16 = 52;
const ALTERNATIVE_NAME: u16 = 53;
const RTM_NEWLINKPROP: u16 = 108;
/// `IFLA_GSO_MAX_SEGS`, `IFLA_GSO_MAX_SIZE`, `IFLA_GRO_MAX_SIZE`, `IFLA_GSO_IPV4_MAX_SIZE`, `IFLA_GRO_IPV4_MAX_SIZE`: limits
/// that a pod's interface may have of its own.
const SIZE_LIMITS: [u16; 5] = [40, 41, 58, 63, 64];

/// Flags that somebody set on an interface and that belong to it.
const OWN_FLAGS: u32 = (IFF_PROMISC | IFF_ALLMULTI | IFF_NOARP) as u32;

/// What a new interface in another's place has to have like it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Likeness {
    /// Name.
    pub(crate) name: String,
    /// Flags, all that the kernel tells.
    pub(crate) flags: u32,
    /// MTU in bytes.
    pub(crate) mtu: u32,
    /// Hardware address.
    pub(crate) mac: Raw,
    /// Length of the transmit queue in frames.
    pub(crate) queue_length: u32,
    /// Transmit and receive queues.
    pub(crate) queues: (u32, u32),
    /// Group.
    pub(crate) group: Option<u32>,
    /// Alias, for people.
    pub(crate) alias: Option<String>,
    /// Further names.
    pub(crate) alternative_names: Vec<String>,
    /// How the kernel makes IPv6 link-local addresses, if the kernel has IPv6.
    pub(crate) address_generation: Option<u8>,
    /// Attributes of [`SIZE_LIMITS`].
    pub(crate) limits: Vec<(u16, u32)>,
}

/// An interface.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Index.
    pub(crate) index: u32,
    /// `veth`, `bridge`, …; none for hardware.
    pub(crate) kind: Option<String>,
    /// Index of the other end, or of the interface below.
    pub(crate) peer: Option<u32>,
    /// Number of the namespace in which the peer is, if that is another one.
    pub(crate) peer_namespace: Option<i32>,
    /// Index of the bridge or bond above.
    pub(crate) master: Option<u32>,
    /// Queueing discipline.
    pub(crate) discipline: String,
    /// What a replacement has to have.
    pub(crate) like: Likeness,
}

impl Link {
    /// Reads a `RTM_NEWLINK` message.
    fn parse(message: &[u8]) -> Option<Link> {
        let index = number(message.get(4..8)?)?;
        let flags = number(message.get(8..12)?)?;
        let body = message.get(16..)?;
        let field = |kind: u16| attribute(body, kind);
        let value = |kind: u16| field(kind).and_then(number);
        let names = field(PROPERTIES).map(|list| {
            let names = attributes(list).filter(|&(kind, _)| kind == ALTERNATIVE_NAME);
            names.map(|(_, value)| text(value)).collect()
        });
        let generation = field(libc::IFLA_AF_SPEC)
            .and_then(|families| attribute(families, libc::AF_INET6 as u16))
            .and_then(|inet6| attribute(inet6, ADDRESS_GENERATION)?.first().copied());
        Some(Link {
            index,
            kind: field(libc::IFLA_LINKINFO).and_then(|info| attribute(info, libc::IFLA_INFO_KIND)).map(text),
            peer: value(libc::IFLA_LINK),
            peer_namespace: value(libc::IFLA_LINK_NETNSID).map(u32::cast_signed),
            master: value(libc::IFLA_MASTER),
            discipline: field(libc::IFLA_QDISC).map(text).unwrap_or_default(),
            like: Likeness {
                name: field(libc::IFLA_IFNAME).map(text)?,
                flags,
                mtu: value(libc::IFLA_MTU)?,
                mac: Raw(field(libc::IFLA_ADDRESS).unwrap_or_default().to_vec()),
                queue_length: value(libc::IFLA_TXQLEN).unwrap_or_default(),
                queues: (value(libc::IFLA_NUM_TX_QUEUES).unwrap_or(1), value(libc::IFLA_NUM_RX_QUEUES).unwrap_or(1)),
                group: value(libc::IFLA_GROUP),
                alias: field(libc::IFLA_IFALIAS).map(text),
                alternative_names: names.unwrap_or_default(),
                address_generation: generation,
                limits: SIZE_LIMITS.iter().filter_map(|&kind| Some((kind, value(kind)?))).collect(),
            },
        })
    }

    /// Whether somebody set it up.
    pub(crate) fn is_up(&self) -> bool {
        self.like.flags & IFF_UP as u32 != 0
    }

    /// Whether it has a carrier: the other end is up too.
    pub(crate) fn has_carrier(&self) -> bool {
        self.like.flags & IFF_LOWER_UP as u32 != 0
    }

    /// Whether it is one end of a pair.
    pub(crate) fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

/// The fixed header of link messages (`struct ifinfomsg`).
fn header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// All interfaces.
pub(crate) fn all(netlink: &mut Netlink) -> Result<Vec<Link>> {
    let messages = netlink.dump(RTM_GETLINK, &header(0, 0, 0)).map_err(SpliceError::kernel("listing interfaces"))?;
    Ok(messages.iter().filter_map(|message| Link::parse(message)).collect())
}

/// The interface of that index, if there is one.
pub(crate) fn by_index(netlink: &mut Netlink, index: u32) -> Result<Option<Link>> {
    match netlink.get(RTM_GETLINK, &header(index, 0, 0)) {
        Ok(message) => Ok(Link::parse(&message)),
        Err(error) if error.is(libc::ENODEV) => Ok(None),
        Err(error) => Err(SpliceError::kernel(format!("looking at interface {index}"))(error)),
    }
}

/// The number under which the socket's namespace knows another one; none if no interface joins them.
pub(crate) fn namespace_number(netlink: &mut Netlink, other: &Namespace) -> Result<Option<i32>> {
    let body = Body::new(&[0; 4]).number(NAMESPACE_DESCRIPTOR, other.descriptor().cast_unsigned());
    let answer = netlink
        .get(RTM_GETNSID, body.bytes())
        .map_err(SpliceError::kernel(format!("asking for the number of namespace {}", other.path().display())))?;
    let number = answer.get(4..).and_then(|body| attribute(body, NAMESPACE_NUMBER)).and_then(number);
    Ok(number.map(u32::cast_signed).filter(|&number| number >= 0))
}

/// One end of a pair that is to be made.
pub(crate) struct End<'a> {
    /// Name.
    pub(crate) name: &'a str,
    /// Index.
    pub(crate) index: u32,
    /// Hardware address; none: any.
    pub(crate) mac: Option<&'a [u8]>,
    /// MTU in bytes.
    pub(crate) mtu: u32,
}

impl End<'_> {
    fn body(&self, queue_length: u32, queues: (u32, u32)) -> Body {
        let body = Body::new(&header(self.index, 0, 0))
            .text(libc::IFLA_IFNAME, self.name)
            .number(libc::IFLA_MTU, self.mtu)
            .number(libc::IFLA_TXQLEN, queue_length)
            .number(libc::IFLA_NUM_TX_QUEUES, queues.0)
            .number(libc::IFLA_NUM_RX_QUEUES, queues.1);
        match self.mac {
            Some(mac) => body.with(libc::IFLA_ADDRESS, mac),
            None => body,
        }
    }
}

/// Makes a veth pair: `near` in the socket's namespace, `far` in another, both down. Their queues fit each other, so that
/// an XDP program may be attached at either.
pub(crate) fn create_pair(
    netlink: &mut Netlink,
    near: &End<'_>,
    far: (&End<'_>, &Namespace),
    like: &Likeness,
) -> Result<()> {
    let (transmit, receive) = like.queues;
    let (far, namespace) = far;
    let peer = far
        .body(like.queue_length, (receive, transmit))
        .number(libc::IFLA_NET_NS_FD, namespace.descriptor().cast_unsigned());
    let data = Body::new(&[]).nested(VETH_PEER, &peer);
    let info = Body::new(&[]).text(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, &data);
    let body = near.body(like.queue_length, like.queues).nested(libc::IFLA_LINKINFO, &info);
    netlink
        .change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body.bytes())
        .map_err(SpliceError::kernel(format!("making the pair {} – {}", near.name, far.name)))
}

/// Moves an interface to another namespace, where it has this name and, if given, this index. It is down then, and its
/// addresses, routes and settings are gone.
pub(crate) fn move_to(
    netlink: &mut Netlink,
    index: u32,
    namespace: &Namespace,
    name: &str,
    new_index: Option<u32>,
) -> Result<()> {
    let body = Body::new(&header(index, 0, 0))
        .number(libc::IFLA_NET_NS_FD, namespace.descriptor().cast_unsigned())
        .text(libc::IFLA_IFNAME, name)
        .maybe(NEW_INDEX, new_index);
    netlink
        .change(RTM_SETLINK, 0, body.bytes())
        .map_err(SpliceError::kernel(format!("moving interface {index} to {}", namespace.path().display())))
}

/// Removes an interface, and with it its peer. That it is gone already is no error.
pub(crate) fn delete(netlink: &mut Netlink, index: u32) -> Result<()> {
    match netlink.change(RTM_DELLINK, 0, &header(index, 0, 0)) {
        Err(error) if !error.is(libc::ENODEV) => Err(SpliceError::kernel(format!("removing interface {index}"))(error)),
        _ => Ok(()),
    }
}

/// Sets an interface up or down.
pub(crate) fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> Result<()> {
    set_flags(netlink, index, if up { IFF_UP as u32 } else { 0 }, IFF_UP as u32)
}

fn set_flags(netlink: &mut Netlink, index: u32, flags: u32, change: u32) -> Result<()> {
    netlink
        .change(RTM_SETLINK, 0, &header(index, flags, change))
        .map_err(SpliceError::kernel(format!("setting flags of interface {index}")))
}

/// Sets the MTU, in bytes.
pub(crate) fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u32) -> Result<()> {
    let body = Body::new(&header(index, 0, 0)).number(libc::IFLA_MTU, mtu);
    netlink
        .change(RTM_SETLINK, 0, body.bytes())
        .map_err(SpliceError::kernel(format!("setting the MTU of interface {index} to {mtu}")))
}

/// Makes an end in a wire namespace what it has to be: up, no ARP, and with this hardware address and MTU.
pub(crate) fn settle_wire_end(netlink: &mut Netlink, index: u32, mac: Option<[u8; 6]>, mtu: u32) -> Result<()> {
    let flags = (IFF_NOARP | IFF_UP) as u32;
    let mut body = Body::new(&header(index, flags, flags)).number(libc::IFLA_MTU, mtu);
    if let Some(mac) = mac {
        body = body.with(libc::IFLA_ADDRESS, &mac);
    }
    netlink
        .change(RTM_SETLINK, 0, body.bytes())
        .map_err(SpliceError::kernel(format!("setting up interface {index} of the wire")))
}

/// Gives an interface that is down everything of its likeness but its state, addresses and settings.
pub(crate) fn imitate(netlink: &mut Netlink, index: u32, like: &Likeness) -> Result<()> {
    let flags = like.flags & OWN_FLAGS;
    let mut body = Body::new(&header(index, flags, OWN_FLAGS))
        .with(libc::IFLA_ADDRESS, &like.mac.0)
        .number(libc::IFLA_MTU, like.mtu)
        .number(libc::IFLA_TXQLEN, like.queue_length)
        .maybe(libc::IFLA_GROUP, like.group);
    if let Some(alias) = &like.alias {
        body = body.text(libc::IFLA_IFALIAS, alias);
    }
    netlink
        .change(RTM_SETLINK, 0, body.bytes())
        .map_err(SpliceError::kernel(format!("making interface {index} like {}", like.name)))?;
    for &(kind, limit) in &like.limits {
        // A limit that the kernel derives, or that only some kernels let one set, is left as it is.
        let _refused: Option<NetlinkError> =
            netlink.change(RTM_SETLINK, 0, Body::new(&header(index, 0, 0)).number(kind, limit).bytes()).err();
    }
    if like.alternative_names.is_empty() {
        return Ok(());
    }
    let names = like.alternative_names.iter().fold(Body::new(&[]), |list, name| list.text(ALTERNATIVE_NAME, name));
    let body = Body::new(&header(index, 0, 0)).nested(PROPERTIES, &names);
    match netlink.change(RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, body.bytes()) {
        // Names travel with an interface that is moved.
        Err(error) if !error.is(libc::EEXIST) => {
            Err(SpliceError::kernel(format!("giving interface {index} its further names"))(error))
        }
        _ => Ok(()),
    }
}

/// Says whether, and how, the kernel makes IPv6 link-local addresses when the interface comes up.
pub(crate) fn set_address_generation(netlink: &mut Netlink, index: u32, mode: u8) -> Result<()> {
    let inet6 = Body::new(&[]).with(ADDRESS_GENERATION, &[mode]);
    let families = Body::new(&[]).nested(libc::AF_INET6 as u16, &inet6);
    let body = Body::new(&header(index, 0, 0)).nested(libc::IFLA_AF_SPEC, &families);
    match netlink.change(RTM_SETLINK, 0, body.bytes()) {
        // IPv6 is off for the interface, so there is nothing to be made.
        Err(error) if !error.is(libc::EAFNOSUPPORT) => {
            Err(SpliceError::kernel(format!("setting how interface {index} makes addresses"))(error))
        }
        _ => Ok(()),
    }
}
