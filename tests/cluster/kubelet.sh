#!/usr/bin/env bash
# containerd, kubelet and kube-proxy: a node of the test cluster. Called by node.sh.
# usage: kubelet.sh DIRECTORY BINARIES SHARED NAME ADDRESS POD_CIDR PRIMARY
set -euo pipefail
directory=${1:?}
binaries=${2:?}
shared=${3:?}
name=${4:?}
address=${5:?}
pods=${6:?}
primary=${7:?}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=processes.sh
. "$here/processes.sh"
cd "$directory"

mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/kubelet /etc/containerd
cp /usr/lib/cni/* /opt/cni/bin/
install -m 755 "$here/../../cni/tests/traffic_chain/vpc.py" /opt/cni/bin/vpc
# A node's own conflist, as its installer would write it.
sed "s|@PODS@|$pods|" "$here/primary/$primary.conflist" >/etc/cni/net.d/10-$primary.conflist

cat >/etc/containerd/config.toml <<CONFIG
version = 2
root = "$directory/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/tools:1"
  # Without CAP_SYS_RESOURCE no process may lower its score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "runc"
CONFIG
start containerd containerd
await 15 ctr version
for image in "$shared"/images/*.tar; do ctr -n k8s.io images import "$image" >/dev/null; done

cat >kubelet.yaml <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /penstock-test-$name
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
# Images are here to stay, however full the machine's disk is.
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: "1%", imagefs.available: "1%"}
resolvConf: ""
CONFIG
for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller/penstock-test-$name"; done
# What a cpuset does not inherit, it has to be told before a process can be in it.
for file in cpuset.cpus cpuset.mems; do
    cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/penstock-test-$name/$file"
done
await 60 test -e "$shared/control-plane.started"
start kubelet "$binaries/kubelet" --kubeconfig="$shared/kubeconfig" --config=kubelet.yaml --container-runtime=remote \
    --container-runtime-endpoint=unix:///run/containerd/containerd.sock --hostname-override="$name" --node-ip="$address" \
    --cni-bin-dir=/opt/cni/bin --cni-conf-dir=/etc/cni/net.d
start kube-proxy "$binaries/kube-proxy" --kubeconfig="$shared/kubeconfig" --hostname-override="$name" --proxy-mode=iptables \
    --cluster-cidr=10.244.0.0/16 --conntrack-max-per-core=0 --bind-address="$address"
remain
