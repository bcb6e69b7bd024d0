//! The MAC address of whoever is behind an interface: a veth pair's other end, in whatever network namespace it is.

use dataplane::address::MacAddress;
use dataplane::port::netns::{self, NetworkNamespace};
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::config::PortConfig;

/// Reads the MAC address of the other end of a veth pair.
///
/// # Errors
/// When the interface is no veth, or the kernel does not tell; a sentence that says what to write instead.
pub(super) fn mac_behind(port: &PortConfig) -> Result<MacAddress, String> {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(read(&port.interface))
    };
    let answer = match &port.namespace {
        // The daemon's own threads may be inside a runtime already, which cannot hold a second one.
        None => {
            std::thread::scope(|scope| scope.spawn(ask).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        }
        Some(name) => NetworkNamespace::open(name)
            .map_err(|error| error.to_string())
            .and_then(|namespace| netns::enter(&namespace, ask).map_err(|error| error.to_string())?),
    };
    answer.map_err(|reason| {
        format!("the MAC address behind {} cannot be read ({reason}); write it as `mac:`", port.interface)
    })
}

async fn read(interface: &str) -> Result<MacAddress, String> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = read_with(&handle, interface).await;
    driver.abort();
    answer
}

async fn read_with(handle: &Handle, interface: &str) -> Result<MacAddress, String> {
    let own = first(handle.link().get().match_name(interface.to_owned()).execute()).await?;
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
    let mac = other.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    mac.map(MacAddress).ok_or_else(|| "its other end has none".to_owned())
}

async fn first(
    answers: impl futures::Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
) -> Result<LinkMessage, String> {
    let mut answers = std::pin::pin!(answers);
    answers.try_next().await.map_err(|error| error.to_string())?.ok_or_else(|| "there is no such interface".to_owned())
}
