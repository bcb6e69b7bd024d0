#!/usr/bin/env bash
# Builds the container image: `penstock` with exactly the libraries that it needs, `penstock-cni` (static), and nothing else. It lands in
# target/penstock-image.tar, which `ctr images import`, `docker load` and `podman load` take. IMAGE: its name (localhost/penstock:VERSION);
# PENSTOCK_PROFILE: release (what is shipped) or dev (quick to build, for tests).
# For another architecture: run this on a machine of that architecture; nothing here is particular to one.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${PENSTOCK_PROFILE:-release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
image=${IMAGE:-localhost/penstock:$version}
built=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
command -v buildah >/dev/null || { echo "image: buildah is missing: apt-get install buildah" >&2 && exit 3; }

cargo build --profile "$profile" --locked -p penstock
plugin=target/cni/penstock-cni
if [ "$profile" = dev ]; then
    cargo build --profile dev --locked -p penstock-cni
    plugin=$built/penstock-cni
else
    scripts/cni.sh
fi

root=target/image
rm -rf "$root" && mkdir -p "$root/usr/bin" "$root/etc/penstock" "$root/run" "$root/var/lib/penstock" "$root/tmp"
for program in "$built/penstock" "$plugin"; do
    install -m 0755 -s "$program" "$root/usr/bin/"
    # What the loader would load, at the paths where it looks. Nothing for a static program.
    { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | sort -u | while read -r library; do
        install -D -m 0755 "$(readlink -f "$library")" "$root$library"
    done
done
# Who the unprivileged processes are, for people who look at them.
echo 'root:x:0:0:root:/:/sbin/nologin
penstock:x:65532:65532:penstock:/:/sbin/nologin' >"$root/etc/passwd"

storage=(buildah --storage-driver vfs --root target/buildah --runroot target/buildah-run)
container=$("${storage[@]}" from scratch)
trap '"${storage[@]}" rm "$container" >/dev/null' EXIT
"${storage[@]}" copy --quiet "$container" "$root" / >/dev/null
"${storage[@]}" config --entrypoint '["/usr/bin/penstock"]' --cmd 'run --config /etc/penstock/config.yaml' --env PATH=/usr/bin \
    --label org.opencontainers.image.title=penstock --label "org.opencontainers.image.version=$version" "$container"
rm -f target/penstock-image.tar
"${storage[@]}" commit --quiet "$container" "docker-archive:target/penstock-image.tar:$image" >/dev/null
echo "image: $image in target/penstock-image.tar ($(du -h target/penstock-image.tar | cut -f1))"
