//! Frames from a generator that can saturate a veth, counted at the far end by an XDP program.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::address::MacAddress;

use super::{Flows, Sample, Turn};
use crate::compare::contender::Running;
use crate::compare::policy::{self, DENIED_PORT, SOURCES, Tracking, UDP_PORTS};
use crate::compare::process;
use crate::pktgen::{self, FrameShape, Limit, Order, Pairs, PortChoice, Rate, Sink, SinkSpec, Spec, Transport};

/// The generator's CPU.
const GENERATOR_CPU: usize = 0;
/// Frames a second while flows are established, attempt by attempt: what every contender that tracks connections can take,
/// then less, for a machine that has other work. A million flows are through before the first of them times out.
const GENTLE: [f64; 5] = [250_000.0, 250_000.0, 120_000.0, 120_000.0, 60_000.0];
/// Frames of a check.
const PROBES: u64 = 200;

/// Counters at both ends of a contender.
pub struct Ends {
    near: Sink,
    far: Sink,
    /// The number of the next flow that no frame has had yet.
    next_flow: u64,
}

/// Which way frames go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToPod,
    Back,
}

fn spec(running: &Running, way: Way, port: u16) -> Result<Spec> {
    let (topology, family) = (&running.topology, running.setting.family);
    let destination: IpAddr = family.sink().parse().context("an address")?;
    let (namespace, interface, to) = match way {
        Way::ToPod => (&topology.generator, "g0", topology.generator_sends_to()),
        Way::Back => (&topology.sink, "s0", topology.sink_sends_to()),
    };
    Ok(Spec {
        port: PortChoice::LiveFrames,
        interface: interface.to_owned(),
        namespace: Some(namespace.name().to_owned()),
        cpu: Some(GENERATOR_CPU),
        destination_mac: Some(MacAddress(to)),
        gateway: None,
        source_mac: None,
        frames: FrameShape { transport: Transport::Udp, sizes: vec![60], stamp: false },
        flows: pktgen::Flows {
            pairs: Pairs::Ranges {
                source: policy::source(family, 0),
                sources: SOURCES,
                destination,
                destinations: 1,
                destination_port: port,
                destination_ports: 1,
            },
            source_ports: (1024, u16::MAX),
            active: SOURCES,
            first: 0,
            order: Order::Sequential,
            seed: 1,
            new_per_second: None,
            groups: None,
            reversed: way == Way::Back,
        },
        rate: Rate::FramesPerSecond(GENTLE[0]),
        limit: Limit::frames(PROBES),
    })
}

/// Flows that there are: each source address with each source port.
const SPACE: u64 = SOURCES as u64 * (u16::MAX as u64 - 1023);

