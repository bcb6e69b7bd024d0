#!/usr/bin/python3
"""Whether the kernel's connection tracking knows a connection when its first packet comes to a pod: the table in docs/services.md.

usage: seen.py PENSTOCK-BENCH [--seconds N] [--rates N,N]

Starts the test cluster without Penstock, opens connections at several rates along each way by which an address may be rewritten, and asks
about each first packet as it leaves the node for the pod's interface.
"""
import argparse
import json
import subprocess
import time

from services import expose
from world import Cluster, Failure, Place, script

CLIENT = "203.0.113.10"


def interface(cluster, pod):
    """The node's interface towards a pod."""
    words = cluster.on(pod.node, "ip", "route", "get", pod.address).split()
    return words[words.index("dev") + 1]


def measure(bench, cluster, pod, kind, rate, seconds, origin, to):
    """One way at one rate: what was seen."""
    inside = ["ip", "netns", "exec", f"penstock-k8s-{pod.node}"]
    watch = subprocess.Popen([*inside, bench, "seen", interface(cluster, pod), "out", kind], stdout=subprocess.PIPE, text=True)
    if watch.stdout.readline() != "ready\n":
        raise Failure("the watcher did not start")
    source = ["--from", CLIENT] if isinstance(origin, Place) and origin.name == "client" else []
    done = subprocess.run([*origin.enter(), bench, "open", to, kind, str(rate), str(seconds), *source], capture_output=True, text=True)
    if done.returncode:
        raise Failure(done.stderr.strip())
    output, _ = watch.communicate(timeout=60)
    return int(done.stdout), json.loads(output)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bench")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rates", default="100,2000,5000")
    options = parser.parse_args()
    cluster = Cluster("ptp", 2)
    cluster.up()
    try:
        namespace = cluster.namespace()
        web, other = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(namespace, "other"))
        node, client = Place("node1", "10.254.0.11"), Place("client", CLIENT)
        services = {}
        for number, (policy, kind) in enumerate((policy, kind) for policy in ("Cluster", "Local") for kind in ("tcp", "udp")):
            service = expose(cluster, namespace, f"web-{policy.lower()}-{kind}", {"app": "web"}, policy, f"198.51.100.{number + 1}", kind)
            cluster.route_outside(service.balanced, node)
            services[policy, kind] = service
        time.sleep(3)
        cases = [
            ("from the node (kubelet's probe)", node, lambda kind: f"{web.address}:80"),
            ("NodePort, ETP Cluster, from outside", client, lambda kind: f"{node.address}:{services['Cluster', kind].node_port}"),
            ("NodePort, ETP Local, from outside", client, lambda kind: f"{node.address}:{services['Local', kind].node_port}"),
            ("LoadBalancer, ETP Cluster, from outside", client, lambda kind: f"{services['Cluster', kind].balanced}:80"),
            ("LoadBalancer, ETP Local, from outside", client, lambda kind: f"{services['Local', kind].balanced}:80"),
            ("ClusterIP, from a pod of the node", other, lambda kind: f"{services['Cluster', kind].address}:80"),
            ("ClusterIP, from the node", node, lambda kind: f"{services['Cluster', kind].address}:80"),
            ("hairpin: ClusterIP, from the pod itself", web, lambda kind: f"{services['Cluster', kind].address}:80"),
        ]
        print("| way | protocol | asked, a second | first packets | known at once | later | never | question p50 / p99 | stamp to answer p50 / p99 | sees |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for title, origin, to in cases:
            for kind in ("tcp", "udp"):
                for rate in map(int, options.rates.split(",")):
                    _, seen = measure(options.bench, cluster, web, kind, rate, options.seconds, origin, to(kind))
                    share = f"{100 * seen['at_once'] / max(seen['packets'], 1):.2f} %"
                    pair = lambda key: f"{seen[key]['p50']} / {seen[key]['p99']} µs"
                    print(f"| {title} | {kind.upper()} | {rate} | {seen['packets']} | {share} | {seen['later']} | {seen['never']} | {pair('asking')} | {pair('from_stamp')} | {', '.join(seen['clients'])} |", flush=True)
    finally:
        cluster.down()


if __name__ == "__main__":
    script("seen", main)
