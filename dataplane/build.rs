//! Compiles the BPF programs of the `af_xdp` and `af_packet` ports. `CLANG` names another compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

const SOURCES: [&str; 2] = ["src/port/af_xdp/redirect.bpf.c", "src/port/drop.bpf.c"];

fn main() {
    println!("cargo:rerun-if-env-changed=CLANG");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
        compile(source);
    }
}

fn compile(source: &str) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = directory.join(Path::new(source).with_extension("o").file_name().expect("a source has a name"));
    // -g: the map is described by BTF.
    let compiled = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", source, "-o"])
        .arg(&object)
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
