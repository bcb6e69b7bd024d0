//! `penstock import`, `equivalent` and `check`: a gateway's rules as files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::gateway::equivalence::{self, Answer, Options as CompareOptions};
use ::gateway::import::{self, Options};
use ::gateway::model::{Family, Ruleset};
use ::gateway::rulefile;
use clap::ValueEnum;

use super::exit::{CommandResult, Failure, Outcome};
use super::output::write_stdout;
use crate::gateway;

/// What printed the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tool {
    /// iptables-save, of either backend
    #[value(name = "iptables-save")]
    Iptables,
    /// ip6tables-save, of either backend
    #[value(name = "ip6tables-save")]
    Ip6tables,
}

/// Turns what iptables-save prints into a rule file, on standard output
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// What printed the rules
    #[arg(value_enum)]
    tool: Tool,
    /// The rules; standard input if left away
    file: Option<PathBuf>,
    #[command(flatten)]
    beside: BesideArgs,
}

/// What goes with a dump.
#[derive(Clone, Debug, clap::Args)]
struct BesideArgs {
    /// What `ipset save` prints, for rules with --match-set
    #[arg(long, value_name = "FILE")]
    ipset: Option<PathBuf>,
    /// Names of interface groups: a line `INTERFACE GROUP` each
    #[arg(long, value_name = "MAP")]
    interfaces: Option<PathBuf>,
    /// The gateway's own addresses, for rules with addrtype: 192.0.2.1/24,2001:db8::1/64
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    local: Vec<ipnet::IpNet>,
    /// Keep rules that can't be expressed as rules that mean nothing, instead of refusing the file
    #[arg(long)]
    lenient: bool,
}

/// Compares two rule sets over all packets: rule files, or what iptables-save prints
#[derive(Clone, Debug, clap::Args)]
pub(super) struct EquivalentArgs {
    /// One rule set
    a: PathBuf,
    /// The other
    b: PathBuf,
    #[command(flatten)]
    beside: BesideArgs,
}

/// Checks a gateway's rule file, and says what it has
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The rule file
    file: PathBuf,
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| Failure::BadInput(format!("{}: can't be read ({error})", path.display()));
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(fail)?;
        return text_of("-", bytes);
    }
    text_of(&path.display().to_string(), std::fs::read(path).map_err(fail)?)
}

fn text_of(name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Failure::BadInput(format!(
            "{name}:{line}: this is no text; give what iptables-save or ipset save prints, or a rule file"
        ))
    })
}

impl BesideArgs {
    fn options(&self, family: Family, file: &Path) -> Result<Options, Failure> {
        let named = |path: &Path| -> Arc<str> { path.display().to_string().into() };
        let interfaces = match &self.interfaces {
            None => BTreeMap::new(),
            Some(path) => import::interfaces(&named(path), &read_text(path)?).map_err(many)?,
        };
        let ipset = match &self.ipset {
            None => None,
            Some(path) => Some((named(path), read_text(path)?)),
        };
        let (lenient, local) = (self.lenient, self.local.clone());
        Ok(Options { ipset, interfaces, lenient, local, ..Options::new(family, named(file)) })
    }

    /// A rule set from a file of either kind: who has `*filter` in it, or another table, is a dump.
    fn either(&self, path: &Path) -> Result<Ruleset, Failure> {
        let text = read_text(path)?;
        let is_dump = text.lines().any(|line| line.starts_with('*') || line.starts_with("-A "));
        if !is_dump {
            return gateway::read(path).map_err(Failure::BadInput);
        }
        let is_v6 =
            text.lines().any(|line| line.contains("ip6tables") || line.contains("icmp6") || line.contains("ipv6-icmp"));
        let family = if is_v6 { Family::V6 } else { Family::V4 };
        let imported = import::import(&text, &self.options(family, path)?).map_err(many)?;
        Ok(imported.ruleset)
    }
}

/// Everything that is wrong, a sentence a line.
fn many<T: ToString>(errors: Vec<T>) -> Failure {
    Failure::BadInput(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\npenstock: "))
}

/// Carries `import` out.
///
/// # Errors
/// What can't be expressed, each with its line.
pub(super) fn import(args: &ImportArgs) -> CommandResult {
    let file = args.file.clone().unwrap_or_else(|| "-".into());
    let family = match args.tool {
        Tool::Iptables => Family::V4,
        Tool::Ip6tables => Family::V6,
    };
    let imported = import::import(&read_text(&file)?, &args.beside.options(family, &file)?).map_err(many)?;
    let header = format!("Imported from {} by penstock {}.", file.display(), env!("CARGO_PKG_VERSION"));
    let report = imported.report.to_string();
    if !report.is_empty() {
        eprintln!("{}", report.trim_end());
    }
    write_stdout(&rulefile::write(&imported.ruleset, &header))?;
    Ok(Outcome::Done)
}

/// Carries `equivalent` out: 1 if some packet is decided otherwise.
///
/// # Errors
/// Rules that can't be read, or not be compared.
pub(super) fn equivalent(args: &EquivalentArgs) -> CommandResult {
    let (a, b) = (args.beside.either(&args.a)?, args.beside.either(&args.b)?);
    let comparison = equivalence::compare(&a, &b, &CompareOptions::default()).map_err(Failure::input)?;
    if comparison.answer() == Answer::Equal {
        write_stdout("equal\n")?;
        return Ok(Outcome::Done);
    }
    let mut text: String = comparison.differences.iter().map(|difference| format!("{difference}\n")).collect();
    if comparison.more {
        text += "and more\n";
    }
    write_stdout(&text)?;
    if comparison.answer() == Answer::Different {
        return Ok(Outcome::No);
    }
    let left = comparison.undecided.join(", ");
    Err(Failure::System(format!(
        "no difference was found, but the comparison was given up for {left}: the rules are too many to compare"
    )))
}

/// Carries `check` out.
///
/// # Errors
/// All that is wrong with the file.
pub(super) fn check(args: &CheckArgs) -> CommandResult {
    let ruleset = gateway::read(&args.file).map_err(Failure::BadInput)?;
    let rules: usize = ruleset.chains.iter().map(|chain| chain.rules.len()).sum();
    let elements: usize = ruleset.sets.values().map(|set| set.elements.len()).sum();
    let (chains, sets) = (ruleset.chains.len(), ruleset.sets.len());
    write_stdout(&format!(
        "{}: valid: {rules} rules in {chains} chains, {elements} elements in {sets} sets\n",
        args.file.display()
    ))?;
    Ok(Outcome::Done)
}
