//! The report: bars, rows, what is missing, what differs from figures published before; as Markdown, JSON and plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::compare::anchors;
use crate::compare::bars::{self, Bar};
use crate::compare::contender::{Kind, Layout, PortKind};
use crate::compare::run::{Effort, Results, Row, title};
use crate::compare::statistics::{Samples, Summary};
use crate::compare::topology::Family;
use crate::environment::Environment;
use crate::plot;

/// Everything that one comparison found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// On what.
    pub environment: Environment,
    /// Whether it was the quick part.
    pub is_quick: bool,
    /// Whether only some experiments were asked for.
    #[serde(default)]
    pub is_part: bool,
    /// What the contenders' rules were made from.
    pub seed: u64,
    /// Rounds and seconds of a turn.
    pub effort: (usize, f64),
    /// The bars.
    pub bars: Vec<Bar>,
    /// Figures, gaps, loading.
    pub results: Results,
    /// Reports of other measurements that bars are about, as Markdown with their titles.
    pub parts: Vec<(String, String)>,
}

/// The lines in the README between which the table stands.
const MARKERS: (&str, &str) = ("<!-- penstock-bench: begin -->", "<!-- penstock-bench: end -->");

/// A figure with its unit, scaled for people.
pub fn quantity(value: f64, unit: &str) -> String {
    if unit == "ms" && value < 1.0 {
        return quantity(value * 1e3, "µs");
    }
    let (scale, prefix) = match (unit, value) {
        ("frames/s", value) if value >= 1e6 => (1e6, "M"),
        ("frames/s" | "connections/s", value) if value >= 1e3 => (1e3, "k"),
        ("bit/s", _) => (1e9, "G"),
        _ => (1.0, ""),
    };
    let value = value / scale;
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {prefix}{unit}")
}

fn environment_markdown(environment: &Environment) -> String {
    let mut text = String::from("| | |\n|---|---|\n");
    for (name, value) in [
        ("time", environment.time.clone()),
        ("command", environment.command.join(" ")),
        ("Penstock", environment.penstock.clone()),
        ("kernel", environment.kernel.clone()),
        ("CPU", format!("{}; {} of {} CPUs", environment.cpu, environment.cpus.0, environment.cpus.1)),
        ("instruction sets", environment.features.join(" ")),
        ("memory", format!("{} MB; huge pages {}", environment.memory_mb, environment.huge_pages)),
        ("governor", environment.governor.clone()),
        ("virtual", if environment.is_virtual { "yes" } else { "no" }.to_owned()),
        ("load before", environment.load.clone()),
    ] {
        let _ = writeln!(text, "| {name} | {} |", value.replace('|', "/"));
    }
    for (tool, version) in &environment.tools {
        let _ = writeln!(text, "| {tool} | {version} |");
    }
    text
}

/// A ratio or a figure of a bar: small ones with the digits that tell them from nothing.
fn figure(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.1 { format!("{value:.4}") } else { format!("{value:.2}") }
}

fn spread(summary: &Summary, unit: &str) -> String {
    format!("{} – {}", quantity(summary.least, unit), quantity(summary.most, unit))
}

impl Report {
    /// Puts together what was found. `gathered` are bars and reports of other measurements.
    pub fn new(
        environment: Environment,
        is_quick: bool,
        seed: u64,
        effort: Effort,
        results: Results,
        gathered: (Vec<Bar>, Vec<(String, String)>),
    ) -> Report {
        let mut all = bars::judge(&results);
        all.extend(gathered.0);
        let effort = (effort.rounds, effort.seconds);
        Report { environment, is_quick, is_part: false, seed, effort, bars: all, results, parts: gathered.1 }
    }

