//! Criterion benchmarks of the kernels (`benches/kernels.rs`) and of whole forward passes (`benches/forward.rs`).
//!
//! Arithmetic is given in elements a second, each a floating-point operation, so that `Gelem/s` reads as GFLOP/s; what is
//! bound by memory in bytes. Each group first prints what this machine does at best, measured with the same threads, and
//! at its end prints it again: a figure means little but as a fraction of that, and little at all where the two differ, as
//! on a machine shared with others.
//!
//! ```text
//! cargo bench -p pythia-benches                       everything: minutes
//! cargo bench -p pythia-benches --bench kernels -- matmul/1.4b
//! PYTHIA_ISA=avx2 cargo bench -p pythia-benches       another instruction set
//! cargo test --workspace --bench kernels              each once, without measuring
//! ```

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use pythia_tensor::{Crew, peak};
use std::time::Duration;

/// Whether times are wanted (`cargo bench`), or only that everything runs (`cargo bench -- --test`, `cargo test`).
pub fn measuring() -> bool {
    let asked = |option| std::env::args().any(|arg| arg == option);
    asked("--bench") && !asked("--test")
}

/// A group of benchmarks on one crew.
pub struct Group<'a> {
    inner: BenchmarkGroup<'a, WallTime>,
    crew: &'a Crew<'a>,
    name: &'static str,
    printed: bool,
}

impl std::fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({})", self.name)
    }
}

impl<'a> Group<'a> {
    /// A group called `name`, with few and short samples: many shapes matter more here than the third digit.
    pub fn new(criterion: &'a mut Criterion, crew: &'a Crew<'a>, name: &'static str) -> Self {
        let mut inner = criterion.benchmark_group(name);
        inner.sample_size(10).sampling_mode(SamplingMode::Flat);
        inner.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
        Self { inner, crew, name, printed: false }
    }

    /// One benchmark: `prepare` makes the function that is measured. Neither it nor the machine's peak costs anything
    /// where the command line's filter leaves the benchmark out.
    pub fn bench<F: FnMut()>(&mut self, id: &str, throughput: Option<Throughput>, prepare: impl Fn() -> F) {
        let (crew, name, printed) = (self.crew, self.name, &mut self.printed);
        if let Some(throughput) = throughput {
            self.inner.throughput(throughput);
        }
        let mut function = None;
        self.inner.bench_function(id, |bencher| {
            if measuring() && !std::mem::replace(printed, true) {
                print_peaks(name, "before", crew);
            }
            bencher.iter(function.get_or_insert_with(&prepare));
        });
    }

    /// Ends the group.
    pub fn finish(self) {
        self.inner.finish();
        if self.printed {
            print_peaks(self.name, "after", self.crew);
        }
    }
}

fn print_peaks(name: &str, when: &str, crew: &Crew<'_>) {
    let (gflops, gb_s) = (peak::fma_gflops(crew), peak::read_gb_s(crew));
    let (int8, int4) = (peak::int8_gops(crew), peak::int4_gops(crew));
    let (threads, isa) = (crew.threads(), crew.isa());
    println!(
        "\n{name}, {when}: {threads} threads, {isa}: {gflops:.1} GFLOP/s, int8 {int8:.1} and int4 {int4:.1} Gop/s, {gb_s:.1} GB/s at best"
    );
}

/// `operations` floating-point operations in one call.
pub fn flops(operations: usize) -> Option<Throughput> {
    Some(Throughput::Elements(operations as u64))
}

/// `bytes` read (and written) in one call.
pub fn bytes(bytes: usize) -> Option<Throughput> {
    Some(Throughput::BytesDecimal(bytes as u64))
}

/// Bytes that no cache holds, as in [`peak::read_gb_s`].
const BEYOND_CACHES: usize = 512 << 20;

/// How many copies of `bytes` bytes a benchmark must go around so that each is read from memory, as every layer's
/// weights and keys are in a model.
pub fn copies(bytes: usize) -> usize {
    if measuring() { BEYOND_CACHES.div_ceil(bytes) } else { 1 }
}

/// The places `0, 1, .. n - 1, 0, 1, ..`.
pub fn around(n: usize) -> impl FnMut() -> usize {
    let mut next = n - 1;
    move || {
        next = (next + 1) % n;
        next
    }
}

/// Numbers in `[-1, 1)` that look random.
pub fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| number()).collect()
}
