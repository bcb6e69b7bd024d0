//! The conformance corpus: worlds, policies and the answers that a correct engine gives, read from the manifests that
//! people would write, through validation, resolve and the oracle.

mod answers;
mod corpus;
mod eval;
mod validation;
