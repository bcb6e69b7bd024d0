//! A rule, option by option.

use std::collections::HashMap;

use super::words::words;
use super::{Importer, matches};
use crate::model::{Action, Limit, Log, Match, Origin, Rule, Test};
use crate::values;

/// Modules whose options are understood.
const MODULES: [&str; 22] = [
    "tcp",
    "udp",
    "udplite",
    "sctp",
    "dccp",
    "icmp",
    "icmp6",
    "ipv6-icmp",
    "multiport",
    "iprange",
    "set",
    "conntrack",
    "state",
    "limit",
    "comment",
    "mark",
    "connmark",
    "addrtype",
    "esp",
    "ah",
    "frag",
    "standard",
];

/// Modules that are not, and why.
const REFUSED: [(&str, &str); 16] = [
    ("recent", "it remembers addresses while it runs; use a set, or a limit"),
    ("hashlimit", "it keeps a rate for each address; use a limit for all together"),
    ("connlimit", "it counts connections of each address"),
    ("owner", "a packet on a wire has no process"),
    ("string", "contents of packets are not looked at"),
    ("time", "rules do not depend on the time of day; apply other rules when it is time"),
    ("u32", "arbitrary bytes of packets are not looked at"),
    ("bpf", "programs are not run for packets"),
    ("length", "lengths of packets are not looked at"),
    ("ttl", "the time to live is not looked at"),
    ("hl", "the hop limit is not looked at"),
    ("mac", "MAC addresses are not looked at"),
    ("physdev", "a wire has no bridge ports; write the interface with -i or -o"),
    ("rpfilter", "routes are the kernel's: leave it in the raw table"),
    ("statistic", "rules do not depend on chance"),
    ("dscp", "the DSCP field is not looked at"),
];

/// Protocols whose ports the engine does not look at: DCCP and UDP-Lite.
pub(super) const UNSEEN_PORTS: [u8; 2] = [33, 136];

/// Why a rule or element with such a protocol is refused.
pub(super) fn unseen_ports(number: u8) -> String {
    let name = values::show_protocol(number);
    format!("ports of {name} are not looked at, only those of TCP, UDP and SCTP: take it out, or give --lenient")
}

/// What is being read.
pub(super) struct Reading<'w> {
    words: std::vec::IntoIter<String>,
    pub(super) matches: Vec<Match>,
    pub(super) comment: Option<String>,
    pub(super) rate: Option<String>,
    pub(super) burst: Option<u32>,
    pub(super) log: Option<Log>,
    pub(super) action: Option<Action>,
    /// A `!` stood before the option.
    pub(super) negated: bool,
    pub(super) origin: &'w Origin,
    /// Names of chains, as they are called here.
    pub(super) chains: &'w HashMap<&'w str, String>,
}

impl Reading<'_> {
    /// The value of an option.
    pub(super) fn value(&mut self, option: &str) -> Result<String, String> {
        self.words.next().ok_or_else(|| format!("the value of {option} is missing: the line is cut"))
    }

    /// The value of an option that may be left away.
    pub(super) fn next_if(&mut self, accept: impl Fn(&str) -> bool) -> Option<String> {
        let next = self.words.as_slice().first()?;
        if accept(next) { self.words.next() } else { None }
    }

    pub(super) fn add(&mut self, test: Test) {
        self.matches.push(Match { negated: self.negated, test });
    }

    /// A test whose outcome is known: one that always holds is left away.
    pub(super) fn known(&mut self, holds: bool, reason: &str) {
        if holds == self.negated {
            self.matches.push(Match::is(Test::Nothing(reason.to_owned())));
        }
    }
}

impl Importer<'_> {
    pub(super) fn rule(&mut self, text: &str, origin: &Origin, chains: &HashMap<&str, String>) -> Result<Rule, String> {
        let mut reading = Reading {
            words: words(text)?.into_iter(),
            matches: Vec::new(),
            comment: None,
            rate: None,
            burst: None,
            log: None,
            action: None,
            negated: false,
            origin,
            chains,
        };
        while let Some(word) = reading.words.next() {
            if word == "!" {
                reading.negated = true;
                continue;
            }
            self.option(&mut reading, &word)?;
            reading.negated = false;
        }
        let Reading { matches, comment, rate, burst, log, action, .. } = reading;
        let looks_at_ports = matches
            .iter()
            .any(|of| matches!(of.test, Test::SourcePort(_) | Test::DestinationPort(_) | Test::EitherPort(_)));
        let unseen = |of: &Match| match &of.test {
            Test::Protocol(numbers) if !of.negated => {
                numbers.iter().copied().find(|number| UNSEEN_PORTS.contains(number))
            }
            _ => None,
        };
        if let (true, Some(number)) = (looks_at_ports, matches.iter().find_map(unseen)) {
            return Err(unseen_ports(number));
        }
        let limit = match rate {
            None => None,
            Some(rate) => {
                let (packets, per) = matches::rate(&rate)?;
                Some(Limit { packets, per, burst: burst.unwrap_or(5) })
            }
        };
        let action = action.unwrap_or(Action::Continue);
        Ok(Rule { name: None, comment, origin: origin.clone(), matches, limit, log, action })
    }

    fn option(&mut self, reading: &mut Reading<'_>, word: &str) -> Result<(), String> {
        match word {
            "-m" | "--match" => {
                let module = reading.value(word)?;
                if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| *name == module) {
                    return Err(format!("match {module} can't be expressed: {reason}"));
                }
                match MODULES.contains(&module.as_str()) {
                    true => Ok(()),
                    false => Err(format!("match {module} is not known here: take the rule out, or give --lenient")),
                }
            }
            "-j" | "--jump" | "-g" | "--goto" => self.target(reading, word),
            "-c" | "--set-counters" => {
                reading.value(word)?;
                reading.value(word).map(drop)
            }
            _ => self.test(reading, word),
        }
    }
}
