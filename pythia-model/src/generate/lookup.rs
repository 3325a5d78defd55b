//! Prompt lookup (Saxena 2023, <https://github.com/apoorvumang/prompt-lookup-decoding>): what followed the last time.
//!
//! One token that agrees is enough: where two have to, texts with loops gained 5 % less, and others were no faster than 1 %
//! (simulated as said at the pace of [`Speculation`](super::Speculation)).

/// The most tokens that are compared: more would rarely tell two places apart, and cost time where the text repeats itself.
const LONGEST: usize = 8;

/// Adds up to `n` tokens to `text`: those that followed the earlier place that agrees with its end for longest, the latest
/// of such places. Where fewer than `n` follow, the new tokens themselves go on: a loop is continued round and round.
pub(super) fn extend(text: &mut Vec<u32>, n: usize) {
    let len = text.len();
    let agrees = |end: usize| {
        let pairs = text[..end].iter().rev().zip(text.iter().rev());
        pairs.take(LONGEST).take_while(|(a, b)| a == b).count()
    };
    let places = (1..len).map(|end| (agrees(end), end));
    if let Some((_, end)) = places.filter(|&(agreement, _)| agreement > 0).max() {
        (end..end + n).for_each(|from| text.push(text[from]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proposed(text: &[u32], n: usize) -> Vec<u32> {
        let mut extended = text.to_vec();
        extend(&mut extended, n);
        assert!(extended.starts_with(text));
        extended.split_off(text.len())
    }

    #[test]
    fn what_followed_the_longest_agreement_is_proposed() {
        assert_eq!(
            proposed(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2),
            [9, 2],
            "1 2 3 is longer than the later 2 3"
        );
        assert_eq!(
            proposed(&[2, 3, 9, 9, 2, 3, 8, 8, 2, 3], 3),
            [8, 8, 2],
            "the latest of two that are equal"
        );
        assert_eq!(proposed(&[7, 1, 2, 7], 3), [1, 2, 7], "a single token is enough");
        // Nothing recurs; nothing is wanted.
        for (text, n) in [(&[][..], 3), (&[5], 3), (&[1, 2, 3, 4, 5], 3), (&[5, 6, 5, 6], 0)] {
            assert!(proposed(text, n).is_empty(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_loop_goes_on(period in prop::collection::vec(0_u32..5, 1..8), rounds in 2_usize..5, n in 0_usize..20) {
            // Twice around, and what is looked up has been seen once with all of what comes before it.
            let endless = || period.iter().copied().cycle();
            let text: Vec<u32> = endless().take(period.len() * rounds + LONGEST).collect();
            let next: Vec<u32> = endless().skip(text.len()).take(n).collect();
            prop_assert_eq!(proposed(&text, n), next);
        }

        #[test]
        fn proposals_come_from_the_text(text in prop::collection::vec(0_u32..4, 0..60), n in 1_usize..9) {
            let found = proposed(&text, n);
            prop_assert!(found.is_empty() || found.len() == n);
            if !found.is_empty() {
                let end = [&text[..], &found].concat();
                let around = &end[text.len() - 1..];
                prop_assert!((0..text.len() - 1).any(|at| end[at..].starts_with(around)));
            }
        }
    }
}
