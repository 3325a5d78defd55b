//! A team of threads that walks through many small parallel regions together.
//!
//! A forward pass has several regions per layer, each some tens of microseconds long: too short to enter a thread
//! pool for. [`Team::enter`] enters rayon's pool once; inside, [`Crew::run`] opens one region after another.
//! Work is only ever split over outputs ([`Tiles`]), never over the terms of a sum, so results do not depend on
//! the number of threads.

mod region;
mod tiles;

#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::Uneven;
pub use tiles::{Mat, MatMut, Tile, Tiles};

use crate::{Error, Isa};
use region::Regions;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};

/// Threads, and the instruction set that they use. The threads stand by for one caller at a time: who
/// [`enter`](Team::enter)s while another is inside works alone, with the same results.
///
/// Work is divided for as many threads as are asked for, but not more of them work than there are cores: more would take turns, and make the
/// regions of a token's pass wait for each other (eight on two Zen 5 cores took 1.6 to 1.9 times as long as two).
///
/// ```
/// use pythia_tensor::{MatMut, Team, Tiles};
/// let team = Team::new(2)?;
/// let mut squares = vec![0.0; 10];
/// team.enter(|crew| {
///     crew.run(&mut [Tiles::new(MatMut::new(&mut squares, 1), 3, 1, &|mut tile| {
///         for r in tile.rows() {
///             tile.row_mut(r)[0] = (r * r) as f32;
///         }
///     })]);
/// });
/// assert_eq!(squares[9], 81.0);
/// # Ok::<(), pythia_tensor::Error>(())
/// ```
#[derive(Debug)]
pub struct Team {
    /// The followers; the leader is whoever enters.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    isa: Isa,
    /// Whether a caller has the followers.
    taken: AtomicBool,
}

/// More threads than any one machine has cores.
const MOST_THREADS: usize = 4096;

impl Team {
    /// A team whose work is divided for `threads` threads (0: one per core), with the instruction set of `PYTHIA_ISA`, or the best.
    ///
    /// # Errors
    /// If `PYTHIA_ISA` names an instruction set that is not there, or threads cannot be started.
    pub fn new(threads: usize) -> Result<Self, Error> {
        Self::with_isa(threads, Isa::from_env()?)
    }

    /// A team whose work is divided for `threads` threads (0: one per core), with a given instruction set.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads };
        if threads > MOST_THREADS {
            return Err(Error::Threads { threads, message: format!("at most {MOST_THREADS} make sense") });
        }
        Self::with_followers(threads.min(cores) - 1, threads, isa)
    }

    /// A team whose work is divided for `threads` threads, with so many followers.
    fn with_followers(followers: usize, threads: usize, isa: Isa) -> Result<Self, Error> {
        let pool = (followers > 0)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(followers)
                    .thread_name(|i| format!("pythia-{}", i + 1))
                    .build()
            })
            .transpose()
            .map_err(|e| Error::Threads { threads, message: e.to_string() })?;
        Ok(Self { pool, threads, isa, taken: AtomicBool::new(false) })
    }

    /// How many threads work is divided for, the caller's included: as many as were asked for, also where there are fewer cores.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `f` on the calling thread with the other threads standing by for its regions. While another caller is
    /// inside (or this one already is), `f` runs on the calling thread alone.
    pub fn enter<R>(&self, f: impl FnOnce(&Crew<'_>) -> R) -> R {
        struct Finish<'r>(&'r Regions, &'r AtomicBool);
        impl Drop for Finish<'_> {
            fn drop(&mut self) {
                self.0.finish();
                self.1.store(false, Release);
            }
        }
        let crew = |regions, followers| Crew {
            regions,
            workers: followers + 1,
            threads: self.threads,
            isa: self.isa,
            busy: Cell::new(false),
            not_sync: PhantomData,
        };
        match &self.pool {
            Some(pool) if !self.taken.swap(true, Acquire) => {
                let regions = Regions::new();
                pool.in_place_scope(|scope| {
                    let _finish = Finish(&regions, &self.taken);
                    for _ in 0..pool.current_num_threads() {
                        scope.spawn(|_| regions.follow());
                    }
                    f(&crew(Some(&regions), pool.current_num_threads()))
                })
            }
            _ => f(&crew(None, 0)),
        }
    }
}

/// A team at work: the handle to open parallel regions with. Only the thread that entered has it, so that a task
/// cannot open a region of its own.
#[derive(Debug)]
pub struct Crew<'r> {
    regions: Option<&'r Regions>,
    /// How many threads there are.
    workers: usize,
    /// How many the work is divided for.
    threads: usize,
    isa: Isa,
    /// Whether a region is open.
    busy: Cell<bool>,
    not_sync: PhantomData<*const ()>,
}

impl Crew<'_> {
    /// How many threads work together.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// How many threads work is divided for: [`Team::threads`].
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Opens a region: hands every tile of every job to some thread, and returns when all are done.
    ///
    /// # Panics
    /// If a task panics, or opens a region itself.
    pub fn run(&self, jobs: &mut [Tiles<'_>]) {
        struct Idle<'c>(&'c Cell<bool>);
        impl Drop for Idle<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        // The borrow checker keeps the crew from other threads, but not from a task on this one.
        assert!(!self.busy.replace(true), "a task of a parallel region must not open a region");
        let _idle = Idle(&self.busy);
        let jobs = &*jobs;
        let tasks = jobs.iter().map(Tiles::count).sum();
        let task = |mut index: usize| {
            for job in jobs {
                if index < job.count() {
                    // SAFETY: a region hands out each index once, so each tile is taken once, and `jobs` is
                    // borrowed exclusively for as long as the region lasts.
                    (job.work())(unsafe { job.tile(index) });
                    return;
                }
                index -= job.count();
            }
        };
        match self.regions {
            Some(regions) if tasks > 1 => regions.lead(tasks, &task),
            _ => (0..tasks).for_each(task),
        }
    }
}

impl std::fmt::Debug for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Regions")
    }
}

#[cfg(test)]
mod tests;
