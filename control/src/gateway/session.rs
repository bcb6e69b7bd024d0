//! Interfaces that carry the host's own addresses: a wire would take every frame from them, and with them whoever administers the host from
//! afar.

use std::net::IpAddr;

use ::gateway::placement::Placement;
use rtnetlink::packet_route::address::AddressScope;

use crate::daemon::config::{Config, Occupant, PortConfig};
use crate::daemon::interfaces::{self, ask};

/// Refuses a gateway's wires over interfaces that have addresses of the host.
///
/// # Errors
/// In a sentence, with the file and, where it is found, the line.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    for (index, wire) in config.wires.iter().enumerate() {
        let Occupant::Gateway(placement, _) = &wire.occupant else { continue };
        let outside = ("outside", &wire.outside);
        let ports = match placement {
            Placement::Transparent { .. } => vec![("inside", &wire.inside), outside],
            Placement::HostInside { .. } => vec![outside],
        };
        for (side, port) in ports.into_iter().filter(|(_, port)| port.namespace.is_none()) {
            let addresses = addresses(&port.interface)?;
            if !addresses.is_empty() {
                return Err(refusal(config, &format!("wires[{index}].{side}.interface"), port, &addresses, placement));
            }
        }
    }
    Ok(())
}

fn refusal(config: &Config, field: &str, port: &PortConfig, addresses: &[IpAddr], placement: &Placement) -> String {
    let text = std::fs::read_to_string(&config.file).unwrap_or_default();
    let line = text.lines().position(|line| line.contains("interface") && line.contains(&port.interface));
    let line = line.map_or_else(String::new, |line| format!(":{}", line + 1));
    let told: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    // CLIENT CLIENT_PORT SERVER SERVER_PORT, as sshd sets it.
    let session = std::env::var("SSH_CONNECTION").ok().and_then(|text| {
        let words: Vec<&str> = text.split(' ').collect();
        let server: IpAddr = words.get(2)?.parse().ok()?;
        addresses.contains(&server).then(|| format!(", and your own session from {} comes by it", words[0]))
    });
    let remedy = match placement {
        Placement::Transparent { .. } => {
            "choose interfaces without addresses, or `placement: hostInside`, with the addresses on the TAP"
        }
        Placement::HostInside { .. } => "move the addresses to the wire's TAP",
    };
    format!(
        "{}{line}: {field}: {} has the host's own {}{}: penstock would take every frame from it and the host could not be reached; {remedy}",
        config.file.display(),
        port.interface,
        told.join(", "),
        session.unwrap_or_default()
    )
}

/// The addresses that others can reach the host by on an interface; none where there is no such interface.
fn addresses(interface: &str) -> Result<Vec<IpAddr>, String> {
    let read = ask(None, async |handle| {
        // That it is not there is said elsewhere.
        let Some(index) = interfaces::index(handle, interface).await else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for message in interfaces::addresses(handle, index).await? {
            if message.header.scope == AddressScope::Link || message.header.scope == AddressScope::Host {
                continue;
            }
            found.extend(interfaces::own(&message));
        }
        Ok(found)
    });
    read.map_err(|reason| format!("the addresses of {interface} can't be read ({reason})"))
}
