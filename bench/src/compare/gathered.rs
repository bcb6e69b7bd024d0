//! Bars of measurements that are made elsewhere in this crate: each in a process of its own, so that none inherits the
//! memory or the caches of another, and told as JSON.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::compare::bars::{Bar, Goal};
use crate::compare::process;
use crate::compare::report::once;
use crate::compare::statistics::Samples;
use crate::idle_node::{self, IdleNode};
use crate::live;
use crate::micro::{flows, fresh_seed, lists};
use crate::scale;

/// The CPU of parts that are pinned.
const CPU: usize = 1;
/// The case of the journey's bench that the bar is about.
const JOURNEY: &str = "established udp4 rules=10000 flows=65536 burst=64";

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// A large cluster's policies.
    Scale,
    /// The flow table beside `rte_hash`.
    FlowTable,
    /// Rule lists beside `librte_acl`.
    RuleLists,
    /// A frame's journey over ports in memory.
    Journey,
    /// A large cluster's first sync. Not a part of the quick report.
    Sync,
    /// A node that has many wires and nothing to do.
    IdleNode,
    /// A gateway's daemon whose rules change.
    GatewayLive,
}

impl Part {
    /// All, in the order in which they are measured.
    pub const ALL: [Part; 7] =
        [Part::GatewayLive, Part::Scale, Part::FlowTable, Part::RuleLists, Part::IdleNode, Part::Journey, Part::Sync];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Part::Scale => "scale",
            Part::FlowTable => "flow-table",
            Part::RuleLists => "rule-lists",
            Part::Journey => "journey",
            Part::Sync => "sync",
            Part::IdleNode => "idle-node",
            Part::GatewayLive => "gateway-live",
        }
    }

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Part::Scale => "A large cluster",
            Part::FlowTable => "The flow table beside rte_hash",
            Part::RuleLists => "Rule lists beside librte_acl",
            Part::Journey => "A frame's journey over ports in memory",
            Part::Sync => "First sync from an API server",
            Part::IdleNode => "A node at rest",
            Part::GatewayLive => "A gateway whose rules change",
        }
    }

    /// Measures here, in this process, and prints JSON: the hidden subcommand.
    ///
    /// # Errors
    /// What the measurement says.
    pub fn measure(self, is_quick: bool) -> Result<()> {
        let seed = fresh_seed();
        match self {
            Part::Scale => print(&scale::run(&scale::Config::default())?),
            Part::FlowTable => {
                let config = if is_quick { flows::Config::quick } else { flows::Config::full };
                let rows = flows::run(&config(CPU, seed))?;
                let markdown = format!("Seed {seed}, CPU {CPU}.\n\n{}", flows::markdown(&rows));
                print(&serde_json::json!({ "rows": rows, "markdown": markdown }))
            }
            Part::RuleLists => {
                let config = if is_quick { lists::Config::quick } else { lists::Config::full };
                let rows = lists::run(&config(CPU, seed))?;
                let ratios: Vec<Value> = rows.iter().map(list_ratios).collect();
                let markdown = format!("Seed {seed} of the headers, CPU {CPU}.\n\n{}", lists::markdown(&rows));
                print(&serde_json::json!({ "rows": ratios, "markdown": markdown }))
            }
            Part::IdleNode => {
                let node = IdleNode { cpu: Some(CPU), ..IdleNode::default() };
                print(&serde_json::json!({ "wires": node.wires, "seen": idle_node::measure(&node)? }))
            }
            Part::GatewayLive => {
                let config = if is_quick { live::Config::quick(seed) } else { live::Config::full(seed) };
                print(&live::run(&config)?)
            }
            Part::Journey | Part::Sync => bail!("it is a bench of its own"),
        }
    }

    fn told(self, is_quick: bool) -> Result<Value> {
        // Not its path: a build that goes on beside may have put another program there.
        let mut words = vec!["/proc/self/exe", "part", self.name()];
        if is_quick {
            words.push("--quick");
        }
        let text = process::run(None, &words, "")?;
        serde_json::from_str(&text).context("reading what the part printed")
    }

    /// Its bars and its report.
    fn judged(self, is_quick: bool) -> Result<(Vec<Bar>, String)> {
        match self {
            Part::Scale => scale_bars(&self.told(is_quick)?),
            Part::FlowTable => flow_bars(&self.told(is_quick)?),
            Part::RuleLists => list_bars(&self.told(is_quick)?),
            Part::Journey => journey_bars(),
            Part::Sync => Ok((
                Vec::new(),
                format!("A scripted server in a process of its own, pods of 6 KiB.\n```\n{}\n```", bench("sync", &[])?),
            )),
            Part::IdleNode => idle_bars(&self.told(is_quick)?),
            Part::GatewayLive => {
                let report: live::Report = serde_json::from_value(self.told(is_quick)?)?;
                Ok((report.bars(), report.markdown()))
            }
        }
    }
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// What the parts said: the bars they were judged by, and their reports, each with its title.
pub type Gathered = (Vec<Bar>, Vec<(String, String)>);

