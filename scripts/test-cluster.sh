#!/usr/bin/env bash
# Tests Penstock on a real Kubernetes on this machine, over ptp or over each of PRIMARIES. TESTS: words of names of tests to run (all); PRIMARIES: which (of ptp
# bridge vpc); ARGUMENTS: further ones of tests/cluster/suite/run.py. The Kubernetes is built once, into PENSTOCK_CLUSTER_CACHE.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "test-cluster: run this as root" >&2 && exit 3; }

tests/cluster/build.sh
# Quick to build, and with all checks.
PENSTOCK_PROFILE=dev IMAGE=localhost/penstock:test scripts/image.sh
failed=()
for primary in ${PRIMARIES:-ptp}; do
    # shellcheck disable=SC2086 # words of each
    /usr/bin/python3 tests/cluster/suite/run.py --primary "$primary" ${ARGUMENTS:-} ${TESTS:-} || failed+=("$primary")
done
[ "${#failed[@]}" -eq 0 ] || { echo "test-cluster: failed with ${failed[*]}" >&2 && exit 1; }
