use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A team of so many threads that all work, also where there are fewer cores.
fn crowd(threads: usize) -> Team {
    Team::with_followers(threads - 1, threads, Isa::best()).unwrap()
}

fn each_tile_adds_one(crew: &Crew<'_>, data: &mut [f32], cols: usize, tile: (usize, usize)) {
    crew.run(&mut [Tiles::new(MatMut::new(data, cols), tile.0, tile.1, &|mut t| {
        for r in t.rows() {
            t.row_mut(r).iter_mut().for_each(|x| *x += 1.0);
        }
    })]);
}

#[test]
fn every_element_is_visited_once_for_any_threads_and_tiles() {
    for threads in [1, 2, 3, 8] {
        let team = crowd(threads);
        for (rows, cols, tile) in [(1, 1, (1, 1)), (7, 5, (2, 3)), (64, 33, (16, 16)), (3, 100, (9, 7))] {
            let mut data = vec![0.0; rows * cols];
            team.enter(|crew| each_tile_adds_one(crew, &mut data, cols, tile));
            assert!(data.iter().all(|&x| x == 1.0), "{threads} threads, {rows}x{cols} in {tile:?}");
        }
    }
}

#[test]
fn ragged_blocks_cover_their_rows_and_know_their_number() {
    let team = crowd(2);
    let mut data = vec![-1.0; 6 * 4];
    team.enter(|crew| {
        crew.run(&mut [Tiles::ragged(MatMut::new(&mut data, 4), &[0, 1, 1, 4, 6], 2, &|mut t| {
            let block = t.row_block() as f32;
            for r in t.rows() {
                t.row_mut(r).fill(block);
            }
        })]);
    });
    let first_column: Vec<f32> = data.chunks(4).map(|row| row[0]).collect();
    assert_eq!(first_column, [0.0, 2.0, 2.0, 2.0, 3.0, 3.0]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn uneven_columns_cover_all_rows() {
    let team = crowd(2);
    let mut data = vec![-1.0; 2 * 6];
    let parts = Uneven { count: 3, len: 1, longer: 1, more: 2 };
    team.enter(|crew| {
        crew.run(&mut [Tiles::columns(MatMut::new(&mut data, 6), parts, &|mut t| {
            let start = t.cols().start as f32;
            for r in t.rows() {
                t.row_mut(r).fill(start + 10.0 * r as f32);
            }
        })]);
    });
    assert_eq!(data, [0.0, 0.0, 0.0, 3.0, 4.0, 4.0, 10.0, 10.0, 10.0, 13.0, 14.0, 14.0]);
}

/// Thousands of tiny regions with sleeps between some: a lost wake-up would hang, a region left early would miscount.
#[test]
fn many_regions_lose_nothing_when_oversubscribed() {
    let team = crowd(8);
    let mut data = vec![0.0; 40];
    team.enter(|crew| {
        for i in 0..5000 {
            each_tile_adds_one(crew, &mut data, 1, (1, 1));
            if i % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    });
    assert!(data.iter().all(|&x| x == 5000.0), "{data:?}");
}

#[test]
fn several_callers_at_once_all_finish() {
    let team = crowd(3);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let mut data = vec![0.0; 30];
                for _ in 0..50 {
                    team.enter(|crew| (0..20).for_each(|_| each_tile_adds_one(crew, &mut data, 3, (1, 3))));
                }
                assert!(data.iter().all(|&x| x == 1000.0));
            });
        }
    });
}

/// One caller stays inside; another must neither wait for it nor for its threads.
#[test]
fn a_caller_does_not_wait_for_one_who_stays_inside() {
    let team = crowd(2);
    let (entered, leave) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|s| {
        s.spawn(|| {
            team.enter(|_| {
                entered.wait();
                leave.wait();
            });
        });
        entered.wait();
        let mut data = vec![0.0; 4];
        team.enter(|crew| each_tile_adds_one(crew, &mut data, 1, (1, 1)));
        leave.wait();
        assert_eq!(data, [1.0; 4]);
    });
}

