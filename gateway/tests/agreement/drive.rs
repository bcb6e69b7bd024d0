//! One rule set after the other: imported, written and read back, loaded, and asked about packets.

use std::time::Instant;

use gateway::equivalence::{self, Answer};
use gateway::judge::RuleAt;
use gateway::model::{Family, Hook, Ruleset, States};
use gateway::rulefile;

use crate::edits;
use crate::engine::Engine;
use crate::fates::Fates;
use crate::kernel::Kernel;
use crate::observer::alone;
use crate::packet::{Packet, read};
use crate::planted::MUTATIONS;
use crate::rulesets::Named;
use crate::sequences::connection;
use crate::solver::Solver;

/// So many packets each rule set judges if nothing else is said.
const PACKETS: u64 = 5000;
/// How many packets may be made for a rule that none has met.
const TRIES: usize = 60;
/// After so many packets the kernel forgets all connections.
const FORGET: u64 = 3000;

/// The seed of random packets.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("PENSTOCK_SEED").ok().map(|text| text.parse().expect("PENSTOCK_SEED is a number"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("PENSTOCK_SEED={seed}");
    seed
}

/// Makes the connection known that a packet is of, or that it is about.
pub(crate) fn prepare(kernel: &Kernel, packet: &Packet) {
    match packet.wish {
        States::ESTABLISHED => kernel.establish(&read(&packet.bytes()).expect("a packet")),
        States::RELATED => packet.about.iter().filter_map(|about| read(about)).for_each(|of| kernel.establish(&of)),
        _ => {}
    }
}

struct Drive<'a> {
    kernel: Kernel,
    solver: Solver<'a>,
    fates: Fates<'a>,
    forgotten: u64,
}

impl Drive<'_> {
    fn send(&mut self, kind: &str, packet: &Packet) {
        prepare(&self.kernel, packet);
        self.fates.send(&mut self.kernel, kind, packet);
        if self.fates.sent > self.forgotten + FORGET {
            self.forgotten = self.fates.sent;
            self.kernel.forget();
        }
    }

    /// A packet for each rule, until it is met.
    fn rules(&mut self, unreachable: &dyn Fn(RuleAt) -> bool) {
        for at in self.solver.rules() {
            if unreachable(at) {
                continue;
            }
            for _ in 0..TRIES {
                if self.fates.has_met(at) {
                    break;
                }
                if let Some(packet) = self.solver.solve(at) {
                    self.send("a rule's packet", &packet);
                }
            }
        }
    }

    fn boundaries(&mut self, at: RuleAt) {
        let Some(packet) = self.solver.solve(at) else { return };
        for packet in self.solver.boundaries(at, &packet) {
            self.send("beside a rule", &packet);
        }
    }

    /// Some packets, of one kind or another.
    fn some(&mut self, rules: &[RuleAt]) {
        let at = rules[self.solver.random.usize(..rules.len())];
        let solved = self.solver.solve(at);
        let hook = Hook::ALL[self.solver.random.usize(..3)];
        let mut packet = match solved {
            Some(packet) if self.solver.random.u8(..4) > 0 => packet,
            _ => self.solver.any(hook),
        };
        match self.solver.random.u8(..8) {
            0 | 1 => connection(&mut self.kernel, &mut self.fates, &mut self.solver, &packet),
            2 => self.boundaries(at),
            3 => {
                packet.tcp_flags = self.solver.random.u8(..64);
                self.send("any flags", &packet);
            }
            4 => {
                packet.bad_checksum = true;
                self.send("a bad checksum", &packet);
            }
            5 => {
                packet.wish = States::UNTRACKED;
                self.send("untracked", &packet);
            }
            6 => {
                let packet = self.solver.any(hook);
                self.send("any packet", &packet);
            }
            _ => self.send("a rule's packet", &packet),
        }
    }
}

