"""Pods that begin, end, finish, are probed, and come in crowds."""
import time

from suite import needs_penstock
from world import Failure, Passed, say, until


def with_address_of(cluster, namespace, address):
    """A pod with other labels that gets this address, as soon as it is nobody's."""
    leases = "/var/lib/cni/networks/pods"
    until(f"{address} is free", 60, lambda: cluster.on("node1", "sh", "-c", f"test -e {leases}/{address} || echo free"))
    # host-local goes on behind the address that it gave out last.
    network, number = address.rsplit(".", 1)
    cluster.on("node1", "sh", "-c", f"echo -n {network}.{int(number) - 1} >{leases}/last_reserved_ip.0")
    [stranger] = cluster.start(cluster.manifest(namespace, "stranger", {"role": "stranger"}))
    if stranger.address != address:
        left = cluster.on("node1", "sh", "-c", f"head -v {leases}/{network}.* {leases}/last*")
        raise Failure(f"the address was not reused: {address}, then {stranger.address}; leases: {left}")
    return stranger


@needs_penstock
def address_is_reused(cluster):
    namespace = cluster.namespace()
    web, friend = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}), cluster.manifest(namespace, "friend", {"role": "friend"}))
    peer = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
    cluster.apply(cluster.policy(namespace, "friends", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peer}]}))
    cluster.reach(friend, web, 80, "yes")
    friend.delete()
    stranger = with_address_of(cluster, namespace, friend.address)
    cluster.reach(stranger, web, 80, "no", within=0)
    say(f"{stranger.address} was a friend's and is a stranger's now: denied from its first connection on")


@needs_penstock
def finished_pods_own_nothing(cluster):
    """The address of a pod that has succeeded belongs to it no longer, whatever the API server still lists."""
    namespace = cluster.namespace()
    [web] = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}))
    done = cluster.manifest(namespace, "done", {"role": "friend"}, command=["true"], restartPolicy="Never")
    cluster.apply(done)
    until("the pod has succeeded", 30, lambda: cluster.get("pod", "-n", namespace, "done")["status"].get("phase") == "Succeeded")
    address = cluster.find(namespace, "done").address
    peer = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
    cluster.apply(cluster.policy(namespace, "friends", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peer}]}))
    stranger = with_address_of(cluster, namespace, address)
    cluster.reach(stranger, web, 80, "no", within=0)
    say(f"{address} was that of a pod that has succeeded: who has it now is judged as itself")


def first_packets(cluster, namespace, target, count, prefix):
    """Pods that each send one datagram as the first thing that they do."""
    command = ["sh", "-c", f"say {target.address} 7000; exec pause"]
    return cluster.start(*[cluster.manifest(namespace, f"{prefix}{n}", {"role": prefix}, command=command) for n in range(count)], ready=120)


@needs_penstock
def first_packet_is_denied(cluster):
    ours, theirs = cluster.namespace(), cluster.namespace()
    [web] = cluster.start(cluster.manifest(ours, "web"))
    # Once an egress policy in the sender's namespace, once an ingress policy of the receiver: each alone has to hold.
    for where, kind in [(theirs, "Egress"), (ours, "Ingress")]:
        cluster.isolate(where, kind)
        time.sleep(1)
        counter = cluster.background(web, "heard", 7000, 90)
        first_packets(cluster, theirs, web, 10, kind.lower())
        frames = cluster.enough(counter)["frames"]
        say(f"default-deny {kind}: ten pods each sent at once, {frames} frames arrived")
        if frames:
            raise Passed(f"{frames} frames passed under default-deny {kind}")
        cluster.kubectl("delete", "networkpolicy", "-n", where, "default-deny")


def first_packet_is_not_lost(cluster):
    namespace = cluster.namespace()
    [web] = cluster.start(cluster.manifest(namespace, "web", {"app": "web"}))
    rule = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "allowed"}}}]}], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}
    cluster.apply(cluster.policy(namespace, "allowed", rule))
    time.sleep(1)
    counter = cluster.background(web, "heard", 7000, 90)
    first_packets(cluster, namespace, web, 10, "allowed")
    frames = cluster.enough(counter)["frames"]
    say(f"allowed: ten pods each sent one datagram at once, {frames} arrived")
    if frames != 10:
        raise Failure(f"{frames} of 10 first datagrams arrived")


def liveness_under_default_deny(cluster):
    namespace = cluster.namespace()
    cluster.isolate(namespace, "Ingress", "Egress")
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 3}
    cluster.start(cluster.manifest(namespace, "web", container={"livenessProbe": probe, "readinessProbe": probe}))
    time.sleep(8)
    status = cluster.get("pod", "-n", namespace, "web")["status"]["containerStatuses"][0]
    if status["restartCount"] or not status["ready"]:
        raise Failure(f"restarted {status['restartCount']} times, ready: {status['ready']}")
    say("eight probes a second apart from the node: none failed")


@needs_penstock
def fifty_pods_at_once(cluster):
    namespace = cluster.namespace()
    [web, inside] = cluster.start(cluster.manifest(namespace, "web"), cluster.manifest(namespace, "inside", {"role": "inside"}))
    cluster.apply(cluster.policy(namespace, "inside", {"podSelector": {"matchLabels": {"role": "crowd"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "inside"}}}]}]}))
    begin = time.monotonic()
    crowd = cluster.start(*[cluster.manifest(namespace, f"crowd{n}", {"role": "crowd"}, node=f"node{n % cluster.nodes + 1}") for n in range(50)], ready=180)
    say(f"50 pods ready after {time.monotonic() - begin:.0f} s")
    for origin, answer in [(inside, "yes"), (web, "no")]:
        seen = cluster.probe(origin, [(pod, 80) for pod in crowd], attempts=1, timeout=3)
        if wrong := [f"{pod}: {what}" for pod, what in zip(crowd, seen) if what != answer]:
            kind = Passed if answer == "no" else Failure
            raise kind(f"from {origin}, expected {answer}: {len(wrong)} of 50 are not so: {', '.join(wrong[:5])}")
    begin = time.monotonic()
    cluster.kubectl("delete", "pod", "-n", namespace, "-l", "role=crowd", "--wait=true", timeout=240)
    say(f"50 pods deleted after {time.monotonic() - begin:.0f} s")
    cluster.reach(inside, web, 80, "yes")


TESTS = [address_is_reused, finished_pods_own_nothing, first_packet_is_denied, first_packet_is_not_lost, liveness_under_default_deny, fifty_pods_at_once]
