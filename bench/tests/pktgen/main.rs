//! The load generator over veth pairs in namespaces of its own: what is sent is what is counted.

mod cable;
mod live;
