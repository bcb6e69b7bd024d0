//! What the kernel must have, tried rather than looked up by its version: in a network namespace of its own, which is gone afterwards.

use std::io;

use dataplane::port::netns::{self, NetworkNamespace};
use dataplane::port::{PortKind, PortSpec, open_pair};
use rtnetlink::LinkVeth;
use serde::Serialize;

/// Chunks of a pool that is only tried.
const CHUNKS: usize = 64;

/// The ends of the pair that is tried.
const ENDS: [&str; 2] = ["probe0", "probe1"];

/// A feature of the kernel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// What Penstock does with it.
    pub purpose: &'static str,
    /// The first Linux that has all that is used of it.
    pub since: &'static str,
    /// A node of a cluster cannot do without.
    pub required: bool,
    /// Why it is not there; it is, if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Tries all of them.
pub fn probe() -> Vec<Feature> {
    let feature = |name, purpose, since, required, tried: Result<(), String>| Feature {
        name,
        purpose,
        since,
        required,
        missing: tried.err(),
    };
    let space = NetworkNamespace::unnamed().map_err(|error| error.to_string());
    let within = |work: fn() -> Result<(), String>| -> Result<(), String> {
        let space = space.as_ref().map_err(|_| "there is no network namespace to try it in".to_owned())?;
        netns::enter(space, work).unwrap_or_else(|error| Err(error.to_string()))
    };
    let veth = within(pair_of_veths);
    let on_veths = |work: fn() -> Result<(), String>| match &veth {
        Ok(()) => within(work),
        Err(_) => Err("there are no veth pairs to try it on".to_owned()),
    };
    let packet = on_veths(|| ports(PortKind::AfPacket));
    let xdp = on_veths(|| ports(PortKind::AfXdp));
    vec![
        feature(
            "network namespaces",
            "a pod's wire has one of its own at each end",
            "3.8",
            true,
            space.as_ref().map(drop).map_err(Clone::clone),
        ),
        feature("veth pairs", "they join a pod to its wire", "2.6.24", true, veth.clone()),
        feature(
            "AF_PACKET with virtio headers",
            "frames of pods, super-frames whole, without those that are sent",
            "4.20",
            true,
            packet,
        ),
        feature("seccomp filters", "the process that reads packets can open nothing", "4.14", true, seccomp()),
        feature("AF_XDP", "fast wires of a gateway", "5.4", false, xdp),
        feature("TUN and TAP", "wires of kind tap and tun, the lab", "2.6.27", false, tun()),
    ]
}

/// Refuses to start without what a node needs.
///
/// # Errors
/// A sentence that names the feature, the kernel that has it, and why it is not there.
pub fn require() -> Result<(), String> {
    match probe().into_iter().find(|feature| feature.required && feature.missing.is_some()) {
        None => Ok(()),
        Some(Feature { name, since, missing, .. }) => Err(format!(
            "the kernel does not give Penstock {name} ({}), which Linux {since} and newer have; this is Linux {}: see `penstock probe`, \
             and that the container has the capabilities of the chart",
            missing.unwrap_or_default(),
            release()
        )),
    }
}

/// The kernel's release.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn pair_of_veths() -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let [one, other] = ENDS;
        handle.link().add(LinkVeth::new(one, other).up().build()).execute().await.map_err(|error| error.to_string())
    })
}

fn ports(kind: PortKind) -> Result<(), String> {
    let [inside, outside] = ENDS.map(|end| PortSpec::new(kind, end.to_owned()));
    open_pair(&inside, &outside, CHUNKS).map(drop).map_err(|error| error.to_string())
}

/// The filter's actions that the dataplane's uses.
fn seccomp() -> Result<(), String> {
    let file = "/proc/sys/kernel/seccomp/actions_avail";
    match std::fs::read_to_string(file) {
        Ok(actions) if actions.split_whitespace().any(|action| action == "kill_process") => Ok(()),
        Ok(actions) => Err(format!("{file} has no kill_process: {}", actions.trim())),
        Err(error) => Err(format!("{file}: {error}")),
    }
}

fn tun() -> Result<(), String> {
    let file = "/dev/net/tun";
    let opened: io::Result<_> = std::fs::File::options().read(true).write(true).open(file);
    opened.map(drop).map_err(|error| format!("{file}: {error}"))
}
