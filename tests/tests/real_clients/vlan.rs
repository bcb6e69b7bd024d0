//! Frames with VLAN tags: they cross a gateway's wire tag and all, and what they carry is judged; pods may not use them.

use control::lab::Family;
use dataplane::packet::Protocol;
use dataplane::port::PortKind;
use dataplane::rules::Policy;
use penstock_tests::each_port;
use penstock_tests::policy::only;
use penstock_tests::process::{Background, python};
use penstock_tests::site::{Cable, Host, Site, eventually};

each_port!(through_a_gateway, not_from_a_pod);

const TAGGED: &str = include_str!("../../src/scripts/tagged.py");

/// Datagrams to port 5000 are looked at; one to port 5001 ends the look.
const LOOK: u16 = 5000;
const END: u16 = LOOK + 1;
const DENIED: u16 = 6000;

/// Priority 5, VLAN 7; VLAN 4000.
const TAGS: [&str; 2] = ["40967", "4000"];

struct Sender<'a> {
    host: &'a Host,
    device: &'a str,
    macs: [String; 2],
    ips: [String; 2],
}

impl Sender<'_> {
    fn send(&self, port: u16, tags: &[&str]) {
        let [source_mac, target_mac] = &self.macs;
        let [source, target] = &self.ips;
        let port = port.to_string();
        let fixed = ["send", self.device, source_mac, target_mac, source, target, &port];
        python(&self.host.namespace, TAGGED, &[&fixed, tags].concat());
    }
}

fn from(host: &Host, family: Family) -> Sender<'_> {
    let macs = [host.mac, host.gateway_mac].map(|mac| mac.to_string());
    let ips = [host.ip(family), host.gateway(family)].map(|ip| ip.to_string());
    Sender { host, device: "eth0", macs, ips }
}

fn through_a_gateway(kind: PortKind) {
    let mut site = Site::new();
    let host = site.add("network", Cable::Gateway(kind.into()));
    let allowed = only(&[(Protocol::UDP, LOOK), (Protocol::UDP, END)]);
    site.judge(&host, allowed, Policy::Open);
    let device = host.gateway_device();
    let look = LOOK.to_string();
    for family in Family::ALL {
        let receiver = Background::python(&site.router, TAGGED, &["receive", &device, &look]);
        let sender = from(&host, family);
        sender.send(LOOK, &[]);
        sender.send(DENIED, &TAGS[..1]);
        sender.send(LOOK, &TAGS[..1]);
        sender.send(DENIED, &TAGS);
        sender.send(LOOK, &TAGS);
        sender.send(END, &TAGS[1..]);
        let seen = receiver.finish();
        let expected = ["port 0 intact", "port 0 40967 intact", "port 0 40967 4000 intact", "port 1 4000 intact"];
        assert_eq!(seen.lines().collect::<Vec<_>>(), expected, "{family:?} {:?}", site.drops(&host));
    }
    let drops = site.drops(&host);
    assert_eq!(drops.into_iter().collect::<Vec<_>>(), [("egress policy_denied".to_owned(), 4)]);
}

fn not_from_a_pod(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let (device, look) = (pod.gateway_device(), LOOK.to_string());
    for family in Family::ALL {
        let receiver = Background::python(&site.router, TAGGED, &["receive", &device, &look]);
        let sender = from(&pod, family);
        sender.send(LOOK, &TAGS[..1]);
        sender.send(LOOK, &TAGS);
        // A priority tag says VLAN 0.
        sender.send(LOOK, &["0"]);
        sender.send(END, &[]);
        assert_eq!(receiver.finish(), "port 1 intact\n", "{family:?} {:?}", site.drops(&pod));
        // Nor towards it.
        let [own, gateway] = [pod.mac, pod.gateway_mac].map(|mac| mac.to_string());
        let [to, from] = [pod.ip(family), pod.gateway(family)].map(|ip| ip.to_string());
        let arguments = ["send", &device, &gateway, &own, &from, &to, &look, TAGS[0]];
        python(&site.router, TAGGED, &arguments);
    }
    eventually("the frames towards the pod are dropped", || {
        site.drops(&pod).get("ingress vlan_not_allowed") == Some(&2)
    });
    assert_eq!(site.drops(&pod).get("egress vlan_not_allowed"), Some(&6), "{:?}", site.drops(&pod));
}