#[test]
fn entering_inside_works_alone() {
    let team = crowd(2);
    let mut data = vec![0.0; 4];
    team.enter(|_| team.enter(|crew| each_tile_adds_one(crew, &mut data, 1, (1, 1))));
    assert_eq!(data, [1.0; 4]);
}

/// Two tasks that wait for each other: only done if two threads work at the same time.
#[test]
fn the_followers_do_take_part() {
    let team = crowd(2);
    let mut data = vec![0.0; 2];
    let met = AtomicUsize::new(0);
    team.enter(|crew| {
        crew.run(&mut [Tiles::new(MatMut::new(&mut data, 1), 1, 1, &|_| {
            met.fetch_add(1, SeqCst);
            let start = std::time::Instant::now();
            while met.load(SeqCst) < 2 {
                assert!(start.elapsed().as_secs() < 30, "nobody came");
                std::thread::yield_now();
            }
        })]);
    });
}

/// A wrapper that lets a task carry what is not `Sync`, as crates for that do; sound because it is used on one thread.
struct OneThread<T>(T, std::thread::ThreadId);
// SAFETY: `get` gives the content only to the thread that made it.
unsafe impl<T> Sync for OneThread<T> {}
impl<T> OneThread<T> {
    fn get(&self) -> Option<&T> {
        (std::thread::current().id() == self.1).then_some(&self.0)
    }
}

#[test]
fn a_region_inside_a_region_is_refused() {
    let team = crowd(2);
    let mut data = vec![0.0; 8];
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        team.enter(|crew| {
            let crew_here = OneThread(crew, std::thread::current().id());
            crew.run(&mut [Tiles::new(MatMut::new(&mut data, 1), 1, 1, &|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                if let Some(crew) = crew_here.get() {
                    crew.run(&mut []);
                }
            })]);
        });
    }));
    assert!(result.is_err());
}

/// The panic of one region is reported once; the next region is its own.
#[test]
fn a_region_after_a_panic_is_healthy() {
    let team = crowd(4);
    let mut data = vec![0.0; 40];
    let outer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        team.enter(|crew| {
            let mut bad = vec![0.0; 40];
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                crew.run(&mut [Tiles::new(MatMut::new(&mut bad, 1), 1, 1, &|_| panic!("each task"))]);
            }));
            assert!(result.is_err());
            each_tile_adds_one(crew, &mut data, 1, (1, 1));
        });
    }));
    // Followers who panicked are reported again on leaving; the work is done all the same.
    drop(outer);
    assert_eq!(data, [1.0; 40]);
}

#[test]
fn a_panicking_task_reaches_the_caller_and_spares_the_team() {
    let team = crowd(4);
    for bad in [0, 17, 39] {
        let mut data = vec![0.0; 40];
        let seen = AtomicUsize::new(0);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.enter(|crew| {
                crew.run(&mut [Tiles::new(MatMut::new(&mut data, 1), 1, 1, &|t| {
                    seen.fetch_add(1, SeqCst);
                    assert!(t.rows().start != bad, "task {bad}");
                })]);
            });
        }));
        assert!(result.is_err() && seen.load(SeqCst) > 0);
    }
    let mut data = vec![0.0; 40];
    team.enter(|crew| each_tile_adds_one(crew, &mut data, 1, (1, 1)));
    assert!(data.iter().all(|&x| x == 1.0));
}

#[test]
fn as_many_threads_follow_as_there_are_other_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    for (threads, working) in [(0, cores), (1, 1), (2, cores.min(2)), (cores + 3, cores)] {
        let team = Team::new(threads).unwrap();
        assert_eq!(
            team.pool.as_ref().map_or(0, rayon::ThreadPool::current_num_threads),
            working - 1,
            "{threads} threads"
        );
        assert_eq!(team.threads(), if threads == 0 { cores } else { threads });
        team.enter(|crew| assert_eq!(crew.workers(), working));
    }
}

#[test]
fn too_many_threads_are_an_error() {
    assert!(matches!(Team::new(1 << 20), Err(Error::Threads { threads: 1_048_576, .. })));
}
