//! The node's own addresses, as its kernel has them: its object lists one or two, and it speaks to its pods from whichever is next to
//! them, such as that of a bridge or of the host's end of a veth pair. Kubernetes wants it to reach its pods from all of them.

use std::net::IpAddr;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tracing::warn;

use super::shared::Node;
use crate::daemon::interfaces;

/// Tells the core of the node's addresses, now and whenever they change, until the runtime ends. Control shares the host's network
/// namespace.
pub(super) async fn watch(node: Arc<Node>) {
    if let Err(reason) = follow(&node).await {
        let sentence = format!(
            "the node's own addresses cannot be followed ({reason}): kubelet's probes pass only from those that its object lists"
        );
        node.tell(move |core| core.problem("host addresses", sentence));
    }
}

async fn follow(node: &Arc<Node>) -> Result<(), String> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, handle, mut changes) = new_multicast_connection(&groups).map_err(|error| error.to_string())?;
    // What does not fit is not lost for good: the whole list is read after each message.
    let _size = connection.socket_mut().socket_mut().set_rx_buf_sz(1 << 20);
    let driver = tokio::spawn(connection);
    let mut before = None;
    loop {
        let now = read(&handle).await?;
        if before.as_ref() != Some(&now) {
            let addresses = now.clone();
            node.tell(move |core| core.host_has(&addresses));
            before = Some(now);
        }
        if changes.next().await.is_none() {
            driver.abort();
            warn!("the kernel no longer tells of changed addresses");
            return Err("the kernel tells no more".to_owned());
        }
        // A burst is one change.
        while let Ok(Some(_)) = tokio::time::timeout(std::time::Duration::from_millis(20), changes.next()).await {}
    }
}

/// All addresses that others may see, in order.
async fn read(handle: &Handle) -> Result<Vec<IpAddr>, String> {
    let mut messages = handle.address().get().execute();
    let mut addresses = Vec::new();
    while let Some(message) = messages.try_next().await.map_err(|error| error.to_string())? {
        if matches!(message.header.scope, AddressScope::Host | AddressScope::Nowhere) {
            continue;
        }
        // Pods are reached from link-local ones only over IPv4; each veth pair has one of IPv6, and rules would change with it.
        addresses.extend(interfaces::own(&message).filter(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }));
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_nobody_elses_business() {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let driver = tokio::spawn(connection);
        let addresses = read(&handle).await.unwrap();
        driver.abort();
        assert!(!addresses.iter().any(IpAddr::is_loopback), "{addresses:?}");
    }
}
