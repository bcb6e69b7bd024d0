//! Runs experiments: sets their contenders up, lets them take turns, and writes down what came out.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::compare::contender::{Loaded, Running, Setting};
use crate::compare::experiment::Experiment;
use crate::compare::process;
use crate::compare::schedule::interleave;
use crate::compare::statistics::Samples;
use crate::compare::workload::{Lane, Sample, Turn, Work};

/// One contender's figure of one experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The experiment's name.
    pub experiment: String,
    /// What was done.
    pub work: Work,
    /// Who, and how.
    pub setting: Setting,
    /// Which figure.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// One a round.
    pub samples: Samples,
}

/// A contender that has no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// In which experiment.
    pub experiment: String,
    /// Who.
    pub contender: String,
    /// Why.
    pub reason: String,
    /// Whether it was there and failed, which is an error of the comparison; otherwise it is not to be had here.
    pub is_failure: bool,
}

/// What loading one contender took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadRow {
    /// Who.
    pub setting: Setting,
    /// One each time that it was set up.
    pub milliseconds: Samples,
    /// Memory in bytes, likewise.
    pub memory: Samples,
    /// Bytes of flow table in that.
    pub flow_table: u64,
}

/// All that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Figures.
    pub rows: Vec<Row>,
    /// Who has none.
    pub missing: Vec<Missing>,
    /// Loading.
    pub loads: Vec<LoadRow>,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Turns of each contender.
    pub rounds: usize,
    /// Seconds that a turn counts.
    pub seconds: f64,
}

impl Effort {
    fn turn(self) -> Turn {
        Turn { settle: Duration::from_millis(200), measure: Duration::from_secs_f64(self.seconds) }
    }
}

impl Results {
    /// Runs an experiment. Contenders that cannot take part are written down as missing.
    ///
    /// # Errors
    /// Only when somebody asked to stop.
    pub fn run(&mut self, experiment: &Experiment, effort: Effort) -> Result<()> {
        let begin = Instant::now();
        eprintln!("{}: {}", experiment.name, experiment.work.text());
        let mut lanes = Vec::new();
        for &setting in &experiment.settings {
            process::check()?;
            match self.prepare(setting, experiment.work) {
                Ok(lane) => lanes.push(lane),
                Err(missing) => {
                    process::check()?;
                    let missing = Missing { experiment: experiment.name.clone(), ..missing };
                    eprintln!("  {} is missing: {}", missing.contender, missing.reason);
                    self.missing.push(missing);
                }
            }
        }
        let turn = |round: usize, lane: &mut Lane| lane.turn(experiment.work, round, effort.turn());
        let results = interleave(effort.rounds * experiment.times, &mut lanes, turn);
        process::check()?;
        for (lane, result) in lanes.iter().zip(results) {
            let setting = lane.running.setting;
            match result {
                Ok(samples) => self.add(experiment, setting, &samples),
                Err(error) => {
                    let missing = failure(&experiment.name, setting, &error);
                    eprintln!("  {} failed: {}", missing.contender, missing.reason);
                    self.missing.push(missing);
                }
            }
        }
        eprintln!("  {:.0} s", begin.elapsed().as_secs_f64());
        Ok(())
    }

    fn prepare(&mut self, setting: Setting, work: Work) -> Result<Lane, Missing> {
        if let Some(reason) = setting.kind.missing() {
            let contender = setting.kind.name();
            return Err(Missing { experiment: String::new(), contender, reason, is_failure: false });
        }
        let running = Running::start(setting).map_err(|error| failure("", setting, &error))?;
        self.add_load(setting, running.loaded);
        Lane::prepare(running, work).map_err(|error| failure("", setting, &error))
    }

    fn add(&mut self, experiment: &Experiment, setting: Setting, samples: &[Sample]) {
        for &(metric, unit) in experiment.work.metrics() {
            let samples = Samples(samples.iter().filter_map(|sample| sample.get(metric).copied()).collect());
            if let Some(summary) = samples.summary() {
                eprintln!("  {:<44} {metric} {:.4e} {unit}", title(&setting), summary.median);
            }
            self.rows.push(Row {
                experiment: experiment.name.clone(),
                work: experiment.work,
                setting,
                metric: metric.to_owned(),
                unit: unit.to_owned(),
                samples,
            });
        }
    }

    fn add_load(&mut self, setting: Setting, loaded: Loaded) {
        if !setting.kind.has_rules() {
            return;
        }
        let alike = |row: &&mut LoadRow| {
            (row.setting.kind, row.setting.rules, row.setting.flows, row.setting.family)
                == (setting.kind, setting.rules, setting.flows, setting.family)
        };
        let milliseconds = loaded.time.as_secs_f64() * 1e3;
        match self.loads.iter_mut().find(alike) {
            Some(row) => {
                row.milliseconds.0.push(milliseconds);
                row.memory.0.push(loaded.memory as f64);
            }
            None => self.loads.push(LoadRow {
                setting,
                milliseconds: Samples(vec![milliseconds]),
                memory: Samples(vec![loaded.memory as f64]),
                flow_table: loaded.flow_table,
            }),
        }
    }
}

/// A contender with what distinguishes it inside an experiment.
pub fn title(setting: &Setting) -> String {
    let mut title = setting.kind.name();
    if setting.kind.has_rules() {
        title = format!("{title}, {} rules", setting.rules);
    }
    if setting.active != 65_536 {
        title = format!("{title}, {} flows", setting.active);
    }
    if setting.is_pair {
        title.push_str(", twice");
    }
    title
}

fn failure(experiment: &str, setting: Setting, error: &anyhow::Error) -> Missing {
    Missing {
        experiment: experiment.to_owned(),
        contender: title(&setting),
        reason: format!("{error:#}"),
        is_failure: true,
    }
}
