//! Figures that were published for peers before, and whether ours agree. One that differs by more than a fifth is named,
//! and how much of that is the speed of the machine: how much plain kernel forwarding differs.

use std::fmt::Write as _;

use crate::compare::contender::{Kind, Layout, PortKind};
use crate::compare::run::Results;

/// A peer's rate in thousand frames a second, on a machine with AVX-512 (Linux 6.18, two CPUs).
struct Anchor {
    experiment: &'static str,
    kind: Kind,
    rules: u32,
    layout: Layout,
    rate: f64,
}

const fn anchor(experiment: &'static str, kind: Kind, rules: u32, layout: Layout, rate: f64) -> Anchor {
    Anchor { experiment, kind, rules, layout, rate }
}

const ANCHORS: [Anchor; 22] = [
    anchor("ceilings", Kind::Forwarding, 0, Layout::OneCpu, 941.0),
    anchor("ceilings", Kind::Forwarding, 0, Layout::TwoCpus, 661.0),
    anchor("ceilings", Kind::XdpRedirect, 0, Layout::OneCpu, 2_033.0),
    anchor("ceilings", Kind::Bare(PortKind::AfXdp), 0, Layout::TwoCpus, 1_170.0),
    anchor("established", Kind::Testpmd(PortKind::AfXdp), 10_000, Layout::TwoCpus, 1_051.0),
    anchor("established", Kind::Testpmd(PortKind::AfPacket), 10_000, Layout::TwoCpus, 776.0),
    anchor("established", Kind::NftConntrackInterval, 10_000, Layout::OneCpu, 610.0),
    anchor("established", Kind::IptablesNft, 1_000, Layout::OneCpu, 23.0),
    anchor("established", Kind::IptablesLegacy, 1_000, Layout::OneCpu, 206.0),
    anchor("established", Kind::IptablesLegacy, 1_000, Layout::TwoCpus, 201.0),
    anchor("established", Kind::NftInterval, 10_000, Layout::TwoCpus, 359.0),
    anchor("established", Kind::XdpConntrackPolicy, 10_000, Layout::OneCpu, 1_452.0),
    anchor("rules-peers", Kind::IptablesLegacy, 10, Layout::OneCpu, 871.0),
    anchor("rules-peers", Kind::IptablesLegacy, 10_000, Layout::OneCpu, 25.0),
    anchor("rules-peers", Kind::IptablesNft, 10_000, Layout::OneCpu, 2.4),
    anchor("rules-peers", Kind::Ipset, 10_000, Layout::OneCpu, 746.0),
    anchor("rules-peers", Kind::Ipset, 100_000, Layout::OneCpu, 626.0),
    anchor("rules-peers", Kind::NftExact, 10_000, Layout::OneCpu, 772.0),
    anchor("rules-peers", Kind::NftExact, 100_000, Layout::OneCpu, 699.0),
    anchor("rules-peers", Kind::NftInterval, 10_000, Layout::OneCpu, 413.0),
    anchor("rules-peers", Kind::NftInterval, 100_000, Layout::OneCpu, 150.0),
    anchor("rules-peers", Kind::XdpPolicy, 10_000, Layout::OneCpu, 1_465.0),
];

/// How far a measured rate may be off.
const TOLERANCE: f64 = 0.2;

fn measured(results: &Results, anchor: &Anchor) -> Option<f64> {
    let row = results.rows.iter().find(|row| {
        row.experiment == anchor.experiment
            && row.setting.kind == anchor.kind
            && row.setting.layout == anchor.layout
            && (!anchor.kind.has_rules() || row.setting.rules == anchor.rules)
    })?;
    row.samples.summary().map(|summary| summary.median / 1e3)
}

/// The table of all that differ, with a reason; empty when nothing that has an anchor was measured.
pub fn markdown(results: &Results) -> String {
    let pairs: Vec<(&Anchor, f64)> =
        ANCHORS.iter().filter_map(|anchor| Some((anchor, measured(results, anchor)?))).collect();
    if pairs.is_empty() {
        return String::new();
    }
    let speed = |layout: Layout| {
        let base = ANCHORS.iter().find(|anchor| anchor.kind == Kind::Forwarding && anchor.layout == layout);
        base.and_then(|base| Some(measured(results, base)? / base.rate)).unwrap_or(1.0)
    };
    let mut text = format!(
        "\n## Against figures published before\n\n{} of {} figures are within a fifth of those measured before on a machine with \
         AVX-512. The others:\n\n| contender | CPUs | before, kpps | now | ratio | why |\n|---|---|---|---|---|---|\n",
        pairs.iter().filter(|(anchor, now)| (now / anchor.rate - 1.0).abs() <= TOLERANCE).count(),
        pairs.len()
    );
    for (anchor, now) in pairs {
        let ratio = now / anchor.rate;
        if (ratio - 1.0).abs() <= TOLERANCE {
            continue;
        }
        let machine = speed(anchor.layout);
        let why = if anchor.kind == Kind::Forwarding {
            "the machine itself: plain forwarding has nothing else in it".to_owned()
        } else if (ratio / machine - 1.0).abs() <= TOLERANCE {
            format!("the machine: plain forwarding has {machine:.2} times its rate as well")
        } else {
            format!("not the machine's speed alone (plain forwarding: {machine:.2} times): {}", reason(anchor.kind))
        };
        let rules = if anchor.kind.has_rules() { format!(", {} rules", anchor.rules) } else { String::new() };
        let _ = writeln!(
            text,
            "| {}{rules} | {} | {} | {now:.1} | {ratio:.2} | {why} |",
            anchor.kind.name(),
            anchor.layout.text(anchor.kind),
            anchor.rate
        );
    }
    text
}

/// What is known to differ between then and now, beside the machine.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::Bare(_) | Kind::Testpmd(_) => {
            "the receiving softirq shares CPU 0 with the generator, which offers as much as it can"
        }
        Kind::XdpRedirect | Kind::XdpPolicy | Kind::XdpConntrackPolicy => {
            "another program; frames are redirected in bulk here"
        }
        Kind::IptablesLegacy | Kind::IptablesNft => "rules with prefixes and port ranges, of two protocols",
        Kind::NftInterval | Kind::NftConntrackInterval => {
            "the vector instructions of the lookup, and the shape of the intervals"
        }
        _ => "the entries differ in shape",
    }
}
