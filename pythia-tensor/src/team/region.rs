//! One parallel region after another, without entering a thread pool for each.
//!
//! A leader publishes work; followers who are around take tasks from a shared counter; the leader takes tasks too
//! and goes on when every task is done. A follower who is late or descheduled is not waited for unless it holds a
//! task, so an oversubscribed machine loses little. Followers spin briefly between regions, then sleep.
//!
//! One atomic word holds the number of the region, whether it is open, and how many followers are inside:
//!
//! ```text
//! follower: join  = state += 1        leader: publish the work, state += REGION | OPEN
//!           if it was open and new:           take tasks until none is left
//!               take tasks                    state &= !OPEN
//!           leave = state -= 1                wait until nobody is inside
//! ```
//!
//! All orderings are sequentially consistent: going to sleep (`sleeping += 1`, then a look at the state) against opening a
//! region (`state`, then a look at `sleeping`) needs it, and nothing here is hot enough to gain from less.
//!
//! Whoever saw `OPEN` when joining is inside, and the leader waits for it before the work goes out of scope.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::{hint, thread};

const INSIDE: u64 = (1 << 31) - 1;
const OPEN: u64 = 1 << 31;
const REGION: u64 = 1 << 32;

/// Looks at the state before a follower sleeps. About 200 microseconds: shorter than anybody notices on an idle machine, and on a virtual machine waking
/// up takes as long as a product: one sequence decodes 1.00 to 1.02 times as fast as with a quarter of it.
const SPINS: u32 = 4000;

/// Looks at the state before a waiting leader offers its time slice to others.
const LEADER_SPINS: u32 = 2000;

type Work<'w> = dyn Fn(usize) + Sync + 'w;

/// On its own cache line (two, for the adjacent-line prefetcher), so that claiming tasks does not disturb those who watch the state.
#[repr(align(128))]
struct Apart<T>(T);

pub(super) struct Regions {
    state: Apart<AtomicU64>,
    next: Apart<AtomicUsize>,
    /// What the open region does. Written by the leader while the region is closed and nobody is inside.
    job: UnsafeCell<Option<(*const Work<'static>, usize)>>,
    over: AtomicBool,
    panicked: AtomicBool,
    sleeping: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the one leader (`Crew` is neither `Sync` nor `Clone`, and refuses to open a region
// inside another) while nobody is inside, and
// read only by followers who are; the state's read-modify-writes order the two.
unsafe impl Sync for Regions {}

/// Leaves the region also when a task panics, so that the leader never waits for the dead.
struct Inside<'r>(&'r Regions);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked.store(true, SeqCst);
        }
        self.0.state.0.fetch_sub(1, SeqCst);
    }
}

/// Closes the region also when the leader's own task panics.
struct Close<'r>(&'r Regions);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let state = &self.0.state.0;
        state.fetch_and(!OPEN, SeqCst);
        let mut spins = 0;
        while state.load(SeqCst) & INSIDE != 0 {
            spins += 1;
            if spins < LEADER_SPINS { hint::spin_loop() } else { thread::yield_now() }
        }
    }
}

impl Regions {
    pub(super) fn new() -> Self {
        Self {
            state: Apart(AtomicU64::new(0)),
            next: Apart(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            over: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Runs `work(0..tasks)` on the leader and whoever of the followers is there. For the leader only.
    pub(super) fn lead(&self, tasks: usize, work: &Work<'_>) {
        // SAFETY: only the lifetime is changed. The pointer is used by followers inside the region alone, and
        // `Close` waits until nobody is inside before `work` can go out of scope, also on a panic.
        let pointer: *const _ = unsafe { std::mem::transmute::<&Work<'_>, &Work<'static>>(work) };
        // SAFETY: the region is closed and nobody is inside, so nobody reads `job`.
        unsafe { *self.job.get() = Some((pointer, tasks)) };
        self.next.0.store(0, SeqCst);
        self.state.0.fetch_add(REGION | OPEN, SeqCst);
        self.wake_sleepers();
        let close = Close(self);
        self.take_tasks(tasks, work);
        drop(close);
        assert!(
            !self.panicked.swap(false, SeqCst),
            "a task of this parallel region panicked on another thread"
        );
    }

    /// Takes part in regions until the leader is finished.
    pub(super) fn follow(&self) {
        let mut done = 0;
        while let Some(region) = self.wait_for_other_than(done) {
            done = region;
            let joined = self.state.0.fetch_add(1, SeqCst);
            let inside = Inside(self);
            if joined & OPEN != 0 {
                done = joined / REGION;
                // SAFETY: we joined while the region was open, so `job` is set and stays as it is until we leave.
                let job = unsafe { *self.job.get() };
                if let Some((work, tasks)) = job {
                    // SAFETY: the leader keeps the work alive until we leave.
                    self.take_tasks(tasks, unsafe { &*work });
                }
            }
            drop(inside);
        }
    }

    /// Tells the followers that no further region will come. For the leader only.
    pub(super) fn finish(&self) {
        self.over.store(true, SeqCst);
        self.wake_sleepers();
    }

    fn take_tasks(&self, tasks: usize, work: &Work<'_>) {
        loop {
            let task = self.next.0.fetch_add(1, SeqCst);
            if task >= tasks {
                return;
            }
            work(task);
        }
    }

    /// The number of an open region that is not `done`, or `None` when all is over. Spins, then sleeps.
    fn wait_for_other_than(&self, done: u64) -> Option<u64> {
        let poll = || {
            let state = self.state.0.load(SeqCst);
            let open = state & OPEN != 0 && state / REGION != done;
            (open || self.over.load(SeqCst)).then_some((open, state / REGION))
        };
        let found = (0..SPINS)
            .find_map(|_| {
                poll().or_else(|| {
                    hint::spin_loop();
                    None
                })
            })
            .unwrap_or_else(|| {
                let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.sleeping.fetch_add(1, SeqCst);
                let found = loop {
                    match poll() {
                        Some(found) => break found,
                        None => guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner),
                    }
                };
                self.sleeping.fetch_sub(1, SeqCst);
                found
            });
        found.0.then_some(found.1)
    }

    fn wake_sleepers(&self) {
        if self.sleeping.load(SeqCst) > 0 {
            // Whoever counted itself as sleeping holds the lock until it really waits.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}
