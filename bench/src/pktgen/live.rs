//! Frames that the kernel makes by running an XDP program (`BPF_PROG_RUN` with live frames): no socket, no copy.
//!
//! The program (`bpf/generator.bpf.c`) writes each frame and redirects it to the interface; what paces it at a fixed rate is in
//! the program, too. One system call makes some ten milliseconds of frames, in batches that the device gets at once.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::{Array, MapData};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use bytemuck::{Pod, Zeroable};
use dataplane::address::MacAddress;

use super::anchor::Anchor;
use super::device::{self, Device, Transmitted};
use super::error::{Error, os_error};
use super::flows::{DRAWS, draws, first_random};
use super::frame::HEADER;
use super::plan::{PairEntry, Plan};
use super::report::{Progress, Report};
use super::spec::{Order, PortChoice, Spec};
use super::station::{Responder, Station};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator.bpf.o"));

/// The most frames that the device gets at once; also what the kernel makes before it looks whether it should rest.
const MAX_BATCH: u32 = 64;

/// How long frames of one batch are apart at most, at a fixed rate.
const BATCH_TIME: f64 = 10_000.0;

/// How long one system call is to take.
const CALL_TIME: f64 = 20e6;

/// Above this distance between frames the generator sleeps rather than spins in the kernel.
const SLEEP_ABOVE: f64 = 100_000.0;

/// `struct settings` in the program.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Settings {
    interface: u32,
    is_v6: u32,
    is_tcp: u32,
    is_reversed: u32,
    has_stamp: u32,
    pairs: u32,
    flows: u32,
    order: u32,
    group_mask: u32,
    batch: u32,
    sizes: u32,
    new_per_second: u32,
    space: u64,
    interval: u64,
    ip_sum: u32,
    transport_sum: u32,
    first_port: u16,
    reserved: [u16; 3],
    size: [u16; 16],
}

/// `struct state` in the program.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct State {
    header: [[u8; 16]; 5],
    sent: u64,
    bytes: u64,
    cursor: u64,
    random: u64,
    first: u64,
    base: u64,
    start: u64,
    due: u64,
    stamp: u64,
    latest: u64,
    left: u32,
    size_index: u32,
}

/// What aya takes: bytes of any value, without padding.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: bytemuck holds these types to be plain old data.
unsafe impl<T: Pod> aya::Pod for Plain<T> {}

/// Runs the generator on the calling thread until its limit or until it is stopped.
pub(super) fn run(
    spec: &Spec,
    plan: &Plan,
    answer: bool,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Report, Error> {
    let device = Device::find(&spec.interface)?;
    let mac = match spec.destination_mac {
        Some(mac) => mac,
        None => Station::open(PortChoice::AfPacket, &spec.interface, plan.sources())?
            .resolve(spec.gateway.unwrap_or(plan.destination), plan.source)?,
    };
    // Opened here, in the interface's namespace.
    let _responder = answer.then(|| Responder::start(None, &spec.interface, plan.sources())).transpose()?;
    let mut generator = Generator::load(spec, plan, &device, mac)?;
    let (user, system) = device::thread_times();
    let dropped = Transmitted::read(&spec.interface).dropped;
    generator.start()?;
    while !stop.load(Ordering::Relaxed) && generator.step(progress)? {}
    let state = generator.state()?;
    let elapsed = device::now() - state.start;
    let (user_after, system_after) = device::thread_times();
    Ok(Report {
        offered: state.sent,
        refused: Transmitted::read(&spec.interface).dropped.saturating_sub(dropped),
        bytes: state.bytes,
        elapsed: Duration::from_nanos(elapsed),
        user_time: user_after - user,
        system_time: system_after - system,
        latest: Duration::from_nanos(state.latest),
        sizes: plan.sizes.clone(),
    })
}

struct Generator<'a> {
    spec: &'a Spec,
    program: Ebpf,
    /// Dropped after the program.
    _anchor: Option<Anchor>,
    batch: u32,
    interval: Option<f64>,
    /// What the kernel is given to start from: as long as the largest frame.
    template: Vec<u8>,
    /// Frames so far, and how many a nanosecond the last call made.
    sent: u64,
    speed: f64,
    start: u64,
    end: Option<u64>,
}

