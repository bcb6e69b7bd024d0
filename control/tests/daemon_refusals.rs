//! Everything that can be refused: one sentence, the contract's exit code, and nothing half-done.

mod daemon_support;

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use daemon_support::{DENY, Lane, Setting, WORLD, ip};

/// Runs a command that must be refused, and gives the one sentence.
fn refused(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {told}");
    let (log, sentences): (Vec<_>, Vec<_>) = told.lines().partition(|line| line.contains(" INFO "));
    assert_eq!(sentences.len(), 1, "one sentence: {told}");
    assert!(!log.iter().any(|line| line.contains("ready")), "{told}");
    let sentence = sentences[0].strip_prefix("penstock: ").unwrap_or_else(|| panic!("{told}"));
    sentence.to_owned()
}

/// A wire of two TAP devices, which would be there if it had been opened, and then another one.
fn after_a_good_wire(namespace: &str, more: &str) -> String {
    format!(
        "- {{name: first, traffic: allow, inside: {{kind: tap, interface: tap-a, namespace: {namespace}}}, \
         outside: {{kind: tap, interface: tap-b, namespace: {namespace}}}}}\n{more}"
    )
}

fn assert_untouched(lane: &Lane) {
    let links = ip(&format!("-n {} -o link", lane.wire));
    assert!(!links.contains("tap-"), "left behind: {links}");
    let promiscuous = ip(&format!("-n {} -d link", lane.wire));
    assert!(!promiscuous.contains("promiscuity 1"), "left behind: {promiscuous}");
}

