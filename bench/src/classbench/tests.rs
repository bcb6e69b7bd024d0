use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::random::Random;

fn fresh_seed() -> u64 {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    println!("seed {seed}");
    seed
}

/// A small set by hand, in the way of a firewall.
const LIST: &str = "@10.1.0.0/16\t192.0.2.1/32\t0 : 65535\t80 : 80\t0x06/0xFF\t0x0000/0x1200\t\n\
                    @10.1.2.0/24\t192.0.2.0/24\t1024 : 65535\t0 : 1023\t0x11/0xFF\t0x0000/0x0000\t\n\
                    @0.0.0.0/0\t192.0.2.0/24\t0 : 65535\t0 : 65535\t0x01/0xFF\t0x0800/0xff00\t\n\
                    @0.0.0.0/0\t0.0.0.0/0\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000\t\n";

#[test]
fn a_set_reads_as_it_is_written() {
    let filters = parse_set(LIST).unwrap();
    assert_eq!(filters.len(), 4);
    assert_eq!(filters[0].protocol, Some(6));
    assert_eq!((filters[0].flags, filters[0].flags_mask), (0, 0x12), "neither SYN nor ACK");
    assert_eq!(filters[1].destination_ports, Ports { first: 0, last: 1023 });
    let text: String = filters.iter().map(|filter| format!("{filter}\n")).collect();
    assert_eq!(text, LIST);
    for (bad, line) in [("10.0.0.0/8\t", 1), (&LIST.replace("80 : 80", "80 : 79"), 1), (&format!("{LIST}@x\n"), 5)] {
        match parse_set(bad) {
            Err(ReadError::Line { line: at, .. }) => assert_eq!(at, line, "{bad}"),
            other => panic!("{bad}: {other:?}"),
        }
    }
}

#[test]
fn the_first_match_decides() {
    let filters = parse_set(LIST).unwrap();
    for (line, first) in [
        ("167838209 3221225985 1 80 6 0 0", 0),
        // With a SYN the first filter does not mean it.
        ("167838209 3221225985 1 80 6 33554432 0", 3),
        ("167838209 3221225985 1024 80 17 0 0", 1),
        ("167838209 3221225985 1023 80 17 0 0", 3),
        ("167838209 3221225986 1023 80 1 134217728 0", 2),
        ("167838209 3221225986 1023 80 1 0 0", 3),
    ] {
        let (header, _) = parse_trace(line).unwrap()[0];
        assert_eq!(first_match(&filters, &header), Some(first), "{line}");
        assert_eq!(parse_trace(&format!("{header}\t0")).unwrap()[0].0, header);
    }
}

#[test]
fn the_oracle_reads_as_the_definition_does() {
    let seed = fresh_seed();
    let filters = parse_set(LIST).unwrap();
    let learnt = Generator::learn(&filters);
    for list in [filters.clone(), learnt.generate(300, seed)] {
        for list in [list.clone(), list.iter().map(|filter| filter.to_v6(seed)).collect()] {
            let oracle = Oracle::new(&list);
            let mut hit = HashSet::new();
            for header in headers(&list, 3_000, seed) {
                let expected = first_match(&list, &header);
                assert_eq!(oracle.first_match(&header), expected, "{header:?}");
                hit.insert(expected);
            }
            assert!(hit.len() >= list.len() / 2, "{} of {} filters are hit", hit.len(), list.len());
        }
    }
}

#[test]
fn headers_are_distinct_and_a_seed_is_a_sequence() {
    let filters = parse_set(LIST).unwrap();
    let some = headers(&filters, 2_000, 7);
    assert_eq!(some.len(), 2_000);
    assert_eq!(some.iter().collect::<HashSet<_>>().len(), 2_000);
    assert_eq!(some, headers(&filters, 2_000, 7));
    assert_ne!(some, headers(&filters, 2_000, 8));
    assert!(headers(&[], 10, 7).is_empty());
}

/// Prefixes nest after widening as they did before.
#[test]
fn prefixes_keep_their_nesting_in_ipv6() {
    let seed = fresh_seed();
    let mut random = Random::new(seed);
    let mut nets = Vec::new();
    for _ in 0..200 {
        let bits = random.next_u64() as u32 & 0xf0f0_0001;
        nets.push(reader::prefix(bits, random.below(33) as u8));
    }
    for a in &nets {
        for b in &nets {
            let (wide_a, wide_b) = (reader::widen(*a, seed), reader::widen(*b, seed));
            assert_eq!(a.contains(b), wide_a.contains(&wide_b), "{a} {b} became {wide_a} {wide_b}");
            assert!(a.prefix_len() == 0 || wide_a.to_string().starts_with(['2', '3']), "{a} became {wide_a}");
        }
    }
}

/// What the shared files hold: that the reader understands all of them, and that a generated set is like them.
#[test]
fn the_files_are_read_and_their_like_generated() {
    if !directory().is_dir() {
        assert!(std::env::var_os("CI").is_none(), "the ClassBench sets are missing: set PENSTOCK_RULESETS");
        println!("skipped: no ClassBench sets in {}", directory().display());
        return;
    }
    let seed = fresh_seed();
    for kind in Kind::ALL {
        let filters = read_set(kind, Size::K1).unwrap();
        for (header, filter) in read_trace(kind, Size::K1).unwrap() {
            assert!(filters[filter].matches(&header), "{kind}: {header:?}");
        }
        let generated = Generator::learn(&filters).generate(filters.len(), seed);
        assert!(generated.len() == filters.len(), "{kind}: {} of {}", generated.len(), filters.len());
        let alike = |name: &str, count: &dyn Fn(&[Filter]) -> usize| {
            let (learnt, drawn) = (count(&filters), count(&generated));
            println!("{kind}: {name}: {learnt} learnt, {drawn} generated");
            let (fewer, more) = (learnt.min(drawn), learnt.max(drawn));
            assert!(more <= 3 * fewer + 30, "{kind}: {name}: {learnt} learnt, {drawn} generated");
        };
        let distinct =
            |net: fn(&Filter) -> IpNet| move |list: &[Filter]| list.iter().map(net).collect::<HashSet<_>>().len();
        alike("sources", &distinct(|filter| filter.source));
        alike("destinations", &distinct(|filter| filter.destination));
        alike("pairs", &|list| {
            list.iter().map(|filter| (filter.source, filter.destination)).collect::<HashSet<_>>().len()
        });
        alike("exact destination ports", &|list| {
            list.iter().filter(|filter| filter.destination_ports.first == filter.destination_ports.last).count()
        });
        alike("filters hit", &|list| {
            let oracle = Oracle::new(list);
            headers(list, 4_000, seed).iter().map(|header| oracle.first_match(header)).collect::<HashSet<_>>().len()
        });
    }
}
