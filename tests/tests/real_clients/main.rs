//! Programs that people use, through a wire, over each kind of port. Needs root.

mod nginx;
mod ping;
mod web;
