//! Compiles the XDP program of the `af_xdp` port. `CLANG` names another compiler.

use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

const SOURCE: &str = "src/port/af_xdp/redirect.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("redirect.bpf.o");
    // -g: the map is described by BTF.
    let compiled = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", SOURCE, "-o"])
        .arg(&object)
        .status();
    match compiled {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile {SOURCE} for BPF ({status})"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            panic!("{clang} is needed to compile {SOURCE}: install it with `apt install clang`, or set CLANG")
        }
        Err(error) => panic!("{clang} could not be run: {error}"),
    }
}
