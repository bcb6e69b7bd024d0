//! Properties of the policy engine over random worlds and policies.

mod diff;
mod explain;
mod live;
mod oracle;
mod worlds;
