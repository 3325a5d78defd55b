//! `bench`: a model's speed beside what the machine can do at best.

use crate::args::ModelArgs;
use crate::output::{Out, percent};
use crate::style::{Paint, Style};
use anyhow::{Result, ensure};
use pythia_model::{Cache, Config, Model, Sequence, Workspace};
use pythia_tensor::{Crew, peak};
use serde::Serialize;
use std::time::Instant;

/// Measure a model's speed beside this machine's own peaks
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli bench -m synth:160m --threads 4

Prefill is bound by arithmetic and is compared with the peak of fused multiply-adds; decoding reads every weight for \
every token and is compared with the read bandwidth. Both peaks are measured with the same threads. Speeds are \
medians; decoding starts after a prompt of 64 tokens.")]
pub(crate) struct Args {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 32)]
    new_tokens: usize,
    /// Measurements of each
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// The tokens before those that decoding is measured on.
const BEFORE: usize = 64;

#[derive(Serialize)]
struct Report {
    /// Tokens per second.
    prefill_tok_s: f64,
    decode_tok_s: f64,
    /// Measured: 10^9 `f32` operations per second, a fused multiply-add being two.
    peak_gflops: f64,
    /// Measured: 10^9 bytes per second.
    read_gb_s: f64,
    /// The part of the peaks that is used.
    prefill_fraction: f64,
    decode_fraction: f64,
}

/// `bench`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    for (option, n) in
        [("prompt-tokens", args.prompt_tokens), ("new-tokens", args.new_tokens), ("repeats", args.repeats)]
    {
        ensure!(n > 0, "--{option} 0 measures nothing: ask for at least 1");
    }
    let team = args.model.team()?;
    let place = args.model.locate()?;
    let model = args.model.model(&place, &team)?;
    let report = team.enter(|crew| measure(args, &model, crew))?;
    if args.model.json {
        return out.json(&report);
    }
    let parameters = model.config().parameters().total as f64 / 1e6;
    let (dtype, precision) = (model.weights().embed_in.dtype(), model.precision());
    let model = format!("{}: {parameters:.1} M parameters, {dtype}, {precision}", place.name());
    let threads = format!("{} threads, {}", team.threads(), team.isa());
    let table = report.table(Style::of(out), &model, &threads, (args.prompt_tokens, args.new_tokens));
    out.text(&table)
}

impl Report {
    fn table(&self, style: Style, model: &str, threads: &str, (prompt, new): (usize, usize)) -> String {
        let line = |name, tokens, tok_s, fraction, of| {
            let fraction = style.paint(Paint::Good, &format!("{:>8}", percent(fraction)));
            format!("{name} {tokens:>5} tokens {tok_s:>11.1} tok/s {fraction} of {of}\n")
        };
        let peaks = format!("{threads}: {:.0} GFLOP/s, {:.1} GB/s at best", self.peak_gflops, self.read_gb_s);
        [
            style.paint(Paint::Strong, model) + "\n",
            style.paint(Paint::Faint, &peaks) + "\n\n",
            line("prefill", prompt, self.prefill_tok_s, self.prefill_fraction, "the arithmetic peak"),
            line("decode ", new, self.decode_tok_s, self.decode_fraction, "the read bandwidth"),
        ]
        .concat()
    }
}

fn measure(args: &Args, model: &Model, crew: &Crew<'_>) -> Result<Report> {
    let (config, mut workspace) = (model.config(), Workspace::new());
    let mut prompt_cache = model.cache(args.prompt_tokens)?;
    let mut cache = model.cache(BEFORE.saturating_add(args.new_tokens))?;
    let ids = ids(config, args.prompt_tokens.max(BEFORE));

    // Decoding first: its prompt brings the weights into memory.
    forward(model, crew, &ids[..BEFORE], &mut cache, &mut workspace)?;
    let decode = median(args.repeats, || {
        cache.truncate(BEFORE);
        (0..args.new_tokens).try_for_each(|_| forward(model, crew, &ids[..1], &mut cache, &mut workspace))
    })?;
    let prefill = median(args.repeats, || {
        prompt_cache.truncate(0);
        forward(model, crew, &ids[..args.prompt_tokens], &mut prompt_cache, &mut workspace)
    })?;

    let (peak_gflops, read_gb_s) = (peak::fma_gflops(crew), peak::read_gb_s(crew));
    let new = args.new_tokens as f64;
    let bytes = new * (model.matrix_bytes() as f64 + cache_bytes(config, BEFORE as f64 + new / 2.0));
    Ok(Report {
        prefill_tok_s: args.prompt_tokens as f64 / prefill,
        decode_tok_s: new / decode,
        peak_gflops,
        read_gb_s,
        prefill_fraction: prefill_flops(config, args.prompt_tokens as f64) / prefill / (1e9 * peak_gflops),
        decode_fraction: bytes / decode / (1e9 * read_gb_s),
    })
}

fn forward(
    model: &Model,
    crew: &Crew<'_>,
    ids: &[u32],
    cache: &mut Cache,
    workspace: &mut Workspace,
) -> Result<()> {
    model.forward(crew, &mut [Sequence::last(ids, cache)], workspace)?;
    Ok(())
}

/// The median of the seconds that `f` takes.
fn median(repeats: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        f()?;
        seconds.push(start.elapsed().as_secs_f64().max(1e-9));
    }
    seconds.sort_by(f64::total_cmp);
    Ok(f64::midpoint(seconds[(repeats - 1) / 2], seconds[repeats / 2]))
}

/// Some token ids: speed does not depend on which.
fn ids(config: &Config, n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % config.vocab_size) as u32).collect()
}

/// The operations of a prompt of `t` tokens: two for each weight of the linear layers and each token; for each layer,
/// two products of `T x T / 2 x C` in attention, whose upper triangle is not needed; and one row of logits.
fn prefill_flops(config: &Config, t: f64) -> f64 {
    let [c, i, l, v] =
        [config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size]
            .map(|n| n as f64);
    let linears = l * (4.0 * c * c + 2.0 * c * i);
    2.0 * linears * t + l * 4.0 * t * t / 2.0 * c + 2.0 * v * c
}

/// The bytes of the keys and values of `positions` tokens, in `f32`.
fn cache_bytes(config: &Config, positions: f64) -> f64 {
    2.0 * 4.0 * positions * config.hidden_size as f64 * config.num_hidden_layers as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use pythia_model::Size;

    #[test]
    fn operations_and_bytes_of_a_published_size() {
        let config = Size::named("160m").unwrap().config();
        // 12 C^2 weights in each of 12 layers, C = 768.
        let weights = 12.0 * 12.0 * 768.0 * 768.0;
        let attention = 12.0 * 2.0 * 100.0 * 100.0 * 768.0;
        assert_eq!(prefill_flops(&config, 100.0), 200.0 * weights + attention + 2.0 * 50304.0 * 768.0);
        assert_eq!(cache_bytes(&config, 10.0), 2.0 * 4.0 * 10.0 * 768.0 * 12.0);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let mut naps = [1, 30, 1, 30].into_iter();
        let nap = || {
            std::thread::sleep(std::time::Duration::from_millis(naps.next().unwrap_or(0)));
            Ok(())
        };
        let seconds = median(4, nap).unwrap();
        assert!((0.0155..0.029).contains(&seconds), "{seconds}");
    }
}
