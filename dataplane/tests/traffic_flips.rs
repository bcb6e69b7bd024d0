//! Policy that changes under traffic: a thousand flips while sequence-numbered frames cross a wire of two devices. The
//! trace tells each frame's generation, and what that generation's rules say has to have happened to the frame.

#![expect(clippy::disallowed_methods, reason = "real traffic keeps real time")]

mod ports_support;
mod support;

#[path = "flips/model.rs"]
mod model;
#[path = "flips/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use dataplane::packet::Direction;
use dataplane::port::PortKind;

use model::{Kind, Model};
use wire::{Lines, Wire};

const FLIPS: usize = 1000;
/// Frames of each generation, at least.
const FRAMES_A_FLIP: u64 = 48;
/// Frames that are sent and not yet judged, at most: what a machine that is busy with something else can fall behind.
const UNDER_WAY: u64 = 256;
/// How long the capacity is measured.
const MEASURED: Duration = Duration::from_millis(300);
/// A machine that needs longer for anything here has lost a frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends until `enough`, at most `rate` frames a second, and checks every fate.
fn drive(
    wire: &mut Wire,
    model: &mut Model,
    kinds: &[Kind],
    rate: f64,
    mut enough: impl FnMut(&mut Wire, &mut Model) -> bool,
) {
    let (started, begun) = (Instant::now(), model.sent());
    let mut quiet = Instant::now();
    while !enough(wire, model) {
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        let room = UNDER_WAY.saturating_sub(model.under_way());
        for _ in 0..due.saturating_sub(model.sent() - begun).min(room).min(64) {
            let (direction, frame) = model.next(kinds);
            wire.lines.send(direction, &frame);
        }
        wire.lines.flush();
        let seen = collect(wire, model);
        if seen > 0 {
            quiet = Instant::now();
        }
        assert!(quiet.elapsed() < PATIENCE, "{} frames are lost", model.under_way());
        std::thread::yield_now();
    }
}

/// Takes what the worker tells and what came out; how many frames were judged.
fn collect(wire: &mut Wire, model: &mut Model) -> u64 {
    let before = model.judged();
    while let Some(trace) = wire.trace.take() {
        model.check(&trace);
    }
    for direction in Direction::BOTH {
        wire.lines.receive(direction, |bytes| model.arrived(bytes));
    }
    assert_eq!(wire.trace.lost(), 0, "the trace has room");
    model.judged() - before
}

#[test]
fn a_thousand_flips_under_traffic() {
    let (_world, [client, middle, server]) = ports_support::World::with_veths("flip");
    let mut wire = Wire::start(&middle, PortKind::AfPacket, Lines::open(&client, &server));
    let mut model = Model::new();
    let generation = wire.publish(model::rules(0));
    model.published(generation, 0);

    // Connections are made while everything is allowed.
    for (place, opening) in model.openings().into_iter().enumerate() {
        wire.lines.send(opening.0, &opening.1);
        wire.lines.flush();
        let began = Instant::now();
        while model.judged() <= place as u64 {
            collect(&mut wire, &mut model);
            assert!(began.elapsed() < PATIENCE, "a frame is lost");
        }
    }

    let (began, before) = (Instant::now(), model.judged());
    drive(&mut wire, &mut model, &Kind::ALWAYS, f64::INFINITY, |_, _| began.elapsed() > MEASURED);
    let capacity = (model.judged() - before) as f64 / began.elapsed().as_secs_f64();
    println!("capacity: {capacity:.0} frames a second; half of it from now on");

    let mut flips = 0;
    let began = Instant::now();
    drive(&mut wire, &mut model, &Kind::ALL, capacity / 2.0, |wire, model| {
        let settled = model.judged_in_newest() >= FRAMES_A_FLIP;
        if settled && flips < FLIPS {
            flips += 1;
            let generation = wire.publish(model::rules(flips % 2));
            model.published(generation, flips % 2);
            return false;
        }
        settled && flips == FLIPS
    });
    println!("{flips} flips, {} frames, {:?}", model.sent(), began.elapsed());

    // What is still under way arrives.
    let began = Instant::now();
    while model.under_way() > 0 || model.not_arrived() > 0 {
        collect(&mut wire, &mut model);
        assert!(began.elapsed() < PATIENCE, "{} frames not judged, {} lost", model.under_way(), model.not_arrived());
    }
    model.finish(FLIPS as u64);
    wire.stop();
}
