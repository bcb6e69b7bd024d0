//! Properties of the policy engine over random worlds and policies.

mod diff;
mod explain;
mod oracle;
mod worlds;
