//! A perceptron of two layers with `f16` weights, forward: `gelu(x W1ᵀ + b1) W2ᵀ + b2`.
//!
//! ```text
//! cargo run -p pythia-tensor --example mlp
//! ```

use half::f16;
use pythia_tensor::ops::{Product, Then, Weight, matmul};
use pythia_tensor::{Error, Gelu, Mat, MatMut, Team, Tensor};

/// Channels of the input and of the output.
const C: usize = 64;
/// Hidden neurons.
const NEURONS: usize = 256;
/// Rows in the batch.
const ROWS: usize = 3;

fn main() -> Result<(), Error> {
    // Weights are `[out, in]`, as PyTorch and safetensors have them. Here they are copied into tensors of their own;
    // `Tensor::from_shared` takes them from a mapped file as they lie. Kernels widen f16 to f32 as they go.
    let w1 = Tensor::from_slice(&weights(NEURONS * C, 0.2), &[NEURONS, C]);
    let w2 = Tensor::from_slice(&weights(C * NEURONS, 0.1), &[C, NEURONS]);
    let (b1, b2) = (vec![0.1; NEURONS], vec![-0.1; C]);

    // Activations are plain f32, row by row.
    let x: Vec<f32> = (0..ROWS * C).map(|i| (i as f32 * 0.3).sin()).collect();
    let mut neurons = vec![0.0; ROWS * NEURONS];
    let mut out = vec![0.0; ROWS * C];

    // One thread per core, with the best instruction set there is (or the one that PYTHIA_ISA names).
    let team = Team::new(0)?;
    println!("{} threads, {}", team.threads(), team.isa());

    // The team is entered once for any number of operations, each of which is one parallel region.
    team.enter(|crew| {
        let hidden = Product {
            a: Mat::new(&x, C),
            weight: Weight::Exact(&w1),
            bias: Some(&b1),
            // Applied while the sums are still in the cache.
            then: Then::Gelu(Gelu::Erf),
        };
        matmul(crew, MatMut::new(&mut neurons, NEURONS), hidden);
        let last = Product {
            a: Mat::new(&neurons, NEURONS),
            weight: Weight::Exact(&w2),
            bias: Some(&b2),
            then: Then::Store,
        };
        matmul(crew, MatMut::new(&mut out, C), last);
    });

    for (r, row) in out.chunks_exact(C).enumerate() {
        println!("row {r}: {:9.5?} ...", &row[..4]);
    }

    // A row's bits do not depend on the rows beside it.
    let mut alone = vec![0.0; C];
    team.enter(|crew| {
        let product = Product {
            a: Mat::new(&neurons, NEURONS).slice_rows(1..2),
            weight: Weight::Exact(&w2),
            bias: Some(&b2),
            then: Then::Store,
        };
        matmul(crew, MatMut::new(&mut alone, C), product);
    });
    assert_eq!(alone, out[C..2 * C]);
    println!("row 1 alone has the same bits");
    Ok(())
}

/// Some numbers in `[-amp, amp]`.
fn weights(len: usize, amp: f32) -> Vec<f16> {
    (0..len).map(|i| f16::from_f32(amp * (i as f32 * 0.7).sin())).collect()
}
