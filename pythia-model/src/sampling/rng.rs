//! Random numbers that are the same on every platform and in every release.

/// xoshiro256++ 1.0 by Blackman and Vigna (2019, <https://prng.di.unimi.it/xoshiro256plusplus.c>, public domain).
#[derive(Clone, Debug)]
pub(super) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator number `stream` of those that belong to `seed`.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        // Both numbers go through the mixer in turn: neighbouring seeds and streams share nothing.
        let mut mix = SplitMix64(SplitMix64(seed).next() ^ stream);
        Self { state: std::array::from_fn(|_| mix.next()) }
    }

    fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A multiple of 2^-53 in `[0, 1)`, each with the same probability.
    pub(super) fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * f64::EPSILON / 2.0
    }
}

/// `SplitMix64` by Steele, Lea and Flood (2014, <https://prng.di.unimi.it/splitmix64.c>, public domain), which the
/// authors of xoshiro recommend for filling its state.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_algorithms_numbers_come_out() {
        let mut mix = SplitMix64(1_234_567);
        assert_eq!([mix.next(), mix.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!(std::array::from_fn(|_| rng.next_u64()), expected);
    }

    #[test]
    fn seeds_and_streams_differ_and_repeat() {
        let draw = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        let draws = [draw(0, 0), draw(0, 1), draw(1, 0), draw(1, 1)];
        for (i, a) in draws.iter().enumerate() {
            assert!(draws[..i].iter().all(|b| a[0] != b[0] && a[1] != b[1]));
        }
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let mut rng = Rng::new(7, 0);
        let mut bins = [0_u32; 10];
        for _ in 0..100_000 {
            bins[(rng.next_f64() * 10.0) as usize] += 1;
        }
        // Nine degrees of freedom: above 27.9 once in a thousand seeds.
        let chi2: f64 = bins.iter().map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 27.9, "{chi2} {bins:?}");
    }
}
