//! Control of a node, on an API server that does what each test tells it and an engine that says what it was told.

#[path = "../api_server/mod.rs"]
mod api_server;
mod engine;
mod life;
mod pods;
mod support;