    /// The report that [`Report::write`] wrote into a directory.
    ///
    /// # Errors
    /// When there is none, or one of another version.
    pub fn read(directory: &Path) -> Result<Report> {
        let path = directory.join("report.json");
        let text = fs::read(&path).with_context(|| format!("reading {}: measure all of it first", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}: measure all of it again", path.display()))
    }

    /// Puts what was measured again in the place of what stands here: experiments by their names, parts by their titles. Environment
    /// and seed stay those of the first time; the parts say when.
    pub fn renew(&mut self, again: Report, experiments: &[&str], parts: &[&str]) {
        let is_old = |name: &str| experiments.contains(&name);
        self.results.rows.retain(|row| !is_old(&row.experiment));
        self.results.rows.extend(again.results.rows);
        self.results.missing.retain(|missing| !is_old(&missing.experiment));
        self.results.missing.extend(again.results.missing);
        let mut all = bars::judge(&self.results);
        let is_judged = |bar: &Bar| all.iter().any(|judged| judged.what == bar.what);
        // A part that failed has a bar of its title alone.
        let stays = |bar: &Bar| !is_judged(bar) && !parts.contains(&bar.what.as_str());
        let mut others: Vec<Bar> = std::mem::take(&mut self.bars).into_iter().filter(stays).collect();
        for bar in again.bars.into_iter().filter(|bar| !is_judged(bar)) {
            match others.iter_mut().find(|other| other.what == bar.what) {
                Some(other) => *other = bar,
                None => others.push(bar),
            }
        }
        all.extend(others);
        self.bars = all;
        for (title, text) in again.parts {
            let text = format!("Measured again at {}.\n\n{text}", again.environment.time);
            match self.parts.iter_mut().find(|(other, _)| *other == title) {
                Some(part) => part.1 = text,
                None => self.parts.push((title, text)),
            }
        }
    }

    /// Makes it the report of these experiments alone: the bars of others, which were not measured, are left out.
    pub fn narrow(&mut self, experiments: &[&str]) {
        self.is_part = true;
        let is_other = |bar: &Bar| {
            let experiment = bar.detail.strip_prefix(bars::UNMEASURED);
            bar.value.is_none() && experiment.is_some_and(|name| !experiments.contains(&name))
        };
        self.bars.retain(|bar| !is_other(bar));
    }

    /// Writes `NAME.md`, `NAME.json` and the plots into a directory, which is made.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        for entry in fs::read_dir(directory)?.flatten() {
            // Plots of an earlier report, which may have had others.
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "svg" || extension == "png") {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        fs::write(directory.join(name).with_extension("json"), serde_json::to_string_pretty(self)?)?;
        let mut plots = Vec::new();
        for (name, chart) in self.bar_charts() {
            chart.write(&directory.join(&name))?;
            plots.push(name);
        }
        for (name, chart) in self.line_charts() {
            chart.write(&directory.join(&name))?;
            plots.push(name);
        }
        Ok(fs::write(directory.join(name).with_extension("md"), self.markdown(&plots))?)
    }

