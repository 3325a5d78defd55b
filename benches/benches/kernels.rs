//! Every operation of `pythia_tensor::ops`, the cache and the team, at the shapes of the published sizes.

use criterion::Criterion;
use half::{bf16, f16};
use pythia_benches::{Group, around, bytes, copies, flops, numbers};
use pythia_tensor::ops::{self, Product, Then, Weight};
use pythia_tensor::{Bits, Crew, Gelu, KeyValues, Mat, MatMut, Quantized, Rotary, Team, Tensor, Tiles};

/// Rows of the vocabulary (`V`).
const VOCAB: usize = 50304;

fn main() -> Result<(), pythia_tensor::Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let c = &mut criterion;
    Team::new(0)?.enter(|crew| {
        matmul(c, crew);
        quantized_matmul(c, crew);
        quantize(c, crew);
        layer_matmuls(c, crew, "matmuls", |w| Weight::Exact(w));
        if crew.isa().has_bf16() {
            layer_matmuls(c, crew, "matmuls_bf16", |w| Weight::Bf16(w));
        }
        attention_prefill(c, crew);
        attention_decode(c, crew);
        attention_step_by_step(c, crew);
        append(c, crew);
        rows(c, crew);
        vocabulary_rows(c, crew);
        differences(c, crew);
        embedding(c, crew);
    });
    team(c)?;
    criterion.final_summary();
    Ok(())
}

/// A size's name and its channels (`C`).
const SIZES: [(&str, usize); 3] = [("70m", 512), ("410m", 1024), ("1.4b", 2048)];

/// Weights `[n, k]` in f16, in as many copies as it takes to read them from memory every time.
fn weights(n: usize, k: usize) -> Vec<Tensor> {
    let block: Vec<f16> = numbers(1 << 16).into_iter().map(f16::from_f32).collect();
    let weight = Tensor::from_slice(&block.into_iter().cycle().take(n * k).collect::<Vec<_>>(), &[n, k]);
    let copy = |_| Tensor::from_slice(weight.as_slice::<f16>().expect("f16"), &[n, k]);
    (0..copies(n * k * size_of::<f16>())).map(copy).collect()
}

/// The linear layers: a token alone is bound by the weights' bytes, many are bound by arithmetic.
fn matmul(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "matmul");
    for (size, channels) in SIZES {
        for (layer, n, k) in [
            ("qkv", 3 * channels, channels),
            ("fc1", 4 * channels, channels),
            ("fc2", channels, 4 * channels),
            ("unembed", VOCAB, channels),
        ] {
            for m in [1, 8, 64, 512] {
                let throughput = if m == 1 { bytes(n * k * size_of::<f16>()) } else { flops(2 * m * n * k) };
                group.bench(&format!("{size}/{layer}/{m}"), throughput, || {
                    let (weights, a, mut out) = (weights(n, k), numbers(m * k), vec![0.0; m * n]);
                    let mut next = around(weights.len());
                    move || {
                        let a = Mat::new(&a, k);
                        let product = Product {
                            a,
                            weight: Weight::Exact(&weights[next()]),
                            bias: None,
                            then: Then::Store,
                        };
                        ops::matmul(crew, MatMut::new(&mut out, n), product);
                    }
                });
            }
        }
    }
    group.finish();
}

/// The same with int8 and int4 weights, in operations on integers.
fn quantized_matmul(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "quantized");
    for bits in [Bits::Int8, Bits::Int4] {
        for (size, channels) in SIZES {
            for (layer, n, k) in [
                ("qkv", 3 * channels, channels),
                ("fc1", 4 * channels, channels),
                ("fc2", channels, 4 * channels),
                ("unembed", VOCAB, channels),
            ] {
                for m in [1, 8, 64, 512] {
                    let len = Quantized::byte_len(bits, [n, k]).expect("a size of memory");
                    let throughput = if m == 1 { bytes(len) } else { flops(2 * m * n * k) };
                    group.bench(&format!("{bits}/{size}/{layer}/{m}"), throughput, || {
                        let weight = Tensor::from_slice(&numbers(n * k), &[n, k]);
                        let weights: Vec<_> =
                            (0..copies(len)).map(|_| Quantized::quantize(crew, &weight, bits)).collect();
                        let (a, mut out, mut next) =
                            (numbers(m * k), vec![0.0; m * n], around(weights.len()));
                        move || {
                            let weight = Weight::Quantized(&weights[next()]);
                            let product =
                                Product { a: Mat::new(&a, k), weight, bias: None, then: Then::Store };
                            ops::matmul(crew, MatMut::new(&mut out, n), product);
                        }
                    });
                }
            }
        }
    }
    group.finish();
}

