//! The flow table against `rte_hash`, at sizes where the caches hold all of it, some of it, and next to nothing.
//!
//! The same flows on both sides, added in one random order and looked up in another, all of them in each round, so that no
//! entry is warm from the look-up before. What is compared is not quite the same work, and the difference is in the
//! peer's favour: our keys have 44 bytes (both families), are hashed with a secret key, and adding a flow starts its
//! timers, counts it for its wire and lists it for eviction. With a payload `rte_hash` has to fetch a flow's state as we
//! do, whose state is in the entry that the key is compared in.

use std::hint::black_box;

use dataplane::address::Address;
use dataplane::flow::{Crossing, FlowConfig, FlowKey, FlowRef, FlowRegion, FlowTable};
use dataplane::packet::{Direction, Packet, Payload, Tuple};
use dataplane::parse::{Medium, parse_bytes};
use dataplane::rules::{Epoch, WireId};
use dataplane::testing::FrameBuilder;
use dataplane::time::Time;
use serde::Serialize;

use super::{Rounds, pin, thread_time};
use crate::dpdk::Unavailable;
use crate::dpdk::hash::{Function, Hash, Shape};
use crate::random::Random;

/// Frames in a burst, on both sides.
const BURST: usize = 32;

/// Bytes of a flow's state beside `rte_hash`'s key: one cache line, as our entry has for every frame.
const PAYLOAD: usize = 64;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Config {
    /// CPU of both sides.
    pub cpu: usize,
    /// Numbers of flows.
    pub flows: Vec<usize>,
    /// Rounds of each.
    pub rounds: usize,
    /// Of the order of flows.
    pub seed: u64,
}

impl Config {
    /// The comparison that counts: 64k, 1M and 4M flows.
    pub fn full(cpu: usize, seed: u64) -> Self {
        Config { cpu, flows: vec![1 << 16, 1 << 20, 1 << 22], rounds: 7, seed }
    }

    /// Less of it, in seconds.
    pub fn quick(cpu: usize, seed: u64) -> Self {
        Config { cpu, flows: vec![1 << 16, 1 << 20], rounds: 5, seed }
    }
}

/// One kind of table with one number of flows; all times in nanoseconds a flow.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Which, for people.
    pub name: String,
    /// Finding flows, in bursts of 32.
    pub find: Rounds,
    /// Adding flows to an empty table.
    pub insert: Rounds,
    /// All memory of the table by its capacity.
    pub bytes_per_flow: f64,
}

/// One number of flows.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Flows in the table.
    pub flows: usize,
    /// Flows that there is room for.
    pub capacity: usize,
    /// Ours.
    pub ours: Side,
    /// `rte_hash` with keys as long as ours (padded to 48 bytes): bare, then with a payload. Then with IPv4's keys (16 bytes).
    pub peers: Vec<Side>,
    /// Why there are no peers.
    pub missing: Option<String>,
}

impl Row {
    /// Round by round, our time by the peer's with keys as long as ours: finding, adding.
    pub fn ratios(&self) -> Option<(Rounds, Rounds)> {
        let peer = self.peers.first()?;
        Some((self.ours.find.ratio(&peer.find), self.ours.insert.ratio(&peer.insert)))
    }
}

/// Measures.
///
/// # Errors
/// A peer that is there and fails. One that is missing is named in the rows.
pub fn run(config: &Config) -> Result<Vec<Row>, Unavailable> {
    pin(config.cpu);
    config.flows.iter().map(|&flows| measure(config, flows)).collect()
}

/// Where our flows are: a table and the keys in both orders.
struct Ours {
    table: FlowTable,
    template: Packet,
    keys: Vec<FlowKey>,
    wanted: Vec<FlowKey>,
    found: Vec<Option<FlowRef>>,
    now: Time,
}

fn crossing(now: Time) -> Crossing {
    Crossing { wire: WireId(1), direction: Direction::Egress, length: 100, now }
}

/// A UDP packet of the first flow.
fn template() -> Packet {
    let bytes = FrameBuilder::new().ip("10.0.0.1", "10.0.0.2").udp(40_000, 53).build();
    let parsed = parse_bytes(&bytes, None, bytes.len(), Medium::Ethernet).expect("a well-formed frame");
    match parsed.payload {
        Payload::Ip(packet) => packet,
        _ => unreachable!("the frame is IP"),
    }
}

