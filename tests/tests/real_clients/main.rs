//! Programs that people use, through a wire, over each kind of port. Needs root.

mod cut;
mod fragments;
mod neighbours;
mod nginx;
mod offloads;
mod overlay;
mod path_mtu;
mod ping;
mod throughput;
mod vlan;
mod web;
