#!/usr/bin/python3
"""Two thousand new connections a second by a node's port, half of them of a client that policy does not allow: how long the others take, beside
those for which nothing has to be asked.

usage: rate.py PENSTOCK-BENCH [--seconds N] [--rounds N]
"""
import argparse
import json
import statistics
import subprocess

from installation import Installation
from services import ALLOWED, NODE, STRANGER, expose
from world import Cluster, Failure, script


def begin(bench, origin, port, rate, seconds, *words):
    command = [*origin.enter(), bench, "connect", f"{NODE.address}:{port}", origin.address, str(rate), str(seconds), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bench")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cluster = Cluster("ptp", 2)
    cluster.up()
    try:
        Installation(cluster).install()
        namespace = cluster.namespace()
        [web] = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}))
        cluster.serve(web, "tcp/8081")
        services = {policy: expose(cluster, namespace, f"web-{policy.lower()}", {"app": "web"}, policy, kind="NodePort", port=8081) for policy in ("Cluster", "Local")}
        cluster.apply(cluster.policy(namespace, "client", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "172.17.0.0/24"}}]}]}))
        for service in services.values():
            cluster.reach(ALLOWED, NODE.address, service.node_port, "yes")
            cluster.reach(STRANGER, NODE.address, service.node_port, "no")
        figures = {policy: [] for policy in services}
        for _ in range(options.rounds):
            for policy, service in services.items():
                allowed = begin(options.bench, ALLOWED, service.node_port, 1000, options.seconds)
                stranger = begin(options.bench, STRANGER, service.node_port, 1000, options.seconds, "--threads", "256", "--milliseconds", "200")
                got, denied = (json.loads(child.communicate(timeout=120)[0]) for child in (allowed, stranger))
                print(f"{policy}: allowed {got}, not allowed {denied}", flush=True)
                if denied["opened"] or got["opened"] < got["tried"]:
                    raise Failure(f"a wrong verdict, or a connection that was not opened within a second: {got}, {denied}")
                figures[policy].append(got)
        for quantile in ("p50", "p90", "p99"):
            asked, plain = (statistics.median(figure[quantile] for figure in figures[policy]) for policy in ("Cluster", "Local"))
            print(f"{quantile}: {asked:.0f} µs where it is asked who is behind the node, {plain:.0f} µs where not: {asked - plain:+.0f} µs")
    finally:
        cluster.down()


if __name__ == "__main__":
    script("rate", main)