/// Quantising, in weights.
fn quantize(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "quantize");
    let (n, k) = (4096, 1024);
    for bits in [Bits::Int8, Bits::Int4] {
        group.bench(&format!("{bits}/{n}x{k}"), flops(n * k), || {
            let weight = weights(n, k).swap_remove(0);
            move || drop(Quantized::quantize(crew, &weight, bits))
        });
    }
    group.finish();
}

/// The two regions of a layer with parallel residual, with biases, GELU and the residual stream.
fn layer_matmuls(
    c: &mut Criterion,
    crew: &Crew<'_>,
    name: &'static str,
    arithmetic: fn(&Tensor) -> Weight<'_>,
) {
    let mut group = Group::new(c, crew, name);
    for (size, c) in SIZES {
        for m in [1, 8, 64, 512] {
            let parameters = 12 * c * c;
            let throughput = if m == 1 { bytes(2 * parameters) } else { flops(2 * m * parameters) };
            group.bench(&format!("{size}/layer/{m}"), throughput, || {
                // QKV, the first of the MLP and attention's own lie one above the other.
                let (of_c, of_4c) = (weights(8 * c, c), weights(c, 4 * c));
                let mut next = around(of_c.len().min(of_4c.len()));
                let (bias, x) = (numbers(4 * c), numbers(m * c));
                let [mut qkv, mut neurons, mut residual] = [3 * c, 4 * c, c].map(|n| vec![0.0; m * n]);
                move || {
                    let copy = next();
                    let (of_c, of_4c) = (&of_c[copy], &of_4c[copy]);
                    let (w_qkv, w_fc1, w_dense) =
                        (of_c.rows(0..3 * c), of_c.rows(3 * c..7 * c), of_c.rows(7 * c..8 * c));
                    let product = |a, weight, n, then| Product {
                        a,
                        weight: arithmetic(weight),
                        bias: Some(&bias[..n]),
                        then,
                    };
                    let x = Mat::new(&x, c);
                    let reads = (
                        [product(x, &w_qkv, 3 * c, Then::Store)],
                        [product(x, &w_fc1, 4 * c, Then::Gelu(Gelu::Erf))],
                    );
                    let outputs = (MatMut::new(&mut qkv, 3 * c), MatMut::new(&mut neurons, 4 * c));
                    ops::matmuls(crew, [(outputs.0, &reads.0), (outputs.1, &reads.1)]);
                    let writes = [
                        product(x, &w_dense, c, Then::Add),
                        product(Mat::new(&neurons, 4 * c), of_4c, c, Then::Add),
                    ];
                    ops::matmuls(crew, [(MatMut::new(&mut residual, c), &writes)]);
                }
            });
        }
    }
    group.finish();
}

/// Heads and their dimensions (`H`, `D`) in 31m, 70m, 410m, 2.8b, 1.4b and 1b.
const HEADS: [(usize, usize); 6] = [(8, 32), (8, 64), (16, 64), (32, 80), (16, 128), (8, 256)];

/// Tokens before which, and with which, attention is measured.
const TOKENS: [usize; 3] = [64, 512, 2048];

/// One layer's attention: its cache, filled, and what went into it.
struct Layer {
    heads: usize,
    dim: usize,
    qkv: Vec<f32>,
    rotary: Rotary,
    cache: KeyValues,
}

impl Layer {
    fn new(heads: usize, dim: usize, tokens: usize) -> Self {
        Self::with(KeyValues::new(heads, dim, tokens), tokens)
    }

    fn with(mut cache: KeyValues, tokens: usize) -> Self {
        let (heads, dim) = cache.shape();
        let qkv = numbers(tokens * heads * 3 * dim);
        let rotary = Rotary::new(dim / 4, 10000.0, tokens);
        cache.append(Mat::new(&qkv, heads * 3 * dim), 0, &rotary);
        Self { heads, dim, qkv, rotary, cache }
    }

    fn qkv(&self) -> Mat<'_> {
        Mat::new(&self.qkv, self.heads * 3 * self.dim)
    }
}

/// Operations of the scores and the mix of `tokens` queries, each over itself and those before it.
fn attention_flops(heads: usize, dim: usize, tokens: usize) -> usize {
    2 * 2 * heads * dim * (tokens * (tokens + 1) / 2)
}

