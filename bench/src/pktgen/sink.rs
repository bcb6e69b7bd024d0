//! Counting at the far end, in an XDP program that drops what it has counted.
#![allow(unsafe_code)]

use std::fmt;

use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use super::device::{self, Device};
use super::error::{Error, os_error};
use super::report::SinkCounters;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// Steps of the latency histogram in an octave, as a power of two (`STEPS_LOG` in the program).
const STEPS_LOG: u32 = 5;
const BINS: u32 = 64 << STEPS_LOG;

/// Groups with a sequence of their own.
const GROUPS: u32 = 1 << 16;

/// What a [`Sink`] counts, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkSpec {
    /// The interface.
    pub interface: String,
    /// Its network namespace: a name, a path or a process number. `None` is the caller's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Whether only stamped frames are counted and dropped; others go on to the kernel. Otherwise all UDP and TCP is.
    #[serde(default)]
    pub stamped_only: bool,
    /// Whether the time since each stamp is counted too (about 30 ns a frame).
    #[serde(default)]
    pub latency: bool,
}

/// An XDP program on an interface that counts and drops. Dropping the sink detaches it.
///
/// Frames are counted on the CPU that runs the device's receive queue; it needs no thread of its own.
pub struct Sink {
    spec: SinkSpec,
    program: Ebpf,
    _link: FdLink,
    /// Whether the kernel runs the program on socket buffers, for want of support in the driver.
    is_generic: bool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({})", self.spec.interface)
    }
}

/// `struct counters` in the program.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawCounters([u64; 7]);

// SAFETY: bytemuck holds the type to be plain old data.
unsafe impl aya::Pod for RawCounters {}

/// `struct group` in the program.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawGroup([u64; 2]);

// SAFETY: bytemuck holds the type to be plain old data.
unsafe impl aya::Pod for RawGroup {}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Settings {
    stamped_only: u32,
    has_latency: u32,
}

// SAFETY: bytemuck holds the type to be plain old data.
unsafe impl aya::Pod for Settings {}

impl Sink {
    /// Attaches the program, by the driver where that can and generic otherwise.
    ///
    /// # Errors
    /// No such interface, another XDP program on it, no privilege.
    pub fn open(spec: SinkSpec) -> Result<Self, Error> {
        let (program, link, is_generic) = device::within(spec.namespace.as_deref(), &spec.interface, || attach(&spec))?;
        Ok(Sink { spec, program, _link: link, is_generic })
    }

    /// Whether the kernel runs the program on socket buffers, for want of support in the driver: slower.
    pub fn is_generic(&self) -> bool {
        self.is_generic
    }

    fn fail(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        Error::system(&self.spec.interface, "reading the sink's counters", os_error(error))
    }

    fn map(&self, name: &str) -> &aya::maps::Map {
        self.program.map(name).expect("the object defines the map")
    }

    /// What each CPU has counted since the sink was opened.
    ///
    /// # Errors
    /// Only when the kernel refuses to read a map.
    pub fn counters_by_cpu(&self) -> Result<Vec<SinkCounters>, Error> {
        let map =
            PerCpuArray::<&MapData, RawCounters>::try_from(self.map("counters")).map_err(|error| self.fail(&error))?;
        let values = map.get(&0, 0).map_err(|error| self.fail(&error))?;
        let counters = values.iter().map(|&RawCounters(raw)| {
            let [frames, bytes, stamped, reordered, duplicates, stale, passed] = raw;
            SinkCounters { frames, bytes, stamped, reordered, duplicates, stale, passed }
        });
        Ok(counters.collect())
    }

    /// What all CPUs have counted since the sink was opened.
    ///
    /// # Errors
    /// As [`Sink::counters_by_cpu`].
    pub fn counters(&self) -> Result<SinkCounters, Error> {
        let mut sum = SinkCounters::default();
        self.counters_by_cpu()?.into_iter().for_each(|counters| sum += counters);
        Ok(sum)
    }

