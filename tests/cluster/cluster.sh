#!/usr/bin/env bash
# A real Kubernetes on this machine: a control plane and one or two nodes in namespaces of their own, and a client outside. Nothing of the machine's own
# network, directories or mounts is touched, and `down` leaves nothing.
#
#   cluster.sh up [--nodes N] [--primary ptp|bridge|vpc]    start it (needs build.sh once); ready in about 20 seconds
#   cluster.sh down                                         stop it and remove all of it
#   cluster.sh exec WHERE COMMAND…                          run a command in control, node1, node2 or client
#   cluster.sh stop|start WHERE PROGRAM                     stop a program of it (kube-apiserver, kubelet, …), start it again
#   cluster.sh kubectl ARGUMENT…                            kubectl against it
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${PENSTOCK_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock-cluster}
run=${PENSTOCK_CLUSTER_RUN:-${TMPDIR:-/tmp}/penstock-cluster}
# Network namespaces of one cluster: this before the place's name.
prefix=penstock-k8s
places=(control node1 node2 client)

address_of() {
    case $1 in
    control) echo 10.254.0.10 ;;
    node1) echo 10.254.0.11 ;;
    node2) echo 10.254.0.12 ;;
    client) echo 10.254.0.100 ;;
    *) echo "cluster: no such place: $1 (control, node1, node2, client)" >&2 && return 2 ;;
    esac
}

# A switch, and each place with one interface in it.
network() {
    ip netns add $prefix-switch
    ip -n $prefix-switch link add switch type bridge
    ip -n $prefix-switch link set switch up
    for place in "$@"; do
        ip netns add "$prefix-$place"
        ip -n $prefix-switch link add "$place" type veth peer name eth0 netns "$prefix-$place"
        ip -n $prefix-switch link set "$place" master switch up
        ip -n "$prefix-$place" link set lo up
        ip -n "$prefix-$place" addr add "$(address_of "$place")/24" dev eth0
        ip -n "$prefix-$place" link set eth0 up
        # Whoever routes needs a way to everywhere, though there is nobody there.
        ip -n "$prefix-$place" route add default via 10.254.0.100 2>/dev/null || true
    done
    for place in "$@"; do
        for node in 1 2; do
            [ "$place" != "node$node" ] && ip -n "$prefix-$place" route add "10.244.$node.0/24" via "10.254.0.1$node"
        done
        ip netns exec "$prefix-$place" sysctl -qw net.ipv4.ip_forward=1
    done
}

# Starts a place's processes in namespaces of its own.
place() {
    local place=$1
    shift
    mkdir -p "$run/$place"
    nsenter --net="/run/netns/$prefix-$place" unshare --mount --pid --fork --kill-child --mount-proc \
        "$here/node.sh" "$run/$place" "$@" >"$run/$place/log" 2>&1 &
    echo $! >"$run/$place/unshare.pid"
}

# The first process of a place, as the machine numbers it.
init_of() { pgrep -P "$(cat "$run/$1/unshare.pid")" | head -1; }

enter() {
    local place=$1
    shift
    if [ "$place" = client ]; then
        ip netns exec $prefix-client "$@"
    else
        nsenter --target "$(init_of "$place")" --net --mount --pid "$@"
    fi
}

up() {
    local nodes=1 primary=ptp
    while [ $# -gt 0 ]; do
        case $1 in
        --nodes) nodes=$2 && shift 2 ;;
        --primary) primary=$2 && shift 2 ;;
        *) echo "cluster: unknown option: $1" >&2 && exit 2 ;;
        esac
    done
    [ -x "$cache/bin/kubelet" ] || { echo "cluster: Kubernetes is not built: run tests/cluster/build.sh first" >&2 && exit 3; }
    [ -f "$here/primary/$primary.conflist" ] || { echo "cluster: no such primary plugin: $primary" >&2 && exit 2; }
    down
    mkdir -p "$run/images"
    cp "$cache"/images/*.tar "$run/images/"
    local all=(control client)
    for node in $(seq "$nodes"); do all+=("node$node"); done
    network "${all[@]}"
    place control control-plane.sh "$cache/bin" "$run" "$(address_of control)"
    for node in $(seq "$nodes"); do
        place "node$node" kubelet.sh "$cache/bin" "$run" "node$node" "$(address_of "node$node")" "10.244.$node.0/24" "$primary"
    done
    for _ in $(seq 240); do
        [ "$(kubectl_of get nodes 2>/dev/null | grep -c ' Ready')" -eq "$nodes" ] && kubectl_of -n default get serviceaccount default >/dev/null 2>&1 && return 0
        sleep 0.25
    done
    echo "cluster: not ready after a minute; the logs are in $run" >&2
    exit 1
}

kubectl_of() { ip netns exec $prefix-control "$cache/bin/kubectl" --kubeconfig "$run/kubeconfig" "$@"; }

down() {
    for place in "${places[@]}"; do
        [ -f "$run/$place/unshare.pid" ] || continue
        kill -9 "$(cat "$run/$place/unshare.pid")" 2>/dev/null || true
    done
    for place in switch "${places[@]}"; do
        [ ! -e "/run/netns/$prefix-$place" ] || ip netns delete "$prefix-$place"
    done
    for group in /sys/fs/cgroup/*/penstock-test-node*; do
        [ -d "$group" ] || continue
        # The processes are gone in a moment; a group can go only then, and from its leaves upwards.
        for _ in $(seq 20); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    done
    for _ in $(seq 20); do rm -rf "$run" 2>/dev/null && break; sleep 0.2; done
}

[ "$(id -u)" -eq 0 ] || { echo "cluster: run this as root" >&2 && exit 3; }
command=${1:-}
[ $# -eq 0 ] || shift
case $command in
up) up "$@" ;;
down) down ;;
kubectl) kubectl_of "$@" ;;
exec) enter "$@" ;;
stop) enter "$1" sh -c "kill \$(cat $run/$1/$2.pid)" ;;
start) enter "$1" sh -c "cd $run/$1; sh -c \"exec \$(cat $2.command)\" >>$2.log 2>&1 & echo \$! >$run/$1/$2.pid" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