impl<'a> Generator<'a> {
    fn load(spec: &'a Spec, plan: &'a Plan, device: &Device, mac: MacAddress) -> Result<Self, Error> {
        let fail = |action: &'static str| move |error: Error| with_action(error, action);
        let interval = plan.interval;
        let batch =
            interval.map_or(MAX_BATCH, |interval| (BATCH_TIME / interval).clamp(1.0, f64::from(MAX_BATCH)) as u32);
        let settings = settings(spec, plan, device, batch);
        let groups = if plan.layout.has_stamp { plan.groups } else { 1 };
        let draws = if matches!(spec.flows.order, Order::Zipf { .. }) { DRAWS } else { 1 };
        let loaded = EbpfLoader::new()
            .override_global("settings", &Plain(settings), true)
            .map_max_entries("pairs", plan.pairs.len() as u32)
            .map_max_entries("sequences", groups)
            .map_max_entries("draws", draws)
            .load(OBJECT);
        let program = loaded.map_err(|error| system(spec, &error)).map_err(fail("loading the generator's program"))?;
        let mut generator = Generator {
            spec,
            program,
            _anchor: None,
            batch,
            interval,
            template: vec![0; plan.sizes.iter().copied().max().unwrap_or(60).into()],
            sent: 0,
            speed: 0.001,
            start: 0,
            end: None,
        };
        generator.fill(plan)?;
        let state = State {
            header: words(plan.header(mac, spec.source_mac.unwrap_or(device.mac))),
            random: first_random(spec.flows.seed),
            first: plan.first,
            base: plan.first,
            ..State::zeroed()
        };
        generator.set_state(state)?;
        let xdp: &mut Xdp = generator
            .program
            .program_mut("generate")
            .expect("the object defines the program")
            .try_into()
            .map_err(|error: aya::programs::ProgramError| system(spec, &error))?;
        xdp.load().map_err(|error| system(spec, &error)).map_err(fail("loading the generator's program"))?;
        generator._anchor = Anchor::attach(xdp);
        Ok(generator)
    }

