#!/usr/bin/env bash
# Cargo's RUSTC_WRAPPER for the fuzz targets: instruments Penstock's own crates, and nothing else, for libFuzzer, with a
# stable compiler. Only what is built with the feature `fuzzing` is instrumented, so that ordinary builds never are.
set -euo pipefail
flags=()
case " $* " in
*' --crate-name build_script_'*) ;;
*' --crate-name dataplane '*'feature="fuzzing"'* | *' --crate-name control '*'feature="fuzzing"'*)
    flags=(
        -Cpasses=sancov-module
        -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
        -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares
    )
    ;;
esac
exec "$@" "${flags[@]}"
