//! The model: GPT-NeoX's forward pass (Black et al. 2022, section 2; Biderman et al. 2023, section 2.1).

use crate::quantized::{self, Check, Kept, Progress};
use crate::taps::{At, NoTaps, Point, Tapped, Taps};
use crate::weights::{LayerNormWeights, LayerWeights, Linear};
use crate::{Cache, Config, Precision, Result, Sequence, Weights, Workspace};
use pythia_tensor::ops::{self, Product, Then, Weight};
use pythia_tensor::{Crew, Mat, MatMut, Quantized, Rotary, Tensor};
use std::path::Path;

/// A GPT-NeoX model, ready to run. Cheap to open: the weights are mapped.
///
/// ```no_run
/// use pythia_model::{Model, Sequence, Workspace};
/// use pythia_tensor::Team;
/// let model = Model::open("pythia-70m")?;
/// let (team, mut workspace) = (Team::new(0)?, Workspace::new());
/// let mut cache = model.cache(2048)?;
/// team.enter(|crew| {
///     let batch = &mut [Sequence::last(&[510, 5798, 3290], &mut cache)];
///     let logits = model.forward(crew, batch, &mut workspace)?;
///     println!("{:?}", logits.row(0));
///     Ok::<(), pythia_model::Error>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    weights: Weights,
    rotary: Rotary,
    precision: Precision,
}