/// Measures parts. One that fails has a bar without a figure, which says why.
///
/// # Errors
/// Only when somebody asked to stop.
pub fn gather(parts: &[Part], is_quick: bool) -> Result<Gathered> {
    let (mut bars, mut reports) = (Vec::new(), Vec::new());
    for &part in parts {
        process::check()?;
        eprintln!("{}: {}", part.name(), part.title());
        match part.judged(is_quick) {
            Ok((judged, text)) => {
                bars.extend(judged);
                reports.push((part.title().to_owned(), text));
            }
            Err(error) => {
                process::check()?;
                eprintln!("  failed: {error:#}");
                let detail = format!("not measured: {error:#}").replace('|', "/");
                bars.push(Bar { what: part.title().to_owned(), goal: Goal::AtLeast(1.0), value: None, detail });
            }
        }
    }
    Ok((bars, reports))
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no number {pointer}"))
}

fn scale_bars(told: &Value) -> Result<(Vec<Bar>, String)> {
    let shape = told.pointer("/config/shape").context("no shape")?;
    let what = format!("{} pods, {} policies, {} namespaces", shape["pods"], shape["policies"], shape["namespaces"]);
    let mut bars = Vec::new();
    let first = number(told, "/first_compile_ms")?;
    bars.push(Bar::of(format!("{what}: first compile, ms"), Goal::AtMost(1_000.0), &once(first), "to acknowledged"));
    let mut text = String::from("| change | count | median, µs | p99, µs |\n|---|---|---|---|\n");
    for change in told["changes"].as_array().context("no changes")? {
        let name = change["change"].as_str().unwrap_or("?");
        let (median, p99) = (number(change, "/median_us")?, number(change, "/p99_us")?);
        let _ = writeln!(text, "| {name} | {} | {median:.0} | {p99:.0} |", change["count"]);
        for (kind, value, most) in [("median", median, 1.0), ("p99", p99, 5.0)] {
            let what = format!("{what}: {name}, to applied, {kind}, ms");
            bars.push(Bar::of(what, Goal::AtMost(most), &once(value / 1e3), ""));
        }
    }
    let memory = |name: &str| Ok::<f64, anyhow::Error>(number(told, &format!("/memory/{name}"))? / 1e6);
    let (program, engine, after) = (memory("program")?, memory("engine")?, memory("after_changes")?);
    let apart = engine - program;
    let detail = format!(
        "{after:.0} MB after all changes, of which {apart:.0} MB are the flow region and the ports' buffers, counted apart; \
         {program:.0} MB for the program with what the cluster is made from are counted in"
    );
    bars.push(Bar::of(format!("{what}: resident memory, MB"), Goal::AtMost(100.0), &once(after - apart), detail));
    Ok((bars, text))
}

/// Ratios round by round of a row of the flow table's comparison.
fn ratios(row: &Value, figure: &str) -> Option<Samples> {
    let of = |side: &Value| -> Option<Samples> {
        Some(Samples(side[figure].as_array()?.iter().filter_map(Value::as_f64).collect()))
    };
    Some(of(&row["ours"])?.ratio(&of(row.pointer("/peers/0")?)?))
}

fn flow_bars(told: &Value) -> Result<(Vec<Bar>, String)> {
    let mut bars = Vec::new();
    for row in told["rows"].as_array().context("no rows")? {
        let what = format!("flow table, {} flows", row["flows"]);
        if let Some(reason) = row["missing"].as_str() {
            let goal = Goal::AtMost(1.5);
            bars.push(Bar { what: what.clone(), goal, value: None, detail: format!("not measured: {reason}") });
        }
        for (figure, name) in [("find", "burst lookup"), ("insert", "insert")] {
            if let Some(ratios) = ratios(row, figure) {
                let what = format!("{what}: {name}, time vs rte_hash");
                bars.push(Bar::of(what, Goal::AtMost(1.5), &ratios, "keys as long as ours, on one CPU in turns"));
            }
        }
        let bytes = number(row, "/ours/bytes_per_flow")?;
        bars.push(Bar::of(format!("{what}: bytes a flow"), Goal::AtMost(128.0), &once(bytes), "all lists included"));
    }
    Ok((bars, told["markdown"].as_str().unwrap_or_default().to_owned()))
}

/// What bars are about: how many times faster, sooner built and smaller than `librte_acl` a rule list is.
fn list_ratios(row: &lists::Row) -> Value {
    serde_json::json!({
        "name": row.name,
        "filters": row.filters,
        "speed": row.speed(),
        "build": row.build_ratio(),
        "memory": row.memory_ratio(),
        "missing": row.missing,
    })
}

