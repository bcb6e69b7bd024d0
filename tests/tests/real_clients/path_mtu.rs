//! Path-MTU discovery across a smaller link behind the wire: the routers' messages have to come back through it.

use std::net::SocketAddr;

use control::lab::Family;
use dataplane::packet::Protocol;
use dataplane::port::PortKind;
use penstock_tests::each_port;
use penstock_tests::policy::{closed, only};
use penstock_tests::process::python;
use penstock_tests::site::{Cable, Site};
use penstock_tests::traffic::Stream;

each_port!(narrow_link);

const LINK: u32 = 1300;

/// Sends datagrams that must not be fragmented until the system says that they are too long.
const DATAGRAM: &str = r#"
import errno, ipaddress, socket, sys, time
target = sys.argv[1]
if ipaddress.ip_address(target).version == 4:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: IP_PMTUDISC_DO
else:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER: IPV6_PMTUDISC_DO
s.connect((target, 9))
for attempt in range(100):
    try:
        s.send(bytes(1400))
    except OSError as error:
        print(errno.errorcode[error.errno], "after", attempt)
        break
    time.sleep(0.05)
s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the message may have been noted a second time
s.send(bytes(1200))
"#;

fn narrow_link(kind: PortKind) {
    let mut site = Site::new();
    let pod = site.add("pod", Cable::Pod(kind.into()));
    let server = site.add_beyond(LINK, "server");
    site.judge(&pod, only(&[(Protocol::TCP, 7000), (Protocol::UDP, 9)]), closed());
    for family in Family::ALL {
        let target = server.ip(family);
        // UDP first: TCP would teach the system the path's MTU.
        let said = python(&pod.namespace, DATAGRAM, &[&target.to_string()]);
        assert!(said.starts_with("EMSGSIZE after"), "{family:?}: '{said}' {:?}", site.drops(&pod));
        assert!(!said.starts_with("EMSGSIZE after 0"), "the first one had to be sent to be refused: {said}");
        pod.run(&format!("ip {} route flush cache", family_flag(family)));
        // Both ends send more than a window, so both have to find the smaller link.
        let target_port = SocketAddr::new(target, 7000);
        Stream::connect(&pod.namespace, &server.namespace, target_port).exchange(8 << 20);
        let route = pod.run(&format!("ip route get {target}"));
        assert!(route.contains(&format!("mtu {LINK}")), "learnt on the way: {route}");
    }
    // Closed ports answer the datagrams to port 9: those are related too. Nothing was refused on the way.
    let drops = site.drops(&pod);
    assert!(drops.is_empty(), "{drops:?}");
}

fn family_flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}
