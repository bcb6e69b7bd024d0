//! The load generator over veth pairs in namespaces of its own: what is sent is what is counted, and what is planted is seen.

mod cable;
mod command;
mod forwarder;
mod live;
mod neighbours;
mod trials;
