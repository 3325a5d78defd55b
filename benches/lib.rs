//! Criterion benchmarks of the kernels and of whole forward passes; see `benches/`.
