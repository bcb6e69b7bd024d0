//! Penstock's engine: it moves frames between two ports of a wire and decides, for each, whether it may pass.
//!
//! The engine knows addresses, ports, rules and wires. It knows no pods, no Kubernetes and no async runtime:
//! the `control` crate compiles those into a [`rules::RuleSet`] and publishes it here. Time is an argument
//! ([`time::Time`]), so that every journey can be replayed.
//!
//! # A frame's journey ([`worker::Worker::poll`])
//! ```text
//!  port.receive ─▶ parse ─▶ guard ─▶ fragments ─▶ flows.find ─┬─ known ─▶ track ─ stale epoch? ─▶ judge again ─┐
//!   (a burst)                                                 └─ new ───▶ classify ─▶ allow / deny / ask       │
//!                                                                                        │                     │
//!                                   expire ◀─ port.send ◀─ act: forward or drop, count, log, trace ◀───────────┘
//! ```
//!
//! # Modules
//! * [`frame`], [`port`]: the frame and port contract; `af_xdp`, `af_packet`, `tap`/`tun`, `memory`, `pcap`, `fault`
//! * [`parse`], [`packet`]: bytes to a [`packet::Packet`], or a [`verdict::DropReason`]
//! * [`guard`]: what an endpoint may say of itself (anti-spoof, ARP, ND, DHCP)
//! * [`flow`], [`fragment`]: connection tracking, fragments
//! * [`rules`], [`classify`], [`publish`]: the rules, their compiled form, and how workers get a new one
//! * [`arch`]: prefetch and wide comparisons
//! * [`wire`], [`worker`], [`stats`], [`event`]: the journey itself, and what it counts and tells

pub mod address;
pub mod arch;
pub mod classify;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod frame;
pub mod frontend;
pub mod guard;
pub mod packet;
pub mod parse;
pub mod port;
pub mod publish;
pub mod rules;
pub mod stats;
pub mod testing;
pub mod time;
pub mod verdict;
pub mod wire;
pub mod worker;
