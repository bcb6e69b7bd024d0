//! The part of a configuration that makes the daemon a gateway's.

use std::path::{Path, PathBuf};

use ::gateway::placement::{Placement, ports};
use dataplane::port::PortKind;
use ipnet::IpNet;

use super::file::{self, Placement as Place};
use super::{Checker, ConfigError, Occupant, WireConfig};
use crate::gateway::api::DEFAULT_SOCKET;

/// Where the versions of the rules are kept, unless the file says otherwise.
const STATE: &str = "/var/lib/penstock";

/// What a gateway's wires have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The rules to begin with, when no version is kept yet.
    pub rules: PathBuf,
    /// Where versions are kept.
    pub state: PathBuf,
    /// Where `penstock apply` and the others find the daemon.
    pub socket: PathBuf,
}

impl Checker<'_> {
    /// What the file says of a gateway, beside its wires.
    pub(super) fn gateway(
        &self,
        file: &mut file::File,
        wires: &[WireConfig],
    ) -> Result<Option<GatewayConfig>, ConfigError> {
        let is_gateway = wires.iter().any(|wire| matches!(wire.occupant, Occupant::Gateway(..)));
        let Some(rules) = file.rules.take() else {
            if let Some(field) = first(&[("state", file.state.is_some()), ("socket", file.socket.is_some())]) {
                return Err(self.error(field, "it goes with rules; name a rule file, or leave it away"));
            }
            if is_gateway {
                let reason = "a wire has a placement and there are no rules for it; name a rule file";
                return Err(self.error("rules", reason));
            }
            return Ok(None);
        };
        if !is_gateway {
            let reason = "no wire has a placement, so the rules are for none; write `placement: transparent` or \
                          `placement: hostInside` into a wire";
            return Err(self.error("rules", reason));
        }
        let path =
            |given: Option<PathBuf>, usual: &str| given.map_or_else(|| usual.into(), |path| self.relative(&path));
        Ok(Some(GatewayConfig {
            rules: self.relative(&rules),
            state: path(file.state.take(), STATE),
            socket: path(file.socket.take(), DEFAULT_SOCKET),
        }))
    }

    /// Where a wire stands, if it is a gateway's.
    pub(super) fn placement(&self, field: &str, wire: &file::Wire) -> Result<Option<Placement>, ConfigError> {
        let fail = |part: &str, reason: &str| Err(self.error(format!("{field}.{part}"), reason));
        let both = [("inside", &wire.inside), ("outside", &wire.outside)];
        let host_only =
            [("host", wire.host.is_some()), ("forward", wire.forward.is_some()), ("dnat", wire.dnat.is_some())];
        let Some(place) = wire.placement else {
            if let Some(part) = first(&host_only) {
                return fail(part, "it goes with `placement: hostInside`; add that, or leave it away");
            }
            if wire.non_ip.is_some() {
                return fail("nonIp", "it goes with a placement; add one, or leave it away");
            }
            if let Some((side, _)) = both.into_iter().find(|(_, port)| port.known_as.is_some()) {
                return fail(&format!("{side}.as"), "it goes with a placement; add one, or leave it away");
            }
            return Ok(None);
        };
        let others = [
            ("pod", wire.pod.is_some()),
            ("mac", wire.mac.is_some()),
            ("endpoint", wire.endpoint.is_some()),
            ("traffic", wire.traffic.is_some()),
            // Rules know states of connections.
            ("tracking", wire.tracking.is_some()),
        ];
        if let Some(part) = first(&others) {
            return fail(part, "the rules decide for a wire with a placement; leave it away");
        }
        let name = |port: &file::Port| port.known_as.clone().unwrap_or_else(|| port.interface.clone());
        match place {
            Place::Transparent => {
                if let Some(part) = first(&host_only) {
                    return fail(
                        part,
                        "a transparent wire has no host inside; leave it away, or write `placement: hostInside`",
                    );
                }
                let (inside, outside) = (name(&wire.inside), name(&wire.outside));
                if inside == outside {
                    return fail("outside.as", "both interfaces have the same name for the rules; give one another");
                }
                Ok(Some(Placement::Transparent { inside, outside }))
            }
            Place::HostInside => {
                if wire.inside.known_as.is_some() {
                    return fail("inside.as", "rules know a host's wire by its outside interface; write it there");
                }
                if !matches!(PortKind::from(wire.inside.kind), PortKind::Tap) {
                    return fail("inside.kind", "the host is behind a TAP that penstock makes; write `kind: tap`");
                }
                let addresses = self.host(field, wire.host.as_deref().unwrap_or_default())?;
                let forward = wire.forward.unwrap_or(true);
                if forward && wire.dnat.is_some() {
                    return fail(
                        "dnat",
                        "it goes with `forward: false`, for a wire on which the kernel has rewritten addresses",
                    );
                }
                let parse = |(index, text): (usize, &String)| {
                    ports(text).map_err(|reason| self.error(format!("{field}.dnat[{index}]"), reason))
                };
                let dnat = wire.dnat.iter().flatten().enumerate().map(parse).collect::<Result<_, _>>()?;
                Ok(Some(Placement::HostInside { interface: name(&wire.outside), addresses, forward, dnat }))
            }
        }
    }

    fn host(&self, field: &str, addresses: &[String]) -> Result<Vec<IpNet>, ConfigError> {
        if addresses.is_empty() {
            let reason = "the host's own addresses on this wire are not said; list them, such as [192.0.2.1/24]";
            return Err(self.error(format!("{field}.host"), reason));
        }
        let parse = |(index, text): (usize, &String)| {
            let address =
                text.parse::<IpNet>().ok().or_else(|| text.parse().ok().map(|ip: std::net::IpAddr| ip.into()));
            address.ok_or_else(|| {
                let reason = format!("{text:?} is no address; write one such as 192.0.2.1/24 or 2001:db8::1/64");
                self.error(format!("{field}.host[{index}]"), reason)
            })
        };
        addresses.iter().enumerate().map(parse).collect()
    }
}

/// The first of the parts that is there.
fn first(parts: &[(&'static str, bool)]) -> Option<&'static str> {
    parts.iter().find(|(_, there)| *there).map(|(part, _)| *part)
}

impl GatewayConfig {
    /// The directory with the versions.
    pub fn versions(&self) -> PathBuf {
        Path::new(&self.state).join("rules")
    }
}

#[cfg(test)]
mod tests;
