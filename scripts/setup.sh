#!/usr/bin/env bash
# Installs the Debian packages that building and testing need. Says nothing when nothing is missing.
set -euo pipefail

build=(build-essential clang pkg-config)
run=(iproute2 ethtool iptables nftables ipset conntrack containernetworking-plugins procps)
clients=(curl nginx-light iperf3 dnsmasq-base iputils-ping traceroute tcpdump socat python3)

missing=()
for package in "${build[@]}" "${run[@]}" "${clients[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: these packages are missing: ${missing[*]}; run 'make setup' as root to install them" >&2
        exit 3
    fi
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    # The package starts a web server of its own, which nobody asked for.
    if [[ " ${missing[*]} " == *" nginx-light "* ]]; then
        service nginx stop >/dev/null 2>&1 || true
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; install Rust 1.95 or newer (rustup), then run this again" >&2
    exit 3
fi
