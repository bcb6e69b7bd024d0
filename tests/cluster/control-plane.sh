#!/usr/bin/env bash
# etcd, API server, controller manager and scheduler: the control plane of the test cluster. Called by node.sh.
# usage: control-plane.sh DIRECTORY BINARIES SHARED ADDRESS   (SHARED: where the kubeconfig is written that all use)
set -euo pipefail
directory=${1:?}
binaries=${2:?}
shared=${3:?}
address=${4:?}
# shellcheck source-path=SCRIPTDIR source=processes.sh
. "$(dirname "$0")/processes.sh"
cd "$directory"

if [ ! -f "$shared/token" ]; then
    openssl genrsa -out service-account.key 2048 2>/dev/null
    openssl rsa -in service-account.key -pubout -out service-account.pub 2>/dev/null
    openssl rand -hex 16 >"$shared/token"
fi
echo "$(cat "$shared/token"),admin,admin,system:masters" >tokens.csv
cat >"$shared/kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$address:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: "$(cat "$shared/token")"}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
CONFIG

start etcd etcd --data-dir "$directory/etcd" --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
start kube-apiserver "$binaries/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 \
    --advertise-address="$address" --service-account-signing-key-file=service-account.key --service-account-key-file=service-account.pub \
    --service-account-issuer=https://kubernetes.default --token-auth-file=tokens.csv --cert-dir=certificates --authorization-mode=RBAC \
    --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true --kubelet-preferred-address-types=InternalIP
await 60 "$binaries/kubectl" --kubeconfig "$shared/kubeconfig" get --raw /readyz
start kube-controller-manager "$binaries/kube-controller-manager" --kubeconfig="$shared/kubeconfig" \
    --service-account-private-key-file=service-account.key --root-ca-file="$directory/certificates/apiserver.crt" \
    --use-service-account-credentials=false --leader-elect=false --bind-address=127.0.0.1
start kube-scheduler "$binaries/kube-scheduler" --kubeconfig="$shared/kubeconfig" --leader-elect=false --bind-address=127.0.0.1
touch "$shared/control-plane.started"
remain
