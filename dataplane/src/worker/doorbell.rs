//! [`Doorbell`]: what wakes a thread that sleeps until somebody has something for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// What wakes a worker, or who answers workers.
#[derive(Debug)]
pub struct Doorbell {
    descriptor: OwnedFd,
    /// Set by the thread before it looks at its rings for the last time.
    sleeping: AtomicBool,
}

impl Doorbell {
    /// A doorbell of nobody yet.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Doorbell> {
        let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Doorbell { descriptor, sleeping: AtomicBool::new(false) })
    }

    /// The descriptor: readable while somebody has rung.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Wakes the thread if it sleeps, and makes its next sleep a short one if not.
    pub fn ring(&self) {
        // The counter can only overflow when the worker has not read it for 2^64 wake-ups: it is awake, then.
        let _full = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
    }

    /// Wakes the thread if it sleeps, after something was put where it looks before it falls asleep.
    ///
    /// One of the two sees the other: either the worker finds what was put, or the caller finds it asleep. Both
    /// write first and read then, with a fence between.
    pub fn call(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Sleeps until somebody calls or rings, at most so long, unless `is_needed` says that there is something already. For a thread that
    /// waits for nothing else.
    pub fn wait(&self, most: Duration, is_needed: impl Fn() -> bool) {
        self.lie_down();
        if !is_needed() {
            let most = Timespec { tv_sec: most.as_secs().cast_signed(), tv_nsec: most.subsec_nanos().into() };
            // Interrupted, out of time or called: in any case it is looked.
            let _any = poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&most));
            let _already = rustix::io::read(&self.descriptor, &mut [0; 8]);
        }
        self.get_up();
    }

    /// Says that the worker is about to sleep. Afterwards it has to look at its rings once more.
    pub(super) fn lie_down(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the worker is awake.
    pub(super) fn get_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}
