//! A cluster from a seed, with the skew that labels have: some apps are everywhere and most are rare, a few labels are on
//! nearly all pods, a Deployment's pods share all of theirs, a StatefulSet's have one each that nobody else has.
//!
//! Namespaces and apps are drawn by Zipf's law; pods go to nodes at random, 110 a node, a /24 and a /64 each. Policies come ten a
//! namespace in the proportions of those that people publish: default denies, DNS, the ingress controller, monitoring by a
//! named port, app to app, team to team across namespaces, blocks with exceptions, ranges of ports.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, NodeAddress, NodeStatus, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Pods a node: kubelet's default.
pub const PODS_A_NODE: u32 = 110;
const APPS: u32 = 400;
const TEAMS: u32 = 40;

/// How large the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Pods in all; 110 of them are on this node.
    pub pods: u32,
    /// Policies in all.
    pub policies: u32,
    /// Namespaces.
    pub namespaces: u32,
    /// Whether each pod has an IPv6 address beside its IPv4 one.
    pub dual_stack: bool,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { pods: 100_000, policies: 10_000, namespaces: 1_000, dual_stack: true, seed: 1 }
    }
}

/// Numbers below a limit by Zipf's law: the first is drawn most often.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| {
            sum += 1.0 / f64::from(rank).powf(exponent);
            sum
        });
        Zipf(weights.collect())
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let total = self.0.last().copied().unwrap_or(0.0);
        let place = f64::from(random.below(u32::MAX)) / f64::from(u32::MAX) * total;
        self.0.partition_point(|&sum| sum < place).min(self.0.len() - 1) as u32
    }
}

/// What pods of one Deployment or StatefulSet share.
#[derive(Clone, Copy, Debug)]
struct Workload {
    namespace: u32,
    app: u32,
    hash: u32,
    stateful: bool,
}

/// A pod, as few numbers: the object is made when it is asked for ([`World::pod`]).
#[derive(Clone, Copy, Debug)]
pub struct PodSeed {
    workload: u32,
    ordinal: u32,
    /// Its place: node × 110 + number on the node.
    place: u32,
    /// Counts how often it was relabelled.
    revision: u32,
}

/// The cluster.
pub struct World {
    shape: Shape,
    workloads: Vec<Workload>,
    /// The pods.
    pub pods: Vec<PodSeed>,
    /// A namespace's apps, each once: what its policies speak of.
    apps: Vec<Vec<u32>>,
    /// Places that no pod has, for pods to come.
    free: Vec<u32>,
    random: Random,
}

