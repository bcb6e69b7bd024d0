//! Policies as the engine takes them, in a word.

use std::sync::Arc;

use dataplane::packet::Protocol;
use dataplane::rules::{Action, Chain, Peers, Policy, PortRange, Rule, RuleId, Services, Tier};

/// Only these protocols and ports, of whatever far end.
pub fn only(services: &[(Protocol, u16)]) -> Policy {
    let ranges = services.iter().map(|&(protocol, port)| PortRange { protocol, first: port, last: port }).collect();
    chain(vec![Rule {
        action: Action::Allow,
        log: false,
        peers: Peers::Any,
        services: Services::Ports(ranges),
        id: RuleId(1),
    }])
}

/// Nothing that is not a reply.
pub fn closed() -> Policy {
    chain(Vec::new())
}

fn chain(rules: Vec<Rule>) -> Policy {
    Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules, default: Action::Deny }] }))
}
