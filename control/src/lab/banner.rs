//! What a shell in a pod says first.

use std::net::IpAddr;

use super::{Host, Lab, OUTSIDE, Result, find};

/// Hosts that are named at most: the banner shall not scroll the matrix away.
const NAMED: usize = 16;

impl Lab {
    /// Which pod this is, who else there is and on which ports they answer, and how to end.
    ///
    /// # Errors
    /// When there is no such pod.
    pub(super) fn banner(&self, pod: &str) -> Result<String> {
        let hosts = self.hosts();
        let addresses = if pod == OUTSIDE { &self.world.external } else { &find(&hosts, pod)?.addresses };
        let mut lines = vec![format!("A shell inside {pod} ({}). Servers answer on:", joined(addresses))];
        lines.extend(hosts.iter().take(NAMED).map(server));
        if hosts.len() > NAMED {
            lines.push(format!("  and {} more: see the matrix", hosts.len() - NAMED));
        }
        lines.push("Try 'curl ADDRESS'. 'exit' ends the lab.".to_owned());
        Ok(lines.join("\n"))
    }
}

fn server(host: &Host<'_>) -> String {
    let addresses = joined(&host.addresses);
    let ports = host.services.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let ports = if ports.is_empty() { "no port" } else { &ports };
    if host.name == addresses {
        format!("  {addresses}: {ports}")
    } else {
        format!("  {} ({addresses}): {ports}", host.name)
    }
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