    /// Copies what [`Report::write`] wrote and people read, the report and its plots as SVG, into a directory of the
    /// repository. What an earlier report left there is removed, reports of others are not.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn publish(from: &Path, to: &Path) -> Result<()> {
        fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
        for entry in fs::read_dir(to).with_context(|| format!("reading {}", to.display()))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "svg") {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            if path.extension().is_some_and(|extension| extension == "md" || extension == "svg") {
                fs::copy(&path, to.join(&name)).with_context(|| format!("copying {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The report as Markdown, with these plots beside it.
    pub fn markdown(&self, plots: &[String]) -> String {
        let (rounds, seconds) = self.effort;
        let kind = match (self.is_quick, self.is_part) {
            (true, _) => "The quick part",
            (false, true) => "A part",
            (false, false) => "All of it",
        };
        let mut text = format!(
            "# Penstock and its peers\n\nGenerated by `penstock-bench compare{}`. {kind}: {rounds} rounds in which every \
             contender has one turn of {seconds} s, medians with the least and the most. Ratios are taken round by round. \
             Rules are made from seed {}. The method and its limits: `bench/README.md`.\n\n{}",
            if self.is_quick { " --quick" } else { "" },
            self.seed,
            environment_markdown(&self.environment),
        );
        text.push_str("\n## Bars\n\n");
        text.push_str(&self.bar_table());
        text.push_str(&self.missing());
        for name in plots {
            let _ = write!(text, "\n![{name}]({name}.svg)\n");
        }
        for experiment in self.experiments() {
            text.push_str(&self.section(&experiment));
        }
        text.push_str(&self.loading());
        text.push_str(&anchors::markdown(&self.results));
        for (title, part) in &self.parts {
            let _ = write!(text, "\n## {title}\n\n{part}\n");
        }
        text
    }

    fn bar_table(&self) -> String {
        let mut text = String::from("| what | bar | measured | least – most | | sides |\n|---|---|---|---|---|---|\n");
        for bar in &self.bars {
            let (value, spread) = bar.value.map_or((String::from("–"), String::new()), |summary| {
                (figure(summary.median), format!("{} – {}", figure(summary.least), figure(summary.most)))
            });
            let verdict = match bar.is_met() {
                Some(true) => "**PASS**",
                Some(false) => "**MISSED**",
                None => "not measured",
            };
            let _ = writeln!(
                text,
                "| {} | {} | {value} | {spread} | {verdict} | {} |",
                bar.what,
                bar.goal.text(),
                bar.detail
            );
        }
        text
    }

    fn missing(&self) -> String {
        if self.results.missing.is_empty() {
            return "\nNo contender is missing.\n".to_owned();
        }
        let mut text = String::from("\n## Missing\n\n| experiment | contender | why |\n|---|---|---|\n");
        for missing in &self.results.missing {
            let kind = if missing.is_failure { "failed: " } else { "" };
            let reason = missing.reason.replace('|', "/").replace('\n', " ");
            let _ = writeln!(text, "| {} | {} | {kind}{reason} |", missing.experiment, missing.contender);
        }
        text
    }

    fn experiments(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for row in &self.results.rows {
            if !names.contains(&row.experiment) {
                names.push(row.experiment.clone());
            }
        }
        names
    }

    fn rows<'a>(&'a self, experiment: &'a str) -> impl Iterator<Item = &'a Row> {
        self.results.rows.iter().filter(move |row| row.experiment == experiment)
    }

    /// The table of an experiment; ratios are to its first row of the same metric.
    fn section(&self, experiment: &str) -> String {
        let Some(first) = self.rows(experiment).next() else { return String::new() };
        let mut text = format!("\n## {experiment}: {}\n\n", first.work.text());
        let _ = writeln!(text, "Ratios are to {}.\n", title(&first.setting));
        text.push_str(
            "| contender | IP | CPUs | figure | median | least – most | ratio |\n|---|---|---|---|---|---|---|\n",
        );
        for row in self.rows(experiment) {
            let Some(summary) = row.samples.summary() else { continue };
            let reference = self.rows(experiment).find(|other| other.metric == row.metric);
            let ratio = reference.and_then(|other| row.samples.ratio(&other.samples).summary());
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                title(&row.setting),
                row.setting.family.name(),
                row.setting.layout.text(row.setting.kind),
                row.metric,
                quantity(summary.median, &row.unit),
                spread(&summary, &row.unit),
                ratio.map_or(String::new(), |ratio| format!("{:.2}", ratio.median)),
            );
        }
        text
    }

    fn loading(&self) -> String {
        if self.results.loads.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "\n## Loading, and memory\n\nFrom the rules as text (a kernel's contender: the start of its program included) or as \
             the engine takes them, to in force. Memory: of Penstock, what its process grew by, the touched part of its \
             flow table included; of the kernel, what slabs, virtual mappings and per-CPU memory grew by, which other programs \
             move too.\n\n| contender | IP | load, median | memory | flow table |\n|---|---|---|---|---|\n",
        );
        for load in &self.results.loads {
            let (Some(time), Some(memory)) = (load.milliseconds.summary(), load.memory.summary()) else { continue };
            let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
            let table = if load.flow_table == 0 { String::new() } else { megabytes(load.flow_table as f64) };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {table} |",
                title(&load.setting),
                load.setting.family.name(),
                quantity(time.median, "ms"),
                megabytes(memory.median),
            );
        }
        text
    }

    fn bar_charts(&self) -> Vec<(String, plot::BarChart)> {
        let mut charts = Vec::new();
        for (experiment, name) in [
            ("ceilings", "Without any policy"),
            ("established", "60-byte UDP, 64k established flows"),
            ("new-flows", "60-byte UDP, every frame a new flow"),
            ("bulk-1", "TCP bulk, one stream"),
            ("bulk-4", "TCP bulk, four streams"),
            ("connections", "TCP connections a second"),
            ("latency", "TCP request and reply, p99"),
        ] {
            let Some(first) = self.rows(experiment).next() else { continue };
            let rows = self.rows(experiment).filter(|row| row.metric == first.metric);
            let bars: Vec<plot::Bar> = rows.filter_map(bar).collect();
            let chart = plot::BarChart {
                title: name.to_owned(),
                value_label: first.unit.clone(),
                bars,
                groups: ["Penstock", "without policy", "peers"].map(str::to_owned).to_vec(),
                is_log: matches!(experiment, "established"),
            };
            charts.push((experiment.to_owned(), chart));
        }
        charts
    }

    /// How the rate changes with the number of rules.
    fn line_charts(&self) -> Vec<(String, plot::LineChart)> {
        let of_a_node = [("rules-new-flows", ", every frame new"), ("rules-stateless", ""), ("rules-peers", "")];
        let charts = [
            ("rules", "60-byte UDP by the number of rules", &of_a_node[..]),
            ("gateway", "A gateway's rules from iptables: 60-byte UDP, every frame a new flow", &[("gateway", "")]),
        ];
        let chart = |(name, title, experiments): (&str, &str, &[(&str, &str)])| {
            let series = self.series(experiments);
            let chart = plot::LineChart {
                title: title.to_owned(),
                x_label: "rules".to_owned(),
                y_label: "thousand frames/s".to_owned(),
                is_log_x: true,
                is_log_y: true,
                has_dots: true,
                series,
            };
            (!chart.series.is_empty()).then(|| (name.to_owned(), chart))
        };
        charts.into_iter().filter_map(chart).collect()
    }

    /// Thousand frames a second by the number of rules, of experiments with what is added to their contenders' names.
    fn series(&self, experiments: &[(&str, &str)]) -> Vec<plot::Series> {
        let mut series: Vec<plot::Series> = Vec::new();
        for (experiment, suffix) in experiments {
            for row in self.rows(experiment) {
                let Some(summary) = row.samples.summary() else { continue };
                let name = format!("{}{suffix}", row.setting.kind.name());
                let point = plot::Point {
                    x: f64::from(row.setting.rules),
                    y: summary.median / 1e3,
                    low: summary.least / 1e3,
                    high: summary.most / 1e3,
                };
                match series.iter_mut().find(|series| series.name == name) {
                    Some(series) => series.points.push(point),
                    None => series.push(plot::Series { name, points: vec![point] }),
                }
            }
        }
        series
    }

    /// What stands in the README between the markers: the figures that say most, and the plot beside them. `directory` is
    /// where the report is published.
    pub fn summary(&self, directory: &str) -> String {
        let environment = &self.environment;
        let (met, judged) = self
            .bars
            .iter()
            .filter_map(Bar::is_met)
            .fold((0, 0), |(met, judged), is_met| (met + usize::from(is_met), judged + 1));
        let mut text = format!(
            "60-byte UDP between veths, thousand frames a second, median of {} rounds; {}, Linux {}. {met} of {judged} bars are met: \
             [the report]({directory}/report.md) has them all, with those that are missed.\n\n| | 64k established flows | CPUs \
             |\n|---|---|---|\n",
            self.effort.0,
            environment.cpu,
            environment.kernel.split_whitespace().nth(1).unwrap_or(&environment.kernel),
        );
        let mut rows: Vec<(f64, String)> = Vec::new();
        for row in self.rows("established").filter(|row| row.setting.family == Family::V4) {
            let Some(summary) = row.samples.summary() else { continue };
            let name = title(&row.setting);
            let name =
                if matches!(row.setting.kind, Kind::Penstock(PortKind::AfXdp)) { format!("**{name}**") } else { name };
            let cpus = if row.setting.layout == Layout::OneCpu { "one" } else { "two" };
            rows.push((summary.median, format!("| {name} | {:.0} | {cpus} |", summary.median / 1e3)));
        }
        rows.sort_by(|one, other| other.0.total_cmp(&one.0));
        for (_, row) in rows {
            text.push_str(&row);
            text.push('\n');
        }
        for (name, title) in [("established", "64k established flows"), ("rules", "by the number of rules")] {
            let is_there = match name {
                "established" => self.rows(name).next().is_some(),
                _ => self.line_charts().iter().any(|(chart, _)| chart == name),
            };
            if is_there {
                let _ = write!(text, "\n![60-byte UDP, {title}]({directory}/{name}.svg)\n");
            }
        }
        text
    }
}