/// The imported rules are what they are when they have been written and read back.
fn written_and_read(ruleset: &Ruleset) -> Ruleset {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rules.yaml");
    std::fs::write(&path, rulefile::write(ruleset, "")).expect("writing a rule file");
    for (name, set) in &ruleset.sets {
        if let Some(file) = &set.file {
            let elements = rulefile::write_elements(set);
            std::fs::write(directory.path().join(file), elements).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    rulefile::read(&path).unwrap_or_else(|problems| panic!("the rule file can't be read: {problems:#?}"))
}

/// What came of packets by a rule set that is loaded into the kernel.
struct Outcome {
    /// Figures for people.
    summary: String,
    /// How many packets fared otherwise than was expected.
    disagreements: u64,
    /// All that is wrong; empty if nothing is.
    complaints: String,
}

/// Sends packets until so many were judged, and compares what the kernel does with the rules and, if it is there, the engine.
fn driven(
    named: Named,
    (dump, ipset): (&str, Option<&str>),
    ruleset: &Ruleset,
    engine: Option<&Engine>,
    packets: u64,
    seed: u64,
) -> Outcome {
    let lines: Vec<&str> = dump.lines().collect();
    let unreachable = |at: RuleAt| {
        let line = lines[ruleset.chains[at.chain].rules[at.rule].origin.line as usize - 1];
        named.unreachable().iter().any(|(beginning, _)| line.starts_with(beginning))
    };
    alone(|| {
        let mut kernel = Kernel::new(named.family, named.interfaces());
        kernel.calm_down();
        kernel.load(dump, ipset);
        let interfaces = kernel.interfaces.clone();
        let solver = Solver::new(ruleset, named.family, &interfaces, seed);
        let fates = Fates::new(ruleset, engine, &kernel);
        let mut drive = Drive { kernel, solver, fates, forgotten: 0 };
        drive.rules(&unreachable);
        let rules = drive.solver.rules();
        let mut of_all = rules.clone();
        drive.solver.random.shuffle(&mut of_all);
        for at in of_all {
            if drive.fates.total() * 2 > packets {
                break;
            }
            drive.boundaries(at);
        }
        while drive.fates.total() < packets {
            drive.some(&rules);
        }
        Outcome {
            summary: drive.fates.summary(&drive.kernel, rules.len()),
            disagreements: drive.fates.disagreements,
            complaints: drive.fates.complaints(dump, &drive.kernel, named.unreachable()),
        }
    })
}

fn agree(name: &'static str, family: Family) {
    let named = Named { name, family };
    let seed = seed();
    let packets = std::env::var("PENSTOCK_AGREEMENT_PACKETS").ok().map(|text| text.parse().expect("a number"));
    let begin = Instant::now();
    let (original, ipset) = alone(|| named.dump());
    let imported = named.import(&original, ipset.as_deref());
    let compared = equivalence::compare(&imported, &written_and_read(&imported), &equivalence::Options::default());
    assert_eq!(compared.expect("the rules can be compared").answer(), Answer::Equal, "{named:?} written and read back");
    let compared = begin.elapsed();

    let (dump, ipset) = alone(|| named.slow_dump());
    let ruleset = named.import(&dump, ipset.as_deref());
    // The engine is told of the rules as the rule file has them.
    let engine = Engine::new(&written_and_read(&ruleset), family, &named.wired(packets.is_some()));
    let compiled = begin.elapsed();
    let loaded = (dump.as_str(), ipset.as_deref());
    let outcome = driven(named, loaded, &ruleset, Some(&engine), packets.unwrap_or(PACKETS), seed);
    eprintln!(
        "{name}, {family} (PENSTOCK_SEED={seed}): {}; {:.1} s to compare, {:.1} s to compile, {:.1} s in all",
        outcome.summary,
        compared.as_secs_f64(),
        (compiled - compared).as_secs_f64(),
        begin.elapsed().as_secs_f64(),
    );
    assert!(outcome.complaints.is_empty(), "{name}, {family}, PENSTOCK_SEED={seed}:\n{}", outcome.complaints);
}

#[test]
fn rules_that_say_otherwise_are_noticed() {
    let seed = seed();
    for name in ["ufw", "kube-proxy"] {
        let named = Named { name, family: Family::V4 };
        let (dump, ipset) = alone(|| named.slow_dump());
        let original = named.import(&dump, ipset.as_deref());
        for edit in edits::of(&MUTATIONS, named).filter(|edit| edit.what == "an action flipped") {
            let (changed, _) = edit.apply(&dump, None);
            let mutated = named.import(&changed, None);
            let engine = Engine::new(&mutated, Family::V4, &named.wired(true));
            for (ruleset, engine) in [(&mutated, None), (&original, Some(&engine))] {
                let outcome = driven(named, (&dump, None), ruleset, engine, 2500, seed);
                assert!(outcome.disagreements > 0, "{name}, PENSTOCK_SEED={seed}: {}", edit.old);
            }
        }
    }
}

#[test]
fn ufw_v4() {
    agree("ufw", Family::V4);
}

#[test]
fn ufw_v6() {
    agree("ufw", Family::V6);
}

#[test]
fn shorewall_v4() {
    agree("shorewall", Family::V4);
}

#[test]
fn shorewall_v6() {
    agree("shorewall", Family::V6);
}

#[test]
fn kube_proxy_v4() {
    agree("kube-proxy", Family::V4);
}

#[test]
fn kube_proxy_v6() {
    agree("kube-proxy", Family::V6);
}

#[test]
fn enterprise_v4() {
    agree("enterprise", Family::V4);
}

#[test]
fn enterprise_v6() {
    agree("enterprise", Family::V6);
}