impl Model {
    /// Opens the model in a folder: `config.json` and the weights beside it. Or a GGUF file, or a folder that holds one; or a
    /// checkpoint as the training code writes it.
    ///
    /// # Errors
    /// As [`Config::of_model`] and [`Weights::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = Config::of_model(dir)?;
        let weights = Weights::open(dir, &config)?;
        Ok(Self::new(config, weights))
    }

    /// A model of `weights` that were read with `config`.
    ///
    /// # Panics
    /// If the two do not belong together, or if `config` was built by hand and breaks a promise of [`Config`]: here, or
    /// in a later pass.
    pub fn new(config: Config, weights: Weights) -> Self {
        let rotary = Rotary::new(config.rotary_dims(), config.rotary_base, config.max_position_embeddings);
        Self { config, weights, rotary, precision: Precision::Exact }
    }

    /// The same model in another precision. Quantised weights are made here, in memory;
    /// [`Model::with_precision_kept`] keeps them in a file.
    ///
    /// # Errors
    /// If the crew's instruction set does not have the precision.
    pub fn with_precision(mut self, crew: &Crew<'_>, precision: Precision) -> Result<Self> {
        precision.check(crew.isa())?;
        let quantized = match precision.bits() {
            None => Vec::new(),
            Some(bits) => quantized::in_memory(&self.weights, bits, crew, &mut |_| {})?,
        };
        self.weights.set_quantized(quantized);
        Ok(Self { precision, ..self })
    }

    /// The same model in `int8` or `int4`, its quantised weights mapped from the file `path`. If that is not there, or
    /// cannot be used, it is written first, of which `progress` is told; if it cannot be written, the quantised weights
    /// are in memory. [`Kept`] says which; [`quantized`] what is checked.
    ///
    /// # Errors
    /// If `precision` is another.
    pub fn with_precision_kept(
        mut self,
        crew: &Crew<'_>,
        precision: Precision,
        (path, check): (&Path, Check),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, Kept)> {
        let bits = quantized::bits_of(precision)?;
        let (quantized, kept) = quantized::kept(path, &self.weights, bits, check, crew, progress)?;
        self.weights.set_quantized(quantized);
        Ok((Self { precision, ..self }, kept))
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The arithmetic of the model's matrices.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The bytes of the matrices that each token is multiplied with, in the model's precision.
    pub fn matrix_bytes(&self) -> usize {
        let bytes = |(stored, quantized): (&Tensor, Option<&Quantized>)| match self.weight(stored, quantized)
        {
            Weight::Quantized(quantized) => quantized.bytes().len(),
            Weight::Exact(stored) | Weight::Bf16(stored) => stored.bytes().len(),
        };
        let layers = self.weights.layers.iter().flat_map(LayerWeights::linears);
        let unembedding = (&self.weights.embed_out, self.weights.embed_out_quantized.as_ref());
        layers.map(|linear| (&linear.weight, linear.quantized.as_ref())).chain([unembedding]).map(bytes).sum()
    }

    /// The bytes of the keys and values that each token leaves in a cache.
    pub fn cache_bytes_per_token(&self) -> usize {
        let number = if self.cache_in_bf16() { 2 } else { 4 };
        2 * number * self.config.hidden_size * self.config.num_hidden_layers
    }

    /// The model's weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// An empty cache with room for `positions` tokens: in `f32`, or in `bf16` for a precision other than `exact`.
    ///
    /// # Errors
    /// If the model's context is shorter than that.
    pub fn cache(&self, positions: usize) -> Result<Cache> {
        Cache::new(&self.config, positions, self.cache_in_bf16())
    }

    fn cache_in_bf16(&self) -> bool {
        self.precision != Precision::Exact
    }

    /// Runs the new tokens of every sequence through the model and adds them to the caches. Gives the logits that the
    /// sequences ask for, `[R, V]`, in the order of the batch.
    ///
    /// # Errors
    /// If a sequence is empty, too long for the context or its cache, or has an id outside the vocabulary, or the crew's
    /// instruction set does not have the model's precision. Nothing has changed then.
    pub fn forward<'w>(
        &self,
        crew: &Crew<'_>,
        batch: &mut [Sequence<'_>],
        workspace: &'w mut Workspace,
    ) -> Result<Mat<'w>> {
        self.forward_with_taps(crew, batch, workspace, &mut NoTaps)
    }

    /// As [`Model::forward`], with `taps` watching or editing.
    ///
    /// # Errors
    /// As [`Model::forward`]; and if the model lacks one of [`Taps::points`].
    pub fn forward_with_taps<'w>(
        &self,
        crew: &Crew<'_>,
        batch: &mut [Sequence<'_>],
        workspace: &'w mut Workspace,
        taps: &mut dyn Taps,
    ) -> Result<Mat<'w>> {
        taps.points().iter().try_for_each(|point| point.check(&self.config))?;
        self.hidden(crew, batch, workspace, taps)?;
        let c = self.config.hidden_size;
        let (mut first, mut picked) = (0, workspace.picked.chunks_exact_mut(c));
        for sequence in batch.iter() {
            let wanted = first + sequence.logits.start..first + sequence.logits.end;
            for (row, out) in wanted.zip(&mut picked) {
                out.copy_from_slice(&workspace.ln1[row * c..][..c]);
            }
            first += sequence.ids.len();
        }
        let Workspace { picked, logits, .. } = workspace;
        self.unembed(crew, Mat::new(picked, c), logits);
        Ok(Mat::new(logits, self.config.vocab_size))
    }

    /// As [`Model::forward`], but gives what the unembedding reads, `[T, C]`, for all new tokens: with [`Model::unembed`]
    /// on some rows at a time, logits of a long text need not exist all at once.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_hidden<'w>(
        &self,
        crew: &Crew<'_>,
        batch: &mut [Sequence<'_>],
        workspace: &'w mut Workspace,
    ) -> Result<Mat<'w>> {
        self.hidden(crew, batch, workspace, &mut NoTaps)?;
        Ok(Mat::new(&workspace.ln1, self.config.hidden_size))
    }

    /// The logits of rows of [`Model::forward_hidden`]: `hidden` is `[R, C]`, `logits` is `[R, V]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn unembed(&self, crew: &Crew<'_>, hidden: Mat<'_>, logits: &mut [f32]) {
        let weight = self.weight(&self.weights.embed_out, self.weights.embed_out_quantized.as_ref());
        let product = Product { a: hidden, weight, bias: None, then: Then::Store };
        ops::matmul(crew, MatMut::new(logits, self.config.vocab_size), product);
    }

    /// The pass up to the unembedding: its input is left in `workspace.ln1`.
    fn hidden(
        &self,
        crew: &Crew<'_>,
        batch: &mut [Sequence<'_>],
        ws: &mut Workspace,
        taps: &mut dyn Taps,
    ) -> Result<()> {
        self.precision.check(crew.isa())?;
        batch.iter().try_for_each(|sequence| sequence.check(&self.config))?;
        ws.begin(&self.config, batch);
        let c = self.config.hidden_size;
        ops::embedding(crew, MatMut::new(&mut ws.x, c), &ws.ids, &self.weights.embed_in);
        tap(taps, Point::Embed, &mut ws.x, c);
        for (l, layer) in self.weights.layers.iter().enumerate() {
            if self.config.use_parallel_residual && !At::ALL.iter().any(|&at| taps.wants(Point::Block(l, at)))
            {
                self.parallel(crew, l, layer, batch, ws);
            } else {
                self.step_by_step(crew, l, layer, batch, ws, taps);
            }
        }
        self.layer_norm(crew, &mut ws.ln1, &ws.x, &self.weights.final_layer_norm);
        tap(taps, Point::LnFinal, &mut ws.ln1, c);
        batch.iter_mut().for_each(|sequence| sequence.cache.advance(sequence.ids.len()));
        Ok(())
    }

    /// `x + attn(ln1(x)) + mlp(ln2(x))`, in three parallel regions.
    fn parallel(
        &self,
        crew: &Crew<'_>,
        l: usize,
        layer: &LayerWeights,
        batch: &mut [Sequence<'_>],
        ws: &mut Workspace,
    ) {
        let (c, n) = (self.config.hidden_size, self.config.intermediate_size);
        let gelu = Then::Gelu(self.config.hidden_act);
        self.layer_norm(crew, &mut ws.ln1, &ws.x, &layer.input_layernorm);
        self.layer_norm(crew, &mut ws.ln2, &ws.x, &layer.post_attention_layernorm);
        let qkv = self.linear(&layer.query_key_value, &ws.ln1, Then::Store);
        let neurons = self.linear(&layer.dense_h_to_4h, &ws.ln2, gelu);
        let out = (MatMut::new(&mut ws.qkv, 3 * c), MatMut::new(&mut ws.neurons, n));
        ops::matmuls(crew, [(out.0, &[qkv]), (out.1, &[neurons])]);
        self.attention(crew, l, batch, ws);
        let attn = self.linear(&layer.attention_dense, &ws.z, Then::Add);
        let mlp = self.linear(&layer.dense_4h_to_h, &ws.neurons, Then::Add);
        ops::matmuls(crew, [(MatMut::new(&mut ws.x, c), &[attn, mlp])]);
    }

    /// The same, bit for bit, or with the sequential residual (`x = x + attn(ln1(x))`, then `x + mlp(ln2(x))`), one
    /// operation at a time with every point open to taps.
    fn step_by_step(
        &self,
        crew: &Crew<'_>,
        l: usize,
        layer: &LayerWeights,
        batch: &mut [Sequence<'_>],
        ws: &mut Workspace,
        taps: &mut dyn Taps,
    ) {
        let (c, n) = (self.config.hidden_size, self.config.intermediate_size);
        let at = |at| Point::Block(l, at);
        tap(taps, at(At::ResidPre), &mut ws.x, c);

        self.layer_norm(crew, &mut ws.ln1, &ws.x, &layer.input_layernorm);
        tap(taps, at(At::Ln1), &mut ws.ln1, c);
        let qkv = self.linear(&layer.query_key_value, &ws.ln1, Then::Store);
        ops::matmul(crew, MatMut::new(&mut ws.qkv, 3 * c), qkv);
        for (part, point) in [At::Q, At::K, At::V].into_iter().enumerate() {
            self.tap_qkv(taps, at(point), part, &mut ws.qkv);
        }
        if taps.wants(at(At::Scores)) || taps.wants(at(At::Pattern)) {
            self.append(crew, l, batch, &ws.qkv);
            self.attention_step_by_step(crew, l, batch, ws, taps);
        } else {
            self.attention(crew, l, batch, ws);
        }
        self.tap_heads(taps, at(At::Z), &mut ws.z);
        ws.attn_out.resize(ws.x.len());
        let attn = self.linear(&layer.attention_dense, &ws.z, Then::Store);
        ops::matmul(crew, MatMut::new(&mut ws.attn_out, c), attn);
        tap(taps, at(At::AttnOut), &mut ws.attn_out, c);
        // With the parallel residual the MLP reads x as it was before attention.
        if !self.config.use_parallel_residual {
            add(&mut ws.x, &ws.attn_out);
            tap(taps, at(At::ResidMid), &mut ws.x, c);
        }

        self.layer_norm(crew, &mut ws.ln2, &ws.x, &layer.post_attention_layernorm);
        tap(taps, at(At::Ln2), &mut ws.ln2, c);
        let neurons = self.linear(&layer.dense_h_to_4h, &ws.ln2, Then::Store);
        ops::matmul(crew, MatMut::new(&mut ws.neurons, n), neurons);
        tap(taps, at(At::MlpPre), &mut ws.neurons, n);
        ops::gelu(crew, MatMut::new(&mut ws.neurons, n), self.config.hidden_act);
        tap(taps, at(At::MlpPost), &mut ws.neurons, n);
        ws.mlp_out.resize(ws.x.len());
        let mlp = self.linear(&layer.dense_4h_to_h, &ws.neurons, Then::Store);
        ops::matmul(crew, MatMut::new(&mut ws.mlp_out, c), mlp);
        tap(taps, at(At::MlpOut), &mut ws.mlp_out, c);

        if self.config.use_parallel_residual {
            add(&mut ws.x, &ws.attn_out);
        }
        add(&mut ws.x, &ws.mlp_out);
        tap(taps, at(At::ResidPost), &mut ws.x, c);
    }

    /// `a Wᵀ + b`.
    fn linear<'a>(&self, layer: &'a Linear, a: &'a [f32], then: Then) -> Product<'a> {
        let weight = self.weight(&layer.weight, layer.quantized.as_ref());
        Product { a: Mat::new(a, weight.shape()[1]), weight, bias: layer.bias.as_deref(), then }
    }

    /// A matrix in the model's precision.
    fn weight<'a>(&self, stored: &'a Tensor, quantized: Option<&'a Quantized>) -> Weight<'a> {
        match (self.precision, quantized) {
            (Precision::Int8 | Precision::Int4, Some(quantized)) => Weight::Quantized(quantized),
            (Precision::Bf16, _) => Weight::Bf16(stored),
            _ => Weight::Exact(stored),
        }
    }

    fn layer_norm(&self, crew: &Crew<'_>, out: &mut [f32], x: &[f32], norm: &LayerNormWeights) {
        let (c, eps) = (self.config.hidden_size, self.config.layer_norm_eps);
        ops::layer_norm(crew, MatMut::new(out, c), Mat::new(x, c), &norm.weight, &norm.bias, eps);
    }

    /// Puts the new tokens' keys and values into the caches.
    fn append(&self, crew: &Crew<'_>, l: usize, batch: &mut [Sequence<'_>], qkv: &[f32]) {
        let qkv = Mat::new(qkv, 3 * self.config.hidden_size);
        let mut first = 0;
        for sequence in batch {
            let (rows, start) = (first..first + sequence.ids.len(), sequence.cache.len());
            first = rows.end;
            ops::append(crew, &mut sequence.cache.layers[l], qkv.slice_rows(rows), start, &self.rotary);
        }
    }

    /// `z = softmax(q kᵀ / sqrt(D)) v` for every head of every sequence, whose cache gets the new keys and values first.
    fn attention(&self, crew: &Crew<'_>, l: usize, batch: &mut [Sequence<'_>], ws: &mut Workspace) {
        let (c, dim) = (self.config.hidden_size, self.config.head_dim());
        // With a block for each sequence, one region does both.
        let short = ws.blocks.len() == batch.len() + 1;
        if !short {
            self.append(crew, l, batch, &ws.qkv);
        }
        let (out, qkv) = (MatMut::new(&mut ws.z, c), Mat::new(&ws.qkv, 3 * c));
        let block = |block: usize| {
            let (sequence, start) = ws.block_of[block];
            (&batch[sequence].cache.layers[l], start)
        };
        if short {
            ops::append_and_attend(crew, out, qkv, &self.rotary, dim, &ws.blocks, block);
        } else {
            ops::attention(crew, out, qkv, &self.rotary, dim, &ws.blocks, block);
        }
    }

    /// The same up to rounding, with the scores and the pattern open to taps.
    fn attention_step_by_step(
        &self,
        crew: &Crew<'_>,
        l: usize,
        batch: &[Sequence<'_>],
        ws: &mut Workspace,
        taps: &mut dyn Taps,
    ) {
        let (c, heads, dim) =
            (self.config.hidden_size, self.config.num_attention_heads, self.config.head_dim());
        let mut first = 0;
        for (i, sequence) in batch.iter().enumerate() {
            let (tokens, start) = (sequence.ids.len(), sequence.cache.len());
            let rows = first..first + tokens;
            first = rows.end;
            let (cache, positions) = (&sequence.cache.layers[l], start + tokens);
            let shape = &[heads, tokens, positions];
            let mut pattern = vec![0.0; heads * tokens * positions];
            let qkv = Mat::new(&ws.qkv, 3 * c).slice_rows(rows.clone());
            let out = MatMut::new(&mut pattern, positions);
            ops::attention_scores(crew, out, qkv, &self.rotary, dim, (cache, start));
            tap_as(taps, Point::Block(l, At::Scores), Some(i), shape, &mut pattern);
            ops::softmax(crew, MatMut::new(&mut pattern, positions));
            tap_as(taps, Point::Block(l, At::Pattern), Some(i), shape, &mut pattern);
            let z = MatMut::new(&mut ws.z[rows.start * c..rows.end * c], c);
            ops::attention_mix(crew, z, Mat::new(&pattern, positions), dim, cache);
        }
    }

    /// A tap on queries (part 0), keys (1) or values (2), which lie interleaved.
    fn tap_qkv(&self, taps: &mut dyn Taps, point: Point, part: usize, qkv: &mut [f32]) {
        if taps.wants(point) {
            let dim = self.config.head_dim();
            let mut heads: Vec<f32> =
                qkv.chunks_exact(3 * dim).flat_map(|h| &h[part * dim..][..dim]).copied().collect();
            self.tap_heads(taps, point, &mut heads);
            for (head, new) in qkv.chunks_exact_mut(3 * dim).zip(heads.chunks_exact(dim)) {
                head[part * dim..][..dim].copy_from_slice(new);
            }
        }
    }

    fn tap_heads(&self, taps: &mut dyn Taps, point: Point, data: &mut [f32]) {
        let (heads, dim) = (self.config.num_attention_heads, self.config.head_dim());
        tap_as(taps, point, None, &[data.len() / (heads * dim), heads, dim], data);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// A tap on rows of `cols` numbers.
fn tap(taps: &mut dyn Taps, point: Point, data: &mut [f32], cols: usize) {
    tap_as(taps, point, None, &[data.len() / cols, cols], data);
}

fn tap_as(taps: &mut dyn Taps, point: Point, sequence: Option<usize>, shape: &[usize], data: &mut [f32]) {
    if taps.wants(point) {
        taps.at(Tapped { point, sequence, shape, data });
    }
}
