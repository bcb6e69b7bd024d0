#!/usr/bin/env bash
# Renders deploy/manifests/penstock.yaml from the chart, for those who install without Helm. --check: says whether it is up to date. HELM: the program.
set -euo pipefail
cd "$(dirname "$0")/.."

helm=${HELM:-helm}
cached=${PENSTOCK_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock-cluster}/bin/helm
if ! command -v "$helm" >/dev/null; then
    [ -x "$cached" ] || { echo "manifests: helm is missing: tests/cluster/build.sh fetches one, or name yours in HELM" >&2 && exit 3; }
    helm=$cached
fi
chart=deploy/helm/penstock
rendered=deploy/manifests/penstock.yaml

"$helm" lint --quiet "$chart"
for values in "" "--set serviceMonitor.enabled=true,metrics.address=0.0.0.0" "--set startupTaint=penstock.io/not-ready --set events.denied=true --set dashboard.enabled=true" "--set serviceAccount.name=own" "--set image.repository=registry.example/penstock --set image.tag=v1"; do
    # shellcheck disable=SC2086 # words of each
    "$helm" template penstock "$chart" --namespace penstock $values >/dev/null
done
text=$(
    echo "# Rendered from deploy/helm/penstock by \`make manifests\`, for Kubernetes 1.20 and newer. Set the image to one that your nodes can have."
    printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: penstock\n  labels: {pod-security.kubernetes.io/enforce: privileged}\n'
    "$helm" template penstock "$chart" --namespace penstock --no-hooks --kube-version 1.20.0
)
if [ "${1:-}" = --check ]; then
    diff <(echo "$text") "$rendered" || { echo "manifests: $rendered is not what the chart renders: make manifests" >&2 && exit 1; }
else
    echo "$text" >"$rendered"
fi
