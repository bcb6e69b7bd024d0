//! The daemon as a gateway: its rules, and who changes them while it runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::gateway::model::Ruleset;
use dataplane::flow::FlowState;

use super::config::Config;
use super::running::Daemon;
use crate::command::Failure;
use crate::gateway::versions::Version;
use crate::gateway::{FlowNow, Gateway, Publish, Refused, Serving, placements};
use crate::node::api::Flow;
use crate::sockets::Answers;

/// Compiles the rules of a gateway for its wires.
///
/// # Errors
/// Rules that are more than can be compiled; no room for versions.
pub(super) fn prepare(config: &Config, rules: Option<(Ruleset, Option<Version>)>) -> Result<Option<Gateway>, Failure> {
    let (Some(gateway), Some((ruleset, kept))) = (&config.gateway, rules) else { return Ok(None) };
    let made = Gateway::new(gateway, placements(config), config.workers.len(), ruleset, kept);
    made.map(Some).map_err(|refused| match refused {
        Refused::Input(reason) => Failure::BadInput(reason),
        Refused::System(reason) => Failure::System(reason),
    })
}

impl Answers for Daemon {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

impl Publish for Daemon {
    fn publish(&self) -> Result<(), String> {
        self.put_gateway_in_force().map_err(|error| error.to_string())
    }
}

impl Serving for Daemon {
    fn gateway(&self) -> Option<&Arc<Gateway>> {
        self.gateway.as_ref()
    }

    fn flows_now(&self) -> Result<Vec<FlowNow>, String> {
        let wires = self.wires();
        let flows = self.enforcer.flows().map_err(|error| error.to_string())?;
        let of = |flow: dataplane::flow::FlowInfo| {
            // What is over, or cut already, loses nothing.
            if matches!(flow.state, FlowState::TimeWait | FlowState::Close | FlowState::Cut | FlowState::Aborted) {
                return None;
            }
            let wire = wires.iter().find(|wire| wire.id == flow.wire)?;
            Some(FlowNow { wire: wire.config.name.clone(), direction: flow.direction, tuple: flow.tuple })
        };
        Ok(flows.into_iter().filter_map(of).collect())
    }

    fn flow_lines(&self) -> Result<Vec<Flow>, String> {
        let wires = self.wires();
        let flows = self.enforcer.flows().map_err(|error| error.to_string())?;
        let name = |flow: &dataplane::flow::FlowInfo| {
            let wire = wires.iter().find(|wire| wire.id == flow.wire);
            wire.map_or_else(|| format!("number {}", flow.wire.0), |wire| wire.config.name.clone())
        };
        let end = |address: dataplane::address::Address| [std::net::IpAddr::from(address).to_string(), String::new()];
        let line = |flow: &dataplane::flow::FlowInfo| {
            Flow::of("live", name(flow), end(flow.tuple.source), end(flow.tuple.destination), flow)
        };
        Ok(flows.iter().map(line).collect())
    }
}
