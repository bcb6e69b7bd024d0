//! What the system must give before the first wire is opened, so that a daemon that cannot run says so at once and
//! leaves everything as it was.

use dataplane::port::PortKind;
use dataplane::port::netns::{self, NetworkNamespace};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{CapabilitySet, capabilities};

use super::config::{Config, Occupant, PortConfig};

/// Checks that the process may do and find what the configuration asks for.
///
/// # Errors
/// A sentence that names the wire, what is missing, and the remedy.
pub(super) fn check(config: &Config) -> Result<(), String> {
    check_capabilities(config)?;
    check_cpus(config)?;
    for wire in &config.wires {
        for (side, port) in [("inside", &wire.inside), ("outside", &wire.outside)] {
            if port.kind == PortKind::AfXdp {
                check_af_xdp(&wire.name)?;
            }
            check_interface(port).map_err(|reason| format!("wire {}: {side}: {reason}", wire.name))?;
        }
    }
    Ok(())
}

/// The capabilities that a port of this kind needs, and what for.
fn needs(port: &PortConfig, is_sole: bool) -> impl Iterator<Item = (CapabilitySet, &'static str, &'static str)> {
    let kind = port.kind;
    let net_admin = (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to set its ports up");
    let net_raw = (CapabilitySet::NET_RAW, "CAP_NET_RAW", "to receive and send frames");
    let bpf = (CapabilitySet::BPF, "CAP_BPF", "to load a BPF program");
    let sys_admin = (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "to enter a network namespace");
    let sockets = matches!(kind, PortKind::AfPacket | PortKind::AfXdp);
    [
        Some(net_admin),
        sockets.then_some(net_raw),
        (kind == PortKind::AfXdp || is_sole && kind == PortKind::AfPacket).then_some(bpf),
        port.namespace.is_some().then_some(sys_admin),
    ]
    .into_iter()
    .flatten()
}

fn check_capabilities(config: &Config) -> Result<(), String> {
    let held = capabilities(None).map_err(|error| format!("the process's capabilities cannot be read ({error})"))?;
    let held = held.effective;
    for wire in &config.wires {
        for port in [&wire.inside, &wire.outside] {
            for (capability, name, purpose) in needs(port, matches!(wire.occupant, Occupant::Gateway(..))) {
                // CAP_SYS_ADMIN stands in for CAP_BPF, as it did before Linux 5.8.
                let instead = capability == CapabilitySet::BPF && held.contains(CapabilitySet::SYS_ADMIN);
                if !held.contains(capability) && !instead {
                    return Err(format!(
                        "{name} is missing: wire {} needs it {purpose}; run penstock as root, or grant it \
                         (AmbientCapabilities={name} in a systemd unit, securityContext.capabilities.add in a pod)",
                        wire.name
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Asks for a CPU that does not exist end here, not in a worker that cannot be pinned.
fn check_cpus(config: &Config) -> Result<(), String> {
    let allowed = rustix::thread::sched_getaffinity(None)
        .map_err(|error| format!("the process's CPU affinity cannot be read ({error})"))?;
    for (index, cpu) in config.workers.iter().enumerate() {
        let Some(cpu) = *cpu else { continue };
        if cpu >= rustix::thread::CpuSet::MAX_CPU || !allowed.is_set(cpu) {
            let cpus: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
            return Err(format!(
                "{}: workers[{index}].cpu: CPU {cpu} is not there for this process; it may run on {cpus:?}",
                config.file.display()
            ));
        }
    }
    Ok(())
}

fn check_af_xdp(wire: &str) -> Result<(), String> {
    match socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_socket) => Ok(()),
        Err(error) => Err(format!(
            "wire {wire} needs AF_XDP and the system refuses such sockets ({error}); write kind: af_packet, or use a \
             kernel with CONFIG_XDP_SOCKETS whose seccomp and security policies let the process have them"
        )),
    }
}

fn check_interface(port: &PortConfig) -> Result<(), String> {
    let made = matches!(port.kind, PortKind::Tap | PortKind::Tun);
    match interface(port)? {
        None if !made => Err(format!(
            "there is no interface {} {}; make it before penstock starts, or correct the name (`ip link` lists what is \
             there)",
            port.interface,
            place(port)
        )),
        _ => Ok(()),
    }
}

fn place(port: &PortConfig) -> String {
    port.namespace.as_ref().map_or_else(|| "here".to_owned(), |name| format!("in the network namespace {name}"))
}

/// What tells an interface from another one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// The namespace's device and inode; `None` for the daemon's own.
    namespace: Option<(u64, u64)>,
    /// The number within the namespace.
    index: u32,
}

/// The interface that a port's name means now, if there is one.
///
/// # Errors
/// When it cannot be looked up; a sentence.
pub(super) fn interface(port: &PortConfig) -> Result<Option<Interface>, String> {
    let look_up = || {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        match name_to_index(&socket, &port.interface) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let (found, namespace) = match &port.namespace {
        None => (look_up(), None),
        Some(name) => {
            let namespace = NetworkNamespace::open(name).map_err(|error| error.to_string())?;
            let found = netns::enter(&namespace, look_up)
                .map_err(|error| format!("the network namespace {name} cannot be entered ({error})"))?;
            (found, Some(namespace.identity()))
        }
    };
    let index = found
        .map_err(|error| format!("the interface {} cannot be looked up {} ({error})", port.interface, place(port)))?;
    Ok(index.map(|index| Interface { namespace, index }))
}
