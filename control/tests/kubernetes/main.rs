//! The cluster's state from an API server that does what each test tells it.

mod connection;
mod lists;
mod objects;
mod random;
mod restart;
#[path = "../api_server/mod.rs"]
mod server;
mod services;
mod support;
mod watches;
