//! The bars that Penstock is to reach, judged by the rows.

use serde::{Deserialize, Serialize};

use crate::compare::contender::{Gateway, Kind, PortKind};
use crate::compare::experiment::MANY;
use crate::compare::run::{Results, Row};
use crate::compare::statistics::{Samples, Summary};

/// Which side of the bar is good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Goal {
    /// The figure is to be this or more.
    AtLeast(f64),
    /// The figure is to be this or less.
    AtMost(f64),
}

impl Goal {
    /// Whether a figure reaches it.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(bar) => value >= bar,
            Goal::AtMost(bar) => value <= bar,
        }
    }

    /// As a report writes it.
    pub fn text(self) -> String {
        match self {
            Goal::AtLeast(bar) => format!("≥ {bar}"),
            Goal::AtMost(bar) => format!("≤ {bar}"),
        }
    }
}

/// A bar and what came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What is measured.
    pub what: String,
    /// What was asked for.
    pub goal: Goal,
    /// What came out; `None` when it was not measured.
    pub value: Option<Summary>,
    /// The two sides, or why there is no figure.
    pub detail: String,
}

impl Bar {
    /// A bar of one figure.
    pub fn of(what: impl Into<String>, goal: Goal, samples: &Samples, detail: impl Into<String>) -> Bar {
        Bar { what: what.into(), goal, value: samples.summary(), detail: detail.into() }
    }

    /// Whether the median reaches it; `None` when it was not measured.
    pub fn is_met(&self) -> Option<bool> {
        self.value.map(|summary| self.goal.is_met(summary.median))
    }
}

/// How the detail of a bar begins whose experiment has no figures for it.
pub const UNMEASURED: &str = "not measured: see the experiment ";

/// Whom a bar is about.
#[derive(Clone, Copy)]
struct Side {
    kind: Kind,
    rules: Option<u32>,
    flows: Option<u32>,
}

fn side(kind: Kind) -> Side {
    Side { kind, rules: None, flows: None }
}

/// The row of a side; of several layouts, the one in which it is best.
fn best<'a>(results: &'a Results, experiment: &str, side: Side, is_time: bool) -> Option<&'a Row> {
    let metric = results.rows.iter().find(|row| row.experiment == experiment)?.metric.clone();
    let rows = results.rows.iter().filter(|row| {
        row.experiment == experiment
            && row.metric == metric
            && row.setting.kind == side.kind
            && side.rules.is_none_or(|rules| row.setting.rules == rules)
            && side.flows.is_none_or(|flows| row.setting.active == flows)
    });
    let median = |row: &&Row| row.samples.summary().map_or(0.0, |summary| summary.median);
    if is_time {
        rows.min_by(|one, other| median(one).total_cmp(&median(other)))
    } else {
        rows.max_by(|one, other| median(one).total_cmp(&median(other)))
    }
}

/// The ratio of two sides of an experiment, round by round.
fn ratio(results: &Results, what: &str, experiment: &str, one: Side, other: Side, goal: Goal) -> Bar {
    let is_time = matches!(goal, Goal::AtMost(_));
    let rows = (best(results, experiment, one, is_time), best(results, experiment, other, is_time));
    let (value, detail) = match rows {
        (Some(one), Some(other)) => {
            let told = |row: &Row| {
                let summary = row.samples.summary();
                summary.map_or_else(String::new, |summary| crate::compare::report::quantity(summary.median, &row.unit))
            };
            let cpus = |row: &Row| row.setting.layout.text(row.setting.kind);
            let places = if cpus(one) == cpus(other) {
                format!("both: {}", cpus(one))
            } else {
                format!("{}; the other: {}", cpus(one), cpus(other))
            };
            (one.samples.ratio(&other.samples).summary(), format!("{} to {} ({places})", told(one), told(other)))
        }
        _ => (None, format!("{UNMEASURED}{experiment}")),
    };
    Bar { what: what.to_owned(), goal, value, detail }
}

/// All bars that rows decide.
pub fn judge(results: &Results) -> Vec<Bar> {
    let mut bars = Vec::new();
    let ours = side(Kind::Penstock(PortKind::AfXdp));
    for (experiment, name, kind, bar) in [
        ("wire", "the bare af_xdp loop", Kind::Bare(PortKind::AfXdp), 0.85),
        ("wire", "dpdk-testpmd io over net_af_xdp", Kind::Testpmd(PortKind::AfXdp), 0.9),
        ("established", "nft conntrack + interval map 10k", Kind::NftConntrackInterval, 1.3),
        ("established", "Calico's chains of the same policies", Kind::Calico, 1.3),
        ("established", "iptables-nft with 1,000 rules in a row", Kind::IptablesNft, 30.0),
    ] {
        let what = format!("60-byte UDP, 64k flows, 10k rules, af_xdp wire vs {name}");
        bars.push(ratio(results, &what, experiment, ours, side(kind), Goal::AtLeast(bar)));
    }
    let what = "every frame a new flow, 10k rules, vs nft conntrack + interval map 10k";
    bars.push(ratio(results, what, "new-flows", ours, side(Kind::NftConntrackInterval), Goal::AtLeast(1.5)));
    let sized = |kind, rules| Side { rules: Some(rules), ..side(kind) };
    let what = "100,000 rules vs 10, every frame a new flow";
    let (many, few) = (sized(ours.kind, 100_000), sized(ours.kind, 10));
    bars.push(ratio(results, what, "rules-new-flows", many, few, Goal::AtLeast(0.9)));
    let stateless = Kind::PenstockStateless(PortKind::AfXdp);
    let what = "100,000 rules vs 10, tracking off";
    let (many, few) = (sized(stateless, 100_000), sized(stateless, 10));
    bars.push(ratio(results, what, "rules-stateless", many, few, Goal::AtLeast(0.9)));
    let imported = Kind::Gateway(Gateway::Penstock(PortKind::AfXdp));
    let what = "100,000 rules imported from iptables vs 10, every frame a new flow";
    let (many, few) = (sized(imported, 100_000), sized(imported, 10));
    bars.push(ratio(results, what, "gateway", many, few, Goal::AtLeast(0.9)));
    let with = |flows| Side { rules: Some(MANY), flows: Some(flows), ..ours };
    let what = "1M flows vs 1k flows";
    bars.push(ratio(results, what, "flows", with(1_000_000), with(1_000), Goal::AtLeast(0.7)));
    bars.extend(clients(results));
    bars.push(change(results));
    bars
}

