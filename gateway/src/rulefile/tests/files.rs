//! Files that include others, and sets with files of their own.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{read, sentences, without_origins, write};
use crate::rulefile::{read_str, write_elements};

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

/// The complaints about `main.yaml`, files named relative to the directory.
fn complaints(directory: &Path) -> Vec<String> {
    let problems = read(&directory.join("main.yaml")).unwrap_err();
    let prefix = format!("{}/", directory.display());
    sentences(&problems).into_iter().map(|text| text.replace(&prefix, "")).collect()
}

#[test]
fn what_is_included_comes_first_and_once() {
    let directory = directory(&[
        (
            "main.yaml",
            "include: [more/a.yaml, more/b.yaml]\nforward: {policy: drop, rules: [{action: {jump: A}}, {action: {jump: B}}]}\n",
        ),
        ("more/a.yaml", "include: common.yaml\nchains: {A: {rules: [{from: {set: s}, action: drop}]}}\n"),
        ("more/b.yaml", "include: [../more/common.yaml]\nchains: {B: {}}\n"),
        ("more/common.yaml", "sets: {s: {file: b/../s.txt}}\n"),
        ("more/b/x", ""),
        ("more/s.txt", "# addresses\n10.0.0.1 # one\n\n10.0.1.0/24\n"),
    ]);
    let ruleset =
        read(&directory.path().join("main.yaml")).unwrap_or_else(|problems| panic!("{:?}", sentences(&problems)));
    let names: Vec<&str> = ruleset.chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(names, ["A", "B", "forward"]);
    assert_eq!(ruleset.sets["s"].elements.len(), 2);
    assert!(write(&ruleset, "").contains("s: {file: more/b/../s.txt}"), "{}", write(&ruleset, ""));
    assert!(ruleset.chains[1].origin.to_string().ends_with("/more/b.yaml:2"));
}

#[test]
fn files_may_have_the_same_groups_and_sets_but_no_others_of_their_name() {
    let one = "family: ipv4\ngroups: {lan: [eth1]}\nsets: {s: [10.0.0.1, \"fd00::1\"]}\nforward: {policy: drop}\n";
    let both = directory(&[
        ("main.yaml", "include: [v4.yaml, v6.yaml]\n"),
        ("v4.yaml", one),
        ("v6.yaml", &one.replace("ipv4", "ipv6")),
    ]);
    let ruleset = read(&both.path().join("main.yaml")).unwrap_or_else(|problems| panic!("{:?}", sentences(&problems)));
    assert_eq!((ruleset.groups.len(), ruleset.sets.len(), ruleset.chains.len()), (1, 1, 2));
    fs::write(both.path().join("v6.yaml"), one.replace("ipv4", "ipv6").replace("eth1", "eth2").replace(".1", ".2"))
        .unwrap();
    assert_eq!(
        complaints(both.path()),
        [
            "v6.yaml:2: group lan: there is a group of this name at v4.yaml:2 already; give one another name",
            "v6.yaml:3: set s: there is a set of this name at v4.yaml:3 already; give one another name",
        ]
    );
}

#[test]
fn a_set_with_a_file_of_its_own_is_written_in_two() {
    let directory = directory(&[
        ("main.yaml", "sets: {s: {of: [address, port], file: s.txt, except: [\"10.0.0.1,22\"]}}\n"),
        ("s.txt", "10.0.0.0/24,tcp:22-23\n2001:db8::/32,icmpv6:128/0\n"),
    ]);
    let main = directory.path().join("main.yaml");
    let ruleset = read(&main).unwrap();
    assert_eq!(write(&ruleset, ""), "sets:\n  s: {of: [address, port], file: s.txt, except: [\"10.0.0.1,22\"]}\n");
    let elements = fs::read_to_string(directory.path().join("s.txt")).unwrap();
    assert_eq!(write_elements(&ruleset.sets["s"]), elements);
    fs::write(&main, write(&ruleset, "")).unwrap();
    assert_eq!(without_origins(read(&main).unwrap()), without_origins(ruleset));
}

#[test]
fn files_that_can_not_be_read() {
    let main = |text: &str| {
        directory(&[("main.yaml", text), ("b.yaml", "include: main.yaml\n"), ("bad.txt", "10.0.0.1\n10.0.0\n")])
    };
    let of = |text: &str| complaints(main(text).path());
    assert_eq!(
        of("sets: {}\ninclude:\n- none.yaml\n"),
        [
            "main.yaml:3: include: none.yaml can't be read (No such file or directory (os error 2)); names are relative to the file they stand in"
        ]
    );
    assert_eq!(
        of("include: b.yaml\n"),
        ["b.yaml:1: include: main.yaml comes to include itself; take this include out"]
    );
    assert_eq!(
        of("include: main.yaml\n"),
        ["main.yaml:1: include: main.yaml comes to include itself; take this include out"]
    );
    assert_eq!(
        of("sets:\n  s:\n    file: none.txt\n"),
        [
            "main.yaml:3: set s: file: none.txt can't be read (No such file or directory (os error 2)); names are relative to the file they stand in"
        ]
    );
    assert_eq!(
        of("sets: {s: {file: bad.txt}}\n"),
        [
            "bad.txt:2: set s: \"10.0.0\" is no address; write it as 10.0.0.1, 10.0.0.0/8, 10.0.0.1-10.0.0.9 or 2001:db8::/32"
        ]
    );
    assert_eq!(of("include: .\n").len(), 1);
    let empty = directory(&[]);
    assert_eq!(complaints(empty.path()).len(), 1);
    let binary = directory(&[]);
    fs::write(binary.path().join("main.yaml"), b"a: 1\nb: \xff\n").unwrap();
    assert_eq!(complaints(binary.path()), ["main.yaml: main.yaml is not UTF-8 on line 2; write it in UTF-8"]);
}

#[test]
fn includes_are_not_followed_without_end() {
    let directory = directory(&[("17.yaml", "chains: {C: {}}\n")]);
    for number in 0..17 {
        let text = format!("include: {}.yaml\n", number + 1);
        fs::write(directory.path().join(format!("{number}.yaml")), text).unwrap();
    }
    let file = |number: u32| directory.path().join(format!("{number}.yaml"));
    assert!(read(&file(1)).is_ok());
    let problems = read(&file(0)).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].text.starts_with("files include one another more than 16 deep; include "), "{}", problems[0]);
}

#[test]
fn a_text_s_files_are_beside_its_name() {
    let directory = directory(&[("empty.yaml", "# nothing yet\n")]);
    let name = directory.path().join("not-there.yaml");
    assert!(read_str(&name.to_string_lossy(), "include: empty.yaml\n").is_ok());
    assert!(read_str("-", "include: empty.yaml\n").is_err());
}
