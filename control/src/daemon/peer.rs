//! The MAC address of whoever is behind an interface: a veth pair's other end, in whatever network namespace it is.

use dataplane::address::MacAddress;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use super::config::PortConfig;
use super::interfaces::{ask, first, link, mac};

/// Reads the MAC address of the other end of a veth pair.
///
/// # Errors
/// When the interface is no veth, or the kernel does not tell; a sentence that says what to write instead.
pub(super) fn mac_behind(port: &PortConfig) -> Result<MacAddress, String> {
    let answer = ask(port.namespace.as_deref(), async |handle| read(handle, &port.interface).await);
    answer.map_err(|reason| {
        format!("the MAC address behind {} cannot be read ({reason}); write it as `mac:`", port.interface)
    })
}

async fn read(handle: &Handle, interface: &str) -> Result<MacAddress, String> {
    let own = link(handle, interface).await?;
    let is_veth = own.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos)
            if infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth))))
    });
    if !is_veth {
        return Err("it is no veth pair".to_owned());
    }
    let number = |pick: fn(&LinkAttribute) -> Option<i64>| own.attributes.iter().find_map(pick);
    let peer = number(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(i64::from(*index)),
        _ => None,
    });
    let namespace = number(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) => Some(i64::from(*id)),
        _ => None,
    });
    let peer = peer.and_then(|index| u32::try_from(index).ok()).ok_or("its other end is not told")?;
    let mut request = handle.link().get().match_index(peer);
    if let Some(id) = namespace.and_then(|id| i32::try_from(id).ok()) {
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(id));
    }
    let other = first(request.execute()).await?;
    mac(&other).ok_or_else(|| "its other end has none".to_owned())
}
