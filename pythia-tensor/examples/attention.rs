//! A layer of causal attention with a cache of keys and values: a prompt at once, then token by token.
//!
//! ```text
//! cargo run -p pythia-tensor --example attention
//! ```

use half::f16;
use pythia_tensor::ops::{Product, Then, Weight, attention, matmul};
use pythia_tensor::{Crew, Error, KeyValues, Mat, MatMut, Rotary, Team, Tensor};

/// Heads (`H`), dimensions of each (`D`), channels (`C`).
const HEADS: usize = 4;
const DIM: usize = 32;
const C: usize = HEADS * DIM;
/// The longest text.
const POSITIONS: usize = 128;

/// One layer's weights and what is fixed about positions.
struct Attention {
    /// `[3 C, C]`, its rows `[head][q, k, v][D]`.
    qkv: Tensor,
    /// `[C, C]`.
    dense: Tensor,
    rotary: Rotary,
}

impl Attention {
    fn new() -> Self {
        Self {
            qkv: weights(&[3 * C, C]),
            dense: weights(&[C, C]),
            // Pythia turns a quarter of each head's dimensions.
            rotary: Rotary::new(DIM / 4, 10_000.0, POSITIONS),
        }
    }

    /// What the tokens `x`, `[T, C]`, take from themselves and from the `start` tokens in the cache, `[T, C]`.
    fn forward(&self, crew: &Crew<'_>, x: &[f32], cache: &mut KeyValues, start: usize) -> Vec<f32> {
        let tokens = x.len() / C;
        let mut qkv = vec![0.0; tokens * 3 * C];
        let project =
            Product { a: Mat::new(x, C), weight: Weight::Exact(&self.qkv), bias: None, then: Then::Store };
        matmul(crew, MatMut::new(&mut qkv, 3 * C), project);

        // The new tokens' keys and values first: a token sees itself.
        let qkv = Mat::new(&qkv, 3 * C);
        cache.append(qkv, start, &self.rotary);

        // Tokens are handed out in blocks of at most 32. With several sequences in `x`, each block would be of one of
        // them, and the closure would say which cache it reads.
        let blocks: Vec<usize> = (0..tokens).step_by(32).chain([tokens]).collect();
        let cache = &*cache;
        let mut z = vec![0.0; tokens * C];
        attention(crew, MatMut::new(&mut z, C), qkv, &self.rotary, DIM, &blocks, |block| {
            (cache, start + blocks[block])
        });

        let mut out = vec![0.0; tokens * C];
        let project =
            Product { a: Mat::new(&z, C), weight: Weight::Exact(&self.dense), bias: None, then: Then::Store };
        matmul(crew, MatMut::new(&mut out, C), project);
        out
    }
}

fn main() -> Result<(), Error> {
    let (layer, team) = (Attention::new(), Team::new(0)?);
    let text: Vec<f32> = (0..40 * C).map(|i| (i as f32 * 0.37).sin()).collect();
    let (prompt, rest) = text.split_at(35 * C);

    team.enter(|crew| {
        let mut cache = KeyValues::new(HEADS, DIM, POSITIONS);
        let mut out = layer.forward(crew, prompt, &mut cache, 0);
        println!("a prompt of {} tokens: {:8.5?} ...", prompt.len() / C, &out[..3]);
        for (i, token) in rest.chunks_exact(C).enumerate() {
            let position = prompt.len() / C + i;
            let new = layer.forward(crew, token, &mut cache, position);
            println!("token {position} after it: {:8.5?} ...", &new[..3]);
            out.extend(new);
        }

        // How the text was split between calls does not change a bit.
        let whole = layer.forward(crew, &text, &mut KeyValues::new(HEADS, DIM, POSITIONS), 0);
        assert_eq!(whole, out);
        println!("the whole text at once has the same bits");
    });
    Ok(())
}

/// Some weights of about the size that keeps a product's numbers near 1.
fn weights(shape: &[usize; 2]) -> Tensor {
    let amp = (3.0 / shape[1] as f32).sqrt();
    let number = |i| f16::from_f32(amp * (i as f32 * 0.7).sin());
    Tensor::from_slice(&(0..shape[0] * shape[1]).map(number).collect::<Vec<_>>(), shape)
}
