//! A device under test that does wrong on purpose, and says how often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use control::lab::netns::Namespace;
use dataplane::frame::{Burst, Frame};
use dataplane::port::{Pool, Port, PortKind, PortSpec};
use dataplane::time::Time;
use penstock_bench::pktgen::frame::payload;

/// What was done to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planted {
    pub(crate) seen: u64,
    pub(crate) dropped: u64,
    pub(crate) doubled: u64,
    pub(crate) overtaken: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Now and then a frame is lost, comes twice, or is overtaken by the next.
    LoseDoubleSwap,
    /// Nothing moves for this long after so many frames.
    Stall { after: u64, time: Duration },
}

/// A thread that forwards from `l0` to `r0` of a namespace.
pub(crate) struct Forwarder {
    stop: &'static AtomicBool,
    thread: JoinHandle<Planted>,
}

struct Device {
    pool: Pool,
    input: Box<dyn Port>,
    output: Box<dyn Port>,
    planted: Planted,
    held: Option<Frame>,
    out: Burst,
}

impl Forwarder {
    pub(crate) fn start(namespace: &Namespace, fault: Fault) -> Self {
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let open = |device: &str| {
            PortSpec::new(PortKind::AfPacket, device).in_namespace(namespace.name()).open().unwrap().port
        };
        let (input, output) = (open("l0"), open("r0"));
        let device = Device {
            pool: Pool::new(8192, 4096),
            input,
            output,
            planted: Planted::default(),
            held: None,
            out: Burst::new(),
        };
        let thread = std::thread::spawn(move || device.run(fault, stop));
        Forwarder { stop, thread }
    }

    /// Ends it, and answers what it did.
    pub(crate) fn end(self) -> Planted {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Device {
    fn run(mut self, fault: Fault, stop: &AtomicBool) -> Planted {
        let mut burst = Burst::new();
        while !stop.load(Ordering::Relaxed) {
            self.input.receive(&mut self.pool, &mut burst, Time::ZERO).unwrap();
            if burst.is_empty() {
                std::thread::sleep(Duration::from_micros(50));
            }
            for frame in burst.drain(..) {
                self.forward(frame, fault);
            }
        }
        assert_eq!(self.input.counters().receive_overflow, 0);
        self.held.take().into_iter().for_each(|frame| self.pool.release(frame));
        self.input.close(&mut self.pool);
        self.output.close(&mut self.pool);
        self.planted
    }

    fn forward(&mut self, frame: Frame, fault: Fault) {
        if payload(frame.bytes()).is_none() {
            self.send(frame);
            return;
        }
        self.planted.seen += 1;
        let n = self.planted.seen;
        match fault {
            Fault::Stall { after, time } if n == after => {
                std::thread::sleep(time);
                self.send(frame);
            }
            Fault::Stall { .. } => self.send(frame),
            Fault::LoseDoubleSwap if n.is_multiple_of(97) => {
                self.planted.dropped += 1;
                self.pool.release(frame);
            }
            Fault::LoseDoubleSwap if n.is_multiple_of(103) && self.held.is_none() => self.held = Some(frame),
            Fault::LoseDoubleSwap => {
                let copy = n.is_multiple_of(101).then(|| self.pool.frame(frame.bytes()).unwrap());
                self.send(frame);
                if let Some(copy) = copy {
                    self.planted.doubled += 1;
                    self.send(copy);
                }
                if let Some(held) = self.held.take() {
                    self.planted.overtaken += 1;
                    self.send(held);
                }
            }
        }
    }

    fn send(&mut self, frame: Frame) {
        self.out.push(frame);
        let start = Instant::now();
        while !self.out.is_empty() {
            self.output.send(&mut self.pool, &mut self.out, Time::ZERO).unwrap();
            assert!(start.elapsed() < Duration::from_secs(5), "a frame could not be sent");
        }
    }
}