#[test]
fn a_configuration_is_checked_without_opening_anything() {
    let lane = Lane::new();
    let setting = Setting::new(&after_a_good_wire(&lane.wire, &lane.wire_yaml()), "");
    setting.write("deny.yaml", DENY);
    let output = setting.command().arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let expected = format!("{}: valid: 2 wires, 1 policies\n", setting.config().display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_untouched(&lane);
}

#[test]
fn bad_input_ends_with_2() {
    let lane = Lane::new();
    let setting = Setting::new(&after_a_good_wire(&lane.wire, &lane.wire_yaml()), "");
    let config = fs::read_to_string(setting.config()).unwrap();
    let try_config = |text: &str| {
        fs::write(setting.config(), text).unwrap();
        let sentence = refused(&mut setting.command(), 2);
        assert!(sentence.contains("penstock.yaml"), "{sentence}");
        sentence
    };
    assert!(try_config(&config.replace("kind: af_packet", "kind: pcap")).contains("wires[1].inside.kind"));
    assert!(try_config(&config.replace("default/web", "default/wob")).contains("there is no Pod default/wob"));
    assert!(try_config(&config.replace("policy: policies", "policy: elsewhere")).contains("policy: "));
    fs::write(setting.config(), config).unwrap();

    setting.write("bad.yaml", &DENY.replace("[Ingress]", "[ingress]"));
    let sentence = refused(&mut setting.command(), 2);
    for part in ["bad.yaml", "NetworkPolicy default/deny-all", "spec.policyTypes[0]", "\"ingress\"", "Ingress"] {
        assert!(sentence.contains(part), "{part} is missing: {sentence}");
    }
    setting.write("bad.yaml", "a: [");
    assert!(refused(&mut setting.command(), 2).contains("bad.yaml"));
    setting.remove("bad.yaml");
    setting.write("world.yaml", &WORLD.replace("10.77.0.3", "10.77.0.2"));
    assert!(refused(&mut setting.command(), 2).contains("10.77.0.2"));
    setting.write("world.yaml", &WORLD.replace("spec: {containers", "spec: {hostNetwork: true, containers"));
    assert!(refused(&mut setting.command(), 2).contains("hostNetwork"));

    let mut missing = Command::new(env!("CARGO_BIN_EXE_penstock"));
    missing.args(["run", "--config", "/nowhere/penstock.yaml"]);
    assert!(refused(&mut missing, 2).contains("/nowhere/penstock.yaml"));
    assert_untouched(&lane);
}

#[test]
fn what_the_system_does_not_have_ends_with_3_and_leaves_nothing() {
    let lane = Lane::new();
    let setting = Setting::new(&after_a_good_wire(&lane.wire, &lane.wire_yaml()), "");
    let config = fs::read_to_string(setting.config()).unwrap();
    let try_config = |text: &str| {
        fs::write(setting.config(), text).unwrap();
        let sentence = refused(&mut setting.command(), 3);
        assert_untouched(&lane);
        sentence
    };
    let sentence = try_config(&config.replace("interface: out", "interface: gone"));
    let expected = format!("wire web: outside: there is no interface gone in the network namespace {}", lane.wire);
    assert!(sentence.starts_with(&expected), "{sentence}");
    let sentence = try_config(&config.replace("interface: out, namespace: ", "interface: out, namespace: no-"));
    assert!(sentence.contains(&format!("no-{}", lane.wire)), "{sentence}");
    let sentence = try_config(&config.replace("policy: policies", "policy: policies\nworkers: [{cpu: 1023}]"));
    assert!(sentence.contains("workers[0].cpu: CPU 1023"), "{sentence}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sentence = try_config(&config.replace("127.0.0.1:0", &address));
    assert!(sentence.contains("metrics.address") && sentence.contains(&address), "{sentence}");
    let sentence = try_config(&format!("{config}\nlog: {{drops: {{file: /nowhere/drops}}}}\n"));
    assert!(sentence.contains("log.drops.file: /nowhere/drops"), "{sentence}");
}

/// A device that is taken only shows when it is opened: the wire before it is open then, and is closed again.
#[test]
fn a_wire_that_cannot_be_opened_closes_the_others() {
    let lane = Lane::new();
    ip(&format!("-n {} link add tap-c type veth peer name other", lane.wire));
    let last = format!(
        "- {{name: last, traffic: allow, inside: {{kind: tap, interface: tap-c, namespace: {0}}}, \
         outside: {{kind: tap, interface: tap-d, namespace: {0}}}}}\n",
        lane.wire
    );
    let setting = Setting::new(&after_a_good_wire(&lane.wire, &last), "log: {level: warn}");
    let sentence = refused(&mut setting.command(), 3);
    assert!(sentence.starts_with("wire last: ") && sentence.contains("tap-c"), "{sentence}");
    let links = ip(&format!("-n {} -o link", lane.wire));
    assert!(links.contains("tap-c") && !links.contains("tap-a"), "{links}");
}

#[test]
fn a_missing_capability_is_named() {
    let lane = Lane::new();
    let setting = Setting::new(&after_a_good_wire(&lane.wire, &lane.wire_yaml()), "");
    for (dropped, name) in [("net_admin", "CAP_NET_ADMIN"), ("net_raw", "CAP_NET_RAW"), ("sys_admin", "CAP_SYS_ADMIN")]
    {
        let mut command = Command::new("setpriv");
        let without = format!("-{dropped}");
        command.args(["--bounding-set", &without, "--inh-caps", &without]);
        command.arg(env!("CARGO_BIN_EXE_penstock")).args(["run", "--config"]).arg(setting.config());
        let sentence = refused(&mut command, 3);
        assert!(sentence.starts_with(&format!("{name} is missing: wire ")), "{sentence}");
        assert!(sentence.contains("run penstock as root, or grant it"), "{sentence}");
        assert_untouched(&lane);
    }
}

/// Starts a program under a seccomp filter that refuses `socket(AF_XDP, …)` as a kernel without it does.
const WITHOUT_AF_XDP: &str = r#"
import ctypes, errno, os, platform, struct, sys
machine = {"x86_64": (0xc000003e, 41), "aarch64": (0xc00000b7, 198)}[platform.machine()]
def statement(code, k, yes=0, no=0):
    return struct.pack("HBBI", code, yes, no, k)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7fff0000, 0x00050000
program = b"".join([
    statement(LOAD, 4), statement(EQUAL, machine[0], 0, 5),
    statement(LOAD, 0), statement(EQUAL, machine[1], 0, 3),
    statement(LOAD, 16), statement(EQUAL, 44, 0, 1),
    statement(RETURN, ERRNO | errno.EAFNOSUPPORT), statement(RETURN, ALLOW),
])
buffer = ctypes.create_string_buffer(program)
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(fprog)), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_kernel_without_af_xdp_is_told_of() {
    let lane = Lane::new();
    let last = lane.wire_yaml().replace("kind: af_packet", "kind: af_xdp");
    let setting = Setting::new(&after_a_good_wire(&lane.wire, &last), "");
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_AF_XDP, env!("CARGO_BIN_EXE_penstock"), "run", "--config"]).arg(setting.config());
    let sentence = refused(&mut command, 3);
    assert!(sentence.starts_with("wire web needs AF_XDP and the system refuses such sockets"), "{sentence}");
    assert!(sentence.contains("kind: af_packet"), "{sentence}");
    assert_untouched(&lane);
}
