use std::io::Read;

use super::super::lean::{Namespace, NetworkPolicy, Node, Pod, Port};
use super::*;

fn objects() -> Vec<Object> {
    let text = str::to_owned;
    vec![
        Object::Namespace(Namespace { name: text("a"), labels: [(text("k"), text("v"))].into() }),
        Object::Node(Node { name: text("n"), addresses: vec![text("192.168.0.1")] }),
        Object::NetworkPolicy(NetworkPolicy {
            namespace: text("a"),
            name: text("p"),
            spec: text("{\"x\":[\"\\n\"]}"),
            pruned: vec![],
        }),
        Object::Pod(Pod {
            namespace: text("a"),
            name: text("b"),
            uid: text("u"),
            created: Some(serde_json::from_str("\"2026-01-02T03:04:05Z\"").unwrap()),
            addresses: vec![text("10.0.0.1"), text("fd00::1")],
            ports: vec![Port { name: String::new(), protocol: text("UDP"), number: 53 }],
            node: text("n"),
            host_network: true,
            pending: true,
            terminating: true,
            ..Pod::default()
        }),
    ]
}

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/cluster.json.zst");
    assert!(read(&path).unwrap().is_none());
    write(&path, &encode(objects().into_iter())).unwrap();
    let kept = read(&path).unwrap().unwrap();
    assert_eq!(kept.objects, objects());
    assert!(kept.written.elapsed().unwrap() < Duration::from_secs(60));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    write(&path, &encode(std::iter::empty())).unwrap();
    assert!(read(&path).unwrap().unwrap().objects.is_empty());
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn every_damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.json.zst");
    write(&path, &encode(objects().into_iter())).unwrap();
    let mut good = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut good).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err()
    };
    for length in 0..good.len() {
        refused(&good[..length]);
    }
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        // A few bits of the frame's header say nothing about the content.
        if let Ok(kept) = read(&path) {
            assert_eq!(kept.unwrap().objects, objects(), "byte {place}");
        }
    }
    let whole = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let header = "{\"Header\":{\"format\":1,\"written\":0}}\n";
    assert_eq!(refused(&whole("{\"Header\":{\"format\":2,\"written\":0}}\n{\"End\":0}\n")), "it is of format 2, not 1");
    assert_eq!(refused(&whole(header)), "it is cut off");
    assert!(refused(&whole(&format!("{header}{{\"End\":1}}\n"))).contains("damaged"));
    assert!(refused(&whole(&format!("{header}{{\"End\":0}}\n{{\"End\":0}}\n"))).contains("goes on"));
    assert!(refused(&whole("{\"End\":0}\n")).contains("does not begin"));
    assert!(refused(b"no zstd at all").len() > 10);
}
