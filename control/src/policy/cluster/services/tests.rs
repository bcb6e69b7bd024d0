use super::*;
use serde_json::json;

fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    let service = json!({"metadata": {"namespace": "x", "name": "web"}, "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
        "externalIPs": ["198.51.100.9"], "externalTrafficPolicy": "Local", "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "example.org"}]}}});
    cluster.apply_service(Service::read(&serde_json::from_value(service).unwrap()));
    cluster
}

fn slice(name: &str, endpoints: serde_json::Value) -> EndpointSlice {
    let object = json!({"metadata": {"namespace": "x", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
    EndpointSlice::read(&serde_json::from_value(object).unwrap())
}

fn backends(cluster: &Cluster, v6: bool) -> Vec<String> {
    let service = cluster.service(&ObjectName::new("x", "web")).unwrap();
    let backends = cluster.backends(service, &service.ports[0], v6);
    backends.iter().map(|backend| format!("{}:{}", backend.address, backend.port)).collect()
}

#[test]
fn a_service_is_reached_at_all_of_its_addresses_and_at_every_node() {
    let cluster = cluster();
    let service = cluster.services().next().unwrap();
    assert!(service.local);
    let places: Vec<_> = service.frontends().map(|(frontend, _)| (frontend.place, frontend.port)).collect();
    let at = |text: &str| (Place::Address(text.parse::<IpAddr>().unwrap().into()), 80);
    let nodes = [false, true].map(|v6| (Place::Hosts { v6 }, 30080));
    assert_eq!(places, [at("10.96.0.10"), at("fd00::10"), at("198.51.100.9"), at("203.0.113.1"), nodes[0], nodes[1]]);
}

#[test]
fn ready_endpoints_are_meant_and_ending_ones_only_where_none_is_ready() {
    let mut cluster = cluster();
    let ending =
        json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    cluster.apply_slice(slice("a", ending));
    assert_eq!(backends(&cluster, false), ["10.0.0.1:8080"]);
    let touched =
        cluster.apply_slice(slice("b", json!([{"addresses": ["10.0.0.3"]}, {"addresses": ["fd00::3", "10.0.0.2"]}])));
    assert_eq!(touched.services, [ObjectName::new("x", "web")]);
    assert_eq!(backends(&cluster, false), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    assert_eq!(backends(&cluster, true), ["fd00::3:8080"]);
    cluster.remove_slice(&ObjectName::new("x", "b"));
    cluster.apply_slice(slice("a", json!(null)));
    assert!(backends(&cluster, false).is_empty());
}

#[test]
fn endpoints_of_a_server_without_slices() {
    let mut cluster = cluster();
    let object = json!({"metadata": {"namespace": "x", "name": "web"}, "subsets": [
        {"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "10.0.0.7"}], "ports": [{"port": 8080}]},
        {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 9090, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}]});
    cluster.apply_slice(EndpointSlice::read_endpoints(&serde_json::from_value(object).unwrap()));
    assert_eq!(backends(&cluster, false), ["10.0.0.1:8080", "10.0.0.2:9090"]);
}

#[test]
fn headless_services_and_names_of_others_are_reached_nowhere() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
    ] {
        let object = json!({"metadata": {"name": "s"}, "spec": spec});
        assert_eq!(Service::read(&serde_json::from_value(object).unwrap()).frontends().count(), 0);
    }
}
