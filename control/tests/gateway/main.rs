//! A gateway with real iptables, real clients and servers, and then the same with Penstock in place of iptables.
#![allow(missing_docs)]

mod changes;
mod frames;
mod refusals;
mod service;
mod site;
mod traffic;
