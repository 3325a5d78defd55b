//! scratch
use pythia_tensor::ops::{self, Product, Then, Weight};
use pythia_tensor::{Bits, Mat, MatMut, Quantized, Team, Tensor, peak};
use std::time::Instant;
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1_u64;
    (0..len).map(|_| { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0 }).collect()
}
fn main() {
    let ms: Vec<usize> = std::env::args().nth(1).unwrap_or("1,8,64,512".into()).split(',').map(|x| x.parse().unwrap()).collect();
    let shapes: Vec<(usize, usize)> = std::env::args().nth(2).unwrap_or("3072x1024,1024x4096,8192x2048".into()).split(',').map(|x| { let (a, b) = x.split_once('x').unwrap(); (a.parse().unwrap(), b.parse().unwrap()) }).collect();
    let threads: usize = std::env::args().nth(3).map_or(0, |x| x.parse().unwrap());
    Team::new(threads).unwrap().enter(|crew| {
        println!("{} threads {}: fma {:.0} int8 {:.0} Gop/s, read {:.1} GB/s", crew.threads(), crew.isa(), peak::fma_gflops(crew), peak::int8_gops(crew), peak::read_gb_s(crew));
        for (n, k) in shapes {
            let t = Instant::now();
            let w = Tensor::from_slice(&numbers(n * k), &[n, k]);
            let made = t.elapsed();
            for bits in [Bits::Int8, Bits::Int4] {
                let t = Instant::now();
                let q = Quantized::quantize(crew, &w, bits);
                let quant = t.elapsed().as_secs_f64();
                let len = q.bytes().len();
                let copies: Vec<Quantized> = if ms.iter().any(|&m| m <= 16) { (0..(400 << 20) / len + 1).map(|_| {
                    let t = Tensor::from_bytes(q.bytes(), pythia_tensor::DType::F32, &[len / 4]).unwrap();
                    struct B(Tensor);
                    impl AsRef<[u8]> for B { fn as_ref(&self) -> &[u8] { self.0.bytes() } }
                    Quantized::from_shared(bits, [n, k], std::sync::Arc::new(B(t)), 0..len).unwrap()
                }).collect() } else { vec![q.clone()] };
                for &m in &ms {
                    let a = numbers(m * k);
                    let mut out = vec![0.0; m * n];
                    let mut best = f64::INFINITY;
                    let mut i = 0;
                    let start = Instant::now();
                    while start.elapsed().as_secs_f64() < 0.3 {
                        let reps = if m <= 16 { copies.len() } else { 3 };
                        let t = Instant::now();
                        for _ in 0..reps {
                            i = (i + 1) % copies.len();
                            let product = Product { a: Mat::new(&a, k), weight: Weight::Quantized(&copies[i]), bias: None, then: Then::Store };
                            ops::matmul(crew, MatMut::new(&mut out, n), product);
                        }
                        best = best.min(t.elapsed().as_secs_f64() / reps as f64);
                    }
                    let peak = peak::int8_gops(crew);
                    let gops = 2.0 * (m * n * k) as f64 / best / 1e9;
                    println!("{n}x{k} {bits} M={m}: {:.1} us, {gops:.0} Gop/s = {:.2} of {peak:.0}, {:.1} GB/s  (quantise {:.0} Mw/s {:?})", best * 1e6, gops / peak, len as f64 / best / 1e9, (n * k) as f64 / quant / 1e6, made);
                }
            }
        }
    });
}
