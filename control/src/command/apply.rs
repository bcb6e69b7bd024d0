//! `penstock apply`, `confirm`, `rollback`, `rules`, `set` and `versions`: the rules of a gateway that runs.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::de::DeserializeOwned;

use super::exit::{CommandResult, Failure, Outcome};
use super::input::Output;
use super::live::{Answers, ask, read};
use super::output::{write_json, write_stdout};
use crate::gateway;
use crate::gateway::api::{Applied, Changed, DEFAULT_SOCKET, Plan, Request, RuleLine, VersionLine};

/// Where the gateway's daemon listens.
#[derive(Clone, Debug, clap::Args)]
struct GatewaySocket {
    /// The socket of the gateway's daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

impl GatewaySocket {
    fn ask(&self, request: &Request) -> Result<Answers, Failure> {
        // Many rules take their time.
        ask(&self.socket, request, None)
    }

    fn one<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let answer = self.ask(request)?.next();
        read(answer.unwrap_or_else(|| Err(Failure::System("the daemon ends; try again".to_owned())))?)
    }
}

/// How a change is carried out.
#[derive(Clone, Debug, clap::Args)]
struct HowArgs {
    /// Don't ask before live flows are cut
    #[arg(short, long)]
    yes: bool,
    /// Go back after this time (60s, 5m), unless `penstock confirm` is called or Enter is pressed here
    #[arg(long, value_name = "TIME", value_parser = time)]
    confirm: Option<Duration>,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    socket: GatewaySocket,
}

/// Puts a rule file in force on a running gateway, after saying what it changes
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// The rule file
    file: PathBuf,
    #[command(flatten)]
    how: HowArgs,
}

/// Puts earlier rules of a gateway in force again
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The version; the one before that in force if left away
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
    #[command(flatten)]
    how: HowArgs,
}

/// Keeps the rules that `apply --confirm` has put in force
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfirmArgs {
    #[command(flatten)]
    socket: GatewaySocket,
}

/// Lists a gateway's rules with what they have met, as iptables -L -v does
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RulesArgs {
    /// Only this chain
    chain: Option<String>,
    /// Only rules that have met something
    #[arg(long)]
    met: bool,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    socket: GatewaySocket,
}

/// Lists the versions of a gateway's rules that are kept
#[derive(Clone, Debug, clap::Args)]
pub(super) struct VersionsArgs {
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    socket: GatewaySocket,
}

/// Puts elements into a set of a running gateway, or takes them out
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The set
    name: String,
    /// An element more; may be repeated
    #[arg(long, value_name = "ELEMENT")]
    add: Vec<String>,
    /// An element less; may be repeated
    #[arg(long, value_name = "ELEMENT")]
    remove: Vec<String>,
    /// Let a restart know of it, too
    #[arg(long)]
    save: bool,
    #[command(flatten)]
    socket: GatewaySocket,
}

/// A time such as 60s, 5m or 60.
fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    match number.parse::<u64>() {
        Ok(number @ 1..=86_400) => Ok(Duration::from_secs(number * unit)),
        _ => Err("write a time such as 60s or 5m".to_owned()),
    }
}

/// Carries `apply` out: 1 if the answer was no.
///
/// # Errors
/// Rules that are wrong; no daemon.
pub(super) fn apply(args: &ApplyArgs) -> CommandResult {
    let ruleset = gateway::read(&args.file).map_err(Failure::BadInput)?;
    args.how.carry_out(&Request::Plan { rules: gateway::whole(&ruleset) })
}

/// Carries `rollback` out: 1 if the answer was no.
///
/// # Errors
/// No such version; no daemon.
pub(super) fn rollback(args: &RollbackArgs) -> CommandResult {
    args.how.carry_out(&Request::PlanRollback { to: args.to })
}

impl HowArgs {
    fn carry_out(&self, request: &Request) -> CommandResult {
        let plan: Plan = self.socket.one(request)?;
        write_stdout(&told(&plan))?;
        if self.dry_run {
            return Ok(Outcome::Done);
        }
        if plan.cut > 0 && !self.yes && !agreed(&format!("Cut {} flows?", plan.cut))? {
            write_stdout("nothing has been changed\n")?;
            return Ok(Outcome::No);
        }
        let confirm = self.confirm.map(|time| time.as_secs());
        let applied: Applied = self.socket.one(&Request::Apply { plan: plan.plan, confirm })?;
        write_stdout(&format!("version {} is in force on every worker ({} µs)\n", applied.version, applied.took))?;
        match self.confirm {
            None => Ok(Outcome::Done),
            Some(time) => self.wait(time),
        }
    }

    /// Waits for a word of confirmation, if there is somebody to give it.
    fn wait(&self, time: Duration) -> CommandResult {
        let seconds = time.as_secs();
        if !std::io::stdin().is_terminal() {
            write_stdout(&format!("it goes back in {seconds} s, unless `penstock confirm` is called\n"))?;
            return Ok(Outcome::Done);
        }
        write_stdout(&format!("press Enter within {seconds} s to keep it; otherwise it goes back: "))?;
        let (sender, pressed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            // Nobody may wait any more. The end of the input is no word of anybody.
            let _late = sender.send(matches!(read, Ok(1..)));
        });
        if pressed.recv_timeout(time).unwrap_or(false) {
            return confirmed(&self.socket);
        }
        write_stdout("\nnobody confirmed: the rules before are in force again\n")?;
        Ok(Outcome::No)
    }
}

