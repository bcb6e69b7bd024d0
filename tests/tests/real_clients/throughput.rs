//! iperf3: streams in both directions and paced datagrams. How fast is not asked here.

use control::lab::Family;
use dataplane::packet::Protocol;
use dataplane::port::PortKind;
use penstock_tests::each_port;
use penstock_tests::policy::{closed, only};
use penstock_tests::process::Background;
use penstock_tests::site::{Cable, Host, Site, eventually};
use serde_json::Value;

each_port!(iperf3);

/// What iperf3 found, as it tells at its end. Its server stops listening while it serves, and begins again a moment after.
fn iperf(client: &Host, server: &Host, arguments: &str) -> Value {
    eventually("iperf3 listens", || server.run("ss -Hltn sport = 5201").contains("LISTEN"));
    let text = client.run(&format!("iperf3 -J {arguments}"));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["error"].is_null(), "{text}");
    report["end"].clone()
}

fn iperf3(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add("server", Cable::Straight);
    // What comes back belongs to the connections: nobody may open any towards the pod.
    site.judge(&pod, only(&[(Protocol::TCP, 5201), (Protocol::UDP, 5201)]), closed());
    let _serving = Background::start(&server.namespace, &["iperf3", "-s"]);
    for family in Family::ALL {
        let target = server.ip(family);
        for (way, bytes) in [("", 64 << 20), ("-R", 64 << 20), ("--bidir", 16 << 20), ("-P 8", 16 << 20)] {
            let end = iperf(&pod, &server, &format!("-c {target} -n {bytes} {way}"));
            let received = end["sum_received"]["bytes"].as_u64().unwrap();
            assert!(received > 0, "{family:?} {way}: {received} {:?}", site.drops(&pod));
        }
        for way in ["", "-R"] {
            let end = iperf(&pod, &server, &format!("-c {target} -u -b 20M -l 1200 -t 1 {way}"));
            let (packets, lost) =
                (end["sum"]["packets"].as_u64().unwrap(), end["sum"]["lost_percent"].as_f64().unwrap());
            assert!(packets > 1000 && lost < 5.0, "{family:?} {way}: {packets}, {lost} % lost; {:?}", site.drops(&pod));
        }
    }
    // iperf3's server closes streams that still bring data. Its resets answer segments that were sent before the client
    // acknowledged its FIN, too: behind the window, for the client as for the wire. One in the window follows.
    let gone = || pod.run("ss -Htn state established state fin-wait-1 state close-wait").is_empty();
    eventually("no stream is left behind", gone);
    let mut drops = site.drops(&pod);
    drops.remove("ingress tcp_reset_invalid");
    assert!(drops.is_empty(), "{drops:?}");
}
