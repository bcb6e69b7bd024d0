//! What a daemon shows of itself, the same for wires of a configuration and for a node of a cluster: metrics and health over HTTP, and
//! the log of what the workers tell.
//!
//! * `http`: `/metrics`, `/livez` and `/readyz`
//! * `metrics`, `wires`: how metrics are written, those of every engine, and those of every wire
//! * `events`: what the workers tell, taken from them; `drops`: a line each, no more than a few a second

pub(crate) mod drops;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod wires;
