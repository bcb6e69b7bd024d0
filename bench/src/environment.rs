//! What a measurement was taken on: a figure without it says little.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane::port::netns::{self, NetworkNamespace};
use serde::{Deserialize, Serialize};

/// The machine, its software, and what was run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// When, in UTC (RFC 3339).
    pub time: String,
    /// The command line.
    pub command: Vec<String>,
    /// Penstock's version, and the commit when run from a checkout.
    pub penstock: String,
    /// The kernel's name, release, version and machine.
    pub kernel: String,
    /// The CPU's model.
    pub cpu: String,
    /// How many CPUs this process may use, and how many there are.
    pub cpus: (usize, usize),
    /// Instruction sets that matter: of `sse4_2 avx2 avx512f avx512vl bmi2 aes`, those there are.
    pub features: Vec<String>,
    /// Caches by level, as the kernel names sizes.
    pub caches: BTreeMap<String, String>,
    /// Memory, in MB.
    pub memory_mb: u64,
    /// The frequency governor, or why there is none to see.
    pub governor: String,
    /// Whether it is a virtual machine, as far as the CPU tells.
    pub is_virtual: bool,
    /// The clock that the kernel reads time from.
    pub clock_source: String,
    /// Transparent huge pages.
    pub huge_pages: String,
    /// The load average over a minute before the measurement: other work on the machine.
    pub load: String,
    /// Versions of tools that took part, or `missing`.
    pub tools: BTreeMap<String, String>,
    /// Interfaces that took part, by namespace and name.
    pub interfaces: BTreeMap<String, Interface>,
}

/// An interface that took part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The driver, with its version.
    pub driver: String,
    /// The MTU and the rest of what `ip -d link` says on its lines.
    pub link: String,
    /// Queues, as `ethtool -l` shows them.
    pub channels: String,
    /// Offloads that are on.
    pub offloads: Vec<String>,
}

impl Environment {
    /// Of this machine, now.
    pub fn record() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let flags = field("flags");
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let wanted = ["sse4_2", "avx2", "avx512f", "avx512vl", "bmi2", "aes"];
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        Environment {
            time: timestamp(SystemTime::now()),
            command: std::env::args().collect(),
            penstock: version(),
            kernel: kernel(),
            cpu: field("model name"),
            cpus: (usable, cpuinfo.lines().filter(|line| line.starts_with("processor")).count()),
            features: wanted.iter().filter(|flag| flags.contains(flag)).map(|flag| (*flag).to_owned()).collect(),
            caches: caches(),
            memory_mb: memory(),
            governor: or(
                read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
                "none (the host's, if virtual)",
            ),
            is_virtual: flags.contains(&"hypervisor"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            load: read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned(),
            tools: BTreeMap::new(),
            interfaces: BTreeMap::new(),
        }
    }

    /// Adds the version of a tool, as its first line of output says; `missing` when it is not there.
    pub fn add_tool(&mut self, name: &str, arguments: &[&str]) {
        let said = run(name, arguments).unwrap_or_else(|| "missing".to_owned());
        self.tools.insert(name.to_owned(), said.lines().next().unwrap_or_default().trim().to_owned());
    }

    /// Adds an interface of a namespace (`None` is our own). What can't be seen stays empty.
    pub fn add_interface(&mut self, namespace: Option<&str>, name: &str) {
        let look = || Interface::read(name);
        let found = match namespace {
            None => Some(look()),
            Some(text) => NetworkNamespace::open(text).ok().and_then(|open| netns::enter(&open, look).ok()),
        };
        let key = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        self.interfaces.insert(key, found.unwrap_or_default());
    }
}

impl Interface {
    /// Of an interface in the calling thread's namespace, which child processes inherit.
    fn read(name: &str) -> Self {
        let ethtool = |flag: &str| run("ethtool", &[flag, name]).unwrap_or_default();
        let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let driver = ethtool("-i");
        let wanted = driver.lines().filter(|line| line.starts_with("driver:") || line.starts_with("version:"));
        let offloads = ethtool("-k");
        let on = offloads.lines().filter_map(|line| line.trim().strip_suffix(": on"));
        Interface {
            driver: joined(&wanted.collect::<Vec<_>>().join(" ")),
            link: joined(&run("ip", &["-d", "link", "show", "dev", name]).unwrap_or_default()),
            channels: joined(&ethtool("-l")),
            offloads: on.map(str::to_owned).collect(),
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} · {} · {}", self.time, self.penstock, self.kernel)?;
        let kind = if self.is_virtual { "virtual machine" } else { "machine" };
        write!(
            f,
            "{} of {} CPUs, {} ({}), {} MB, {kind}",
            self.cpus.0,
            self.cpus.1,
            self.cpu,
            self.features.join(" "),
            self.memory_mb
        )?;
        for (level, size) in &self.caches {
            write!(f, ", {level} {size}")?;
        }
        writeln!(f)?;
        writeln!(f, "governor {}, clock {}, load {}", self.governor, self.clock_source, self.load)?;
        for (tool, version) in &self.tools {
            writeln!(f, "{tool}: {version}")?;
        }
        write!(f, "command: {}", self.command.join(" "))
    }
}

/// A file's text without the white space around it; empty when it can't be read.
fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn or(text: String, fallback: &str) -> String {
    if text.is_empty() { fallback.to_owned() } else { text }
}

/// What a program printed, if it is there and said something.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text =
        String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).into_owned();
    (!text.trim().is_empty()).then_some(text)
}

fn version() -> String {
    let commit = run("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"])
        .filter(|text| text.trim().chars().all(|c| c.is_ascii_hexdigit()));
    match commit {
        Some(commit) => format!("penstock {} ({})", env!("CARGO_PKG_VERSION"), commit.trim()),
        None => format!("penstock {}", env!("CARGO_PKG_VERSION")),
    }
}

fn kernel() -> String {
    let name = rustix::system::uname();
    [name.sysname(), name.release(), name.version(), name.machine()]
        .map(|part| part.to_string_lossy().into_owned())
        .join(" ")
}

fn caches() -> BTreeMap<String, String> {
    let folder = "/sys/devices/system/cpu/cpu0/cache";
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let caches = entries.filter_map(|entry| {
        let of = |file: &str| read(&format!("{}/{file}", entry.path().display()));
        let level = match of("type").as_str() {
            "" => return None,
            "Data" => format!("L{}d", of("level")),
            "Instruction" => format!("L{}i", of("level")),
            _ => format!("L{}", of("level")),
        };
        Some((level, of("size")))
    });
    caches.collect()
}

fn memory() -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// RFC 3339 in UTC, to the second.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the civil calendar (Hinnant: "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_dates() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn the_machine_is_described() {
        let mut environment = Environment::record();
        assert!(environment.cpus.0 >= 1 && environment.cpus.1 >= environment.cpus.0, "{environment}");
        assert!(environment.kernel.starts_with("Linux") && environment.memory_mb > 0, "{environment}");
        environment.add_tool("penstock-no-such-tool", &["--version"]);
        assert_eq!(environment.tools["penstock-no-such-tool"], "missing");
        environment.add_interface(None, "lo");
        let text = serde_json::to_string(&environment).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), environment);
    }
}
