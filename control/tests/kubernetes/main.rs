//! The cluster's state from an API server that does what each test tells it.

mod connection;
mod lists;
mod objects;
mod random;
mod restart;
mod server;
mod support;
mod watches;