    /// Forgets the sequence numbers seen so far (not the counters): call it before another generator starts, whose numbers begin
    /// anew, if reordering and duplicates matter.
    ///
    /// # Errors
    /// Only when the kernel refuses to write a map.
    pub fn restart(&mut self) -> Result<(), Error> {
        let interface = self.spec.interface.clone();
        let fail =
            |error: aya::maps::MapError| Error::system(&interface, "clearing the sink's sequences", os_error(&error));
        let map = self.program.map_mut("groups").expect("the object defines the map");
        let mut groups = Array::<&mut MapData, RawGroup>::try_from(map).map_err(fail)?;
        for group in 0..GROUPS {
            groups.set(group, RawGroup([0; 2]), 0).map_err(fail)?;
        }
        Ok(())
    }

    /// The latencies counted since the sink was opened, when [`SinkSpec::latency`] asks for them: pairs of a time in nanoseconds (the
    /// middle of a bin, at most 1.6 % off) and how many frames took it, in order of time.
    ///
    /// # Errors
    /// As [`Sink::counters`].
    pub fn latencies(&self) -> Result<Vec<(u64, u64)>, Error> {
        let map = PerCpuArray::<&MapData, u64>::try_from(self.map("latencies")).map_err(|error| self.fail(&error))?;
        let mut bins = Vec::new();
        for bin in 0..BINS {
            let count: u64 = map.get(&bin, 0).map_err(|error| self.fail(&error))?.iter().sum();
            if count > 0 {
                bins.push((middle(bin), count));
            }
        }
        Ok(bins)
    }
}

/// The time in the middle of a bin of the program's histogram, in nanoseconds.
fn middle(bin: u32) -> u64 {
    let (octave, step) = (bin >> STEPS_LOG, u64::from(bin & ((1 << STEPS_LOG) - 1)));
    match octave {
        0 => step,
        _ => {
            let width = 1u64 << (octave - 1);
            ((1u64 << STEPS_LOG) + step) * width + width / 2
        }
    }
}

fn attach(spec: &SinkSpec) -> Result<(Ebpf, FdLink, bool), Error> {
    let fail = |action: &'static str| {
        move |error: &(dyn std::error::Error + 'static)| Error::system(&spec.interface, action, os_error(error))
    };
    let device = Device::find(&spec.interface)?;
    let settings = Settings { stamped_only: spec.stamped_only.into(), has_latency: spec.latency.into() };
    let loaded = EbpfLoader::new().override_global("settings", &settings, true).load(OBJECT);
    let mut program = loaded.map_err(|error| fail("loading the sink's program")(&error))?;
    let xdp: &mut Xdp = program
        .program_mut("count")
        .expect("the object defines the program")
        .try_into()
        .map_err(|error: ProgramError| fail("loading the sink's program")(&error))?;
    xdp.load().map_err(|error| fail("loading the sink's program")(&error))?;
    let mut attach = |mode: XdpMode| {
        let id = xdp.attach_to_if_index(device.index, mode)?;
        FdLink::try_from(xdp.take_link(id)?).map_err(|_| {
            ProgramError::SyscallError(aya::sys::SyscallError {
                call: "bpf_link_create",
                io_error: std::io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            })
        })
    };
    let (link, is_generic) = match attach(XdpMode::Driver) {
        Err(error) if os_error(&error).raw_os_error() == Some(libc::EOPNOTSUPP) => (attach(XdpMode::Skb), true),
        result => (result, false),
    };
    let link = link.map_err(|error| fail("attaching the sink's program")(&error))?;
    Ok((program, link, is_generic))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bin that the program counts a time in.
    fn bin(value: u64) -> u32 {
        match value >> STEPS_LOG {
            0 => value as u32,
            _ => {
                let log = value.ilog2();
                ((log - STEPS_LOG + 1) << STEPS_LOG) + ((value >> (log - STEPS_LOG)) & ((1 << STEPS_LOG) - 1)) as u32
            }
        }
    }

    #[test]
    fn the_middle_of_a_bin_is_near_what_it_counts() {
        let mut value = 1u64;
        while value < 1 << 62 {
            let found = middle(bin(value));
            assert!(found.abs_diff(value) * 60 <= value, "{value} is counted as {found}");
            value += value / 7 + 1;
        }
    }
}
