//! Penstock's chained CNI plugin, and the splice that it makes.
//!
//! A primary CNI plugin joins a pod to its node by a veth pair. This crate puts a *wire namespace* into the middle of
//! each such pair, so that Penstock's dataplane carries every frame of the pod and neither end sees a difference:
//!
//! ```text
//! before   pod: eth0 (index p) ═══════════════════════════════════════════ host: vethH (index h)
//!
//! after    pod: eth0 (index p) ═══ inside (index h) ─ [wire] ─ outside (index p) ═══ host: vethH (index h)
//!               new                \________ pinned wire namespace ________/               untouched
//! ```
//! The end that the pod had is moved into the wire namespace and keeps its index there; a new pair takes its place. Since
//! the indexes are mirrored, whoever looks for the other end of `eth0` or of `vethH` by index (bandwidth, bridge's CHECK,
//! Cilium) finds what it found before.
//!
//! | module | what |
//! |---|---|
//! | [`splice`] | making, verifying and undoing splices; finding what is not spliced and what is left over |
//! | [`state`] | where splices are written down, so that they outlive every process |
//! | [`protocol`] | what the plugin says to the daemon, and what it hears |
//! | [`plugin`] | the plugin itself: CNI 0.3.1 to 1.1.0 |
//! | [`sandbox`] | who runs on the node, by what runtimes write down |
//! | [`install`] | onto a node and off it: the binary, and the configuration behind the primary's |
//! | [`netns`] | network namespaces: entering, making, pinning |
//!
//! What it does not do: judge or carry a frame. Until the daemon has opened its ports in the wire namespace, nothing
//! passes.
//!
//! Everything here needs CAP_NET_ADMIN and CAP_SYS_ADMIN, and runs in the host's mount namespace, where the pins are to
//! be seen.

pub mod install;
pub mod netns;
pub mod plugin;
pub mod protocol;
pub mod sandbox;
pub mod splice;
pub mod state;

mod error;
mod fault;
mod link;
mod netlink;
mod snapshot;
mod sysctl;

pub use error::SpliceError;
