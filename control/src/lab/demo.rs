//! `penstock demo`: the examples, one after the other, over real connections.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use clap::Args;

use super::command::{PortChoice, Stop, runtime};
use super::expect::Expectation;
use super::{Lab, LabError, LabOptions, Look, Matrix, Result, Service};
use crate::command::{CommandResult, Outcome, load};
use crate::policy::cluster::Cluster;
use crate::policy::manifest;

/// Walk through the example policies over real connections between pods on this machine.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Where the examples are
    #[arg(long, value_name = "DIR", default_value = "deploy/examples")]
    pub examples: PathBuf,
    /// The kind of the wires' ports
    #[arg(long, value_enum, default_value_t = PortChoice::AfPacket)]
    pub port: PortChoice,
}

/// Runs the command. The answer is no when a matrix was not as expected.
///
/// # Errors
/// Bad examples, or a refusal of the system.
pub fn run(args: &DemoArgs) -> CommandResult {
    Ok(runtime()?.block_on(demo(args))?)
}

/// An example on disk.
#[derive(Clone, Debug)]
pub struct Example {
    /// Its directory's name: `04-allow-jnginx`.
    pub name: String,
    /// The world it plays in.
    pub world: PathBuf,
    /// Its policies.
    pub policies: PathBuf,
    /// Who should reach whom.
    pub expectation: Expectation,
}

impl Example {
    /// All examples of a directory, in order.
    ///
    /// # Errors
    /// When there are none, or an expectation is missing or malformed.
    pub fn all(examples: &Path) -> Result<Vec<Example>> {
        let unreadable = |error: std::io::Error| {
            LabError::Input(format!(
                "{}: cannot be read: {error}; say where the examples are with --examples",
                examples.display()
            ))
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(examples).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
            if name.starts_with(|first: char| first.is_ascii_digit()) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(LabError::Input(format!(
                "{}: there are no examples here; say where they are with --examples",
                examples.display()
            )));
        }
        names.sort_unstable();
        let example = |name: String| {
            let expectation = Expectation::read(&examples.join("expected").join(format!("{name}.yaml")))?;
            Ok(Example { world: examples.join("world"), policies: examples.join(&name), expectation, name })
        };
        names.into_iter().map(example).collect()
    }

    /// The world with the example's policies in force.
    ///
    /// # Errors
    /// When a manifest is refused.
    pub fn load(&self) -> Result<Cluster> {
        Ok(load(&[self.world.clone(), self.policies.clone()])?)
    }

    /// The comment on top of the policy.
    fn comment(&self) -> String {
        let text = std::fs::read_to_string(self.policies.join("policy.yaml")).unwrap_or_default();
        let lines = text.lines().map_while(|line| line.strip_prefix('#'));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }
}

/// How one example went.
struct Played {
    name: String,
    counts: (usize, usize, usize),
    changed: usize,
    differences: usize,
}

struct Stage {
    look: Look,
    began: tokio::time::Instant,
}

async fn demo(args: &DemoArgs) -> Result<Outcome> {
    let examples = Example::all(&args.examples)?;
    let stage = Stage { look: Look::of_stdout(), began: tokio::time::Instant::now() };
    let world = load(&[args.examples.join("world")])?;
    let mut stop = Stop::listen()?;
    stage.title("The world, without any policy");
    // What every example speaks of is there from the start, so that the tables can be compared.
    let external: BTreeSet<IpAddr> =
        examples.iter().flat_map(|example| &example.expectation.external).copied().collect();
    let port = args.port.kind();
    let external = external.into_iter().collect();
    let options =
        LabOptions { port: Some(port), probes: Vec::new(), external, internet: false, ..LabOptions::default() };
    let mut lab = Lab::start(&world, options)?;
    let pods = lab.world().pods.len();
    println!("{pods} pods are network namespaces on this machine, each behind a wire of {} ports.", port.name());
    println!("Each cell is real connections, over IPv4 and IPv6, to each port of the receiver (53u is UDP 53).\n");
    let Some(mut before) = stop.or(lab.matrix()).await.transpose()? else { return Ok(Outcome::Done) };
    println!("{}", before.to_table(None, stage.look));
    let mut played = Vec::new();
    for example in &examples {
        stage.title(&example.name);
        println!("{}\n", example.comment());
        lab.apply(&example.load()?)?;
        let Some(matrix) = stop.or(lab.matrix()).await.transpose()? else { return Ok(Outcome::Done) };
        played.push(stage.example(example, &matrix, &before));
        before = matrix;
    }
    drop(lab);
    let refused = stage.refused(&args.examples.join("refused"))?;
    Ok(stage.summary(&played, refused))
}

impl Stage {
    fn title(&self, text: &str) {
        let style = if self.look.colour { Style::new().bold() } else { Style::new() };
        println!("{style}━━ {text} {}{style:#}\n", "━".repeat(76_usize.saturating_sub(text.chars().count())));
    }

