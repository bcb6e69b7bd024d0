//! An explanation for people.

use std::fmt::{self, Display, Formatter};

use dataplane::packet::Direction;

use super::super::probe::{EndVerdict, Target};
use super::{EndExplanation, EndReason, Explanation, MatchedRule, PolicyMiss, Suggestion};

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verdict = if self.verdict == EndVerdict::Deny { "denied" } else { "allowed" };
        let end = |target: &Target, address| match target {
            Target::Pod(name) => format!("{name} ({address})"),
            Target::Address(address) => address.to_string(),
        };
        let (from, to) = (end(&self.from, self.from_address), end(&self.to, self.to_address));
        writeln!(f, "{from} → {to} {}: {verdict}", self.service)?;
        write_end(f, &self.egress, Direction::Egress)?;
        write_end(f, &self.ingress, Direction::Ingress)?;
        for note in &self.notes {
            writeln!(f, "\nNote: {note}.")?;
        }
        let Some(dns) = &self.denied_dns else { return Ok(()) };
        writeln!(
            f,
            "\nNote: {} may not ask DNS ({} port 53), so names {}: no egress rule of {} allows it.",
            dns.pod,
            dns.protocols.join(" and "),
            if dns.protocols.contains(&"UDP") { "do not resolve" } else { "with long answers do not resolve" },
            dns.policies.join(", ")
        )?;
        write_suggestion(f, &dns.suggestion)
    }
}

fn write_end(f: &mut Formatter<'_>, end: &EndExplanation, direction: Direction) -> fmt::Result {
    let name = direction.name();
    let pod = end.pod.as_ref().map(ToString::to_string).unwrap_or_default();
    match &end.reason {
        EndReason::NoPod => writeln!(f, "\n{name}: no say, for that end is no pod with a wire."),
        EndReason::Loopback => writeln!(f, "\n{name} of {pod}: allowed, a pod's word to itself never leaves it."),
        EndReason::NotIsolated => writeln!(f, "\n{name} of {pod}: allowed, no policy selects the pod for {name}."),
        EndReason::OwnNode => writeln!(f, "\n{name} of {pod}: allowed (own-node), a pod's own node always reaches it."),
        EndReason::Allowed { rules } => {
            writeln!(f, "\n{name} of {pod}: allowed by")?;
            rules.iter().try_for_each(|rule| write_matched(f, rule))
        }
        EndReason::Denied { policies, suggestion } => {
            let count = policies.len();
            let isolate = if count == 1 { "1 policy isolates".to_owned() } else { format!("{count} policies isolate") };
            writeln!(f, "\n{name} of {pod}: denied, {isolate} the pod and no rule allows it")?;
            policies.iter().try_for_each(|policy| write_missed(f, policy, name))?;
            write_suggestion(f, suggestion)
        }
    }
}

fn write_matched(f: &mut Formatter<'_>, rule: &MatchedRule) -> fmt::Result {
    writeln!(f, "  {} {}[{}]", rule.policy, rule.direction.name(), rule.rule)?;
    writeln!(f, "    podSelector {}", rule.pod_selector)?;
    writeln!(f, "    {}", rule.peer)?;
    writeln!(f, "    {}", rule.port)
}

fn write_missed(f: &mut Formatter<'_>, policy: &PolicyMiss, direction: &str) -> fmt::Result {
    write!(f, "  {}, podSelector {}", policy.policy, policy.pod_selector)?;
    if policy.rules.is_empty() {
        return writeln!(f, ": has no {direction} rule, which allows nothing");
    }
    writeln!(f)?;
    for rule in &policy.rules {
        writeln!(f, "    {direction}[{}] does not match", rule.rule)?;
        for reason in rule.peers.iter().chain(&rule.ports) {
            writeln!(f, "      {reason}")?;
        }
        match (rule.peers.is_empty(), rule.ports.is_empty()) {
            (true, false) => writeln!(f, "      (the peer does match)")?,
            (false, true) => writeln!(f, "      (the port does match)")?,
            _ => {}
        }
    }
    Ok(())
}

fn write_suggestion(f: &mut Formatter<'_>, suggestion: &Suggestion) -> fmt::Result {
    let (policy, direction) = (&suggestion.policy, suggestion.direction.name());
    writeln!(f, "  To allow it, add to spec.{direction} of NetworkPolicy {policy}:")?;
    write!(f, "{}", suggestion.to_yaml(4))?;
    suggestion.notes.iter().try_for_each(|note| writeln!(f, "  Mind: {note}."))
}
