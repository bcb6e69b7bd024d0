use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::*;

const LIST: &str = r#"{"cniVersion":"0.4.0","name":"aws-cni","disableCheck":true,"plugins":[{"type":"aws-cni","mtu":"9001"},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn ours(directory: &Path) -> Option<Value> {
    fs::read(directory.join(CONFLIST)).ok().map(|text| serde_json::from_slice(&text).unwrap())
}

fn types(config: &Value) -> Vec<&str> {
    config["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap()).collect()
}

#[test]
fn the_primary_is_copied_whole_with_us_last() {
    let place = directory();
    fs::write(place.path().join("10-aws.conflist"), LIST).unwrap();
    assert!(follow(place.path(), CONFLIST).unwrap());
    let config = ours(place.path()).unwrap();
    assert_eq!(types(&config), ["aws-cni", "portmap", "penstock-cni"]);
    assert_eq!((config["cniVersion"].as_str(), config["disableCheck"].as_bool()), (Some("0.4.0"), Some(true)));
    assert_eq!(config["plugins"][1]["capabilities"]["portMappings"], true);
    assert!(!follow(place.path(), CONFLIST).unwrap(), "nothing is new");
    assert_eq!(fs::read_to_string(place.path().join("10-aws.conflist")).unwrap(), LIST, "it is not touched");
}

#[test]
fn a_primary_that_rewrites_its_file_is_followed_and_one_that_goes_is_not_outlived() {
    let place = directory();
    let path = place.path().join("10-aws.conflist");
    fs::write(&path, LIST).unwrap();
    follow(place.path(), CONFLIST).unwrap();
    fs::write(&path, LIST.replace("9001", "1500")).unwrap();
    assert!(follow(place.path(), CONFLIST).unwrap());
    assert_eq!(ours(place.path()).unwrap()["plugins"][0]["mtu"], "1500");
    // Half written: ours stays.
    fs::write(&path, &LIST[..40]).unwrap();
    let said = follow(place.path(), CONFLIST).unwrap_err().to_string();
    assert!(said.contains("10-aws.conflist"), "{said}");
    assert_eq!(ours(place.path()).unwrap()["plugins"][0]["mtu"], "1500");
    fs::remove_file(&path).unwrap();
    assert!(matches!(follow(place.path(), CONFLIST), Err(ConflistError::NoPrimary(_))));
    assert_eq!(ours(place.path()), None, "alone it would start pods without a network");
}

#[test]
fn a_single_plugin_becomes_a_list() {
    let place = directory();
    fs::write(
        place.path().join("10-flannel.conf"),
        r#"{"cniVersion":"0.3.1","name":"cbr0","type":"flannel","delegate":{"isDefaultGateway":true}}"#,
    )
    .unwrap();
    follow(place.path(), CONFLIST).unwrap();
    let config = ours(place.path()).unwrap();
    assert_eq!((config["name"].as_str(), config["cniVersion"].as_str()), (Some("cbr0"), Some("0.3.1")));
    assert_eq!(types(&config), ["flannel", "penstock-cni"]);
    assert_eq!(config["plugins"][0]["delegate"]["isDefaultGateway"], true);
    assert_eq!(config.get("type"), None);
}

#[test]
fn of_several_the_first_by_name_is_the_primary_and_copies_of_ours_are_none() {
    let place = directory();
    fs::write(place.path().join("20-other.conflist"), LIST.replace("aws-cni", "other")).unwrap();
    fs::write(place.path().join("10-aws.conflist"), LIST).unwrap();
    fs::write(place.path().join("05-copy.conflist"), chained(LIST.as_bytes()).unwrap()).unwrap();
    fs::write(place.path().join("01-README.txt"), "not a configuration").unwrap();
    follow(place.path(), CONFLIST).unwrap();
    assert_eq!(types(&ours(place.path()).unwrap())[0], "aws-cni");
}

#[test]
fn our_file_alone_and_no_directory_are_no_primary() {
    let place = directory();
    fs::write(place.path().join(CONFLIST), chained(LIST.as_bytes()).unwrap()).unwrap();
    assert!(matches!(follow(place.path(), CONFLIST), Err(ConflistError::NoPrimary(_))));
    let said = follow(&place.path().join("nowhere"), CONFLIST).unwrap_err().to_string();
    assert!(said.contains("nowhere") && said.contains("another plugin"), "{said}");
}

#[test]
fn what_is_no_configuration_is_refused_with_its_reason() {
    for (text, part) in [
        ("{", "EOF"),
        (r#"{"name":"x"}"#, "neither plugins nor a type"),
        (r#"{"name":"x","plugins":[]}"#, "names no plugin"),
        (r#"{"name":"x","plugins":{}}"#, "no list"),
        (r#"{"type":"ptp"}"#, "no name"),
    ] {
        let reason = chained(text.as_bytes()).unwrap_err();
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

/// A runtime reads whenever it likes: it sees a whole configuration each time, and none but configurations.
#[test]
fn a_reader_never_sees_half_a_file() {
    let place = directory();
    let path = place.path().join("10-aws.conflist");
    fs::write(&path, LIST).unwrap();
    follow(place.path(), CONFLIST).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) || reads == 0 {
                for entry in fs::read_dir(place.path()).unwrap().flatten() {
                    let name = entry.file_name().into_string().unwrap();
                    if name == CONFLIST {
                        assert_eq!(types(&ours(place.path()).unwrap()).len(), 3);
                        reads += 1;
                    }
                    assert!(!name.contains("new") || !name.ends_with(".conflist"), "{name}");
                }
            }
            reads
        });
        for number in 0..200 {
            conflist::replace(&path, LIST.replace("9001", &number.to_string()).as_bytes(), 0o644).unwrap();
            follow(place.path(), CONFLIST).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn the_binary_is_replaced_only_by_another_one() {
    use std::os::unix::fs::PermissionsExt;
    let place = directory();
    let places = Places { binaries: place.path().join("bin"), conflists: place.path().into() };
    let own = place.path().join("own");
    fs::write(&own, "one").unwrap();
    assert!(install_binary(&own, &places).unwrap());
    assert!(!install_binary(&own, &places).unwrap());
    // One that runs is not written to: it has another name by then.
    let before = fs::File::open(places.binaries.join(BINARY)).unwrap();
    fs::write(&own, "two").unwrap();
    assert!(install_binary(&own, &places).unwrap());
    assert_eq!(io::read_to_string(before).unwrap(), "one");
    let mode = fs::metadata(places.binaries.join(BINARY)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn uninstalling_takes_the_configuration_and_the_binary_and_twice_is_once() {
    let place = directory();
    let places = Places { binaries: place.path().join("bin"), conflists: place.path().join("net.d") };
    fs::create_dir_all(&places.conflists).unwrap();
    fs::write(places.conflists.join("10-aws.conflist"), LIST).unwrap();
    let own = place.path().join("own");
    fs::write(&own, "one").unwrap();
    install_binary(&own, &places).unwrap();
    follow(&places.conflists, CONFLIST).unwrap();
    let store = Store::at(place.path().join("run"));
    let host = Namespace::current().unwrap();
    for _ in 0..2 {
        uninstall(&store, &host, &places, &[]).unwrap();
        assert_eq!(ours(&places.conflists), None);
        assert!(!places.binaries.join(BINARY).exists());
        assert!(places.conflists.join("10-aws.conflist").exists());
    }
}

#[test]
fn what_every_new_pod_would_be_refused_for_is_refused_here() {
    let with = |from: &str, to: &str| chained(LIST.replacen(from, to, 1).as_bytes()).unwrap_err();
    let speaks = "0.3.1, 0.4.0, 1.0.0, 1.1.0";
    for (from, to, expected) in [
        (r#""cniVersion":"0.4.0","#, "", format!("cniVersion \"\" is not one that penstock-cni speaks ({speaks})")),
        ("0.4.0", "9.9.9", format!("cniVersion \"9.9.9\" is not one that penstock-cni speaks ({speaks})")),
        (r#""name":"aws-cni","#, "", "it has no name".to_owned()),
        (r#"{"type":"portmap","#, "{", "plugins[1] has no type".to_owned()),
    ] {
        assert_eq!(with(from, to), expected);
    }
}

#[test]
fn a_primary_that_only_root_may_read_has_a_copy_that_only_root_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let primary = directory.path().join("10-primary.conflist");
    fs::write(&primary, LIST).unwrap();
    fs::set_permissions(&primary, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(follow(directory.path(), CONFLIST).unwrap());
    let mode = fs::metadata(directory.path().join(CONFLIST)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_copy_that_cannot_be_put_in_place_leaves_nothing() {
    let directory = directory();
    let target = directory.path().join("taken");
    fs::create_dir_all(target.join("by a directory")).unwrap();
    assert!(conflist::replace(&target, b"x", 0o644).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