    /// Fills the tables of pairs and of draws.
    fn fill(&mut self, plan: &Plan) -> Result<(), Error> {
        let spec = self.spec;
        let mut pairs: Array<&mut MapData, Plain<PairEntry>> = self.array("pairs")?;
        for (i, pair) in (0..).zip(&plan.pairs) {
            pairs.set(i, Plain(*pair), 0).map_err(|error| system(spec, &error))?;
        }
        if let Order::Zipf { exponent } = spec.flows.order {
            let mut table: Array<&mut MapData, u32> = self.array("draws")?;
            for (i, flow) in (0..).zip(draws(spec.flows.active, exponent, spec.flows.seed)) {
                table.set(i, flow, 0).map_err(|error| system(spec, &error))?;
            }
        }
        Ok(())
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>, Error> {
        let map = self.program.map_mut(name).expect("the object defines the map");
        Array::try_from(map).map_err(|error| system(self.spec, &error))
    }

    fn state(&mut self) -> Result<State, Error> {
        let spec = self.spec;
        let state = self.array::<Plain<State>>(".bss")?.get(&0, 0);
        state.map(|plain| plain.0).map_err(|error| system(spec, &error))
    }

    fn set_state(&mut self, state: State) -> Result<(), Error> {
        let spec = self.spec;
        self.array(".bss")?.set(0, Plain(state), 0).map_err(|error| system(spec, &error))
    }

    /// Sets the time that everything counts from.
    fn start(&mut self) -> Result<(), Error> {
        let mut state = self.state()?;
        state.start = device::now();
        self.start = state.start;
        self.end = self.spec.limit.duration.map(|duration| self.start + duration.as_nanos() as u64);
        self.set_state(state)
    }

    /// How many frames the next call is to make: some milliseconds of them, and no more than are left. 0 at the end.
    fn next_count(&self, now: u64) -> u64 {
        let left = self.spec.limit.frames.map_or(u64::MAX, |limit| limit.saturating_sub(self.sent));
        let left_time = self.end.map_or(u64::MAX, |end| end.saturating_sub(now));
        let until = (CALL_TIME).min(left_time as f64);
        let due = match self.interval {
            // Frames whose time falls before the end of the call, and of the run.
            Some(interval) => {
                let until = (now - self.start) as f64 + until;
                let last = self.end.map_or(f64::MAX, |end| (end - self.start) as f64);
                ((until.min(last) / interval).ceil() as u64).saturating_sub(self.sent)
            }
            None if left_time == 0 => 0,
            None => ((until * self.speed) as u64).next_multiple_of(MAX_BATCH.into()),
        };
        due.min(left)
    }

    /// Makes some frames. Answers whether to go on.
    fn step(&mut self, progress: &Progress) -> Result<bool, Error> {
        let before = device::now();
        let mut count = self.next_count(before);
        if let Some(interval) = self.interval {
            let due = self.start + (self.sent as f64 * interval) as u64;
            if self.end.is_some_and(|end| due >= end) {
                return Ok(false);
            }
            if interval > SLEEP_ABOVE && due > before {
                // What wakes late is sent late, as at any rate: the stamp says when it was due.
                std::thread::sleep(Duration::from_nanos((due - before).min(CALL_TIME as u64)));
                return Ok(true);
            }
            count = if interval > SLEEP_ABOVE { count.min(1) } else { count };
        }
        if count == 0 {
            // At a fixed rate the next frame is not due in this call; flat out, it is the end.
            let is_full = self.spec.limit.frames.is_some_and(|limit| self.sent >= limit);
            return Ok(self.interval.is_some() && !is_full);
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.template);
        options.repeat = count as u32;
        options.attrs = TestRunAttrs::new().xdp_live_frames(self.batch);
        let xdp: &Xdp = self
            .program
            .program("generate")
            .expect("the object defines the program")
            .try_into()
            .expect("an XDP program");
        match xdp.test_run(options) {
            Ok(_) => {}
            Err(error) if os_error(&error).raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(with_action(system(self.spec, &error), "running the generator's program")),
        }
        let state = self.state()?;
        let sent = state.sent;
        progress.set(sent, state.bytes);
        let took = (device::now() - before).max(1);
        self.speed = ((sent - self.sent) as f64 / took as f64).clamp(1e-6, 1.0);
        self.sent = sent;
        Ok(true)
    }
}

fn settings(spec: &Spec, plan: &Plan, device: &Device, batch: u32) -> Settings {
    let mut size = [0; 16];
    size[..plan.sizes.len()].copy_from_slice(&plan.sizes);
    Settings {
        interface: device.index,
        is_v6: plan.layout.is_v6.into(),
        is_tcp: plan.layout.is_tcp.into(),
        is_reversed: plan.is_reversed.into(),
        has_stamp: plan.layout.has_stamp.into(),
        pairs: plan.pairs.len() as u32,
        flows: spec.flows.active,
        order: match spec.flows.order {
            Order::Sequential => 0,
            Order::Uniform => 1,
            Order::Zipf { .. } => 2,
        },
        group_mask: plan.groups - 1,
        batch,
        sizes: plan.sizes.len() as u32,
        new_per_second: spec.flows.new_per_second.unwrap_or(0),
        space: plan.space,
        interval: plan.interval.map_or(0, |interval| (interval * f64::from(1u32 << 20)) as u64),
        ip_sum: plan.ip_sum,
        transport_sum: plan.transport_sum,
        first_port: plan.first_port,
        reserved: [0; 3],
        size,
    }
}

fn system(spec: &Spec, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::system(&spec.interface, "preparing the generator's program", os_error(error))
}

/// The same error of another action.
fn with_action(error: Error, action: &'static str) -> Error {
    match error {
        Error::System { interface, source, remedy, .. } => Error::System { interface, action, source, remedy },
        other => other,
    }
}

/// The header in pieces of a length that bytemuck knows.
fn words(header: [u8; HEADER]) -> [[u8; 16]; 5] {
    let mut words = [[0; 16]; 5];
    bytemuck::cast_slice_mut::<_, u8>(&mut words).copy_from_slice(&header);
    words
}
