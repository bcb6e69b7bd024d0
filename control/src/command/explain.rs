//! `penstock explain`: why a connection is allowed or denied.

use super::exit::{CommandResult, Failure, Outcome};
use super::input::{ClusterArgs, Output};
use super::output::{write_json, write_stdout};
use crate::policy::explain::explain;
use crate::policy::probe::{EndVerdict, Probe, Service, Target, Via};

/// Names the policies and rules that decide about a connection, and for a denial what would have to change
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Who opens the connection: namespace/pod, or an address
    from: Target,
    /// To whom: namespace/pod, or an address, perhaps a Service's
    to: Target,
    /// On which port of the pod, such as TCP/80 (or 80), UDP/53 or SCTP/7777
    #[arg(value_name = "PORT")]
    service: Service,
    /// nodePort: the node's address hides FROM, who came in by a NodePort; service: TO is a Service, by its name
    #[arg(long, value_enum)]
    via: Option<ViaArg>,
    /// End with exit code 1 if the answer is another
    #[arg(long, value_enum)]
    expect: Option<Expect>,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ViaArg {
    #[value(name = "nodePort", alias = "nodeport")]
    NodePort,
    Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Expect {
    Allow,
    Deny,
}

/// Carries the command out.
///
/// # Errors
/// Bad manifests, an end that cannot be found in them.
pub(super) fn run(args: &ExplainArgs) -> CommandResult {
    let cluster = args.cluster.load()?;
    let via = args.via.map(|via| match via {
        ViaArg::NodePort => Via::NodePort,
        ViaArg::Service => Via::Service,
    });
    let probe = Probe { from: args.from.clone(), to: args.to.clone(), service: args.service, via };
    if probe.via == Some(Via::NodePort) {
        probe.locate(&cluster).and_then(|connection| connection.check_via(&cluster)).map_err(Failure::input)?;
    }
    let explanation = explain(&cluster, &probe).map_err(Failure::input)?;
    match args.output {
        Output::Json => write_json(&explanation)?,
        Output::Text => write_stdout(&explanation.to_string())?,
    }
    let expected = match args.expect {
        None => explanation.verdict,
        Some(Expect::Allow) => EndVerdict::Allow,
        Some(Expect::Deny) => EndVerdict::Deny,
    };
    Ok(if explanation.verdict == expected { Outcome::Done } else { Outcome::No })
}
