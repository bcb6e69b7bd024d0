//! Places at which a test may have the process die, or dawdle.

/// The variable that names the place.
pub(crate) const VARIABLE: &str = "PENSTOCK_CNI_FAULT";

/// Kills the process here, as `kill -9` would, if the environment names this place; `PLACE:slow` only has it wait as long as a busy
/// machine would. Only in builds with debug assertions; elsewhere it is nothing.
pub(crate) fn point(name: &str) {
    let Some(wanted) = std::env::var_os(VARIABLE).filter(|_| cfg!(debug_assertions)) else { return };
    if wanted == name {
        let _dying = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    } else if wanted == format!("{name}:slow").as_str() {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