fn list_bars(told: &Value) -> Result<(Vec<Bar>, String)> {
    let mut bars = Vec::new();
    for row in told["rows"].as_array().context("no rows")? {
        let what = format!("rule list {}", row["name"].as_str().unwrap_or("?"));
        let filters = number(row, "/filters")?;
        let speed: Option<Samples> = serde_json::from_value(row["speed"].clone()).ok();
        let Some(speed) = speed.filter(|speed| !speed.0.is_empty()) else {
            let detail = format!("not measured: {}", row["missing"].as_str().unwrap_or("no peer"));
            bars.push(Bar { what: format!("{what} vs librte_acl"), goal: Goal::AtLeast(1.5), value: None, detail });
            continue;
        };
        let detail = "bursts of 32, each header once, every answer of both checked, in turns on one CPU";
        // The sets of 100,000 have somewhat fewer filters.
        let least = if filters > 30_000.0 { 1.0 } else { 1.5 };
        bars.push(Bar::of(
            format!("{what}: speed, times librte_acl's best method"),
            Goal::AtLeast(least),
            &speed,
            detail,
        ));
        for (figure, name, least) in
            [("build", "building, times faster", 10.0), ("memory", "memory, times smaller", 5.0)]
        {
            let value = number(row, &format!("/{figure}"))?;
            bars.push(Bar::of(format!("{what}: {name}"), Goal::AtLeast(least), &once(value), ""));
        }
    }
    Ok((bars, told["markdown"].as_str().unwrap_or_default().to_owned()))
}

fn idle_bars(told: &Value) -> Result<(Vec<Bar>, String)> {
    let share = 100.0 * number(told, "/seen/core_share")?;
    let what = format!("node with {} live af_packet wires, ARP and ND chatter only: % of a core", told["wires"]);
    let detail = format!(
        "{} frames of questions, {} of answers, {} sleeps; the worker's thread on CPU {CPU}",
        told["seen"]["questions"], told["seen"]["answers"], told["seen"]["sleeps"]
    );
    let text = format!("{share:.2} % of a core: {detail}.");
    Ok((vec![Bar::of(what, Goal::AtMost(2.0), &once(share), detail)], text))
}

/// What one of this crate's benches prints, run through cargo, which `make bench` has.
fn bench(name: &str, arguments: &[&str]) -> Result<String> {
    let words = ["cargo", "bench", "--locked", "-q", "-p", "penstock-bench", "--bench", name, "--"];
    Ok(process::run(None, &[&words[..], arguments].concat(), "")?.trim().to_owned())
}

/// Reads the line of the case.
fn journey_bars() -> Result<(Vec<Bar>, String)> {
    let text = bench("journey", &[JOURNEY])?;
    let (whole, added, calls) = journey_line(&text)?;
    let what = "established frame, parse to verdict, memory ports, one core, 64k flows";
    let detail = format!("{whole:.1} ns with the ports' own work");
    let bars = vec![
        Bar::of(format!("{what}: ns"), Goal::AtMost(50.0), &once(added), detail),
        Bar::of(format!("{what}: allocations"), Goal::AtMost(0.0), &once(calls), "in all rounds"),
    ];
    Ok((bars, format!("```\n{text}\n```")))
}

/// Of the bench's line: the median of the whole, of what is added to the ports, and the calls of the allocator.
fn journey_line(text: &str) -> Result<(f64, f64, f64)> {
    let line = text.lines().find(|line| line.starts_with(JOURNEY)).context("the bench printed no such case")?;
    let numbers: Vec<f64> = line[JOURNEY.len()..].split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [_, whole, _, _, _, added, calls] = numbers[..] else { bail!("not the bench's columns: {line}") };
    Ok((whole, added, calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journeys_line_is_read_by_columns() {
        let text =
            format!("ns a frame: best, median\n{JOURNEY:<52}    90.0    95.5    50.0    52.0    40.0    43.5      0\n");
        assert_eq!(journey_line(&text).unwrap(), (95.5, 43.5, 0.0));
        assert!(journey_line("nothing").is_err());
        assert!(journey_line(&format!("{JOURNEY} 1 2 3")).is_err());
    }

    #[test]
    fn a_cluster_is_judged_by_median_and_tail() {
        let told = serde_json::json!({
            "config": { "shape": { "pods": 5, "policies": 4, "namespaces": 3 } },
            "first_compile_ms": 1_200.0,
            "changes": [{ "change": "added", "count": 9, "median_us": 900.0, "p99_us": 6_000.0 }],
            "memory": { "program": 10_000_000, "engine": 50_000_000, "after_changes": 120_000_000 },
        });
        let (bars, _) = scale_bars(&told).unwrap();
        let met: Vec<_> = bars.iter().map(|bar| bar.is_met()).collect();
        assert_eq!(met, [Some(false), Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn a_flow_tables_ratio_is_taken_round_by_round() {
        let side =
            |find: [f64; 3]| serde_json::json!({ "find": find, "insert": [2.0, 2.0, 2.0], "bytes_per_flow": 100.0 });
        let row = serde_json::json!({
            "flows": 64, "ours": side([10.0, 30.0, 10.0]), "peers": [side([10.0, 10.0, 10.0])], "missing": null
        });
        let (bars, _) = flow_bars(&serde_json::json!({ "rows": [row], "markdown": "" })).unwrap();
        assert_eq!(bars[0].value.unwrap().median, 1.0);
        assert_eq!(bars[0].value.unwrap().most, 3.0);
        assert_eq!(bars.len(), 3);
    }
}