    fn paint(&self, colour: AnsiColor, text: &str) -> String {
        if !self.look.colour {
            return text.to_owned();
        }
        let style = Style::new().fg_color(Some(colour.into())).bold();
        format!("{style}{text}{style:#}")
    }

    fn example(&self, example: &Example, matrix: &Matrix, before: &Matrix) -> Played {
        println!("{}", matrix.to_table(Some(before), self.look));
        for line in denied_lookups(matrix) {
            println!("{} {line}", self.paint(AnsiColor::Yellow, "Look:"));
        }
        let differences = example.expectation.differences(matrix);
        if differences.is_empty() {
            println!(
                "{}\n",
                self.paint(AnsiColor::Green, &format!("All {} probes as expected.", matrix.results.len()))
            );
        }
        for difference in &differences {
            println!("{} {difference}", self.paint(AnsiColor::Red, "Not as expected:"));
        }
        Played {
            name: example.name.clone(),
            counts: matrix.counts(),
            changed: matrix.changes(before).count(),
            differences: differences.len(),
        }
    }

    /// Shows that the lower-case forms are refused; answers how many were, and of how many.
    fn refused(&self, directory: &Path) -> Result<(usize, usize)> {
        self.title("What is refused");
        println!("The same policies with \"egress\" in lower case, as an API server answers:\n");
        let unreadable = |error| LabError::Input(format!("{}: cannot be read: {error}", directory.display()));
        let entries = std::fs::read_dir(directory).map_err(unreadable)?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort_unstable();
        let mut refused = 0;
        for file in &files {
            match manifest::load(std::slice::from_ref(file)) {
                Err(errors) => {
                    refused += 1;
                    println!("{} {errors}", self.paint(AnsiColor::Red, "✗"));
                }
                Ok(_) => println!("{} was accepted, and should not be", file.display()),
            }
        }
        println!();
        Ok((refused, files.len()))
    }

    fn summary(&self, played: &[Played], (refused, files): (usize, usize)) -> Outcome {
        self.title("Summary");
        println!("{:<36} {:>6} {:>7} {:>8}", "", "pass", "denied", "changed");
        for Played { name, counts: (pass, denied, _), changed, differences } in played {
            let verdict = if *differences == 0 {
                self.paint(AnsiColor::Green, "as expected")
            } else {
                self.paint(AnsiColor::Red, &format!("{differences} not as expected"))
            };
            println!("{name:<36} {pass:>6} {denied:>7} {changed:>8}  {verdict}");
        }
        let good = played.iter().filter(|played| played.differences == 0).count();
        let probes: usize = played.iter().map(|played| played.counts.0 + played.counts.1 + played.counts.2).sum();
        println!(
            "\n{good} of {} examples as expected, {refused} of {files} malformed policies refused: {probes} probes in {:.0} s.",
            played.len(),
            self.began.elapsed().as_secs_f64()
        );
        println!("Your own policies: penstock lab -f DIR. Why something passes or does not: penstock explain.");
        if good == played.len() && refused == files { Outcome::Done } else { Outcome::No }
    }
}

/// Pods that pass to a web port of somebody and cannot look up names: the classic surprise of egress policies.
fn denied_lookups(matrix: &Matrix) -> Vec<String> {
    let dns = Service::udp(53);
    let servers: BTreeSet<&String> = matrix
        .results
        .keys()
        .filter(|question| question.service == dns && question.to.contains('/'))
        .map(|question| &question.to)
        .collect();
    let web = [Service::tcp(80), Service::tcp(443)];
    let browses = |from: &str| {
        matrix.results.iter().any(|(question, outcome)| {
            question.from == from && web.contains(&question.service) && outcome.passes() == Some(true)
        })
    };
    let mut lines = Vec::new();
    for server in servers {
        for from in &matrix.endpoints {
            if from.contains('/') && matrix.passes(from, server, dns) == Some(false) && browses(from) {
                lines.push(format!(
                    "{from} may open web connections, but {server} does not hear it on UDP 53: it can look up no name. \
                     Egress policies that mean the web must allow DNS too."
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::matrix::Question;
    use crate::lab::{Family, ProbeOutcome};

    #[test]
    fn a_denied_lookup_is_pointed_out_only_where_the_web_is_allowed() {
        let question = |to: &str, service| Question { from: "a/x".into(), to: to.into(), service, family: Family::V4 };
        let matrix = |web, dns| Matrix {
            endpoints: vec!["a/x".into(), "k/dns".into(), "a/y".into()],
            results: [(question("a/y", Service::tcp(80)), web), (question("k/dns", Service::udp(53)), dns)].into(),
        };
        assert_eq!(denied_lookups(&matrix(ProbeOutcome::Reached, ProbeOutcome::Timeout)).len(), 1);
        assert!(denied_lookups(&matrix(ProbeOutcome::Timeout, ProbeOutcome::Timeout)).is_empty());
        assert!(denied_lookups(&matrix(ProbeOutcome::Reached, ProbeOutcome::Reached)).is_empty());
    }
}
