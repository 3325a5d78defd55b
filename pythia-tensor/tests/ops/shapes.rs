//! Wrong shapes are bugs of the caller: each panics, with a message that says what does not fit what.

use crate::numbers::{DTYPES, tensor};
use pythia_tensor::ops::{self, Product, Then, Weight};
use pythia_tensor::{Crew, DType, Gelu, KeyValues, Mat, MatMut, Rotary, Team, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn enter(f: impl FnOnce(&Crew<'_>)) {
    Team::new(1).unwrap().enter(f);
}

/// `a` of `a` rows and columns times an `f16` weight into an output of `out` rows and columns.
fn product(a: (usize, usize), weight: [usize; 2], out: (usize, usize), bias: Option<usize>) {
    let weight = tensor(&vec![1.0; weight[0] * weight[1]], DType::F16, &weight);
    let (a_data, bias) = (vec![1.0; a.0 * a.1], bias.map(|n| vec![1.0; n]));
    let product = Product {
        a: Mat::new(&a_data, a.1),
        weight: Weight::Exact(&weight),
        bias: bias.as_deref(),
        then: Then::Store,
    };
    enter(|crew| ops::matmul(crew, MatMut::new(&mut vec![0.0; out.0 * out.1], out.1), product));
}

#[test]
#[should_panic(expected = " x Exact(Tensor(f16 [4, 5])) into [2, 4]")]
fn matmul_of_other_channels() {
    product((2, 3), [4, 5], (2, 4), None);
}

#[test]
#[should_panic(expected = " x Exact(Tensor(f16 [4, 3])) into [7, 4]")]
fn matmul_into_other_rows() {
    product((2, 3), [4, 3], (7, 4), None);
}

#[test]
#[should_panic(expected = " x Exact(Tensor(f16 [4, 3])) into [2, 5]")]
fn matmul_into_other_columns() {
    product((2, 3), [4, 3], (2, 5), None);
}

#[test]
#[should_panic(expected = " x Exact(Tensor(f16 [3, 4])) into [2, 4]")]
fn matmul_with_a_transposed_weight() {
    product((2, 3), [3, 4], (2, 4), None);
}

#[test]
#[should_panic(expected = "bias of Exact(Tensor(f16 [4, 3]))")]
fn matmul_with_a_short_bias() {
    product((2, 3), [4, 3], (2, 4), Some(3));
}

/// Of several products, each is looked at before any is computed.
#[test]
#[should_panic(expected = " x Exact(Tensor(f32 [4, 2])) into [1, 4]")]
fn the_second_product_of_a_chain() {
    let (a, good, bad) =
        ([1.0; 3], Tensor::from_slice(&[1.0_f32; 12], &[4, 3]), Tensor::from_slice(&[1.0_f32; 8], &[4, 2]));
    let product =
        |weight| Product { a: Mat::new(&a, 3), weight: Weight::Exact(weight), bias: None, then: Then::Add };
    enter(|crew| ops::matmuls(crew, [(MatMut::new(&mut [0.0; 4], 4), &[product(&good), product(&bad)])]));
}

#[test]
#[should_panic(expected = "2 ids in Tensor(f32 [4, 3])")]
fn embedding_of_other_channels() {
    let table = tensor(&[1.0; 12], DType::F32, &[4, 3]);
    enter(|crew| ops::embedding(crew, MatMut::new(&mut [0.0; 4], 2), &[0, 1], &table));
}

#[test]
#[should_panic(expected = "1 ids in Tensor(f32 [4, 3])")]
fn embedding_of_fewer_ids_than_rows() {
    let table = tensor(&[1.0; 12], DType::F32, &[4, 3]);
    enter(|crew| ops::embedding(crew, MatMut::new(&mut [0.0; 6], 3), &[0], &table));
}

/// An id outside the table is never read from what lies after it.
#[test]
fn embedding_of_an_id_outside_the_table() {
    for dtype in DTYPES {
        let whole = tensor(&[1.0; 24], dtype, &[8, 3]);
        // The table ends in the middle of the memory it shares.
        let table = whole.rows(0..4);
        for id in [4, 5, 7, 8, u32::MAX] {
            let run = || enter(|crew| ops::embedding(crew, MatMut::new(&mut [0.0; 3], 3), &[id], &table));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "{dtype}, id {id} of 4");
        }
    }
}

#[test]
#[should_panic(expected = "layer norm of")]
fn layer_norm_with_a_short_weight() {
    let (x, weight, bias) = ([1.0; 6], [1.0; 2], [1.0; 3]);
    enter(|crew| ops::layer_norm(crew, MatMut::new(&mut [0.0; 6], 3), Mat::new(&x, 3), &weight, &bias, 1e-5));
}

#[test]
#[should_panic(expected = "layer norm of")]
fn layer_norm_into_other_rows() {
    let (x, one) = ([1.0; 6], [1.0; 3]);
    enter(|crew| ops::layer_norm(crew, MatMut::new(&mut [0.0; 9], 3), Mat::new(&x, 3), &one, &one, 1e-5));
}

#[test]
#[should_panic(expected = "left: 1\n right: 2")]
fn log_sum_exp_into_fewer_results_than_rows() {
    enter(|crew| ops::log_sum_exp(crew, &mut [0.0], Mat::new(&[1.0; 6], 3)));
}

/// `rows` rows of two heads of four dimensions, and their cache.
fn attended(rows: usize) -> (Vec<f32>, KeyValues, Rotary) {
    let (qkv, rotary) = (vec![1.0; rows * 24], Rotary::new(2, 10_000.0, 100));
    let mut cache = KeyValues::new(2, 4, rows);
    cache.append(Mat::new(&qkv, 24), 0, &rotary);
    (qkv, cache, rotary)
}

fn attention(rows: usize, out: (usize, usize), dim: usize, bounds: &[usize]) {
    let (qkv, cache, rotary) = attended(rows);
    let qkv = Mat::new(&qkv, 24);
    let mut data = vec![0.0; out.0 * out.1];
    enter(|crew| {
        let out = MatMut::new(&mut data, out.1);
        ops::attention(crew, out, qkv, &rotary, dim, bounds, |block| (&cache, bounds[block]));
    });
}

#[test]
fn attention_of_right_shapes() {
    attention(3, (3, 8), 4, &[0, 3]);
    attention(40, (40, 8), 4, &[0, 32, 40]);
}

#[test]
#[should_panic(expected = "attention of")]
fn attention_into_other_columns() {
    attention(3, (3, 12), 4, &[0, 3]);
}

#[test]
#[should_panic(expected = "heads of 5 in 8 columns")]
fn attention_of_heads_that_do_not_divide_the_channels() {
    attention(3, (3, 8), 5, &[0, 3]);
}

/// The cache has heads of 4.
#[test]
#[should_panic(expected = "of 4 dimensions")]
fn attention_of_other_heads_than_the_caches() {
    attention(3, (3, 8), 2, &[0, 3]);
}

#[test]
#[should_panic(expected = "blocks of at most 32 rows")]
fn attention_of_too_long_a_block() {
    attention(33, (33, 8), 4, &[0, 33]);
}

#[test]
#[should_panic(expected = "row bounds [0, 2] of a matrix of 3 rows")]
fn attention_of_blocks_that_leave_rows_out() {
    attention(3, (3, 8), 4, &[0, 2]);
}

/// `tokens` tokens from position `start` on, into `out` rows and columns.
fn scores(tokens: usize, start: usize, out: (usize, usize)) {
    let (qkv, cache, rotary) = attended(tokens);
    let mut data = vec![0.0; out.0 * out.1];
    enter(|crew| {
        let out = MatMut::new(&mut data, out.1);
        ops::attention_scores(crew, out, Mat::new(&qkv, 24), &rotary, 4, (&cache, start));
    });
}

#[test]
#[should_panic(expected = "shape of the scores")]
fn scores_of_other_rows() {
    scores(3, 0, (3, 3));
}

#[test]
#[should_panic(expected = "shape of the scores")]
fn scores_of_other_positions() {
    scores(3, 2, (6, 3));
}

#[test]
#[should_panic(expected = "rows of the pattern")]
fn a_mix_of_other_rows() {
    let (_, cache, _) = attended(3);
    let pattern = Mat::new(&[0.5; 9], 3);
    enter(|crew| ops::attention_mix(crew, MatMut::new(&mut [0.0; 24], 8), pattern, 4, &cache));
}

#[test]
#[should_panic(expected = "columns of qkv")]
fn keys_of_other_heads() {
    let (_, mut cache, rotary) = attended(3);
    cache.append(Mat::new(&[1.0; 12], 12), 0, &rotary);
}

#[test]
#[should_panic(expected = "3 keys at 14 of 16")]
fn keys_without_room() {
    let (qkv, mut cache, rotary) = attended(3);
    assert_eq!(cache.capacity(), 16);
    cache.append(Mat::new(&qkv, 24), 14, &rotary);
}

#[test]
#[should_panic(expected = "heads and dimensions")]
fn a_prefix_of_another_shape() {
    let (_, mut cache, _) = attended(3);
    cache.copy_prefix(&KeyValues::new(4, 2, 64), 3);
}

#[test]
#[should_panic(expected = "17 positions")]
fn a_prefix_without_room() {
    let (_, mut cache, _) = attended(3);
    cache.copy_prefix(&KeyValues::new(2, 4, 200), 17);
}

#[test]
#[should_panic(expected = "rotary over 5 dimensions")]
fn half_a_pair_of_rotary_dimensions() {
    let _ = Rotary::new(5, 10_000.0, 10);
}

#[test]
#[should_panic(expected = "7 elements in rows of 2")]
fn a_matrix_of_broken_rows() {
    let _ = Mat::new(&[0.0; 7], 2);
}

#[test]
#[should_panic(expected = "7 elements in rows of 2")]
fn an_output_of_broken_rows() {
    let _ = MatMut::new(&mut [0.0; 7], 2);
}

#[test]
#[should_panic(expected = "rows 2..5 of 4")]
fn rows_that_a_matrix_does_not_have() {
    let _ = Mat::new(&[0.0; 12], 3).slice_rows(2..5);
}

#[test]
#[should_panic(expected = "columns 1..4 of 3")]
fn columns_that_a_matrix_does_not_have() {
    let _ = Mat::new(&[0.0; 12], 3).slice_cols(1..4);
}

#[test]
#[should_panic(expected = "rows 2..5 of [4, 3]")]
fn rows_that_a_tensor_does_not_have() {
    let _ = tensor(&[0.0; 12], DType::BF16, &[4, 3]).rows(2..5);
}

#[test]
#[should_panic(expected = "f32 [2, 2] needs 16 bytes, found 12")]
fn a_tensor_of_too_few_numbers() {
    let _ = Tensor::from_slice(&[0.0_f32; 3], &[2, 2]);
}

/// A wrong shape inside a team of several threads reaches the caller, and the team goes on.
#[test]
fn a_team_survives_a_wrong_shape() {
    let team = Team::new(3).unwrap();
    for _ in 0..3 {
        let wrong = || team.enter(|crew| ops::gelu(crew, MatMut::new(&mut [0.0; 7], 2), Gelu::Erf));
        assert!(catch_unwind(AssertUnwindSafe(wrong)).is_err());
        let mut x = vec![100.0; 1 << 15];
        team.enter(|crew| ops::gelu(crew, MatMut::new(&mut x, 1 << 5), Gelu::Erf));
        assert!(x.iter().all(|&x| x == 100.0));
    }
}

#[test]
#[should_panic(expected = "differences of Tensor(f32 [2, 3]) and Tensor(f32 [3, 2])")]
fn differences_of_other_shapes() {
    let [a, b] = [[2, 3], [3, 2]].map(|shape| Tensor::from_slice(&[1.0_f32; 6], &shape));
    enter(|crew| _ = ops::differences(crew, &a, &b));
}

#[test]
#[should_panic(expected = "divergence of Mat([1, 4]) and Mat([1, 3])")]
fn divergence_of_other_vocabularies() {
    let (a, b) = ([1.0; 4], [1.0; 3]);
    enter(|crew| ops::divergence(crew, &mut [0.0], Mat::new(&a, 4), Mat::new(&b, 3)));
}
