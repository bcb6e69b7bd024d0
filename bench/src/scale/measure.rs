//! The measurement.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use control::enforcer::{Enforcer, EnforcerConfig};
use control::policy::cluster::{Cluster, ObjectName, Touched};
use control::policy::live::LiveRules;
use control::policy::resolve::OwnNode;
use control::policy::validation::accept;
use dataplane::rules::WireId;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::generate::{Shape, World};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The cluster.
    pub shape: Shape,
    /// Changes of each kind.
    pub changes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { shape: Shape::default(), changes: 1_000 }
    }
}

/// How long changes of a kind took, from the object handed over to the last worker's acknowledgement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// What changed.
    pub change: String,
    /// How many were timed.
    pub count: u64,
    /// The median, in microseconds.
    pub median_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// Resident memory, in bytes, as the kernel counts it (`VmRSS`), at moments that follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The program, before it does anything.
    pub bare: u64,
    /// The generator's numbers, as they count themselves.
    pub generator: u64,
    /// With the numbers from which the generator makes objects.
    pub program: u64,
    /// With an engine of one worker that holds 65,536 flows: its region and its frames' pool are what this adds.
    pub engine: u64,
    /// With the cluster's objects taken in.
    pub objects: u64,
    /// With everything in force.
    pub in_force: u64,
    /// After all changes.
    pub after_changes: u64,
    /// The compiled tables alone, as they count themselves.
    pub classifier: u64,
    /// What counts: after all changes, less the generator's numbers and the engine's flows and frames.
    pub counted: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub config: Config,
    /// Namespaces that have a pod on this node.
    pub local_namespaces: usize,
    /// Taking in all objects, each parsed already, in milliseconds.
    pub objects_ms: f64,
    /// From the objects to the acknowledgement of every worker.
    pub first_compile_ms: f64,
    /// Each kind of change.
    pub changes: Vec<Latency>,
    /// Resident memory.
    pub memory: Memory,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { shape, .. } = self.config;
        writeln!(
            f,
            "{} pods{}, {} policies, {} namespaces; local pods in {} namespaces; seed {}",
            shape.pods,
            if shape.dual_stack { " of both families" } else { "" },
            shape.policies,
            shape.namespaces,
            self.local_namespaces,
            shape.seed
        )?;
        writeln!(
            f,
            "objects taken in: {:.0} ms; first compile to applied: {:.0} ms",
            self.objects_ms, self.first_compile_ms
        )?;
        writeln!(
            f,
            "{:<36} {:>6} {:>11} {:>11} {:>11}",
            "change to applied", "count", "median µs", "p99 µs", "max µs"
        )?;
        for Latency { change, count, median_us, p99_us, max_us } in &self.changes {
            writeln!(f, "{change:<36} {count:>6} {median_us:>11.0} {p99_us:>11.0} {max_us:>11.0}")?;
        }
        let Memory { bare, generator, program, engine, objects, in_force, classifier, counted, .. } = self.memory;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "resident MB after the changes: {:.1} (program {:.1}, objects {:.1}, rules and tables {:.1}, of which compiled tables {:.1}); \
             beside it the engine's flows and frames {:.1}, and the generator's numbers {:.1}",
            mb(counted),
            mb(bare),
            mb(objects.saturating_sub(engine)),
            mb(in_force.saturating_sub(objects)),
            mb(classifier),
            mb(engine.saturating_sub(program)),
            mb(generator)
        )
    }
}

/// The control side as the daemon has it: state, rules, and an engine with one worker that has nothing else to do.
struct Control {
    cluster: Cluster,
    rules: LiveRules,
    enforcer: Enforcer,
    endpoints: Vec<(ObjectName, WireId)>,
}

impl Control {
    fn start(&mut self) -> anyhow::Result<()> {
        let change = self.rules.start(&self.cluster, self.endpoints.iter().cloned());
        self.enforcer.change(&change)?;
        Ok(())
    }

    fn follow(&mut self, touched: &Touched) -> anyhow::Result<()> {
        let change = self.rules.update(&self.cluster, touched);
        self.enforcer.change(&change)?;
        Ok(())
    }
}

