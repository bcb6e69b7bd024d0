#!/usr/bin/env bash
# All tests. Those that make namespaces, veths and sockets need root.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
    echo "test: the tests make network namespaces and raw sockets; run 'make test' as root" >&2
    exit 3
fi

# The program that plays a node's processes in tests: neither runner builds examples for tests.
cargo build --package penstock --example node_processes --locked
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --workspace --locked --no-fail-fast
else
    # One at a time: tests with real traffic must not starve each other, and only nextest can tell them apart.
    cargo test --workspace --locked --no-fail-fast --lib --bins --tests -- --test-threads=1
fi
cargo test --workspace --locked --doc --quiet
# Briefly, from the seeds; `make fuzz` takes its time.
scripts/fuzz.sh 10
