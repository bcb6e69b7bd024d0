//! Places at which a test may have the process die.

/// The variable that names the place.
pub(crate) const VARIABLE: &str = "PENSTOCK_CNI_FAULT";

/// Kills the process here, as `kill -9` would, if the environment names this place. Only in builds with debug
/// assertions; elsewhere it is nothing.
pub(crate) fn point(name: &str) {
    if cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        let _dying = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