impl World {
    /// Draws a cluster.
    pub fn new(shape: Shape) -> World {
        let mut random = Random::new(shape.seed);
        let (by_namespace, by_app) = (Zipf::new(shape.namespaces, 0.6), Zipf::new(APPS, 1.0));
        let mut world = World {
            shape,
            workloads: Vec::new(),
            pods: Vec::new(),
            apps: vec![Vec::new(); shape.namespaces as usize],
            free: Vec::new(),
            random: Random::new(shape.seed ^ 0x5ca1e),
        };
        // Some room on every node, this one excepted: pods come as well as go.
        let places = shape.pods + shape.pods / 20 + PODS_A_NODE;
        let mut order: Vec<u32> = (0..places).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, random.below(place as u32 + 1) as usize);
        }
        while (world.pods.len() as u32) < shape.pods {
            let (namespace, app) = (by_namespace.draw(&mut random), by_app.draw(&mut random));
            // One to forty replicas, mostly few.
            let replicas = 1 + random.below(4) * random.below(4) + random.below(2) * random.below(30);
            let hash = random.next_u64() as u32;
            world.workloads.push(Workload { namespace, app, hash, stateful: random.below(10) == 0 });
            if !world.apps[namespace as usize].contains(&app) {
                world.apps[namespace as usize].push(app);
            }
            for ordinal in 0..replicas.min(shape.pods - world.pods.len() as u32) {
                let place = order[world.pods.len()];
                let workload = world.workloads.len() as u32 - 1;
                world.pods.push(PodSeed { workload, ordinal, place, revision: 0 });
            }
        }
        // This node is full.
        world.free = order.split_off(world.pods.len());
        for pod in 0..world.free.len() {
            if world.free[pod] < PODS_A_NODE {
                let victim = world.pods.iter().position(|pod| pod.place >= PODS_A_NODE).unwrap_or(0);
                std::mem::swap(&mut world.pods[victim].place, &mut world.free[pod]);
            }
        }
        for apps in &mut world.apps {
            if apps.is_empty() {
                apps.push(0);
            }
        }
        world
    }

    /// The pods of this node, as namespace and name.
    pub fn local(&self) -> Vec<(String, String)> {
        let local = self.pods.iter().filter(|pod| pod.place < PODS_A_NODE);
        local.map(|pod| (namespace_name(self.workload(pod).namespace), self.pod_name(pod))).collect()
    }

    /// How many namespaces have a pod on this node.
    pub fn local_namespaces(&self) -> Vec<u32> {
        let local = self.pods.iter().filter(|pod| pod.place < PODS_A_NODE);
        let mut namespaces: Vec<_> = local.map(|pod| self.workload(pod).namespace).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        namespaces
    }

    fn workload(&self, pod: &PodSeed) -> &Workload {
        &self.workloads[pod.workload as usize]
    }

    fn pod_name(&self, pod: &PodSeed) -> String {
        let Workload { app, hash, stateful, .. } = *self.workload(pod);
        match stateful {
            true => format!("app-{app}-{}-{}", hash % 100, pod.ordinal),
            false => format!("app-{app}-{hash:08x}-{:05x}", pod.ordinal.wrapping_mul(0x9e37) ^ (hash & 0xfffff)),
        }
    }

    /// The namespaces, most of them with a team.
    pub fn namespaces(&self) -> impl Iterator<Item = Namespace> {
        (0..self.shape.namespaces).map(|number| {
            let name = namespace_name(number);
            let labels = BTreeMap::from([
                ("kubernetes.io/metadata.name".to_owned(), name.clone()),
                ("team".to_owned(), team_name(number)),
                ("environment".to_owned(), environment(number).to_owned()),
            ]);
            let metadata = ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() };
            Namespace { metadata, ..Namespace::default() }
        })
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        let nodes = self.pods.iter().map(|pod| pod.place / PODS_A_NODE).max().map_or(0, |last| last + 1);
        (0..nodes).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            let address = NodeAddress { type_: "InternalIP".to_owned(), address: format!("192.168.{high}.{low}") };
            Node {
                metadata: ObjectMeta { name: Some(node_name(number)), ..ObjectMeta::default() },
                status: Some(NodeStatus { addresses: Some(vec![address]), ..NodeStatus::default() }),
                ..Node::default()
            }
        })
    }

    /// A pod as the API server tells of it, less what no policy looks at.
    pub fn pod(&self, pod: &PodSeed) -> Pod {
        let Workload { namespace, app, hash, stateful } = *self.workload(pod);
        let name = self.pod_name(pod);
        // Relabelled: another app of the same namespace, or a version of its own.
        let apps = &self.apps[namespace as usize];
        let app = if pod.revision == 0 { app } else { apps[(app + pod.revision) as usize % apps.len()] };
        let mut labels = BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), app_name(app)),
            ("app".to_owned(), app_name(app)),
            ("tier".to_owned(), tier(app).to_owned()),
        ]);
        match stateful {
            true => labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone()),
            false => labels.insert("pod-template-hash".to_owned(), format!("{hash:08x}")),
        };
        if hash.is_multiple_of(8) {
            labels.insert("version".to_owned(), format!("v{}", hash % 5));
        }
        let (node, host) = (pod.place / PODS_A_NODE, pod.place % PODS_A_NODE + 2);
        let v4 = format!("10.{}.{}.{host}", node >> 8, node & 255);
        let v6 = format!("fd00:10:{node:x}::{host:x}");
        let ips = [Some(v4), self.shape.dual_stack.then_some(v6)];
        let port = |name: &str, port: u32| ContainerPort {
            name: Some(name.to_owned()),
            container_port: port as i32,
            ..ContainerPort::default()
        };
        let ports =
            vec![port("http", if app.is_multiple_of(5) { 8000 + app % 3 } else { 8080 }), port("metrics", 9090)];
        let container = Container {
            name: "main".to_owned(),
            image: Some(app_name(app)),
            ports: Some(ports),
            ..Container::default()
        };
        let uid = format!("{hash:08x}-{:04x}-4{:03x}-8000-{:012x}", app, namespace & 0xfff, pod.place);
        Pod {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace_name(namespace)),
                uid: Some(uid),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some(node_name(node)), containers: vec![container], ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some("Running".to_owned()),
                pod_ips: Some(ips.into_iter().flatten().map(|ip| PodIP { ip }).collect()),
                ..PodStatus::default()
            }),
        }
    }

    /// The policies, namespace after namespace.
    pub fn policies(&self) -> impl Iterator<Item = NetworkPolicy> {
        let mut random = Random::new(self.shape.seed ^ 0x9011c7);
        (0..self.shape.policies).map(move |number| self.policy(number, &mut random))
    }

    /// A policy of a namespace, for one that is to be added: as those that are there, by another name.
    pub fn another_policy(&mut self, namespace: u32) -> NetworkPolicy {
        let number = namespace + self.shape.namespaces * (self.shape.policies + self.random.below(1 << 10));
        let mut random = self.random.clone();
        self.random.next_u64();
        self.policy(number, &mut random)
    }

    fn policy(&self, number: u32, random: &mut Random) -> NetworkPolicy {
        let (namespace, kind) = (number % self.shape.namespaces, number / self.shape.namespaces);
        let apps = &self.apps[namespace as usize];
        // The first of a namespace's apps are those that are everywhere, so they are drawn more often.
        let mut app = || apps[random.below(random.clone().below(apps.len() as u32) + 1) as usize];
        let (target, client) = (pods_of(app()), pods_of(app()));
        let team = selector("team", &team_name(random.below(TEAMS)));
        let system = |name: &str| selector("kubernetes.io/metadata.name", name);
        let peer = |namespaces: Option<LabelSelector>, pods: Option<LabelSelector>| NetworkPolicyPeer {
            namespace_selector: namespaces,
            pod_selector: pods,
            ip_block: None,
        };
        let from = |peers: Vec<NetworkPolicyPeer>, ports: Vec<NetworkPolicyPort>| {
            let (from, ports) = (Some(peers), Some(ports));
            NetworkPolicySpec {
                pod_selector: Some(target.clone()),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(vec![NetworkPolicyIngressRule { from, ports }]),
                ..NetworkPolicySpec::default()
            }
        };
        let to = |pods: LabelSelector, peers: Vec<NetworkPolicyPeer>, ports: Vec<NetworkPolicyPort>| {
            let (to, ports) = (Some(peers), Some(ports));
            NetworkPolicySpec {
                pod_selector: Some(pods),
                policy_types: Some(vec!["Egress".to_owned()]),
                egress: Some(vec![NetworkPolicyEgressRule { to, ports }]),
                ..NetworkPolicySpec::default()
            }
        };
        let spec = match kind {
            0 => NetworkPolicySpec {
                pod_selector: Some(LabelSelector::default()),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ..NetworkPolicySpec::default()
            },
            1 => {
                let dns = peer(Some(system(&namespace_name(0))), Some(pods_of(self.apps[0][0])));
                let ports = vec![port("UDP", IntOrString::Int(53), None), port("TCP", IntOrString::Int(53), None)];
                to(LabelSelector::default(), vec![dns], ports)
            }
            2 => from(vec![peer(Some(system(&namespace_name(1))), None)], vec![tcp(8080), named("http")]),
            3 => NetworkPolicySpec {
                pod_selector: Some(LabelSelector::default()),
                ..from(vec![peer(Some(system(&namespace_name(2))), None)], vec![named("metrics")])
            },
            4 | 5 => from(vec![peer(None, Some(client))], vec![named("http"), tcp(443)]),
            6 => {
                from(vec![peer(Some(team), Some(client)), peer(None, Some(LabelSelector::default()))], vec![tcp(5432)])
            }
            7 => to(target.clone(), vec![peer(None, Some(client)), peer(Some(team), None)], vec![named("http")]),
            8 => {
                let (low, hole) = (random.below(200) + 20, random.below(16));
                let block =
                    IPBlock { cidr: format!("{low}.0.0.0/8"), except: Some(vec![format!("{low}.{hole}.0.0/16")]) };
                let peer = NetworkPolicyPeer { ip_block: Some(block), ..NetworkPolicyPeer::default() };
                to(target.clone(), vec![peer], vec![tcp(443), port("TCP", IntOrString::Int(30000), Some(32767))])
            }
            _ => from(vec![peer(Some(selector("environment", environment(namespace))), Some(client))], vec![tcp(8443)]),
        };
        let metadata = ObjectMeta {
            name: Some(format!("policy-{kind}")),
            namespace: Some(namespace_name(namespace)),
            ..ObjectMeta::default()
        };
        NetworkPolicy { metadata, spec: Some(spec) }
    }

    /// Bytes that the numbers take.
    pub fn memory(&self) -> usize {
        let apps: usize = self.apps.iter().map(|apps| apps.capacity() * size_of::<u32>() + size_of_val(apps)).sum();
        self.pods.capacity() * size_of::<PodSeed>()
            + self.workloads.capacity() * size_of::<Workload>()
            + self.free.capacity() * size_of::<u32>()
            + apps
    }

    /// Draws a pod: of all, or of those in the namespaces of this node's pods. Never one of this node.
    pub fn draw(&mut self, near: Option<&[u32]>) -> usize {
        loop {
            let number = self.random.below(self.pods.len() as u32) as usize;
            let pod = &self.pods[number];
            let namespace = self.workload(pod).namespace;
            if pod.place >= PODS_A_NODE && near.is_none_or(|near| near.binary_search(&namespace).is_ok()) {
                return number;
            }
        }
    }

    /// One more pod of the workload that another belongs to; its number.
    pub fn add_like(&mut self, number: usize) -> usize {
        let workload = self.pods[number].workload;
        let ordinal = 1_000 + self.random.below(1 << 24);
        let place = self.free.pop().unwrap_or(u32::MAX >> 8);
        self.pods.push(PodSeed { workload, ordinal, place, revision: 0 });
        self.pods.len() - 1
    }

    /// Takes a pod away; its place is free again, after all others that are.
    pub fn remove(&mut self, number: usize) -> PodSeed {
        let pod = self.pods.swap_remove(number);
        self.free.insert(0, pod.place);
        pod
    }

    /// Gives a pod other labels.
    pub fn relabel(&mut self, number: usize) {
        self.pods[number].revision += 1;
    }
}

