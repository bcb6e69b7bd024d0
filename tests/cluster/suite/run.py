#!/usr/bin/python3
"""Tests of Penstock on a real Kubernetes, over real pods. Called by `make test-cluster`.

usage: run.py [--primary ptp|bridge|vpc] [--nodes N] [--without-penstock] [--binaries DIRECTORY] [--keep] [--list] [TEST]…

--without-penstock   install nothing, and hold the tests to it: those that need Penstock have to fail, because
                     something passes that policy denies
--binaries           run penstock and penstock-cni of this directory on the nodes, without image and chart
--keep               leave the cluster as it is at the end, to look around in it
"""
import argparse
import sys
import time

import delay
import interruptions
import node
import pods
import policies
import services
from installation import Installation, Program
from world import Cluster, Failure, Passed

# Where the primary plugin matters: what a pod's interfaces, routes and addresses are part of.
PRIMARY = [node.running_pods_are_adopted, policies.added_changed_deleted, *pods.TESTS, *node.TESTS, interruptions.dataplane_killed, interruptions.rolling_update, node.uninstalled_without_a_trace]
ALL = [node.running_pods_are_adopted, *policies.TESTS, *pods.TESTS, *node.TESTS, *interruptions.TESTS, *delay.TESTS, *services.TESTS, node.uninstalled_without_a_trace]
# What can be tried only where Penstock is, not merely be seen to fail where it is not.
OF_PENSTOCK = [node.running_pods_are_adopted, node.uninstalled_without_a_trace, *interruptions.TESTS, *delay.TESTS, services.lookups_stall, services.kube_proxy_is_absent]


def attempt(test, cluster):
    """Runs one; the failure, or None."""
    begin = time.monotonic()
    print(f"  {test.__module__}.{test.__name__}", flush=True)
    try:
        test(cluster)
        failure = None
    except Failure as error:
        failure = error
    except Exception as error:  # What a test trips over fails that test, and no other.
        failure = Failure(f"{type(error).__name__}: {error}")
    print(f"    {f'FAILED: {failure}' if failure else 'ok'} ({time.monotonic() - begin:.0f} s)", flush=True)
    clean(cluster)
    return failure


def clean(cluster):
    """Takes away what a test made; what is on its way to its end need not be waited for."""
    every = [name.removeprefix("namespace/") for name in cluster.kubectl("get", "namespaces", "-o", "name", check=False).split()]
    for name in every:
        # As a collection: ten thousand one by one take minutes.
        cluster.kubectl("delete", "--raw", f"/apis/networking.k8s.io/v1/namespaces/{name}/networkpolicies", check=False)
    names = [f"namespace/{name}" for name in every if name.removeprefix("t").isdigit()]
    if names:
        cluster.kubectl("delete", "--wait=false", *names, check=False)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--primary", default="ptp")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--without-penstock", action="store_true")
    parser.add_argument("--binaries")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    Program.binaries = options.binaries
    tests = list(ALL if options.primary == "ptp" else PRIMARY)
    if options.list:
        return print("\n".join(f"{test.__module__}.{test.__name__}" for test in tests))
    if unknown := [word for word in options.tests if not any(word in f"{t.__module__}.{t.__name__}" for t in ALL)]:
        sys.exit(f"no test is called {', '.join(unknown)}; --list shows all")
    if options.tests:
        tests = [test for test in ALL if any(word in f"{test.__module__}.{test.__name__}" for word in options.tests)]
    if options.without_penstock:
        tests = [test for test in tests if test not in OF_PENSTOCK]

    if options.binaries and node.uninstalled_without_a_trace in tests:
        tests.remove(node.uninstalled_without_a_trace)
        print("not run, since there is no chart to uninstall: node.uninstalled_without_a_trace", flush=True)

    cluster, failures, begin = Cluster(options.primary, options.nodes), [], time.monotonic()
    try:
        cluster.up()
        print(f"{options.primary}, {options.nodes} nodes: ready after {time.monotonic() - begin:.0f} s", flush=True)
        if not options.without_penstock and node.running_pods_are_adopted not in tests:
            Installation(cluster).install()
        for test in tests:
            failure, needs = attempt(test, cluster), getattr(test, "needs_penstock", False)
            if options.without_penstock and needs:
                # For its own reason: something passed that policy denies.
                failure = None if isinstance(failure, Passed) else failure or "passed, though nothing is enforced"
            if failure:
                failures.append(f"{test.__module__}.{test.__name__}: {failure}")
    finally:
        if not options.keep:
            cluster.down()
    passed = len(tests) - len(failures)
    print(f"{options.primary}: {passed} of {len(tests)} tests as expected, {time.monotonic() - begin:.0f} s", flush=True)
    for failure in failures:
        print(f"  {failure}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
