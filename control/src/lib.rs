//! Penstock's control side: Kubernetes objects to rules, and the commands that people type.

pub mod command;
pub mod conntrack;
pub mod daemon;
pub mod enforcer;
pub mod gateway;
pub mod kubernetes;
pub mod lab;
pub mod node;
pub(crate) mod observe;
pub mod policy;
pub mod process;
pub mod rehearsal;
pub(crate) mod sockets;
