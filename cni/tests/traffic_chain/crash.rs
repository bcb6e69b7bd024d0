//! Killed in the middle, at every place: the next call goes on or goes back.

use std::os::unix::process::ExitStatusExt;

use cni::splice;
use serde_json::json;

use crate::node::{Node, Pod, address, run, view};

const KILLED: Option<i32> = Some(9);

fn killed_at(node: &Node, words: &[&str], place: &str) {
    let output = node.by_hand(words, Some(place));
    assert_eq!(output.status.signal(), KILLED, "{place}: {}", String::from_utf8_lossy(&output.stderr));
}

fn done(node: &Node, words: &[&str]) -> String {
    let output = node.by_hand(words, None);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_whole(node: &Node, pod: &Pod) {
    let faults = splice::verify(&node.store(), &node.opened_host(), &pod.container).unwrap();
    assert_eq!(faults, Vec::<String>::new());
    node.carry(pod);
    run(&pod.namespace, "ping -c 2 -i 0.05 -W 2 -q 10.88.1.1");
    node.daemon.forget();
}

#[test]
fn a_splice_that_was_killed_is_finished_or_undone() {
    let mut node = Node::new();
    let mut pod = node.pod();
    let primary = [json!({"type": "ptp", "ipMasq": true, "ipam": node.ipam(1)})];
    node.add(&mut pod, "1.0.0", &primary);
    let before = view(&pod);
    let netns = pod.namespace.path();
    let (container, netns) = (pod.container.clone(), netns.to_str().unwrap());
    for place in ["planned", "moved", "created", "configured"] {
        let words = ["splice", container.as_str(), netns];
        killed_at(&node, &words, place);
        let half = splice::scan(&node.store(), &node.opened_host(), []).unwrap();
        assert_eq!(half.stale, [container.as_str()], "{place}: half a splice is found");
        // Finished by whoever comes next…
        done(&node, &["repair"]);
        let whole = node.by_hand(&["verify", &container], None).status.success();
        assert_eq!(whole, place != "planned", "{place}: before anything was changed, there is nothing to finish");
        done(&node, &words);
        assert_whole(&node, &pod);
        assert_eq!(view(&pod), before, "{place}");
        assert_eq!(done(&node, &["unsplice", &container]), "1 wires undone\n");
        assert_eq!(view(&pod), before, "{place}");
        // …or taken back, when the pod is to be as it was.
        killed_at(&node, &words, place);
        done(&node, &["unsplice", &container]);
        assert_eq!(view(&pod), before, "{place}");
        node.assert_nothing_left();
    }
    for place in ["restoring", "released", "returned"] {
        done(&node, &["splice", &container, netns]);
        killed_at(&node, &["unsplice", &container], place);
        done(&node, &["repair"]);
        assert_eq!(view(&pod), before, "{place}");
        node.assert_nothing_left();
    }
    node.delete(&pod, "1.0.0", &primary);
}

#[test]
fn the_end_of_a_pod_after_a_crash_leaves_nothing() {
    let mut node = Node::new();
    let plugins = [json!({"type": "ptp", "ipMasq": true, "ipam": node.ipam(1)}), node.ours()];
    for place in ["planned", "moved", "created", "configured"] {
        let mut pod = node.pod();
        node.add(&mut pod, "1.0.0", &plugins[..1]);
        let own = address(&pod, 4);
        assert!(node.traces()["nat"].contains(&own));
        killed_at(&node, &["splice", &pod.container, pod.namespace.path().to_str().unwrap()], place);
        node.delete(&pod, "1.0.0", &plugins);
        node.assert_nothing_left();
        let traces = node.traces();
        assert!(!traces["links"].contains("veth"), "{place}: {}", traces["links"]);
        assert!(!traces["nat"].contains(&own), "{place}: the primary found what it had to clean up");
    }
}
