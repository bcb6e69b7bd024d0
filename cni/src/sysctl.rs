//! Settings of one interface below `/proc/sys/net`, as the calling thread's namespace has them.

use std::fs;
use std::path::Path;

/// Where interfaces have settings.
const PLACES: [&str; 4] = ["ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"];

/// Settings that are set by other means, or that are no settings:
/// the MTU of IPv6 follows the interface's, how addresses are made is told by netlink, and the secret from which they are
/// made cannot be written twice.
const LEFT_OUT: [&str; 4] =
    ["ipv6/conf/mtu", "ipv6/conf/addr_gen_mode", "ipv6/conf/stable_secret", "ipv4/conf/mc_forwarding"];

/// A setting: its place, with the interface's name left out (`ipv4/conf/rp_filter`), and its value.
pub(crate) type Setting = (String, String);

/// All settings of an interface that can be read.
pub(crate) fn read(interface: &str) -> Vec<Setting> {
    let mut settings: Vec<Setting> = PLACES.iter().flat_map(|place| read_place(place, interface)).collect();
    settings.sort();
    settings
}

fn read_place(place: &str, interface: &str) -> Vec<Setting> {
    let directory = Path::new("/proc/sys/net").join(place).join(interface);
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let setting = |file: fs::DirEntry| {
        let name = format!("{place}/{}", file.file_name().to_str()?);
        let value = fs::read_to_string(file.path()).ok()?;
        (!LEFT_OUT.contains(&name.as_str())).then(|| (name, value.trim_end().to_owned()))
    };
    files.filter_map(setting).collect()
}

/// Writes those settings that differ from what the interface has. Answers those that were refused, with the reason: none
/// of them keeps a pod from working, and a newer kernel may know settings that can be read but not written.
pub(crate) fn write(interface: &str, settings: &[Setting]) -> Vec<String> {
    let present = read(interface);
    let differs = |setting: &&Setting| present.binary_search(setting).is_err();
    let refused = |(name, value): &Setting| {
        let (place, key) = name.rsplit_once('/')?;
        let path = Path::new("/proc/sys/net").join(place).join(interface).join(key);
        let error = fs::write(&path, value).err()?;
        Some(format!("{} could not be set to {value}: {error}", path.display()))
    };
    settings.iter().filter(differs).filter_map(refused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_loopback_interface_are_found_without_its_name() {
        let settings = read("lo");
        assert!(settings.iter().any(|(name, _)| name == "ipv4/conf/rp_filter"), "{settings:?}");
        assert!(settings.iter().all(|(name, _)| !LEFT_OUT.contains(&name.as_str())));
        assert!(read("no-such-interface").is_empty());
    }
}