/// Replaces what stands between the markers of a README.
///
/// # Errors
/// When it has no markers.
pub fn update_readme(readme: &str, summary: &str) -> Result<String> {
    let (begin, end) = MARKERS;
    let (before, rest) = readme.split_once(begin).with_context(|| format!("no line '{begin}'"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("no line '{end}'"))?;
    Ok(format!("{before}{begin}\n{summary}{end}{after}"))
}

fn bar(row: &Row) -> Option<plot::Bar> {
    let summary = row.samples.summary()?;
    let group = match row.setting.kind {
        kind if kind.is_penstock() => 0,
        kind if !kind.has_rules() => 1,
        _ => 2,
    };
    let one_cpu = if row.setting.layout == Layout::OneCpu { " (one CPU)" } else { "" };
    let label = format!("{}{one_cpu}", title(&row.setting));
    Some(plot::Bar { label, value: summary.median, low: summary.least, high: summary.most, group })
}

/// Samples of one figure that was measured once.
pub fn once(value: f64) -> Samples {
    Samples(vec![value])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::bars::Goal;

    fn bar(what: &str, value: f64) -> Bar {
        Bar::of(what, Goal::AtMost(2.0), &Samples(vec![value]), "")
    }

    #[test]
    fn a_part_has_no_bars_of_others() {
        let effort = Effort { rounds: 1, seconds: 1.0 };
        let gathered = (vec![bar("memory", 1.0)], Vec::new());
        let mut report = Report::new(Environment::default(), false, 1, effort, Results::default(), gathered);
        report.narrow(&["gateway"]);
        let left: Vec<&str> = report.bars.iter().map(|bar| bar.what.as_str()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[0].contains("imported from iptables") && left[1] == "memory");
    }

    #[test]
    fn what_is_measured_again_takes_the_place_of_what_stood_there() {
        let part = |text: &str| (text.to_owned(), "old".to_owned());
        let failed = Bar { value: None, ..bar("A node at rest", 0.0) };
        let mut whole = Report {
            bars: vec![bar("memory", 1.0), failed],
            parts: vec![part("A large cluster"), part("A node at rest")],
            ..Report::default()
        };
        let again = Report {
            bars: vec![bar("% of a core", 0.5)],
            parts: vec![("A node at rest".to_owned(), "new".to_owned())],
            ..Report::default()
        };
        whole.renew(again.clone(), &[], &["A node at rest"]);
        let standing = |report: &Report| {
            let bars = report.bars.iter().filter(|bar| bar.value.is_some());
            bars.map(|bar| bar.what.clone()).collect::<Vec<_>>()
        };
        assert_eq!(standing(&whole), ["memory", "% of a core"]);
        assert!(!whole.bars.iter().any(|bar| bar.what == "A node at rest"), "the failure is gone");
        assert_eq!(whole.parts.len(), 2);
        assert!(whole.parts[1].1.ends_with("new") && whole.parts[0].1 == "old");
        whole.renew(again, &[], &["A node at rest"]);
        assert_eq!(standing(&whole), ["memory", "% of a core"], "once");
    }
}
