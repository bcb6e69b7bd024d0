//! The TAP that carries a gateway's own addresses, beside the interface that it stands for: the same MAC address and MTU, and what the
//! configuration says of its addresses. It outlives the daemon, and with it the host's routes.

use dataplane::address::MacAddress;
use ipnet::IpNet;
use rtnetlink::packet_route::link::LinkAttribute;

use super::config::PortConfig;
use super::interfaces::{ask, link, mac};

/// What a TAP takes over from the interface that it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nic {
    /// Its MAC address, so that neighbours need not learn another one.
    pub(super) mac: Option<MacAddress>,
    /// Its MTU in bytes.
    pub(super) mtu: usize,
}

/// Reads what an interface is like.
///
/// # Errors
/// In a sentence, when it is not there.
pub(super) fn nic(port: &PortConfig) -> Result<Nic, String> {
    let read = ask(port.namespace.as_deref(), async |handle| {
        let link = link(handle, &port.interface).await?;
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => usize::try_from(*mtu).ok(),
            _ => None,
        });
        Ok(Nic { mac: mac(&link), mtu: mtu.unwrap_or(1500) })
    });
    read.map_err(|reason| format!("{port}: its MAC address and MTU can't be read ({reason})"))
}

/// Gives a TAP the host's addresses; those that it has it keeps.
///
/// # Errors
/// In a sentence.
pub(super) fn give(port: &PortConfig, addresses: &[IpNet]) -> Result<(), String> {
    let given = ask(port.namespace.as_deref(), async |handle| {
        let index = link(handle, &port.interface).await?.header.index;
        for net in addresses {
            let add = handle.address().add(index, net.addr(), net.prefix_len()).replace();
            add.execute().await.map_err(|error| format!("{net}: {error}"))?;
        }
        Ok(())
    });
    given.map_err(|reason| format!("the host's addresses can't be put on {port}: {reason}"))
}
