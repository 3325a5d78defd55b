//! The best few of many, without sorting the many.

use std::cmp::Ordering;

/// Leaves in `kept` the first `n` of `items` in the order `compare`, themselves in no order; which of several equal
/// items stay is not defined. What `kept` held is lost, its memory is reused.
pub(crate) fn keep_best<T: Copy>(
    items: impl IntoIterator<Item = T>,
    n: usize,
    kept: &mut Vec<T>,
    mut compare: impl FnMut(&T, &T) -> Ordering,
) {
    kept.clear();
    if n == 0 {
        return;
    }
    // Most items are worse than the n-th best of an early part: they are never stored.
    let limit = n.saturating_mul(4).max(64);
    let mut nth: Option<T> = None;
    for item in items {
        if nth.is_some_and(|nth| compare(&item, &nth).is_ge()) {
            continue;
        }
        kept.push(item);
        if kept.len() == limit {
            nth = Some(*kept.select_nth_unstable_by(n - 1, &mut compare).1);
            kept.truncate(n);
        }
    }
    if kept.len() > n {
        kept.select_nth_unstable_by(n - 1, &mut compare);
        kept.truncate(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_of_a_full_sort_are_kept(items in prop::collection::vec(0_u16..500, 0..900), n in 0_usize..120) {
            let numbered: Vec<(u16, usize)> = items.into_iter().enumerate().map(|(i, x)| (x, i)).collect();
            let mut kept = vec![(7, 7)];
            keep_best(numbered.iter().copied(), n, &mut kept, Ord::cmp);
            kept.sort_unstable();
            let mut sorted = numbered;
            sorted.sort_unstable();
            sorted.truncate(n);
            prop_assert_eq!(kept, sorted);
        }
    }
}
