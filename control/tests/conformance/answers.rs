//! Connections allowed and denied as stated: by the oracle, by the rules that [`control::policy::resolve`] makes, and by
//! `penstock eval`, whose engine judges a frame at each wire.

use control::policy::judge::Judge;
use control::policy::manifest::load_text;
use control::policy::oracle;
use control::policy::probe::{Answer, EndVerdict, Probe};
use serde_json::{Value, json};

use crate::corpus::{list, manifest, read, readdress, text};
use crate::eval;

/// How many checks were made, and which failed.
#[derive(Default)]
struct Tally {
    checks: usize,
    failures: Vec<String>,
}

impl Tally {
    fn finish(self, file: &str, expected: usize) {
        println!("{file}: {} checks", self.checks);
        let shown: Vec<_> = self.failures.iter().take(20).collect();
        assert!(self.failures.is_empty(), "{file}: {} of {} wrong: {shown:#?}", self.failures.len(), self.checks);
        assert_eq!(self.checks, expected, "{file}: checks made");
    }
}

/// What is stated of a connection: the whole of it, its egress, its ingress.
type Stated = [Option<bool>; 3];

/// A question with what is stated of it.
struct Check {
    probe: Probe,
    stated: Stated,
}

fn differs(answer: &Answer, stated: Stated) -> bool {
    let given = [answer.is_allowed(), answer.egress != EndVerdict::Deny, answer.ingress != EndVerdict::Deny];
    given.iter().zip(stated).any(|(given, stated)| stated.is_some_and(|stated| stated != *given))
}

fn check(tally: &mut Tally, place: &str, judge: &Judge<'_>, Check { probe, stated }: &Check) {
    let connection = probe.locate(judge.cluster()).unwrap_or_else(|error| panic!("{place}: {probe}: {error}"));
    let answers = [("oracle", oracle::judge(judge.cluster(), &connection)), ("rules", judge.judge(&connection))];
    tally.checks += 1;
    for (who, answer) in &answers {
        if differs(answer, *stated) {
            tally.failures.push(format!("{place}: {probe}: {who} says {answer:?}, stated {stated:?}"));
        }
    }
    let [(_, oracle), (_, rules)]: &[(&str, Answer); 2] = &answers;
    if oracle != rules {
        tally.failures.push(format!("{place}: {probe}: oracle says {oracle:?}, rules {rules:?}"));
    }
}

/// What `penstock eval` says, and that it judged a frame at each end that is a pod.
fn check_eval(tally: &mut Tally, place: &str, manifest: &str, judge: &Judge<'_>, checks: &[Check]) {
    let answers = eval::run(manifest, checks.iter().map(|check| &check.probe));
    assert_eq!(answers.len(), checks.len(), "{place}: an answer for each question");
    for (Check { probe, stated }, line) in checks.iter().zip(answers) {
        let connection = probe.locate(judge.cluster()).unwrap_or_else(|error| panic!("{place}: {probe}: {error}"));
        let frames = [connection.source.pod, connection.destination.pod].iter().flatten().count();
        let oracle = oracle::judge(judge.cluster(), &connection);
        let agrees = line.answer == oracle && line.verdict == oracle.is_allowed() && !differs(&line.answer, *stated);
        if !agrees || line.frames != frames {
            tally.failures.push(format!("{place}: {probe}: eval says {line:?}, stated {stated:?}, oracle {oracle:?}"));
        }
    }
}

fn run_step(tally: &mut Tally, place: &str, world: &Value, step: &Value) {
    let text = manifest(world, list(step, "policies"));
    let loaded = load_text(place, &text).unwrap_or_else(|errors| panic!("{place}: {errors}"));
    let judge = Judge::new(&loaded.cluster);
    let mut checks = Vec::new();
    for probe in list(step, "probes") {
        let stated = ["expect", "expect_egress", "expect_ingress"].map(|field| probe[field].as_bool());
        assert!(stated[0].is_some(), "{place}: {probe}");
        checks.push(Check { probe: serde_json::from_value(probe.clone()).unwrap(), stated });
    }
    for matrix in list(step, "matrices") {
        read_matrix(&mut checks, matrix);
    }
    for check in &checks {
        self::check(tally, place, &judge, check);
    }
    check_eval(tally, place, &text, &judge, &checks);
}

fn read_matrix(checks: &mut Vec<Check>, matrix: &Value) {
    let order: Vec<_> = list(matrix, "order").iter().map(|pod| pod.as_str().unwrap()).collect();
    let cell = |rows: &str, from: &str, column: usize| match matrix[rows][from].as_str()?.as_bytes()[column] {
        b'.' => Some(true),
        b'X' => Some(false),
        b'#' | b'?' => None,
        other => panic!("cell {other}"),
    };
    for from in &order {
        for (column, to) in order.iter().enumerate() {
            let stated = ["rows", "egress_rows", "ingress_rows"].map(|rows| cell(rows, from, column));
            if stated[0].is_none() {
                continue;
            }
            let probe = json!({"from": from, "to": to, "protocol": matrix["protocol"], "port": matrix["port"]});
            checks.push(Check { probe: serde_json::from_value(probe).unwrap(), stated });
        }
    }
}

/// Runs a file of cases with steps, as it is or in IPv6.
fn run_file(name: &str, expected: usize) {
    let Some(file) = read(name) else { return };
    for (family, file) in [("IPv4", file.clone()), ("IPv6", readdress(&file))] {
        let mut tally = Tally::default();
        for case in list(&file, "cases") {
            for (index, step) in list(case, "steps").iter().enumerate() {
                run_step(&mut tally, &format!("{} step {index}", text(case, "id")), &step["world"], step);
            }
        }
        tally.finish(&format!("{name} in {family}"), expected);
    }
}

#[test]
fn kubernetes_own_suite() {
    run_file("np-k8s-e2e.json", 506);
}

#[test]
fn recipes() {
    run_file("np-recipes.json", 40);
}

#[test]
fn generated() {
    run_file("np-generated-v4.json", 111_036);
}

#[test]
fn edge_cases() {
    let Some(file) = read("edge-cases-np.json") else { return };
    let mut tally = Tally::default();
    for case in list(&file, "cases").iter().filter(|case| text(case, "api_server") != "reject") {
        run_step(&mut tally, text(case, "id"), &file["world"], case);
    }
    tally.finish("edge-cases-np.json", 169);
}
