//! What a change of the rules will do, told before it is done: kinds of packets that are decided otherwise, and flows that are cut.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ::gateway::equivalence::{self, Options};
use ::gateway::judge::{RuleAt, Verdict};
use ::gateway::lower::Whose;
use ::gateway::model::Policy as HookPolicy;
use ::gateway::rulefile;
use dataplane::classify::stateful::StatefulTable;
use dataplane::packet::{Direction, Tuple};
use dataplane::rules::stateful::{ConnectionState, RuleHits};
use dataplane::rules::{Action, Query, RuleId};

use super::Rules;
use super::api::{Plan, RuleLine};
use crate::observe::drops::{Clocks, RuleName};

/// The most kinds of packets, and flows, that a plan lists of each sort.
const LISTED: usize = 100;

/// A live flow, as a plan needs it.
#[derive(Clone, Debug)]
pub(crate) struct FlowNow {
    /// The name of its wire.
    pub(crate) wire: String,
    /// The way of its originator.
    pub(crate) direction: Direction,
    /// The originator's tuple.
    pub(crate) tuple: Tuple,
}

/// Compares rules with those in force.
pub(super) fn compare(before: &Rules, after: &Rules, flows: &[FlowNow]) -> Plan {
    let mut plan = Plan { flows: flows.len() as u64, ..Plan::default() };
    // Of files that have little in common the rest would take longer than anybody reads.
    let options = Options { max_differences: 2 * LISTED, ..Options::default() };
    let differences = match equivalence::compare(&before.ruleset(), &after.ruleset(), &options) {
        Ok(comparison) => {
            if !comparison.undecided.is_empty() {
                plan.incomplete = Some(format!("not compared to the end: {}", comparison.undecided.join(", ")));
            } else if comparison.more {
                plan.incomplete = Some("more kinds of packets are decided otherwise than are looked for".to_owned());
            }
            comparison.differences
        }
        Err(error) => {
            plan.incomplete = Some(error.to_string());
            Vec::new()
        }
    };
    for difference in &differences {
        let list = match (difference.a.verdict, difference.b.verdict) {
            (Verdict::Allow, _) => &mut plan.denies,
            (_, Verdict::Allow) => &mut plan.allows,
            _ => &mut plan.refuses,
        };
        if list.len() < LISTED {
            list.push(format!("{}: before {}, then {}", difference.packet, difference.a, difference.b));
        }
    }
    (plan.cuts, plan.cut) = cut(after, flows);
    plan
}

/// The flows that pass by the rules in force, and would not open by these: the first ones, and how many.
fn cut(after: &Rules, flows: &[FlowNow]) -> (Vec<String>, u64) {
    let lowered = after.lowered();
    let tables: HashMap<&str, [StatefulTable; 2]> =
        (lowered.wires.iter()).map(|(wire, rules)| (wire.as_str(), rules.each_ref().map(StatefulTable::new))).collect();
    let is_cut = |flow: &&FlowNow| {
        let Some(tables) = tables.get(flow.wire.as_str()) else { return false };
        let table = &tables[flow.direction as usize];
        let query = Query::opening(flow.direction, &flow.tuple);
        let decision = table.rules().granted(table.judge(flow.direction, ConnectionState::New, query));
        !matches!(decision.action, Action::Allow | Action::Pass)
    };
    let cut: Vec<&FlowNow> = flows.iter().filter(is_cut).collect();
    let line = |flow: &&FlowNow| {
        let Tuple { source, destination, protocol, source_port, destination_port } = flow.tuple;
        let end = |address, port| match (IpAddr::from(address), protocol.has_ports()) {
            (address, true) => SocketAddr::new(address, port).to_string(),
            (address, false) => address.to_string(),
        };
        format!("{}: {protocol} from {} to {}", flow.wire, end(source, source_port), end(destination, destination_port))
    };
    (cut.iter().take(LISTED).map(line).collect(), cut.len() as u64)
}

/// The rule, or the policy, that the engine knows by a number.
pub(super) fn name_of(rules: &Rules, number: RuleId) -> Option<RuleName> {
    let whose = rules.lowered().whose(number)?;
    let ruleset = rules.ruleset();
    match whose {
        Whose::Policy(chain) => {
            let chain = ruleset.chains.get(chain?)?;
            Some(RuleName { rule: format!("{} policy", chain.name), ..RuleName::default() })
        }
        Whose::Rule(RuleAt { chain, rule: at }) => {
            let chain = ruleset.chains.get(chain)?;
            let rule = chain.rules.get(at)?;
            let name = rule.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            let log = rule.log.as_ref();
            Some(RuleName {
                rule: format!("{} {}{name}", chain.name, at + 1),
                prefix: log.map(|log| log.prefix.clone()).filter(|prefix| !prefix.is_empty()),
                level: log.and_then(|log| log.level),
            })
        }
    }
}

/// All rules, chain by chain, with what they have met.
pub(super) fn rule_lines(rules: &Rules) -> Vec<RuleLine> {
    let now = Clocks::read().engine;
    let (lowered, ruleset) = (rules.lowered(), rules.ruleset());
    let counted = |hits: RuleHits, line: RuleLine| RuleLine {
        packets: hits.packets,
        bytes: hits.bytes,
        last: hits.last.map(|last| now.since(last).as_secs()),
        ..line
    };
    let mut lines = Vec::new();
    for (index, chain) in ruleset.chains.iter().enumerate() {
        let family = chain.families.map(|family| family.to_string());
        let head = RuleLine { chain: chain.name.clone(), family, ..RuleLine::default() };
        for (number, rule) in chain.rules.iter().enumerate() {
            let at = RuleAt { chain: index, rule: number };
            let hits = lowered.hits(at);
            let line = RuleLine {
                number: number as u32 + 1,
                name: rule.name.clone(),
                comment: rule.comment.clone(),
                rule: rulefile::line(rule, chain.families, &ruleset),
                ..head.clone()
            };
            lines.push(counted(hits, line));
        }
        if let Some((_, policy)) = chain.hook {
            let policy = match policy {
                HookPolicy::Allow => "allow",
                HookPolicy::Drop => "drop",
            };
            let line = RuleLine { policy: Some(policy.to_owned()), ..head };
            lines.push(counted(lowered.policy_hits(index), line));
        }
    }
    lines
}
