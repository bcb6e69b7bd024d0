#!/usr/bin/env bash
# Builds penstock-cni as one file that runs on any node, whatever C library it has: linked statically. TARGET is another
# target triple to build for, such as aarch64-unknown-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
# With --target the flags are for the program alone, not for what runs while it is built.
RUSTFLAGS="-Ctarget-feature=+crt-static -Cstrip=symbols" cargo build --release --locked -p penstock-cni --target "$target"
built=${CARGO_TARGET_DIR:-target}/$target/release/penstock-cni
if readelf --program-headers "$built" | grep -q INTERP; then
    echo "cni: $built asks for a dynamic loader; it must not" >&2
    exit 1
fi
install -D -m 0755 "$built" target/cni/penstock-cni