/// Caches in `f32` and in `bf16`, and what they are called.
fn caches(heads: usize, dim: usize, tokens: usize) -> [(&'static str, KeyValues); 2] {
    [("f32", KeyValues::new(heads, dim, tokens)), ("bf16", KeyValues::new_bf16(heads, dim, tokens))]
}

fn attention_prefill(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "attention/prefill");
    for ((heads, dim), tokens) in HEADS.into_iter().flat_map(|heads| TOKENS.map(|tokens| (heads, tokens))) {
        for (kind, cache) in caches(heads, dim, tokens) {
            let throughput = flops(attention_flops(heads, dim, tokens));
            group.bench(&format!("{kind}/{heads}x{dim}/{tokens}"), throughput, || {
                let layer = Layer::with(cache.clone(), tokens);
                let mut out = vec![0.0; tokens * heads * dim];
                let blocks: Vec<usize> = (0..=tokens).step_by(32).collect();
                move || {
                    let out = MatMut::new(&mut out, heads * dim);
                    let block = |i| (&layer.cache, 32 * i);
                    ops::attention(crew, out, layer.qkv(), &layer.rotary, dim, &blocks, block);
                }
            });
        }
    }
    group.finish();
}

/// The last of `tokens` tokens, alone: its key and value are written, and every key and value is read once.
fn attention_decode(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "attention/decode");
    for ((heads, dim), tokens) in HEADS.into_iter().flat_map(|heads| TOKENS.map(|tokens| (heads, tokens))) {
        for (kind, cache) in caches(heads, dim, tokens) {
            let number = if kind == "f32" { size_of::<f32>() } else { size_of::<bf16>() };
            let read = 2 * number * tokens * heads * dim;
            group.bench(&format!("{kind}/{heads}x{dim}/{tokens}"), bytes(read), || {
                let layer = Layer::with(cache.clone(), tokens);
                let caches = vec![layer.cache.clone(); copies(read)];
                let (mut next, mut out) = (around(caches.len()), vec![0.0; heads * dim]);
                move || {
                    let (out, last) = (MatMut::new(&mut out, heads * dim), tokens - 1);
                    let (cache, qkv) = (&caches[next()], layer.qkv().slice_rows(last..tokens));
                    ops::append_and_attend(crew, out, qkv, &layer.rotary, dim, &[0, 1], |_| (cache, last));
                }
            });
        }
    }
    group.finish();
}

/// What a pass with taps on the scores or the pattern does. Scores are of no later tokens; a pattern could be.
fn attention_step_by_step(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "attention/step by step");
    let (heads, dim, tokens) = (16, 128, 512);
    group.bench("scores/16x128/512", flops(attention_flops(heads, dim, tokens) / 2), || {
        let layer = Layer::new(heads, dim, tokens);
        let mut scores = vec![0.0; heads * tokens * tokens];
        move || {
            let scores = MatMut::new(&mut scores, tokens);
            ops::attention_scores(crew, scores, layer.qkv(), &layer.rotary, dim, (&layer.cache, 0));
        }
    });
    group.bench("mix/16x128/512", flops(2 * heads * dim * tokens * tokens), || {
        let layer = Layer::new(heads, dim, tokens);
        let pattern = numbers(heads * tokens * tokens);
        let mut out = vec![0.0; tokens * heads * dim];
        move || {
            let out = MatMut::new(&mut out, heads * dim);
            ops::attention_mix(crew, out, Mat::new(&pattern, tokens), dim, &layer.cache);
        }
    });
    group.finish();
}

/// Bytes read and written.
fn append(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "KeyValues::append");
    for (heads, dim) in HEADS {
        for tokens in [1, 512] {
            let moved = 2 * 2 * size_of::<f32>() * tokens * heads * dim;
            group.bench(&format!("{heads}x{dim}/{tokens}"), bytes(moved), || {
                let mut layer = Layer::new(heads, dim, tokens);
                move || {
                    let qkv = Mat::new(&layer.qkv, heads * 3 * dim);
                    layer.cache.append(qkv, 0, &layer.rotary);
                }
            });
        }
    }
    group.finish();
}

