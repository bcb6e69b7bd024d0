//! The cluster's state from its API server: namespaces, nodes, pods and network policies, listed and watched.
//!
//! ```text
//!              one task a kind                         Source::next
//!  API server ─▶ reflect ─▶ wire ─▶ lean ─▶ messages ─▶ state ─▶ Update { Touched } ─▶ LiveRules ─▶ Enforcer::change
//!                                                        │  ▲
//!                                                        ▼  │
//!                                                   store (file)
//! ```
//!
//! * `reflect`: lists in pages, watches, goes on where it stopped; `backoff` between attempts
//! * `wire`, `lean`: the fields that are read of what the server sends, and the form in which they are compared
//! * `policy`: what the server accepted and Penstock does not understand allows nothing
//! * `state`: the cluster, and what differs from it
//! * `source`: the kinds together, in batches; what is half known is not shown
//! * `store`, `saving`: the state of last time, for a start without API server
//! * `lookup`, `writer`: one pod asked for; a taint removed, Events made
//! * `removal`: taking Penstock off all nodes
//! * `access`, `server`, `trouble`, `report`: how the server is reached, what it is, and what is told of it
//!
//! Whoever uses it:
//!
//! ```no_run
//! # use control::kubernetes::{Access, Source, SourceConfig, Update};
//! # use control::policy::{cluster::ObjectName, live::LiveRules};
//! # use dataplane::rules::WireId;
//! # async fn follow(mut live: LiveRules, wires: Vec<(ObjectName, WireId)>) -> Result<(), Box<dyn std::error::Error>> {
//! let mut source = Source::open(SourceConfig::new(Access::infer())).await?;
//! let mut started = false;
//! loop {
//!     match source.next().await {
//!         Update::Restored(batch, _) | Update::Synced(batch) | Update::Changed(batch) => {
//!             let cluster = source.cluster().expect("there is one after these updates");
//!             let change = match std::mem::replace(&mut started, true) {
//!                 false => live.start(cluster, wires.clone()),
//!                 true => live.update(cluster, &batch.touched),
//!             };
//!             // Put it in force, then: batch.received.elapsed() is the time from event to applied.
//! #           drop(change);
//!         }
//!         Update::Connected => println!("connected"),
//!         Update::Disconnected { trouble, .. } => eprintln!("{trouble}"),
//!         Update::Report(report) => eprintln!("{report}"),
//!     }
//! }
//! # }
//! ```
//!
//! The state is what the server told, whatever the order in which it did: relists, repeated events, connections lost at any point
//! and half-read lists end in the state that one undisturbed list gives. Events of different kinds have no order among them.

mod access;
mod backoff;
mod config;
pub mod lean;
mod lookup;
mod policy;
mod reflect;
mod removal;
mod report;
mod saving;
mod server;
mod source;
mod state;
mod store;
mod trouble;
mod wire;
mod writer;

pub use access::Access;
pub use config::SourceConfig;
pub use lookup::{Found, Lookup};
pub use removal::{Removal, RemovalError};
pub use report::Report;
pub use server::Version;
pub use source::{Batch, Source, Update};
pub use trouble::{SetupError, Trouble};
pub use writer::Writer;
