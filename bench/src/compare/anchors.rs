//! Figures that were published for peers before, and whether ours agree. One that differs by more than a fifth is named,
//! and how much of that is the speed of the machine: how much plain kernel forwarding differs.

use std::fmt::Write as _;

use crate::compare::contender::{Kind, Layout, PortKind};
use crate::compare::report::quantity;
use crate::compare::run::Results;

/// A peer's figure on a machine with AVX-512 (Linux 6.18, two CPUs), in the unit of the experiment's first metric.
struct Anchor {
    experiment: &'static str,
    kind: Kind,
    rules: u32,
    layout: Layout,
    figure: f64,
}

/// A rate in thousand frames a second.
const fn anchor(experiment: &'static str, kind: Kind, rules: u32, layout: Layout, kpps: f64) -> Anchor {
    Anchor { experiment, kind, rules, layout, figure: kpps * 1e3 }
}

/// What clients had: thousand connections a second, or 1e6 kbit/s. Of the kernel's contenders ours have 1,000 rules, those
/// before 10,000, which a map does not show.
const fn clients(experiment: &'static str, kind: Kind, thousand: f64) -> Anchor {
    Anchor { experiment, kind, rules: 1_000, layout: Layout::Clients, figure: thousand * 1e3 }
}

const ANCHORS: [Anchor; 31] = [
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
    clients("bulk-1", Kind::Forwarding, 17.6e6),
    clients("bulk-4", Kind::Forwarding, 27.0e6),
    clients("connections", Kind::Forwarding, 21.0),
    clients("bulk-1", Kind::NftConntrackInterval, 15.5e6),
    clients("bulk-4", Kind::NftConntrackInterval, 29.2e6),
    clients("connections", Kind::NftConntrackInterval, 18.0),
    clients("bulk-1", Kind::Bare(PortKind::Tap), 14.8e6),
    clients("bulk-4", Kind::Bare(PortKind::Tap), 18.2e6),
    clients("connections", Kind::Bare(PortKind::Tap), 12.4),
];

/// How far a measured rate may be off.
const TOLERANCE: f64 = 0.2;

/// The median, with its unit.
fn measured<'a>(results: &'a Results, anchor: &Anchor) -> Option<(f64, &'a str)> {
    let row = results.rows.iter().find(|row| {
        row.experiment == anchor.experiment
            && row.metric == row.work.metrics()[0].0
            && row.setting.kind == anchor.kind
            && row.setting.layout == anchor.layout
            && (!anchor.kind.has_rules() || row.setting.rules == anchor.rules)
    })?;
    row.samples.summary().map(|summary| (summary.median, row.unit.as_str()))
}

/// The table of all that differ, with a reason; empty when nothing that has an anchor was measured.
pub fn markdown(results: &Results) -> String {
    let pairs: Vec<(&Anchor, f64, &str)> =
        ANCHORS.iter().filter_map(|anchor| measured(results, anchor).map(|(now, unit)| (anchor, now, unit))).collect();
    if pairs.is_empty() {
        return String::new();
    }
    let is_near = |ratio: f64| (ratio - 1.0).abs() <= TOLERANCE;
    let mut text = format!(
        "\n## Against figures published before\n\n{} of {} figures are within a fifth of those measured before on a machine with \
         AVX-512. The others:\n\n| figure of | contender | CPUs | before | now | ratio | why |\n|---|---|---|---|---|---|---|\n",
        pairs.iter().filter(|(anchor, now, _)| is_near(now / anchor.figure)).count(),
        pairs.len()
    );
    for (anchor, now, unit) in pairs {
        let ratio = now / anchor.figure;
        if is_near(ratio) {
            continue;
        }
        let rules = if anchor.kind.has_rules() { format!(", {} rules", anchor.rules) } else { String::new() };
        let _ = writeln!(
            text,
            "| {} | {}{rules} | {} | {} | {} | {ratio:.2} | {} |",
            anchor.experiment,
            anchor.kind.name(),
            anchor.layout.text(anchor.kind),
            quantity(anchor.figure, unit),
            quantity(now, unit),
            why(results, anchor, ratio)
        );
    }
    text
}

/// How fast plain forwarding is here by its own anchor: in the same layout, and for clients at the same work.
fn machine(results: &Results, anchor: &Anchor) -> Option<f64> {
    let base = ANCHORS.iter().find(|base| {
        base.kind == Kind::Forwarding
            && base.layout == anchor.layout
            && (anchor.layout != Layout::Clients || base.experiment == anchor.experiment)
    })?;
    Some(measured(results, base)?.0 / base.figure)
}

fn why(results: &Results, anchor: &Anchor, ratio: f64) -> String {
    if anchor.kind == Kind::Forwarding {
        return "the machine itself: plain forwarding has nothing else in it".to_owned();
    }
    match machine(results, anchor) {
        Some(machine) if (ratio / machine - 1.0).abs() <= TOLERANCE => {
            format!("the machine: plain forwarding has {machine:.2} times its rate as well")
        }
        Some(machine) => format!(
            "not the machine's speed alone (plain forwarding: {machine:.2} times): {}",
            reason(anchor.kind, anchor.layout)
        ),
        None => format!("plain forwarding was not measured beside it; {}", reason(anchor.kind, anchor.layout)),
    }
}

/// What is known to differ between then and now, beside the machine.
fn reason(kind: Kind, layout: Layout) -> &'static str {
    match kind {
        _ if layout == Layout::Clients => "where client, server and softirqs run is not known of then",
        Kind::Bare(_) | Kind::Testpmd(_) => {
            "the receiving softirq shares CPU 0 with the generator, which offers as much as it can"
        }
        Kind::XdpRedirect | Kind::XdpPolicy | Kind::XdpConntrackPolicy => {
            "another program; frames are redirected in bulk here"
        }
        Kind::IptablesLegacy | Kind::IptablesNft => {
            "a rule missed costs two comparisons, protocol and address; what the kernel takes for each differs by processor"
        }
        Kind::NftInterval | Kind::NftConntrackInterval => {
            "the vector instructions of the lookup, and the shape of the intervals"
        }
        _ => "the entries differ in shape",
    }
}
