"""Traffic while parts of Penstock end, hang and are replaced, and while there is no API server.

Three flows go on meanwhile: TCP by iperf3; a *reply-first* one, in which after one datagram only the other end speaks, to a pod
that nobody may open a connection to, so that it lives by its flow alone; and one that is denied, whose frames are counted where
they would arrive, below all sockets."""
import json
import signal
import subprocess
import time

from installation import Installation
from suite import needs_penstock
from world import Failure, Passed, say, until

SECONDS, RATE = 11, 500


class Traffic:
    """Pods, a policy, and flows between them."""

    def __init__(self, cluster):
        self.cluster, namespace = cluster, cluster.namespace()
        self.client, self.server, self.stranger = cluster.start(*[cluster.manifest(namespace, name, {"app": name}) for name in ("client", "server", "stranger")])
        cluster.apply(cluster.policy(namespace, "closed", {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Ingress"]}))
        cluster.reach(self.stranger, self.client, 80, "no")
        cluster.reach(self.client, self.server, 80, "yes")

    def during(self, what, disturb, seconds=SECONDS):
        """Runs all flows, disturbs them after three seconds, and says what was seen."""
        cluster = self.cluster
        iperf_server = subprocess.Popen([*self.server.enter(), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        counter = cluster.background(self.client, "heard", 9000, seconds + 2)
        streaming = cluster.background(self.server, "stream", 7001, seconds, RATE)
        time.sleep(0.3)
        listening = cluster.background(self.client, "listen", f"udp/{self.server.address}/7001", seconds + 1, ready=False)
        denied = cluster.background(self.stranger, "send", f"udp/{self.client.address}/9000", seconds, RATE, ready=False)
        bulk = subprocess.Popen([*self.client.enter(), "iperf3", "-c", self.server.address, "-t", str(seconds), "-b", "200M", "-J"], stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(3)
            begin = time.monotonic()
            disturb()
            took = time.monotonic() - begin
            report = report_of(bulk, seconds + 20)
            sent, heard = cluster.finish(streaming)["sent"], cluster.finish(listening)
            attempts, passed = cluster.finish(denied)["sent"], cluster.finish(counter)["frames"]
        finally:
            for child in (iperf_server, bulk):
                child.kill()
        end = report.get("end", {}).get("sum_sent", {})
        say(f"{what} (took {took:.1f} s): reply-first {heard['received']} of {sent} frames, {sent - heard['received']} lost, longest silence {heard['silence']} s;")
        say(f"  denied: {passed} of {attempts} frames passed; iperf3: {report.get('error') or 'whole'}, {end.get('retransmits')} segments sent again")
        if passed:
            raise Passed(f"{what}: {passed} denied frames passed")
        if heard["last"] < sent - RATE:
            raise Failure(f"{what}: the reply-first flow did not go on: the last frame heard is {heard['last']} of {sent}")
        if "error" in report:
            raise Failure(f"{what}: iperf3: {report['error']}")


def report_of(client, seconds):
    """What iperf3 says at its end; a client that never ends was cut off."""
    try:
        return json.loads(client.communicate(timeout=seconds)[0])
    except subprocess.TimeoutExpired:
        return {"error": f"did not end within {seconds} s: its connection is cut"}


@needs_penstock
def dataplane_killed(cluster):
    penstock = Installation(cluster)
    Traffic(cluster).during("dataplane killed", lambda: penstock.signal("node1", "dataplane"))


@needs_penstock
def control_killed(cluster):
    penstock = Installation(cluster)
    Traffic(cluster).during("control killed", lambda: penstock.signal("node1", "control"))
    penstock.ready()


@needs_penstock
def dataplane_hangs(cluster):
    penstock = Installation(cluster)
    Traffic(cluster).during("dataplane stopped (SIGSTOP)", lambda: penstock.signal("node1", "dataplane", signal.SIGSTOP))


@needs_penstock
def rolling_update(cluster):
    penstock = Installation(cluster)
    traffic = Traffic(cluster)
    before = {pod["metadata"]["uid"] for pod in penstock.pods()}
    # Long enough for the turn of every node.
    traffic.during("rolling update", penstock.restart, 26)
    if before & {pod["metadata"]["uid"] for pod in penstock.pods()}:
        raise Failure("the DaemonSet's pods are the same as before")


@needs_penstock
def update_beside(cluster):
    """What a DaemonSet does with `maxSurge` (Kubernetes 1.22): a second pod stands by on each node, and takes over when the first one ends."""
    penstock = Installation(cluster)
    traffic, own = Traffic(cluster), ("-n", "penstock")
    first = cluster.get("daemonset", *own, "penstock")
    for key in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
        first["metadata"].pop(key, None)
    first.pop("status")
    second = json.loads(json.dumps(first))
    second["metadata"]["name"] = "next"
    for labels in (second["spec"]["selector"]["matchLabels"], second["spec"]["template"]["metadata"]["labels"]):
        labels["app.kubernetes.io/instance"] = "next"

    def replaced(old, new):
        cluster.apply(new)
        cluster.kubectl(*own, "rollout", "status", f"daemonset/{new['metadata']['name']}", "--timeout=60s")

        def end():
            cluster.kubectl(*own, "delete", f"daemonset/{old['metadata']['name']}")
            until("the old pods are gone", 40, lambda: not [pod for pod in penstock.pods() if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == old["metadata"]["name"]])

        return end

    try:
        traffic.during("update with the new pod beside", replaced(first, second), 20)
    finally:
        replaced(second, first)()
        penstock.ready()


def without_server(cluster):
    """Stops the API server; to be followed by `with_server`."""
    cluster.script("stop", "control", "kube-apiserver")
    until("the API server is gone", 30, lambda: not cluster.kubectl("get", "--raw", "/readyz", check=False, timeout=30))


def with_server(cluster):
    cluster.script("start", "control", "kube-apiserver")
    until("the API server is back", 60, lambda: cluster.kubectl("get", "--raw", "/readyz", check=False) == "ok")


@needs_penstock
def server_stopped_for_a_minute(cluster):
    namespace = cluster.namespace()
    web, friend, stranger = cluster.start(*[cluster.manifest(namespace, name, {"app": name}) for name in ("web", "friend", "stranger")])
    rule = lambda who: cluster.policy(namespace, "rule", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": who}}}]}]})
    cluster.apply(rule("friend"))
    cluster.reach(stranger, web, 80, "no")
    cluster.reach(friend, web, 80, "yes")
    without_server(cluster)
    try:
        end, rounds = time.monotonic() + 60, 0
        while time.monotonic() < end:
            cluster.reach(friend, web, 80, "yes", within=0)
            cluster.reach(stranger, web, 80, "no", within=0)
            rounds += 1
    finally:
        with_server(cluster)
    say(f"a minute without API server: {rounds} rounds of connections, each as the policy says")
    cluster.apply(rule("stranger"))
    waited = cluster.reach(stranger, web, 80, "yes", within=30)
    cluster.reach(friend, web, 80, "no")
    say(f"policy changed when it was back: seen {waited:.1f} s later")


@needs_penstock
def restarted_without_server(cluster):
    penstock = Installation(cluster)
    namespace = cluster.namespace()
    web, friend, stranger = cluster.start(*[cluster.manifest(namespace, name, {"app": name}) for name in ("web", "friend", "stranger")])
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]}
    cluster.apply(cluster.policy(namespace, "rule", spec))
    cluster.reach(stranger, web, 80, "no")
    # The state is kept a moment after it changed.
    time.sleep(5)
    without_server(cluster)
    try:
        penstock.signal("node1", "run")
        until("the daemon is there again", 60, lambda: penstock.processes("node1", "dataplane"))
        waited = cluster.reach(friend, web, 80, "yes", within=60)
        cluster.reach(stranger, web, 80, "no", within=0)
        say(f"all processes killed while there was no API server: the policy of before is enforced {waited:.1f} s later")
    finally:
        with_server(cluster)
    cluster.kubectl("delete", "networkpolicy", "-n", namespace, "rule")
    cluster.reach(stranger, web, 80, "yes", within=30)


TESTS = [dataplane_killed, control_killed, dataplane_hangs, rolling_update, update_beside, server_stopped_for_a_minute, restarted_without_server]