/// Bars of TCP through `af_packet` wires.
fn clients(results: &Results) -> Vec<Bar> {
    let (ours, bare) = (side(Kind::Penstock(PortKind::AfPacket)), side(Kind::Bare(PortKind::AfPacket)));
    let mut bars = Vec::new();
    for (wires, name) in [
        ("bulk", "one af_packet wire, 1,000 rules, vs the bare loop"),
        ("pods", "pod to pod, two wires, vs two bare loops"),
    ] {
        for streams in [1, 4] {
            for (way, text) in [("", "to the pod"), ("-back", "from the pod")] {
                let experiment = format!("{wires}-{streams}{way}");
                if results.rows.iter().any(|row| row.experiment == experiment) {
                    let what = format!("TCP bulk, {streams} stream(s) {text}, {name}");
                    let bar = ratio(results, &what, &experiment, ours, bare, Goal::AtLeast(0.95));
                    bars.push(beside(results, &experiment, bar));
                }
            }
        }
    }
    let what = "TCP connections/s, one af_packet wire, 1,000 rules, vs the bare loop";
    bars.push(beside(results, "connections", ratio(results, what, "connections", ours, bare, Goal::AtLeast(0.9))));
    let what = "TCP request-reply p99, one af_packet wire, 1,000 rules, vs the bare loop";
    bars.push(beside(results, "latency", ratio(results, what, "latency", ours, bare, Goal::AtMost(1.15))));
    bars
}

/// The bar with the ratio to nft on the kernel's path beside it.
fn beside(results: &Results, experiment: &str, mut bar: Bar) -> Bar {
    let (ours, nft) = (side(Kind::Penstock(PortKind::AfPacket)), side(Kind::NftConntrackInterval));
    let to_nft = ratio(results, "", experiment, ours, nft, bar.goal);
    if let Some(summary) = to_nft.value {
        let (median, least, most) = (summary.median, summary.least, summary.most);
        bar.detail += &format!(
            "; {median:.2} ({least:.2} – {most:.2}) of nft conntrack + interval map on the kernel's path: {}",
            to_nft.detail
        );
    }
    bar
}

/// One rule of a gateway changed: our list beside nft's map, asked through its library.
fn change(results: &Results) -> Bar {
    let (ours, nft) = (side(Kind::PenstockList(PortKind::AfPacket)), side(Kind::NftInterval));
    let what = "one rule changed at 100,000 gateway rules, to applied, time vs one element of nft's interval map (libnftables)";
    ratio(results, what, "change-100000", ours, nft, Goal::AtMost(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::contender::{Layout, Setting};
    use crate::compare::workload::{Flows, Work};

    fn row(kind: Kind, layout: Layout, samples: &[f64]) -> Row {
        Row {
            experiment: "established".to_owned(),
            work: Work::Packets(Flows::Established),
            setting: Setting::new(kind, MANY, layout),
            metric: "rate".to_owned(),
            unit: "frames/s".to_owned(),
            samples: Samples(samples.to_vec()),
        }
    }

    #[test]
    fn a_peer_is_judged_in_the_layout_that_suits_it_best() {
        let nft = Kind::NftConntrackInterval;
        let results = Results {
            rows: vec![
                row(Kind::Penstock(PortKind::AfXdp), Layout::TwoCpus, &[900.0, 800.0, 910.0]),
                row(nft, Layout::TwoCpus, &[300.0, 310.0, 300.0]),
                row(nft, Layout::OneCpu, &[600.0, 640.0, 700.0]),
            ],
            ..Results::default()
        };
        let bars = judge(&results);
        let bar = bars.iter().find(|bar| bar.what.ends_with("vs nft conntrack + interval map 10k")).unwrap();
        // 1.5, 1.25, 1.3 by round.
        assert!((bar.value.unwrap().median - 1.3).abs() < 1e-9);
        assert_eq!(bar.is_met(), Some(true));
        let missing = bars.iter().find(|bar| bar.what.contains("testpmd")).unwrap();
        assert_eq!(missing.is_met(), None);
    }

    #[test]
    fn a_time_is_to_be_small() {
        assert!(Goal::AtMost(1.15).is_met(1.15) && !Goal::AtMost(1.15).is_met(1.16));
        assert!(Goal::AtLeast(0.9).is_met(0.9) && !Goal::AtLeast(0.9).is_met(0.89));
    }
}
