//! The rules as the engine is told of them: a wire between any two interfaces for what is forwarded, and a wire of the host's at each
//! interface for what the gateway itself takes and sends.

use std::collections::{BTreeMap, HashMap};

use dataplane::classify::stateful::StatefulTable;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::rules::stateful::ConnectionState;
use dataplane::rules::{Action, Query, RejectWith as EngineReject};
use gateway::judge::{Header, RuleAt, Verdict};
use gateway::lower::{Lowered, Whose, lower};
use gateway::model::{Family, Hook, Match, Per, RejectWith, Ruleset, States, Test};
use gateway::placement::Placement;

use crate::kernel::own;
use crate::packet::{icmp_of, refusal};

/// A hook, and the interfaces that packets come in by and go out by there.
type Place = (Hook, Option<String>, Option<String>);

/// The rules of one direction of a wire, with the direction and the rules that they were told with.
type Table = (StatefulTable, Direction, usize);

/// The engine's rules for one rule set.
struct Compiled {
    /// With wires between interfaces, and with the host's wires.
    lowered: [Lowered; 2],
    tables: HashMap<Place, Table>,
}

/// The engine's rules twice: with tokens for every limit, and with none for those that run out of them.
pub(crate) struct Engine {
    with_tokens: Compiled,
    without: Compiled,
    own: Vec<dataplane::address::Address>,
    chains: HashMap<Hook, usize>,
}

fn wires(ruleset: &Ruleset, placements: &BTreeMap<String, Placement>) -> Lowered {
    lower(ruleset, placements, 1, None).unwrap_or_else(|error| panic!("the engine can't be told: {error}"))
}

impl Compiled {
    fn new(ruleset: &Ruleset, family: Family, names: &[(usize, &str)]) -> Compiled {
        let (mut between, mut hosts) = (BTreeMap::new(), BTreeMap::new());
        for (at, (index, inside)) in names.iter().enumerate() {
            for (_, outside) in &names[at..] {
                let placement = Placement::Transparent { inside: (*inside).into(), outside: (*outside).into() };
                between.insert(format!("{inside} {outside}"), placement);
            }
            let length = if family == Family::V4 { 32 } else { 128 };
            let addresses = vec![format!("{}/{length}", own(family, *index)).parse().expect("an address")];
            let placement =
                Placement::HostInside { interface: (*inside).into(), addresses, forward: false, dnat: Vec::new() };
            hosts.insert((*inside).to_owned(), placement);
        }
        let lowered = [wires(ruleset, &between), wires(ruleset, &hosts)];
        let mut tables = HashMap::new();
        let some = |name: &str| Some(name.to_owned());
        for (wire, rules) in &lowered[0].wires {
            let (inside, outside) = wire.split_once(' ').expect("two interfaces");
            let [egress, ingress] = rules.each_ref().map(StatefulTable::new);
            tables.insert((Hook::Forward, some(outside), some(inside)), (ingress, Direction::Ingress, 0));
            tables.insert((Hook::Forward, some(inside), some(outside)), (egress, Direction::Egress, 0));
        }
        for (wire, rules) in &lowered[1].wires {
            let [egress, ingress] = rules.each_ref().map(StatefulTable::new);
            tables.insert((Hook::Output, None, some(wire)), (egress, Direction::Egress, 1));
            tables.insert((Hook::Input, some(wire), None), (ingress, Direction::Ingress, 1));
        }
        Compiled { lowered, tables }
    }

    fn judge(&self, hook: Hook, packet: &Header<'_>, state: ConnectionState) -> Option<(Verdict, Option<Whose>)> {
        let key = (hook, packet.input.map(str::to_owned), packet.output.map(str::to_owned));
        let (table, direction, lowered) = self.tables.get(&key)?;
        let (local, peer) = match direction {
            Direction::Egress => (packet.source, packet.destination),
            Direction::Ingress => (packet.destination, packet.source),
        };
        let query = Query {
            peer,
            local,
            protocol: Protocol(packet.protocol),
            port: packet.destination_port,
            source_port: packet.source_port,
            flags: TcpFlags(packet.tcp_flags),
        };
        let told = table.rules().granted(table.judge(*direction, state, query));
        let verdict = match told.action {
            Action::Allow => Verdict::Allow,
            Action::Reject(EngineReject::TcpReset) => Verdict::Reject(RejectWith::TcpReset),
            Action::Reject(EngineReject::Icmp { kind, code }) => {
                let icmp = icmp_of(Family::of(packet.destination));
                Verdict::Reject(refusal(icmp, [kind, code]).expect("a way to refuse"))
            }
            _ => Verdict::Drop,
        };
        Some((verdict, told.rule.and_then(|number| self.lowered[*lowered].whose(number))))
    }
}

impl Engine {
    /// `names` are the interfaces with wires, each with its number in the gateway.
    pub(crate) fn new(ruleset: &Ruleset, family: Family, names: &[(usize, &str)]) -> Engine {
        let mut dry = ruleset.clone();
        for rule in dry.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            if rule.limit.take_if(|limit| limit.per != Per::Second).is_some() {
                rule.matches.push(Match::is(Test::Nothing("no tokens are left".to_owned())));
            }
        }
        let chain = |hook| ruleset.base(hook, family).map(|(chain, _)| (hook, chain));
        Engine {
            with_tokens: Compiled::new(ruleset, family, names),
            without: Compiled::new(&dry, family, names),
            own: names.iter().map(|(index, _)| own(family, *index)).collect(),
            chains: Hook::ALL.into_iter().filter_map(chain).collect(),
        }
    }

    /// What the engine does with a packet, if it is asked. `Err`: why it is not. `tokens` are the answers that limits gave.
    pub(crate) fn judge(
        &self,
        hook: Hook,
        packet: &Header<'_>,
        tokens: &[bool],
    ) -> Result<(Verdict, Option<RuleAt>), &'static str> {
        let state = match packet.state {
            States::NEW => ConnectionState::New,
            States::ESTABLISHED => ConnectionState::Established,
            States::RELATED => ConnectionState::Related,
            States::INVALID => ConnectionState::Invalid,
            _ => return Err("untracked"),
        };
        let of_host = match hook {
            Hook::Forward => true,
            Hook::Input => self.own.contains(&packet.destination) || packet.destination.is_group(),
            Hook::Output => self.own.contains(&packet.source),
        };
        if !of_host {
            return Err("not the host's address");
        }
        let compiled = match (tokens.contains(&true), tokens.contains(&false)) {
            (_, false) => &self.with_tokens,
            (false, true) => &self.without,
            (true, true) => return Err("some limits have tokens, others have not"),
        };
        let (verdict, by) = compiled.judge(hook, packet, state).ok_or("no wire there")?;
        match by {
            Some(Whose::Rule(at)) => Ok((verdict, Some(at))),
            Some(Whose::Policy(chain)) if chain == self.chains.get(&hook).copied() => Ok((verdict, None)),
            other => panic!("{hook:?} {packet:?} is decided by {other:?}"),
        }
    }
}
