use super::acl::Acl;
use super::hash::{Function, Hash, Shape};
use super::*;
use crate::classbench::{Generator, Oracle, headers, parse_set};

/// Without libdpdk there is nothing to compare with, and the test says so.
fn missing() -> bool {
    match version() {
        Ok(_) => false,
        Err(error) => {
            println!("skipped: {error}");
            true
        }
    }
}

const LIST: &str = "@10.1.0.0/16\t192.0.2.1/32\t0 : 65535\t80 : 80\t0x06/0xFF\t0x0000/0x1200\t\n\
                    @10.1.2.0/24\t192.0.2.0/24\t1024 : 65535\t0 : 1023\t0x11/0xFF\t0x0000/0x0000\t\n\
                    @0.0.0.0/0\t192.0.2.0/23\t0 : 65535\t0 : 65535\t0x01/0xFF\t0x0800/0xff00\t\n";

/// Two classifiers that were written apart, and the oracle, agree about every header.
#[test]
fn librte_acl_answers_as_the_oracle_does() {
    if missing() {
        return;
    }
    let filters = Generator::learn(&parse_set(LIST).unwrap()).generate(200, 5);
    for filters in [filters.clone(), filters.iter().map(|filter| filter.to_v6(5)).collect()] {
        let (headers, oracle) = (headers(&filters, 5_000, 6), Oracle::new(&filters));
        let mut acl = Acl::start(0, 256, &filters, &headers).unwrap();
        let built = acl.build().unwrap();
        assert!(built.table_bytes > 0 && built.rules_bytes > 0, "{built:?}");
        for method in &built.methods {
            let answers = acl.answers(method).unwrap();
            assert_eq!(answers.len(), headers.len());
            for (header, answer) in headers.iter().zip(answers) {
                assert_eq!(answer, oracle.first_match(header), "{method}: {header:?}");
            }
        }
        assert!(acl.round(&built.methods[0], 32, 1_000, 2_000).unwrap() > 0.0);
        assert!(acl.round(&built.methods[0], 32, 4_000, 2_000).is_err(), "there are 5,000 headers");
    }
}

#[test]
fn rte_hash_finds_what_was_added() {
    if missing() {
        return;
    }
    let keys: Vec<u8> = (0..1_000u128).flat_map(|key| (key * 0x9e37_79b9_7f4a_7c15).to_ne_bytes()).collect();
    let order: Vec<u32> = (0..1_000).rev().collect();
    for function in [Function::Crc, Function::Jhash] {
        let shape = Shape { key_bytes: 16, capacity: 1_500, payload_bytes: 64 };
        let mut hash = Hash::start(0, shape, function, &keys, &order).unwrap();
        let memory = hash.create().unwrap();
        assert!(memory.table_bytes > 16_000 && memory.payload_bytes >= 64_000, "{memory:?}");
        assert!(hash.lookup(32, true).is_err(), "nothing is there yet");
        let mut hash = Hash::start(0, shape, function, &keys, &order).unwrap();
        hash.create().unwrap();
        for _ in 0..2 {
            assert!(hash.insert().unwrap() > 0.0);
            assert!(hash.lookup(32, true).unwrap() > 0.0);
            assert!(hash.lookup(64, false).unwrap() > 0.0);
        }
    }
}
