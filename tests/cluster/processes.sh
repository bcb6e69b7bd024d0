# shellcheck shell=bash
# Sourced by control-plane.sh and kubelet.sh: the programs of a place, each of which cluster.sh stops and starts again by its name.

# usage: start NAME COMMAND… : runs it in the background; NAME.command, NAME.pid and NAME.log are beside.
start() {
    local name=$1
    shift
    printf '%q ' "$@" >"$name.command"
    "$@" >>"$name.log" 2>&1 &
    echo $! >"$name.pid"
}

# usage: await SECONDS COMMAND… : tries it until it succeeds.
await() {
    local tries=$(($1 * 4))
    shift
    for _ in $(seq "$tries"); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.25
    done
    echo "gave up: $*" >&2
    return 1
}

# The first process of a process namespace: everything ends with it.
remain() { while true; do wait || true; sleep 1; done; }
