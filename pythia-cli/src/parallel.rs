//! [`in_parallel`]: work for threads of its own.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Does some work for each item, `at_once` at a time, and gives what came out in the order of the items.
///
/// # Errors
/// The first error. No further item is begun after it.
pub(crate) fn in_parallel<T: Sync, R: Send + Sync>(
    at_once: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let (next, failed, error) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let done: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    let worker = || {
        while !failed.load(Ordering::SeqCst) {
            let i = next.fetch_add(1, Ordering::SeqCst);
            let (Some(item), Some(place)) = (items.get(i), done.get(i)) else { return };
            match work(item) {
                Ok(result) => drop(place.set(result)),
                Err(e) => {
                    failed.store(true, Ordering::SeqCst);
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(worker);
        }
    });
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_iter().filter_map(OnceLock::into_inner).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_in_order_and_stops_at_an_error() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(in_parallel(4, &items, |i| Ok(2 * i)).unwrap(), (0..200).step_by(2).collect::<Vec<_>>());
        let begun = AtomicUsize::new(0);
        let error = in_parallel(4, &items, |i| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *i == 0 {
                Err(anyhow::anyhow!("no"))
            } else {
                std::thread::sleep(std::time::Duration::from_millis(20));
                Ok(())
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "no");
        assert!(begun.into_inner() <= 8);
        assert!(in_parallel(4, &[(); 0], |()| Ok(())).unwrap().is_empty());
    }
}
