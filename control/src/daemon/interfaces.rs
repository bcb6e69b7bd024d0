//! What the kernel says of interfaces (rtnetlink), in whatever network namespace they are.

use std::net::IpAddr;

use dataplane::address::MacAddress;
use dataplane::port::netns::{self, NetworkNamespace};
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

/// Asks in a network namespace, the daemon's own if none is named.
///
/// # Errors
/// Those of the question; no such namespace, no netlink socket.
pub(crate) fn ask<T: Send>(
    namespace: Option<&str>,
    question: impl AsyncFnOnce(&Handle) -> Result<T, String> + Send,
) -> Result<T, String> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
            let driver = tokio::spawn(connection);
            let answer = question(&handle).await;
            driver.abort();
            answer
        })
    };
    match namespace {
        // The daemon's own threads may be inside a runtime already, which cannot hold a second one.
        None => std::thread::scope(|scope| {
            scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }),
        Some(name) => NetworkNamespace::open(name)
            .map_err(|error| error.to_string())
            .and_then(|namespace| netns::enter(&namespace, work).map_err(|error| error.to_string())?),
    }
}

/// An interface by its name.
///
/// # Errors
/// When there is none.
pub(super) async fn link(handle: &Handle, interface: &str) -> Result<LinkMessage, String> {
    first(handle.link().get().match_name(interface.to_owned()).execute()).await
}

/// The first answer.
///
/// # Errors
/// When there is none.
pub(super) async fn first(
    answers: impl futures::Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
) -> Result<LinkMessage, String> {
    let mut answers = std::pin::pin!(answers);
    answers.try_next().await.map_err(|error| error.to_string())?.ok_or_else(|| "there is no such interface".to_owned())
}

/// An interface's MAC address, if it has one.
pub(super) fn mac(link: &LinkMessage) -> Option<MacAddress> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress),
        _ => None,
    })
}

/// The host's own address in a message: of a point-to-point interface the other one is the far end's, and IPv6 has only the one.
pub(crate) fn own(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(any)
}

/// The addresses of an interface, by its number.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) async fn addresses(handle: &Handle, index: u32) -> Result<Vec<AddressMessage>, String> {
    let messages = handle.address().get().set_link_index_filter(index).execute();
    messages.try_collect().await.map_err(|error| error.to_string())
}

/// The number of an interface, if it is there.
pub(crate) async fn index(handle: &Handle, interface: &str) -> Option<u32> {
    link(handle, interface).await.ok().map(|link| link.header.index)
}