fn namespace_name(number: u32) -> String {
    format!("namespace-{number}")
}

fn node_name(number: u32) -> String {
    format!("node-{number}.example")
}

fn app_name(number: u32) -> String {
    format!("app-{number}")
}

fn team_name(number: u32) -> String {
    format!("team-{}", number % TEAMS)
}

fn environment(namespace: u32) -> &'static str {
    ["production", "staging", "development", "production"][namespace as usize % 4]
}

fn tier(app: u32) -> &'static str {
    ["frontend", "backend", "cache", "database", "batch"][app as usize % 5]
}

fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    }
}

fn pods_of(app: u32) -> LabelSelector {
    selector("app", &app_name(app))
}

fn port(protocol: &str, port: IntOrString, end: Option<i32>) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(port), end_port: end }
}

fn tcp(number: i32) -> NetworkPolicyPort {
    port("TCP", IntOrString::Int(number), None)
}

fn named(name: &str) -> NetworkPolicyPort {
    port("TCP", IntOrString::String(name.to_owned()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_cluster_with_a_full_node() {
        let shape = Shape { pods: 5_000, policies: 500, namespaces: 50, dual_stack: true, seed: 3 };
        let (one, two) = (World::new(shape), World::new(shape));
        assert_eq!(one.pods.len(), 5_000);
        assert_eq!(one.local().len(), PODS_A_NODE as usize);
        assert_eq!(one.local(), two.local());
        assert!(one.policies().eq(two.policies()));
        let mut places: Vec<_> = one.pods.iter().map(|pod| pod.place).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 5_000, "no two pods share an address");
        let mut names: Vec<_> = one.pods.iter().map(|pod| (one.workload(pod).namespace, one.pod_name(pod))).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 5_000, "no two pods share a name");
    }
}
