#!/usr/bin/env bash
# Plants each bug of tests/planted in a copy of the tree, one at a time, and shows that its test fails: a bug that survives
# means that a test is missing. scripts/planted-bugs.sh [NAME]…   (NAME: the beginning of a patch's name)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

patches=()
for patch in tests/planted/*.patch; do
    name=$(basename "$patch" .patch)
    [ $# -eq 0 ] && patches+=("$name")
    for wanted in "$@"; do [[ $name == "$wanted"* ]] && patches+=("$name"); done
done
[ "${#patches[@]}" -gt 0 ] || { echo "planted-bugs: no patch in tests/planted begins with: $*" >&2; exit 2; }

copy=$(mktemp -d "${TMPDIR:-/tmp}/penstock-planted.XXXXXX")
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    # What was removed and not committed is still listed.
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | xargs -0 cp --parents --no-dereference -t "$copy"
# What is built of other people's crates is taken over; Penstock's own are built anew for their new place.
export CARGO_TARGET_DIR=$copy/target
built=$root/target/debug
if [ -d "$built/deps" ]; then
    mkdir -p "$CARGO_TARGET_DIR/debug"
    # A build that runs meanwhile may take a file away; then it is built anew.
    for part in .fingerprint build deps; do
        cp -a --reflink=auto "$built/$part" "$CARGO_TARGET_DIR/debug/" 2>/dev/null || true
    done
fi
export CI=true CARGO_TERM_COLOR=never CARGO_INCREMENTAL=1
export PENSTOCK_CONFORMANCE=${PENSTOCK_CONFORMANCE:-$(cd ../shared 2>/dev/null && pwd)/conformance}
cd "$copy"

# What cargo is told to run a patch's test.
test_of() { sed -n 's/^Test: //p' "tests/planted/$1.patch"; }
# Unquoted: a test is several arguments.
# shellcheck disable=SC2086
build() { cargo test --quiet --locked --no-run $1 >"$copy/log" 2>&1; }
# shellcheck disable=SC2086
run() { timeout 600 cargo test --quiet --locked $1 >"$copy/log" 2>&1; }

echo "planted-bugs: the tests pass on the tree as it is"
for name in "${patches[@]}"; do test_of "$name"; done | sort -u | while read -r arguments; do
    run "$arguments" || { tail -40 "$copy/log" >&2; echo "planted-bugs: fails without any bug: cargo test $arguments" >&2; exit 1; }
    echo "  passes: cargo test $arguments"
done

survivors=0
for name in "${patches[@]}"; do
    arguments=$(test_of "$name")
    git apply -C1 "tests/planted/$name.patch"
    if ! build "$arguments"; then
        tail -40 "$copy/log" >&2
        echo "planted-bugs: $name does not build, so it shows nothing" >&2
        exit 1
    fi
    if run "$arguments"; then
        echo "  SURVIVES: $name: cargo test $arguments"
        survivors=$((survivors + 1))
    else
        echo "  caught:   $name: $(head -1 "tests/planted/$name.patch")"
        grep -m1 -oE '^thread .* panicked at [^ ]*' "$copy/log" | sed -E "s/ \([0-9]+\)//; s/^/            /" || true
    fi
    git apply -R -C1 "tests/planted/$name.patch"
done
if [ "$survivors" -gt 0 ]; then
    echo "planted-bugs: $survivors of ${#patches[@]} survive" >&2
    exit 1
fi
echo "planted-bugs: all ${#patches[@]} are caught"
