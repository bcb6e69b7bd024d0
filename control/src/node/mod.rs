//! A node of a cluster: its pods behind wires, judged by the policies of the API server.
//!
//! ```text
//!            kubernetes::Source ─▶ LiveRules ─▶ Engine::change          (what may pass)
//!  runtime ─▶ penstock-cni ─▶ cni.sock ─▶ pods ─▶ Engine::attach         (which wires there are)
//!                        Wirer: what needs privileges, and nothing else
//!  people ─▶ api.sock                                                    (what it does)
//! ```

pub mod api;
pub mod wirer;