/// As many flows of UDP over IPv4, in random order: clients of 1,000 addresses and as many ports as that takes.
fn tuples(flows: usize, random: &mut Random) -> Vec<Tuple> {
    let template = template().tuple();
    let mut tuples: Vec<Tuple> = (0..flows as u32)
        .map(|flow| Tuple {
            source: Address::v4((0x0a01_0000 + flow % 1_000).to_be_bytes()),
            source_port: 1_024 + (flow / 1_000) as u16,
            destination: Address::v4((0x0ac8_0000 + random.below(5_000)).to_be_bytes()),
            ..template
        })
        .collect();
    shuffle(&mut tuples, random);
    tuples
}

fn shuffle<T>(values: &mut [T], random: &mut Random) {
    for index in (1..values.len()).rev() {
        values.swap(index, random.below(index as u32 + 1) as usize);
    }
}

/// How often all flows are looked up in a round, so that it takes milliseconds.
fn passes(flows: usize) -> usize {
    (1 << 20) / flows.clamp(1, 1 << 20)
}

/// A quarter more than the flows: both tables are 80 % full, before `rte_hash` rounds up.
fn capacity(flows: usize) -> usize {
    flows + flows / 4
}

impl Ours {
    fn new(tuples: &[Tuple], order: &[u32], seed: u64) -> Self {
        let keys: Vec<FlowKey> = tuples.iter().map(|tuple| FlowTable::key(&crossing(Time(0)), tuple)).collect();
        let hash_key = [seed, seed.rotate_left(32) ^ 1].map(u64::to_ne_bytes).concat().try_into().unwrap_or_default();
        let config = FlowConfig { hash_key, ..FlowConfig::default() };
        Ours {
            table: FlowTable::new(FlowRegion::heap(capacity(tuples.len())), config),
            template: template(),
            wanted: order.iter().map(|&number| keys[number as usize]).collect(),
            found: vec![None; keys.len()],
            keys,
            now: Time(1_000_000_000),
        }
    }

    /// Empties the table and adds all flows: nanoseconds a flow.
    fn insert(&mut self) -> f64 {
        // A day on, every flow has run out.
        self.now = Time(self.now.0 + 86_400_000_000_000);
        while !self.table.is_empty() {
            self.now = Time(self.now.0 + 60_000_000_000);
            while self.table.expire(1 << 20, self.now) > 0 {}
        }
        let crossing = crossing(self.now);
        let start = thread_time();
        for keys in self.keys.chunks(BURST) {
            let hashes: arrayvec::ArrayVec<_, BURST> = keys
                .iter()
                .map(|key| {
                    let hash = self.table.hash(key);
                    self.table.prefetch_index(hash);
                    hash
                })
                .collect();
            for (key, hash) in keys.iter().zip(hashes) {
                let added = self.table.insert_hashed(key, hash, &crossing, &self.template, Epoch(1));
                black_box(added.is_ok());
            }
        }
        let time = (thread_time() - start).as_nanos() as f64 / self.keys.len() as f64;
        assert_eq!(self.table.len(), self.keys.len(), "every flow found room");
        time
    }

    /// Finds all flows, some times: nanoseconds a flow.
    fn find(&mut self) -> f64 {
        let passes = passes(self.wanted.len());
        let start = thread_time();
        for _ in 0..passes {
            for (keys, found) in self.wanted.chunks(BURST).zip(self.found.chunks_mut(BURST)) {
                self.table.find_burst(keys, self.now, found);
            }
        }
        let time = (thread_time() - start).as_nanos() as f64 / (passes * self.wanted.len()) as f64;
        for (key, found) in self.wanted.iter().zip(&self.found) {
            let flow = found.expect("every flow is there");
            assert_eq!(self.table.entry(flow).key(), key, "each flow is its own");
        }
        time
    }
}

/// Keys of 48 bytes: ours, padded.
fn long_keys(ours: &[FlowKey]) -> Vec<u8> {
    ours.iter()
        .flat_map(|key| {
            let mut bytes = [0; 48];
            bytes[..size_of::<FlowKey>()].copy_from_slice(bytemuck::bytes_of(key));
            bytes
        })
        .collect()
}

/// Keys of 16 bytes: IPv4's addresses, ports and protocol.
fn short_keys(tuples: &[Tuple]) -> Vec<u8> {
    tuples
        .iter()
        .flat_map(|tuple| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&tuple.source.0[12..]);
            bytes[4..8].copy_from_slice(&tuple.destination.0[12..]);
            bytes[8..10].copy_from_slice(&tuple.source_port.to_be_bytes());
            bytes[10..12].copy_from_slice(&tuple.destination_port.to_be_bytes());
            bytes[12] = tuple.protocol.0;
            bytes
        })
        .collect()
}

