//! `penstock matrix`: who reaches whom.

use std::collections::BTreeSet;

use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;

use super::exit::{CommandResult, Failure, Outcome};
use super::input::{ClusterArgs, Output};
use super::output::{write_json, write_stdout};
use crate::policy::cluster::Cluster;
use crate::policy::probe::{Probe, Service, Target};
use crate::rehearsal::ClusterRehearsal;

/// Shows which pods reach which, on every port that a container names, or on those asked for
#[derive(Clone, Debug, clap::Args)]
pub(super) struct MatrixArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// A port, such as TCP/80 or UDP/53; repeatable
    #[arg(long = "port", value_name = "PROTOCOL/PORT")]
    ports: Vec<Service>,
    /// An address outside of the cluster to be shown with the pods; repeatable
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<std::net::IpAddr>,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// All answers for one port.
#[derive(Clone, Debug, Serialize)]
struct PortMatrix {
    port: String,
    order: Vec<String>,
    /// By source, in `order`, one character a destination: `.` allowed, `X` denied, `#` itself, `-` no common address
    /// family.
    rows: Vec<String>,
}

/// Carries the command out.
///
/// # Errors
/// Bad manifests, or none of a pod.
pub(super) fn run(args: &MatrixArgs) -> CommandResult {
    let cluster = args.cluster.load()?;
    if cluster.pods().next().is_none() {
        return Err(Failure::BadInput(
            "there are no pods in the manifests: add them with -f, say from kubectl get pods -A -o yaml".to_owned(),
        ));
    }
    let services = if args.ports.is_empty() { container_services(&cluster) } else { args.ports.clone() };
    if services.is_empty() {
        return Err(Failure::BadInput(
            "no container names a port: say which to ask about with --port TCP/80".to_owned(),
        ));
    }
    let ends = ends(&cluster, &args.addresses);
    let mut rehearsal = ClusterRehearsal::new(&cluster);
    let matrices: Vec<_> = services.iter().map(|&service| matrix(&mut rehearsal, &ends, service)).collect();
    match args.output {
        Output::Json => write_json(&matrices)?,
        Output::Text => {
            for matrix in &matrices {
                let title = format!("{}: from the pod on the left to the pod above", matrix.port);
                write_stdout(&format!("{title}\n{}\n\n", table(matrix)))?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// Every protocol and port that a container of a pod names.
fn container_services(cluster: &Cluster) -> Vec<Service> {
    let ports = cluster.pods().flat_map(|pod| pod.ports.iter());
    let services: BTreeSet<_> = ports.map(|port| Service { protocol: port.protocol, port: port.port }).collect();
    services.into_iter().collect()
}

fn ends(cluster: &Cluster, addresses: &[std::net::IpAddr]) -> Vec<Target> {
    let pods = cluster.pods().filter(|pod| cluster.addresses_of(pod).next().is_some());
    let pods = pods.map(|pod| Target::Pod(pod.name.clone()));
    pods.chain(addresses.iter().map(|&address| Target::Address(address))).collect()
}

fn matrix(rehearsal: &mut ClusterRehearsal<'_>, ends: &[Target], service: Service) -> PortMatrix {
    let mut cell = |from: &Target, to: &Target| {
        if from == to {
            return '#';
        }
        let probe = Probe { from: from.clone(), to: to.clone(), service, via: None };
        match rehearsal.answer(&probe) {
            Ok(rehearsed) if rehearsed.answer.is_allowed() => '.',
            Ok(_) => 'X',
            Err(_) => '-',
        }
    };
    PortMatrix {
        port: service.to_string(),
        order: ends.iter().map(Target::to_string).collect(),
        rows: ends.iter().map(|from| ends.iter().map(|to| cell(from, to)).collect()).collect(),
    }
}

fn table(matrix: &PortMatrix) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(std::iter::once("").chain(matrix.order.iter().map(String::as_str)));
    for (from, row) in matrix.order.iter().zip(&matrix.rows) {
        let cells = row.chars().map(|cell| match cell {
            '.' => Cell::new("allow").fg(Color::Green),
            'X' => Cell::new("deny").fg(Color::Red),
            '#' => Cell::new("·").fg(Color::DarkGrey),
            _ => Cell::new("n/a").fg(Color::DarkGrey),
        });
        table.add_row(std::iter::once(Cell::new(from)).chain(cells));
    }
    table
}
