//! `penstock-cni`: called by a container runtime, a CNI plugin; called with words, what an administrator or an uninstaller
//! needs of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cni::SpliceError;
use cni::install::{self, Places};
use cni::netns::Namespace;
use cni::plugin::{self, Environment};
use cni::sandbox::{self, Sandbox};
use cni::splice::{self, Target};
use cni::state::{PodIdentity, Store};

const HELP: &str = "\
penstock-cni is a chained CNI plugin: a container runtime calls it with CNI_COMMAND.
By hand (the directory is /run/penstock/netns, or PENSTOCK_CNI_DIRECTORY):
  penstock-cni list                       pods behind wires, one a line
  penstock-cni verify CONTAINER           is the pod behind whole wires?
  penstock-cni splice CONTAINER NETNS     put a running pod behind wires
  penstock-cni splice --json              the same for a sandbox that is read as JSON; tells its wires as JSON
  penstock-cni scan --json                running pods with an interface behind no wire, as JSON
  penstock-cni chained --json             does the configuration that runtimes take name this plugin?
  penstock-cni unsplice CONTAINER         give a running pod its interfaces back
  penstock-cni repair                     finish what a crash left half done, remove what is left over
  penstock-cni follow                     pass link state and MTU on through all wires, once
  penstock-cni install                    copy this binary to /opt/cni/bin (PENSTOCK_CNI_BINARIES) and write our configuration
                                          behind the primary's in /etc/cni/net.d (PENSTOCK_CNI_CONFLISTS)
                                          --binary: the binary alone; --watch: and keep the configuration in step
  penstock-cni uninstall [DIRECTORY…]     take our configuration, all wires and this binary off the node, and these directories if
                                          nothing is in them
  penstock-cni tear-down                  remove the directory, when no pod is behind a wire
";

/// The interface by which runtimes know a pod's network when nobody says another one.
const USUAL_INTERFACE: &str = "eth0";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() && std::env::var_os("CNI_COMMAND").is_some() {
        return as_plugin();
    }
    match by_hand(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("penstock-cni: {error}");
            ExitCode::from(3)
        }
    }
}

fn as_plugin() -> ExitCode {
    match plugin::run(&Environment::of_process(), std::io::stdin()) {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            print!("{}", error.to_json());
            ExitCode::FAILURE
        }
    }
}

