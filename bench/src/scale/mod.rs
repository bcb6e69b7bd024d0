//! A large cluster, and a large gateway ([`gateway`]), on the control side. The cluster: how long until its policies are in force, how long until a change of one pod is, and how
//! much memory it takes.
//!
//! The cluster is [`generate`]d from a seed and fed in object by object, as a watch delivers it; what counts as time is
//! between handing an object over and the acknowledgement of every worker. See [`run`].

pub mod gateway;
pub mod generate;
mod measure;

pub use generate::Shape;
pub use measure::{Config, Latency, Memory, Report, run};