impl Ends {
    /// Puts counters at both ends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(running: &Running) -> Result<Ends> {
        let open = |namespace: &control::lab::netns::Namespace, interface: &str| {
            Sink::open(SinkSpec {
                interface: interface.to_owned(),
                namespace: Some(namespace.name().to_owned()),
                stamped_only: false,
                latency: false,
            })
        };
        let (near, far) = (open(&running.topology.generator, "g0")?, open(&running.topology.sink, "s0")?);
        Ok(Ends { near, far, next_flow: 0 })
    }

    fn arrived(&self, way: Way) -> Result<u64> {
        let sink = if way == Way::ToPod { &self.far } else { &self.near };
        Ok(sink.counters()?.frames)
    }

    /// Sends and answers how many frames arrived by a moment after.
    fn send(&self, spec: &Spec, way: Way) -> Result<u64> {
        let before = self.arrived(way)?;
        pktgen::generate(spec, process::stop_flag())?;
        let mut arrived = self.arrived(way)? - before;
        loop {
            process::rest(Duration::from_millis(30))?;
            let now = self.arrived(way)? - before;
            if now == arrived {
                return Ok(arrived);
            }
            arrived = now;
        }
    }

    /// Whether the contender forwards what is allowed and drops what is not.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&mut self, running: &Running) -> Result<()> {
        running.go_on();
        let probe = |port, first| -> Result<u64> {
            let mut spec = spec(running, Way::ToPod, port)?;
            spec.rate = Rate::FramesPerSecond(2_000.0);
            spec.flows.first = first;
            self.send(&spec, Way::ToPod)
        };
        // A port that was just opened may miss its first frames.
        let mut allowed = 0;
        for attempt in 0..3 {
            allowed = probe(UDP_PORTS.0, attempt * PROBES)?;
            if allowed == PROBES {
                break;
            }
        }
        ensure!(allowed == PROBES, "only {allowed} of {PROBES} allowed frames passed");
        if running.setting.kind.has_rules() {
            let denied = probe(DENIED_PORT, 0)?;
            ensure!(denied == 0, "{denied} of {PROBES} denied frames passed");
        }
        Ok(())
    }

    /// Lets flows become known: a frame of each to the pod, and its answer. Contenders that know no flows are spared.
    ///
    /// # Errors
    /// When more than two flows in a hundred were not answered in any attempt.
    pub fn establish(&mut self, running: &Running) -> Result<()> {
        let flows = running.setting.active;
        if running.setting.kind.tracking() == Tracking::Off {
            return Ok(());
        }
        running.go_on();
        let mut most = 0;
        for rate in GENTLE {
            let mut answered = 0;
            for way in [Way::ToPod, Way::Back] {
                let mut spec = spec(running, way, UDP_PORTS.0)?;
                spec.flows.active = flows;
                spec.rate = Rate::FramesPerSecond(rate);
                spec.limit = Limit::frames(u64::from(flows));
                answered = self.send(&spec, way)?;
            }
            if answered * 100 >= u64::from(flows) * 98 {
                return Ok(());
            }
            most = answered.max(most);
        }
        bail!("only {most} of {flows} flows were answered")
    }

    /// Frames as fast as they go.
    ///
    /// # Errors
    /// When the generator fails or nothing arrives.
    pub fn flood(&mut self, running: &mut Running, flows: Flows, turn: Turn) -> Result<Sample> {
        let mut spec = spec(running, Way::ToPod, UDP_PORTS.0)?;
        spec.rate = Rate::FlatOut;
        match flows {
            Flows::Established => {
                spec.flows.active = running.setting.active;
                spec.flows.order = if running.setting.active == 1 { Order::Sequential } else { Order::Uniform };
            }
            Flows::New => {
                running.forget_flows()?;
                spec.flows.active = SPACE as u32;
                spec.flows.first = self.next_flow;
            }
        }
        let (rate, offered) = self.rate_of(running, spec, turn)?;
        self.next_flow = (self.next_flow + offered) % SPACE;
        ensure!(rate > 0.0, "no frame arrived");
        Ok(Sample::from([("rate", rate)]))
    }

    /// Frames at a rate that the contender can take, for the time that CPU 1 is busy with them.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn at_rate(&mut self, running: &mut Running, rate: u32, turn: Turn) -> Result<Sample> {
        let mut spec = spec(running, Way::ToPod, UDP_PORTS.0)?;
        spec.rate = Rate::FramesPerSecond(f64::from(rate));
        spec.flows.active = running.setting.active;
        spec.flows.order = Order::Uniform;
        let before = process::busy();
        let begin = Instant::now();
        let (arrived, _) = self.rate_of(running, spec, turn)?;
        let busy = process::busy().get(1).copied().unwrap_or(0) - before.get(1).copied().unwrap_or(0);
        let frames = arrived * begin.elapsed().as_secs_f64();
        Ok(Sample::from([
            ("CPU 1 a frame", busy as f64 / frames.max(1.0)),
            ("arrived", 100.0 * arrived / f64::from(rate)),
        ]))
    }

    /// Frames a second that arrive while the generator runs, and how many it offered in all.
    fn rate_of(&self, running: &Running, mut spec: Spec, turn: Turn) -> Result<(f64, u64)> {
        running.go_on();
        spec.limit = Limit::default();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let generator = scope.spawn(|| pktgen::generate(&spec, &stop));
            let measured = (|| {
                process::rest(turn.settle)?;
                let (begin, before) = (Instant::now(), self.arrived(Way::ToPod)?);
                process::rest(turn.measure)?;
                let (after, elapsed) = (self.arrived(Way::ToPod)?, begin.elapsed());
                Ok::<f64, anyhow::Error>((after - before) as f64 / elapsed.as_secs_f64())
            })();
            stop.store(true, Ordering::Relaxed);
            let report = generator.join().map_err(|_| anyhow::anyhow!("the generator died"))??;
            Ok((measured?, report.offered))
        })
    }
}

/// [`Ends::check`] for workloads that count otherwise.
///
/// # Errors
/// As there.
pub fn check(running: &mut Running) -> Result<()> {
    Ends::open(running)?.check(running)
}