/// Asks a person.
fn agreed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::BadInput(format!("{question} Nobody is there to answer: add --yes")));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush().map_err(Failure::system)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(Failure::system)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// A plan for people.
fn told(plan: &Plan) -> String {
    let mut text = String::new();
    let list = |text: &mut String, head: &str, lines: &[String]| {
        if !lines.is_empty() {
            *text += &format!("{head}:\n");
            lines.iter().for_each(|line| *text += &format!("  {line}\n"));
        }
    };
    list(&mut text, "newly allowed, an example of each kind", &plan.allows);
    list(&mut text, "newly denied, an example of each kind", &plan.denies);
    list(&mut text, "refused otherwise, an example of each kind", &plan.refuses);
    list(&mut text, "live flows that will be cut", &plan.cuts);
    if plan.cut > plan.cuts.len() as u64 {
        text += &format!("  and {} more\n", plan.cut - plan.cuts.len() as u64);
    }
    if plan.allows.is_empty() && plan.denies.is_empty() && plan.refuses.is_empty() {
        text += match plan.incomplete {
            Some(_) => "no difference was found\n",
            None => "every packet is decided as before\n",
        };
    }
    if let Some(reason) = &plan.incomplete {
        text += &format!("the comparison is not complete: {reason}\n");
    }
    if plan.cut == 0 {
        text += &format!("none of {} live flows will be cut\n", plan.flows);
    }
    text
}

/// Carries `confirm` out.
///
/// # Errors
/// Nothing to confirm; no daemon.
pub(super) fn confirm(args: &ConfirmArgs) -> CommandResult {
    confirmed(&args.socket)
}

fn confirmed(socket: &GatewaySocket) -> CommandResult {
    let applied: Applied = socket.one(&Request::Confirm)?;
    write_stdout(&format!("version {} stays\n", applied.version))?;
    Ok(Outcome::Done)
}

/// Carries `rules` out.
///
/// # Errors
/// When no daemon answers.
pub(super) fn rules(args: &RulesArgs) -> CommandResult {
    let lines: Vec<RuleLine> =
        args.socket.ask(&Request::Rules)?.map(|value| value.and_then(read)).collect::<Result<_, _>>()?;
    let is_asked_for = |line: &&RuleLine| {
        args.chain.as_ref().is_none_or(|chain| *chain == line.chain) && (!args.met || line.packets > 0)
    };
    let lines: Vec<&RuleLine> = lines.iter().filter(is_asked_for).collect();
    if args.output == Output::Json {
        write_json(&lines)?;
        return Ok(Outcome::Done);
    }
    let mut text = String::new();
    let same = |one: &&RuleLine, other: &&RuleLine| (&one.chain, &one.family) == (&other.chain, &other.family);
    for chain in lines.chunk_by(same) {
        let Some(first) = chain.first() else { continue };
        let family = first.family.as_ref().map(|family| format!(", {family}")).unwrap_or_default();
        let policy = chain.iter().find_map(|line| line.policy.as_ref().map(|policy| (policy, line)));
        let policy = policy
            .map(|(policy, line)| format!(", policy {policy} {} packets {} bytes", line.packets, line.bytes))
            .unwrap_or_default();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["#", "PACKETS", "BYTES", "LAST", "RULE", "NAME, COMMENT"]);
        for line in chain.iter().filter(|line| line.policy.is_none()) {
            let last = line.last.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds} s"));
            let names: Vec<&str> = line.name.iter().chain(&line.comment).map(String::as_str).collect();
            table.add_row([
                line.number.to_string(),
                line.packets.to_string(),
                line.bytes.to_string(),
                last,
                line.rule.clone(),
                names.join(", "),
            ]);
        }
        for column in 0..4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        text += &format!("chain {}{family}{policy}\n{table}\n\n", first.chain);
    }
    write_stdout(&text)?;
    Ok(Outcome::Done)
}

/// Carries `versions` out.
///
/// # Errors
/// When no daemon answers.
pub(super) fn versions(args: &VersionsArgs) -> CommandResult {
    let lines: Vec<VersionLine> =
        args.socket.ask(&Request::Versions)?.map(|value| value.and_then(read)).collect::<Result<_, _>>()?;
    if args.output == Output::Json {
        write_json(&lines)?;
        return Ok(Outcome::Done);
    }
    let line =
        |line: &VersionLine| format!("{} {} {}\n", if line.in_force { "*" } else { " " }, line.version, line.file);
    write_stdout(&lines.iter().map(line).collect::<String>())?;
    Ok(Outcome::Done)
}

/// Carries `set` out.
///
/// # Errors
/// No such set, elements that don't fit it, no daemon.
pub(super) fn set(args: &SetArgs) -> CommandResult {
    if args.add.is_empty() && args.remove.is_empty() {
        return Err(Failure::BadInput("nothing is to be changed: write --add ELEMENT or --remove ELEMENT".to_owned()));
    }
    let (name, add, remove, save) = (args.name.clone(), args.add.clone(), args.remove.clone(), args.save);
    let changed: Changed = args.socket.one(&Request::Set { name, add, remove, save })?;
    write_stdout(&format!(
        "{}: {} elements, in force on every worker ({} µs)\n",
        args.name, changed.elements, changed.took
    ))?;
    Ok(Outcome::Done)
}
