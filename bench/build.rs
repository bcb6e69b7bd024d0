//! Compiles the XDP programs of the load generator and of the counting sink. `CLANG` names another compiler.

use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

const FOLDER: &str = "src/pktgen/bpf";
const PROGRAMS: [&str; 2] = ["generator", "sink"];

fn main() {
    println!("cargo:rerun-if-changed={FOLDER}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for program in PROGRAMS {
        let source = format!("{FOLDER}/{program}.bpf.c");
        // -g: maps are described by BTF.
        let compiled = Command::new(&clang)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-c", &source, "-o"])
            .arg(output.join(format!("{program}.bpf.o")))
            .status();
        match compiled {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{clang} could not compile {source} for BPF ({status})"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!("{clang} is needed to compile {source}: install it with `apt install clang`, or set CLANG")
            }
            Err(error) => panic!("{clang} could not be run: {error}"),
        }
    }
}
