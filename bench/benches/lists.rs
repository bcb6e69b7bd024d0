//! Rule lists of gateways: ClassBench's acl, fw and ipc at 1,000, 10,000 and 100,000 rules.
//!
//! `cargo bench -p penstock-bench --bench lists [SEED [NAME…]]`: sets and headers are made anew from the seed, which is the
//! clock's if none is given. Each header is asked once, in no order, in bursts of 32; every answer is checked. Both
//! families; what one changed rule costs, to the table that a worker could ask.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dataplane::classify::list::ListTable;
use dataplane::packet::{Direction, Protocol, TcpFlags};
use dataplane::rules::list::{AddressRange, FlagMatch, ListRule, Ports, RuleList};
use dataplane::rules::{Action, Decision, Query, RuleId};
use penstock_bench::classbench::{Filter, Generator, Header, Kind, Oracle, headers};
use penstock_bench::random::Random;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const HEADERS: usize = 65_536;
const BURST: usize = 32;
const ROUNDS: usize = 41;
const CHANGES: usize = 200;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let seed = arguments.next().and_then(|seed| seed.parse().ok()).unwrap_or(clock);
    let names: Vec<String> = arguments.collect();
    println!(
        "seed {seed}; ns a header in bursts of {BURST} (median and least of {ROUNDS} rounds), ms to build, MB in all, µs a change"
    );
    for kind in Kind::ALL {
        for size in SIZES {
            for v6 in [false, true] {
                let name = format!("{kind}_{size}_{}", if v6 { "v6" } else { "v4" });
                if !names.is_empty() && !names.iter().any(|wanted| name.contains(wanted)) {
                    continue;
                }
                let filters = match Generator::of(kind, size) {
                    Ok(generator) => generator.generate(size, seed),
                    Err(error) => return println!("left out: {error}"),
                };
                let filters = if v6 { filters.iter().map(|filter| filter.to_v6(seed)).collect() } else { filters };
                println!("{name:16} {}", measure(&filters, seed));
            }
        }
    }
}

fn measure(filters: &[Filter], seed: u64) -> String {
    let rules: Vec<ListRule> = (0..).zip(filters).map(|(id, filter)| rule(filter, id)).collect();
    let begun = Instant::now();
    let list = Arc::new(RuleList::new(&rules, Action::Deny).expect("not too many rules"));
    let table = ListTable::new(&list);
    let build = begun.elapsed();
    let headers = headers(filters, HEADERS, seed);
    let queries: Vec<Query> = headers.iter().map(query).collect();
    check(&table, filters, &headers, &queries);
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(&table, &queries)).collect();
    rounds.sort_by(f64::total_cmp);
    let changes = changes(&list, &rules, seed);
    format!(
        "{:6} rules {:7.1} {:7.1} ns {:7.1} ms {:7.2} MB {:6.2} µs",
        rules.len(),
        rounds[ROUNDS / 2],
        rounds[0],
        build.as_secs_f64() * 1e3,
        table.memory() as f64 / 1e6,
        changes.as_secs_f64() * 1e6,
    )
}

/// Nanoseconds a header.
fn round(table: &ListTable, queries: &[Query]) -> f64 {
    let mut decisions = [Decision::CLOSED; BURST];
    let begun = Instant::now();
    for burst in queries.chunks(BURST) {
        table.judge_burst(Direction::Egress, black_box(burst), &mut decisions);
        black_box(&decisions);
    }
    begun.elapsed().as_nanos() as f64 / queries.len() as f64
}

fn check(table: &ListTable, filters: &[Filter], headers: &[Header], queries: &[Query]) {
    let oracle = Oracle::new(filters);
    let mut decisions = [Decision::CLOSED; BURST];
    for (queries, headers) in queries.chunks(BURST).zip(headers.chunks(BURST)) {
        table.judge_burst(Direction::Egress, queries, &mut decisions);
        for (header, decision) in headers.iter().zip(decisions) {
            let expected = oracle.first_match(header).map(|index| RuleId(index as u32));
            assert_eq!(decision.rule, expected, "{header:?}");
        }
    }
}

/// The median time from a change of one rule to the table that a worker could ask: insertions, removals and replacements at
/// random positions, merging not counted in.
fn changes(list: &Arc<RuleList>, rules: &[ListRule], seed: u64) -> Duration {
    let mut random = Random::new(seed);
    let mut list = Arc::clone(list);
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|change| {
            let position = random.below(list.len() as u32) as usize;
            let rule = *random.pick(rules);
            let begun = Instant::now();
            let changed = match change % 3 {
                0 => list.insert(position, rule),
                1 => list.remove(position),
                _ => list.replace(position, rule),
            };
            list = Arc::new(changed.expect("a position of the list"));
            black_box(ListTable::new(&list));
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[CHANGES / 2]
}

fn rule(filter: &Filter, id: u32) -> ListRule {
    let ports = |ports: penstock_bench::classbench::Ports| Ports { first: ports.first, last: ports.last };
    ListRule {
        source: AddressRange::from(filter.source),
        destination: AddressRange::from(filter.destination),
        source_ports: ports(filter.source_ports),
        destination_ports: ports(filter.destination_ports),
        protocol: filter.protocol.map(Protocol),
        flags: FlagMatch { value: filter.flags, mask: filter.flags_mask },
        action: Action::Allow,
        log: false,
        id: RuleId(id),
    }
}

fn query(header: &Header) -> Query {
    Query {
        peer: header.destination,
        protocol: Protocol(header.protocol),
        port: header.destination_port,
        local: header.source,
        source_port: header.source_port,
        flags: TcpFlags(header.flags),
    }
}
