//! Rule lists of gateways against `librte_acl`: the same filters, the same headers, every answer of both checked.
//!
//! Headers come in no order, each of them once: a round takes headers that no round before has seen, in bursts of 32, and
//! nothing is kept from one burst to the next. They are made with a fresh seed, evenly over the filters
//! ([`crate::classbench::headers`]); sets are the shared files, or generated with the same seed.
//!
//! `librte_acl` runs each method that the CPU has, 32 headers in a call and one in a call; the ratio is to the one that is
//! best in the median.

use std::sync::Arc;
use std::time::Duration;

use dataplane::classify::list::ListTable;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::rules::list::{FlagMatch, ListRule, Ports, RuleList};
use dataplane::rules::{Action, Decision, Query, RuleId};
use serde::Serialize;

use super::{Rounds, megabytes, pin, thread_time};
use crate::classbench::{self, Filter, Generator, Header, Kind, Oracle, ReadError, Size, headers, read_set};
use crate::dpdk::Unavailable;
use crate::dpdk::acl::Acl;

/// Headers in a burst, on both sides.
const BURST: usize = 32;

/// Megabytes that `librte_acl` may use for its tables: more than 100,000 filters of the worst kind take.
const PEER_MEGABYTES: usize = 2_048;

/// Where filters come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Source {
    /// The shared files.
    Files,
    /// Generated with the seed, like the file of that size.
    Generated,
    /// The shared files, as IPv6.
    Ipv6,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Config {
    /// CPU of both sides.
    pub cpu: usize,
    /// Kinds of filters.
    pub kinds: Vec<Kind>,
    /// Sizes of each.
    pub sizes: Vec<Size>,
    /// Where they come from.
    pub source: Source,
    /// Whether flags are looked at; without, filters have five fields.
    pub flags: bool,
    /// Rounds of each.
    pub rounds: usize,
    /// Headers of a round.
    pub headers: usize,
    /// Of the headers, and of generated filters.
    pub seed: u64,
}

impl Config {
    /// The comparison that counts: all kinds with 10,000 and 100,000 filters. `librte_acl` needs a minute to build them.
    pub fn full(cpu: usize, seed: u64) -> Self {
        let sizes = vec![Size::K10, Size::K100];
        let (kinds, source) = (Kind::ALL.to_vec(), Source::Files);
        Config { cpu, kinds, sizes, source, flags: true, rounds: 7, headers: 1 << 16, seed }
    }

    /// Less of it, in seconds: 10,000 filters.
    pub fn quick(cpu: usize, seed: u64) -> Self {
        Config { sizes: vec![Size::K10], rounds: 5, ..Self::full(cpu, seed) }
    }
}

/// One method of `librte_acl`.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    /// Its name, and how many headers a call.
    pub name: String,
    /// Nanoseconds a header.
    pub time: Rounds,
}

/// What `librte_acl` did with a set.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// All methods that the CPU has, the best one first.
    pub methods: Vec<Method>,
    /// Seconds to add the rules and build.
    pub build: f64,
    /// Bytes of its run-time tables.
    pub table_bytes: u64,
    /// Bytes of the rules as it keeps them to build from.
    pub rules_bytes: u64,
    /// Of its process, in huge pages.
    pub huge_bytes: u64,
}

/// One set.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its kind and size, for people.
    pub name: String,
    /// Filters in it.
    pub filters: usize,
    /// Headers asked about, each answer checked.
    pub headers: usize,
    /// Nanoseconds a header, in bursts of 32.
    pub ours: Rounds,
    /// Seconds to compile (the best of three).
    pub build: f64,
    /// Bytes: rules, tables, all included.
    pub bytes: u64,
    /// Microseconds to insert one rule in the middle and have a table to ask (the median).
    pub update: f64,
    /// `librte_acl`.
    pub peer: Option<Peer>,
    /// Why there is no peer.
    pub missing: Option<String>,
}

impl Row {
    /// How many times faster than the best method of `librte_acl` ours is, by rounds.
    pub fn speed(&self) -> Option<Rounds> {
        Some(self.peer.as_ref()?.methods.first()?.time.ratio(&self.ours))
    }

    /// How many times faster ours is built.
    pub fn build_ratio(&self) -> Option<f64> {
        Some(self.peer.as_ref()?.build / self.build)
    }

