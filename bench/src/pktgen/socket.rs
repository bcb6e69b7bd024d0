//! Sending over a socket: the same frames as the XDP program's, written here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::frame::{BURST, Burst, Frame};
use dataplane::rules::AddressSet;

use super::device::{self, Transmitted};
use super::error::Error;
use super::flows::Picker;
use super::frame::{self, HEADER, Stamp};
use super::plan::Plan;
use super::report::{Progress, Report};
use super::spec::Spec;
use super::station::Station;

/// How often a generator that has no time to spare looks for questions.
const LOOK: u64 = 1_000_000;

/// A sleep is ended this much early, as waking takes about as long; the rest is spun.
const WAKE: u64 = 80_000;

/// Runs the generator on the calling thread until its limit or until it is stopped.
pub(super) fn run(
    spec: &Spec,
    plan: &Plan,
    answer: bool,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Report, Error> {
    let ours: AddressSet = if answer { plan.sources() } else { AddressSet::new() };
    let mut station = Station::open(spec.port, &spec.interface, ours)?;
    let mac = match spec.destination_mac {
        Some(mac) => mac,
        None => station.resolve(spec.gateway.unwrap_or(plan.destination), plan.source)?,
    };
    let header = plan.header(mac, spec.source_mac.unwrap_or(station.device.mac));
    let dropped = Transmitted::read(&spec.interface).dropped;
    let (user, system) = device::thread_times();
    let mut sender = Sender {
        plan,
        header,
        picker: Picker::new(spec, plan),
        sequences: vec![0; plan.groups as usize],
        size: 0,
        burst: Burst::new(),
        written: 0,
        start: device::now(),
        latest: 0,
    };
    let mut report = sender.run(&mut station, spec, stop, progress)?;
    let (user_after, system_after) = device::thread_times();
    report.user_time = user_after - user;
    report.system_time = system_after - system;
    // What a ring still holds is sent before the port is gone.
    drop(station);
    report.refused = Transmitted::read(&spec.interface).dropped.saturating_sub(dropped);
    Ok(report)
}

struct Sender<'a> {
    plan: &'a Plan,
    header: [u8; HEADER],
    picker: Picker,
    sequences: Vec<u32>,
    size: usize,
    burst: Burst,
    /// Frames that were written: sent, or in the burst.
    written: u64,
    start: u64,
    latest: u64,
}

impl Sender<'_> {
    fn run(
        &mut self,
        station: &mut Station,
        spec: &Spec,
        stop: &AtomicBool,
        progress: &Progress,
    ) -> Result<Report, Error> {
        let end = spec.limit.duration.map(|duration| self.start + duration.as_nanos() as u64);
        let limit = spec.limit.frames.unwrap_or(u64::MAX);
        let (mut bytes, mut looked) = (0, self.start);
        loop {
            let now = device::now();
            if stop.load(Ordering::Relaxed) || self.is_over(now, end, limit) {
                break;
            }
            self.fill(station, now, end, limit);
            let before: usize = self.burst.iter().map(Frame::length).sum();
            if !self.burst.is_empty() {
                station.send(&mut self.burst, now)?;
                bytes += (before - self.burst.iter().map(Frame::length).sum::<usize>()) as u64;
                progress.set(self.written - self.burst.len() as u64, bytes);
            }
            let is_idle = before == 0;
            if is_idle || now - looked > LOOK {
                looked = now;
                station.receive(|_| ())?;
            }
            if is_idle {
                self.rest(now, end);
            }
        }
        let offered = self.written - self.burst.len() as u64;
        self.burst.drain(..).for_each(|frame| station.pool.release(frame));
        Ok(Report {
            offered,
            bytes,
            elapsed: Duration::from_nanos(device::now() - self.start),
            latest: Duration::from_nanos(self.latest),
            sizes: self.plan.sizes.clone(),
            ..Report::default()
        })
    }

    /// When a frame is due.
    fn due(&self, number: u64) -> Option<u64> {
        self.plan.interval.map(|interval| self.start + (number as f64 * interval) as u64)
    }

    fn is_over(&self, now: u64, end: Option<u64>, limit: u64) -> bool {
        // At a fixed rate all frames that are due before the end are sent, even if that takes longer.
        let next = self.due(self.written).unwrap_or(now);
        self.burst.is_empty() && (self.written >= limit || end.is_some_and(|end| now.min(next) >= end || next >= end))
    }

    /// Writes what is due, as far as there is room.
    fn fill(&mut self, station: &mut Station, now: u64, end: Option<u64>, limit: u64) {
        while self.burst.len() < BURST && self.written < limit {
            let due = self.due(self.written);
            if due.unwrap_or(now) > now || end.is_some_and(|end| due.unwrap_or(now) >= end) {
                break;
            }
            let Some(mut chunk) = station.pool.take() else { break };
            let length = usize::from(self.plan.sizes[self.size]);
            let offset = chunk.offset();
            chunk.set_range(offset, length);
            self.write(chunk.bytes_mut(), due.unwrap_or(now), now);
            self.burst.push(Frame::new(chunk));
        }
    }

    fn write(&mut self, bytes: &mut [u8], due: u64, now: u64) {
        let flow = self.picker.next(now - self.start);
        self.latest = self.latest.max(now - due);
        let layout = self.plan.layout;
        let stamp = layout.has_stamp.then(|| {
            let group = flow as u32 & (self.plan.groups - 1);
            let sequence = &mut self.sequences[group as usize];
            let stamp = Stamp { group: group as u16, sequence: *sequence, time: due };
            *sequence = sequence.wrapping_add(1);
            stamp
        });
        bytes[layout.payload()..].fill(0);
        frame::write(self.plan, &self.header, flow, stamp, bytes);
        self.written += 1;
        self.size = if self.size + 1 == self.plan.sizes.len() { 0 } else { self.size + 1 };
    }

    /// Nothing is due: sleeps when there is time for it.
    fn rest(&self, now: u64, end: Option<u64>) {
        let next = self.due(self.written).unwrap_or(now).min(end.unwrap_or(u64::MAX));
        if next > now + 2 * WAKE {
            // Not for so long that stopping takes a while.
            std::thread::sleep(Duration::from_nanos((next - now - WAKE).min(20_000_000)));
        } else {
            std::hint::spin_loop();
        }
    }
}
