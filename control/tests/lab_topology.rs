//! The lab's namespaces, servers and probes, without the engine. Needs root.

use control::lab::instance::Instance;
use control::lab::world::{LabNode, LabPod, World};
use control::lab::{Family, Lab, LabOptions, ProbeOutcome, Service, netns};

fn pod(key: &str, number: u8, services: &[Service]) -> LabPod {
    LabPod {
        key: key.into(),
        addresses: vec![format!("10.42.0.{number}").parse().unwrap(), format!("fd00:10:42::{number}").parse().unwrap()],
        host_network: false,
        services: services.into(),
    }
}

fn world() -> World {
    let mut world = World {
        pods: vec![
            pod("default/a", 11, &[Service::tcp(80), Service::udp(53)]),
            pod("default/b", 12, &[Service::tcp(80)]),
            pod("other/a", 13, &[Service::tcp(8080)]),
        ],
        nodes: vec![LabNode { name: "node".into(), addresses: vec!["192.168.9.1".parse().unwrap()] }],
        external: vec!["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        external_services: vec![Service::tcp(443), Service::udp(53)],
    };
    world.pods.push(LabPod {
        key: "default/host".into(),
        addresses: vec!["192.168.9.1".parse().unwrap()],
        host_network: true,
        services: vec![Service::tcp(9100)],
    });
    world
}

fn options() -> LabOptions {
    LabOptions { port: None, ..LabOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_wires_everybody_reaches_everybody() {
    let lab = Lab::build(world(), options()).unwrap();
    let matrix = lab.matrix().await.unwrap();
    let table = matrix.to_table(None, control::lab::Look::default());
    let (pass, denied, unproved) = matrix.counts();
    assert_eq!((denied, unproved), (0, 0), "{table}");
    // Receivers: default/a (two services) from two pods and outside in two families and from the host in one,
    // default/b and other/a likewise with one, the host in IPv4 from three pods and outside, outside from three pods
    // (two services, two families) and the host in IPv4.
    assert_eq!(pass, 2 * 7 + 7 + 7 + 4 + 2 * (3 * 2 + 1), "{table}");
    assert_eq!(matrix.passes("default/host", "203.0.113.10", Service::tcp(443)), Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unserved_port_is_refused_and_silence_is_proved() {
    let lab = Lab::build(world(), options()).unwrap();
    for family in Family::ALL {
        for service in [Service::tcp(81), Service::udp(81)] {
            let outcome = lab.probe("default/b", "default/a", service, family).await.unwrap();
            assert_eq!(outcome, ProbeOutcome::Refused, "{service} {family:?}");
        }
    }
    // The way is cut, the server is well: denied.
    let place = lab.topology().place("default/a").unwrap();
    lab.topology().fabric.batch(&[format!("link set {} down", place.gateway())]).unwrap();
    let outcome = lab.probe("default/b", "default/a", Service::tcp(80), Family::V4).await.unwrap();
    assert_eq!(outcome, ProbeOutcome::Timeout);
    // The server itself is unreachable: nothing is proved.
    place.namespace.batch(&["link set lo down".into()]).unwrap();
    let outcome = lab.probe("default/b", "default/a", Service::tcp(80), Family::V4).await.unwrap();
    assert!(matches!(outcome, ProbeOutcome::Broken(_)), "{outcome:?}");
    assert!(lab.probe("default/nobody", "default/a", Service::tcp(80), Family::V4).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_go_and_change() {
    let mut lab = Lab::build(world(), options()).unwrap();
    let mut next = world();
    next.pods.retain(|pod| pod.key != "default/b");
    next.pods[1].addresses[0] = "10.42.0.99".parse().unwrap();
    next.pods[0].services = vec![Service::tcp(8000)];
    next.pods.push(pod("new/pod", 50, &[Service::udp(5000)]));
    next.external.push("198.51.100.7".parse().unwrap());
    lab.rebuild(next).unwrap();
    for (from, to, service) in [
        ("new/pod", "default/a", Service::tcp(8000)),
        ("default/a", "new/pod", Service::udp(5000)),
        ("default/a", "other/a", Service::tcp(8080)),
        ("198.51.100.7", "other/a", Service::tcp(8080)),
        ("new/pod", "198.51.100.7", Service::tcp(443)),
    ] {
        let outcome = lab.probe(from, to, service, Family::V4).await.unwrap();
        assert_eq!(outcome, ProbeOutcome::Reached, "{from} to {to} {service}");
    }
    let old = lab.probe("new/pod", "default/a", Service::tcp(80), Family::V6).await.unwrap();
    assert_eq!(old, ProbeOutcome::Refused, "no longer served");
    assert!(lab.namespace("default/b").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_inside_a_pod() {
    let lab = Lab::build(world(), options()).unwrap();
    let output = lab.command("other/a").unwrap().args(["ip", "-brief", "address", "show", "eth0"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("10.42.0.13/32") && text.contains("fd00:10:42::13/128"), "{text}");
    let ping = lab.command("default/a").unwrap().args(["ping", "-c1", "-W2", "fd00:10:42::13"]).output().unwrap();
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let lab = Lab::build(world(), options()).unwrap();
    let prefix = lab.topology().fabric.name().trim_end_matches("fabric").to_owned();
    assert_eq!(netns::with_prefix(&prefix).len(), 6, "three pods and three common namespaces");
    lab.stop();
    assert_eq!(netns::with_prefix(&prefix), []);
    let id = prefix.trim_start_matches("penstock-lab-").trim_end_matches('-');
    assert!(!std::path::Path::new("/run/penstock/lab").join(format!("{id}.lock")).exists());
}

#[test]
fn the_next_start_clears_what_a_killed_lab_left() {
    // A dead lab: a lock file that nobody holds, and a namespace of that name.
    let id = format!("dead{}", std::process::id());
    let lock = format!("/run/penstock/lab/{id}.lock");
    std::fs::create_dir_all("/run/penstock/lab").unwrap();
    let living = Instance::start().unwrap();
    let kept = living.namespace("kept");
    netns::create(std::slice::from_ref(&kept)).unwrap();
    std::fs::write(&lock, "").unwrap();
    let left = netns::Namespace::named(format!("penstock-lab-{id}-fabric"));
    // Another test's start may clear it between these lines: that is just as well.
    let _ = netns::create(std::slice::from_ref(&left));
    let next = Instance::start().unwrap();
    // Whoever comes first removes both; a namespace made after its lock file was removed is ours to remove.
    if left.path().exists() {
        std::fs::write(&lock, "").unwrap();
        drop(Instance::start().unwrap());
    }
    assert!(!left.path().exists(), "the dead lab's namespace is gone");
    assert!(!std::path::Path::new(&lock).exists(), "and so is its lock");
    assert!(kept.path().exists(), "a living lab's stays");
    drop((next, living));
    assert!(!kept.path().exists());
}

#[tokio::test]
async fn a_world_that_cannot_be_built_leaves_nothing() {
    let mut bad = world();
    bad.pods[0].addresses.clear();
    let error = Lab::build(bad, options()).err().unwrap().to_string();
    assert!(error.contains("default/a") && error.contains("status.podIPs"), "{error}");
}