fn by_hand(words: &[&str]) -> Result<ExitCode, SpliceError> {
    let store = std::env::var_os("PENSTOCK_CNI_DIRECTORY").map_or_else(Store::default, Store::at);
    let host = Namespace::current()?;
    match *words {
        ["list"] => list(&store),
        ["verify", container] => {
            let faults = splice::verify(&store, &host, container)?;
            faults.iter().for_each(|fault| println!("{fault}"));
            Ok(ExitCode::from(u8::from(!faults.is_empty())))
        }
        ["splice", container, netns] => {
            let pod = PodIdentity::default();
            let netns = Path::new(netns);
            let target = Target { container, netns, attachment: USUAL_INTERFACE, network: None, pod };
            let outcome = splice::splice(&store, &host, &target)?;
            outcome.warnings.iter().for_each(|warning| eprintln!("penstock-cni: {warning}"));
            println!("{} wires made, cut off for {:?}", outcome.made, outcome.cut);
            Ok(ExitCode::SUCCESS)
        }
        ["splice", "--json"] => splice_json(&store, &host),
        ["scan", "--json"] => {
            let results =
                std::env::var_os("PENSTOCK_CNI_RESULTS").map_or_else(|| sandbox::RESULTS.into(), PathBuf::from);
            println!("{}", serde_json::json!(sandbox::unspliced(&store, &host, &results)?));
            Ok(ExitCode::SUCCESS)
        }
        ["chained", "--json"] => match install::is_chained(&places().conflists) {
            Ok(chained) => {
                println!("{}", serde_json::json!(chained));
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Ok(refused(&error.to_string())),
        },
        ["follow"] => {
            for splice in store.list()?.0 {
                if let Err(error) = splice::follow(&splice, &host) {
                    eprintln!("penstock-cni: {}: {error}", splice.container);
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        ["unsplice", container] => {
            println!("{} wires undone", splice::unsplice(&store, &host, container, None)?);
            Ok(ExitCode::SUCCESS)
        }
        ["repair"] => {
            let repaired = splice::repair(&store, &host)?;
            repaired.finished.iter().for_each(|container| println!("finished {container}"));
            repaired.removed.iter().for_each(|container| println!("removed {container}"));
            repaired.failed.iter().for_each(|(container, reason)| eprintln!("penstock-cni: {container}: {reason}"));
            Ok(ExitCode::from(u8::from(!repaired.failed.is_empty())))
        }
        ["install"] => Ok(install(What::Once)),
        ["install", "--binary"] => Ok(install(What::Binary)),
        ["install", "--watch"] => Ok(install(What::Watch)),
        ["help"] | [.., "--help" | "-h"] => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        // Anything that is no directory's name would be taken for a call without one.
        ["uninstall", ref directories @ ..]
            if let Some(wrong) = directories.iter().find(|name| !name.starts_with('/')) =>
        {
            eprintln!("penstock-cni: uninstall: {wrong:?} is no absolute path of a directory; nothing was done");
            Ok(ExitCode::from(2))
        }
        ["uninstall", ref directories @ ..] => match install::uninstall(&store, &host, &places(), directories) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(reason) => Ok(refused(&reason)),
        },
        ["version" | "--version" | "-V"] => {
            println!("penstock-cni {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        ["tear-down"] => Ok(ExitCode::from(u8::from(!store.tear_down()?))),
        _ => {
            let said = words.join(" ");
            eprintln!(
                "penstock-cni: {said:?} is no command of it, or lacks an argument; penstock-cni --help tells them all"
            );
            Ok(ExitCode::from(2))
        }
    }
}

/// Puts the pod behind wires whose sandbox is read as JSON; answers with the pod and its wires in the same way.
fn splice_json(store: &Store, host: &Namespace) -> Result<ExitCode, SpliceError> {
    let sandbox: Sandbox = match serde_json::from_reader(std::io::stdin()) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("penstock-cni: standard input is no sandbox as `penstock-cni scan --json` shows them: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    let target = Target {
        container: &sandbox.container,
        netns: &sandbox.netns,
        attachment: &sandbox.attachment,
        network: Some(&sandbox.network),
        pod: sandbox.pod.clone(),
    };
    let outcome = splice::splice(store, host, &target)?;
    outcome.warnings.iter().for_each(|warning| eprintln!("penstock-cni: {warning}"));
    println!("{}", serde_json::json!(cni::protocol::Pod::from(&outcome.splice)));
    Ok(ExitCode::SUCCESS)
}

fn places() -> Places {
    let place = |name: &str, usual: PathBuf| std::env::var_os(name).map_or(usual, PathBuf::from);
    let usual = Places::default();
    Places {
        binaries: place("PENSTOCK_CNI_BINARIES", usual.binaries),
        conflists: place("PENSTOCK_CNI_CONFLISTS", usual.conflists),
    }
}

fn refused(reason: &str) -> ExitCode {
    eprintln!("penstock-cni: {reason}");
    ExitCode::from(3)
}

/// How much is installed.
#[derive(PartialEq, Eq)]
enum What {
    Binary,
    Once,
    Watch,
}

/// Installs; without a primary yet, a watcher waits for it, and who does not watch is told.
fn install(what: What) -> ExitCode {
    let places = places();
    if what == What::Watch && std::env::var_os("PENSTOCK_UNINSTALL").is_some_and(|value| !value.is_empty()) {
        // The daemon beside takes everything off the node: nothing is to come back.
        install::withhold(&places, |text| eprintln!("penstock-cni: {text}"));
    }
    let own = std::env::current_exe().map_err(|error| format!("this program cannot be found ({error})"));
    match own.and_then(|own| install::install_binary(&own, &places)) {
        Ok(true) => eprintln!("penstock-cni: {} is there", places.binaries.join(install::BINARY).display()),
        Ok(false) => {}
        Err(reason) => return refused(&reason),
    }
    match what {
        What::Binary => return ExitCode::SUCCESS,
        What::Watch => install::watch(&places, |text| eprintln!("penstock-cni: {text}")),
        What::Once => {}
    }
    match install::follow(&places.conflists, install::CONFLIST) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => refused(&error.to_string()),
    }
}

fn list(store: &Store) -> Result<ExitCode, SpliceError> {
    let (splices, broken) = store.list()?;
    for splice in &splices {
        let wires: Vec<String> =
            splice.wires.iter().map(|wire| format!("{}–{}", wire.interface, wire.host_interface)).collect();
        println!("{} {}/{} {}", splice.container, splice.pod.namespace, splice.pod.name, wires.join(" "));
    }
    broken.iter().for_each(|error| eprintln!("penstock-cni: {error}"));
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}
