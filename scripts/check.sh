#!/usr/bin/env bash
# Formatting, lints, documentation and dependencies: what a change must pass before its tests are looked at.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { echo "check: $*"; }

step formatting
cargo fmt --all --check

step lints
cargo clippy --workspace --all-targets --locked -- -D warnings

step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

step scripts
for script in scripts/*.sh tests/cluster/*.sh deploy/kubectl-penstock deploy/gateway/host-inside .ci/run; do bash -n "$script"; done

if command -v cargo-deny >/dev/null; then
    step dependencies
    # cargo-deny looks at the crates of all platforms; those that are not built here may not have been fetched.
    cargo fetch --locked --quiet
    cargo deny --offline check bans licenses sources
else
    echo "check: cargo-deny is not installed, dependencies are not checked (cargo install cargo-deny)"
fi
