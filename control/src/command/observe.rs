//! `penstock status`, `pods`, `policies`, `flows` and `drops`: what the daemon of this node does.

use comfy_table::{Table, presets};
use serde_json::Value;

use super::exit::{CommandResult, Failure, Outcome};
use super::input::Output;
use super::live::{SocketArgs, read};
use super::output::{write_json, write_stdout};
use crate::node::api::{Flow, PodStatus, PolicyStatus, Request, Status};
use crate::observe::drops::rewritten;

/// Says how this node's daemon is
#[derive(Clone, Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Lists this node's pods behind wires: who isolates them, their flows, what was dropped
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PodsArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Lists the policies, and the pods of this node that each isolates
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PoliciesArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Lists the live connections of this node's pods, or of a gateway's wires
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    follow: FollowArgs,
}

/// Shows the latest dropped frames, with the policies that isolate the pod
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DropsArgs {
    #[command(flatten)]
    follow: FollowArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct FollowArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Go on with what comes, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only those of this pod
    #[arg(long, value_name = "NAMESPACE/POD")]
    pod: Option<String>,
    /// How to answer: with --follow, JSON is an object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Carries `status` out: 1 if the daemon is not ready.
///
/// # Errors
/// When no daemon answers.
pub(super) fn status(args: &StatusArgs) -> CommandResult {
    let mut answers = args.socket.ask(&Request::Status, false)?;
    let value = answers.next().unwrap_or_else(|| Err(Failure::System("the daemon ends; try again".to_owned())))?;
    let status: Status = read(value)?;
    match args.output {
        Output::Json => write_json(&status)?,
        Output::Text => write_stdout(&told(&status))?,
    }
    Ok(if status.ready { Outcome::Done } else { Outcome::No })
}

/// A status for people.
fn told(status: &Status) -> String {
    let mut lines = vec![
        format!("node        {} (penstock {})", status.node, status.version),
        format!("ready       {}", if status.ready { "yes" } else { "no" }),
        format!("generation  {}", status.generation),
    ];
    let api = match (&status.disconnected_since, status.synced) {
        (Some(since), _) => format!("lost since {since}; the rules in force stay"),
        (None, true) => "connected".to_owned(),
        (None, false) => "has not told the whole state yet".to_owned(),
    };
    lines.push(format!("API server  {api}"));
    let objects: Vec<String> = status.objects.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    lines.push(format!("cluster     {}", objects.join(", ")));
    lines.push(format!("pods here   {} behind wires, {} not", status.pods, status.unspliced.len()));
    lines.push(format!("flows       {} of at most {}", status.flows[0], status.flows[1]));
    lines.push(format!("workers     {} of {} run", status.workers[1], status.workers[0]));
    let uptime: Vec<String> = status.uptime.iter().map(|(part, seconds)| format!("{part} {seconds} s")).collect();
    lines.push(format!("up          {}; engine restarts: {}", uptime.join(", "), status.engine_restarts));
    lines.extend(status.unspliced.iter().map(|pod| format!("  no wire: {pod}")));
    lines.extend(status.problems.iter().map(|problem| format!("  {problem}")));
    lines.join("\n") + "\n"
}

fn list<T: serde::de::DeserializeOwned + serde::Serialize>(
    socket: &SocketArgs,
    request: &Request,
    output: Output,
    header: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> CommandResult {
    let all: Vec<T> = socket.ask(request, false)?.map(|value| value.and_then(read)).collect::<Result<_, _>>()?;
    match output {
        Output::Json => write_json(&all)?,
        Output::Text => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(header.to_vec());
            for one in &all {
                table.add_row(row(one));
            }
            write_stdout(&format!("{table}\n"))?;
        }
    }
    Ok(Outcome::Done)
}

/// Carries `pods` out.
///
/// # Errors
/// When no daemon answers.
pub(super) fn pods(args: &PodsArgs) -> CommandResult {
    let isolated =
        |policies: &Option<Vec<String>>| policies.as_ref().map_or("open".to_owned(), |names| names.join(" "));
    let row = |pod: &PodStatus| {
        let drops: Vec<String> = pod.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        vec![
            pod.pod.clone(),
            pod.addresses.join(" "),
            if pod.carried { "carried" } else { "closed" }.to_owned(),
            isolated(&pod.ingress),
            isolated(&pod.egress),
            pod.flows.to_string(),
            drops.join(", "),
        ]
    };
    let header = ["POD", "ADDRESSES", "WIRES", "INGRESS", "EGRESS", "FLOWS", "DROPS"];
    list(&args.socket, &Request::Pods, args.output, &header, row)
}

/// Carries `policies` out.
///
/// # Errors
/// When no daemon answers.
pub(super) fn policies(args: &PoliciesArgs) -> CommandResult {
    let row = |policy: &PolicyStatus| {
        vec![policy.policy.clone(), policy.types.join(" "), policy.pods.join(" "), policy.problems.join("; ")]
    };
    list(&args.socket, &Request::Policies, args.output, &["POLICY", "TYPES", "PODS HERE", "PROBLEMS"], row)
}

/// Carries `flows` out.
///
/// # Errors
/// When no daemon answers.
pub(super) fn flows(args: &FlowsArgs) -> CommandResult {
    args.follow
        .show(|follow, pod| Request::Flows { follow, pod }, |value| read::<Flow>(value).map(|flow| flow_line(&flow)))
}

/// Carries `drops` out.
///
/// # Errors
/// When no daemon answers.
pub(super) fn drops(args: &DropsArgs) -> CommandResult {
    args.follow.show(|follow, pod| Request::Drops { follow, pod }, |value| Ok(drop_line(&value)))
}

impl FollowArgs {
    fn show(
        &self,
        request: impl FnOnce(bool, Option<String>) -> Request,
        line: impl Fn(Value) -> Result<String, Failure>,
    ) -> CommandResult {
        let request = request(self.follow, self.pod.clone());
        let answers = self.socket.ask(&request, self.follow)?;
        if self.output == Output::Json && !self.follow {
            let all: Vec<Value> = answers.collect::<Result<_, _>>()?;
            write_json(&all)?;
            return Ok(Outcome::Done);
        }
        for value in answers {
            let value = value?;
            let text = if self.output == Output::Json { value.to_string() } else { line(value)? };
            write_stdout(&(text + "\n"))?;
        }
        Ok(Outcome::Done)
    }
}

/// An end of a connection: its address and port, and whose it is.
fn end(address: &[String; 2], port: u16) -> String {
    let place = match (port, address[0].contains(':')) {
        (0, _) => address[0].clone(),
        (port, true) => format!("[{}]:{port}", address[0]),
        (port, false) => format!("{}:{port}", address[0]),
    };
    if address[1].is_empty() { place } else { format!("{place} ({})", address[1]) }
}

fn flow_line(flow: &Flow) -> String {
    format!(
        "{:<4} {} {} {} {} → {} {} packets {}/{} bytes {}/{} expires {} s",
        flow.event,
        flow.pod,
        flow.direction,
        flow.protocol,
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
        flow.state,
        flow.packets[0],
        flow.packets[1],
        flow.bytes[0],
        flow.bytes[1],
        flow.expires_in
    )
}

/// A line of the log of drops, for people.
fn drop_line(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let port = |name: &str| line[name].as_u64().map(|port| format!(":{port}")).unwrap_or_default();
    let list =
        |name: &str| -> Vec<&str> { line[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let owner = ["peerPod", "peerNode"].iter().find_map(|name| line[*name].as_str()).map(str::to_owned);
    let client = line["rewrittenFrom"].as_str().map(|client| rewritten(client, &text("rewrittenFromPod")));
    let service = match &list("services")[..] {
        [] => None,
        services => Some(format!("service {}, endpoints {}", services.join(", "), list("endpoints").join(", "))),
    };
    let whose: Vec<String> = owner.into_iter().chain(client).chain(service).collect();
    let whose = if whose.is_empty() { String::new() } else { format!(" ({})", whose.join(", ")) };
    let (own_port, peer_port) = match text("direction").as_str() {
        "egress" => (port("sourcePort"), port("destinationPort")),
        _ => (port("destinationPort"), port("sourcePort")),
    };
    let own = format!("{}{own_port}", text("address"));
    let peer = format!("{}{peer_port}{whose}", text("peer"));
    let (from, to) = if text("direction") == "egress" { (own, peer) } else { (peer, own) };
    let policies = list("policies");
    let by = if policies.is_empty() { String::new() } else { format!(" isolated by {}", policies.join(", ")) };
    let name = if line["pod"].is_string() { text("pod") } else { text("wire") };
    format!("{} {name} {} {} {from} → {to} {}{by}", text("time"), text("direction"), text("protocol"), text("reason"),)
}