/// Bytes read and written by the operations between the matmuls of 1.4b, which caches may hold. GELU's numbers are
/// so large that it leaves them as they are: every run finds the same.
fn rows(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "rows");
    let (c, neurons) = (2048, 8192);
    for tokens in [1, 8, 512] {
        let moved = 2 * size_of::<f32>() * tokens;
        group.bench(&format!("layer_norm/{tokens}x{c}"), bytes(moved * c), || {
            let (x, weight, bias) = (numbers(tokens * c), numbers(c), numbers(c));
            let mut out = vec![0.0; tokens * c];
            move || ops::layer_norm(crew, MatMut::new(&mut out, c), Mat::new(&x, c), &weight, &bias, 1e-5)
        });
        for form in [Gelu::Erf, Gelu::Tanh] {
            group.bench(&format!("gelu/{form:?}/{tokens}x{neurons}"), bytes(moved * neurons), || {
                let mut x: Vec<f32> = numbers(tokens * neurons).into_iter().map(|x| 10.0 + x).collect();
                move || ops::gelu(crew, MatMut::new(&mut x, neurons), form)
            });
        }
    }
    group.finish();
}

/// Operations on logits, in bytes read and written. Repeated in place they only smooth the numbers.
fn vocabulary_rows(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "vocabulary rows");
    for rows in [1, 32] {
        let read = size_of::<f32>() * rows * VOCAB;
        group.bench(&format!("softmax/{rows}"), bytes(2 * read), || {
            let mut x = numbers(rows * VOCAB);
            move || ops::softmax(crew, MatMut::new(&mut x, VOCAB))
        });
        group.bench(&format!("log_softmax/{rows}"), bytes(2 * read), || {
            let mut x = numbers(rows * VOCAB);
            move || ops::log_softmax(crew, MatMut::new(&mut x, VOCAB))
        });
        group.bench(&format!("log_sum_exp/{rows}"), bytes(read), || {
            let (x, mut out) = (numbers(rows * VOCAB), vec![0.0; rows]);
            move || ops::log_sum_exp(crew, &mut out, Mat::new(&x, VOCAB))
        });
    }
    group.finish();
}

/// Two models beside each other: weights in bytes of both, and logits.
fn differences(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "differences");
    for (size, channels) in SIZES {
        let (n, k) = (4 * channels, channels);
        let read = 2 * n * k * size_of::<f16>();
        group.bench(&format!("{size}/f16"), bytes(read), || {
            let weights = weights(n, k);
            let (count, mut next) = (weights.len(), around(weights.len()));
            move || {
                let a = next();
                drop(ops::differences(crew, &weights[a], &weights[(a + count / 2) % count]));
            }
        });
    }
    let rows = 32;
    group.bench(&format!("divergence/{rows}x{VOCAB}"), bytes(2 * size_of::<f32>() * rows * VOCAB), || {
        let (a, mut out) = (numbers(2 * rows * VOCAB), vec![0.0; rows]);
        move || {
            let logits = Mat::new(&a, VOCAB);
            let (a, b) = (logits.slice_rows(0..rows), logits.slice_rows(rows..2 * rows));
            ops::divergence(crew, &mut out, a, b);
        }
    });
    group.finish();
}

/// Bytes read (f16) and written (f32), for 1.4b.
fn embedding(c: &mut Criterion, crew: &Crew<'_>) {
    let mut group = Group::new(c, crew, "embedding");
    let c = 2048;
    for tokens in [1, 512] {
        group.bench(&format!("{tokens}x{c}"), bytes((2 + 4) * tokens * c), || {
            let table = weights(VOCAB, c).swap_remove(0);
            let ids: Vec<u32> = (0..tokens).map(|t| (t * 7919 % VOCAB) as u32).collect();
            let mut out = vec![0.0; tokens * c];
            move || ops::embedding(crew, MatMut::new(&mut out, c), &ids, &table)
        });
    }
    group.finish();
}

/// What a parallel region costs that does nothing: a task for each core, and eight.
fn team(c: &mut Criterion) -> Result<(), pythia_tensor::Error> {
    for threads in [0, 8] {
        let (team, entered) = (Team::new(threads)?, Team::new(threads)?);
        let threads = team.threads();
        team.enter(|crew| {
            let mut group = Group::new(c, crew, "team");
            group.bench(&format!("empty region/{threads} threads"), None, || {
                let mut out = vec![0.0; threads];
                move || crew.run(&mut [Tiles::new(MatMut::new(&mut out, 1), 1, 1, &|_| {})])
            });
            group.bench(&format!("enter/{threads} threads"), None, || || entered.enter(|_| ()));
            group.finish();
        });
    }
    Ok(())
}
