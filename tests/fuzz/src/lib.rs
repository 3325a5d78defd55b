//! The fuzz targets differ in the format only: what is done with the bytes is in `pythia_tests::fuzz`.

pub use libfuzzer_sys;
pub use pythia_tests;

/// A fuzz target that reads the bytes as this format within the bounds of [`pythia_tests::fuzz::Checker::check`].
#[macro_export]
macro_rules! target {
    ($format:literal) => {
        #[global_allocator]
        static PEAK: $crate::pythia_tests::peak::Peak = $crate::pythia_tests::peak::Peak;

        static CHECKER: std::sync::LazyLock<$crate::pythia_tests::fuzz::Checker> =
            std::sync::LazyLock::new(|| $crate::pythia_tests::fuzz::Checker::new($format));

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            // Whether they are valid does not matter.
            let _ = CHECKER.check(bytes);
        });
    };
}