/// Measures.
///
/// # Errors
/// When the engine cannot be started, or a generated object is refused.
pub fn run(config: &Config) -> anyhow::Result<Report> {
    let bare = resident()?;
    let mut world = World::new(config.shape);
    let program = resident()?;
    let enforcer = Enforcer::start(&EnforcerConfig::default())?;
    let engine = resident()?;
    let mut cluster = Cluster::lean();
    let objects = take_in(&mut cluster, &world)?;
    let in_objects = resident()?;
    let endpoints = (0..)
        .map(WireId)
        .zip(world.local())
        .map(|(wire, (namespace, name))| (ObjectName::new(&namespace, &name), wire));
    let mut control =
        Control { cluster, rules: LiveRules::new(OwnNode::Allow), enforcer, endpoints: endpoints.collect() };
    let began = Instant::now();
    control.start()?;
    let first = began.elapsed();
    let in_force = resident()?;
    let classifier = control.enforcer.policy_size().bytes as u64;
    let changes = changes(config, &mut world, &mut control)?;
    let after_changes = resident()?;
    let generator = world.memory() as u64;
    let counted = after_changes.saturating_sub(engine.saturating_sub(program) + generator);
    Ok(Report {
        config: *config,
        local_namespaces: world.local_namespaces().len(),
        objects_ms: millis(objects),
        first_compile_ms: millis(first),
        changes,
        memory: Memory {
            bare,
            generator,
            program,
            engine,
            objects: in_objects,
            in_force,
            after_changes,
            classifier,
            counted,
        },
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Hands all objects over one by one; the time that this took, the making of the objects left out.
fn take_in(cluster: &mut Cluster, world: &World) -> anyhow::Result<Duration> {
    let mut spent = Duration::ZERO;
    for namespace in world.namespaces() {
        spent += timed(|| cluster.apply_namespace(&namespace)).0;
    }
    for node in world.nodes() {
        let (took, read) = timed(|| cluster.apply_node(&node));
        read.map_err(refused)?;
        spent += took;
    }
    for pod in &world.pods {
        let object = world.pod(pod);
        let (took, read) = timed(|| cluster.apply_pod(&object));
        read.map_err(refused)?;
        spent += took;
    }
    for policy in world.policies() {
        let accepted = accept(policy).map_err(refused)?;
        spent += timed(|| cluster.apply_policy(accepted)).0;
    }
    Ok(spent)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let done = work();
    (began.elapsed(), done)
}

fn refused(errors: Vec<control::policy::validation::FieldError>) -> anyhow::Error {
    anyhow!("a generated object was refused: {}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// The kinds of change, each with pods of the whole cluster and with pods of the namespaces that matter here.
fn changes(config: &Config, world: &mut World, control: &mut Control) -> anyhow::Result<Vec<Latency>> {
    let near = world.local_namespaces();
    let mut latencies = Vec::new();
    for (place, near) in [("anywhere", None), ("near a local pod", Some(near.as_slice()))] {
        for kind in ["pod added", "pod relabelled", "pod removed"] {
            let mut histogram = Histogram::<u64>::new(3).context("a histogram")?;
            for _ in 0..config.changes {
                let mut number = world.draw(near);
                match kind {
                    "pod added" => number = world.add_like(number),
                    "pod relabelled" => world.relabel(number),
                    _ => {}
                }
                let object = world.pod(&world.pods[number]);
                let began = Instant::now();
                let touched = if kind == "pod removed" {
                    let metadata = &object.metadata;
                    let part = |part: &Option<String>| part.clone().unwrap_or_default();
                    control.cluster.remove_pod(&ObjectName::new(&part(&metadata.namespace), &part(&metadata.name)))
                } else {
                    control.cluster.apply_pod(&object).map_err(refused)?
                };
                control.follow(&touched)?;
                histogram.record(began.elapsed().as_nanos() as u64)?;
                if kind == "pod removed" {
                    world.remove(number);
                }
            }
            latencies.push(latency(format!("{kind}, {place}"), &histogram));
        }
    }
    Ok(latencies)
}

fn latency(change: String, histogram: &Histogram<u64>) -> Latency {
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    Latency {
        change,
        count: histogram.len(),
        median_us: us(histogram.value_at_quantile(0.5)),
        p99_us: us(histogram.value_at_quantile(0.99)),
        max_us: us(histogram.max()),
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
