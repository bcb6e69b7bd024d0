"""Services: what policies mean where kube-proxy rewrites addresses."""
import json

from world import until


class Service:
    """A Service with a NodePort and the address of a load balancer."""

    def __init__(self, manifest, balanced):
        self.namespace, self.name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        self.address, self.balanced = manifest["spec"]["clusterIP"], balanced
        self.node_port = manifest["spec"]["ports"][0].get("nodePort")


def expose(cluster, namespace, name, selector, external="Cluster", balanced=None, protocol="tcp", port=80, kind="LoadBalancer"):
    """A Service for the pods of a selector, with the endpoints that it has by now."""
    ports = [{"protocol": protocol.upper(), "port": port, "targetPort": port}]
    spec = {"type": kind, "selector": selector, "ports": ports}
    if kind != "ClusterIP":
        spec["externalTrafficPolicy"] = external
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
    if balanced:
        made = cluster.get("service", "-n", namespace, name)
        made["status"] = {"loadBalancer": {"ingress": [{"ip": balanced}]}}
        cluster.kubectl("replace", "--raw", f"/api/v1/namespaces/{namespace}/services/{name}/status", "-f", "-", stdin=json.dumps(made))
    until(f"endpoints of {name}", 20, lambda: cluster.get("endpoints", "-n", namespace, name).get("subsets"))
    return Service(cluster.get("service", "-n", namespace, name), balanced)
