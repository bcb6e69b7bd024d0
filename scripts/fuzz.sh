#!/usr/bin/env bash
# Fuzzes each target for some seconds: scripts/fuzz.sh SECONDS [TARGET]…
# What is found stays in tests/fuzz/crashes/TARGET, where ordinary tests replay it; new inputs in target/fuzz/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET]…}
shift
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(parse flows manifests)

target_directory=${CARGO_TARGET_DIR:-$PWD/target}
RUSTC_WRAPPER=$PWD/tests/fuzz/rustc.sh CARGO_TARGET_DIR=$target_directory \
    cargo build --quiet --manifest-path tests/fuzz/Cargo.toml "${targets[@]/#/--bin=}"

for target in "${targets[@]}"; do
    inputs=$target_directory/fuzz/$target
    mkdir -p "$inputs"
    log=$target_directory/fuzz/$target.log
    echo "fuzz: $target for $seconds s"
    # A seed for the choices of the fuzzer is in its log.
    if ! "$target_directory/debug/$target" "$inputs" "tests/fuzz/seeds/$target" \
        -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="tests/fuzz/crashes/$target/" >"$log" 2>&1; then
        tail -40 "$log" >&2
        echo "fuzz: $target failed; its input is in tests/fuzz/crashes/$target, the log in $log" >&2
        exit 1
    fi
    grep -E 'stat::number_of_executed_units|^#[0-9]+.*DONE' "$log" | sed 's/^/fuzz:   /'
done
