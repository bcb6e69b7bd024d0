//! A gateway's daemon that runs, `penstock run`, and how its rules change: one element of a large set beside ipset's and nft's, and
//! whole files while iperf3 runs through a wire.
//!
//! ```text
//!   generator g0 ── d0 wire d1 ── s0 sink      the wire that carries the traffic
//!   generator g0 ── d0 wire d1 ── s0 sink      a second one, of the other worker
//!                     └── one daemon, one rule set, two workers
//! ```

mod applying;
mod daemon;
mod elements;
mod rules;
mod traffic;

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::compare::bars::{Bar, Goal};
use crate::compare::contender::PortKind;
use crate::compare::report::once;
use crate::compare::statistics::Samples;
pub use applying::Applying;
pub use elements::{Element, Way};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Elements of the set.
    pub elements: u32,
    /// Rounds in which one element comes and one goes, in each way.
    pub rounds: u32,
    /// Rules of the files that are applied.
    pub rules: u32,
    /// How often one is applied under each load.
    pub applications: u32,
    /// The wires' ports.
    pub port: PortKind,
    /// Of rules and elements.
    pub seed: u64,
}

impl Config {
    /// Of the report.
    pub fn full(seed: u64) -> Config {
        Config { elements: 100_000, rounds: 200, rules: 100_000, applications: 5, port: PortKind::AfPacket, seed }
    }

    /// In a minute.
    pub fn quick(seed: u64) -> Config {
        Config { rounds: 100, applications: 3, ..Config::full(seed) }
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub config: Config,
    /// One element changed, way by way.
    pub elements: Vec<Element>,
    /// Files applied, load by load.
    pub applying: Vec<Applying>,
}

/// Measures.
///
/// # Errors
/// When namespaces can't be made (root), or the daemon, ipset, nft or iperf3 fails.
pub fn run(config: &Config) -> Result<Report> {
    let elements = elements::measure(config)?;
    let applying = applying::measure(config)?;
    Ok(Report { config: *config, elements, applying })
}

impl Report {
    fn way(&self, way: Way) -> Option<&Element> {
        self.elements.iter().find(|element| element.way == way)
    }

    /// What is asked of it.
    pub fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        let peers: Vec<String> = self.elements.iter().map(Element::told).collect();
        for (way, how) in [(Way::Socket, "request on the socket to answer"), (Way::Command, "with the command's start")]
        {
            if let Some(element) = self.way(way) {
                let times = Samples(element.times.iter().map(|micros| micros / 1e3).collect());
                let what = format!(
                    "one element of a {}-element set changed, in force on both workers, {how}, median, ms",
                    self.config.elements
                );
                bars.push(Bar::of(what, Goal::AtMost(5.0), &times, peers.join("; ")));
            }
        }
        for of in &self.applying {
            let what = format!("{}-rule files applied, {}", self.config.rules, of.load.text());
            let detail = of.told();
            bars.push(Bar::of(format!("{what}: allowed frames lost"), Goal::AtMost(0.0), &once(of.lost()), detail));
            if of.is_tcp() {
                let cut = if of.is_whole { 0.0 } else { 1.0 };
                let what = format!("{what}: connections cut");
                bars.push(Bar::of(what, Goal::AtMost(0.0), &once(cut), "one connection all the time"));
            }
        }
        bars
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let Config { elements, rounds, rules, port, seed, .. } = &self.config;
        let mut text = format!(
            "`penstock run` with two transparent {} wires and two workers, each on a CPU of its own; seed {seed}.\n\n\
             **One element** of a set of {elements} prefixes comes or goes, {rounds} times each way, the ways in turns, the wires without \
             traffic. ipset has the same elements in a hash:net, nft in an interval set, and their first addresses in a set of single ones; a way that takes long has half a minute. Commands count from the start of their process to its end; the \
             socket from connecting to the answer, which comes when both workers follow; libnftables and a running `ipset -` leave \
             their start out.\n\n| way | changes | median | p99 | most |\n|---|---|---|---|---|\n",
            port.name()
        );
        for element in &self.elements {
            let _ = writeln!(text, "{}", element.row());
        }
        let _ = write!(
            text,
            "\n**Files** of {rules} rules are applied by `penstock apply --yes`, one after the other: two that share only the rules of the \
             traffic, so that all of it is made anew each time. A probe of 1,000 small frames a second goes along; its longest gap is the longest \
             time between two of them that arrive. Offered UDP is half of what arrived flat out. *Command* is the whole of `penstock apply`, with reading, \
             checking and comparing; *switch* is from the order to the last worker's acknowledgement.\n\n\
             | load | offered | frames | lost | probe: frames | lost | longest gap | applied | command | switch | without: lost | longest gap |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for of in &self.applying {
            let _ = writeln!(text, "{}", of.row());
        }
        text
    }
}