fn measure(config: &Config, flows: usize) -> Result<Row, Unavailable> {
    let mut random = Random::new(config.seed);
    let tuples = tuples(flows, &mut random);
    let mut order: Vec<u32> = (0..flows as u32).collect();
    shuffle(&mut order, &mut random);
    let mut ours = Ours::new(&tuples, &order, config.seed);
    let mut sides = Vec::new();
    let mut missing = None;
    let kinds = [
        (48, Function::Crc, long_keys(&ours.keys)),
        (48, Function::Jhash, long_keys(&ours.keys)),
        (16, Function::Crc, short_keys(&tuples)),
    ];
    for (key_bytes, function, keys) in kinds {
        let shape = Shape { key_bytes, capacity: capacity(flows), payload_bytes: PAYLOAD };
        match Hash::start(config.cpu, shape, function, &keys, &order) {
            Ok(hash) => sides.push(Peer::new(hash, key_bytes, function, flows)?),
            Err(Unavailable::Missing(reason)) => missing = Some(reason),
            Err(failed) => return Err(failed),
        }
    }
    let (mut find, mut insert) = (Rounds::default(), Rounds::default());
    // One round more than is counted: the first touches memory for the first time.
    for round in 0..=config.rounds {
        let mine = (ours.insert(), ours.find());
        for side in &mut sides {
            side.round(round > 0)?;
        }
        if round > 0 {
            insert.0.push(mine.0);
            find.0.push(mine.1);
        }
    }
    let bytes_per_flow = ours.table.bytes_per_flow();
    let ours = Side { name: "Penstock".into(), find, insert, bytes_per_flow };
    let peers = sides.into_iter().flat_map(Peer::sides).collect();
    Ok(Row { flows, capacity: capacity(flows), ours, peers, missing })
}

/// A running peer and its figures so far: finding bare and with a payload, adding.
struct Peer {
    hash: Hash,
    flows: usize,
    name: String,
    find: [Rounds; 2],
    insert: Rounds,
    bytes_per_flow: [f64; 2],
}

impl Peer {
    fn new(mut hash: Hash, key_bytes: usize, function: Function, flows: usize) -> Result<Self, Unavailable> {
        let (memory, capacity) = (hash.create()?, capacity(flows));
        let by_flow = |bytes: u64| bytes as f64 / capacity as f64;
        let bytes_per_flow = [by_flow(memory.table_bytes), by_flow(memory.table_bytes + memory.payload_bytes)];
        let name = format!("rte_hash, {key_bytes}-byte keys, {function:?}").to_lowercase();
        Ok(Peer { hash, flows, name, find: Default::default(), insert: Rounds::default(), bytes_per_flow })
    }

    fn round(&mut self, counts: bool) -> Result<(), Unavailable> {
        let insert = self.hash.insert()?;
        let mut find = [0.0; 2];
        let passes = passes(self.flows);
        for (time, payload) in find.iter_mut().zip([false, true]) {
            for _ in 0..passes {
                *time += self.hash.lookup(BURST, payload)? / passes as f64;
            }
        }
        if counts {
            self.insert.0.push(insert);
            for (rounds, time) in self.find.iter_mut().zip(find) {
                rounds.0.push(time);
            }
        }
        Ok(())
    }

    fn sides(self) -> Vec<Side> {
        let [bare, payload] = self.find;
        let side = |find, more: &str, bytes_per_flow| Side {
            name: format!("{}{more}", self.name),
            find,
            insert: self.insert.clone(),
            bytes_per_flow,
        };
        vec![
            side(bare, "", self.bytes_per_flow[0]),
            side(payload, &format!(", {PAYLOAD} bytes of payload"), self.bytes_per_flow[1]),
        ]
    }
}

/// The rows as a table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| flows | table | find, ns | insert, ns | bytes a flow |\n|---|---|---|---|---|\n");
    for row in rows {
        for side in std::iter::once(&row.ours).chain(&row.peers) {
            let (flows, bytes) = (row.flows, side.bytes_per_flow);
            text += &format!("| {flows} | {} | {} | {} | {bytes:.0} |\n", side.name, side.find, side.insert);
        }
        if let Some((find, insert)) = row.ratios() {
            let (find, insert) = (find.median(), insert.median());
            text += &format!("| {} | ours by rte_hash's with keys as long | {find:.2} | {insert:.2} | |\n", row.flows);
        }
        if let Some(reason) = &row.missing {
            text += &format!("| {} | rte_hash: {reason} | | | |\n", row.flows);
        }
    }
    text
}
