//! Follows a cluster's state and prints what the API server tells: `cargo run -p penstock --example follow -- [KUBECONFIG [STATE]]`.

use std::error::Error;
use std::path::PathBuf;

use control::kubernetes::{Access, Batch, Source, SourceConfig, Update};

fn show(what: &str, batch: &Batch, source: &Source) {
    let touched = &batch.touched;
    let count = source.cluster().map_or((0, 0), |cluster| (cluster.pods().count(), cluster.policies().count()));
    println!(
        "{what}: {} changes, {:?} after the first was heard; touched {} pods, {} addresses, {:?} namespaces, {:?} nodes, {:?}; \
         now {} pods, {} policies",
        batch.changes,
        batch.received.elapsed(),
        touched.pods.len(),
        touched.addresses.len(),
        touched.namespaces,
        touched.nodes,
        touched.policies,
        count.0,
        count.1
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let access = match arguments.next() {
        Some(file) => Access::Kubeconfig { file: Some(file.into()), context: None },
        None => Access::infer(),
    };
    let mut config = SourceConfig::new(access);
    config.state = arguments.next().map(PathBuf::from);
    let mut source = match Source::open(config).await {
        Ok(source) => source,
        Err(error) => return Err(error.to_string().into()),
    };
    loop {
        let update = tokio::select! {
            update = source.next() => update,
            _ = tokio::signal::ctrl_c() => break,
        };
        match update {
            Update::Restored(batch, written) => show(&format!("restored from {written:?}"), &batch, &source),
            Update::Synced(batch) => show("synced", &batch, &source),
            Update::Changed(batch) => show("changed", &batch, &source),
            Update::Connected => println!("connected"),
            Update::Disconnected { trouble, .. } => println!("disconnected ({}): {trouble}", trouble.label()),
            Update::Report(report) => println!("{report}"),
        }
    }
    if let Some(report) = source.close().await {
        println!("{report}");
    }
    Ok(())
}
