//! The plugin in chains with real plugins, driven by a runtime of our own that follows the specification, in a network
//! namespace that plays the host; behind the wires, the real engine. What comes through is judged by real clients.
//!
//! A test that cannot be set up fails: nothing here skips. It takes root, and Debian's `containernetworking-plugins`.

mod adopt;
mod chains;
mod contract;
mod crash;
mod daemon;
mod lifetimes;
mod node;
