//! A gateway with a hundred thousand rules: how long until a change of one is in force, beside `nft` with as many elements in a
//! verdict map of intervals.
//!
//! Both have the same entries ([`crate::compare::policy::entries`]) and change the same one in turns: it comes, and it goes. Ours is from
//! the change handed to [`LiveList`] to the acknowledgement of the worker and of a judge that asks the rules without end in bursts of
//! 32; merging goes on beside it. `nft`'s is a command given to libnftables, without the start of a process: it returns when the kernel
//! has committed. The map is in a network namespace of its own and sees no traffic.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use control::enforcer::{Enforcer, EnforcerConfig, LiveList};
use control::lab::netns::{self, Namespace};
use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::publish::PolicyReader;
use dataplane::rules::list::{Edit, RuleList};
use dataplane::rules::{Action, Query, WireId};
use serde::{Deserialize, Serialize};

use crate::compare::contender::nftables::Library;
use crate::compare::policy::{self, Entry, Tracking, element, entries, list_rule, list_rules};
use crate::compare::process;
use crate::compare::topology::{Family, PREFIX};
use crate::micro::Rounds;

const WIRE: WireId = WireId(0);

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Rules, and elements.
    pub rules: u32,
    /// Rounds; in each, one rule comes and goes on both sides.
    pub rounds: u32,
    /// Of the rules.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { rules: 100_000, rounds: 200, seed: 1 }
    }
}

/// What came of it, in microseconds, a figure a change.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub config: Config,
    /// Ours, to applied.
    pub ours: Rounds,
    /// libnftables', to committed.
    pub nft: Rounds,
    /// Why there is no `nft`.
    pub missing: Option<String>,
    /// From the rules to applied, in milliseconds.
    pub load_ms: f64,
    /// Of `nft -f`, its process included.
    pub nft_load_ms: f64,
    /// Merged lists that were put in force meanwhile.
    pub merges: u64,
    /// Rules beside the base at the end.
    pub beside: usize,
}

impl Report {
    /// Round by round our time in `nft`'s.
    pub fn ratio(&self) -> Rounds {
        self.ours.ratio(&self.nft)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { config, ours, load_ms, merges, beside, .. } = self;
        writeln!(f, "{} gateway rules, one comes or goes, to applied: µs, median (least–most)", config.rules)?;
        writeln!(
            f,
            "ours         {ours}; loaded in {load_ms:.0} ms; {merges} merges meanwhile, {beside} rules beside the base"
        )?;
        match &self.missing {
            Some(reason) => write!(f, "libnftables  missing: {reason}"),
            None => write!(
                f,
                "libnftables  {}; loaded in {:.0} ms\nours in libnftables' {:.3}",
                self.nft,
                self.nft_load_ms,
                self.ratio().median()
            ),
        }
    }
}

/// Asks the rules in bursts until it is told to end, and acknowledges as a worker at work does.
fn judge(mut reader: PolicyReader, stop: &AtomicBool) {
    let mut number = 0u32;
    while !stop.load(Ordering::Relaxed) {
        let snapshot = reader.load();
        let Some(slot) = snapshot.slot(WIRE) else { continue };
        for _ in 0..32 {
            number = number.wrapping_add(0x9e37);
            let peer = Address::from(IpAddr::from((0x0b00_0000 | number & 0x1ff_ffff).to_be_bytes()));
            let query = Query { local: Address::v4([192, 0, 2, 1]), ..Query::new(peer, Protocol::TCP, number as u16) };
            std::hint::black_box(snapshot.classifier().judge(slot, Direction::Ingress, query));
        }
    }
}

/// Measures.
///
/// # Errors
/// When the engine cannot be started, or `nft` is there and fails.
pub fn run(config: &Config) -> Result<Report> {
    let entries = entries(config.rules, Family::V4, false, config.seed);
    let rules = list_rules(&entries);
    let enforcer = Arc::new(Enforcer::start(&EnforcerConfig { flows: 1_024, ..EnforcerConfig::default() })?);
    let began = Instant::now();
    let list = LiveList::start(Arc::clone(&enforcer), vec![WIRE], RuleList::new(&rules, Action::Deny)?)?;
    let load_ms = millis(began);
    let (ours, nft) = (Rounds::default(), Rounds::default());
    let mut report =
        Report { config: *config, ours, nft, missing: None, load_ms, nft_load_ms: f64::NAN, merges: 0, beside: 0 };
    let namespace = [Namespace::named(format!("{PREFIX}{}-gateway", std::process::id()))];
    netns::create(&namespace)?;
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let reader = enforcer.reader();
        scope.spawn(|| judge(reader, &stop));
        let loaded = load(&namespace[0], &entries);
        let result = namespace[0].run(|| rounds(config, &list, loaded, &mut report));
        stop.store(true, Ordering::Relaxed);
        result
    });
    netns::remove(&namespace)?;
    result??;
    (report.merges, report.beside) = (list.merges(), list.list().beside_base());
    Ok(report)
}

/// Loads the map; how long it took.
fn load(namespace: &Namespace, entries: &[Entry]) -> Result<f64> {
    let text = policy::nft(entries, Family::V4, false, Tracking::On);
    let began = Instant::now();
    process::run(Some(namespace), &["nft", "-f", "-"], &text)?;
    Ok(millis(began))
}

fn rounds(config: &Config, list: &LiveList, loaded: Result<f64>, report: &mut Report) -> Result<()> {
    let library = match loaded.and_then(|took| Ok((took, Library::open()?))) {
        Ok((took, library)) => {
            report.nft_load_ms = took;
            Some(library)
        }
        Err(error) => {
            report.missing = Some(format!("{error:#}"));
            None
        }
    };
    for round in 0..=config.rounds {
        let address = IpAddr::from((0x0c00_0000 + (round << 8)).to_be_bytes());
        let entry = Entry { address, length: 24, is_tcp: true, first: 100, last: 200 };
        let place = (round as usize * 7_919) % config.rules as usize;
        for comes in [true, false] {
            let edit =
                if comes { Edit::Insert(place, list_rule(&entry, config.rules + round)) } else { Edit::Remove(place) };
            let began = Instant::now();
            list.change(&[edit])?;
            let ours = micros(began);
            let nft = library.as_ref().map(|library| {
                let word = if comes { "add" } else { "delete" };
                let command = format!("{word} element inet compare allowed {{ {} }}", element(&entry, false));
                let began = Instant::now();
                library.run(&command).context("changing an element").map(|()| micros(began))
            });
            // The first round fills caches, and the library's tables.
            if round > 0 {
                report.ours.0.push(ours);
                report.nft.0.extend(nft.transpose()?);
            }
        }
        // Rules that come to stay: merges become due.
        list.change(&[Edit::Replace(place, list_rule(&entry, config.rules + round))])?;
    }
    Ok(())
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_gateway_is_measured() {
        let report = run(&Config { rules: 1_000, rounds: 3, seed: 5 }).unwrap();
        assert_eq!(report.ours.0.len(), 6, "one that comes and one that goes a round");
        assert!(report.missing.is_some() || report.nft.0.len() == 6, "{report}");
        assert!(report.ours.0.iter().all(|&time| time > 0.0));
    }
}