    /// How many times smaller ours is than its run-time tables alone, which ours includes the rules beside.
    pub fn memory_ratio(&self) -> Option<f64> {
        Some(self.peer.as_ref()?.table_bytes as f64 / self.bytes as f64)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sets are not to be had.
    #[error(transparent)]
    Sets(#[from] ReadError),
    /// The peer is there and fails.
    #[error(transparent)]
    Peer(#[from] Unavailable),
    /// The classifier refuses the list.
    #[error("{0}")]
    Refused(String),
    /// Somebody's answer is wrong: nothing else is worth saying then.
    #[error("{who}: wrong answer for {header:?}: {answer:?}, the first match is {right:?}")]
    Wrong {
        /// Who answered.
        who: String,
        /// What was asked.
        header: Header,
        /// The place that was answered.
        answer: Option<usize>,
        /// The place that is right.
        right: Option<usize>,
    },
}

/// Measures.
///
/// # Errors
/// The sets are missing, a wrong answer, or a peer that is there and fails. One that is missing is named in the rows.
pub fn run(config: &Config) -> Result<Vec<Row>, Error> {
    pin(config.cpu);
    let mut rows = Vec::new();
    for &size in &config.sizes {
        for &kind in &config.kinds {
            rows.push(measure(config, kind, size)?);
        }
    }
    Ok(rows)
}

/// The filters as the rules of a list, in order.
pub fn rules(filters: &[Filter]) -> Vec<ListRule> {
    let ports = |ports: classbench::Ports| Ports { first: ports.first, last: ports.last };
    let rule = |(place, filter): (u32, &Filter)| ListRule {
        source: filter.source.into(),
        destination: filter.destination.into(),
        source_ports: ports(filter.source_ports),
        destination_ports: ports(filter.destination_ports),
        protocol: filter.protocol.map(Protocol),
        flags: FlagMatch { value: filter.flags, mask: filter.flags_mask },
        action: if place % 3 == 0 { Action::Deny } else { Action::Allow },
        log: false,
        id: RuleId(place),
    };
    (0..).zip(filters).map(rule).collect()
}

/// The headers as questions about frames that leave by a wire.
pub fn queries(headers: &[Header]) -> Vec<Query> {
    let query = |header: &Header| Query {
        peer: header.destination,
        local: header.source,
        protocol: Protocol(header.protocol),
        port: header.destination_port,
        source_port: header.source_port,
        flags: TcpFlags(header.flags),
    };
    headers.iter().map(query).collect()
}

fn filters(config: &Config, kind: Kind, size: Size) -> Result<Vec<Filter>, ReadError> {
    let mut filters = read_set(kind, size)?;
    if !config.flags {
        filters.iter_mut().for_each(|filter| (filter.flags, filter.flags_mask) = (0, 0));
    }
    Ok(match config.source {
        Source::Files => filters,
        Source::Generated => Generator::learn(&filters).generate(filters.len(), config.seed),
        Source::Ipv6 => filters.iter().map(|filter| filter.to_v6(config.seed)).collect(),
    })
}

/// Compiles; how long it took.
fn build(rules: &[ListRule]) -> Result<(ListTable, Duration), Error> {
    let start = thread_time();
    let list = RuleList::new(rules, Action::Deny).map_err(|error| Error::Refused(error.to_string()))?;
    let table = ListTable::new(&Arc::new(list));
    Ok((table, (thread_time() - start)))
}

/// Microseconds from a rule to insert to a table that has it, in the median of 64 places.
fn update(table: &ListTable, rule: ListRule) -> Result<f64, Error> {
    let mut times = Rounds::default();
    let length = table.list().len();
    for turn in 0..64 {
        let start = thread_time();
        let changed =
            table.list().insert(length * turn / 64, rule).map_err(|error| Error::Refused(error.to_string()))?;
        let changed = ListTable::new(&Arc::new(changed));
        times.0.push((thread_time() - start).as_nanos() as f64 / 1e3);
        drop(changed);
    }
    Ok(times.median())
}

fn measure(config: &Config, kind: Kind, size: Size) -> Result<Row, Error> {
    let filters = filters(config, kind, size)?;
    // One round more than is counted.
    let headers = headers(&filters, config.headers * (config.rounds + 1), config.seed);
    let a_round = headers.len() / (config.rounds + 1);
    let (queries, rules) = (queries(&headers), rules(&filters));
    let (table, mut fastest) = build(&rules)?;
    for _ in 0..2 {
        fastest = fastest.min(build(&rules)?.1);
    }
    let mut missing = None;
    let mut peer = match Acl::start(config.cpu, PEER_MEGABYTES, &filters, &headers) {
        Ok(acl) => Some(Contender::new(acl)?),
        Err(Unavailable::Missing(reason)) => {
            missing = Some(reason);
            None
        }
        Err(failed) => return Err(failed.into()),
    };
    let mut decisions = vec![Decision::CLOSED; queries.len()];
    let mut ours = Rounds::default();
    for round in 0..=config.rounds {
        let part = round * a_round..(round + 1) * a_round;
        let start = thread_time();
        for (queries, decisions) in queries[part.clone()].chunks(BURST).zip(decisions[part.clone()].chunks_mut(BURST)) {
            table.judge_burst(Direction::Egress, queries, decisions);
        }
        let time = (thread_time() - start).as_nanos() as f64 / part.len() as f64;
        if round > 0 {
            ours.0.push(time);
        }
        if let Some(peer) = &mut peer {
            peer.round(part.start, part.len(), round > 0)?;
        }
    }
    let asked = a_round * (config.rounds + 1);
    let oracle = Oracle::new(&filters);
    let right: Vec<Option<usize>> = headers[..asked].iter().map(|header| oracle.first_match(header)).collect();
    let places = decisions[..asked].iter().map(|decision| decision.rule.map(|rule| rule.0 as usize));
    check("Penstock", &headers, places, &right)?;
    let peer = peer.map(|peer| peer.finish(&headers, &right)).transpose()?;
    let family = if config.source == Source::Ipv6 { ", IPv6" } else { "" };
    let generated = if config.source == Source::Generated { ", generated" } else { "" };
    let fields = if config.flags { "" } else { ", no flags" };
    Ok(Row {
        name: format!("{kind} {size}{family}{generated}{fields}"),
        filters: filters.len(),
        headers: asked,
        ours,
        build: fastest.as_secs_f64(),
        bytes: table.memory() as u64,
        update: update(&table, rules[rules.len() / 2])?,
        peer,
        missing,
    })
}

fn check(
    who: &str,
    headers: &[Header],
    answers: impl Iterator<Item = Option<usize>>,
    right: &[Option<usize>],
) -> Result<(), Error> {
    for ((header, answer), right) in headers.iter().zip(answers).zip(right) {
        if answer != *right {
            return Err(Error::Wrong { who: who.into(), header: *header, answer, right: *right });
        }
    }
    Ok(())
}

/// `librte_acl`, built, and its figures so far.
struct Contender {
    acl: Acl,
    built: crate::dpdk::acl::Built,
    /// Name, headers a call, times.
    methods: Vec<(String, usize, Rounds)>,
}

impl Contender {
    fn new(mut acl: Acl) -> Result<Self, Unavailable> {
        let built = acl.build()?;
        let methods =
            built.methods.iter().flat_map(|name| [BURST, 1].map(|batch| (name.clone(), batch, Rounds::default())));
        Ok(Contender { methods: methods.collect(), acl, built })
    }

    fn round(&mut self, from: usize, count: usize, counts: bool) -> Result<(), Unavailable> {
        for (name, batch, times) in &mut self.methods {
            let time = self.acl.round(name, *batch, from, count)?;
            if counts {
                times.0.push(time);
            }
        }
        Ok(())
    }

    fn finish(mut self, headers: &[Header], right: &[Option<usize>]) -> Result<Peer, Error> {
        for method in &self.built.methods {
            check(&format!("librte_acl {method}"), headers, self.acl.answers(method)?.into_iter(), right)?;
        }
        let named = |(name, batch, time)| Method { name: format!("{name}, {batch} a call"), time };
        let mut methods: Vec<Method> = self.methods.into_iter().map(named).collect();
        methods.sort_by(|a, b| a.time.median().total_cmp(&b.time.median()));
        Ok(Peer {
            methods,
            build: self.built.time.as_secs_f64(),
            table_bytes: self.built.table_bytes,
            rules_bytes: self.built.rules_bytes,
            huge_bytes: self.built.huge_bytes,
        })
    }
}

/// The rows as a table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| set | filters | ours, ns | librte_acl, ns (best) | faster | build, s: ours, theirs | faster | MB: ours, theirs (+ its \
         rules) | smaller | one rule, µs |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let (mine, update) = (megabytes(row.bytes), row.update);
        let head = format!("| {} | {} | {} ", row.name, row.filters, row.ours);
        let (Some(peer), Some(speed)) = (&row.peer, row.speed()) else {
            let missing = row.missing.as_deref().unwrap_or("missing");
            text += &format!("{head}| {missing} | | {:.3} | | {mine:.1} | | {update:.1} |\n", row.build);
            continue;
        };
        let (best, theirs) = (&peer.methods[0], megabytes(peer.table_bytes));
        let ratio = |ratio: Option<f64>| ratio.unwrap_or(f64::NAN);
        text += &format!(
            "{head}| {} ({}) | {:.2} | {:.3}, {:.2} | {:.0} | {mine:.1}, {theirs:.1} (+ {:.1}) | {:.1} | {update:.1} |\n",
            best.time,
            best.name,
            speed.median(),
            row.build,
            peer.build,
            ratio(row.build_ratio()),
            megabytes(peer.rules_bytes),
            ratio(row.memory_ratio()),
        );
    }
    text
}
