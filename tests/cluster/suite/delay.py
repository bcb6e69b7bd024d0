"""Time from `kubectl apply` to enforced, with few and many policies."""
import json
import os
import pathlib
import statistics

from suite import needs_penstock
from world import PROBE, RUN, run, say


PAGE = """# From `kubectl apply` to enforced

The time from a policy's request being sent to the API server to the last datagram that passes, at a thousand a second, on a real Kubernetes 1.20 of
two nodes in network namespaces of one machine ({cpus} CPUs, Linux {kernel}), which also runs its API server, etcd and kubelets. Written by
```
PENSTOCK_PROFILE=dev make image && ROUNDS=100 REPORT=bench/report/cluster.md tests/cluster/suite/run.py from_apply_to_enforced
```

| policies in the cluster | median | tail |
|---|---|---|
{rows}

How long a first sync of 100,000 pods and 10,000 policies takes, and its memory, is in [the report](report.md).
"""


def others(cluster, namespace, begin, end):
    """Policies that select nothing of what is measured, numbered so."""
    def one(n):
        peer = {"podSelector": {"matchLabels": {"peer": f"p{n % 100}"}}}
        return cluster.policy(namespace, f"other{n}", {"podSelector": {"matchLabels": {"app": f"a{n}"}}, "ingress": [{"from": [peer]}]})

    for at in range(begin, end, 1000):
        listed = {"apiVersion": "v1", "kind": "List", "items": [one(n) for n in range(at, min(at + 1000, end))]}
        cluster.kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(listed), timeout=600)


def once(cluster, client, web, deny):
    """Seconds from a policy's request being sent to the last datagram that passes, out of a thousand a second."""
    sender = cluster.background(client, "send", f"udp/{web.address}/7002", 60, 1000, ready=False)
    try:
        last = cluster.background(web, "cut", 7002, 0.6)
        url = f"https://127.0.0.1:6443/apis/networking.k8s.io/v1/namespaces/{web.namespace}/networkpolicies"
        words = ["ip", "netns", "exec", "penstock-k8s-control", "/usr/bin/python3", PROBE, "post", url, pathlib.Path(RUN, "token").read_text().strip()]
        asked = json.loads(run(*words, stdin=json.dumps(deny)))
        return max(0.0, cluster.finish(last, 60)["last"] - asked["sent"])
    finally:
        sender.kill()


@needs_penstock
def from_apply_to_enforced(cluster):
    namespace, crowd = cluster.namespace(), cluster.namespace()
    web, client = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(namespace, "client"))
    deny = cluster.policy(namespace, "deny", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
    present, rows = 0, []
    for count in map(int, os.environ.get("POLICIES", "1 100 2000").split()):
        others(cluster, crowd, present, count - 1)
        present, times = count - 1, []
        for _ in range(int(os.environ.get("ROUNDS", "6"))):
            cluster.reach(client, web, 80, "yes", within=60)
            times.append(once(cluster, client, web, deny))
            cluster.kubectl("delete", "networkpolicy", "-n", namespace, "deny")
        times.sort()
        # Of fewer there is no hundredth.
        tail = ("p99", times[int(len(times) * 0.99)]) if len(times) >= 100 else ("the longest", times[-1])
        figures = (f"{statistics.median(times) * 1000:.0f} ms", f"{tail[1] * 1000:.0f} ms")
        say(f"{count} policies: median {figures[0]}, {tail[0]} {figures[1]} of {len(times)}, from the request sent to the last frame that passed")
        rows.append(f"| {count} | {figures[0]} | {figures[1]} ({tail[0]} of {len(times)}) |")
    if report := os.environ.get("REPORT"):
        pathlib.Path(report).write_text(PAGE.format(rows="\n".join(rows), kernel=os.uname().release, cpus=os.cpu_count()))


TESTS = [from_apply_to_enforced]
